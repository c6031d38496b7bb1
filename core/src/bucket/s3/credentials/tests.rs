//! Against small services of the tests' own on loopback.

use super::*;
use crate::bucket::s3::runtime;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// A service: answers requests (head and body as one text) by a function.
struct Service {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

fn serve(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(&stream);
            let (mut request, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                request += &line;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            request += &String::from_utf8(body).unwrap();
            let (status, text) = answer(&request);
            log.lock().push(request);
            let length = text.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
            );
            // A client that went away is the test's business.
            let _ = (&stream).write_all(head.as_bytes());
        }
    });
    Service { url, asked }
}

/// Variables of a test.
fn variables(all: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let all: BTreeMap<String, String> = all
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    move |name| all.get(name).cloned()
}

fn find(section: Option<&BucketSection>, all: &[(&str, &str)]) -> BucketResult<Source> {
    let options = Options::default();
    Source::find("s3://b", options, section, "eu-1", &variables(all))
}

fn ask(source: Source) -> BucketResult<Keys> {
    runtime::wait(async move { source.keys("s3://b").await })
}

/// Everything an error shows.
fn told(e: &BucketError) -> String {
    format!("{e} {e:?}")
}

const DOCUMENT: &str = r#"{"Code":"Success","AccessKeyId":"ASIA1","SecretAccessKey":"Hush",
    "Token":"HushToken","Expiration":"2030-01-01T00:00:00Z"}"#;

#[test]
fn what_is_said_nearest_counts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    fs::write(
        &file,
        "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = Hush1\n\
         [work]\naws_access_key_id=WORK\naws_secret_access_key=Hush2\naws_session_token=Hush3\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let files = ("AWS_SHARED_CREDENTIALS_FILE", file);
    let keys = [
        ("AWS_ACCESS_KEY_ID", "ENVIRONMENT"),
        ("AWS_SECRET_ACCESS_KEY", "Hush4"),
    ];
    let id = |source: BucketResult<Source>| ask(source.unwrap()).unwrap().id;
    assert_eq!(id(find(None, &[files])), "DEFAULT");
    assert_eq!(id(find(None, &[files, ("AWS_PROFILE", "work")])), "WORK");
    let all = [files, ("AWS_PROFILE", "work"), keys[0], keys[1]];
    assert_eq!(id(find(None, &all)), "ENVIRONMENT");
    let section = BucketSection {
        access_key_id: Some("SECTION".to_owned()),
        secret_access_key: Some(Secret::new("Hush5")),
        ..BucketSection::default()
    };
    assert_eq!(id(find(Some(&section), &all)), "SECTION");
    let section = BucketSection {
        credentials_file: Some(file.into()),
        profile: Some("work".to_owned()),
        ..BucketSection::default()
    };
    assert_eq!(id(find(Some(&section), &keys)), "WORK");
    let of_url = Options {
        profile: Some("default"),
        ..Options::default()
    };
    let source = Source::find("s3://b", of_url, Some(&section), "eu-1", &variables(&all));
    assert_eq!(id(source), "DEFAULT");
}

