//! Where an S3 bucket is: from the URL, else the bucket's section of `cbfsd.toml`, else the AWS environment
//! variables, else the AWS profile files.
//!
//! Region and endpoint: the URL's, else the section's, else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`,
//! `AWS_REGION`, `AWS_DEFAULT_REGION`, else the profile's in the config file, else AWS itself and `us-east-1`.
//! Custom endpoints get path-style requests (`https://host/bucket/key`), as all stores know these, unless the
//! section says otherwise.

use super::credentials::{read, setting};
use crate::bucket::{BucketError, BucketResult};
use crate::configuration::BucketSection;
use s3::region::Region;
use std::path::PathBuf;

/// What AWS calls its first region; stores of other makers mostly accept it.
const DEFAULT_REGION: &str = "us-east-1";

/// What a URL says beyond the bucket's name.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options<'a> {
    /// `endpoint=`
    pub(super) endpoint: Option<&'a str>,
    /// `region=`
    pub(super) region: Option<&'a str>,
    /// `profile=`
    pub(super) profile: Option<&'a str>,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// `scheme://host[:port][/path]`, without a slash at its end.
    pub(super) endpoint: String,
    /// The region that signatures name.
    pub(super) region: String,
    /// Whether the bucket's name is in the path instead of the host name.
    pub(super) path_style: bool,
}

/// Reads an environment variable; an empty one is as good as none.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The text of the AWS config file; empty when there is none.
pub(super) fn config_file() -> String {
    let home = || Some(PathBuf::from(variable("HOME")?).join(".aws/config"));
    let path = variable("AWS_CONFIG_FILE").map(PathBuf::from).or_else(home);
    path.and_then(|path| read(&path)).unwrap_or_default()
}

impl Place {
    /// Find out. `variable` reads the environment, `config` is the text of the AWS config file.
    pub(super) fn find(
        bucket: &str,
        options: Options<'_>,
        section: Option<&BucketSection>,
        variable: &dyn Fn(&str) -> Option<String>,
        config: &str,
    ) -> BucketResult<Place> {
        let profile = options
            .profile
            .map(str::to_owned)
            .or_else(|| section?.profile.clone())
            .or_else(|| variable("AWS_PROFILE"));
        let profile = profile.as_deref().unwrap_or("default");
        let setting = |name| setting(config, profile, true, name);
        let region = options
            .region
            .map(str::to_owned)
            .or_else(|| section?.region.clone())
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .or_else(|| setting("region"))
            .unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let endpoint = options
            .endpoint
            .map(str::to_owned)
            .or_else(|| section?.endpoint.clone())
            .or_else(|| variable("AWS_ENDPOINT_URL_S3"))
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .or_else(|| setting("endpoint_url"));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if region.is_empty() || !region.bytes().all(plain) {
            return Err(invalid(format!("{region:?} is no region")));
        }
        let path_style_said = section.and_then(|s| s.path_style);
        match endpoint {
            Some(url) => {
                let endpoint = normalized(&url)?;
                Ok(Place {
                    endpoint,
                    region,
                    path_style: path_style_said.unwrap_or(true),
                })
            }
            None => {
                let suffix = if region.starts_with("cn-") {
                    "amazonaws.com.cn"
                } else {
                    "amazonaws.com"
                };
                let endpoint = format!("https://s3.{region}.{suffix}");
                // A name with dots matches no wildcard certificate, one with capitals no host.
                let no_host = bucket.contains(|c: char| c == '.' || c.is_ascii_uppercase());
                let path_style = path_style_said.unwrap_or(no_host);
                Ok(Place {
                    endpoint,
                    region,
                    path_style,
                })
            }
        }
    }

    /// The same for rust-s3.
    pub(super) fn to_region(&self) -> Region {
        // Always spelled out: its table of names has old host names, and other makers' regions.
        Region::Custom {
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
        }
    }
}

pub(super) fn invalid(what: impl Into<String>) -> BucketError {
    BucketError::Invalid { what: what.into() }
}

