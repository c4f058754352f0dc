//! Targets on real sockets, for scenarios.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests, of which each scenario uses a part")]

pub(crate) mod auth;
pub(crate) mod host;

use host::{Host, SUBSYSTEM};
use nvferry_target::{NamespaceSpec, TargetDriver, TargetSpec, UserspaceOptions, UserspaceTarget};
use nvferry_wire::{ControllerId, Nqn, Nsid, TransportId};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A target on loopback, and the directory of its files.
pub(crate) struct Running {
    pub(crate) target: Arc<UserspaceTarget>,
    pub(crate) dir: TempDir,
}

pub(crate) fn spec() -> TargetSpec {
    let any_port = TransportId::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    TargetSpec::new(any_port, Nqn::new(SUBSYSTEM).unwrap())
}

/// Bytes that tell where they are and what `seed` was.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed ^ 0x9E37_79B9_7F4A_7C15;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect()
}

/// Makes a file with a pattern in it.
pub(crate) fn make_file(dir: &Path, name: &str, seed: u64, len: usize) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, pattern(seed, len)).unwrap();
    path
}

/// A namespace on a fresh file, buffered, so that any file system will do.
pub(crate) fn buffered(nsid: u32, path: impl Into<PathBuf>, size_bytes: u64) -> NamespaceSpec {
    NamespaceSpec { direct: false, ..NamespaceSpec::new(Nsid(nsid), path, size_bytes) }
}

impl Running {
    /// A target with one buffered namespace of `len` patterned bytes.
    pub(crate) fn with_file(len: usize) -> Self {
        Self::start(len, UserspaceOptions::default())
    }

    pub(crate) fn start(len: usize, options: UserspaceOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = make_file(dir.path(), "one", 1, len);
        let mut spec = spec();
        spec.namespaces.push(buffered(1, path, len as u64));
        Self { target: UserspaceTarget::start(spec, options).unwrap(), dir }
    }

    pub(crate) fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.target.address().socket_addr()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// An admin queue of an enabled controller.
    pub(crate) fn admin(&self) -> (Host<TcpStream>, ControllerId) {
        let mut host = Host::plain(self.tcp());
        let cntlid = host.connect_admin(SUBSYSTEM, 0);
        (host, cntlid)
    }

    /// An admin queue and an I/O queue.
    pub(crate) fn queues(&self) -> (Host<TcpStream>, Host<TcpStream>) {
        let (admin, cntlid) = self.admin();
        let mut io = Host::plain(self.tcp());
        io.connect_io(cntlid, 1, 128, true);
        (admin, io)
    }

    pub(crate) fn stop(&self) {
        self.target.stop(Instant::now() + PATIENCE).unwrap();
    }
}
