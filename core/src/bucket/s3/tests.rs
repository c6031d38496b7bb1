//! Against a server that answers what the test says: what no honest store does.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A server with one answer per connection.
struct Server {
    url: String,
    requests: Receiver<String>,
}

/// Read one request; its head, with the body behind it.
fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    // A client that gives up cuts its body short.
    let _ = reader.read_exact(&mut body);
    head
}

fn serve(answers: Vec<String>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            sender.send(read_request(&stream)).unwrap();
            if answer.is_empty() {
                // Silence, until the client hangs up.
                let _ = stream.read(&mut [0; 1]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Server { url, requests }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

fn refusal(status: &str, code: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told</Message>\
         <AWSAccessKeyId>AKIDHUSH</AWSAccessKeyId><StringToSign>SECRETHUSH</StringToSign></Error>"
    );
    answer(status, "", &body)
}

fn bucket(server: &Server) -> S3Bucket {
    let options = Options {
        endpoint: Some(&server.url),
        ..Options::default()
    };
    let place = Place::find("b", options, None, &|_| None, "").unwrap();
    let keys = credentials::Keys {
        id: "AKIDHUSH".to_owned(),
        secret: configuration::Secret::new("SECRETHUSH"),
        token: None,
        expires: None,
    };
    let provider = credentials::Provider::new("s3://b", credentials::Source::Fixed(keys));
    let deadlines = Deadlines {
        silence: Duration::from_millis(300),
        ..Deadlines::default()
    };
    let settings = Settings {
        deadlines,
        authorities: None,
        limiter: None,
        counters: Arc::default(),
    };
    let client = Client::new("b", "p", place, provider, settings).unwrap();
    S3Bucket {
        url: "s3://b/p".parse().unwrap(),
        read_only: false,
        client: Arc::new(client),
        limits: Limits {
            one_put: 1 << 20,
            part: 1 << 20,
            parallel: 4,
        },
    }
}

fn key() -> Key {
    Key::new("k").unwrap()
}

/// An error's words and those of its cause.
fn told(error: &BucketError) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[test]
fn a_store_that_ignores_ranges_is_found_out() {
    let server = serve(vec![answer("200 OK", "", "0123456789")]);
    let error = bucket(&server).get_range(&key(), 2, 3).unwrap_err();
    assert!(
        matches!(error, BucketError::Unsupported { .. }),
        "{error:?}"
    );
    let request = server.requests.recv().unwrap().to_ascii_lowercase();
    assert!(request.contains("range: bytes=2-4\r\n"), "{request}");
    assert!(request.starts_with("get /b/p/k http/1.1"), "{request}");
}

#[test]
fn a_part_other_than_asked_for_is_no_answer() {
    let part = |range: &str, body: &str| {
        answer(
            "206 Partial Content",
            &format!("content-range: bytes {range}\r\n"),
            body,
        )
    };
    let server = serve(vec![
        part("3-5/10", "345"),
        part("2-3/4", "23"),
        answer("206 Partial Content", "", "234"),
        part("2-4/10", "234"),
    ]);
    let bucket = bucket(&server);
    let range = || bucket.get_range(&key(), 2, 3);
    assert!(
        matches!(range(), Err(BucketError::Io { .. })),
        "other bytes"
    );
    assert!(
        matches!(range(), Err(BucketError::Damaged { .. })),
        "the object is shorter"
    );
    assert!(
        matches!(range(), Err(BucketError::Io { .. })),
        "which bytes?"
    );
    assert_eq!(range().unwrap(), b"234");
}

#[test]
fn a_body_that_is_cut_short_is_a_passing_failure() {
    let cut = answer("200 OK", "", "0123456789").replace("length: 10", "length: 11");
    let server = serve(vec![cut]);
    let error = bucket(&server).get(&key()).unwrap_err();
    assert!(
        matches!(error, BucketError::Io { .. }) && error.is_transient(),
        "{error:?}"
    );
}

#[test]
fn a_silent_store_is_unreachable_after_the_deadline() {
    let server = serve(vec![String::new()]);
    let error = bucket(&server).get(&key()).unwrap_err();
    assert!(
        matches!(error, BucketError::Unreachable { .. }) && error.is_transient(),
        "{error:?}"
    );
}

#[test]
fn no_listener_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (_, requests) = channel();
    let server = Server {
        url: format!("http://127.0.0.1:{port}"),
        requests,
    };
    let error = bucket(&server).get(&key()).unwrap_err();
    assert!(
        matches!(error, BucketError::Unreachable { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert!(told(&error).contains("refused"), "{}", told(&error));
}

#[test]
fn an_absent_bucket_or_a_stray_web_server_does_not_look_like_an_absent_object() {
    let absent = answer("404 Not Found", "", "");
    let server = serve(vec![
        absent.clone(),
        refusal("404 Not Found", "NoSuchKey"),
        absent.clone(),
        refusal("404 Not Found", "NoSuchBucket"),
        absent,
        answer("404 Not Found", "", "<html>nginx</html>"),
        answer("404 Not Found", "", "<html>nginx</html>"),
    ]);
    let bucket = bucket(&server);
    assert_eq!(bucket.head(&key()).unwrap(), None);
    for _ in 0..2 {
        let error = bucket.head(&key()).unwrap_err();
        assert!(
            matches!(error, BucketError::Unreachable { .. }),
            "{error:?}"
        );
    }
    assert!(matches!(
        bucket.list(""),
        Err(BucketError::Unreachable { .. })
    ));
}

#[test]
fn no_error_holds_credentials_or_the_stores_own_words() {
    let elsewhere = answer(
        "307 Temporary Redirect",
        "location: http://127.0.0.1:1/x\r\n",
        "",
    );
    let server = serve(vec![
        refusal("403 Forbidden", "SignatureDoesNotMatch"),
        refusal("403 Forbidden", "InvalidAccessKeyId"),
        refusal("503 Slow Down", "SlowDown"),
        refusal("400 Bad Request", "<b>SECRETHUSH</b>"),
        elsewhere,
    ]);
    let bucket = bucket(&server);
    let file = tempfile::NamedTempFile::new().unwrap();
    for _ in 0..5 {
        let error = bucket.create(&key(), Body::File(file.path())).unwrap_err();
        let words = format!("{} {error:?}", told(&error));
        for hushed in ["AKIDHUSH", "SECRETHUSH", "Signature=", "X-Amz", "told"] {
            assert!(!words.contains(hushed), "{words}");
        }
    }
    assert!(!format!("{bucket:?}").contains("HUSH"));
}

#[test]
fn a_store_says_how_long_to_wait_in_seconds_or_by_a_date() {
    for says in [
        "retry-after: 7",
        "date: Fri, 06 Nov 2037 08:49:30 GMT\r\nretry-after: Fri, 06 Nov 2037 08:49:37 GMT",
    ] {
        let says = format!("\r\n{says}\r\nconn");
        let busy = refusal("503 Slow Down", "SlowDown").replace("\r\nconn", &says);
        let server = serve(vec![busy]);
        let error = bucket(&server).get(&key()).unwrap_err();
        let seven = Some(Duration::from_secs(7));
        assert!(matches!(error, BucketError::Busy { retry_after, .. } if retry_after == seven));
    }
}

#[test]
fn every_creation_forbids_to_overwrite() {
    let part = answer("200 OK", "etag: \"e\"\r\n", "");
    let begun = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>p/k</Key>\
                 <UploadId>id</UploadId></InitiateMultipartUploadResult>";
    let done = "<CompleteMultipartUploadResult><Key>p/k</Key></CompleteMultipartUploadResult>";
    let server = serve(vec![
        answer("200 OK", "", ""),
        answer("200 OK", "", ""),
        answer("200 OK", "", begun),
        part.clone(),
        part,
        answer("200 OK", "", done),
    ]);
    let bucket = bucket(&server);
    let condition = |requests: usize| {
        let last = server
            .requests
            .iter()
            .nth(requests - 1)
            .unwrap()
            .to_ascii_lowercase();
        assert!(last.contains("if-none-match: *\r\n"), "{last}");
        last
    };
    bucket.create(&key(), Body::Bytes(b"x")).unwrap();
    condition(1);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    bucket.create(&key(), Body::File(file.path())).unwrap();
    assert!(condition(1).contains("content-length: 1048576\r\n"));
    file.as_file().set_len((1 << 20) + 1).unwrap();
    bucket.create(&key(), Body::File(file.path())).unwrap();
    assert!(condition(4).starts_with("post /b/p/k?uploadid=id"));
}

#[test]
fn an_upload_that_fails_at_its_end_is_aborted_and_told() {
    let begun = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>p/k</Key>\
                 <UploadId>id</UploadId></InitiateMultipartUploadResult>";
    let part = answer("200 OK", "etag: \"e\"\r\n", "");
    let mut answers = Vec::new();
    // The status says success, the document does not.
    for code in ["InternalError", "PreconditionFailed"] {
        let failed = answer("200 OK", "", &format!("<Error><Code>{code}</Code></Error>"));
        let aborted = answer("204 No Content", "", "");
        answers.extend([
            answer("200 OK", "", begun),
            part.clone(),
            part.clone(),
            failed,
            aborted,
        ]);
    }
    let server = serve(answers);
    let bucket = bucket(&server);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    let create = || bucket.create(&key(), Body::File(file.path())).unwrap_err();
    let aborted = || {
        let last = server.requests.iter().nth(4).unwrap();
        assert!(last.starts_with("DELETE /b/p/k?uploadId=id"), "{last}");
    };
    let error = create();
    assert!(matches!(error, BucketError::Busy { .. }), "{error:?}");
    aborted();
    let error = create();
    assert!(
        matches!(error, BucketError::AlreadyExists { .. }),
        "{error:?}"
    );
    aborted();
}

#[test]
fn a_listing_that_runs_in_a_circle_ends() {
    let page = "<ListBucketResult><Name>b</Name><Prefix>p/</Prefix><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>t</NextContinuationToken><Contents><Key>p/k</Key><Size>3</Size>\
        <LastModified>2024-01-02T03:04:05.000Z</LastModified><ETag>&quot;e&quot;</ETag></Contents>\
        <Contents><Key>p/not a key</Key><Size>3</Size><LastModified>x</LastModified></Contents>\
        </ListBucketResult>";
    let last = page.replace(">true<", ">false<");
    let server = serve(vec![
        answer("200 OK", "", page),
        answer("200 OK", "", page),
        answer("200 OK", "", page),
        answer("200 OK", "", &last),
    ]);
    let bucket = bucket(&server);
    assert!(matches!(bucket.list(""), Err(BucketError::Io { .. })));
    let objects = bucket.list("").unwrap();
    assert_eq!(
        objects.len(),
        1,
        "every object once, and no foreign names: {objects:?}"
    );
    assert_eq!((objects[0].key.as_str(), objects[0].size), ("k", 3));
    assert_eq!(objects[0].modified.to_rfc3339(), "2024-01-02T03:04:05Z");
}

#[test]
fn a_bucket_opened_read_only_sends_nothing() {
    let server = serve(vec![]);
    let mut bucket = bucket(&server);
    bucket.read_only = true;
    for result in [
        bucket.create(&key(), Body::Bytes(b"x")),
        bucket.replace(&key(), b"x"),
        bucket.delete(&key()),
    ] {
        assert!(
            matches!(result, Err(BucketError::Denied { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn callers_may_be_threads_of_another_runtime() {
    let server = serve(vec![answer("200 OK", "", "hello")]);
    let bucket = bucket(&server);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let got = runtime.block_on(async { bucket.get(&key()) });
    assert_eq!(got.unwrap(), b"hello");
}

/// Answers to the beginning of an upload, to each of its parts and to its end.
const BEGUN: &str = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>p/k</Key>\
    <UploadId>id</UploadId></InitiateMultipartUploadResult>";
const COMPLETE: &str =
    "<CompleteMultipartUploadResult><Key>p/k</Key></CompleteMultipartUploadResult>";

fn part_answer(etag: &str) -> String {
    answer("200 OK", &format!("etag: \"{etag}\"\r\n"), "")
}

/// A file of three parts, and a place for notes.
fn three_parts() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (file, notes) = (dir.path().join("file"), dir.path().join("uploads/notes"));
    let mut bytes = vec![1; 1 << 20];
    bytes.extend(vec![2; 1 << 20]);
    bytes.extend(vec![3; 1000]);
    std::fs::write(&file, bytes).unwrap();
    (dir, file, notes)
}

/// One part at a time: the order of requests is certain.
fn one_at_a_time(server: &Server) -> S3Bucket {
    let mut bucket = bucket(server);
    bucket.limits.parallel = 1;
    bucket
}

#[test]
fn an_upload_that_was_cut_short_goes_on_behind_its_parts() {
    let (_dir, file, notes) = three_parts();
    let first = serve(vec![
        answer("200 OK", "", BEGUN),
        part_answer("one"),
        refusal("403 Forbidden", "AccessDenied"),
    ]);
    let error = one_at_a_time(&first)
        .create_resumably(&key(), &file, &notes)
        .unwrap_err();
    assert!(matches!(error, BucketError::Denied { .. }), "{error:?}");
    assert!(notes.is_file());
    // Another process, as it were. The rest is sent; the first part is told by its ETag.
    let second = serve(vec![
        part_answer("two"),
        part_answer("three"),
        answer("200 OK", "", COMPLETE),
    ]);
    one_at_a_time(&second)
        .create_resumably(&key(), &file, &notes)
        .unwrap();
    let asked: Vec<String> = second.requests.iter().collect();
    assert_eq!(asked.len(), 3);
    assert!(
        asked[0].contains("partNumber=2") && asked[1].contains("partNumber=3"),
        "{asked:?}"
    );
    assert!(!notes.exists());
}

#[test]
fn a_part_whose_bytes_have_changed_is_sent_again() {
    let (_dir, file, notes) = three_parts();
    let first = serve(vec![
        answer("200 OK", "", BEGUN),
        part_answer("one"),
        part_answer("two"),
        refusal("403 Forbidden", "AccessDenied"),
    ]);
    let create = |server: &Server| one_at_a_time(server).create_resumably(&key(), &file, &notes);
    create(&first).unwrap_err();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[7] = 9;
    std::fs::write(&file, bytes).unwrap();
    let second = serve(vec![
        part_answer("new"),
        part_answer("three"),
        answer("200 OK", "", COMPLETE),
    ]);
    create(&second).unwrap();
    let asked: Vec<String> = second.requests.iter().collect();
    assert!(
        asked[0].contains("partNumber=1") && asked[1].contains("partNumber=3"),
        "{asked:?}"
    );
}

#[test]
fn an_upload_that_the_store_has_forgotten_is_begun_anew_or_was_complete() {
    let (_dir, file, notes) = three_parts();
    let begin = || {
        let server = serve(vec![
            answer("200 OK", "", BEGUN),
            part_answer("one"),
            refusal("403 Forbidden", "AccessDenied"),
        ]);
        let begun = one_at_a_time(&server).create_resumably(&key(), &file, &notes);
        begun.unwrap_err();
    };
    begin();
    let server = serve(vec![
        refusal("404 Not Found", "NoSuchUpload"),
        // HEAD, and the GET that tells why it was refused.
        answer("404 Not Found", "", ""),
        refusal("404 Not Found", "NoSuchKey"),
        answer("200 OK", "", BEGUN),
        part_answer("one"),
        part_answer("two"),
        part_answer("three"),
        answer("200 OK", "", COMPLETE),
    ]);
    one_at_a_time(&server)
        .create_resumably(&key(), &file, &notes)
        .unwrap();
    assert!(!notes.exists());

    begin();
    let there = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n".to_owned();
    let server = serve(vec![refusal("404 Not Found", "NoSuchUpload"), there]);
    let error = one_at_a_time(&server)
        .create_resumably(&key(), &file, &notes)
        .unwrap_err();
    assert!(
        matches!(error, BucketError::AlreadyExists { .. }),
        "{error:?}"
    );
    assert!(!notes.exists());
}

#[test]
fn an_upload_that_is_given_up_is_aborted_by_its_notes() {
    let (_dir, file, notes) = three_parts();
    let server = serve(vec![
        answer("200 OK", "", BEGUN),
        refusal("403 Forbidden", "AccessDenied"),
        refusal("403 Forbidden", "AccessDenied"),
        answer("204 No Content", "", ""),
    ]);
    let bucket = one_at_a_time(&server);
    bucket.create_resumably(&key(), &file, &notes).unwrap_err();
    bucket.forget_upload(&notes).unwrap_err();
    assert!(notes.exists(), "it is tried again later");
    bucket.forget_upload(&notes).unwrap();
    assert!(!notes.exists());
    bucket.forget_upload(&notes).unwrap();
    let last = server.requests.iter().nth(3).unwrap();
    assert!(last.starts_with("DELETE /b/p/k?uploadId=id"), "{last}");
}

#[test]
fn who_is_cancelled_does_not_wait_for_a_silent_store() {
    let server = serve(vec![String::new()]);
    let bucket = bucket(&server);
    let cancellation = super::super::Cancellation::default();
    let canceller = cancellation.clone();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| cancellation.scope(|| bucket.get(&key())));
        // The request is under way.
        server.requests.recv().unwrap();
        canceller.cancel();
        let error = asking.join().unwrap().unwrap_err();
        let kind = std::error::Error::source(&error)
            .and_then(|e| e.downcast_ref::<std::io::Error>())
            .map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::Interrupted), "{error:?}");
    });
}

#[test]
fn what_goes_over_the_wire_is_counted_as_it_is_charged() {
    let server = serve(vec![
        answer("200 OK", "", ""),
        answer("200 OK", "", "hello"),
        answer("404 Not Found", "", ""),
        refusal("404 Not Found", "NoSuchKey"),
        answer("204 No Content", "", ""),
    ]);
    let bucket = bucket(&server);
    bucket.create(&key(), Body::Bytes(b"hello")).unwrap();
    bucket.get(&key()).unwrap();
    assert!(bucket.head(&key()).unwrap().is_none());
    bucket.delete(&key()).unwrap();
    let wire = bucket.client.counters.wire();
    assert_eq!((wire.writes, wire.reads, wire.bytes_out), (1, 3, 5));
    assert!(wire.bytes_in >= 5);
}
