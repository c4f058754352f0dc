//! Numbers that must not be mistaken for each other.

use std::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($int:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $int {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )*};
}

ids! {
    /// A namespace of a subsystem (NSID). A namespace that exists has an id from 1 to FFFFFFFEh.
    Nsid(u32);
    /// A command that is outstanding on a submission queue (CID), also called CCCID in PDUs.
    CommandId(u16);
    /// A queue pair; 0 is the admin queue.
    QueueId(u16);
    /// A controller of a subsystem (CNTLID).
    ControllerId(u16);
    /// What a controller calls one R2T, and the host repeats in H2CData (TTAG).
    TransferTag(u16);
    /// A logical block address.
    Lba(u64);
    /// A number of logical blocks, as people count: one is one.
    BlockCount(u32);
}

impl Nsid {
    /// No namespace: the command is for the controller.
    pub const NONE: Self = Self(0);
    /// All namespaces.
    pub const ALL: Self = Self(0xFFFF_FFFF);

    /// Whether a namespace could have this id.
    pub fn is_valid(self) -> bool {
        self != Self::NONE && self != Self::ALL
    }
}

impl QueueId {
    /// The admin queue pair.
    pub const ADMIN: Self = Self(0);

    /// Whether this is the admin queue.
    pub fn is_admin(self) -> bool {
        self == Self::ADMIN
    }
}

impl ControllerId {
    /// In Connect for the admin queue: the target may give any controller (dynamic controller model).
    pub const DYNAMIC: Self = Self(0xFFFF);
    /// The highest id that a controller can have; those above are reserved.
    pub const MAX: Self = Self(0xFFEF);
}

/// A host, as 128 bits: the same for all its connections, and never shared by two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HostId(pub [u8; 16]);

impl HostId {
    /// Whether all bits are zero, which a fabrics host must not use.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for HostId {
    /// Written as a UUID, the way hosts keep it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(f, &self.0)
    }
}

/// A namespace's globally unique identifier (NGUID; base specification 4.7.1.4): the same wherever and whenever it is
/// offered, and never another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nguid([u8; 16]);

impl Nguid {
    /// From the field's bytes; `None` for all zeroes, by which a controller says that it has none.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// From 32 hexadecimal digits, with `-` between any of them or without; `None` for anything else, and for all zeroes.
    pub fn from_text(text: &str) -> Option<Self> {
        let (mut bytes, mut digits) = ([0_u8; 16], 0);
        for digit in text.chars().filter(|&c| c != '-') {
            let byte = bytes.get_mut(digits / 2)?;
            // One hexadecimal digit, so 4 bits.
            *byte = *byte << 4 | digit.to_digit(16)? as u8;
            digits += 1;
        }
        if digits == 32 { Self::new(bytes) } else { None }
    }
}

impl fmt::Display for Nguid {
    /// Written as a UUID, as the kernel does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(f, &self.0)
    }
}

/// Writes 16 bytes in the groups of a UUID.
pub(crate) fn write_uuid(f: &mut fmt::Formatter<'_>, bytes: &[u8; 16]) -> fmt::Result {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}
