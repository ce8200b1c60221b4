//! One line on standard error, without allocation and without libc.

use core::fmt::{self, Arguments, Write};

struct Line {
    bytes: [u8; 1024],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte is kept for the end of the line.
        let room = self.bytes.len() - 1 - self.length;
        let count = text.len().min(room);
        self.bytes[self.length..self.length + count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

/// Writes `lifeboat: <text>` to descriptor 2, whatever that is; an error has no better place to go and is dropped.
pub fn say(text: Arguments<'_>) {
    let mut line = Line { bytes: [0; 1024], length: 0 };
    let _ = line.write_str("lifeboat: ");
    let _ = line.write_fmt(text);
    line.bytes[line.length] = b'\n';
    // SAFETY: nothing is assumed of descriptor 2 but that it is a number; it is not closed here.
    let standard_error = unsafe { rustix::fd::BorrowedFd::borrow_raw(2) };
    let _ = rustix::io::write(standard_error, &line.bytes[..=line.length]);
}

/// Source position of a panic.
pub struct Place<'a>(Option<&'a core::panic::Location<'a>>);

/// Where a panic came from.
pub fn place<'a>(info: &'a core::panic::PanicInfo<'a>) -> Place<'a> {
    Place(info.location())
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(location) => write!(out, "{}:{}", location.file(), location.line()),
            None => out.write_str("an unknown place"),
        }
    }
}

/// Bytes of a path as text, for messages.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            out.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                out.write_char('\u{fffd}')?;
            }
        }
        Ok(())
    }
}
