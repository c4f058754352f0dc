//! Host and target in one thread, under a seeded scheduler with virtual time.
//!
//! The code of both is the real one: the engine with its batches and permits, the host's workers and control part, the
//! target's reactors. In place of the machine stands a [`world`](world::Sim): connections in memory that are split,
//! delayed, cut, silenced and corrupted; storage that fails, stalls, comes short and loses what was not flushed; targets
//! that are killed and start again, and move; namespaces that come and go; metadata that is late, stale, wrong or away.
//! Everything follows from one number, the seed.
//!
//! What must hold: each request ends once, and by its deadline; acknowledged writes are there; no read returns bytes that
//! were never written there; when all is over nothing is kept (permits, memory, buffers, command identifiers,
//! connections); and once nothing goes wrong any more, everything works again.
//!
//! - [`mod@run`]: one seed, from beginning to end. [`plan`]: what a seed means. [`campaign`]: many seeds.
//! - [`world`]: the scheduler. [`machines`]: who takes turns. [`chaos`]: what goes wrong with machines.
//! - [`net`], [`disk`], [`metadata`]: the wire, storage and the metadata service, and their faults.
//! - [`access`]: who may connect, and what is proved.
//! - [`app`]: who reads and writes, and checks. [`stranger`]: a host other than ours. [`model`]: what the files may hold.

mod access;
mod app;
mod campaign;
mod chaos;
mod disk;
mod machines;
mod metadata;
mod model;
mod net;
pub mod plan;
mod random;
mod run;
mod stranger;
mod world;

pub use campaign::{Campaign, Sum};
pub use run::{Outcome, run};
