//! One case: a fresh file system, operations on it and on the model, and all comparisons.

use crate::compare;
use crate::mounted::Mounted;
use crate::neighbour::{NAME, Neighbour};
use crate::operation::{Operation, Place};
use crate::reference::{Answer, Kind, Outcome, Tree};
use crate::watchdog::Watchdog;
use cbfs_tests::Master;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    /// The daemon keeps next to nothing in memory: rows go to the files and come back all the time.
    pub small_tables: bool,
    /// Somebody else changes another directory of the same file system all the while.
    pub neighbour: bool,
    /// In this order.
    pub operations: Vec<Operation>,
}

/// Snapshots that are compared at the end of a case, when it did not do so itself.
const COMPARED_AT_THE_END: usize = 2;

struct World<'a> {
    /// Ends before its mount does.
    neighbour: Option<Neighbour>,
    master: Master,
    mounted: Mounted,
    tree: Tree,
    snapshots: Vec<Snapshot>,
    tamper: &'a dyn Fn(&mut Tree, &Operation),
}

struct Snapshot {
    number: u64,
    /// The model at its cut.
    tree: Tree,
    compared: bool,
}

/// Run a case; the error says what differed. `tamper` may falsify the model after each operation:
/// then it must differ.
pub(crate) fn run(case: &Case, tamper: &dyn Fn(&mut Tree, &Operation)) -> Result<(), String> {
    let environment = match case.small_tables {
        true => vec![
            ("CBFS_FLUSH_ROWS", "8".to_owned()),
            ("CBFS_CACHE_BYTES", "4096".to_owned()),
        ],
        false => Vec::new(),
    };
    let master = Master::with_environment(&environment);
    let about = fs::metadata(&master.mnt).expect("the root");
    let mut world = World {
        mounted: Mounted::new(&master.mnt),
        tree: Tree::new(about.mode() & 0o7777, about.uid(), about.gid()),
        snapshots: Vec::new(),
        master,
        tamper,
        neighbour: None,
    };
    if case.neighbour {
        let about = fs::metadata(world.master.dir(NAME)).expect("the neighbour's directory");
        let owner = (about.uid(), about.gid());
        world.tree.add_foreign(NAME, about.mode() & 0o7777, owner);
        world.neighbour = Some(Neighbour::of(&world.master.mnt));
    }
    let watchdog = Watchdog::over(case);
    for (n, operation) in case.operations.iter().enumerate() {
        watchdog.step(world.master.node.pid());
        world
            .step(operation)
            .map_err(|why| format!("operation {} of the case, {operation:?}: {why}", n + 1))?;
    }
    watchdog.step(world.master.node.pid());
    world.finish()
}

impl World<'_> {
    fn step(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::Kill => {
                self.learn()?;
                self.master.node.kill9();
                // Files stay open over it, as those of programs do.
                self.master.node.start();
                self.came_back()
            }
            Operation::Restart => {
                self.learn()?;
                self.master.node.stop();
                self.master.node.start();
                self.came_back()
            }
            Operation::Remount => {
                self.learn()?;
                self.mounted.close_all();
                // Its open files would keep the mount busy.
                let neighbour = self.neighbour.take().is_some();
                self.master.remount();
                self.neighbour = neighbour.then(|| Neighbour::of(&self.master.mnt));
                self.came_back()
            }
            Operation::Snapshot { complete } => {
                self.learn()?;
                let number = if *complete {
                    self.master.snapshot()
                } else {
                    self.master.snapshot_until("collected")
                };
                self.snapshots.push(Snapshot {
                    number,
                    tree: self.tree.clone(),
                    compared: false,
                });
                Ok(())
            }
            Operation::CompareSnapshot { nth } => match self.snapshots.len() {
                0 => Ok(()),
                count => self.compare_snapshot(nth % count),
            },
            other => self.operate(other),
        }
    }

    fn operate(&mut self, operation: &Operation) -> Result<(), String> {
        if self.is_left_out(operation) {
            return Ok(());
        }
        let found = self.mounted.perform(operation, &self.tree);
        let wanted = self.tree.perform(operation);
        same_answer(&found, &wanted)?;
        (self.tamper)(&mut self.tree, operation);
        compare::touched(&self.master.mnt, &mut self.tree, operation)
    }

    /// Operations that would not return, or whose answer depends on the machine.
    fn is_left_out(&self, operation: &Operation) -> bool {
        let is_special = |place: &&Place| {
            let inode = self.tree.find(place).map(|id| &self.tree.inodes[&id].kind);
            matches!(inode, Ok(Kind::Special(_)))
        };
        let with_xattrs = matches!(
            operation,
            Operation::SetXattr { .. } | Operation::RemoveXattr { .. }
        );
        let needs_root = matches!(operation, Operation::Chown { .. });
        needs_root && !cbfs_tests::tools::is_root()
            || (operation.opens() || with_xattrs) && operation.places().iter().any(is_special)
    }

    fn learn(&mut self) -> Result<(), String> {
        compare::learn(&self.master.mnt, &mut self.tree)
    }

    /// The mount is back; open files are lost.
    fn came_back(&mut self) -> Result<(), String> {
        self.mounted.close_all();
        self.tree.close_all();
        compare::everything(&self.master.mnt, &mut self.tree)
    }

    fn compare_snapshot(&mut self, nth: usize) -> Result<(), String> {
        let snapshot = &mut self.snapshots[nth];
        self.master.wait_for(snapshot.number);
        let slave = self.master.slave(snapshot.number);
        compare::everything(&slave.mnt, &mut snapshot.tree)
            .map_err(|why| format!("snapshot {} on a slave: {why}", snapshot.number))?;
        snapshot.compared = true;
        Ok(())
    }

    fn finish(mut self) -> Result<(), String> {
        let told = |why| format!("at the end: {why}");
        compare::everything(&self.master.mnt, &mut self.tree).map_err(told)?;
        let later = (0..self.snapshots.len()).rev();
        let open: Vec<usize> = later
            .filter(|n| !self.snapshots[*n].compared)
            .take(COMPARED_AT_THE_END)
            .collect();
        open.into_iter()
            .try_for_each(|n| self.compare_snapshot(n))?;
        self.step(&Operation::Remount)
            .map_err(|why| format!("after a remount at the end: {why}"))
    }
}

fn same_answer(found: &Outcome, wanted: &Outcome) -> Result<(), String> {
    match (found, wanted) {
        (Ok(Answer::Bytes(found)), Ok(Answer::Bytes(wanted))) => compare::same_bytes(found, wanted),
        (found, wanted) if found == wanted => Ok(()),
        (found, wanted) => {
            let text = |outcome: &Outcome| match outcome {
                Ok(answer) => format!("{answer:?}"),
                Err(e) => compare::named(*e),
            };
            Err(format!(
                "answers {} instead of {}",
                text(found),
                text(wanted)
            ))
        }
    }
}
