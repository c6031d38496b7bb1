//! What CBFS asks of a store is bounded: counted on the wire, by a proxy that sees every request.

use super::scene::Scene;
use super::wait_until;
use cbfs_tests::fault_proxy::Seen;
use cbfs_tests::needs_fuse;
use std::fs;
use std::time::{Duration, Instant};

/// A snapshot of a few changed files: five objects, the manifest, and a look at the epoch before and after it.
const SNAPSHOT_BUDGET: usize = 8;
/// How often the follower looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Requests that are counted: more than twice as many as from one look that asks for the epoch to the next.
const LOOKS: usize = 18;

fn lists(request: &Seen) -> bool {
    request.target.contains("list-type=2")
}

/// Not a request of the matter: a sign of life, which a node writes every three minutes.
fn is_a_sign(request: &Seen) -> bool {
    request.target.contains("/nodes/")
}

/// A daemon that has just begun asks once whether it is older than the bucket, and lists for that. Wait for it.
fn first_look_is_over(scene: &Scene) {
    let mut lists_of = [false; 2];
    wait_until("the first look of the master", || {
        let seen = scene.proxy.take_seen();
        for (what, listed) in ["%2Fm%2F", "%2Fdeleted%2F"].iter().zip(&mut lists_of) {
            *listed |= seen.iter().any(|r| lists(r) && r.target.contains(what));
        }
        lists_of == [true; 2]
    });
}

