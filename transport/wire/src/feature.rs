//! Features (base specification 5.27.1): their ids, and the values of those that fabrics need.

use crate::ids::HostId;

/// A feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FeatureId {
    /// How commands are picked from queues.
    Arbitration = 0x01,
    /// Power states.
    PowerManagement = 0x02,
    /// At which temperatures an event is sent.
    TemperatureThreshold = 0x04,
    /// How long the controller tries.
    ErrorRecovery = 0x05,
    /// Whether writes may be acknowledged before they are durable.
    VolatileWriteCache = 0x06,
    /// How many I/O queues there are.
    NumberOfQueues = 0x07,
    /// Not in fabrics.
    InterruptCoalescing = 0x08,
    /// Not in fabrics.
    InterruptVectorConfig = 0x09,
    /// Atomicity of writes.
    WriteAtomicity = 0x0A,
    /// Which events are sent.
    AsyncEventConfig = 0x0B,
    /// The controller's clock.
    Timestamp = 0x0E,
    /// After how long without Keep Alive the controller gives up.
    KeepAliveTimer = 0x0F,
    /// What the host takes part in.
    HostBehaviorSupport = 0x16,
    /// Which I/O command sets are enabled.
    IoCommandSetProfile = 0x19,
    /// The host's id.
    HostIdentifier = 0x81,
    /// Which reservation notices are sent.
    ReservationNotificationMask = 0x82,
    /// Whether reservations survive.
    ReservationPersistence = 0x83,
    /// Whether a namespace is write protected.
    NamespaceWriteProtection = 0x84,
}

impl FeatureId {
    /// The feature with this number.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x01 => Self::Arbitration,
            0x02 => Self::PowerManagement,
            0x04 => Self::TemperatureThreshold,
            0x05 => Self::ErrorRecovery,
            0x06 => Self::VolatileWriteCache,
            0x07 => Self::NumberOfQueues,
            0x08 => Self::InterruptCoalescing,
            0x09 => Self::InterruptVectorConfig,
            0x0A => Self::WriteAtomicity,
            0x0B => Self::AsyncEventConfig,
            0x0E => Self::Timestamp,
            0x0F => Self::KeepAliveTimer,
            0x16 => Self::HostBehaviorSupport,
            0x19 => Self::IoCommandSetProfile,
            0x81 => Self::HostIdentifier,
            0x82 => Self::ReservationNotificationMask,
            0x83 => Self::ReservationPersistence,
            0x84 => Self::NamespaceWriteProtection,
            _ => return None,
        })
    }
}

/// Number of Queues: asked for in dword 11, granted in the completion's dword 0, in the same form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues, as people count (on the wire: from zero). 1 to 65535.
    pub submission: u32,
    /// I/O completion queues, likewise.
    pub completion: u32,
}

impl NumberOfQueues {
    /// As many queue pairs.
    pub fn pairs(count: u32) -> Self {
        Self { submission: count, completion: count }
    }

    /// How many pairs that gives.
    pub fn pair_count(self) -> u32 {
        self.submission.min(self.completion)
    }

    /// As a dword. Counts outside 1 to 65535 become the nearest of these.
    pub fn to_dword(self) -> u32 {
        (self.submission.clamp(1, 0xFFFF) - 1) | (self.completion.clamp(1, 0xFFFF) - 1) << 16
    }

    /// From a dword; 65536 of either, which the specification forbids, is returned as such.
    pub fn from_dword(dword: u32) -> Self {
        Self { submission: (dword & 0xFFFF) + 1, completion: (dword >> 16) + 1 }
    }
}

/// Asynchronous Event Configuration (dword 11): which events the host wants. The same bits stand in Identify
/// Controller's OAES for the notices that the controller can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AsyncEventConfig(pub u32);

impl AsyncEventConfig {
    /// The bits of SMART critical warnings.
    pub const SMART: Self = Self(0xFF);
    /// Namespaces came, went or changed.
    pub const NAMESPACE_ATTRIBUTE: Self = Self(1 << 8);
    /// Firmware is being activated.
    pub const FIRMWARE_ACTIVATION: Self = Self(1 << 9);
    /// Asymmetric access changed.
    pub const ANA_CHANGE: Self = Self(1 << 11);
    /// The discovery log page changed.
    pub const DISCOVERY_LOG_CHANGE: Self = Self(1 << 31);

    /// Whether all of `events` are wanted.
    pub const fn contains(self, events: Self) -> bool {
        self.0 & events.0 == events.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, events: Self) -> Self {
        Self(self.0 | events.0)
    }
}

/// Volatile Write Cache (dword 11, and the completion's dword 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VolatileWriteCache {
    /// Writes may be acknowledged before they are durable (WCE).
    pub enabled: bool,
}

impl VolatileWriteCache {
    /// As a dword.
    pub fn to_dword(self) -> u32 {
        self.enabled.into()
    }

    /// From a dword.
    pub fn from_dword(dword: u32) -> Self {
        Self { enabled: dword & 1 == 1 }
    }
}

/// Keep Alive Timer (dword 11, and the completion's dword 0): a time in milliseconds; 0 is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeepAliveTimer {
    /// Milliseconds (KATO).
    pub kato_ms: u32,
}

impl KeepAliveTimer {
    /// As a dword.
    pub fn to_dword(self) -> u32 {
        self.kato_ms
    }

    /// From a dword.
    pub fn from_dword(dword: u32) -> Self {
        Self { kato_ms: dword }
    }
}

/// Host Identifier: dword 11 says that it has 128 bits (EXHID), and the id is the command's data. In fabrics it is
/// what Connect said, and cannot be set.
pub const EXHID: u32 = 1;

/// The data of Host Identifier, 16 bytes.
pub fn host_identifier_data(hostid: HostId) -> [u8; 16] {
    hostid.0
}
