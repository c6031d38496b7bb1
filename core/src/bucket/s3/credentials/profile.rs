//! The AWS files: `credentials` (`[name]`) and `config` (`[profile name]`, `[default]`).

use super::web_identity::WebIdentity;
use super::{Keys, Source, denied};
use crate::bucket::BucketResult;
use crate::configuration::{BucketSection, Secret};
use std::io;
use std::path::{Path, PathBuf};

/// Where the two files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Files {
    pub(super) fn of(
        section: Option<&BucketSection>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Files {
        let home = |name: &str| Some(PathBuf::from(variable("HOME")?).join(".aws").join(name));
        let path = |name: &str| variable(name).map(PathBuf::from);
        let said = section.and_then(|s| s.credentials_file.clone());
        Files {
            credentials: said
                .or_else(|| path("AWS_SHARED_CREDENTIALS_FILE"))
                .or_else(|| home("credentials")),
            config: path("AWS_CONFIG_FILE").or_else(|| home("config")),
        }
    }
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Profile {
    name: String,
    files: Files,
}

/// What a profile can say of credentials.
const ID: &str = "aws_access_key_id";
const SECRET: &str = "aws_secret_access_key";
const TOKEN: &str = "aws_session_token";
const ROLE: &str = "role_arn";
const TOKEN_FILE: &str = "web_identity_token_file";

impl Profile {
    pub(super) fn new(name: &str, files: Files) -> Profile {
        Profile {
            name: name.to_owned(),
            files,
        }
    }

    /// A setting: the credentials file goes first.
    fn setting(&self, name: &str) -> Option<String> {
        let of = |file: &Option<PathBuf>, is_config| {
            let text = read(file.as_deref()?)?;
            setting(&text, &self.name, is_config, name)
        };
        of(&self.files.credentials, false).or_else(|| of(&self.files.config, true))
    }

    /// Whether it says anything of credentials.
    pub(super) fn exists(&self) -> bool {
        [ID, ROLE].iter().any(|name| self.setting(name).is_some())
    }

    /// What it says as a source.
    pub(super) fn keys_or_web_identity(
        &self,
        shown: &str,
        region: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> BucketResult<Source> {
        if self.setting(ID).is_none()
            && let (Some(role), Some(file)) = (self.setting(ROLE), self.setting(TOKEN_FILE))
        {
            let identity = WebIdentity::new(role, file.into(), region, variable);
            return Ok(Source::WebIdentity(identity));
        }
        self.keys(shown)?;
        Ok(Source::Profile(self.clone()))
    }

    pub(super) fn keys(&self, shown: &str) -> BucketResult<Keys> {
        match (self.setting(ID), self.setting(SECRET)) {
            (Some(id), Some(secret)) => Ok(Keys {
                id,
                secret: Secret::new(secret),
                token: self.setting(TOKEN).map(Secret::new),
                expires: None,
            }),
            _ => Err(denied(
                shown,
                format!(
                    "the profile {:?} has no keys in the AWS credentials file (role_arn is followed with \
                     web_identity_token_file only; credential_process and SSO are not)",
                    self.name
                ),
            )),
        }
    }
}

/// The text of a file; none where there is none.
pub(in super::super) fn read(path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!("{} is not used: {e}", path.display());
            }
            None
        }
    }
}

/// A setting of a profile. Nested settings (indented lines) are skipped.
pub(in super::super) fn setting(
    text: &str,
    profile: &str,
    is_config: bool,
    name: &str,
) -> Option<String> {
    let mut is_ours = false;
    for line in text.lines() {
        let section = line.trim_end().strip_prefix('[');
        if let Some(section) = section.and_then(|l| l.strip_suffix(']')) {
            let section = section.trim();
            let named = match section.strip_prefix("profile") {
                Some(rest) if is_config && rest.starts_with(char::is_whitespace) => rest.trim(),
                _ if is_config && section != "default" => "",
                _ => section,
            };
            is_ours = named == profile;
        } else if is_ours
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = line.split_once('=')
            && key.trim().eq_ignore_ascii_case(name)
        {
            return Some(value.trim().to_owned()).filter(|v| !v.is_empty());
        }
    }
    None
}
