//! Finding system calls that machine code makes itself, past libc.
//!
//! The instruction is looked for together with the loading of a call's number shortly before it, with nothing but moves
//! between them. That finds inlined calls, whose numbers are constants, and misses those whose number is computed.

use std::collections::BTreeSet;

/// How far before the instruction its number may be loaded, in bytes.
#[cfg(target_arch = "x86_64")]
const BEFORE: usize = 48;

/// Calls that reach a file, by number.
const FILE_CALLS: &[(libc::c_long, &str)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, "stat"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat, "lstat"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, "access"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, "readlink"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_getdents, "getdents"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_openat2, "openat2"),
    (libc::SYS_read, "read"),
    (libc::SYS_write, "write"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pread64, "pread64"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_preadv, "preadv"),
    (libc::SYS_pwritev, "pwritev"),
    (libc::SYS_preadv2, "preadv2"),
    (libc::SYS_pwritev2, "pwritev2"),
    (libc::SYS_lseek, "lseek"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_fallocate, "fallocate"),
    (libc::SYS_fstat, "fstat"),
    (libc::SYS_newfstatat, "newfstatat"),
    (libc::SYS_statx, "statx"),
    (libc::SYS_getdents64, "getdents64"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_readlinkat, "readlinkat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_copy_file_range, "copy_file_range"),
    (libc::SYS_sendfile, "sendfile"),
    (libc::SYS_io_setup, "io_setup"),
    (libc::SYS_io_submit, "io_submit"),
    (libc::SYS_io_uring_setup, "io_uring_setup"),
    (libc::SYS_io_uring_enter, "io_uring_enter"),
];

/// Names of the file calls that this machine code seems to make.
pub fn file_calls(code: &[u8]) -> BTreeSet<&'static str> {
    numbers(code).filter_map(name).collect()
}

fn name(number: u32) -> Option<&'static str> {
    FILE_CALLS.iter().find(|(known, _)| *known == libc::c_long::from(number)).map(|(_, name)| *name)
}

/// Numbers loaded by `mov $number, %eax` or `push $number; pop %rax` with only moves between that and a `syscall`.
#[cfg(target_arch = "x86_64")]
fn numbers(code: &[u8]) -> impl Iterator<Item = u32> {
    let calls = code.windows(2).enumerate().filter(|(_, pair)| *pair == [0x0f, 0x05]).map(|(at, _)| at);
    calls.filter_map(|at| {
        let before = code.get(at.saturating_sub(BEFORE)..at).unwrap_or_default();
        (0..before.len()).rev().find_map(|start| {
            let (number, rest) = match before.get(start..).unwrap_or_default() {
                [0xb8, low, high, 0, 0, rest @ ..] => (u32::from(u16::from_le_bytes([*low, *high])), rest),
                [0x6a, number, 0x58, rest @ ..] => (u32::from(*number), rest),
                _ => return None,
            };
            is_straight(rest).then_some(number)
        })
    })
}

/// Whether these bytes are whole instructions of the kinds that load the arguments of a call: moves and plain arithmetic.
#[cfg(target_arch = "x86_64")]
fn is_straight(mut code: &[u8]) -> bool {
    while !code.is_empty() {
        match instruction(code).and_then(|length| code.get(length..)) {
            Some(rest) => code = rest,
            None => return false,
        }
    }
    true
}

