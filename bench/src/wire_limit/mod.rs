//! The wire limit: what any storage protocol over TCP could reach on this machine at best. The same bytes, no
//! protocol.
//!
//! A client keeps `depth` requests outstanding on one loopback connection. A read sends 72 bytes (an NVMe/TCP
//! command capsule) and gets 24 (a response capsule) and the payload back; a write sends 72 and the payload and
//! gets 24 back. For each request the server reads or writes a file with Direct I/O (`file`), or touches memory
//! only (`memory`). Client and server are two processes, pinned to one CPU each.
//!
//! [`client`] measures, [`server`] answers, [`units`] is the byte stream that both share.

mod client;
mod server;
mod units;

use crate::size::parse_size;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::path::PathBuf;

/// Bytes of a request without its payload: an NVMe/TCP command capsule.
const REQUEST_BYTES: usize = 72;
/// Bytes of a reply without its payload: an NVMe/TCP response capsule.
const REPLY_BYTES: usize = 24;
/// Bytes of the server's file.
const FILE_BYTES: u64 = 256 << 20;

/// Which way the payload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// From the server to the client.
    Read,
    /// From the client to the server.
    Write,
}

/// What a side does while nothing is there to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Idle {
    /// Sleeps in the receive call.
    Wait,
    /// Asks again at once.
    Spin,
}

/// Where the server's payload comes from or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// Memory only.
    Memory,
    /// A file of 256 MiB, read and written at random places with Direct I/O.
    File,
}

/// Measures what any storage protocol over TCP could reach on this machine: the same bytes, no protocol.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(crate) struct WireLimitArgs {
    /// Which way the payload goes
    #[arg(value_enum)]
    direction: Direction,
    /// Payload of one request in bytes; suffixes k, M as in 64k
    #[arg(value_parser = parse_size)]
    size: u64,
    /// Requests kept outstanding on the one connection
    depth: usize,
    /// Sleep or spin while nothing is there to receive, on both sides
    #[arg(value_enum)]
    idle: Idle,
    /// Seconds to measure, after 0.3 s of warm-up
    seconds: f64,
    /// Where the server's payload comes from or goes to
    #[arg(value_enum)]
    source: Source,
    /// Directory of the server's file
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// A file of at least 256 MiB that the server uses instead of making one; `write` overwrites what is in it
    #[arg(long, conflicts_with = "dir")]
    file: Option<PathBuf>,
    /// CPU that the client is pinned to
    #[arg(long, alias = "client-cpu", default_value_t = 1)]
    client_cpu: usize,
    /// CPU that the server is pinned to
    #[arg(long, alias = "server-cpu", default_value_t = 0)]
    server_cpu: usize,
    /// Print one JSON object instead of a line of text
    #[arg(long)]
    json: bool,
    /// Be the server: the listening socket is standard input. The client starts it so.
    #[arg(long, hide = true)]
    serve: bool,
}

/// Runs the client, or the server when the client started this process as such.
pub(crate) fn main(args: &WireLimitArgs) -> Result<()> {
    let (size, depth) = (args.size, args.depth);
    if size == 0 || size > 1 << 30 || depth == 0 || depth > 1 << 16 || size * depth as u64 > 4 << 30 {
        bail!("a size of {size} bytes at depth {depth} cannot be measured: both must be above 0, together below 4 GiB");
    }
    if args.source == Source::File && size % 512 != 0 {
        bail!("a size of {size} bytes cannot be read with Direct I/O: give a multiple of 512, or `memory`");
    }
    if !(args.seconds > 0.0 && args.seconds <= 86_400.0) {
        bail!("{} seconds cannot be measured: give a time above 0 and up to a day", args.seconds);
    }
    if args.serve { server::serve(args) } else { client::measure(args) }
}

/// Keeps the calling thread, and so this process of one thread, on one CPU.
fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).with_context(|| {
        format!("cannot run on CPU {cpu}: name one of this machine's with --client_cpu or --server_cpu")
    })
}
