//! Names of file systems and snapshots: the handle `TAG-UUID`, and what people write instead of
//! it (`home`, `5fe1`, `home@12`, `home@latest`).

use crate::error::{Error, ErrorKind, Result};
use crate::ids::SnapshotNumber;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Longest tag in bytes.
pub const TAG_MAX: usize = 32;

/// Longest snapshot name in bytes.
pub const SNAPSHOT_NAME_MAX: usize = 128;

/// Hex digits that a UUID prefix must have at least: fewer match by accident.
pub const UUID_PREFIX_MIN: usize = 4;

/// How many file systems a hint names.
const NAMED_IN_HINTS: usize = 5;

/// Length of a hyphenated UUID.
const UUID_LEN: usize = 36;

/// The handle of a file system, `TAG-UUID`. The tag is a mnemonic that others may use as well;
/// the UUID makes the handle unique. Ordered by tag, then UUID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Handle {
    /// The tag; see [`validate_tag`].
    pub tag: String,
    /// The UUID.
    pub uuid: Uuid,
}

impl Handle {
    /// A handle of this tag and UUID.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the tag is none.
    pub fn new(tag: impl Into<String>, uuid: Uuid) -> Result<Handle> {
        let tag = tag.into();
        validate_tag(&tag)?;
        Ok(Handle { tag, uuid })
    }
}

/// Whether all bytes of `text` are letters, digits or `._-`.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Check a tag: 1 to 32 of `[A-Za-z0-9._-]`, the first a letter or digit.
///
/// # Errors
/// [`ErrorKind::Usage`] with the rule.
pub fn validate_tag(tag: &str) -> Result<()> {
    let first = tag
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if first && tag.len() <= TAG_MAX && is_plain(tag) {
        return Ok(());
    }
    let rule = "a tag is 1 to 32 letters, digits and ._-, and starts with a letter or digit";
    Err(
        Error::new(ErrorKind::Usage, format!("{tag:?} cannot be a tag: {rule}"))
            .hint("choose a tag such as home or web-data.2"),
    )
}

/// Check a snapshot name: 1 to 128 bytes of `[A-Za-z0-9._-]`, not only digits (that would be a
/// number), not only dots (`.cbfs/snapshots/..` is another directory) and not `latest`.
///
/// # Errors
/// [`ErrorKind::Usage`] with the rule.
pub fn validate_snapshot_name(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > SNAPSHOT_NAME_MAX {
        "it has more than 128 bytes"
    } else if !is_plain(name) {
        "it has other characters than letters, digits and ._-"
    } else if name.bytes().all(|b| b == b'.') {
        "only dots would be a directory of its own in .cbfs/snapshots"
    } else if name.bytes().all(|b| b.is_ascii_digit()) {
        "only digits would be a snapshot's number"
    } else if name == "latest" {
        "this word means the last complete snapshot"
    } else {
        return Ok(());
    };
    let rule =
        "a name is 1 to 128 letters, digits and ._-, not only digits or dots, and not \"latest\"";
    Err(Error::new(
        ErrorKind::Usage,
        format!("{name:?} cannot be the name of a snapshot: {why}"),
    )
    .hint(rule))
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.tag, self.uuid.as_hyphenated())
    }
}

impl FromStr for Handle {
    type Err = Error;

    /// Only the exact form is taken (UUID hyphenated, lower-case): a handle is part of object keys,
    /// so there must be one way to write it.
    fn from_str(text: &str) -> Result<Handle> {
        let parse = || {
            let (rest, uuid) = text.split_at_checked(text.len().checked_sub(UUID_LEN)?)?;
            let tag = rest.strip_suffix('-')?;
            let parsed = Uuid::try_parse(uuid).ok()?;
            let exact = parsed.as_hyphenated().to_string() == uuid;
            if exact {
                Handle::new(tag, parsed).ok()
            } else {
                None
            }
        };
        parse().ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                format!("{text:?} is no handle of a file system"),
            )
            .hint("a handle is TAG-UUID, such as home-5fe1c2a4-90b3-4f6e-8a57-0d3b7c1e2f94")
        })
    }
}

impl TryFrom<String> for Handle {
    type Error = Error;

