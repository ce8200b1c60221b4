//! Names of regions.

use core::fmt;

use super::text::Text;

/// The most bytes that a region's name can have.
pub const NAME_MAX: usize = 64;

/// A checked name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RegionName(Text<{ NAME_MAX + 1 }>);

/// Why a text is not a region's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// No byte at all.
    Empty,
    /// More than [`NAME_MAX`] bytes.
    TooLong,
    /// Contains a slash.
    Slash,
    /// Starts with a dot.
    LeadingDot,
    /// Contains this byte.
    Byte(u8),
}

impl RegionName {
    /// Checks `name`.
    pub fn new(name: &[u8]) -> Result<RegionName, BadName> {
        if name.is_empty() {
            return Err(BadName::Empty);
        }
        if name.contains(&b'/') {
            return Err(BadName::Slash);
        }
        if name.len() > NAME_MAX {
            return Err(BadName::TooLong);
        }
        if name[0] == b'.' {
            return Err(BadName::LeadingDot);
        }
        match name.iter().find(|byte| !(byte.is_ascii_alphanumeric() || b"._-".contains(byte))) {
            Some(&byte) => Err(BadName::Byte(byte)),
            None => Ok(RegionName(Text::from_bytes(name))),
        }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The name as text: only ASCII can be in it.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.0.as_bytes()).unwrap_or("")
    }

    pub(super) fn as_c_str(&self) -> &core::ffi::CStr {
        self.0.as_c_str()
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl fmt::Debug for RegionName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadName::Empty => out.write_str("it is empty"),
            BadName::TooLong => write!(out, "it is longer than {NAME_MAX} bytes"),
            BadName::Slash => out.write_str("it contains a slash"),
            BadName::LeadingDot => out.write_str("it starts with a dot"),
            BadName::Byte(byte) => write!(out, "it contains '{}'", byte.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_can_leave_the_place() {
        for (name, expected) in [
            (&b""[..], BadName::Empty),
            (b".", BadName::LeadingDot),
            (b"..", BadName::LeadingDot),
            (b".hidden", BadName::LeadingDot),
            (b"a/b", BadName::Slash),
            (b"/", BadName::Slash),
            (b"../x", BadName::Slash),
            (b"a b", BadName::Byte(b' ')),
            (b"a\0", BadName::Byte(0)),
            (b"a\n", BadName::Byte(b'\n')),
            (b"\xff", BadName::Byte(0xff)),
            (&[b'a'; 65], BadName::TooLong),
        ] {
            assert_eq!(RegionName::new(name), Err(expected), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn ordinary_names_are_taken_as_they_are() {
        for name in [&b"default"[..], b"a", b"job.17_x-y", &[b'z'; 64]] {
            assert_eq!(RegionName::new(name).unwrap().as_bytes(), name);
        }
    }
}
