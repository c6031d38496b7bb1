//! Bucket URLs.

use super::key;
use super::{BucketError, BucketResult};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a bucket is. As text `file:///DIR` or
/// `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&profile=NAME`; the text form round-trips.
///
/// A URL never holds credentials: they come from the environment and the profile files. One that
/// does is refused, and no error message repeats it, so it reaches no log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BucketUrl {
    /// A directory of this machine.
    File {
        /// Its absolute path. Bytes that are not plain in a URL are percent-encoded in the text.
        path: PathBuf,
    },
    /// A bucket of an S3 store.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What all keys start with, without slashes at its ends; empty for none.
        prefix: String,
        /// The store's URL (`http://` or `https://`); `None` for AWS or what the environment says.
        endpoint: Option<String>,
        /// The region.
        region: Option<String>,
        /// The profile of the AWS credentials and config files.
        profile: Option<String>,
    },
}

impl FromStr for BucketUrl {
    type Err = BucketError;

    fn from_str(text: &str) -> BucketResult<BucketUrl> {
        if let Some(rest) = text.strip_prefix("file://") {
            parse_file(text, rest)
        } else if let Some(rest) = text.strip_prefix("s3://") {
            parse_s3(rest)
        } else if text.starts_with('/') {
            Err(invalid(format!(
                "{text:?} is a path, not a bucket URL: write file://{text}"
            )))
        } else {
            // The scheme alone is told: the rest of an unknown URL may hold credentials.
            let what = match text.split_once("://") {
                Some((scheme, _)) => format!("{scheme:?} is no kind of bucket that CBFS knows"),
                None => "this is no bucket URL: it has no scheme".to_owned(),
            };
            Err(invalid(what))
        }
    }
}

fn invalid(what: impl Into<String>) -> BucketError {
    BucketError::Invalid { what: what.into() }
}

fn parse_file(text: &str, rest: &str) -> BucketResult<BucketUrl> {
    if !rest.starts_with('/') {
        return Err(invalid(format!(
            "the path in {text:?} is not absolute: write three slashes, as in file:///srv/bucket"
        )));
    }
    if rest.contains(['?', '#']) {
        return Err(invalid(format!(
            "{text:?} has a '?' or '#': a file bucket has no options; in a path write %3F and %23"
        )));
    }
    let bytes = percent_decode(rest).ok_or_else(|| {
        invalid(format!(
            "{text:?} has a '%' that is not followed by two hex digits"
        ))
    })?;
    if bytes.contains(&0) {
        return Err(invalid(format!("{text:?} has a NUL byte in its path")));
    }
    // Collecting the components drops `.` and doubled slashes. `..` stays: what it means depends
    // on symlinks, so only the kernel may resolve it.
    let path = PathBuf::from(OsString::from_vec(bytes))
        .components()
        .collect();
    Ok(BucketUrl::File { path })
}

fn parse_s3(rest: &str) -> BucketResult<BucketUrl> {
    if rest.contains('#') {
        return Err(invalid("an s3:// URL has no '#'"));
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if place.contains('@') {
        return Err(invalid(
            "an s3:// URL holds no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
             use ?profile=NAME",
        ));
    }
    if bucket.len() > 255 || !key::is_segment(bucket) {
        return Err(invalid(format!(
            "{bucket:?} is no bucket name: letters, digits and ._-, as in s3://my-bucket/prefix"
        )));
    }
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty()
        && let Some(why) = key::refusal(prefix)
    {
        return Err(invalid(format!(
            "{prefix:?} cannot be the prefix in a bucket: {why}"
        )));
    }
    let (mut endpoint, mut region, mut profile) = (None, None, None);
    for option in query.split('&').filter(|o| !o.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let slot = match name {
            "endpoint" => &mut endpoint,
            "region" => &mut region,
            "profile" => &mut profile,
            _ => {
                return Err(invalid(format!(
                    "{name:?} is no option of an s3:// URL: there are endpoint, region and profile"
                )));
            }
        };
        let value = percent_decode(value)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .filter(|v| !v.chars().any(char::is_control))
            .ok_or_else(|| invalid(format!("the value of {name} is not percent-encoded text")))?;
        // `region=` without a value is as good as none: scripts build URLs from unset variables.
        if !value.is_empty() && slot.replace(value).is_some() {
            return Err(invalid(format!("the option {name} is given twice")));
        }
    }
    if let Some(url) = &endpoint {
        let host = url
            .strip_prefix("https://")
            .or_else(|| url.strip_prefix("http://"))
            .unwrap_or("");
        if host.contains('@') {
            return Err(invalid("the endpoint of an s3:// URL holds no credentials"));
        }
        if host.is_empty() || host.starts_with('/') || host.contains(char::is_whitespace) {
            return Err(invalid(
                "the endpoint must be a URL, as in s3://my-bucket/prefix?endpoint=https://s3.example.org",
            ));
        }
    }
    let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
    Ok(BucketUrl::S3 {
        bucket,
        prefix,
        endpoint,
        region,
        profile,
    })
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BucketUrl::File { path } => {
                f.write_str("file://")?;
                percent_encode(f, path.as_os_str().as_bytes(), b"/")
            }
            BucketUrl::S3 {
                bucket,
                prefix,
                endpoint,
                region,
                profile,
            } => {
                write!(f, "s3://{bucket}")?;
                if !prefix.is_empty() {
                    write!(f, "/{prefix}")?;
                }
                let options = [
                    ("endpoint", endpoint),
                    ("region", region),
                    ("profile", profile),
                ];
                let given = options
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value.as_ref()?)));
                for (place, (name, value)) in given.enumerate() {
                    f.write_char(if place == 0 { '?' } else { '&' })?;
                    write!(f, "{name}=")?;
                    percent_encode(f, value.as_bytes(), b"/:")?;
                }
                Ok(())
            }
        }
    }
}

