//! In-band authentication (base specification 8.13): the commands that carry it, and DH-HMAC-CHAP's messages.
//!
//! ```text
//! host -- Negotiate -->  controller     which hashes and DH groups the host has
//!      <-- Challenge --                 the controller's choice, C1, and g^x
//!      -- Reply ------>                 the host's response, and C2 where it wants the controller to prove itself, g^y
//!      <-- Success1 ---                 the controller's response, where it was asked for one
//!      -- Success2 --->                 only where it was
//! ```
//!
//! Either side ends the exchange with Failure1 (controller) or Failure2 (host). Messages travel in the data of
//! [`AuthSend`] and [`AuthReceive`]. Only bytes here: what the responses are made of is for others to compute.

mod command;
mod message;

pub use command::{AuthReceive, AuthSend, MAX_AUTH_DATA_BYTES};
pub use message::{
    AuthMessage, Challenge, Failure, FailureReason, MAX_CHALLENGE_BYTES, MAX_DH_VALUE_BYTES, MAX_MESSAGE_BYTES,
    Negotiate, Reply, Success1,
};

use std::fmt;

/// The hash functions of DH-HMAC-CHAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum AuthHash {
    /// SHA-256.
    Sha256 = 1,
    /// SHA-384.
    Sha384 = 2,
    /// SHA-512.
    Sha512 = 3,
}

impl AuthHash {
    /// All there are, by number.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The hash with this identifier.
    #[must_use]
    pub fn from_u8(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&hash| hash as u8 == id)
    }

    /// Bytes of its result.
    #[must_use]
    pub fn len_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// As Linux writes it in nvmet's `dhchap_hash`.
    #[must_use]
    pub fn kernel_name(self) -> &'static str {
        match self {
            Self::Sha256 => "hmac(sha256)",
            Self::Sha384 => "hmac(sha384)",
            Self::Sha512 => "hmac(sha512)",
        }
    }
}

impl fmt::Display for AuthHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        })
    }
}

/// The Diffie-Hellman groups of DH-HMAC-CHAP (RFC 7919).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DhGroup {
    /// None: the challenge is used as it is.
    Null = 0,
    /// ffdhe2048.
    Ffdhe2048 = 1,
    /// ffdhe3072.
    Ffdhe3072 = 2,
    /// ffdhe4096.
    Ffdhe4096 = 3,
    /// ffdhe6144.
    Ffdhe6144 = 4,
    /// ffdhe8192.
    Ffdhe8192 = 5,
}

impl DhGroup {
    /// All there are, by number.
    pub const ALL: [Self; 6] =
        [Self::Null, Self::Ffdhe2048, Self::Ffdhe3072, Self::Ffdhe4096, Self::Ffdhe6144, Self::Ffdhe8192];

    /// The group with this identifier.
    #[must_use]
    pub fn from_u8(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&group| group as u8 == id)
    }

    /// Bytes of its values; 0 for none.
    #[must_use]
    pub fn len_bytes(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Ffdhe2048 => 256,
            Self::Ffdhe3072 => 384,
            Self::Ffdhe4096 => 512,
            Self::Ffdhe6144 => 768,
            Self::Ffdhe8192 => 1024,
        }
    }

    /// As Linux writes it in nvmet's `dhchap_dhgroup`.
    #[must_use]
    pub fn kernel_name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ffdhe2048 => "ffdhe2048",
            Self::Ffdhe3072 => "ffdhe3072",
            Self::Ffdhe4096 => "ffdhe4096",
            Self::Ffdhe6144 => "ffdhe6144",
            Self::Ffdhe8192 => "ffdhe8192",
        }
    }
}
