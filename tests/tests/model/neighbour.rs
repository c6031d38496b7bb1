//! A neighbour: a thread that changes a directory of its own as fast as it can, so that flushes and
//! cuts meet operations under way. What comes of it nobody looks at; it must not be felt next door.

use cbfs_tests::contents::{Dice, noise};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Its directory in the root.
pub(crate) const NAME: &str = "neighbour";

/// Stops when it is dropped.
pub(crate) struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbour {
    /// Begin in the file system mounted on `root`.
    pub(crate) fn of(root: &Path) -> Neighbour {
        let stop = Arc::new(AtomicBool::new(false));
        let (dir, stopped) = (root.join(NAME), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut dice = Dice::new(1);
            while !stopped.load(Ordering::Relaxed) {
                // A killed daemon answers errors until it is back.
                if change(&dir, &mut dice).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        Neighbour {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn change(dir: &Path, dice: &mut Dice) -> io::Result<()> {
    let mut some_name = || dir.join(format!("n{}", dice.below(60)));
    let (name, other) = (some_name(), some_name());
    match dice.below(8) {
        0..3 => fs::write(&name, noise(1, dice.below(6_000) as usize)),
        3 => {
            let file = File::options().write(true).open(&name)?;
            file.write_all_at(&noise(2, 60_000), dice.below(300_000))
        }
        4 => File::options()
            .write(true)
            .open(&name)?
            .set_len(dice.below(30_000)),
        5 => fs::rename(&name, &other),
        6 => fs::hard_link(&name, &other),
        _ => fs::remove_file(&name),
    }
}