    fn try_from(text: String) -> Result<Handle> {
        text.parse()
    }
}

impl From<Handle> for String {
    fn from(handle: Handle) -> String {
        handle.to_string()
    }
}

/// What a person writes for a file system: the full handle, its tag, or the start of its UUID (at
/// least 4 hex digits). A text can be both a tag and the start of a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FsSelector(String);

impl FsSelector {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The handle, when the text is a full one.
    pub fn handle(&self) -> Option<Handle> {
        self.0.parse().ok()
    }

    /// Whether the text means this file system.
    pub fn matches(&self, handle: &Handle) -> bool {
        self.0 == handle.tag
            || is_uuid_prefix(&self.0) && {
                let text = self.0.to_ascii_lowercase();
                handle.uuid.as_hyphenated().to_string().starts_with(&text)
                    || handle.uuid.as_simple().to_string().starts_with(&text)
            }
            || self.0 == handle.to_string()
    }

    /// The one file system among `handles` that is meant.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with a hint that lists what there is; [`ErrorKind::Conflict`] that
    /// lists the candidates, also when the text is the tag of one and the UUID prefix of another.
    pub fn select<'a>(&self, handles: &'a [Handle]) -> Result<&'a Handle> {
        let mut candidates: Vec<&Handle> = handles.iter().filter(|h| self.matches(h)).collect();
        candidates.sort();
        candidates.dedup();
        match candidates.as_slice() {
            [one] => Ok(one),
            [] => Err(unknown(&self.0, handles)),
            many => {
                let text = format!("{:?} is ambiguous: it may be {}", self.0, some_of(many));
                Err(Error::new(ErrorKind::Conflict, text)
                    .hint("write the full handle, or more digits of the UUID"))
            }
        }
    }
}

/// Find the one of `handles` that `text` (full handle, TAG or UUID prefix) means.
///
/// # Errors
/// [`ErrorKind::Usage`] when `text` can be none of these, else as [`FsSelector::select`].
pub fn select<'a>(text: &str, handles: &'a [Handle]) -> Result<&'a Handle> {
    text.parse::<FsSelector>()?.select(handles)
}

fn is_uuid_prefix(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    text.len() <= UUID_LEN
        && digits >= UUID_PREFIX_MIN
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn unknown(text: &str, handles: &[Handle]) -> Error {
    let mut all: Vec<&Handle> = handles.iter().collect();
    all.sort();
    all.dedup();
    let hint = if all.is_empty() {
        "there is no file system yet; `cbfsctl fs create` makes one".to_owned()
    } else {
        format!("there is {}", some_of(&all))
    };
    Error::new(
        ErrorKind::NotFound,
        format!("there is no file system {text:?}"),
    )
    .hint(hint)
}

/// The first few handles as a list.
fn some_of(handles: &[&Handle]) -> String {
    let named: Vec<String> = handles
        .iter()
        .take(NAMED_IN_HINTS)
        .map(ToString::to_string)
        .collect();
    let more = handles.len() - named.len();
    let list = named.join(", ");
    if more > 0 {
        format!("{list} and {more} more")
    } else {
        list
    }
}

impl FromStr for FsSelector {
    type Err = Error;

    fn from_str(text: &str) -> Result<FsSelector> {
        let possible = validate_tag(text).is_ok() || is_uuid_prefix(text);
        if possible || text.parse::<Handle>().is_ok() {
            return Ok(FsSelector(text.to_owned()));
        }
        let text = format!("{text:?} does not name a file system");
        Err(Error::new(ErrorKind::Usage, text)
            .hint("write its tag, at least 4 digits of its UUID, or the full handle TAG-UUID"))
    }
}

impl fmt::Display for FsSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FsSelector {
    type Error = Error;

    fn try_from(text: String) -> Result<FsSelector> {
        text.parse()
    }
}

impl From<FsSelector> for String {
    fn from(selector: FsSelector) -> String {
        selector.0
    }
}

/// What a person writes for a snapshot of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SnapshotSelector {
    /// `latest`: the last complete one.
    Latest,
    /// Its number.
    Number(SnapshotNumber),
    /// Its name.
    Name(String),
}

impl FromStr for SnapshotSelector {
    type Err = Error;