/// Wait for a snapshot without asking the bucket.
fn completes(scene: &Scene, number: u64) {
    let log = format!("instances/{}/status/{number:010}.jsonl", scene.fs);
    let log = scene.node.state_dir().join(log);
    wait_until("the snapshot is complete", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains("\"state\":\"complete\"")
    });
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn on_the_wire_a_snapshot_of_a_few_changed_files_is_eight_requests_and_lists_nothing() {
    needs_fuse!();
    let scene = Scene::new();
    let write = |text: &str| {
        for n in 0..5 {
            fs::write(scene.mnt.join(format!("file-{n}")), format!("{text} {n}")).unwrap();
        }
        fs::write(scene.mnt.join("larger"), text.repeat(50_000)).unwrap();
    };
    first_look_is_over(&scene);
    write("first");
    scene.ask_for_snapshot();
    completes(&scene, 1);
    // Now and then the daemon looks at the epoch and the settings: the cheapest of some is that of the snapshot alone.
    let mut all = Vec::new();
    for number in 2..5 {
        write(&number.to_string());
        scene.proxy.take_seen();
        scene.ask_for_snapshot();
        completes(&scene, number);
        let seen = scene.proxy.take_seen();
        assert!(!seen.iter().any(lists), "{seen:#?}");
        let is_manifest = |r: &&Seen| r.method == "PUT" && r.target.contains("/m/");
        assert_eq!(seen.iter().filter(is_manifest).count(), 1, "{seen:#?}");
        all.push(seen);
    }
    let cheapest = all.iter().map(Vec::len).min().unwrap();
    assert!(cheapest <= SNAPSHOT_BUDGET, "{all:#?}");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_follower_polls_with_one_request_per_interval() {
    needs_fuse!();
    let scene = Scene::new();
    fs::write(scene.mnt.join("file"), "contents").unwrap();
    scene.ask_for_snapshot();
    completes(&scene, 1);
    let (node, there) = (scene.stage.node("follower"), scene.stage.dir("there"));
    node.start();
    let dir = there.to_str().unwrap();
    let mount = ["mount", &scene.fs, dir, "--bucket", &scene.url, "--slave"];
    let follow = ["--follow", "--poll-interval", "1s"];
    node.ctl(mount.into_iter().chain(follow)).ok();
    // The first look of all finds out which epoch it is; the master asks nothing meanwhile.
    node.ctl(["slave", "refresh", dir]).ok();
    scene.node.stop();

    let begun = Instant::now();
    scene.proxy.take_seen();
    let mut polls: Vec<Seen> = Vec::new();
    while polls.len() < LOOKS {
        std::thread::sleep(INTERVAL / 4);
        let seen = scene.proxy.take_seen().into_iter();
        polls.extend(seen.filter(|request| !is_a_sign(request)));
        let intervals = begun.elapsed().as_secs() as usize;
        // And two more in every sixth, for the epoch and a deletion.
        let most = intervals + 1 + 2 * (intervals + 1).div_ceil(6);
        assert!(polls.len() <= most, "in {intervals}: {polls:#?}");
        assert!(intervals < 10 * LOOKS, "it does not poll: {polls:#?}");
    }
    let asked = |what: &str| {
        let asked = |r: &&Seen| r.method == "GET" && r.target.contains(what);
        polls.iter().filter(asked).count()
    };
    let (snapshots, epochs) = (asked("/m/0000000002-e1.json"), asked("/epochs/00002.json"));
    let deletions = asked("/deleted/fs.");
    assert_eq!(snapshots + epochs + deletions, polls.len(), "{polls:#?}");
    assert!(deletions == epochs || deletions + 1 == epochs, "{polls:#?}");
    assert!(epochs <= snapshots / 6 + 1 && epochs >= 2, "{polls:#?}");

    // And that is enough.
    scene.node.start();
    fs::write(scene.mnt.join("file"), "changed").unwrap();
    scene.ask_for_snapshot();
    wait_until("the follower shows the next snapshot", || {
        fs::read_to_string(there.join("file")).unwrap() == "changed"
    });
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_master_at_rest_lists_nothing() {
    needs_fuse!();
    let scene = Scene::new();
    fs::write(scene.mnt.join("file"), "contents").unwrap();
    scene.ask_for_snapshot();
    completes(&scene, 1);
    // What it has asked so far is counted, and priced.
    let metrics = scene.node.get("/metrics");
    let sample = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
    };
    assert!(sample("cbfs_wire_writes_total") >= 4.0, "{metrics}");
    assert!(sample("cbfs_wire_sent_bytes_total") > 0.0, "{metrics}");
    assert!(sample("cbfs_bucket_cost_last_hour") > 0.0, "{metrics}");
    assert!(
        sample("cbfs_bucket_request_seconds_count") > 0.0,
        "{metrics}"
    );
    // Twice a minute otherwise.
    scene.node.stop();
    scene.proxy.take_seen();
    scene.node.set("CBFS_EPOCH_CHECK", "1");
    scene.node.start();
    // Who is master, who comes next, and whether the file system is deleted.
    let look = |r: &Seen| {
        let asked = ["/epochs/00001.json", "/epochs/00002.json", "/deleted/fs."];
        r.method == "GET" && asked.iter().any(|key| r.target.contains(key))
    };
    first_look_is_over(&scene);
    let mut seen = Vec::new();
    wait_until("a dozen requests", || {
        seen.extend(scene.proxy.take_seen());
        seen.len() >= 12
    });
    assert!(!seen.iter().any(lists), "{seen:#?}");
    let others = seen.iter().filter(|r| !look(r) && !is_a_sign(r)).count();
    assert!(others <= 2, "{seen:#?}"); // the settings, once a minute
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn status_names_the_requests_to_a_store_and_what_they_cost() {
    needs_fuse!();
    let scene = Scene::new();
    fs::write(scene.mnt.join("file"), "contents").unwrap();
    scene.ask_for_snapshot();
    scene.wait_for(1);
    let status = scene.node.json(["status"]);
    let buckets = status["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), 1, "{status:#}");
    let bucket = buckets[0]["bucket"].as_str().unwrap();
    assert_eq!(bucket, scene.url);
    assert!(
        buckets[0]["cost_last_hour"].as_f64().unwrap() > 0.0,
        "{status:#}"
    );
    // People are told the same.
    let said = scene.node.ctl(["status"]).ok();
    let (_, said) = said.split_once(bucket).expect("the bucket");
    for request in buckets[0]["requests"].as_array().unwrap() {
        let kind = request["kind"].as_str().unwrap();
        let count = |line: &str| {
            let mut cells = line.split_whitespace();
            (cells.next() == Some(kind)).then(|| cells.next()?.parse::<u64>().ok())?
        };
        // The daemon may have asked for more in between.
        let told = said.lines().find_map(count);
        let asked = request["requests"].as_u64().unwrap();
        assert!(told >= Some(asked), "{kind} {asked}: {said}");
    }
    assert!(said.contains("on the wire: "), "{said}");
    let line = said.lines().find(|line| line.contains("in the last hour"));
    let line = line.unwrap_or_else(|| panic!("no cost in {said}"));
    let cost = line
        .strip_prefix("about ")
        .and_then(|l| l.split(' ').next());
    assert!(cost.unwrap().parse::<f64>().is_ok(), "{line}");
}