#[test]
fn what_is_half_said_is_refused_and_shows_nothing() {
    let half = find(None, &[("AWS_ACCESS_KEY_ID", "Id")]).unwrap_err();
    assert!(
        told(&half).contains("AWS_SECRET_ACCESS_KEY is not"),
        "{half:?}"
    );
    let none = [("AWS_EC2_METADATA_DISABLED", "true")];
    assert!(told(&find(None, &none).unwrap_err()).contains("no credentials were found"));
    let absent = [
        ("AWS_PROFILE", "absent"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    assert!(told(&find(None, &absent).unwrap_err()).contains("absent"));
    let elsewhere = [(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://example.org/Hush",
    )];
    let error = find(None, &elsewhere).unwrap_err();
    assert!(!told(&error).contains("Hush"), "{error:?}");
}

#[test]
fn a_secret_in_a_file_of_its_own_must_be_private() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    fs::write(&file, "Hush\n").unwrap();
    let section = BucketSection {
        access_key_id: Some("Id".to_owned()),
        secret_access_key_file: Some(file.clone()),
        ..BucketSection::default()
    };
    let allow = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o644);
    let error = ask(find(Some(&section), &[]).unwrap()).unwrap_err();
    assert!(told(&error).contains("chmod 600"), "{error:?}");
    allow(0o600);
    let keys = ask(find(Some(&section), &[]).unwrap()).unwrap();
    assert_eq!((keys.id.as_str(), keys.secret.expose()), ("Id", "Hush"));
    assert!(!format!("{keys:?}").contains("Hush"));
    fs::write(&file, "Hush and more").unwrap();
    let error = ask(find(Some(&section), &[]).unwrap()).unwrap_err();
    assert!(!told(&error).contains("Hush"), "{error:?}");
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = request.split("\r\n");
    lines.find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// IMDSv2 as it is published: a session by a PUT that says its lifetime (1 to 21600 s), and nothing for who shows none.
/// A new session ends the one before. `document` of the role's keys is made for each that is asked for.
fn metadata_service(
    role: Option<&'static str>,
    document: impl Fn(usize) -> String + Send + 'static,
) -> Service {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let (sessions, documents) = (AtomicUsize::new(0), AtomicUsize::new(0));
    serve(move |request| {
        let line = request.lines().next().unwrap_or_default();
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
        if (method, path) == ("PUT", "/latest/api/token") {
            let lifetime = header(request, "x-aws-ec2-metadata-token-ttl-seconds");
            return match lifetime.and_then(|text| text.parse().ok()) {
                Some(1..=21600) if header(request, "x-forwarded-for").is_none() => {
                    let session = sessions.fetch_add(1, Ordering::SeqCst) + 1;
                    (200, format!("session-{session}"))
                }
                _ => (400, String::new()),
            };
        }
        let session = format!("session-{}", sessions.load(Ordering::SeqCst));
        if header(request, "x-aws-ec2-metadata-token") != Some(&session) {
            return (401, String::new());
        }
        match (method, path.strip_prefix(ROLES), role) {
            ("GET", Some(""), Some(role)) => (200, role.to_owned()),
            ("GET", Some(asked), Some(role)) if asked == role => {
                (200, document(documents.fetch_add(1, Ordering::SeqCst)))
            }
            _ => (404, String::new()),
        }
    })
}

/// A provider of what these variables say, with a clock of the test's own, and its keys' ids.
fn provider_at(
    variables: &[(&str, &str)],
) -> (Arc<Hand>, impl Fn() -> BucketResult<String> + use<>) {
    let clock = Arc::new(Hand::default());
    let source = find(None, variables).unwrap();
    let provider = Arc::new(Provider::with_clock(
        "s3://b",
        source,
        Arc::clone(&clock) as Arc<dyn ClockDebug>,
    ));
    let keys = move || {
        let provider = Arc::clone(&provider);
        runtime::wait(async move { provider.keys().await }).map(|keys| keys.id)
    };
    (clock, keys)
}

/// When the keys of the `n`th answer expire.
fn expiry(n: usize) -> String {
    Timestamp::from_parts(1000 * (n as i64 + 1), 0).to_rfc3339()
}

#[test]
fn an_instance_gives_keys_to_who_has_a_session() {
    let service = metadata_service(Some("my-role"), |_| DOCUMENT.to_owned());
    let at = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url.as_str())];
    let keys = ask(find(None, &at).unwrap()).unwrap();
    assert_eq!((keys.id.as_str(), keys.secret.expose()), ("ASIA1", "Hush"));
    assert_eq!(keys.token.unwrap().expose(), "HushToken");
    assert_eq!(
        keys.expires,
        Timestamp::parse_rfc3339("2030-01-01T00:00:00Z")
    );
    assert_eq!(service.asked.lock().len(), 3);
}

#[test]
fn keys_of_an_instance_are_renewed_with_a_session_of_their_own() {
    let service = metadata_service(Some("my-role"), |n| {
        let expires = expiry(n);
        format!(
            r#"{{"Code":"Success","LastUpdated":"1970-01-01T00:00:00Z","Type":"AWS-HMAC",
                "AccessKeyId":"K{n}","SecretAccessKey":"s","Token":"t","Expiration":"{expires}"}}"#
        )
    });
    let at = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url.as_str())];
    let (clock, keys) = provider_at(&at);
    assert_eq!(keys().unwrap(), "K0");
    clock.set(699);
    assert_eq!(keys().unwrap(), "K0");
    clock.set(700);
    assert_eq!(keys().unwrap(), "K1");
    assert_eq!(service.asked.lock().len(), 6);
}

