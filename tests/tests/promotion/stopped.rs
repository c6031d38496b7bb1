//! `kill -STOP` at each step of a promotion, and of the publication that it races with. What others did meanwhile
//! stands: exactly one is master, who lost is fenced or says so, and no snapshot of the lineage is damaged.

use super::{
    another_node, epoch, fingerprint, health, is_master, master_with_a_snapshot, mount_follower,
    mount_slave, promote, snapshot, verify, wait_until, wait_until_fenced,
};
use cbfs_tests::{Master, Node, Ran, assert_same, needs_fuse};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// A place in a promotion.
struct Place {
    failpoint: &'static str,
    /// The claim is in the bucket.
    claimed: bool,
    /// Nothing is asked of the bucket any more before this node is master.
    past_the_last_look: bool,
}

const fn place(failpoint: &'static str, claimed: bool, past_the_last_look: bool) -> Place {
    Place {
        failpoint,
        claimed,
        past_the_last_look,
    }
}

const PLACES: [Place; 7] = [
    place("promote.noted", false, false),
    place("promote.claimed", true, false),
    place("promote.sealed", true, false),
    place("promote.based", true, false),
    place("promote.fetched", true, false),
    place("promote.configured", true, true),
    place("promote.forgotten", true, true),
];

fn arm(node: &Node, failpoint: &str) {
    node.stop();
    node.try_start_armed(&format!("{failpoint},stop")).unwrap();
}

fn must_be_stopped_at(node: &Node, failpoint: &str) {
    let word = format!("failpoint {failpoint}\n");
    wait_until(failpoint, || node.log().contains(&word));
    node.must_be_stopped(failpoint);
}

/// Promote epoch 1 over on `node`, which stops on its way; `meanwhile` has the world to itself; then it goes on.
fn promoted_with_a_pause(
    master: &Master,
    node: &Node,
    failpoint: &str,
    meanwhile: impl FnOnce(),
) -> Ran {
    arm(node, failpoint);
    std::thread::scope(|scope| {
        let promotion = scope.spawn(|| promote(master, node, 1));
        let continued = GoesOn(node);
        must_be_stopped_at(node, failpoint);
        meanwhile();
        drop(continued);
        promotion.join().unwrap()
    })
}

/// Continues a node in the end, also of a test that fails: somebody waits for its answer.
struct GoesOn<'a>(&'a Node);

impl Drop for GoesOn<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

/// The former master tries to publish; tells whether it said that it has.
fn publishes(master: &Master) -> bool {
    let args = [
        "snapshot",
        "create",
        &master.fs,
        "--wait",
        "--timeout",
        "300",
    ];
    let asked = master.node.ctl(args);
    asked.code == Some(0)
}

