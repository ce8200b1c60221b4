//! What the kernel says of processes, read through `/proc` with raw calls into fixed buffers.

use crate::{Errno, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// Decimal digits of `value`, followed by `tail`, in `out`; returns the length.
pub fn decimal(prefix: &[u8], value: u64, tail: &[u8], out: &mut [u8; 64]) -> usize {
    let mut digits = [0u8; 20];
    let mut count = 0;
    let mut rest = value;
    loop {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    let mut at = 0;
    for &byte in prefix {
        out[at] = byte;
        at += 1;
    }
    for index in (0..count).rev() {
        out[at] = digits[index];
        at += 1;
    }
    for &byte in tail {
        out[at] = byte;
        at += 1;
    }
    at
}

fn open(path: &[u8]) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads a whole small file into `into`; returns the length.
pub fn read_small(path: &[u8], into: &mut [u8]) -> Result<usize> {
    let file = open(path)?;
    let mut have = 0;
    while have < into.len() {
        match rustix::io::read(&file, &mut into[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// Start time of a process in clock ticks since boot; `NOENT` or `SRCH` when there is none.
pub fn start_time(pid: u32) -> Result<u64> {
    let mut path = [0; 64];
    let length = decimal(b"/proc/", pid as u64, b"/stat", &mut path);
    let mut text = [0; 1024];
    let have = read_small(&path[..length], &mut text)?;
    parse_start_time(&text[..have]).ok_or(Errno::IO)
}

/// Whether the process is a zombie, whose memory is gone and whose parent has not looked yet.
pub fn has_exited(pid: u32) -> bool {
    let mut path = [0; 64];
    let length = decimal(b"/proc/", pid as u64, b"/stat", &mut path);
    let mut text = [0; 1024];
    let Ok(have) = read_small(&path[..length], &mut text) else { return false };
    // Behind the name of the command, which may hold anything.
    let state = text[..have].iter().rposition(|&byte| byte == b')').and_then(|at| text.get(at + 2));
    matches!(state, Some(b'Z' | b'X'))
}

/// Start time of this process.
pub fn own_start_time() -> Result<u64> {
    let mut text = [0; 1024];
    let have = read_small(b"/proc/self/stat", &mut text)?;
    parse_start_time(&text[..have]).ok_or(Errno::IO)
}

/// Whether this process was started with more rights than whoever started it has: set-uid, set-gid, file capabilities.
pub fn has_rights_of_its_own() -> bool {
    const AT_SECURE: u64 = 23;
    let ids_differ = rustix::process::getuid() != rustix::process::geteuid()
        || rustix::process::getgid() != rustix::process::getegid();
    let mut vector = [0; 1024];
    let have = read_small(b"/proc/self/auxv", &mut vector).unwrap_or(0);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    ids_differ || vector[..have].chunks_exact(16).any(|pair| word(&pair[..8]) == AT_SECURE && word(&pair[8..]) != 0)
}

fn parse_start_time(text: &[u8]) -> Option<u64> {
    // The command name may hold anything, also spaces and ')': fields are counted from the last ')'.
    let after = text.iter().rposition(|&byte| byte == b')')? + 1;
    let field = text[after..].split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(19)?;
    parse_decimal(field)
}

/// A decimal number without sign; `None` for anything else.
pub fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &byte| {
        byte.is_ascii_digit().then_some(())?;
        value.checked_mul(10)?.checked_add((byte - b'0') as u64)
    })
}

/// A hexadecimal number.
fn parse_hexadecimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &byte| Some(value.checked_mul(16)? + (byte as char).to_digit(16)? as u64))
}

/// Whether this thread's effective or supplementary groups have `group`.
pub fn is_in_group(group: u32) -> bool {
    if rustix::process::getegid().as_raw() == group {
        return true;
    }
    let mut text = [0; 4096];
    let Ok(have) = read_small(b"/proc/thread-self/status", &mut text) else { return false };
    let groups = text[..have].split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Groups:"));
    groups.is_some_and(|line| {
        line.split(|byte| byte.is_ascii_whitespace()).any(|field| parse_decimal(field) == Some(group as u64))
    })
}

/// Which pid namespace this process is in (inode number of its namespace file).
pub fn pid_namespace() -> Result<u64> {
    Ok(rustix::fs::stat(c"/proc/self/ns/pid")?.st_ino)
}

/// Whether `/proc` shows processes by the numbers by which this one knows them: it belongs to our pid namespace.
pub fn proc_is_of_our_namespace() -> bool {
    let mut text = [0; 4096];
    let Ok(have) = read_small(b"/proc/thread-self/status", &mut text) else { return false };
    text[..have].split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:")).is_some_and(|numbers| {
        // From the namespace of `/proc` down to our own.
        numbers.split(|byte| byte.is_ascii_whitespace()).filter(|number| !number.is_empty()).count() == 1
    })
}

