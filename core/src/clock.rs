//! Clock, randomness and ids, injected so that tests can fix them.

use crate::inode::Timestamp;
use std::time::SystemTime;
use uuid::Uuid;

/// Tells the time of day. Only for stamps that people read: no decision between masters ever
/// rests on it.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Makes ids that no other node makes.
pub trait Ids: Send + Sync + 'static {
    /// A new random UUID (version 4).
    fn uuid(&self) -> Uuid;

    /// A new attempt id: 12 lower-case hex digits.
    fn attempt(&self) -> String {
        self.uuid().simple().to_string()[..12].to_owned()
    }
}

/// The machine's clock and random number generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Clock for System {
    #[allow(clippy::disallowed_methods)] // the one place that may read the clock
    fn now(&self) -> Timestamp {
        Timestamp::from_system_time(SystemTime::now())
    }
}

impl Ids for System {
    #[allow(clippy::disallowed_methods)] // the one place that may draw an id
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}
