//! What is asked of the kernel's NVMe host, and how that fails: plain data, there in every build.

use nvferry_auth::Secret;

/// What to connect to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// `tcp` or `rdma`.
    pub transport: String,
    /// The target's address.
    pub traddr: String,
    /// Its port.
    pub trsvcid: String,
    /// The subsystem's NQN.
    pub subsysnqn: String,
    /// The host's NQN.
    pub hostnqn: String,
    /// The host's id, a UUID as text.
    pub hostid: String,
    /// What the host proves to know, where the target asks for that.
    pub secret: Option<Secret>,
    /// What the target has to prove to know. Without `secret` the kernel does not ask for it.
    pub controller_secret: Option<Secret>,
    /// How.
    pub options: ConnectOptions,
}

/// How to connect. A number that is `None` leaves it to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// I/O queues.
    pub nr_io_queues: Option<u16>,
    /// Entries of each I/O queue.
    pub queue_size: Option<u16>,
    /// Keep-alive timeout in seconds.
    pub keep_alive_tmo_s: Option<u32>,
    /// Between two attempts to reconnect, in seconds.
    pub reconnect_delay_s: Option<u32>,
    /// How long the kernel tries to reconnect before it gives the controller up, in seconds; -1 is for ever.
    pub ctrl_loss_tmo_s: Option<i32>,
    /// Header digests.
    pub hdr_digest: bool,
    /// Data digests.
    pub data_digest: bool,
}

/// Why a connect failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct ConnectError {
    /// libnvme's number: from 1000 up one of `enum nvme_connect_err`, below that an errno; 0 where the request could not
    /// even be put to the library.
    pub number: i32,
    /// The library's words, with those that it logged: they have the kernel's errno.
    pub words: String,
}