/// A number that differs from boot to boot.
pub fn boot() -> u64 {
    let mut text = [0; 64];
    match read_small(b"/proc/sys/kernel/random/boot_id", &mut text) {
        Ok(have) => {
            // A UUID: its hexadecimal digits, folded into one word.
            let digits = text[..have].iter().filter_map(|&byte| (byte as char).to_digit(16));
            digits.fold(1u64, |sum, digit| sum.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ digit as u64) | 1
        }
        Err(_) => 1,
    }
}

/// Whether process `pid` has the file {device, inode} mapped. Unreadable counts as yes: death is proved, never guessed.
pub fn maps_file(pid: u32, device: u64, inode: u64) -> bool {
    let mut path = [0; 64];
    let length = decimal(b"/proc/", pid as u64, b"/maps", &mut path);
    match find_map_line(&path[..length], |line| line_names(line, device, inode).then_some(())) {
        Ok(found) => found.is_some(),
        // Absent, or vanished while we were reading.
        Err(Errno::NOENT | Errno::SRCH) => false,
        Err(_) => true,
    }
}

/// An address range of this process, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
    /// `PROT_*`.
    pub protection: i32,
}

/// The range around `address` that has one protection and one file.
pub fn range_around(address: usize) -> Option<AddressRange> {
    find_map_line(b"/proc/self/maps", |line| range_of(line).filter(|range| (range.start..range.end).contains(&address)))
        .ok()
        .flatten()
}

fn range_of(line: &[u8]) -> Option<AddressRange> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (range, permissions) = (fields.next()?, fields.next()?);
    let dash = range.iter().position(|&byte| byte == b'-')?;
    let bits = [
        (b'r', rustix::mm::ProtFlags::READ),
        (b'w', rustix::mm::ProtFlags::WRITE),
        (b'x', rustix::mm::ProtFlags::EXEC),
    ];
    let granted = bits.iter().zip(permissions).filter(|((letter, _), given)| letter == *given);
    Some(AddressRange {
        start: parse_hexadecimal(&range[..dash])? as usize,
        end: parse_hexadecimal(&range[dash + 1..])? as usize,
        protection: granted.fold(0, |sum, ((_, bit), _)| sum | bit.bits() as i32),
    })
}

/// The first answer of `look` to a line of a `maps` file, of which long ones are cut.
fn find_map_line<R>(path: &[u8], mut look: impl FnMut(&[u8]) -> Option<R>) -> Result<Option<R>> {
    let file = open(path)?;
    let mut line = [0u8; 512];
    let mut filled = 0;
    let mut buffer = [0u8; 4096];
    loop {
        let count = match rustix::io::read(&file, &mut buffer) {
            Ok(0) => return Ok(None),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        for &byte in &buffer[..count] {
            if byte == b'\n' {
                if let Some(answer) = look(&line[..filled]) {
                    return Ok(Some(answer));
                }
                filled = 0;
            } else if filled < line.len() {
                line[filled] = byte;
                filled += 1;
            }
        }
    }
}

fn line_names(line: &[u8], device: u64, inode: u64) -> bool {
    let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).skip(3);
    let (Some(numbers), Some(number)) = (fields.next(), fields.next()) else { return false };
    let Some(colon) = numbers.iter().position(|&byte| byte == b':') else { return false };
    parse_hexadecimal(&numbers[..colon]) == Some(rustix::fs::major(device) as u64)
        && parse_hexadecimal(&numbers[colon + 1..]) == Some(rustix::fs::minor(device) as u64)
        && parse_decimal(number) == Some(inode)
}

/// Nanoseconds since 1970, to the kernel's tick: what files are stamped with.
pub fn now() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_forge_the_start_time() {
        let text = b"12 (a) 1 2 (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_start_time(text), Some(777));
    }

    #[test]
    fn the_range_around_an_address_has_its_protection() {
        let here = range_around(this_process_started_once as *const () as usize).expect("our own code");
        assert_eq!(here.protection, 5);
        let on_the_stack = 0u8;
        let at = &raw const on_the_stack as usize;
        let stack = range_around(at).expect("the stack");
        assert!(stack.start <= at && at < stack.end && stack.protection == 3, "{stack:?}");
        assert_eq!(range_around(16), None);
    }

    #[test]
    fn this_process_started_once() {
        assert_eq!(own_start_time().unwrap(), start_time(std::process::id()).unwrap());
    }

    #[test]
    fn an_absent_process_has_no_start_time() {
        assert!(start_time(0x3fff_ffff).is_err());
        assert!(!maps_file(0x3fff_ffff, 1, 1));
    }
}