fn refuses_to_write(mnt: &Path) {
    let refused = fs::write(mnt.join("by the loser"), "x").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_promotion_that_was_stopped_at_any_step_loses_to_the_one_that_went_on_meanwhile() {
    needs_fuse!();
    for (n, place) in PLACES.iter().enumerate() {
        let failpoint = place.failpoint;
        eprintln!("{failpoint}");
        let master = master_with_a_snapshot();
        let of_1 = master.fingerprint();
        let (loser, winner) = (another_node(&master, "b"), another_node(&master, "c"));
        let follows = n % 2 == 0;
        let lost_mnt = match follows {
            true => mount_follower(&master, &loser, "mnt-b", "1s"),
            false => mount_slave(&master, &loser, "mnt-b"),
        };
        let mnt = mount_slave(&master, &winner, "mnt-c");
        let mut published = Vec::new();
        fs::write(master.at("by the former"), failpoint).unwrap();
        let wanted = master.fingerprint();
        let ran = promoted_with_a_pause(&master, &loser, failpoint, || {
            assert_eq!(publishes(&master), !place.claimed, "{failpoint}");
            let base = match place.claimed {
                true => of_1.clone(),
                false => wanted.clone(),
            };
            published.push((1, of_1.clone()));
            if !place.claimed {
                published.push((2, base.clone()));
            }
            let latest = 1 + u32::from(place.claimed);
            promote(&master, &winner, latest).ok();
            assert_same(failpoint, &base, &fingerprint(&mnt));
            fs::write(mnt.join("by the winner"), failpoint).unwrap();
            let wanted = fingerprint(&mnt);
            published.push((snapshot(&master, &winner), wanted));
        });

        if place.past_the_last_look {
            // It had won, and finds out that it has been overtaken as any master does.
            ran.ok();
            wait_until_fenced(&master, &loser);
            refuses_to_write(&lost_mnt);
            // There is nothing that it alone has.
            loser.ctl(["instance", "demote", &master.fs]).ok();
        } else {
            ran.fails(11, &[]);
            assert!(!is_master(&master, &loser), "{failpoint}");
            refuses_to_write(&lost_mnt);
        }
        wait_until_fenced(&master, &master.node);
        refuses_to_write(&master.mnt);
        assert_eq!(health(&master, &winner), "ok", "{failpoint}");
        assert_eq!(epoch(&master, &winner), 2 + u64::from(place.claimed));

        fs::write(mnt.join("and on"), failpoint).unwrap();
        let wanted = fingerprint(&mnt);
        published.push((snapshot(&master, &winner), wanted));
        for (number, wanted) in &published {
            verify(&master, &winner, *number);
            master.assert_snapshot_is(*number, wanted);
        }
        // The loser is a slave like others.
        let at = lost_mnt.to_str().unwrap();
        if follows || place.past_the_last_look {
            loser.ctl(["slave", "refresh", at]).ok();
            let (_, wanted) = published.last().unwrap();
            assert_eq!(
                fs::read(lost_mnt.join("and on")).unwrap(),
                failpoint.as_bytes()
            );
            assert_eq!(
                wanted.entries.len(),
                fingerprint(&lost_mnt).entries.len(),
                "{failpoint}"
            );
        } else {
            assert_same(failpoint, &of_1, &fingerprint(&lost_mnt));
        }
    }
}

#[test]
fn a_promotion_that_was_stopped_at_any_step_has_all_that_the_former_master_reported_complete() {
    needs_fuse!();
    for place in &PLACES {
        let failpoint = place.failpoint;
        eprintln!("{failpoint}");
        let master = master_with_a_snapshot();
        let mut base = master.fingerprint();
        let node = another_node(&master, "b");
        let mnt = mount_slave(&master, &node, "mnt-b");
        let mut number = 1;
        fs::write(master.at("by the former"), failpoint).unwrap();
        let wanted = master.fingerprint();
        let ran = promoted_with_a_pause(&master, &node, failpoint, || {
            let published = publishes(&master);
            assert_eq!(published, !place.claimed, "{failpoint}");
            if published {
                (base, number) = (wanted.clone(), 2);
            }
        });
        ran.ok();
        wait_until_fenced(&master, &master.node);
        assert_same(failpoint, &base, &fingerprint(&mnt));
        fs::write(mnt.join("and on"), failpoint).unwrap();
        let wanted = fingerprint(&mnt);
        assert_eq!(snapshot(&master, &node), number + 1, "{failpoint}");
        for number in 1..=number + 1 {
            verify(&master, &node, number);
        }
        master.assert_snapshot_is(number, &base);
        master.assert_snapshot_is(number + 1, &wanted);
        // What it could not publish is still there, and is told.
        let kept = master.node.json(["instance", "show", &master.fs]);
        let kept = kept["kept"]["changed_paths"].to_string();
        assert_eq!(kept.contains("by the former"), place.claimed, "{kept}");
    }
}

/// A publication that stops on its way, beside a promotion.
fn publication_stopped_at(failpoint: &str) -> (Master, Node, std::path::PathBuf) {
    let master = master_with_a_snapshot();
    arm(&master.node, failpoint);
    fs::write(master.at("by the former"), failpoint).unwrap();
    master.node.ctl(["snapshot", "create", &master.fs]).ok();
    must_be_stopped_at(&master.node, failpoint);
    let node = another_node(&master, "b");
    let mnt = mount_slave(&master, &node, "mnt-b");
    promote(&master, &node, 1).ok();
    (master, node, mnt)
}

#[test]
fn a_master_that_was_stopped_before_its_manifest_diverges_and_does_not_say_complete() {
    needs_fuse!();
    let (master, node, mnt) = publication_stopped_at("snapshot.before-manifest");
    assert!(!mnt.join("by the former").exists());
    fs::write(mnt.join("of epoch 2"), "2").unwrap();
    let of_2 = fingerprint(&mnt);
    assert_eq!(snapshot(&master, &node), 2);
    master.node.go_on();
    wait_until_fenced(&master, &master.node);
    let epochs = || node.json(["epoch", "list", &master.fs, "--bucket", master.bucket.url()]);
    wait_until("its manifest is there, diverged", || {
        epochs()[0]["diverged"] == serde_json::json!([2])
    });
    wait_until("its request has ended", || {
        master.states_of(2).last().is_some_and(|s| s == "cancelled")
    });
    assert!(!master.states_of(2).iter().any(|s| s == "complete"));
    let kept = master.node.json(["instance", "show", &master.fs]);
    let kept = kept["kept"]["changed_paths"].to_string();
    assert!(kept.contains("by the former"), "{kept}");

    fs::write(mnt.join("and on"), "3").unwrap();
    let of_3 = fingerprint(&mnt);
    assert_eq!(snapshot(&master, &node), 3);
    for (number, wanted) in [(2, of_2), (3, of_3)] {
        verify(&master, &node, number);
        master.assert_snapshot_is(number, &wanted);
    }
}

#[test]
fn a_manifest_that_was_there_before_the_claim_is_built_upon_whatever_its_master_still_learns() {
    needs_fuse!();
    for failpoint in ["snapshot.manifest-made", "snapshot.published"] {
        let (master, node, mnt) = publication_stopped_at(failpoint);
        assert_eq!(
            fs::read(mnt.join("by the former")).unwrap(),
            failpoint.as_bytes()
        );
        let of_2 = fingerprint(&mnt);
        fs::write(mnt.join("of epoch 2"), "3").unwrap();
        let of_3 = fingerprint(&mnt);
        assert_eq!(snapshot(&master, &node), 3);
        master.node.go_on();
        wait_until_fenced(&master, &master.node);
        for (number, wanted) in [(2, of_2), (3, of_3)] {
            verify(&master, &node, number);
            master.assert_snapshot_is(number, &wanted);
        }
        let epochs = node.json(["epoch", "list", &master.fs, "--bucket", master.bucket.url()]);
        assert!(epochs[0]["diverged"].is_null(), "{epochs:#}");
    }
}
