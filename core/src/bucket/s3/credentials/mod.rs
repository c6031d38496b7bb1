//! Who we are at a store: keys, where they come from, and their renewal.
//!
//! The first of these that is said counts: the URL's `profile`; the bucket's section of `cbfsd.toml` (keys, or a
//! profile); `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`); `AWS_PROFILE`; the default
//! profile; web identity; container; instance metadata.
//!
//! What may change (files, services) is asked again five minutes before the keys expire, and after the store
//! refused them: keys that were renewed in a file need no restart. rust-s3's own chain is not used: it asks the
//! global STS only, reads no config file, and blocks without a deadline of ours.
//!
//! Keys never leave this folder but in signatures.

mod profile;
mod service;
mod web_identity;

pub(super) use profile::{read, setting};

use super::place::{Options, invalid, variable};
use crate::bucket::{BucketError, BucketResult};
use crate::clock::{Clock, System};
use crate::configuration::{BucketSection, Secret};
use crate::inode::Timestamp;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys are renewed so long before they expire, in seconds.
const BEFORE_EXPIRY: i64 = 300;

/// Keys that sign requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
    /// When the store stops to take them, if they are temporary.
    pub(super) expires: Option<Timestamp>,
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// From `cbfsd.toml` or the environment: they stay.
    Fixed(Keys),
    /// From `cbfsd.toml`, with the secret in a file of its own.
    SecretFile {
        id: String,
        file: PathBuf,
        token: Option<Secret>,
    },
    /// A profile of the AWS files.
    Profile(profile::Profile),
    /// A token of this machine's or container's identity, exchanged at the STS.
    WebIdentity(web_identity::WebIdentity),
    /// The container's service.
    Container(service::Container),
    /// The instance's service: only found out when it is asked.
    Instance(service::Instance),
}

/// An error that tells why there are no keys. `shown` is the bucket.
fn denied(shown: &str, why: impl Into<String>) -> BucketError {
    BucketError::Denied {
        what: shown.to_owned(),
        source: Some(io::Error::new(io::ErrorKind::PermissionDenied, why.into())),
    }
}

/// A service that hands out keys did not: may pass. The cause is told in our words: the service's may quote
/// the request, with its token.
pub(super) fn service_failed(shown: &str, service: &str, why: &str) -> BucketError {
    BucketError::Unreachable {
        what: format!("{shown}: no credentials could be had from {service}: {why}"),
        source: None,
    }
}

impl Source {
    /// Where the keys for a bucket come from. Nothing is asked but files.
    pub(super) fn find(
        shown: &str,
        options: Options<'_>,
        section: Option<&BucketSection>,
        region: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> BucketResult<Source> {
        let files = profile::Files::of(section, variable);
        let profile = |name: &str| {
            let named = profile::Profile::new(name, files.clone());
            // A name that was given must exist; what it says is read now, to be told early.
            named.keys_or_web_identity(shown, region, variable)
        };
        if let Some(name) = options.profile {
            return profile(name);
        }
        if let Some(section) = section {
            if let Some(id) = &section.access_key_id {
                let (id, token) = (id.clone(), section.session_token.clone());
                return Ok(
                    match (&section.secret_access_key, &section.secret_access_key_file) {
                        (Some(secret), _) => Source::Fixed(Keys {
                            id,
                            secret: secret.clone(),
                            token,
                            expires: None,
                        }),
                        (None, Some(file)) => Source::SecretFile {
                            id,
                            file: file.clone(),
                            token,
                        },
                        (None, None) => return Err(invalid("access_key_id without a secret")),
                    },
                );
            }
            if section.profile.is_some() || section.credentials_file.is_some() {
                return profile(section.profile.as_deref().unwrap_or("default"));
            }
        }
        if let Some(id) = variable("AWS_ACCESS_KEY_ID") {
            let secret = variable("AWS_SECRET_ACCESS_KEY").ok_or_else(|| {
                denied(
                    shown,
                    "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not",
                )
            })?;
            return Ok(Source::Fixed(Keys {
                id,
                secret: Secret::new(secret),
                token: variable("AWS_SESSION_TOKEN").map(Secret::new),
                expires: None,
            }));
        }
        if let Some(name) = variable("AWS_PROFILE") {
            return profile(&name);
        }
        let default = profile::Profile::new("default", files.clone());
        if default.exists() {
            return default.keys_or_web_identity(shown, region, variable);
        }
        if let Some(identity) = web_identity::WebIdentity::of_environment(region, variable) {
            return Ok(Source::WebIdentity(identity));
        }
        if let Some(container) = service::Container::find(variable)? {
            return Ok(Source::Container(container));
        }
        if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
            return Err(none_found(shown));
        }
        Ok(Source::Instance(service::Instance::find(variable)?))
    }

