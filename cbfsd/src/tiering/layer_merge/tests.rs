use super::*;
use crate::tiering::proxy::testing::{Watched, fs_handle};
use cbfs_core::clock::System;
use cbfs_core::format::ObjectRef;
use cbfs_core::ids::{Ino, SnapshotNumber};
use cbfs_core::layers::{Layer, LayerDb, rows};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

fn layer(number: u64, size: u64) -> LayerRef {
    LayerRef {
        object: ObjectRef {
            key: format!("s/{number}/layer.sqlite.zst"),
            size,
            blake3: String::new(),
        },
        from: SnapshotNumber(number),
        to: SnapshotNumber(number),
    }
}

fn merged_in_theory(chain: &mut Vec<LayerRef>, run: Range<usize>) -> u64 {
    let size = chain[run.clone()].iter().map(|l| l.object.size).sum();
    let (newest, oldest) = (chain[run.start].clone(), chain[run.end - 1].clone());
    let mut merged = newest;
    (merged.object.size, merged.from) = (size, oldest.from);
    chain.splice(run, [merged]);
    size
}

#[test]
fn a_chain_stays_short_and_each_byte_is_merged_a_few_times_only() {
    let base = 200_000;
    let mut chain = vec![layer(1, base)];
    let mut written = 0;
    for number in 2..=500 {
        chain.insert(0, layer(number, 1000));
        while let Some(run) = choose(&chain) {
            written += merged_in_theory(&mut chain, run);
        }
        assert!(chain.len() < MERGE_AT);
    }
    let made = base + 499 * 1000;
    assert!(
        written < 12 * made,
        "{written} bytes merged for {made} made"
    );
}

#[test]
fn a_chain_that_became_long_is_short_after_one_merge() {
    let mut chain: Vec<LayerRef> = (1..=40).rev().map(|n| layer(n, n % 7 + 1)).collect();
    chain.push(layer(0, 1 << 40));
    let run = choose(&chain).unwrap();
    merged_in_theory(&mut chain, run);
    assert!(chain.len() < MERGE_AT);
}

#[test]
fn a_merged_layer_takes_the_place_of_its_whole_run_only() {
    let chain: Vec<LayerRef> = (1..=5).rev().map(|n| layer(n, 1)).collect();
    let finished = |numbers: &[u64]| Finished {
        layer: layer(99, 1),
        run: numbers.iter().map(|n| layer(*n, 1).object.key).collect(),
    };
    let keys =
        |chain: Vec<LayerRef>| -> Vec<String> { chain.into_iter().map(|l| l.object.key).collect() };
    let found = replaced(chain.clone(), &[finished(&[4, 3])]);
    let wanted = [5, 99, 2, 1].map(|n| layer(n, 1).object.key);
    assert_eq!(keys(found), wanted);
    for other in [&[4, 2][..], &[3, 4], &[1, 0], &[]] {
        assert_eq!(replaced(chain.clone(), &[finished(other)]), chain);
    }
}

/// A layer of snapshot `number` with one symlink, in the bucket.
fn publish(bucket: &Watched, number: u64) -> LayerRef {
    let dir = tempfile::tempdir().unwrap();
    let (path, packed) = (dir.path().join("layer"), dir.path().join("layer.zst"));
    let layer = LayerDb::create(&path).unwrap();
    layer
        .with(|conn| {
            let number = number.to_string();
            rows::put_meta(conn, "fs", &fs_handle().to_string())?;
            for key in ["from", "to", "xid_from", "xid_to"] {
                rows::put_meta(conn, key, &number)?;
            }
            rows::put_link(conn, Ino(5), number.as_bytes())
        })
        .unwrap();
    layer.finish().unwrap();
    compress_seekable(&path, &packed, 3).unwrap();
    let key = format!("s/{number}/layer.sqlite.zst");
    let object = bucket.store(&key, &fs::read(packed).unwrap());
    LayerRef {
        object,
        from: SnapshotNumber(number),
        to: SnapshotNumber(number),
    }
}

#[test]
fn what_was_merged_is_used_also_by_the_next_process_until_a_manifest_lists_it() {
    let bucket = Arc::new(Watched::new());
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let (told, problems) = channel();
        let merger = LayerMerger::open(MergerParams {
            instance_dir: dir.path().to_owned(),
            fs: fs_handle(),
            bucket: Arc::clone(&bucket) as Arc<dyn Bucket>,
            ids: Arc::new(System),
            block_size: 1 << 20,
            on_problem: Box::new(move |problem| drop(told.send(problem))),
        });
        (merger.unwrap(), problems)
    };
    let chain: Vec<LayerRef> = (1..=MERGE_AT as u64)
        .rev()
        .map(|number| publish(&bucket, number))
        .collect();
    let (merger, problems) = open();
    merger.start().unwrap();
    merger.consider(&chain);
    assert_eq!(problems.recv().unwrap(), None);
    merger.stop();
    let shorter = merger.replace_merged(chain.clone());
    assert!(shorter.len() < MERGE_AT);
    assert!(!dir.path().join("layers").exists(), "files stay");

    let (merger, _) = open();
    assert_eq!(merger.replace_merged(chain.clone()), shorter);
    let last = shorter.last().unwrap();
    let proxy = ProxyCache::open(&dir.path().join("check")).unwrap();
    let file = proxy
        .fetch_decompressed(&*bucket, &fs_handle(), &last.object)
        .unwrap();
    let whole = LayerDb::open_immutable(&file).unwrap();
    assert_eq!(
        whole.link(Ino(5)).unwrap().unwrap(),
        last.to.to_string().as_bytes()
    );
    // Listed now: nothing waits any more.
    merger.consider(&shorter);
    assert_eq!(merger.replace_merged(chain.clone()), chain);
    let (merger, _) = open();
    assert_eq!(merger.replace_merged(chain.clone()), chain);
}

#[test]
fn a_merge_that_fails_is_told_and_tried_again_after_the_next_snapshot() {
    let bucket = Arc::new(Watched::new());
    let dir = tempfile::tempdir().unwrap();
    let (told, problems) = channel();
    let merger = LayerMerger::open(MergerParams {
        instance_dir: dir.path().to_owned(),
        fs: fs_handle(),
        bucket: Arc::clone(&bucket) as Arc<dyn Bucket>,
        ids: Arc::new(System),
        block_size: 1 << 20,
        on_problem: Box::new(move |problem| drop(told.send(problem))),
    })
    .unwrap();
    let chain: Vec<LayerRef> = (1..=MERGE_AT as u64)
        .rev()
        .map(|number| publish(&bucket, number))
        .collect();
    merger.start().unwrap();
    bucket.down.store(true, Ordering::SeqCst);
    merger.consider(&chain);
    assert!(problems.recv().unwrap().is_some());
    assert_eq!(merger.replace_merged(chain.clone()), chain);
    bucket.down.store(false, Ordering::SeqCst);
    merger.consider(&chain);
    assert_eq!(problems.recv().unwrap(), None);
    merger.stop();
    assert!(merger.replace_merged(chain.clone()).len() < chain.len());
}
