//! Sizes as people write them.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Bytes: a number, or a string with `K`, `M`, `G` or `T` (powers of 1024) behind the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Read one.
    pub fn parse(text: &str) -> Option<ByteSize> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit: u64 = match text.get(digits.len()..)? {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1 << 40,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit).map(ByteSize)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: bytes, or a string such as \"16M\" (K, M, G or T)")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<ByteSize, E> {
                let size = u64::try_from(number).map(ByteSize);
                size.map_err(|_| E::custom("a size is not negative"))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text)
                    .ok_or_else(|| E::custom(format!("{text:?} is no size such as \"16M\"")))
            }
        }
        from.deserialize_any(Size)
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn sizes_have_a_unit_or_none() {
        for (text, size) in [("7", 7), ("3K", 3 << 10), ("5M", 5 << 20), ("1T", 1 << 40)] {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(size)), "{text}");
        }
        for text in ["", "M", "1m", "1 M", "-1", "1.5G", "99999999999T", "1MB"] {
            assert_eq!(ByteSize::parse(text), None, "{text}");
        }
    }
}