/// An endpoint without default port and trailing slash: what is signed must be what is sent.
fn normalized(text: &str) -> BucketResult<String> {
    // The text is not repeated: it may hold credentials.
    let no_url = || invalid("the S3 endpoint is no URL such as https://s3.example.org:9000");
    let url = reqwest::Url::parse(text).map_err(|_| no_url())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "the S3 endpoint holds no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ));
    }
    let known = matches!(url.scheme(), "http" | "https");
    let host = url
        .host_str()
        .filter(|_| known && url.query().is_none() && url.fragment().is_none());
    let host = host.ok_or_else(no_url)?;
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    let path = url.path().trim_end_matches('/');
    Ok(format!("{}://{host}{port}{path}", url.scheme()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(options: Options<'_>, variables: &[(&str, &str)], config: &str) -> BucketResult<Place> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Place::find("bucket", options, None, &variable, config)
    }

    #[test]
    fn without_an_endpoint_it_is_aws() {
        let place = find(Options::default(), &[], "").unwrap();
        assert_eq!(place.endpoint, "https://s3.us-east-1.amazonaws.com");
        assert!(!place.path_style);
        let place = find(Options::default(), &[("AWS_REGION", "cn-north-1")], "").unwrap();
        assert_eq!(place.endpoint, "https://s3.cn-north-1.amazonaws.com.cn");
        let dots = Place::find("my.bucket", Options::default(), None, &|_| None, "").unwrap();
        assert!(dots.path_style, "no certificate covers two levels");
    }

    #[test]
    fn the_url_wins_over_the_environment_and_that_over_the_config_file() {
        let config = "[default]\nregion = from-default\n[profile work]\n# x\nregion=from-file\n\
                      endpoint_url = http://file:1\ns3 =\n  region = nested\n[other]\nregion=no\n";
        let environment = [
            ("AWS_REGION", "from-environment"),
            ("AWS_DEFAULT_REGION", "second"),
            ("AWS_ENDPOINT_URL_S3", "http://s3only:1"),
            ("AWS_ENDPOINT_URL", "http://all:1"),
        ];
        let url = Options {
            endpoint: Some("http://url:1"),
            region: Some("from-url"),
            profile: Some("work"),
        };
        let place = find(url, &environment, config).unwrap();
        assert_eq!(
            (place.region.as_str(), place.endpoint.as_str()),
            ("from-url", "http://url:1")
        );
        let place = find(Options::default(), &environment, config).unwrap();
        let found = (place.region.as_str(), place.endpoint.as_str());
        assert_eq!(found, ("from-environment", "http://s3only:1"));
        let place = find(Options::default(), &environment[1..2], config).unwrap();
        assert_eq!(place.region, "second");
        let place = find(Options::default(), &[("AWS_PROFILE", "work")], config).unwrap();
        assert_eq!(
            (place.region.as_str(), place.endpoint.as_str()),
            ("from-file", "http://file:1")
        );
        assert_eq!(
            find(Options::default(), &[], config).unwrap().region,
            "from-default"
        );
    }

    #[test]
    fn the_section_of_the_bucket_goes_between_url_and_environment() {
        let section = BucketSection {
            endpoint: Some("http://section:1".to_owned()),
            region: Some("from-section".to_owned()),
            path_style: Some(false),
            profile: Some("work".to_owned()),
            ..BucketSection::default()
        };
        let environment = |name: &str| match name {
            "AWS_REGION" => Some("from-environment".to_owned()),
            "AWS_ENDPOINT_URL" => Some("http://environment:1".to_owned()),
            _ => None,
        };
        let find = |options| Place::find("b", options, Some(&section), &environment, "").unwrap();
        let place = find(Options::default());
        let found = (place.region.as_str(), place.endpoint.as_str());
        assert_eq!(found, ("from-section", "http://section:1"));
        assert!(!place.path_style);
        let url = Options {
            endpoint: Some("http://url:1"),
            region: Some("from-url"),
            profile: None,
        };
        let place = find(url);
        let found = (place.region.as_str(), place.endpoint.as_str());
        assert_eq!(found, ("from-url", "http://url:1"));
    }

    #[test]
    fn endpoints_are_spelled_as_they_are_sent() {
        let spelled = |text| {
            find(
                Options {
                    endpoint: Some(text),
                    ..Options::default()
                },
                &[],
                "",
            )
        };
        for (text, expected) in [
            ("http://127.0.0.1:8333/", "http://127.0.0.1:8333"),
            ("https://Store.example:443", "https://store.example"),
            (
                "https://example.org/storage/s3/",
                "https://example.org/storage/s3",
            ),
            ("http://[::1]:9000", "http://[::1]:9000"),
        ] {
            let place = spelled(text).unwrap();
            assert_eq!(place.endpoint, expected);
            assert!(place.path_style);
        }
        for bad in [
            "localhost:9000",
            "ftp://x",
            "http://",
            "http://x?y=z",
            "http://Id:Hush@x",
        ] {
            let error = spelled(bad).unwrap_err();
            assert!(matches!(error, BucketError::Invalid { .. }), "{bad}");
            assert!(!error.to_string().contains("Hush"));
        }
        let bad_region = Options {
            region: Some("a b/c"),
            ..Options::default()
        };
        assert!(find(bad_region, &[], "").is_err());
    }
}
