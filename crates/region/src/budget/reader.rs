//! Reading the kernel's small text files without allocating.

use core::ffi::CStr;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// Reads as much of the file as fits.
pub(crate) fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let file = open(CWD, path)?;
    let length = read_some(&file, buffer)?;
    Some(&buffer[..length])
}

fn open(directory: impl AsFd, path: &CStr) -> Option<OwnedFd> {
    rustix::fs::openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn read_some(file: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::read(file, &mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(length)
}

/// Calls `each` with every line of the file until it answers `false`. Lines longer than 8 KiB are passed over.
pub(crate) fn for_each_line(path: &CStr, each: &mut dyn FnMut(&[u8]) -> bool) {
    let Some(file) = open(CWD, path) else { return };
    let mut buffer = [0u8; 8192];
    let mut length = 0;
    let mut skipping = false;
    loop {
        let count = match rustix::io::read(&file, &mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        length += count;
        let mut start = 0;
        while let Some(end) = buffer[start..length].iter().position(|&byte| byte == b'\n') {
            if !skipping && !each(&buffer[start..start + end]) {
                return;
            }
            skipping = false;
            start += end + 1;
        }
        buffer.copy_within(start..length, 0);
        length -= start;
        if length == buffer.len() {
            skipping = true;
            length = 0;
        }
    }
    if length > 0 && !skipping {
        each(&buffer[..length]);
    }
}

/// The number behind `name` at the start of a line of `text`.
pub(crate) fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find(|line| line.starts_with(name) && line.get(name.len()).is_some_and(|byte| byte.is_ascii_whitespace()))?;
    number(&line[name.len()..])
}

/// The number that `text` starts with, spaces left out.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    core::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_not_taken_for_another_with_the_same_beginning() {
        let text = b"MemTotal: 12 kB\nfile 1\nfile_dirty 77\ninactive_file 5";
        assert_eq!(field(text, b"file"), Some(1));
        assert_eq!(field(text, b"file_dirty"), Some(77));
        assert_eq!(field(text, b"inactive_file"), Some(5));
        assert_eq!(field(text, b"MemTotal:"), Some(12));
        assert_eq!(field(text, b"active"), None);
    }

    #[test]
    fn what_is_not_a_number_is_none() {
        assert_eq!(number(b"max\n"), None);
        assert_eq!(number(b"  17 kB"), Some(17));
        assert_eq!(number(b"99999999999999999999999"), None);
        assert_eq!(number(b""), None);
    }

    #[test]
    fn every_line_is_seen_once() {
        let mut whole = 0;
        for_each_line(c"/proc/self/maps", &mut |line| {
            assert!(line.contains(&b'-'));
            whole += 1;
            true
        });
        assert!(whole > 3);
    }
}
