//! A store that answers like any other and ignores `If-None-Match`: several creators of one object win. No master may
//! live in it.

use cbfs_tests::{Stage, needs_fuse};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Objects by path.
type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The store. It has any bucket, and takes any credentials.
pub(crate) struct Careless {
    url: String,
    objects: Objects,
}

impl Careless {
    pub(crate) fn start() -> Careless {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let store = Arc::clone(&objects);
        // It ends with the process: the threads wait in accept and read.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let store = Arc::clone(&store);
                std::thread::spawn(move || while serve(&stream, &store).is_some() {});
            }
        });
        Careless { url, objects }
    }

    pub(crate) fn url(&self) -> String {
        format!("s3://careless/p?endpoint={}", self.url)
    }

    fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

/// Answer one request; `None` when the client is gone.
fn serve(mut stream: &TcpStream, store: &Objects) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    let (mut length, mut range) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(n) = line.strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        if let Some(bytes) = line.strip_prefix("range: bytes=") {
            let (from, to) = bytes.split_once('-')?;
            range = Some((from.parse().ok()?, to.parse::<usize>().ok()?));
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (status, headers, answer) = answer(method, path, query, range, body, store);
    let tag = blake3::hash(&answer).to_hex();
    let mut head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"{}\"\r\n{headers}\r\n",
        answer.len(),
        &tag[..32]
    )
    .into_bytes();
    if method != "HEAD" {
        head.extend(answer);
    }
    stream.write_all(&head).ok()
}

fn answer(
    method: &str,
    path: &str,
    query: &str,
    range: Option<(usize, usize)>,
    body: Vec<u8>,
    store: &Objects,
) -> (&'static str, String, Vec<u8>) {
    let refused = |code: &str| {
        let document = format!("<Error><Code>{code}</Code></Error>");
        ("404 Not Found", String::new(), document.into_bytes())
    };
    let mut objects = store.lock().unwrap();
    let is_listing = query.contains("list-type=2");
    match method {
        "PUT" if !query.is_empty() && !query.contains("X-Amz") => {
            ("501 Not Implemented", String::new(), Vec::new())
        }
        "PUT" => {
            objects.insert(path.to_owned(), body);
            ("200 OK", String::new(), Vec::new())
        }
        "GET" if is_listing => {
            let prefix = query.split('&').find_map(|q| q.strip_prefix("prefix="));
            let prefix = prefix.unwrap_or_default().replace("%2F", "/");
            let all = objects.iter().filter_map(|(path, bytes)| {
                let key = path.strip_prefix("/careless/")?;
                let entry = format!(
                    "<Contents><Key>{key}</Key><Size>{}</Size><ETag>x</ETag><StorageClass>S</StorageClass>\
                     <LastModified>2026-01-01T00:00:00Z</LastModified></Contents>",
                    bytes.len()
                );
                key.starts_with(&prefix).then_some(entry)
            });
            let document = format!(
                "<ListBucketResult><Name>careless</Name><Prefix>{prefix}</Prefix>\
                 <IsTruncated>false</IsTruncated><MaxKeys>1000</MaxKeys>{}</ListBucketResult>",
                all.collect::<String>()
            );
            ("200 OK", String::new(), document.into_bytes())
        }
        "GET" | "HEAD" => match (objects.get(path), range) {
            (None, _) => refused("NoSuchKey"),
            (Some(bytes), None) => ("200 OK", String::new(), bytes.clone()),
            (Some(bytes), Some((from, _))) if from >= bytes.len() => {
                ("416 Range Not Satisfiable", String::new(), Vec::new())
            }
            (Some(bytes), Some((from, to))) => {
                let to = to.min(bytes.len() - 1);
                let header = format!("content-range: bytes {from}-{to}/{}\r\n", bytes.len());
                ("206 Partial Content", header, bytes[from..=to].to_vec())
            }
        },
        "DELETE" => {
            objects.remove(path);
            ("204 No Content", String::new(), Vec::new())
        }
        _ => ("501 Not Implemented", String::new(), Vec::new()),
    }
}

#[test]
#[ignore = "needs the credentials that tests/s3/run sets"]
fn a_store_that_lets_several_creators_win_is_refused_for_masters_unless_a_person_takes_it_on() {
    needs_fuse!();
    let store = Careless::start();
    let stage = Stage::new();
    let (node, mnt, url) = (stage.node("a"), stage.dir("mnt"), store.url());
    let dir = mnt.to_str().unwrap();
    node.start();
    let fs = node.ctl(["fs", "create", "home", "--bucket", &url]).ok();
    let fs = fs.trim_end();
    let refused = node.ctl(["mount", fs, dir, "--bucket", &url]);
    refused.fails(
        1,
        &[
            "cannot carry a master",
            "12 creators",
            "--i-prevent-split-brain",
        ],
    );
    let epochs = node.json(["epoch", "list", fs, "--bucket", &url]);
    assert_eq!(epochs, serde_json::json!([]), "nothing was claimed");
    let left = store.keys();
    assert!(left.iter().all(|key| !key.contains("race-")), "{left:?}");

    node.ctl([
        "mount",
        fs,
        dir,
        "--bucket",
        &url,
        "--i-prevent-split-brain",
    ])
    .ok();
    std::fs::write(mnt.join("file"), "x").unwrap();
    node.ctl(["snapshot", "create", fs, "--wait", "--timeout", "120"])
        .ok();
    // The word stands in the claim.
    let claim = store.objects.lock().unwrap();
    let claim = claim
        .iter()
        .find(|(key, _)| key.ends_with("epochs/00001.json"));
    let claim: serde_json::Value = serde_json::from_slice(claim.unwrap().1).unwrap();
    assert_eq!(claim["split_brain_prevented_by_hand"], true, "{claim:#}");
}

#[test]
#[ignore = "needs the credentials that tests/s3/run sets"]
fn a_probe_finds_a_careless_store_out_and_leaves_nothing() {
    let store = Careless::start();
    let stage = Stage::new();
    let node = stage.node("a");
    let mut command = node.command();
    command.args(["bucket", "probe", &store.url(), "--json"]);
    let ran = cbfs_tests::Ran::of(&mut command);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["good_for"], "nothing", "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["what"] == "create-only").unwrap();
    assert_eq!(check["verdict"], "bad", "{report:#}");
    assert_eq!(store.keys(), Vec::<String>::new());
}
