//! What an Asynchronous Event Request completes with (base specification 5.2): dword 0 of the completion.

/// Something happened; reading the log page named clears it, so that the next event of its kind can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AsyncEvent {
    /// What happened.
    pub kind: AsyncEventKind,
    /// The log page to read.
    pub log_page: u8,
}

/// The events that fabrics hosts and targets know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AsyncEventKind {
    /// An error that no command reported.
    Error(u8),
    /// The state of the device.
    Health(u8),
    /// Namespaces came, went or changed: see the changed namespace list.
    NamespaceAttributeChanged,
    /// Firmware activation is starting.
    FirmwareActivationStarting,
    /// Asymmetric access changed: see the ANA log page.
    AnaChange,
    /// The discovery log page changed.
    DiscoveryLogChange,
    /// Any other.
    Other {
        /// Its type, 3 bits.
        event_type: u8,
        /// Its information.
        info: u8,
    },
}

impl AsyncEvent {
    /// Namespaces came, went or changed.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self =
        Self { kind: AsyncEventKind::NamespaceAttributeChanged, log_page: 0x04 };
    /// The discovery log page changed.
    pub const DISCOVERY_LOG_CHANGE: Self = Self { kind: AsyncEventKind::DiscoveryLogChange, log_page: 0x70 };
    /// Asymmetric access changed.
    pub const ANA_CHANGE: Self = Self { kind: AsyncEventKind::AnaChange, log_page: 0x0C };

    /// For the completion's dword 0.
    pub fn to_dword(self) -> u32 {
        let (event_type, info) = match self.kind {
            AsyncEventKind::Error(info) => (0, info),
            AsyncEventKind::Health(info) => (1, info),
            AsyncEventKind::NamespaceAttributeChanged => (2, 0x00),
            AsyncEventKind::FirmwareActivationStarting => (2, 0x01),
            AsyncEventKind::AnaChange => (2, 0x03),
            AsyncEventKind::DiscoveryLogChange => (2, 0xF0),
            AsyncEventKind::Other { event_type, info } => (event_type & 0x7, info),
        };
        u32::from(event_type) | u32::from(info) << 8 | u32::from(self.log_page) << 16
    }

    /// From the completion's dword 0.
    pub fn from_dword(dword: u32) -> Self {
        let info = (dword >> 8) as u8;
        let kind = match (dword as u8 & 0x7, info) {
            (0, info) => AsyncEventKind::Error(info),
            (1, info) => AsyncEventKind::Health(info),
            (2, 0x00) => AsyncEventKind::NamespaceAttributeChanged,
            (2, 0x01) => AsyncEventKind::FirmwareActivationStarting,
            (2, 0x03) => AsyncEventKind::AnaChange,
            (2, 0xF0) => AsyncEventKind::DiscoveryLogChange,
            (event_type, info) => AsyncEventKind::Other { event_type, info },
        };
        Self { kind, log_page: (dword >> 16) as u8 }
    }
}