    fn from_str(text: &str) -> Result<SnapshotSelector> {
        if text == "latest" {
            return Ok(SnapshotSelector::Latest);
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse::<u64>() {
                Ok(number) if number > 0 => Ok(SnapshotSelector::Number(SnapshotNumber(number))),
                _ => {
                    let text = format!("{text} is no number of a snapshot");
                    Err(Error::new(ErrorKind::Usage, text).hint("the first snapshot has number 1"))
                }
            };
        }
        validate_snapshot_name(text)?;
        Ok(SnapshotSelector::Name(text.to_owned()))
    }
}

impl fmt::Display for SnapshotSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotSelector::Latest => f.write_str("latest"),
            SnapshotSelector::Number(number) => number.fmt(f),
            SnapshotSelector::Name(name) => f.write_str(name),
        }
    }
}

impl TryFrom<String> for SnapshotSelector {
    type Error = Error;

    fn try_from(text: String) -> Result<SnapshotSelector> {
        text.parse()
    }
}

impl From<SnapshotSelector> for String {
    fn from(selector: SnapshotSelector) -> String {
        selector.to_string()
    }
}

/// `FS[@SNAP]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FsAndSnapshot {
    /// The file system.
    pub fs: FsSelector,
    /// The snapshot, where one is written.
    pub snapshot: Option<SnapshotSelector>,
}

impl FromStr for FsAndSnapshot {
    type Err = Error;

    fn from_str(text: &str) -> Result<FsAndSnapshot> {
        match text.split_once('@') {
            None => Ok(FsAndSnapshot {
                fs: text.parse()?,
                snapshot: None,
            }),
            Some((fs, snapshot)) => Ok(FsAndSnapshot {
                fs: fs.parse()?,
                snapshot: Some(snapshot.parse()?),
            }),
        }
    }
}

