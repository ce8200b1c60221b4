//! Short texts in fixed buffers: nothing here may allocate.

use core::ffi::CStr;
use core::fmt;

/// Up to `N - 1` bytes of text and the NUL that system calls want behind it.
///
/// Writing more than fits keeps what fits and remembers that something is missing (see [`Text::is_cut`]).
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: u16,
    cut: bool,
}

/// An absolute path of a region or of something in it.
pub type PathText = Text<512>;

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const fn new() -> Self {
        assert!(N > 0 && N <= u16::MAX as usize);
        Text { bytes: [0; N], length: 0, cut: false }
    }

    /// A text that starts with `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut text = Self::new();
        text.push(bytes);
        text
    }

    /// Appends as much of `bytes` as fits.
    pub fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.length);
        let room = N - 1 - start;
        let taken = bytes.len().min(room);
        self.bytes[start..start + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken as u16;
        self.cut |= taken < bytes.len();
    }

    /// Appends a number in decimal.
    pub fn push_number(&mut self, number: u64) {
        // Writing into a buffer of our own cannot fail.
        let _ = fmt::Write::write_fmt(self, format_args!("{number}"));
    }

    /// This path with `/` and `name` behind it.
    pub fn joined(&self, name: &[u8]) -> Self {
        let mut path = *self;
        path.push(b"/");
        path.push(name);
        path
    }

    /// The bytes, without NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether something did not fit: such a path must not be given to the kernel.
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// For system calls. Ends at the first NUL, should somebody have written one.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    /// Keeps to one line whatever the bytes are.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(out, "{}", character.escape_default())?;
                } else {
                    fmt::Write::write_char(out, character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        if self.cut { out.write_str("...") } else { Ok(()) }
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> Eq for Text<N> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_too_long_is_cut_and_says_so() {
        let text: Text<5> = Text::from_bytes(b"abcdef");
        assert_eq!(text.as_bytes(), b"abcd");
        assert!(text.is_cut());
        assert_eq!(std::format!("{text}"), "abcd...");
        assert_eq!(text.as_c_str().to_bytes(), b"abcd");
    }

    #[test]
    fn an_error_line_stays_one_line_with_any_bytes() {
        let text: Text<32> = Text::from_bytes(b"a\nb\xff\x1bc\xc3\xa9");
        assert_eq!(std::format!("{text}"), "a\\nb\\xff\\u{1b}c\u{e9}");
    }
}