#[test]
fn an_instance_without_a_role_or_whose_role_gives_nothing_is_told() {
    let service = metadata_service(None, |_| String::new());
    let at = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url.as_str())];
    let error = ask(find(None, &at).unwrap()).unwrap_err();
    assert!(matches!(error, BucketError::Denied { .. }));
    assert!(told(&error).contains("no role"), "{error:?}");
    // While its policy is looked up, say.
    let service = metadata_service(Some("my-role"), |_| {
        r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"Hush"}"#.to_owned()
    });
    let at = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url.as_str())];
    let error = ask(find(None, &at).unwrap()).unwrap_err();
    assert!(matches!(error, BucketError::Unreachable { .. }));
    assert!(!told(&error).contains("Hush"), "{error:?}");
}

#[test]
fn where_no_instance_service_is_nothing_was_found() {
    let service = serve(|_| (404, String::new()));
    let at = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url.as_str())];
    let error = ask(find(None, &at).unwrap()).unwrap_err();
    assert!(
        told(&error).contains("no credentials were found"),
        "{error:?}"
    );
}

#[test]
fn a_container_gives_keys_to_who_has_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "HushPass\n").unwrap();
    let service = serve(|request| match request {
        r if r.starts_with("GET /role ") && r.contains("authorization: HushPass\r\n") => {
            (200, DOCUMENT.to_owned())
        }
        _ => (403, "Hush".to_owned()),
    });
    let uri = format!("{}/role", service.url);
    let with = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            token.to_str().unwrap(),
        ),
    ];
    assert_eq!(ask(find(None, &with).unwrap()).unwrap().id, "ASIA1");
    let error = ask(find(None, &with[..1]).unwrap()).unwrap_err();
    assert!(matches!(error, BucketError::Unreachable { .. }));
    assert!(
        told(&error).contains("403") && !told(&error).contains("Hush"),
        "{error:?}"
    );
}

/// An STS as it is published: a form by POST, unsigned, whose token must be the one that `token` tells.
fn sts(token: impl Fn(usize) -> &'static str + Send + 'static) -> Service {
    let asked = AtomicUsize::new(0);
    serve(move |request| {
        let n = asked.fetch_add(1, Ordering::SeqCst);
        let (head, form) = request.split_once("\r\n").unwrap();
        let form = form.lines().last().unwrap_or_default();
        let form = reqwest::Url::parse(&format!("http://form/?{form}")).unwrap();
        let form: BTreeMap<_, _> = form.query_pairs().into_owned().collect();
        let field = |name: &str| form.get(name).map(String::as_str);
        let is_form = header(request, "content-type") == Some("application/x-www-form-urlencoded");
        if head != "POST / HTTP/1.1"
            || !is_form
            || header(request, "authorization").is_some()
            || field("Action") != Some("AssumeRoleWithWebIdentity")
            || field("Version") != Some("2011-06-15")
            || field("RoleArn") != Some("arn:aws:iam::1:role/r")
            || field("RoleSessionName") != Some("cbfs")
            || field("WebIdentityToken") != Some(token(n))
        {
            let code = match token(n) {
                "" => "IDPCommunicationError",
                _ => "InvalidIdentityToken",
            };
            let document = format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                 <Code>{code}</Code><Message>Hush</Message></Error><RequestId>x</RequestId></ErrorResponse>"
            );
            return (400, document);
        }
        let expires = expiry(n);
        let document = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
            <AssumeRoleWithWebIdentityResult><SubjectFromWebIdentityToken>s</SubjectFromWebIdentityToken>\
            <Audience>a</Audience><AssumedRoleUser><Arn>arn</Arn><AssumedRoleId>i:cbfs</AssumedRoleId>\
            </AssumedRoleUser><Credentials>\
            <SessionToken>HushSession</SessionToken><SecretAccessKey>Hush/+</SecretAccessKey>\
            <Expiration>{expires}</Expiration><AccessKeyId>ASIA{n}</AccessKeyId>\
            </Credentials><Provider>p</Provider></AssumeRoleWithWebIdentityResult>\
            <ResponseMetadata><RequestId>x</RequestId></ResponseMetadata>\
            </AssumeRoleWithWebIdentityResponse>"
        );
        (200, document)
    })
}

#[test]
fn a_web_identity_is_exchanged_anew_before_its_keys_expire_with_the_token_of_then() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let service = sts(|n| ["First", "", "Second", "Second"][n]);
    let with = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("AWS_ENDPOINT_URL_STS", service.url.as_str()),
    ];
    let (clock, keys) = provider_at(&with);
    fs::write(&file, "First").unwrap();
    assert_eq!(keys().unwrap(), "ASIA0");
    clock.set(699);
    assert_eq!(keys().unwrap(), "ASIA0");
    // Renewed by whoever gave it. The provider of identities is away for a moment: the keys are still good.
    fs::write(&file, "Second").unwrap();
    clock.set(700);
    assert_eq!(keys().unwrap(), "ASIA0");
    assert_eq!(keys().unwrap(), "ASIA2");
    assert_eq!(service.asked.lock().len(), 3);
}