/// Length of the instruction at the beginning, if it is of those kinds.
#[cfg(target_arch = "x86_64")]
fn instruction(code: &[u8]) -> Option<usize> {
    let mut prefixes = usize::from(code.first() == Some(&0x66));
    let rex = code.get(prefixes).copied().filter(|byte| byte & 0xf0 == 0x40);
    prefixes += usize::from(rex.is_some());
    let is_wide = rex.is_some_and(|byte| byte & 8 != 0);
    let rest = match code.get(prefixes..)? {
        [0x50..=0x5f | 0x90, ..] => 1,
        [0xb8..=0xbf, ..] => 5 + if is_wide { 4 } else { 0 },
        [0x01 | 0x03 | 0x09 | 0x0b | 0x21 | 0x23 | 0x29 | 0x2b | 0x31 | 0x33, ..] => 1 + operand(code, prefixes + 1)?,
        [0x39 | 0x3b | 0x63 | 0x85 | 0x88 | 0x89 | 0x8a | 0x8b | 0x8d, ..] => 1 + operand(code, prefixes + 1)?,
        [0x83 | 0xc1 | 0x6b | 0xc6, ..] => 2 + operand(code, prefixes + 1)?,
        [0x81 | 0xc7 | 0x69, ..] => 5 + operand(code, prefixes + 1)?,
        // Moves of bytes, words and vectors.
        [0x0f, 0x10 | 0x11 | 0x1f | 0x28 | 0x29 | 0x57 | 0x6f | 0x7f | 0xb6 | 0xb7 | 0xbe | 0xbf, ..] => {
            2 + operand(code, prefixes + 2)?
        }
        _ => return None,
    };
    Some(prefixes + rest)
}

/// Length of the operand (ModRM, SIB, displacement) at this place.
#[cfg(target_arch = "x86_64")]
fn operand(code: &[u8], at: usize) -> Option<usize> {
    let byte = *code.get(at)?;
    let (mode, register) = (byte >> 6, byte & 7);
    let sib = usize::from(mode != 3 && register == 4);
    let displacement = match mode {
        0 if register == 5 => 4,
        0 if sib == 1 && code.get(at + 1)? & 7 == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    Some(1 + sib + displacement)
}

/// Numbers loaded by `mov x8, #number` up to four instructions before `svc #0`.
#[cfg(target_arch = "aarch64")]
fn numbers(code: &[u8]) -> impl Iterator<Item = u32> {
    let words: Vec<u32> =
        code.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    (0..words.len()).filter(|at| words[*at] == 0xd400_0001).collect::<Vec<_>>().into_iter().filter_map(move |at| {
        let before = words.get(at.saturating_sub(8)..at).unwrap_or_default();
        before.iter().rev().find(|word| **word & 0x7fe0_001f == 0x5280_0008).map(|word| word >> 5 & 0xffff)
    })
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn inlined_calls_are_named_and_other_bytes_are_not() {
        // mov $257, %eax; mov %rsp, %rsi; syscall
        let openat = [0x90, 0xb8, 0x01, 0x01, 0, 0, 0x48, 0x89, 0xe6, 0x0f, 0x05];
        // mov $257, %eax; mov $0x80000, %edx; xor %r10d, %r10d; lea 8(%rsp), %rsi; syscall
        let moved =
            [&[0xb8, 1, 1, 0, 0, 0xba, 0, 0, 8, 0, 0x45, 0x31, 0xd2][..], &[0x48, 0x8d, 0x74, 0x24, 8, 0x0f, 0x05]];
        assert_eq!(file_calls(&moved.concat()), BTreeSet::from(["openat"]));
        // push $1; pop %rax; syscall
        let write = [0x6a, 0x01, 0x58, 0x0f, 0x05];
        // mov $39, %eax (getpid); syscall
        let other = [0xb8, 39, 0, 0, 0, 0x0f, 0x05];
        // The pair as a part of a number, and a load without a call.
        let data = [0xe8, 0x0f, 0x05, 0, 0, 0xb8, 0x01, 0x01, 0, 0, 0xc3];
        assert_eq!(file_calls(&openat), BTreeSet::from(["openat"]));
        assert_eq!(file_calls(&write), BTreeSet::from(["write"]));
        // mov $1, %eax; call with the pair in its distance; the same behind a jump; the pair in a loaded number.
        let distance = [0xb8, 0x01, 0, 0, 0, 0x31, 0xff, 0xe8, 0xce, 0x0f, 0x05, 0, 0];
        let returned = [0xb8, 0x01, 0, 0, 0, 0xc3, 0x0f, 0x05];
        let loaded = [0xb8, 0x05, 0, 0, 0, 0xb9, 0x0f, 0x05, 0, 0];
        for code in [&other[..], &data, &distance, &returned, &loaded, &[], &[0x0f], &[0x0f, 0x05]] {
            assert_eq!(file_calls(code), BTreeSet::new(), "{code:x?}");
        }
    }
}
