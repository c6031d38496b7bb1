//! Keys from services of the machine's cloud: a container's, and an instance's (IMDSv2, and nothing older: without
//! its session token any program that can be talked into a GET would hand the keys out).

use super::{Keys, denied, none_found, service_failed};
use crate::bucket::s3::place::invalid;
use crate::bucket::{BucketError, BucketResult};
use crate::configuration::Secret;
use crate::inode::Timestamp;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Such a service is next door, or not there.
const CONNECT: Duration = Duration::from_secs(1);
const WHOLE: Duration = Duration::from_secs(5);
/// Lifetime of a session with the instance's service, in seconds.
const SESSION: &str = "300";
const INSTANCE: &str = "http://169.254.169.254";
const CONTAINER: &str = "http://169.254.170.2";
const ROLES: &str = "latest/meta-data/iam/security-credentials/";

/// A container's service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Container {
    url: Url,
    token: Option<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Is(Secret),
    File(PathBuf),
}

/// An instance's service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Instance {
    url: Url,
}

/// What both answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: Secret,
    token: Option<Secret>,
    expiration: Option<String>,
}

fn client() -> reqwest::Result<Client> {
    Client::builder()
        .connect_timeout(CONNECT)
        .timeout(WHOLE)
        .redirect(reqwest::redirect::Policy::none())
        // A proxy must not see the keys, and knows another "this machine".
        .no_proxy()
        .build()
}

/// What went wrong, in words that quote nothing.
pub(super) fn why(e: &reqwest::Error) -> &'static str {
    match () {
        () if e.is_timeout() => "no answer in time",
        () if e.is_connect() => "no connection",
        () => "the answer was cut short",
    }
}

async fn text(shown: &str, service: &str, request: RequestBuilder) -> BucketResult<String> {
    let found = text_if_there(shown, service, request).await?;
    found.ok_or_else(|| service_failed(shown, service, "it answered 404"))
}

/// The answer; `None` when the service says that there is none.
async fn text_if_there(
    shown: &str,
    service: &str,
    request: RequestBuilder,
) -> BucketResult<Option<String>> {
    let failed = |e: reqwest::Error| service_failed(shown, service, why(&e));
    let answer = request.send().await.map_err(failed)?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !answer.status().is_success() {
        let why = format!("it answered {}", answer.status().as_u16());
        return Err(service_failed(shown, service, &why));
    }
    answer.text().await.map(Some).map_err(failed)
}

fn keys(shown: &str, service: &str, text: &str) -> BucketResult<Keys> {
    // The parser's words may quote the answer.
    let answer: Answer = serde_json::from_str(text)
        .map_err(|_| service_failed(shown, service, "it answered no credentials"))?;
    let expires = match answer.expiration {
        None => None,
        Some(text) => Some(
            Timestamp::parse_rfc3339(&text)
                .ok_or_else(|| service_failed(shown, service, "the expiry it told is no time"))?,
        ),
    };
    Ok(Keys {
        id: answer.access_key_id,
        secret: answer.secret_access_key,
        token: answer.token,
        expires,
    })
}

impl Container {
    /// By the variables that containers are given.
    pub(super) fn find(
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> BucketResult<Option<Container>> {
        let url = if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            if !path.starts_with('/') || path.starts_with("//") {
                return Err(invalid("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is no path"));
            }
            format!("{CONTAINER}{path}")
        } else if let Some(url) = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            url
        } else {
            return Ok(None);
        };
        let no_url = || invalid("AWS_CONTAINER_CREDENTIALS_FULL_URI is no URL of this machine");
        let url = Url::parse(&url).map_err(|_| no_url())?;
        // Without TLS only to what is next door: else the token goes to whoever listens.
        let host = url.host_str().ok_or_else(no_url)?;
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let next_door = host == "localhost"
            || address.is_some_and(|ip| ip.is_loopback())
            || matches!(host, "169.254.170.2" | "169.254.170.23" | "[fd00:ec2::23]");
        if !(url.scheme() == "https" || url.scheme() == "http" && next_door) {
            return Err(no_url());
        }
        let file =
            variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(|f| Token::File(f.into()));
        let token = file.or_else(|| {
            let token = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")?;
            Some(Token::Is(Secret::new(token)))
        });
        Ok(Some(Container { url, token }))
    }

    pub(super) async fn keys(&self, shown: &str) -> BucketResult<Keys> {
        const SERVICE: &str = "the container's service";
        let client = client().map_err(|e| service_failed(shown, SERVICE, why(&e)))?;
        let mut request = client.get(self.url.clone());
        let token = match &self.token {
            None => None,
            Some(Token::Is(token)) => Some(token.clone()),
            // It is renewed there.
            Some(Token::File(file)) => {
                let text = std::fs::read_to_string(file).map_err(|e| {
                    denied(shown, format!("{} could not be read: {e}", file.display()))
                })?;
                Some(Secret::new(text.trim()))
            }
        };
        if let Some(token) = token {
            request = request.header("authorization", token.expose());
        }
        keys(shown, SERVICE, &text(shown, SERVICE, request).await?)
    }
}

impl Instance {
    /// At its usual address, or at `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub(super) fn find(variable: &dyn Fn(&str) -> Option<String>) -> BucketResult<Instance> {
        let said = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let mut text = said.unwrap_or_else(|| INSTANCE.to_owned());
        if !text.ends_with('/') {
            text.push('/');
        }
        let url = Url::parse(&text)
            .map_err(|_| invalid("AWS_EC2_METADATA_SERVICE_ENDPOINT is no URL"))?;
        Ok(Instance { url })
    }

    pub(super) async fn keys(&self, shown: &str) -> BucketResult<Keys> {
        const SERVICE: &str = "the instance's service";
        let failed = |e: reqwest::Error| service_failed(shown, SERVICE, why(&e));
        let client = client().map_err(failed)?;
        let at = |path: &str| {
            let url = self.url.join(path);
            url.map_err(|_| service_failed(shown, SERVICE, "it told a name that is none"))
        };
        let session = client
            .put(at("latest/api/token")?)
            .header("x-aws-ec2-metadata-token-ttl-seconds", SESSION)
            .header("content-length", "0");
        let session = match text(shown, SERVICE, session).await {
            Ok(session) => Secret::new(session.trim()),
            // Most machines are in no such cloud: then nothing was found, and nothing will pass.
            Err(BucketError::Unreachable { .. }) => return Err(none_found(shown)),
            Err(e) => return Err(e),
        };
        let get = |url: Url| {
            let request = client.get(url);
            request.header("x-aws-ec2-metadata-token", session.expose())
        };
        let roles = text_if_there(shown, SERVICE, get(at(ROLES)?)).await?;
        let roles = roles.unwrap_or_default();
        let role = roles.lines().next().unwrap_or_default().trim();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        if role.is_empty() || !role.bytes().all(plain) {
            return Err(denied(shown, "this instance has no role"));
        }
        let document = text(shown, SERVICE, get(at(&format!("{ROLES}{role}"))?)).await?;
        keys(shown, SERVICE, &document)
    }
}
