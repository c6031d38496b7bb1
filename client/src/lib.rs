//! The daemon's API as blocking calls with types, for whoever talks to it: `cbfsctl` and the TUI. The routes stand
//! in [`cbfs_core::api`].

use cbfs_core::api::{
    DaemonEvent, DaemonStatus, ErrorBody, InstanceInfo, MountRequest, PromoteRequest,
    PromotionInfo, ReloadInfo, RetireRequest, ScheduleInfo, SnapshotInfo, SnapshotRequest,
    UmountRequest, UnpublishedInfo, WarmInfo, WarmRequest,
};
use cbfs_core::bucket::Cancellation;
use cbfs_core::error::Context;
use cbfs_core::ids::{SnapshotNumber, Xid};
use cbfs_core::snapshot::StatusLine;
use cbfs_core::{Error, ErrorKind, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How long a question may take. (What changes things waits as long as it takes: a mount may
/// have layers to fetch.)
const QUESTION_PATIENCE: Duration = Duration::from_secs(30);

/// How often who reads a stream is asked whether to go on.
const IDLE: Duration = Duration::from_millis(200);

/// An event as the daemon told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its id, which only notes have.
    pub id: Option<String>,
    /// What happened.
    pub event: DaemonEvent,
}

/// A client of the daemon behind one socket. One connection per request: a daemon that was
/// restarted in between is found again.
///
/// Within a [`Cancellation::scope`] no call outlasts its cancellation: it fails with [`ErrorKind::Failed`] then, and
/// the daemon may have done what was asked.
///
/// Every call fails with [`ErrorKind::DaemonUnreachable`] when no daemon answers, with
/// [`ErrorKind::Credentials`] when the socket refuses us, and else with the daemon's own error.
#[derive(Debug)]
pub struct DaemonClient {
    socket: PathBuf,
    runtime: Runtime,
}

impl DaemonClient {
    /// A client for `socket`. Nothing is connected yet.
    pub fn new(socket: &Path) -> Result<DaemonClient> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context(|| "the client's runtime could not be started".to_owned())?;
        Ok(DaemonClient {
            socket: socket.to_owned(),
            runtime,
        })
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<DaemonStatus> {
        self.get("/v1/status")
    }

    /// `GET /v1/instances`.
    pub fn instances(&self) -> Result<Vec<InstanceInfo>> {
        self.get("/v1/instances")
    }

    /// `GET /v1/instances/{id}/unpublished`.
    pub fn unpublished(&self, id: &str) -> Result<UnpublishedInfo> {
        let path = format!("/v1/instances/{}/unpublished", segment(id));
        decode(
            &path,
            &self.exchange(&Method::GET, &path, Vec::new(), None)?,
        )
    }

    /// `GET /v1/instances/{id}/export`: the tar goes to `out` as it comes.
    pub fn export_unpublished(&self, id: &str, out: &mut dyn std::io::Write) -> Result<()> {
        let path = format!("/v1/instances/{}/export", segment(id));
        self.wait_for(async {
            let sent = self.send(&Method::GET, &path, Vec::new(), None);
            let (response, driver) = sent.await?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let answer = body.collect().await;
                let answer = answer.map_err(|e| self.broken(&Method::GET, e))?;
                return Err(refused(&Method::GET, &path, status, &answer.to_bytes()));
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| self.broken(&Method::GET, e))?;
                let data = frame.data_ref().map_or(&[][..], |data| data);
                out.write_all(data)
                    .context(|| "the tar could not be written".to_owned())?;
            }
            driver.abort();
            Ok(())
        })
    }

    /// `POST /v1/instances/{id}/demote`; answers the slave that takes its mount.
    pub fn demote(&self, id: &str, request: &RetireRequest) -> Result<Option<InstanceInfo>> {
        self.post(&format!("/v1/instances/{}/demote", segment(id)), request)
    }

    /// `POST /v1/instances/{id}/delete`.
    pub fn delete_instance(&self, id: &str, request: &RetireRequest) -> Result<InstanceInfo> {
        self.post(&format!("/v1/instances/{}/delete", segment(id)), request)
    }

    /// `POST /v1/instances/{id}/warm`; answers when the contents are on the node.
    pub fn warm(&self, id: &str, request: &WarmRequest) -> Result<WarmInfo> {
        self.post(&format!("/v1/instances/{}/warm", segment(id)), request)
    }

    /// `POST /v1/mounts`; answers when the mount is usable.
    pub fn mount(&self, request: &MountRequest) -> Result<InstanceInfo> {
        self.post("/v1/mounts", request)
    }

    /// `POST /v1/umounts`; answers when the mount is gone.
    pub fn umount(&self, request: &UmountRequest) -> Result<InstanceInfo> {
        self.post("/v1/umounts", request)
    }

    /// `POST /v1/slaves/{id}/refresh`; answers when the follower has looked and moved.
    pub fn refresh_slave(&self, id: &str) -> Result<InstanceInfo> {
        let path = format!("/v1/slaves/{}/refresh", segment(id));
        self.post(&path, &serde_json::json!({}))
    }

    /// `POST /v1/snapshots`; answers when the request is persisted, before the cut.
    pub fn create_snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotInfo> {
        self.post("/v1/snapshots", request)
    }

    /// `GET /v1/snapshots/{fs}`: the requests this daemon knows. `fs` is a full handle.
    pub fn snapshots(&self, fs: &str) -> Result<Vec<SnapshotInfo>> {
        self.get(&format!("/v1/snapshots/{}", segment(fs)))
    }

    /// `GET /v1/snapshots/{fs}/{number}`. `fs` is a full handle.
    pub fn snapshot(&self, fs: &str, number: SnapshotNumber) -> Result<SnapshotInfo> {
        self.get(&format!("/v1/snapshots/{}/{number}", segment(fs)))
    }

    /// `POST /v1/snapshots/{fs}/{number}/cancel`. `fs` is a full handle.
    pub fn cancel_snapshot(&self, fs: &str, number: SnapshotNumber) -> Result<SnapshotInfo> {
        let path = format!("/v1/snapshots/{}/{number}/cancel", segment(fs));
        self.post(&path, &serde_json::json!({}))
    }

    /// `POST /v1/snapshots/{fs}/{number}/retry`, or with `dry_run` `…/retry/dry-run`. `fs` is a full handle.
    pub fn retry_snapshot(
        &self,
        fs: &str,
        number: SnapshotNumber,
        dry_run: bool,
    ) -> Result<SnapshotInfo> {
        let how = if dry_run { "/dry-run" } else { "" };
        let path = format!("/v1/snapshots/{}/{number}/retry{how}", segment(fs));
        self.post(&path, &serde_json::json!({}))
    }

    /// `POST /v1/snapshots/{fs}/schedule`: settings from the bucket anew. `fs` is a full handle.
    pub fn refresh_settings(&self, fs: &str) -> Result<ScheduleInfo> {
        let path = format!("/v1/snapshots/{}/schedule", segment(fs));
        self.post(&path, &serde_json::json!({}))
    }

    /// `GET /v1/snapshots/{fs}/{number}/log`: the status log so far. `fs` is a full handle.
    ///
    /// A last line without a newline is still being written and left out.
    pub fn snapshot_log(&self, fs: &str, number: SnapshotNumber) -> Result<Vec<StatusLine>> {
        let path = format!("/v1/snapshots/{}/{number}/log", segment(fs));
        let text = self.exchange(&Method::GET, &path, Vec::new(), Some(QUESTION_PATIENCE))?;
        text.split_inclusive(|b| *b == b'\n')
            .filter(|line| line.ends_with(b"\n") && !line.trim_ascii().is_empty())
            .map(|line| decode(&path, line))
            .collect()
    }

    /// `POST /v1/epochs/{fs}/promote`; answers when this node's master is open, or what would be done. `fs` may be a TAG.
    pub fn promote(&self, fs: &str, request: &PromoteRequest) -> Result<PromotionInfo> {
        self.post(&format!("/v1/epochs/{}/promote", segment(fs)), request)
    }

    /// `GET /v1/log/{fs}`: the change log from a transaction on, as far as the daemon still has it.
    /// `fs` is a full handle. `each` gets the lines, and `None` a few times a second while there is
    /// none; when it answers `false` this ends.
    pub fn change_log(
        &self,
        fs: &str,
        from: Xid,
        follow: bool,
        each: &mut dyn FnMut(Option<&[u8]>) -> Result<bool>,
    ) -> Result<()> {
        let path = format!("/v1/log/{}?from={from}&follow={follow}", segment(fs));
        self.lines(&path, None, &mut |line| {
            let Some(line) = line.filter(|line| !line.is_empty()) else {
                return if line.is_none() { each(None) } else { Ok(true) };
            };
            if let Ok(body) = serde_json::from_slice::<ErrorBody>(line) {
                return Err(body.into());
            }
            each(Some(line))
        })
    }

    /// `GET /v1/events`: what happens from now on, and before it the notes after the one with the id `last` (every
    /// one that the daemon still has, if it is no id of this daemon; none without `last`). `each` gets the id of a
    /// note and the event, and `None` a few times a second while there is none; when it answers `false` this
    /// ends. It also ends when the daemon does.
    ///
    /// Events that this client does not know are left out.
    pub fn events(
        &self,
        last: Option<&str>,
        each: &mut dyn FnMut(Option<Told>) -> Result<bool>,
    ) -> Result<()> {
        let (mut id, mut data): (Option<String>, Vec<u8>) = (None, Vec::new());
        self.lines("/v1/events", last, &mut |line| {
            let Some(line) = line else { return each(None) };
            if line.is_empty() {
                let event = serde_json::from_slice(&data).ok();
                data.clear();
                let id = id.take();
                return match event {
                    Some(event) => each(Some(Told { id, event })),
                    None => Ok(true),
                };
            }
            if let Some(text) = line.strip_prefix(b"id:") {
                id = Some(String::from_utf8_lossy(text.trim_ascii()).into_owned());
            } else if let Some(text) = line.strip_prefix(b"data:") {
                data.extend_from_slice(text.trim_ascii());
            }
            Ok(true)
        })
    }

    /// The lines of an answer while it comes in, without their ends; a last one without an end is left out.
    /// `each` gets `None` a few times a second while there is none; when it answers `false` this ends.
    fn lines(
        &self,
        path: &str,
        last_event: Option<&str>,
        each: &mut dyn FnMut(Option<&[u8]>) -> Result<bool>,
    ) -> Result<()> {
        self.wait_for(async {
            let headers = last_event.map(|id| ("last-event-id", id));
            let (response, driver) = self.send(&Method::GET, path, Vec::new(), headers).await?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let answer = body.collect().await;
                let answer = answer.map_err(|e| self.broken(&Method::GET, e))?;
                return Err(refused(&Method::GET, path, status, &answer.to_bytes()));
            }
            let mut rest = Vec::new();
            let mut go_on = true;
            while go_on {
                let frame = match tokio::time::timeout(IDLE, body.frame()).await {
                    Err(_) => {
                        go_on = each(None)?;
                        continue;
                    }
                    Ok(None) => break,
                    Ok(Some(frame)) => frame.map_err(|e| self.broken(&Method::GET, e))?,
                };
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                let Some(last) = rest.iter().rposition(|b| *b == b'\n') else {
                    continue;
                };
                for line in rest[..last].split(|b| *b == b'\n') {
                    go_on = go_on && each(Some(line))?;
                }
                rest.drain(..=last);
            }
            driver.abort();
            Ok(())
        })
    }

    /// `POST /v1/reload`: the daemon reads `cbfsd.toml` anew.
    pub fn reload(&self) -> Result<ReloadInfo> {
        self.post("/v1/reload", &serde_json::json!({}))
    }

    /// `POST /v1/shutdown`: the daemon ends; it unmounts nothing that comes back with the next.
    pub fn shutdown(&self) -> Result<()> {
        self.post("/v1/shutdown", &serde_json::json!({}))
            .map(|_: serde_json::Value| ())
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.exchange(&Method::GET, path, Vec::new(), Some(QUESTION_PATIENCE))?;
        decode(path, &answer)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body)
            .context(|| "the request could not be written as JSON".to_owned())?;
        decode(path, &self.exchange(&Method::POST, path, body, None)?)
    }

    /// What `work` comes to, unless this thread's scope is cancelled before.
    fn wait_for<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(cancellation) = Cancellation::current() else {
            return self.runtime.block_on(work);
        };
        self.runtime.block_on(async {
            tokio::select! {
                // What has come in the same moment counts.
                biased;
                result = work => result,
                () = cancellation.cancelled() => Err(Error::failed("the daemon was not waited for")),
            }
        })
    }

    /// One request and its answer's body, within `patience` (`None`: as long as it takes).
    fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        patience: Option<Duration>,
    ) -> Result<Vec<u8>> {
        let work = async {
            let Some(patience) = patience else {
                return self.exchange_now(method, path, body).await;
            };
            match tokio::time::timeout(patience, self.exchange_now(method, path, body)).await {
                Ok(result) => result,
                Err(_) => Err(Error::new(
                    ErrorKind::DaemonUnreachable,
                    format!(
                        "the daemon on {} did not answer within {} s",
                        self.socket.display(),
                        patience.as_secs()
                    ),
                )
                .hint("it runs but hangs: look into its log (cbfsd.log in the state directory)")),
            }
        };
        let (status, answer) = self.wait_for(work)?;
        if status.is_success() {
            return Ok(answer);
        }
        Err(refused(method, path, status, &answer))
    }

    async fn exchange_now(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>)> {
        let (response, driver) = self.send(method, path, body, None).await?;
        let status = response.status();
        let answer = response
            .into_body()
            .collect()
            .await
            .map_err(|e| self.broken(method, e))?;
        driver.abort();
        Ok((status, answer.to_bytes().to_vec()))
    }

    /// Send a request on a connection of its own. The task drives that; it ends with it.
    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        header: Option<(&str, &str)>,
    ) -> Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>)> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.not_connected(e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(method, e))?;
        // Ends with the connection: `sender` is its only user. Its errors come out of `sender`.
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        let request = match header {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        let request = request
            .body(Full::new(Bytes::from(body)))
            .context(|| format!("the request {method} {path} could not be made"))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(method, e))?;
        Ok((response, driver))
    }

    /// Why the socket could not be connected.
    fn not_connected(&self, e: io::Error) -> Error {
        let socket = self.socket.display();
        match e.kind() {
            io::ErrorKind::PermissionDenied => Error::new(
                ErrorKind::Credentials,
                format!("the daemon's socket {socket} refuses you"),
            )
            .because(e)
            .hint("run this as root or as the daemon's user, or join the socket's group to look"),
            io::ErrorKind::InvalidInput => Error::new(
                ErrorKind::Usage,
                format!("{socket} cannot be a socket: its path is longer than 107 bytes"),
            )
            .because(e)
            .hint("choose a shorter one with --socket or CBFS_SOCKET"),
            _ => Error::new(
                ErrorKind::DaemonUnreachable,
                format!("no daemon answers on {socket}"),
            )
            .because(e)
            .hint("start it with `cbfsctl mount …` or `systemctl start cbfsd`"),
        }
    }

    /// Why a connection broke off.
    fn broken(&self, method: &Method, e: hyper::Error) -> Error {
        let error = Error::new(
            ErrorKind::DaemonUnreachable,
            format!(
                "the daemon on {} went away before it answered",
                self.socket.display()
            ),
        )
        .because(e);
        if *method == Method::GET {
            error.hint("start it with `cbfsctl mount …` or `systemctl start cbfsd`")
        } else {
            error.hint("whether it did what was asked is not known: look with `cbfsctl status`")
        }
    }
}

