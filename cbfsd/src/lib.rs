//! The daemon of CBFS. Data flows down one street: FUSE operation -> instance -> journal and KVS ->
//! persister -> proxy cache -> uploader -> bucket, and back up for fault-in.

pub mod check;
pub mod daemon;
mod daemon_log;
pub mod data;
pub mod failpoints;
pub mod instance;
pub mod journal;
pub mod kvs;
pub mod manager;
pub mod mounted;
mod reload;
pub mod server;
pub mod service_manager;
mod shifted_clock;
pub mod snapshots;
pub mod space;
pub mod tiering;
pub mod visible_snapshots;