#[test]
fn a_refusal_of_the_sts_that_passes_is_told_from_one_that_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "First").unwrap();
    let service = sts(|n| ["", "Another"][n]);
    let with = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("AWS_ENDPOINT_URL_STS", service.url.as_str()),
    ];
    let error = ask(find(None, &with).unwrap()).unwrap_err();
    assert!(matches!(error, BucketError::Unreachable { .. }));
    assert!(told(&error).contains("IDPCommunicationError"), "{error:?}");
    let error = ask(find(None, &with).unwrap()).unwrap_err();
    assert!(matches!(error, BucketError::Denied { .. }));
    assert!(!told(&error).contains("Hush"), "{error:?}");
}

#[test]
fn a_web_identity_is_exchanged_for_keys() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "Hush.Token+/=\n").unwrap();
    let service = sts(|_| "Hush.Token+/=");
    let with = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("AWS_ENDPOINT_URL_STS", service.url.as_str()),
    ];
    let keys = ask(find(None, &with).unwrap()).unwrap();
    assert_eq!(
        (keys.id.as_str(), keys.secret.expose()),
        ("ASIA0", "Hush/+")
    );
    assert_eq!(keys.token.unwrap().expose(), "HushSession");

    // The same by a profile; and a refusal tells its code only.
    let config = dir.path().join("config");
    let role = format!(
        "[profile work]\nrole_arn = arn:other\nweb_identity_token_file = {}\n",
        token.display()
    );
    fs::write(&config, role).unwrap();
    let with = [
        ("AWS_PROFILE", "work"),
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_STS", service.url.as_str()),
    ];
    let error = ask(find(None, &with).unwrap()).unwrap_err();
    assert!(matches!(error, BucketError::Denied { .. }));
    let told = told(&error);
    assert!(
        told.contains("InvalidIdentityToken") && !told.contains("Hush"),
        "{told}"
    );
}

/// A clock that the test sets, in seconds.
#[derive(Debug, Default)]
struct Hand(AtomicI64);

impl Hand {
    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_parts(self.0.load(Ordering::SeqCst), 0)
    }
}

#[test]
fn keys_are_renewed_before_they_expire_and_after_a_refusal() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let service = serve(move |_| {
        let n = counter.fetch_add(1, Ordering::SeqCst);
        if n == 2 {
            return (500, String::new());
        }
        let expires = expiry(n);
        (
            200,
            format!(r#"{{"AccessKeyId":"K{n}","SecretAccessKey":"s","Expiration":"{expires}"}}"#),
        )
    });
    let uri = format!("{}/role", service.url);
    let with = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())];
    let clock = Arc::new(Hand::default());
    let source = find(None, &with).unwrap();
    let provider =
        Provider::with_clock("s3://b", source, Arc::clone(&clock) as Arc<dyn ClockDebug>);
    let provider = Arc::new(provider);
    let keys = || {
        let provider = Arc::clone(&provider);
        runtime::wait(async move { provider.keys().await }).map(|k| k.id)
    };
    let at = |seconds| clock.set(seconds);
    assert_eq!(keys().unwrap(), "K0");
    at(699);
    assert_eq!(keys().unwrap(), "K0", "good for five minutes more");
    at(700);
    assert_eq!(keys().unwrap(), "K1");
    // The service fails while they are still good.
    at(1800);
    assert_eq!(keys().unwrap(), "K1");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(keys().unwrap(), "K3");
    // Refused: others are asked for once, however many were refused.
    let renew = |id: &str| {
        let provider = Arc::clone(&provider);
        let old = Keys {
            id: id.to_owned(),
            secret: Secret::new("s"),
            token: None,
            expires: Some(Timestamp::from_parts(4000, 0)),
        };
        runtime::wait(async move { Ok(provider.renew(&old).await) }).unwrap()
    };
    assert!(renew("K3"));
    assert!(renew("K3"));
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    assert_eq!(keys().unwrap(), "K4");
    // Keys that stay are not asked for twice in vain.
    let fixed = [("AWS_ACCESS_KEY_ID", "Id"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let provider = Arc::new(Provider::new("s3://b", find(None, &fixed).unwrap()));
    let changed = runtime::wait(async move {
        let keys = provider.keys().await?;
        Ok(provider.renew(&keys).await)
    });
    assert!(!changed.unwrap());
}
