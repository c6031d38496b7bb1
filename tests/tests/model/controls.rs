//! Negative controls: a test that cannot fail proves nothing. The model is told a lie, or a
//! bystander changes the mount behind its back, and the comparison must notice.

use crate::case::{Case, run};
use crate::operation::{Bytes, Operation as O, Place, parse, print};
use crate::reference::{Inode, Kind, ROOT, Tree};
use crate::{configuration, search};
use cbfs_tests::needs_fuse;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::sync::Arc;

fn at(path: &str) -> Place {
    Place(path.to_owned())
}

/// A file, a hard link of it, and a directory with something inside.
fn operations() -> Vec<O> {
    let bytes = Bytes {
        seed: 7,
        length: 30_000,
    };
    vec![
        O::Mkdir {
            at: at("d"),
            mode: 0o755,
        },
        O::Write {
            at: at("d/a"),
            offset: 5,
            bytes,
            create: true,
        },
        O::SetXattr {
            at: at("d/a"),
            name: "user.a".to_owned(),
            value: Bytes { seed: 1, length: 9 },
            how: crate::operation::Setting::Any,
        },
        O::Link {
            from: at("d/a"),
            to: at("b"),
        },
        O::Symlink {
            at: at("c"),
            length: 9,
        },
        O::Snapshot { complete: false },
    ]
}

/// Lies about the file `d/a`, the symlink `c` and the directory `d`, told once all is made, and a
/// word of the error that notices.
type Lie = (&'static str, fn(&mut Tree));

fn inode<'a>(tree: &'a mut Tree, path: &str) -> &'a mut Inode {
    let id = tree.find(&at(path)).unwrap();
    tree.inode(id)
}

const LIES: &[Lie] = &[
    ("mode", |tree| inode(tree, "d/a").mode ^= 1),
    ("owner", |tree| inode(tree, "d/a").uid += 1),
    ("group", |tree| inode(tree, "d").gid += 1),
    ("nlink", |tree| inode(tree, "d/a").nlink += 1),
    ("listed as another inode", |tree| {
        inode(tree, "c").number = Some(1 << 40);
    }),
    ("mtime", |tree| inode(tree, "d").mtime = Some((1, 1))),
    ("ctime", |tree| inode(tree, "c").ctime = Some((1, 1))),
    ("atime", |tree| {
        inode(tree, "c").atime = Some((5_000_000_000, 1));
    }),
    ("xattrs", |tree| {
        inode(tree, "d/a").xattrs.get_mut(&b"user.a"[..]).unwrap()[3] ^= 1;
    }),
    ("xattrs", |tree| {
        inode(tree, "d").xattrs.insert(b"user.x".to_vec(), vec![]);
    }),
    ("first difference at 29999", |tree| {
        if let Kind::File(bytes) = &mut inode(tree, "b").kind {
            Arc::make_mut(bytes)[29_999] ^= 1;
        }
    }),
    ("leads to", |tree| {
        if let Kind::Symlink(target) = &mut inode(tree, "c").kind {
            target[0] ^= 1;
        }
    }),
    ("should not be there", |tree| {
        if let Kind::Directory(names) = &mut tree.inode(ROOT).kind {
            let id = names.remove(&b"b"[..]).unwrap();
            names.insert(b"B".to_vec(), id);
        }
    }),
    ("listed as a symlink", |tree| {
        inode(tree, "c").kind = Kind::File(Arc::new(vec![0; 9]));
    }),
];

#[test]
fn a_lie_about_anything_is_noticed_on_the_mount_and_on_a_slave() {
    needs_fuse!();
    // Times and numbers must have been learned, so the lie comes with an operation that touches
    // nothing; then the mount is compared after a kill, or the snapshot on a slave.
    let trigger = O::Close { slot: 0 };
    let on_the_mount = vec![trigger.clone(), O::Kill];
    let on_a_slave = vec![
        trigger.clone(),
        O::Snapshot { complete: true },
        O::CompareSnapshot { nth: 1 },
    ];
    for (n, (word, lie)) in LIES.iter().enumerate() {
        // All of them on the mount; a few on a slave, which takes longer.
        let ends = [Some(&on_the_mount), (n % 5 == 0).then_some(&on_a_slave)];
        for end in ends.into_iter().flatten() {
            let case = Case {
                small_tables: false,
                neighbour: false,
                operations: operations().into_iter().chain(end.clone()).collect(),
            };
            let tamper = |tree: &mut Tree, operation: &O| {
                if *operation == trigger {
                    lie(tree);
                }
            };
            let why = run(&case, &tamper).expect_err(word);
            assert!(why.contains(word), "{word:?} is not in {why:?}");
        }
    }
}

#[test]
fn an_answer_that_is_not_the_models_is_noticed() {
    needs_fuse!();
    let mkdir = O::Mkdir {
        at: at("d"),
        mode: 0o755,
    };
    let case = Case {
        small_tables: false,
        neighbour: false,
        operations: vec![mkdir.clone(), mkdir],
    };
    let forgets = |tree: &mut Tree, _: &O| {
        if let Kind::Directory(names) = &mut tree.inode(ROOT).kind {
            names.clear();
        }
    };
    let why = run(&case, &forgets).expect_err("the model knows nothing of the directory");
    assert!(why.contains("instead of"), "{why}");
    // The model that is not lied to says EEXIST, and so does the mount.
    run(&case, &|_, _| {}).unwrap();
}

#[test]
fn a_failing_case_shrinks_to_what_matters_and_its_replay_fails_too() {
    needs_fuse!();
    // The model forgets bytes past the inline limit: it takes one write to tell.
    let forgets = |tree: &mut Tree, operation: &O| {
        let O::Write { at, .. } = operation else {
            return;
        };
        let Ok(id) = tree.find(at) else { return };
        if let Kind::File(bytes) = &mut tree.inode(id).kind
            && bytes.len() > 16_384
        {
            *Arc::make_mut(bytes).last_mut().unwrap() ^= 1;
        }
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let runner = TestRunner::new_with_rng(configuration(100, 150), rng);
    let (_, shrunk) = search(runner, 6, &forgets).expect_err("the lie was not noticed");
    assert_eq!(shrunk.operations.len(), 1, "{}", print(&shrunk));
    let replayed = parse(&print(&shrunk)).unwrap();
    assert_eq!(replayed, shrunk);
    run(&replayed, &forgets).expect_err("the replay does not fail");
    run(&replayed, &|_, _| {}).unwrap();
}
