//! A proxy on loopback between a bucket's clients and its store, which does to requests what networks and
//! stores do: refuses, delays, cuts, forgets and garbles. The test says which and how many, while it runs.
//!
//! HTTP/1.1 as S3 clients speak it: bodies with a length or in chunks, one request after the other on a
//! connection. Requests are passed on byte for byte, so signatures stay right. Each request has a connection of its
//! own to the store.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a test waits for a rule to be met.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is done to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Pass it on after a while.
    Delay(Duration),
    /// Neither pass it on nor answer it until the rule is lifted; then end the connection.
    Hold,
    /// Answer it with this status and S3 error code; the store hears nothing of it.
    Refuse {
        /// HTTP status.
        status: u16,
        /// `<Code>` of the error document.
        code: &'static str,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// End the connection in the middle of the request's body; the store gets what was read.
    CutRequest,
    /// End the connection in the middle of the answer's body.
    CutAnswer,
    /// Take the request's body in this many pieces, with a pause before each, as a store behind a thin line does; then
    /// pass it on.
    SlowRequest {
        /// Pieces.
        pieces: u64,
        /// Before each.
        pause: Duration,
    },
    /// Pass the answer's body on in this many pieces, with a pause before each.
    SlowAnswer {
        /// Pieces.
        pieces: usize,
        /// Before each.
        pause: Duration,
    },
    /// Pass it on, and end the connection instead of answering.
    LoseAnswer,
    /// Flip a bit in the middle of the answer's body.
    WrongBytes,
}

/// Which requests something is done to.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<&'static str>,
    key: String,
    times: Option<u64>,
    fault: Fault,
}

impl Rule {
    /// To every request, for ever.
    pub fn every(fault: Fault) -> Rule {
        Rule {
            method: None,
            key: String::new(),
            times: None,
            fault,
        }
    }

    /// Only with this method.
    pub fn method(self, method: &'static str) -> Rule {
        let method = Some(method);
        Rule { method, ..self }
    }

    /// Only whose path and query contain this.
    pub fn key(self, part: impl Into<String>) -> Rule {
        let key = part.into();
        Rule { key, ..self }
    }

    /// Only so many.
    pub fn times(self, times: u64) -> Rule {
        let times = Some(times);
        Rule { times, ..self }
    }

    fn meets(&self, method: &str, target: &str) -> bool {
        self.method.is_none_or(|m| m == method) && target.contains(&self.key)
    }
}

/// A rule in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(usize);

/// A request that was seen: method, and path with query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
}

/// The proxy; ends, with all its connections, when dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

struct Shared {
    store: SocketAddr,
    stopping: AtomicBool,
    state: Mutex<State>,
    met: Condvar,
}