impl fmt::Display for FsAndSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fs.fmt(f)?;
        match &self.snapshot {
            Some(snapshot) => write!(f, "@{snapshot}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for FsAndSnapshot {
    type Error = Error;

    fn try_from(text: String) -> Result<FsAndSnapshot> {
        text.parse()
    }
}

impl From<FsAndSnapshot> for String {
    fn from(both: FsAndSnapshot) -> String {
        both.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handle(tag: &str, uuid: u128) -> Handle {
        Handle::new(tag, Uuid::from_u128(uuid)).unwrap()
    }

    const A: u128 = 0xabcd_1111_0000_4000_8000_0000_0000_0001;
    const B: u128 = 0xabcd_2222_0000_4000_8000_0000_0000_0002;
    const C: u128 = 0x1234_5678_0000_4000_8000_0000_0000_0003;

    #[test]
    fn a_handle_has_one_spelling() {
        let home = handle("home", A);
        assert_eq!(
            home.to_string(),
            "home-abcd1111-0000-4000-8000-000000000001"
        );
        assert_eq!(home.to_string().parse::<Handle>().unwrap(), home);
        for bad in [
            "home",
            "",
            "-abcd1111-0000-4000-8000-000000000001",
            "abcd1111-0000-4000-8000-000000000001",
            "home-ABCD1111-0000-4000-8000-000000000001",
            "home-abcd111100004000800000000000000001",
            "home_abcd1111-0000-4000-8000-000000000001",
            "ho me-abcd1111-0000-4000-8000-000000000001",
            "-x-abcd1111-0000-4000-8000-000000000001",
            "ä-abcd1111-0000-4000-8000-0000000000ä",
        ] {
            assert_eq!(
                bad.parse::<Handle>().unwrap_err().kind(),
                ErrorKind::Usage,
                "{bad}"
            );
        }
        assert!(serde_json::from_str::<Handle>("\"home\"").is_err());
    }

    #[test]
    fn a_unique_tag_uuid_prefix_or_full_handle_selects() {
        let all = [handle("home", A), handle("logs", B), handle("abcd", C)];
        for (text, expected) in [
            ("home", 0),
            ("logs", 1),
            ("abcd1", 0),
            ("ABCD2222-0", 1),
            ("abcd22220", 1),
            ("1234", 2),
            (&all[1].to_string(), 1),
            (&all[1].uuid.to_string(), 1),
        ] {
            assert_eq!(select(text, &all).unwrap(), &all[expected], "{text}");
        }
    }

    #[test]
    fn an_ambiguous_selector_is_a_conflict_that_lists_the_candidates() {
        let all = [handle("home", A), handle("home", B), handle("abcd", C)];
        let by_tag = select("home", &all).unwrap_err();
        assert_eq!(by_tag.kind(), ErrorKind::Conflict);
        let text = by_tag.to_string();
        assert!(
            text.contains(&all[0].to_string()) && text.contains(&all[1].to_string()),
            "{text}"
        );
        assert!(!text.contains(&all[2].to_string()), "{text}");
        // The tag of one, and the start of the UUID of others.
        let mixed = select("abcd", &all).unwrap_err();
        assert_eq!(mixed.kind(), ErrorKind::Conflict);
        assert!(
            all.iter()
                .all(|h| mixed.to_string().contains(&h.to_string()))
        );
        // The same file system twice is not ambiguous.
        assert_eq!(
            select("x", &[handle("x", A), handle("x", A)]).unwrap(),
            &handle("x", A)
        );
    }

    #[test]
    fn an_unknown_selector_says_what_there_is() {
        let all: Vec<Handle> = (0..7).map(|n| handle(&format!("t{n}"), A + n)).collect();
        let error = select("nope", &all).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let hint = error.hint_text().unwrap();
        assert!(
            hint.contains(&all[0].to_string()) && hint.contains("2 more"),
            "{hint}"
        );
        assert!(
            select("nope", &[])
                .unwrap_err()
                .hint_text()
                .unwrap()
                .contains("fs create")
        );
        assert_eq!(select("a/b", &all).unwrap_err().kind(), ErrorKind::Usage);
        // Three digits are a possible tag, but no UUID prefix.
        assert_eq!(select("abc", &all).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn snapshots_are_written_as_number_name_or_latest() {
        let parse = |text: &str| text.parse::<FsAndSnapshot>();
        assert_eq!(parse("home").unwrap().snapshot, None);
        assert_eq!(
            parse("home@latest").unwrap().snapshot,
            Some(SnapshotSelector::Latest)
        );
        let twelve = SnapshotSelector::Number(SnapshotNumber(12));
        assert_eq!(parse("home@12").unwrap().snapshot, Some(twelve));
        let name = SnapshotSelector::Name("before-upgrade".to_owned());
        let both = parse("home@before-upgrade").unwrap();
        assert_eq!(
            (both.fs.as_str(), both.snapshot.clone()),
            ("home", Some(name))
        );
        assert_eq!(both.to_string(), "home@before-upgrade");
        for bad in [
            "",
            "@",
            "home@",
            "@12",
            "home@0",
            "home@99999999999999999999",
            "home@a@b",
            "home@a b",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn snapshot_names_follow_the_rule() {
        for good in ["a", "1a", "v1.2_3-x", "..a", &"n".repeat(128)] {
            assert!(validate_snapshot_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "12",
            ".",
            "..",
            "latest",
            "a b",
            "a/b",
            "a@b",
            "ä",
            &"n".repeat(129),
        ] {
            let error = validate_snapshot_name(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            assert!(error.hint_text().unwrap().contains("1 to 128"));
        }
    }

    proptest! {
        #[test]
        fn handles_round_trip(tag in "[A-Za-z0-9][A-Za-z0-9._-]{0,31}", uuid: u128) {
            let handle = handle(&tag, uuid);
            prop_assert_eq!(&handle.to_string().parse::<Handle>().unwrap(), &handle);
            let json = serde_json::to_string(&handle).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Handle>(&json).unwrap(), &handle);
            let all = [handle];
            for text in [tag, all[0].to_string(), all[0].uuid.to_string()] {
                prop_assert_eq!(select(&text, &all).unwrap(), &all[0]);
            }
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "\\PC{0,60}") {
            if let Ok(handle) = text.parse::<Handle>() {
                prop_assert_eq!(handle.to_string(), text.clone());
            }
            if let Ok(both) = text.parse::<FsAndSnapshot>() {
                prop_assert_eq!(both.to_string().parse::<FsAndSnapshot>().unwrap(), both);
            }
        }
    }
}
