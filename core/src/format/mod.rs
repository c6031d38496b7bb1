//! The JSON objects of a bucket and the names of all objects. Every JSON document carries
//! `format` and `features.incompat`; a newer format or an unknown feature is refused by name.

pub mod changes;
pub mod config;
pub mod epoch;
pub mod keys;
pub mod log;
pub mod manifest;
pub mod mark;
pub mod node;
pub mod settings;

use crate::error::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format this version writes and the newest it reads.
pub const FORMAT: u32 = 1;

/// The features this version understands (none yet).
pub const KNOWN_FEATURES: &[&str] = &[];

/// Features that a reader must understand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Names of features without which the document cannot be read rightly.
    #[serde(default)]
    pub incompat: Vec<String>,
}

/// An object that another one refers to: every read is checked against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Key relative to the file system's prefix `<tag>-<uuid>/`.
    pub key: String,
    /// Bytes as stored.
    pub size: u64,
    /// BLAKE3 of the bytes as stored, hex.
    pub blake3: String,
}

impl ObjectRef {
    /// Check `bytes` against this reference; [`ErrorKind::Damage`] names the object.
    pub fn verify(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != self.size {
            return Err(Error::damage(format!(
                "object {} has {} bytes instead of {}",
                self.key,
                bytes.len(),
                self.size
            )));
        }
        if blake3::hash(bytes).to_hex().as_str() != self.blake3 {
            return Err(Error::damage(format!(
                "object {} has other contents than were written",
                self.key
            )));
        }
        Ok(())
    }
}

/// Parse a JSON document of the bucket: format and features are judged before anything else.
///
/// # Errors
/// [`ErrorKind::FormatTooNew`] names what is not understood; [`ErrorKind::Damage`] when it is no
/// such document. `what` names the object.
pub fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
        #[serde(default)]
        features: Features,
        #[serde(default)]
        seal: Option<String>,
    }
    let damaged = |e: serde_json::Error| {
        Error::damage(format!("{what} is damaged: it is no document of CBFS")).because(e)
    };
    let head: Head = serde_json::from_slice(bytes).map_err(damaged)?;
    let hint = "upgrade CBFS on this machine";
    if head.format > FORMAT {
        let text = format!(
            "{what} has format {}, this CBFS reads up to {FORMAT}",
            head.format
        );
        return Err(Error::new(ErrorKind::FormatTooNew, text).hint(hint));
    }
    let unknown: Vec<&str> = head
        .features
        .incompat
        .iter()
        .map(String::as_str)
        .filter(|f| !KNOWN_FEATURES.contains(f))
        .collect();
    if !unknown.is_empty() {
        let text = format!(
            "{what} needs features this CBFS does not know: {}",
            unknown.join(", ")
        );
        return Err(Error::new(ErrorKind::FormatTooNew, text).hint(hint));
    }
    if head.seal.is_some() && seal_of(bytes) != Seal::Intact {
        return Err(Error::damage(format!(
            "{what} is damaged: its seal is broken"
        )));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Serialize a document of the bucket: pretty JSON with a final newline.
pub fn to_json<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(document)
        .map_err(|e| Error::failed("a document could not be serialized").because(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The field of a seal.
pub const SEAL: &str = "seal";

/// What [`seal_of`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// There is none where [`to_sealed_json`] puts it.
    Missing,
    /// The document is as it was written.
    Intact,
    /// It is not.
    Broken,
}

/// What stands before the digits of a seal: always on the last line but one.
const SEAL_HEAD: &str = ",\n  \"seal\": \"";
/// What stands behind them.
const SEAL_TAIL: &str = "\"\n}\n";
/// Digits of a BLAKE3.
const SEAL_DIGITS: usize = 64;

/// As [`to_json`], with a last field `seal`: the BLAKE3 of the document's bytes with the digits of
/// the seal replaced by zeros. For documents that nothing else holds a hash of.
pub fn to_sealed_json<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    let mut bytes = to_json(document)?;
    if !bytes.ends_with(b"\n}\n") {
        return Err(Error::failed("a document without fields cannot be sealed"));
    }
    bytes.truncate(bytes.len() - 3);
    bytes.extend_from_slice(SEAL_HEAD.as_bytes());
    let at = bytes.len();
    bytes.extend_from_slice(&[b'0'; SEAL_DIGITS]);
    bytes.extend_from_slice(SEAL_TAIL.as_bytes());
    let hash = blake3::hash(&bytes).to_hex();
    bytes[at..at + SEAL_DIGITS].copy_from_slice(hash.as_bytes());
    Ok(bytes)
}

/// Check the seal of a document's bytes.
pub fn seal_of(bytes: &[u8]) -> Seal {
    let digits = bytes
        .strip_suffix(SEAL_TAIL.as_bytes())
        .and_then(|head| head.split_last_chunk::<SEAL_DIGITS>())
        .filter(|(head, _)| head.ends_with(SEAL_HEAD.as_bytes()));
    let Some((head, digits)) = digits else {
        return Seal::Missing;
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(&[b'0'; SEAL_DIGITS]);
    hasher.update(SEAL_TAIL.as_bytes());
    if hasher.finalize().to_hex().as_bytes() == digits {
        Seal::Intact
    } else {
        Seal::Broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_a_sealed_document_can_change_unseen() {
        let sealed = to_sealed_json(&Features::default()).unwrap();
        assert_eq!(seal_of(&sealed), Seal::Intact);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_ne!(seal_of(&damaged), Seal::Intact, "byte {at}");
        }
        assert_eq!(seal_of(b"{\n  \"format\": 1\n}\n"), Seal::Missing);
        assert_eq!(seal_of(b""), Seal::Missing);
    }

    #[test]
    fn a_document_whose_seal_is_broken_is_damage() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Document {
            format: u32,
            text: String,
        }
        let text = "written".to_owned();
        let document = Document { format: 1, text };
        let sealed = to_sealed_json(&document).unwrap();
        assert_eq!(parse::<Document>("x", &sealed).unwrap(), document);
        let changed = String::from_utf8(sealed)
            .unwrap()
            .replace("written", "changed");
        let error = parse::<Document>("x", changed.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage);
        let unsealed = to_json(&document).unwrap();
        assert_eq!(parse::<Document>("x", &unsealed).unwrap(), document);
    }
}