#[derive(Default)]
struct State {
    /// Rules, and how often each was met; lifted ones stay, for their number.
    rules: Vec<(Rule, u64, bool)>,
    seen: Vec<Seen>,
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl FaultProxy {
    /// In front of the store at this address.
    pub fn start(store: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            store,
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            met: Condvar::new(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener))
        };
        FaultProxy {
            shared,
            address,
            accepting: Some(accepting),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Put a rule in force. Of several that meet a request, the first that is not used up counts.
    pub fn rule(&self, rule: Rule) -> RuleId {
        let mut state = self.shared.state();
        state.rules.push((rule, 0, false));
        RuleId(state.rules.len() - 1)
    }

    /// Lift a rule.
    pub fn lift(&self, rule: RuleId) {
        self.shared.state().rules[rule.0].2 = true;
        self.shared.met.notify_all();
    }

    /// How often a rule was met.
    pub fn met(&self, rule: RuleId) -> u64 {
        self.shared.state().rules[rule.0].1
    }

    /// Wait until a rule was met so often.
    pub fn wait_until_met(&self, rule: RuleId, times: u64) {
        let started = Instant::now();
        let mut state = self.shared.state();
        while state.rules[rule.0].1 < times {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let (rule, met, _) = &state.rules[rule.0];
            assert!(!left.is_zero(), "{rule:?} was met {met} times only");
            let waited = self.shared.met.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.state().seen)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        {
            // With the lock: who has just looked waits already.
            let _state = self.shared.state();
            self.shared.stopping.store(true, Ordering::SeqCst);
        }
        self.shared.met.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let (streams, threads) = {
            let mut state = self.shared.state();
            let streams = std::mem::take(&mut state.streams);
            (streams, std::mem::take(&mut state.threads))
        };
        for stream in streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// A message's head, as it came, and how its body ends.
struct Head {
    /// With the empty line.
    bytes: Vec<u8>,
    /// The first line.
    line: String,
    length: Option<u64>,
    chunked: bool,
    /// The client waits for leave to send its body.
    waits_for_leave: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(copy) = client.try_clone() else {
                continue;
            };
            let shared = Arc::clone(self);
            // A connection that ends, by whomever, is no event.
            let thread = thread::spawn(move || drop(shared.serve(client)));
            let mut state = self.state();
            state.streams.push(copy);
            state.threads.push(thread);
        }
    }

    /// All requests of a connection.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut from_client = BufReader::new(client.try_clone()?);
        while let Some(head) = read_head(&mut from_client)? {
            if !self.exchange(&head, &mut from_client, &mut client)? {
                client.shutdown(Shutdown::Both)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Which fault this request meets, and by which rule.
    fn judge(&self, method: &str, target: &str) -> Option<(RuleId, Fault)> {
        let mut state = self.state();
        state.seen.push(Seen {
            method: method.to_owned(),
            target: target.to_owned(),
        });
        let index = state.rules.iter().position(|(rule, met, lifted)| {
            !lifted && rule.meets(method, target) && rule.times.is_none_or(|times| *met < times)
        })?;
        state.rules[index].1 += 1;
        let fault = state.rules[index].0.fault.clone();
        self.met.notify_all();
        Some((RuleId(index), fault))
    }

    /// Wait until a rule is lifted, or all ends.
    fn wait_until_lifted(&self, rule: RuleId) {
        let mut state = self.state();
        while !state.rules[rule.0].2 && !self.stopping.load(Ordering::SeqCst) {
            let waited = self.met.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One request and its answer; `false`: the connection is at its end.
    fn exchange(
        &self,
        head: &Head,
        from_client: &mut impl BufRead,
        client: &mut TcpStream,
    ) -> io::Result<bool> {
        let mut words = head.line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let judged = self.judge(&method, words.next().unwrap_or_default());
        if let Some((rule, Fault::Hold)) = judged {
            self.wait_until_lifted(rule);
            return Ok(false);
        }
        let fault = judged.map(|(_, fault)| fault);
        if head.waits_for_leave {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if let Some(Fault::CutRequest) = fault {
            let half = head.length.unwrap_or(0) / 2;
            let mut store = TcpStream::connect(self.store)?;
            store.write_all(&head.bytes)?;
            io::copy(&mut from_client.take(half), &mut store)?;
            return Ok(false);
        }
        let body = match fault {
            Some(Fault::SlowRequest { pieces, pause }) => {
                read_slowly(head, from_client, pieces, pause)?
            }
            _ => read_body(head, from_client, true)?,
        };
        if let Some(Fault::Refuse {
            status,
            code,
            retry_after,
        }) = fault
        {
            client.write_all(&refusal(&method, status, code, retry_after))?;
            return Ok(true);
        }
        if let Some(Fault::Delay(pause)) = fault {
            thread::sleep(pause);
        }
        let mut store = TcpStream::connect(self.store)?;
        self.state().streams.push(store.try_clone()?);
        store.write_all(&head.bytes)?;
        store.write_all(&body)?;
        let mut from_store = BufReader::new(store.try_clone()?);
        let answer = loop {
            let Some(answer) = read_head(&mut from_store)? else {
                return Ok(false);
            };
            // Leave to send the body, which was sent.
            if !answer.line.contains(" 100 ") {
                break answer;
            }
        };
        let none =
            method == "HEAD" || answer.line.contains(" 204 ") || answer.line.contains(" 304 ");
        let mut body = match none {
            true => Vec::new(),
            false => read_body(&answer, &mut from_store, false)?,
        };
        store.shutdown(Shutdown::Both)?;
        match fault {
            Some(Fault::LoseAnswer) => return Ok(false),
            Some(Fault::WrongBytes) => {
                let middle = body.len() / 2;
                if let Some(byte) = body.get_mut(middle) {
                    *byte ^= 0x10;
                }
            }
            Some(Fault::CutAnswer) => {
                client.write_all(&answer.bytes)?;
                client.write_all(&body[..body.len() / 2])?;
                return Ok(false);
            }
            Some(Fault::SlowAnswer { pieces, pause }) => {
                client.write_all(&answer.bytes)?;
                for piece in body.chunks(body.len().div_ceil(pieces).max(1)) {
                    thread::sleep(pause);
                    client.write_all(piece)?;
                }
                return Ok(answer.length.is_some() || answer.chunked || none);
            }
            _ => {}
        }
        client.write_all(&answer.bytes)?;
        client.write_all(&body)?;
        // A body without an end of its own ends with the connection.
        Ok(answer.length.is_some() || answer.chunked || none)
    }
}

fn refusal(method: &str, status: u16, code: &str, retry_after: Option<u64>) -> Vec<u8> {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>by the fault proxy</Message></Error>"
    );
    let wait = retry_after.map_or(String::new(), |s| format!("Retry-After: {s}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n{wait}\r\n",
        document.len()
    );
    let body = if method == "HEAD" { "" } else { &document };
    format!("{head}{body}").into_bytes()
}

/// The next head; `None` at the end of the connection.
fn read_head(from: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut head = Head {
        bytes: Vec::new(),
        line: String::new(),
        length: None,
        chunked: false,
        waits_for_leave: false,
    };
    loop {
        let start = head.bytes.len();
        if from.read_until(b'\n', &mut head.bytes)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&head.bytes[start..]);
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(head));
        }
        match line.split_once(':') {
            Some((name, value)) if !head.line.is_empty() => {
                let value = value.trim();
                if name.eq_ignore_ascii_case("content-length") {
                    head.length = value.parse().ok();
                } else if name.eq_ignore_ascii_case("transfer-encoding") {
                    head.chunked = value.eq_ignore_ascii_case("chunked");
                } else if name.eq_ignore_ascii_case("expect") {
                    head.waits_for_leave = true;
                }
            }
            _ => head.line = line.to_owned(),
        }
    }
}

/// A request's body, in so many pieces with a pause before each.
fn read_slowly(
    head: &Head,
    from: &mut impl BufRead,
    pieces: u64,
    pause: Duration,
) -> io::Result<Vec<u8>> {
    let Some(length) = head.length else {
        return read_body(head, from, true);
    };
    let (mut body, piece) = (Vec::new(), length.div_ceil(pieces).max(1));
    while (body.len() as u64) < length {
        thread::sleep(pause);
        let next = piece.min(length - body.len() as u64);
        if from.take(next).read_to_end(&mut body)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(body)
}

/// The body, as it came.
fn read_body(head: &Head, from: &mut impl BufRead, of_request: bool) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if head.chunked {
        loop {
            let start = body.len();
            from.read_until(b'\n', &mut body)?;
            let line = String::from_utf8_lossy(&body[start..]);
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            // With the line's end behind it.
            from.take(size + 2).read_to_end(&mut body)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match head.length {
        Some(length) => from.take(length).read_to_end(&mut body)?,
        None if of_request => 0,
        None => from.read_to_end(&mut body)?,
    };
    if head
        .length
        .is_some_and(|length| length != body.len() as u64)
    {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}
