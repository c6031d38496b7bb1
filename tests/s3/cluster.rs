//! The distributed store on which CBFS grows past one machine: three masters, three volume servers, every object on
//! two of them. One may die.

use super::server::{TWIN, free_ports, variable, write_identities};
use super::{contract, create_and_mount, wait_until};
use cbfs_core::bucket::{Bucket, BucketUrl, S3Bucket};
use cbfs_tests::{Exactness, Fingerprint, Stage, assert_same, needs_fuse, tree};
use std::fs;
use std::process::{Child, Command, Stdio};

/// A running SeaweedFS cluster, killed with the test.
struct Cluster {
    dir: tempfile::TempDir,
    volume_servers: Vec<Child>,
    others: Vec<Child>,
    s3: u16,
}

impl Cluster {
    /// With an empty bucket.
    fn start() -> Cluster {
        let dir = tempfile::Builder::new()
            .prefix("cbfs-s3-cluster-")
            .tempdir()
            .expect("a directory");
        write_identities(&dir.path().join("s3.json"));
        let ports = free_ports(8);
        let (masters, volumes) = (&ports[0..3], &ports[3..6]);
        let (filer, s3) = (ports[6], ports[7]);
        let mut cluster = Cluster {
            dir,
            volume_servers: Vec::new(),
            others: Vec::new(),
            s3,
        };
        let peers: Vec<String> = masters.iter().map(|p| format!("127.0.0.1:{p}")).collect();
        let peers = peers.join(",");
        for (i, port) in masters.iter().enumerate() {
            let dir = cluster.made(&format!("m{i}"));
            let options = [
                format!("-mdir={dir}"),
                format!("-peers={peers}"),
                "-ip=127.0.0.1".into(),
                "-defaultReplication=001".into(),
                "-volumeSizeLimitMB=64".into(),
                "-telemetry=false".into(),
            ];
            let child = cluster.spawn("master", *port, &options);
            cluster.others.push(child);
        }
        for (i, port) in volumes.iter().enumerate() {
            let dir = cluster.made(&format!("v{i}"));
            let options = [
                format!("-dir={dir}"),
                format!("-master={peers}"),
                "-ip=127.0.0.1".into(),
                "-max=30".into(),
                "-rack=r1".into(),
                "-dataCenter=dc1".into(),
            ];
            let child = cluster.spawn("volume", *port, &options);
            cluster.volume_servers.push(child);
        }
        let dir = cluster.made("f");
        let options = [
            format!("-master={peers}"),
            "-ip=127.0.0.1".into(),
            "-defaultReplicaPlacement=001".into(),
            format!("-defaultStoreDir={dir}"),
            format!("-localSocket={dir}/filer.sock"),
        ];
        let child = cluster.spawn("filer", filer, &options);
        cluster.others.push(child);
        let options = [
            format!("-filer=127.0.0.1:{filer}"),
            format!("-config={}", cluster.at("s3.json")),
            format!("-localSocket={}", cluster.at("s3.sock")),
            "-port.iceberg=0".into(),
            "-port.lance=0".into(),
        ];
        let child = cluster.spawn("s3", s3, &options);
        cluster.others.push(child);
        cluster.make_bucket(&peers);
        cluster
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn made(&self, name: &str) -> String {
        fs::create_dir(self.dir.path().join(name)).expect("a directory");
        self.at(name)
    }

    fn spawn(&self, role: &str, port: u16, options: &[String]) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .expect("the log");
        Command::new(variable("CBFS_TESTS_WEED"))
            .arg(role)
            .arg("-ip.bind=127.0.0.1")
            .arg(format!("-port={port}"))
            .arg(format!("-port.grpc={}", port + TWIN))
            .args(options)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log)
            .spawn()
            .expect("weed could not be started")
    }

    /// Once its parts have found each other, a bucket can be made and written to.
    fn make_bucket(&self, peers: &str) {
        let url: BucketUrl = self.url("start").parse().expect("a URL");
        let bucket = S3Bucket::open(&url, false).expect("credentials");
        let key = cbfs_core::bucket::Key::new("up").expect("a key");
        wait_until("the cluster takes objects", || {
            let made = Command::new(variable("CBFS_TESTS_WEED"))
                .args(["shell", &format!("-master={peers}")])
                .stdin(fs::File::open(self.script()).expect("the script"))
                .output();
            made.is_ok()
                && bucket
                    .create(&key, cbfs_core::bucket::Body::Bytes(b"up"))
                    .is_ok()
        });
    }

    fn script(&self) -> std::path::PathBuf {
        let path = self.dir.path().join("script");
        fs::write(&path, "s3.bucket.create -name cbfs-tests\n").expect("a script");
        path
    }

    fn url(&self, prefix: &str) -> String {
        format!(
            "s3://cbfs-tests/{prefix}?endpoint=http://127.0.0.1:{}",
            self.s3
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.volume_servers.iter_mut().chain(&mut self.others) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- the cluster's log:\n{last}");
        }
    }
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_volume_server_of_a_cluster_may_die_during_a_snapshot() {
    needs_fuse!();
    let mut cluster = Cluster::start();
    let stage = Stage::new();
    let (node, mnt, url) = (stage.node("a"), stage.dir("mnt"), cluster.url("home"));
    let fs = create_and_mount(&node, &url, &mnt);
    tree::build(&mnt.join("tree"));
    let create = ["snapshot", "create", &fs, "--wait", "--timeout", "120"];
    node.ctl(create).ok();
    for n in 0..4 {
        fs::write(
            mnt.join(format!("large-{n}")),
            contract::noise(10_000_000 + n),
        )
        .unwrap();
    }
    let wanted = Fingerprint::take(&mnt, Exactness::Snapshot);
    let log = node.state_dir().join("instances").join(&fs);
    let log = log.join("status/0000000002.jsonl");
    node.ctl(["snapshot", "create", &fs]).ok();
    wait_until("the first object arrives", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains("object_sent")
    });
    let victim = &mut cluster.volume_servers[1];
    victim.kill().unwrap();
    victim.wait().unwrap();
    let watch = ["snapshot", "watch", &format!("{fs}@2"), "--timeout", "120"];
    node.ctl(watch).ok();
    fs::write(mnt.join("after"), b"written with two of three").unwrap();
    node.ctl(create).ok();

    let (other, there) = (stage.node("b"), stage.dir("there"));
    other.start();
    let snapshot = format!("{fs}@2");
    let mount = [
        "mount",
        &snapshot,
        there.to_str().unwrap(),
        "--slave",
        "--bucket",
        &url,
    ];
    other.ctl(mount).ok();
    let found = Fingerprint::take(&there, Exactness::Snapshot);
    assert_same("read from the two that are left", &wanted, &found);
}
