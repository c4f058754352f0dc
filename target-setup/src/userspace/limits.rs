//! The target's limits, all in one place: what it tells hosts, and what it holds them to.

use std::time::Duration;

/// Connections of hosts at once, over all reactors. Beyond that newcomers are told that the controller is busy, and everyone
/// else is served.
pub const MAX_CONNECTIONS: usize = 4096;
/// Connections besides these, of those who have not shown who they are: they have connected no queue, or have not proved what
/// they should, or ask the discovery service. Beyond that the oldest of them is closed.
pub const MAX_STRANGERS: usize = 1024;
/// Connections that are accepted before those that are there have their turn: newcomers get on before they are the oldest.
pub const ACCEPTS_PER_TURN: usize = 64;
/// Controllers at once, besides those of strangers; each is one connected host.
pub const MAX_CONTROLLERS: usize = 1024;
/// I/O queues of one controller.
pub const MAX_IO_QUEUES: u16 = 128;
/// Entries of one queue (CAP.MQES + 1).
pub const MAX_QUEUE_ENTRIES: u16 = 1024;
/// Namespaces at once.
pub const MAX_NAMESPACES: usize = 4096;
/// Hosts whose figures are kept apart, where any host may come; those of all others are kept together.
pub const MAX_HOSTS_TOLD_APART: usize = 64;
/// The highest namespace id, which Identify Controller tells as NN.
pub const MAX_NSID: u32 = 1 << 20;
/// MDTS: the largest transfer is 2^8 units of 4 KiB, 1 MiB.
pub const MDTS: u8 = 8;
/// The largest transfer in bytes.
pub const MAX_TRANSFER_BYTES: u32 = 4096 << MDTS;
/// In-capsule data that a command may bring, in bytes: the writes that need not wait for an R2T.
pub const MAX_IN_CAPSULE_BYTES: u32 = 64 << 10;
/// MAXH2CDATA: data in one H2CData, in bytes. A whole transfer: it is received straight into place.
pub const MAX_H2C_DATA_BYTES: u32 = MAX_TRANSFER_BYTES;
/// Asynchronous Event Requests outstanding on one controller (AERL + 1).
pub const MAX_ASYNC_EVENTS: usize = 4;
/// Entries of the error log (ELPE + 1).
pub const ERROR_LOG_ENTRIES: usize = 64;
/// Commands that may wait to be aborted at once (ACL + 1).
pub const MAX_ABORTS: u8 = 4;
/// Granularity of the keep-alive timeout (KAS, in units of 100 ms): one second.
pub const KEEP_ALIVE_GRANULARITY_100MS: u16 = 10;

/// From the TCP connection to the end of Connect.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of Connect until the host has proved itself, where it has a secret.
pub const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Authentication messages that may wait to be taken in, over all connections; hosts beyond that are told to try again.
pub const MAX_WAITING_PROOFS: usize = 64;
/// A host that owes bytes (the rest of a PDU, the data that an R2T asked for) must send them, or at least
/// [`MIN_PROGRESS_BYTES`] of them, in this time.
pub const RECEIVE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A host that is sent to must take all, or at least [`MIN_PROGRESS_BYTES`], in this time.
pub const SEND_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that earn a slow host new time, so that memory is not held for one that sends or takes a byte now and then.
pub const MIN_PROGRESS_BYTES: usize = 64 << 10;
/// How long a connection lingers after a termination request, so that the host can read why.
pub const TERMINATE_LINGER: Duration = Duration::from_secs(2);
/// How long the listener rests when the system has no descriptors left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A reactor's receive buffer, shared by its connections, in bytes: four of the largest capsules.
pub const RECEIVE_BUFFER_BYTES: usize = (256 << 10) + 4096;
/// How much of it is offered while a large payload is expected, so that most of that payload is not copied.
pub const RECEIVE_AHEAD_BYTES: usize = 4 << 10;
/// Reads of one reactor that begin before what has ended is sent, where few wait.
pub const SHORT_ROUND_COMMANDS: usize = 16;
/// The same where many do.
pub const LONG_ROUND_COMMANDS: usize = 64;
/// The same in bytes of their data; the last may go beyond.
pub const ROUND_BYTES: usize = 1 << 20;
/// Receives from one connection before what came is worked on and the others have their turn: with them 1 MiB of writes
/// reach storage while the next is on its way.
pub const RECEIVES_PER_TURN: usize = 4;
/// A connection with more bytes than this waiting to be sent is not read from.
pub const SEND_BACKLOG_BYTES: usize = 4 << 20;

/// Data buffers of one reactor, in bytes.
pub const DATA_POOL_BYTES: usize = 64 << 20;
/// What a reactor keeps of them when idle, in bytes.
pub const DATA_POOL_IDLE_BYTES: usize = 8 << 20;
/// Buffers for in-capsule data of one reactor, in bytes.
pub const CAPSULE_POOL_BYTES: usize = 64 << 20;
/// What a reactor keeps of them when idle, in bytes.
pub const CAPSULE_POOL_IDLE_BYTES: usize = 8 << 20;
/// Buffers beyond those that were not needed for so long are given back to the system.
pub const POOL_DECAY: Duration = Duration::from_secs(1);
/// Operations that a reactor's I/O engine takes at once.
pub const ENGINE_CAPACITY: usize = 1024;
/// Reactors that are started unless another number is asked for, where there are as many processors.
pub const DEFAULT_REACTORS: usize = 4;
/// Reads from this size on are sent as pages of the file, where it is in memory; smaller ones are cheaper to copy.
pub const MIN_PAGES_BYTES: u32 = 16 << 10;
/// Pipes that a reactor has for that; each is two descriptors.
pub const MAX_PIPES: usize = 64;
