//! The JSON objects of a bucket and the names of all objects. Every JSON document carries
//! `format` and `features.incompat`; a newer format or an unknown feature is refused by name.

pub mod changes;
pub mod config;
pub mod epoch;
pub mod keys;
pub mod manifest;
pub mod mark;
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
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Serialize a document of the bucket: pretty JSON with a final newline.
pub fn to_json<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(document)
        .map_err(|e| Error::failed("a document could not be serialized").because(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}