    /// Ask for keys.
    async fn keys(&self, shown: &str) -> BucketResult<Keys> {
        match self {
            Source::Fixed(keys) => Ok(keys.clone()),
            Source::SecretFile { id, file, token } => Ok(Keys {
                id: id.clone(),
                secret: read_secret(shown, file)?,
                token: token.clone(),
                expires: None,
            }),
            Source::Profile(profile) => profile.keys(shown),
            Source::WebIdentity(identity) => identity.keys(shown).await,
            Source::Container(container) => container.keys(shown).await,
            Source::Instance(instance) => instance.keys(shown).await,
        }
    }
}

fn none_found(shown: &str) -> BucketError {
    denied(
        shown,
        "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or say \
         them in cbfsd.toml",
    )
}

/// The secret in a file that holds nothing else.
fn read_secret(shown: &str, file: &Path) -> BucketResult<Secret> {
    let unreadable =
        |e: io::Error| denied(shown, format!("{} could not be read: {e}", file.display()));
    let mode = std::fs::metadata(file)
        .map_err(unreadable)?
        .permissions()
        .mode();
    if mode & 0o006 != 0 {
        let why = format!(
            "{} holds a secret, and everybody may read or change it: chmod 600 it",
            file.display()
        );
        return Err(denied(shown, why));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let text = text.trim();
    if text.is_empty() || text.contains(char::is_whitespace) {
        let why = format!("{} must hold one secret, and nothing else", file.display());
        return Err(denied(shown, why));
    }
    Ok(Secret::new(text))
}

/// Keys as they are now, and their source.
#[derive(Debug)]
pub(super) struct Provider {
    shown: String,
    source: Source,
    clock: Arc<dyn ClockDebug>,
    now: tokio::sync::Mutex<Option<Keys>>,
}

/// A clock that can be part of something with `Debug`.
pub(super) trait ClockDebug: Clock + std::fmt::Debug {}
impl<T: Clock + std::fmt::Debug> ClockDebug for T {}

impl Provider {
    /// Nothing is asked yet.
    pub(super) fn new(shown: &str, source: Source) -> Provider {
        Provider::with_clock(shown, source, Arc::new(System))
    }

    fn with_clock(shown: &str, source: Source, clock: Arc<dyn ClockDebug>) -> Provider {
        Provider {
            shown: shown.to_owned(),
            source,
            clock,
            now: tokio::sync::Mutex::default(),
        }
    }

    /// Keys that are good for some minutes. Who comes while others ask waits for their answer.
    pub(super) async fn keys(&self) -> BucketResult<Keys> {
        let mut now = self.now.lock().await;
        let left = |keys: &Keys| {
            let expires = keys.expires?;
            Some(expires.secs() - self.clock.now().secs())
        };
        match &*now {
            Some(keys) if left(keys).is_none_or(|left| left > BEFORE_EXPIRY) => Ok(keys.clone()),
            Some(keys) => match self.source.keys(&self.shown).await {
                Ok(new) => Ok(now.insert(new).clone()),
                Err(e) if left(keys).is_some_and(|left| left > 0) => {
                    tracing::warn!("the credentials expire soon, and are not renewed: {e}");
                    Ok(keys.clone())
                }
                Err(e) => Err(e),
            },
            None => Ok(now.insert(self.source.keys(&self.shown).await?).clone()),
        }
    }

    /// The store refused `old`: ask anew, unless somebody has. Tells whether there are others now.
    pub(super) async fn renew(&self, old: &Keys) -> bool {
        let mut now = self.now.lock().await;
        if now.as_ref().is_some_and(|keys| keys != old) {
            return true;
        }
        match self.source.keys(&self.shown).await {
            Ok(new) => {
                let is_other = new != *old;
                *now = Some(new);
                is_other
            }
            Err(e) => {
                tracing::warn!(
                    "the store refused the credentials, and no others could be had: {e}"
                );
                false
            }
        }
    }
}

/// The provider for a bucket, by its URL's options, `cbfsd.toml` and this process's environment.
pub(super) fn provider(
    shown: &str,
    options: Options<'_>,
    section: Option<&BucketSection>,
    region: &str,
) -> BucketResult<Provider> {
    let source = Source::find(shown, options, section, region, &variable)?;
    Ok(Provider::new(shown, source))
}

#[cfg(test)]
mod tests;