/// The error that the daemon answered with.
fn refused(method: &Method, path: &str, status: StatusCode, answer: &[u8]) -> Error {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(answer) {
        return body.into();
    }
    let text = String::from_utf8_lossy(answer);
    let error = Error::failed(format!("the daemon answered {method} {path} with {status}"));
    match text.trim() {
        "" => error,
        text => error.because(text.to_owned()),
    }
}

fn decode<T: DeserializeOwned>(path: &str, answer: &[u8]) -> Result<T> {
    serde_json::from_slice(answer).map_err(|e| {
        Error::failed(format!("the daemon's answer to {path} is not understood"))
            .because(e)
            .hint("are cbfsctl and the daemon of the same version? `cbfsctl status` tells")
    })
}

/// A path segment of a URL: what is not unreserved is percent-encoded.
fn segment(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut out, b| {
            if b.is_ascii_alphanumeric() || b"-._~@".contains(&b) {
                out.push(char::from(b));
            } else {
                out += &format!("%{b:02X}");
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// Answers one request with `answer`, verbatim, and tells the request.
    fn answering(
        answer: &'static str,
    ) -> (
        tempfile::TempDir,
        DaemonClient,
        std::thread::JoinHandle<String>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let client = DaemonClient::new(&socket).unwrap();
        (dir, client, server)
    }

    #[test]
    fn a_missing_socket_is_an_unreachable_daemon() {
        let client = DaemonClient::new(Path::new("/nonexistent/cbfsd.sock")).unwrap();
        let error = client.status().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DaemonUnreachable);
        assert!(error.hint_text().unwrap().contains("cbfsctl mount"));
    }

    #[test]
    fn the_daemons_errors_keep_kind_and_hint() {
        let (_dir, client, server) = answering(concat!(
            "HTTP/1.1 409 Conflict\r\nconnection: close\r\n\r\n",
            r#"{"error":{"kind":"conflict","message":"busy","hint":"close it","causes":[]}}"#
        ));
        let error = client.instances().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.hint_text(), Some("close it"));
        server.join().unwrap();
    }

    #[test]
    fn an_answer_that_is_no_error_body_is_shown_as_it_is() {
        let (_dir, client, server) =
            answering("HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\n\r\nout of order\n");
        let error = client
            .umount(&UmountRequest {
                target: "x".into(),
                lazy: false,
            })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(error.to_string().contains("502"));
        assert_eq!(error.causes(), ["out of order"]);
        assert!(
            server
                .join()
                .unwrap()
                .starts_with("POST /v1/umounts HTTP/1.1\r\n")
        );
    }

    #[test]
    fn a_connection_that_breaks_off_is_an_unreachable_daemon() {
        let (_dir, client, server) = answering("");
        let error = client.snapshot("home-1/2", SnapshotNumber(3)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DaemonUnreachable);
        assert!(
            server
                .join()
                .unwrap()
                .starts_with("GET /v1/snapshots/home-1%2F2/3 HTTP/1.1")
        );
    }

    #[test]
    fn events_come_with_the_ids_of_notes_and_unknown_ones_are_left_out() {
        let (_dir, client, server) = answering(concat!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
            ": keep-alive\n\n",
            "data: {\"type\":\"of the future\"}\n\n",
            "id: r-7\ndata: {\"type\":\"note\",\"note\":{\"at\":\"2025-01-01T00:00:00Z\",",
            "\"severity\":\"warning\",\"text\":\"hot\"}}\n\n",
            "id: r-8\ndata: {\"type\":\"no"
        ));
        let mut seen = Vec::new();
        client
            .events(Some("r-6"), &mut |event| {
                if let Some(Told {
                    id,
                    event: DaemonEvent::Note { note },
                }) = event
                {
                    seen.push((id, note.text));
                }
                Ok(true)
            })
            .unwrap();
        assert_eq!(seen, [(Some("r-7".to_owned()), "hot".to_owned())]);
        let request = server.join().unwrap();
        assert!(request.contains("last-event-id: r-6"), "{request}");
    }

    #[test]
    fn a_torn_last_line_of_a_status_log_is_left_out() {
        let (_dir, client, server) = answering(concat!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
            "{\"at\":\"2025-01-01T00:00:00Z\",\"event\":\"state\",\"state\":\"collected\"}\n",
            "{\"at\":\"2025-01-01T00:00:"
        ));
        assert_eq!(
            client.snapshot_log("f", SnapshotNumber(1)).unwrap().len(),
            1
        );
        server.join().unwrap();
    }
}
