//! Sizes as people write them.

use std::fmt;

/// The size of a region when nobody says one; set when building with `LIFEBOAT_DEFAULT_SIZE`.
pub const DEFAULT_TEXT: &str = match option_env!("LIFEBOAT_DEFAULT_SIZE") {
    Some(text) => text,
    None => "1GiB",
};

/// [`DEFAULT_TEXT`] in bytes; a text that is not a size stops the build.
pub const DEFAULT: u64 = match parse(DEFAULT_TEXT) {
    Ok(bytes) => bytes,
    Err(_) => panic!("LIFEBOAT_DEFAULT_SIZE is not a size such as 1GiB"),
};

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSize {
    /// There is nothing.
    Empty,
    /// It starts with a minus sign.
    Negative,
    /// It does not start with a digit.
    NotANumber,
    /// Behind the number there is something that is no unit.
    Unit,
    /// It is zero.
    Zero,
    /// It does not fit into 64 bits.
    Overflow,
}

impl fmt::Display for BadSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            BadSize::Empty => "the size is empty",
            BadSize::Negative => "a size cannot be negative",
            BadSize::NotANumber => "a size starts with a whole number",
            BadSize::Unit => "unknown unit",
            BadSize::Zero => "a region of no bytes is of no use",
            BadSize::Overflow => "the size is larger than any memory",
        };
        write!(out, "{what}; write 512MiB, 1GiB, 1G, 2TB or plain bytes")
    }
}

/// Parses a whole number with an optional unit: `K M G T` and `KiB MiB GiB TiB` are powers of 1024, `KB MB GB TB`
/// powers of 1000, `B` or nothing bytes.
pub const fn parse(text: &str) -> Result<u64, BadSize> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(BadSize::Empty);
    }
    if bytes[0] == b'-' {
        return Err(BadSize::Negative);
    }
    let mut number = 0u64;
    let mut at = 0;
    while at < bytes.len() && bytes[at].is_ascii_digit() {
        let digit = (bytes[at] - b'0') as u64;
        number = match number.checked_mul(10) {
            Some(number) => match number.checked_add(digit) {
                Some(number) => number,
                None => return Err(BadSize::Overflow),
            },
            None => return Err(BadSize::Overflow),
        };
        at += 1;
    }
    if at == 0 {
        return Err(BadSize::NotANumber);
    }
    let (_, unit) = bytes.split_at(at);
    let factor = match unit {
        b"" | b"B" => 1,
        b"K" | b"k" | b"KiB" => 1 << 10,
        b"M" | b"m" | b"MiB" => 1 << 20,
        b"G" | b"g" | b"GiB" => 1 << 30,
        b"T" | b"t" | b"TiB" => 1 << 40,
        b"KB" | b"kB" => 1_000,
        b"MB" => 1_000_000,
        b"GB" => 1_000_000_000,
        b"TB" => 1_000_000_000_000,
        _ => return Err(BadSize::Unit),
    };
    match number.checked_mul(factor) {
        None => Err(BadSize::Overflow),
        Some(0) => Err(BadSize::Zero),
        Some(size) => Ok(size),
    }
}

/// [`parse`] for the command line.
pub fn parse_argument(text: &str) -> Result<u64, String> {
    parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_what_they_say() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("7B", 7),
            ("64M", 64 << 20),
            ("512MiB", 512 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("2GB", 2_000_000_000),
            ("3KiB", 3072),
            ("3kB", 3000),
            ("1TiB", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_a_reason() {
        for (text, error) in [
            ("", BadSize::Empty),
            ("-1", BadSize::Negative),
            ("-1GiB", BadSize::Negative),
            ("0", BadSize::Zero),
            ("0GiB", BadSize::Zero),
            ("10GGB", BadSize::Unit),
            ("1gib", BadSize::Unit),
            ("1 GiB", BadSize::Unit),
            ("1.5GiB", BadSize::Unit),
            ("1e9", BadSize::Unit),
            ("GiB", BadSize::NotANumber),
            (" 1", BadSize::NotANumber),
            ("+1", BadSize::NotANumber),
            ("0x10", BadSize::Unit),
            ("\u{0661}", BadSize::NotANumber),
            ("18446744073709551616", BadSize::Overflow),
            ("99999999999GiB", BadSize::Overflow),
            ("16777216TiB", BadSize::Overflow),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    /// What the text means, read the plain way.
    fn plainly(text: &str) -> Option<u64> {
        let units: [(&str, u128); 19] = [
            ("", 1),
            ("B", 1),
            ("K", 1 << 10),
            ("k", 1 << 10),
            ("KiB", 1 << 10),
            ("M", 1 << 20),
            ("m", 1 << 20),
            ("MiB", 1 << 20),
            ("G", 1 << 30),
            ("g", 1 << 30),
            ("GiB", 1 << 30),
            ("T", 1 << 40),
            ("t", 1 << 40),
            ("TiB", 1 << 40),
            ("KB", 1000),
            ("kB", 1000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("TB", 1_000_000_000_000),
        ];
        let digits = text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let (_, factor) = units.iter().find(|(unit, _)| *unit == &text[digits.len()..])?;
        // More digits than these are too many, leading zeros or not.
        let significant = digits.trim_start_matches('0');
        let number: u128 = match significant {
            "" if digits.is_empty() => return None,
            "" => 0,
            _ if significant.len() > 25 => return None,
            _ => significant.parse().ok()?,
        };
        u64::try_from(number * factor).ok().filter(|size| *size > 0)
    }

    #[test]
    fn any_text_means_what_a_plain_reading_finds() {
        const PIECES: [&str; 24] = [
            "0",
            "1",
            "9",
            "7",
            "18446744073709551615",
            "4294967296",
            "K",
            "k",
            "M",
            "m",
            "G",
            "g",
            "T",
            "t",
            "iB",
            "B",
            "KiB",
            "GiB",
            "TB",
            "-",
            "+",
            ".",
            " ",
            "\u{661}",
        ];
        let count = PIECES.len();
        for number in 0..(count + 1).pow(3) {
            let digits = [number % (count + 1), number / (count + 1) % (count + 1), number / (count + 1).pow(2)];
            let text: String = digits.iter().filter_map(|digit| PIECES.get(*digit).copied()).collect();
            assert_eq!(parse(&text).ok(), plainly(&text), "{text:?}");
        }
    }

    #[test]
    fn the_default_is_a_size() {
        const { assert!(DEFAULT > 0) };
        assert_eq!(parse(DEFAULT_TEXT), Ok(DEFAULT));
    }
}
