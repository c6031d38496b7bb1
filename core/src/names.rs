//! File names: bytes of 1 to 255, without `/` and NUL, and the hash that orders a directory.

use xxhash_rust::xxh3::xxh3_64;

/// Longest file name in bytes, as on ext4.
pub const NAME_MAX: usize = 255;

/// Directory cookies below this are reserved for `.` and `..`; no name hashes to one.
pub const FIRST_NAME_HASH: u64 = 16;

/// The 63-bit hash that orders the entries of a directory and is the readdir cookie after the
/// entry. XXH3-64 of the name (seed 0), shifted right by one; values below
/// [`FIRST_NAME_HASH`] are moved up by it. On-disk format: column `dentry.hash`.
pub fn name_hash(name: &[u8]) -> u64 {
    let hash = xxh3_64(name) >> 1;
    if hash < FIRST_NAME_HASH {
        hash + FIRST_NAME_HASH
    } else {
        hash
    }
}

/// A name as JSON: text where it is UTF-8, else lower-case hex under a second key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JsonName {
    /// The name, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The name's bytes in hex, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_hex: Option<String>,
}

impl JsonName {
    /// Encode.
    pub fn new(bytes: &[u8]) -> JsonName {
        match std::str::from_utf8(bytes) {
            Ok(text) => JsonName {
                name: Some(text.to_owned()),
                name_hex: None,
            },
            Err(_) => JsonName {
                name: None,
                name_hex: Some(to_hex(bytes)),
            },
        }
    }

    /// Decode; `None` when neither key holds a name.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.name, &self.name_hex) {
            (Some(text), _) => Some(text.as_bytes().to_vec()),
            (None, Some(hex)) => from_hex(hex),
            (None, None) => None,
        }
    }
}

/// A path as JSON, likewise: `path`, or `path_hex` where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JsonPath {
    /// The path, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes in hex, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
}

impl JsonPath {
    /// Encode.
    pub fn new(bytes: &[u8]) -> JsonPath {
        let JsonName { name, name_hex } = JsonName::new(bytes);
        JsonPath {
            path: name,
            path_hex: name_hex,
        }
    }
}

/// Lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
            let _ = write!(out, "{b:02x}"); // writing to a String cannot fail
            out
        })
}

/// The inverse of [`to_hex`]; `None` on anything that is not pairs of hex digits.
pub fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| {
            let text = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(text, 16).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_hash_is_a_fixed_format() {
        assert_eq!(name_hash(b"README.md"), xxh3_64(b"README.md") >> 1);
        assert!(name_hash(b"").leading_zeros() >= 1);
    }

    #[test]
    fn names_that_are_not_utf8_survive_json() {
        for name in [
            &b"plain"[..],
            b"new\nline",
            b"\xff\xfe",
            "gr\u{fc}n".as_bytes(),
        ] {
            let json = serde_json::to_string(&JsonName::new(name)).unwrap();
            let back: JsonName = serde_json::from_str(&json).unwrap();
            assert_eq!(back.bytes().unwrap(), name);
        }
    }
}
