//! Keys for a token of this machine's or container's identity: `AssumeRoleWithWebIdentity` of the STS
//! (<https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>).

use super::service::why;
use super::{Keys, denied, service_failed};
use crate::bucket::BucketResult;
use crate::bucket::s3::answer::element;
use crate::configuration::Secret;
use crate::inode::Timestamp;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

const SERVICE: &str = "the STS (web identity)";
const WHOLE: Duration = Duration::from_secs(20);
const SESSION_NAME: &str = "cbfs";
/// Refusals that pass: the identity's provider did not answer the STS, or it was asked too often.
const PASSING: [&str; 3] = ["IDPCommunicationError", "Throttling", "RequestThrottled"];

/// A role, and the token that shows that we may take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct WebIdentity {
    role: String,
    session: String,
    token_file: PathBuf,
    endpoint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    assume_role_with_web_identity_result: Result,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Result {
    credentials: Credentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Secret,
    expiration: String,
}

impl WebIdentity {
    pub(super) fn new(
        role: String,
        token_file: PathBuf,
        region: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> WebIdentity {
        let endpoint = variable("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| {
            let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
            format!("https://sts.{region}.amazonaws.com{suffix}/")
        });
        let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.to_owned());
        WebIdentity {
            role,
            session,
            token_file,
            endpoint,
        }
    }

    /// By the variables that clusters give their containers.
    pub(super) fn of_environment(
        region: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Option<WebIdentity> {
        let file = variable("AWS_WEB_IDENTITY_TOKEN_FILE")?;
        let role = variable("AWS_ROLE_ARN")?;
        Some(WebIdentity::new(role, file.into(), region, variable))
    }

    pub(super) async fn keys(&self, shown: &str) -> BucketResult<Keys> {
        let failed = |why: &str| service_failed(shown, SERVICE, why);
        // Renewed by whoever gave it: read each time.
        let token = std::fs::read_to_string(&self.token_file).map_err(|e| {
            let why = format!("{} could not be read: {e}", self.token_file.display());
            denied(shown, why)
        })?;
        let client = reqwest::Client::builder()
            .timeout(WHOLE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| failed(why(&e)))?;
        let mut body = reqwest::Url::parse("http://form/").map_err(|_| failed("no form"))?;
        body.query_pairs_mut()
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", &self.role)
            .append_pair("RoleSessionName", &self.session)
            .append_pair("WebIdentityToken", token.trim());
        let answer = client
            .post(&self.endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.query().unwrap_or_default().to_owned())
            .send()
            .await
            .map_err(|e| failed(why(&e)))?;
        let status = answer.status();
        let document = answer.text().await.map_err(|e| failed(why(&e)))?;
        if status.is_client_error() {
            let code = element(&document, "Code").unwrap_or_default();
            if PASSING.contains(&code.as_str()) {
                return Err(failed(&format!("it answered {} {code}", status.as_u16())));
            }
            let why = format!("the STS answered {} {code}", status.as_u16());
            return Err(denied(shown, why.trim_end().to_owned()));
        }
        if !status.is_success() {
            return Err(failed(&format!("it answered {}", status.as_u16())));
        }
        let no_credentials = || failed("it answered no credentials");
        let response: Response =
            quick_xml::de::from_str(&document).map_err(|_| no_credentials())?;
        let told = response.assume_role_with_web_identity_result.credentials;
        let expires = Timestamp::parse_rfc3339(&told.expiration).ok_or_else(no_credentials)?;
        Ok(Keys {
            id: told.access_key_id,
            secret: told.secret_access_key,
            token: Some(told.session_token),
            expires: Some(expires),
        })
    }
}
