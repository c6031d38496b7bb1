//! Tiering: the persister makes tarballs, TOC and layer from a frozen KVS file; the uploader brings
//! objects from the proxy cache to the bucket; tier-in brings contents back.

pub mod change_log;
mod fetches;
pub mod layer_merge;
pub mod persister;
pub mod proxy;
pub mod seek;
pub mod snapshot_stack;
pub mod tier_in;
pub mod uploader;