impl TryFrom<String> for BucketUrl {
    type Error = BucketError;

    fn try_from(text: String) -> BucketResult<BucketUrl> {
        text.parse()
    }
}

impl From<BucketUrl> for String {
    fn from(url: BucketUrl) -> String {
        url.to_string()
    }
}

/// Decode `%XX`; `None` when a `%` is not followed by two hex digits.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
            out.push((digit(0)? * 16 + digit(1)?) as u8);
            rest = &after[2..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    Some(out)
}

/// Write `bytes`; all but the unreserved characters of RFC 3986 and those in `plain` as `%XX`.
fn percent_encode(f: &mut fmt::Formatter<'_>, bytes: &[u8], plain: &[u8]) -> fmt::Result {
    for &b in bytes {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || plain.contains(&b) {
            f.write_char(char::from(b))?;
        } else {
            write!(f, "%{b:02X}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(text: &str) -> String {
        text.parse::<BucketUrl>().unwrap_err().to_string()
    }

    #[test]
    fn a_file_url_is_an_absolute_path() {
        let url: BucketUrl = "file:///srv//my%20bucket/./x/".parse().unwrap();
        assert_eq!(
            url,
            BucketUrl::File {
                path: PathBuf::from("/srv/my bucket/x")
            }
        );
        assert_eq!(url.to_string(), "file:///srv/my%20bucket/x");
        assert!(message("file://srv/bucket").contains("file:///srv/bucket"));
        assert!(message("file:///a%2").contains("two hex digits"));
        assert!(message("file:///a%00").contains("NUL"));
        assert!(message("file:///a?b=c").contains("%3F"));
        assert!(message("/srv/bucket").contains("file:///srv/bucket"));
        assert!(message("bucket").contains("scheme"));
    }

    #[test]
    fn an_s3_url_has_bucket_prefix_and_options() {
        let text =
            "s3://b-1/some/prefix/?endpoint=http%3A%2F%2F127.0.0.1:8333&region=eu-1&profile=";
        let url: BucketUrl = text.parse().unwrap();
        assert_eq!(
            url,
            BucketUrl::S3 {
                bucket: "b-1".to_owned(),
                prefix: "some/prefix".to_owned(),
                endpoint: Some("http://127.0.0.1:8333".to_owned()),
                region: Some("eu-1".to_owned()),
                profile: None,
            }
        );
        assert_eq!(
            url.to_string(),
            "s3://b-1/some/prefix?endpoint=http://127.0.0.1:8333&region=eu-1"
        );
        for bad in [
            "s3://",
            "s3:///prefix",
            "s3://b/../c",
            "s3://b//c",
            "s3://b?color=red",
            "s3://b?region=a&region=b",
            "s3://b?endpoint=localhost",
            "s3://b?endpoint=https://",
            "s3://b#c",
        ] {
            assert!(
                matches!(bad.parse::<BucketUrl>(), Err(BucketError::Invalid { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn no_error_message_repeats_credentials() {
        for text in [
            "s3://MyId:Hush@bucket/prefix",
            "s3://bucket?endpoint=https://MyId:Hush@host",
            "s3://bucket?secret_access_key=Hush",
            "s4://MyId:Hush@bucket",
            "MyId:Hush@bucket",
        ] {
            let message = message(text);
            assert!(
                !message.contains("Hush") && !message.contains("MyId"),
                "{message}"
            );
        }
    }

    #[test]
    fn urls_are_strings_in_json() {
        let url: BucketUrl = serde_json::from_str("\"file:///srv/b\"").unwrap();
        assert_eq!(serde_json::to_string(&url).unwrap(), "\"file:///srv/b\"");
        assert!(serde_json::from_str::<BucketUrl>("\"file://b\"").is_err());
    }

    proptest! {
        #[test]
        fn file_urls_round_trip(names in prop::collection::vec(prop::collection::vec(1u8..=255, 1..20), 1..4)) {
            let mut bytes = Vec::new();
            for name in names {
                bytes.push(b'/');
                bytes.extend(name);
            }
            let path: PathBuf = PathBuf::from(OsString::from_vec(bytes)).components().collect();
            let url = BucketUrl::File { path };
            prop_assert_eq!(url.to_string().parse::<BucketUrl>().unwrap(), url);
        }

        #[test]
        fn s3_urls_round_trip(
            bucket in "[a-z0-9][a-z0-9.-]{1,20}", prefix in "([a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2})?",
            endpoint in prop::option::of("https?://[a-z0-9.]{1,20}(:[0-9]{2,4})?"),
            region in prop::option::of("[a-z0-9-]{1,12}"), profile in prop::option::of("[ -~]{1,20}"),
        ) {
            let url = BucketUrl::S3 { bucket, prefix, endpoint, region, profile };
            prop_assert_eq!(url.to_string().parse::<BucketUrl>().unwrap(), url);
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "(file://|s3://)?\\PC{0,40}") {
            if let Ok(url) = text.parse::<BucketUrl>() {
                prop_assert_eq!(url.to_string().parse::<BucketUrl>().unwrap(), url);
            }
        }
    }
}
