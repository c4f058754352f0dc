//! Memory, sockets and files: everything in nvferry that touches raw memory or the kernel.
//!
//! What comes in: buffers that a caller registers, files, connected sockets. What goes out: safe, owned handles on
//! them. This is the only room of the data path with `unsafe` code; each block says why it is sound.
//!
//! - [`memory`]: aligned buffers, registered memory and the slices leased from it.
//! - [`pool`]: tiered pools of aligned buffers.
//! - [`pages`]: pages of a file on their way to a socket, without a copy.
//! - [`vector`]: scatter and gather lists over plain and leased memory.
//! - [`stream`]: a connected, non-blocking byte stream; TCP and an in-memory twin.
//! - [`poller`]: readiness of sockets and engines, and wake-ups from other threads.
//! - [`mod@file`]: an open file or block device, with the alignment that it really has.
//! - [`clock`]: what time it is.
//! - [`fast_paths`]: which ways data takes; tests force them.
//! - [`tally`]: counters and latencies that one thread writes and others read.
//! - [`engine`]: file I/O behind one trait; io_uring, libaio and threads, and wrappers that inject faults or count.

#![allow(unsafe_code)]

pub mod clock;
mod copy;
pub mod engine;
pub mod fast_paths;
pub mod file;
pub mod memory;
pub mod pages;
pub mod poller;
pub mod pool;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
pub mod stream;
mod sys;
pub mod tally;
pub mod vector;

pub use engine::{IoBuf, IoCompletion, IoEngine, IoKind, IoRequest};
pub use file::IoFile;
pub use memory::{AlignedBuf, MemSlice, RegisteredMemory};
pub use pages::Pages;
pub use pool::{BufferPool, PoolBuf};
pub use stream::{Stream, TcpStream};
pub use vector::{Gather, Scatter};
