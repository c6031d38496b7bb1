//! A secret that `cbfsd.toml` gives reaches the store as a signature and nothing else.

use super::server::Server;
use cbfs_core::bucket::{Bucket, S3Bucket};
use cbfs_tests::{Node, Ran, Stage, needs_fuse};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// All files below a directory, as text.
fn all_files(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            all_files(&path, found);
        } else if kind.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            found.push((path.display().to_string(), text));
        }
    }
}

/// A node without AWS variables that finds its keys in `cbfsd.toml`.
pub(crate) fn configured(stage: &Stage, name: &str, section: &str) -> Node {
    let node = stage.node(name);
    let file = stage.path(format!("{name}.toml"));
    fs::write(&file, section).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    node.set("CBFS_CONFIG", file.to_str().unwrap());
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        node.set(variable, "");
    }
    node
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_secret_is_found_in_no_log_file_answer_argument_or_object() {
    needs_fuse!();
    let server = Server::start();
    let stage = Stage::new();
    let id = std::env::var("AWS_ACCESS_KEY_ID").unwrap();
    let secret = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap();
    let url = server.url("secrets");
    let (bucket, endpoint) = url.split_once("?endpoint=").unwrap();
    let section = format!(
        "[log]\nfilter = \"trace\"\n[bucket.\"{bucket}\"]\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n\
         access_key_id = \"{id}\"\nsecret_access_key = \"{secret}\"\n"
    );
    let node = configured(&stage, "a", &section);
    let (mnt, there) = (stage.dir("mnt"), stage.dir("there"));
    node.start();
    let mut said = String::new();
    let mut ctl = |args: &[&str]| {
        let ran = node.ctl(args);
        said += &format!("{ran:?}");
        ran
    };
    let fs = ctl(&["fs", "create", "home", "--bucket", bucket]).ok();
    let fs = fs.trim_end();
    ctl(&["mount", fs, mnt.to_str().unwrap(), "--bucket", bucket]).ok();
    fs::write(mnt.join("file"), vec![7; 100_000]).unwrap();
    ctl(&["snapshot", "create", fs, "--wait", "--timeout", "120"]).ok();
    let at = format!("{fs}@1");
    ctl(&[
        "mount",
        &at,
        there.to_str().unwrap(),
        "--slave",
        "--bucket",
        bucket,
    ])
    .ok();
    assert_eq!(fs::read(there.join("file")).unwrap(), vec![7; 100_000]);
    ctl(&["bucket", "probe", bucket]).ok();
    ctl(&["status"]).ok();
    // A bucket that is not there, and keys that are not good.
    let absent = bucket.replace("cbfs-tests", "no-such-bucket");
    ctl(&[
        "fs",
        "list",
        "--bucket",
        &format!("{absent}?endpoint={endpoint}"),
    ]);
    let wrong = section.replace(&id, "AKIDNOBODY");
    let stranger = configured(&stage, "b", &wrong);
    let ran: Ran = stranger.ctl(["fs", "list", "--bucket", bucket]);
    said += &format!("{ran:?}");
    ran.fails(12, &["does not know the access key"]);

    // The same with the secret in a file of its own, and with a token: this store has given none, so it refuses it.
    const TOKEN: &str = "hush-session-token";
    let file = stage.path("secret");
    fs::write(&file, &secret).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let inline = format!("secret_access_key = \"{secret}\"\n");
    let of_file = format!("secret_access_key_file = \"{}\"\n", file.display());
    assert!(section.contains(&inline));
    let by_file = configured(&stage, "c", &section.replace(&inline, &of_file));
    let token = format!("{section}session_token = \"{TOKEN}\"\n");
    let by_token = configured(&stage, "d", &token);
    for (name, other) in [("c-there", &by_file), ("d-there", &by_token)] {
        other.start();
        let there = stage.dir(name);
        let dir = there.to_str().unwrap();
        let ran = other.ctl(["mount", &at, dir, "--slave", "--bucket", bucket]);
        said += &format!("{ran:?}");
        if name == "c-there" {
            ran.ok();
            assert_eq!(fs::read(there.join("file")).unwrap(), vec![7; 100_000]);
        } else {
            ran.fails(12, &["refused"]);
        }
    }

    let pid = node.pid();
    let argv = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let answers = ["/v1/status", "/v1/instances", "/metrics"].map(|path| node.get(path));
    let mut places = vec![
        ("what commands said".to_owned(), said),
        ("argv".to_owned(), argv),
        ("environment".to_owned(), environment),
        ("the API".to_owned(), answers.concat()),
    ];
    for node in [&node, &by_file, &by_token] {
        let log = node.log();
        assert!(log.contains("TRACE"), "the log tells everything it can");
        places.push((format!("the log of {node:?}"), log));
        places.push(("the status".to_owned(), node.get("/v1/status")));
        all_files(&node.state_dir(), &mut places);
    }
    let store = S3Bucket::open(&url.parse().unwrap(), true).unwrap();
    for info in store.list("").unwrap() {
        let bytes = store.get(&info.key).unwrap();
        places.push((
            info.key.to_string(),
            String::from_utf8_lossy(&bytes).into_owned(),
        ));
    }
    assert!(places.len() > 20, "only {} places", places.len());
    for (place, text) in &places {
        assert!(!text.contains(&secret), "the secret is in {place}");
        assert!(!text.contains(TOKEN), "the token is in {place}");
        // A signed URL is good for a quarter of an hour: it is a secret too.
        assert!(
            !text.contains("X-Amz-Signature="),
            "a signature is in {place}"
        );
    }
}
