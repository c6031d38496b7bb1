//! A SeaweedFS of a test's own: one process on free loopback ports, killed with the test.

use cbfs_core::bucket::{Bucket, BucketError, BucketUrl, S3Bucket};
use cbfs_tests::fault_proxy::FaultProxy;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is up.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What SeaweedFS adds to a port to get that of its gRPC twin.
pub(super) const TWIN: u16 = 10_000;
/// The bucket in it.
const BUCKET: &str = "cbfs-tests";

/// The key pair that may read and list only.
pub(crate) const READER: (&str, &str) = ("AKIDREADER", "reader-secret");

/// A running (or killed) server.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    /// Certificate and key for HTTPS, which it then speaks on the sixth port as well.
    tls: Option<(PathBuf, PathBuf)>,
    process: Option<Child>,
}

/// The value of a variable that `tests/s3/run` sets.
pub(super) fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: start this with tests/s3/run"))
}

/// A port that is free, and whose twin is.
fn free_port() -> u16 {
    for _ in 0..1000 {
        let Ok(socket) = TcpListener::bind("127.0.0.1:0") else {
            continue;
        };
        let port = socket.local_addr().expect("its address").port();
        let twin = port.checked_add(TWIN);
        if twin.is_some_and(|twin| TcpListener::bind(("127.0.0.1", twin)).is_ok()) {
            return port;
        }
    }
    panic!("no free ports");
}

/// Ports that are free, with their twins, and that no server of another test here was given.
pub(super) fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports: Vec<u16> = Vec::new();
    while ports.len() < count {
        let port = free_port();
        let twins = [port, port.wrapping_add(TWIN), port.wrapping_sub(TWIN)];
        if !twins.iter().any(|p| given.contains(p)) {
            given.insert(port);
            ports.push(port);
        }
    }
    ports
}

/// Who may do what: we everything, [`READER`] read.
pub(super) fn write_identities(path: &Path) {
    write_identities_with(path, &variable("AWS_SECRET_ACCESS_KEY"));
}

/// The same, with this secret of ours.
fn write_identities_with(path: &Path, secret: &str) {
    let identity = |name: &str, (key, secret): (&str, &str), actions: &[&str]| {
        serde_json::json!({
            "name": name, "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": actions,
        })
    };
    let key = variable("AWS_ACCESS_KEY_ID");
    let identities = serde_json::json!({"identities": [
        identity("admin", (&key, secret), &["Admin", "Read", "Write", "List", "Tagging"]),
        identity("reader", READER, &["Read", "List"]),
    ]});
    fs::write(path, identities.to_string()).expect("its config");
}

impl Server {
    /// Start one with nothing in it but an empty bucket.
    pub(crate) fn start() -> Server {
        Server::start_with(None)
    }

    /// One that speaks HTTPS as well, with this certificate and its key.
    pub(crate) fn start_with_tls(certificate: &Path, key: &Path) -> Server {
        Server::start_with(Some((certificate.to_owned(), key.to_owned())))
    }

    fn start_with(tls: Option<(PathBuf, PathBuf)>) -> Server {
        let dir = tempfile::Builder::new()
            .prefix("cbfs-s3-")
            .tempdir()
            .expect("a directory");
        write_identities(&dir.path().join("s3.json"));
        fs::create_dir(dir.path().join("data")).expect("its directory");
        // Ports stay the same over restarts: clients know them.
        let ports = free_ports(6);
        let mut server = Server {
            dir,
            ports,
            tls,
            process: None,
        };
        server.restart();
        server
    }

    /// Start it again, with what it has stored.
    pub(crate) fn restart(&mut self) {
        self.kill9();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.expect("its log");
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let roles = ["master", "volume", "filer", "s3", "admin"];
        let ports = roles
            .iter()
            .zip(&self.ports)
            .map(|(role, port)| format!("-{role}.port={port}"));
        let https = self.tls.iter().flat_map(|(certificate, key)| {
            [
                format!("-s3.port.https={}", self.ports[5]),
                format!("-s3.cert.file={}", certificate.display()),
                format!("-s3.key.file={}", key.display()),
            ]
        });
        let child = Command::new(variable("CBFS_TESTS_WEED"))
            .arg("mini")
            .arg(format!("-dir={}", at("data")))
            .args([
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-webdav=false",
                "-admin.ui=false",
            ])
            .args([
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
            ])
            .args(ports)
            .args(https)
            .arg(format!("-s3.config={}", at("s3.json")))
            .arg(format!("-s3.localSocket={}", at("s3.sock")))
            .arg(format!("-filer.localSocket={}", at("filer.sock")))
            .arg(format!("-bucket={BUCKET}"))
            .current_dir(self.dir.path())
            // It would take these for an administrator's.
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log twice"))
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("weed could not be started"));
        let url: BucketUrl = self.url("").parse().expect("a URL");
        let bucket = S3Bucket::open(&url, true).expect("credentials");
        let started = Instant::now();
        // After a rotation it knows us no more, and says so.
        let is_up = |e: &BucketError| matches!(e, BucketError::Denied { .. });
        while let Some(e) = bucket.list_dir("").err().filter(|e| !is_up(e)) {
            let process = self.process.as_mut().expect("just started");
            let ended = process.try_wait().expect("its state");
            if ended.is_some() || started.elapsed() > PATIENCE {
                panic!("the server did not start ({ended:?}, {e}):\n{}", self.log());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Our key has another secret from now on.
    pub(crate) fn rotate(&mut self, secret: &str) {
        write_identities_with(&self.dir.path().join("s3.json"), secret);
        self.restart();
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// `kill -STOP`: it answers nothing, and connections to it do not end.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// `kill -CONT`.
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = self.process.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(process);
        rustix::process::kill_process(pid, signal).expect("its process");
    }

    /// The ids of uploads in parts that were begun and neither completed nor aborted. SeaweedFS does not list them by
    /// S3: its filer has a directory of each.
    pub(crate) fn uploads_under_way(&self) -> Vec<String> {
        let filer = format!("127.0.0.1:{}", self.ports[2]);
        let mut filer = TcpStream::connect(filer).expect("its filer");
        let request = format!(
            "GET /buckets/{BUCKET}/.uploads/?limit=100 HTTP/1.0\r\nAccept: application/json\r\n\r\n"
        );
        filer.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        filer.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        // There is no such directory before the first upload.
        if head
            .lines()
            .next()
            .is_some_and(|line| line.contains(" 404 "))
        {
            return Vec::new();
        }
        let listing: serde_json::Value = serde_json::from_str(body).expect("a listing");
        let entries = listing["Entries"].as_array().cloned().unwrap_or_default();
        let names = entries.iter().map(|entry| entry["FullPath"].to_string());
        names.collect()
    }

    /// Where its S3 endpoint listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[3]))
    }

    /// The URL of a prefix in its bucket by HTTPS.
    pub(crate) fn https_url(&self, prefix: &str) -> String {
        let port = self.ports[5];
        format!("s3://{BUCKET}/{prefix}?endpoint=https://127.0.0.1:{port}")
    }

    /// The URL of a prefix in its bucket, reached through a proxy.
    pub(crate) fn url_through(&self, proxy: &FaultProxy, prefix: &str) -> String {
        let (own, other) = (self.address().to_string(), proxy.address().to_string());
        self.url(prefix).replace(&own, &other)
    }

    /// The URL of a prefix in its bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!(
            "s3://{BUCKET}{slash}{prefix}?endpoint=http://127.0.0.1:{}",
            self.ports[3]
        )
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("weed.log")
    }

    fn log(&self) -> String {
        read(&self.log_path())
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the server's log:\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}
