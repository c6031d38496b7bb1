//! Keys of objects.

use super::{BucketError, BucketResult};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest key in bytes: the limit of S3.
pub(super) const KEY_MAX: usize = 1024;

/// The key of an object, relative to the bucket's URL: non-empty segments of `[A-Za-z0-9._-]`
/// joined by `/`, none of them `.` or `..`, at most 1024 bytes.
///
/// These characters need no escaping in a URL, in a shell or in any file system, so a key is the
/// same text everywhere, and a key can never lead out of its bucket. Ordered by bytes, as S3 lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// Check `text` and make it a key.
    ///
    /// # Errors
    /// [`BucketError::InvalidKey`] says which rule it breaks.
    pub fn new(text: impl Into<String>) -> BucketResult<Key> {
        let text = text.into();
        match refusal(&text) {
            None => Ok(Key(text)),
            Some(why) => Err(BucketError::InvalidKey {
                what: format!("{text:?} is no key: {why}"),
            }),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder (`""` at the top, else without a slash at its end) and the last segment.
    pub(super) fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }
}

/// Whether `segment` may stand between two slashes of a key.
pub(super) fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Why `text` is no key; `None` when it is one.
pub(super) fn refusal(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("it is empty".to_owned());
    }
    if text.len() > KEY_MAX {
        return Some(format!(
            "it has {} bytes, at most {KEY_MAX} are allowed",
            text.len()
        ));
    }
    let bad = text.split('/').find(|segment| !is_segment(segment))?;
    Some(match bad {
        "" => "a segment is empty (slash at the start or end, or two in a row)".to_owned(),
        "." | ".." => format!("the segment {bad:?} is not allowed"),
        _ => format!("the segment {bad:?} has other characters than letters, digits and ._-"),
    })
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = BucketError;

    fn from_str(text: &str) -> BucketResult<Key> {
        Key::new(text)
    }
}

impl TryFrom<String> for Key {
    type Error = BucketError;

    fn try_from(text: String) -> BucketResult<Key> {
        Key::new(text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_could_leave_the_bucket_or_need_escaping_are_refused() {
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a b", "a%2e", "ä",
            "a\0b", "a\nb", "a\\b", "a?b",
        ] {
            assert!(
                matches!(Key::new(bad), Err(BucketError::InvalidKey { .. })),
                "{bad:?}"
            );
        }
        assert!(Key::new("a".repeat(KEY_MAX)).is_ok());
        assert!(Key::new("a".repeat(KEY_MAX + 1)).is_err());
        for good in ["a", "...", ".a", "a/b.c/d_e-f", "A/0"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_key_is_validated_when_it_is_deserialized() {
        assert_eq!(
            serde_json::to_string(&Key::new("a/b").unwrap()).unwrap(),
            "\"a/b\""
        );
        assert!(serde_json::from_str::<Key>("\"a/../b\"").is_err());
        assert!(serde_json::from_str::<Key>("\"a/b\"").is_ok());
    }

    proptest! {
        #[test]
        fn keys_round_trip(text in "[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}){0,5}") {
            let key = Key::new(text.clone()).unwrap();
            prop_assert_eq!(key.to_string(), text);
            let json = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<Key>(&json).unwrap(), key);
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "\\PC{0,40}") {
            if let Ok(key) = Key::new(text) {
                prop_assert!(key.as_str().split('/').all(is_segment));
            }
        }
    }
}
