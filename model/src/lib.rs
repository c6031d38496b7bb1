//! The protocol of masters, epochs, followers and garbage collection as a model that is checked exhaustively for
//! small sizes: see *Protocol* in ARCHITECTURE.md, and `tests/protocol.rs` for what is checked.
//!
//! Whatever asks or writes the bucket is `cbfs_core::catalog` itself, the code that the daemon runs, stopped at each
//! request ([`replay`]). The model adds what the daemon keeps on its disk and the order in which it calls the
//! catalog ([`node`]), and what may happen to it: pauses (any node may take no step for ever), kills, lost and late
//! answers, restored images and copies of its state ([`world`]). Garbage collection is not built yet: its design
//! stands in [`collector`], on top of the catalog's real reading functions.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // test code; fields are said by their types

pub mod calls;
pub mod collector;
pub mod flaw;
pub mod invariants;
pub mod node;
pub mod replay;
pub mod world;
