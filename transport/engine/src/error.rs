//! The engine's errors, with the original's numbers.

/// What kind of error it is. The numbers are the original engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something in the call is wrong; nothing has started.
    InvalidArgument = -1,
    /// A bound was reached; try again when something has ended.
    TooManyRequests = -2,
    /// The memory is not registered.
    AddressNotRegistered = -3,
    /// Requests of the batch are under way.
    BatchBusy = -4,
    /// No such file, device, segment or transport.
    DeviceNotFound = -6,
    /// The memory is registered already.
    AddressOverlapped = -7,
    /// A name could not be resolved.
    Dns = -101,
    /// A connection failed.
    Socket = -102,
    /// A description is not the JSON that it should be.
    MalformedJson = -103,
    /// The peer refused the connection.
    RejectHandshake = -104,
    /// The metadata service failed.
    Metadata = -200,
    /// The peer failed.
    Endpoint = -201,
    /// The transport or its driver cannot be had here.
    Context = -202,
    /// NUMA placement failed.
    Numa = -300,
    /// The clock failed.
    Clock = -301,
    /// Memory could not be had.
    Memory = -302,
    /// Not in this build.
    NotImplemented = -303,
}

/// An error of a call: its kind, and one sentence that says what was attempted, on what, why not, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    kind: ErrorKind,
    message: String,
}

impl EngineError {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The original engine's number.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.kind as i32
    }
}
