//! What a follower asks its bucket for: by range, once, ahead of who reads in order, and not again after a move.

use super::{Follower, rest_of};
use cbfs_tests::contents::noise;
use cbfs_tests::{Master, Node, needs_fuse};
use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

/// Requests that read objects, by the daemon of a node so far.
fn gets(node: &Node) -> u64 {
    let instances = node.json(["instance", "list"]);
    let all = instances.as_array().unwrap().iter();
    all.map(|i| i["traffic"]["gets"].as_u64().unwrap()).sum()
}

/// Bytes of objects that a node has received.
fn received(node: &Node) -> u64 {
    let instances = node.json(["instance", "list"]);
    let all = instances.as_array().unwrap().iter();
    all.map(|i| i["traffic"]["received_bytes"].as_u64().unwrap())
        .sum()
}

#[test]
fn what_did_not_change_is_not_fetched_again_after_a_move() {
    needs_fuse!();
    let m = Master::new();
    // Small files of one directory share a section.
    let dir = m.dir("dir");
    for n in 0..8 {
        fs::write(dir.join(format!("f{n}")), noise(n, 20_000)).unwrap();
    }
    fs::write(m.at("large"), noise(99, 3 << 20)).unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    assert!(fs::read(f.at("dir/f0")).unwrap() == noise(0, 20_000));
    assert!(fs::read(f.at("large")).unwrap() == noise(99, 3 << 20));
    fs::write(m.at("dir/f7"), "changed").unwrap();
    m.snapshot();
    assert_eq!(f.refresh(), 2);
    let before = gets(&f.node);
    // The kernel has never seen these, and has the pages of the large one only as long as nobody drops them.
    for n in 1..7 {
        let read = fs::read(f.at(format!("dir/f{n}"))).unwrap();
        assert!(read == noise(n, 20_000), "f{n}");
    }
    let large = File::open(f.at("large")).unwrap();
    rustix::fs::fadvise(&large, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(fs::read(f.at("large")).unwrap() == noise(99, 3 << 20));
    assert_eq!(
        gets(&f.node),
        before,
        "unchanged contents were fetched again"
    );
    assert_eq!(fs::read(f.at("dir/f7")).unwrap(), b"changed");
    assert!(gets(&f.node) > before, "nothing is counted");
}

#[test]
fn reads_fault_in_by_range_and_concurrent_misses_share_a_fetch() {
    needs_fuse!();
    let m = Master::new();
    let blocks = 24;
    let contents = noise(5, blocks << 20);
    fs::write(m.at("large"), &contents).unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    let large = File::open(f.at("large")).unwrap();
    rustix::fs::fadvise(&large, 0, None, rustix::fs::Advice::Random).unwrap();
    // A byte in the middle costs the TOC and one section of 1 MiB, not the file.
    let (gets_before, received_before) = (gets(&f.node), received(&f.node));
    let read_at = |at: usize| {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&large, &mut byte, at as u64).unwrap();
        assert_eq!(byte[0], contents[at]);
    };
    read_at(12 << 20 | 500);
    assert_eq!(gets(&f.node) - gets_before, 2, "TOC and section");
    let taken = received(&f.node) - received_before;
    assert!(((1 << 20)..(2 << 20)).contains(&taken), "{taken} bytes");

    // Many who miss the same section at once.
    let before = gets(&f.node);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let read_at = &read_at;
            scope.spawn(move || read_at((3 << 20) + n * 65_536));
        }
    });
    assert_eq!(gets(&f.node) - before, 1, "one fetch for all");
}

#[test]
fn a_sequential_reader_is_read_ahead_of_and_each_section_is_fetched_once() {
    needs_fuse!();
    let m = Master::new();
    let blocks = 24;
    let contents = noise(6, blocks << 20);
    fs::write(m.at("large"), &contents).unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    let before = gets(&f.node);
    let mut large = File::open(f.at("large")).unwrap();
    // Blocks in order, and more come without being asked for: four of the daemon's, behind what the kernel asked for. It does
    // so for reads it sees in order; on a busy machine two of the kernel's may come the other way round.
    let mut block = vec![0; 1 << 20];
    let mut read = 0;
    let is_ahead = |read: usize| gets(&f.node) - before >= 1 + read as u64 + 4;
    while read < 2 || !is_ahead(read) {
        assert!(read < blocks - 4, "nothing is read ahead");
        large.read_exact(&mut block).unwrap();
        assert!(block == contents[read << 20..(read + 1) << 20]);
        read += 1;
        let begun = Instant::now();
        while !is_ahead(read) && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let rest = rest_of(&mut large);
    assert!(rest == contents[read << 20..]);
    assert_eq!(
        gets(&f.node) - before,
        1 + blocks as u64,
        "TOC and sections"
    );
}

#[test]
fn many_sequential_readers_fetch_each_section_once() {
    needs_fuse!();
    let m = Master::new();
    let (readers, blocks) = (20u64, 6);
    for n in 0..readers {
        fs::write(m.at(format!("large-{n}")), noise(n, blocks << 20)).unwrap();
    }
    m.snapshot();
    let f = Follower::of(&m, "1h");
    let before = gets(&f.node);
    std::thread::scope(|scope| {
        for n in 0..readers {
            let path = f.at(format!("large-{n}"));
            scope.spawn(move || assert!(fs::read(path).unwrap() == noise(n, blocks << 20)));
        }
    });
    let sections = readers * blocks as u64;
    let fetched = gets(&f.node) - before - 1;
    assert!(
        fetched <= sections + sections / 10,
        "{fetched} GETs for {sections} sections: what was read ahead was dropped before it was read"
    );
}
