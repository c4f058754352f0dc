//! The desired target as plain data: one subsystem on one port, its namespaces, and who may connect.
//!
//! Every driver reads the same description: the userspace target serves it, the kernel's nvmet is configured by it.

use crate::driver::AllowedHostStatus;
use nvferry_auth::file::HostLine;
use nvferry_auth::{AuthHash, DhGroup, Secret};
use nvferry_wire::trid::TrType;
use nvferry_wire::{Nqn, Nsid, TransportId};
use std::path::PathBuf;

/// Model number that controllers tell unless another is asked for.
pub const DEFAULT_MODEL: &str = "nvferry";

/// A target: one subsystem, listening on one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// Where it listens. Port 0 asks for any free one. The subsystem is the one below, whatever is named here.
    pub transport: TransportId,
    /// What the subsystem is called.
    pub subsystem: Nqn,
    /// What it offers from the start; more can be added later.
    pub namespaces: Vec<NamespaceSpec>,
    /// Which hosts may connect.
    pub allowed_hosts: AllowedHosts,
    /// Serial number, at most 20 ASCII characters. The same after a restart, so that hosts know the subsystem again.
    pub serial: String,
    /// Model number, at most 40 ASCII characters.
    pub model: String,
}

impl TargetSpec {
    /// A target at `transport` that offers nothing yet and lets every host in. Its serial number comes from the
    /// subsystem's name.
    #[must_use]
    pub fn new(transport: TransportId, subsystem: Nqn) -> Self {
        let serial = format!("{:016x}", fnv1a_64(subsystem.as_str().as_bytes(), FNV_BASIS));
        Self {
            transport,
            subsystem,
            namespaces: Vec::new(),
            allowed_hosts: AllowedHosts::Any,
            serial,
            model: DEFAULT_MODEL.to_owned(),
        }
    }
}

/// Which hosts may connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AllowedHosts {
    /// Every host that reaches the port.
    #[default]
    Any,
    /// Only these hosts.
    Only(Vec<AllowedHost>),
}

impl AllowedHosts {
    /// Whether the host with this name may connect. What it then has to prove, [`Self::auth`] tells.
    #[must_use]
    pub fn allows(&self, host: &Nqn) -> bool {
        match self {
            Self::Any => true,
            Self::Only(hosts) => hosts.iter().any(|allowed| allowed.nqn == *host),
        }
    }

    /// Whether any host has to prove itself.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        matches!(self, Self::Only(hosts) if hosts.iter().any(|host| host.auth.is_some()))
    }

    /// The list as people are told of it.
    pub(crate) fn status(&self) -> Option<Vec<AllowedHostStatus>> {
        let Self::Only(hosts) = self else { return None };
        let status = |it: &AllowedHost| AllowedHostStatus {
            host: it.nqn.clone(),
            has_secret: it.auth.is_some(),
            has_controller_secret: it.auth.as_ref().is_some_and(|auth| auth.controller_secret.is_some()),
        };
        Some(hosts.iter().map(status).collect())
    }

    /// Says so when whoever reaches the address may read and write everything.
    pub(crate) fn warn_if_wide_open(&self, address: &TransportId) {
        let stays_here = address.trtype == TrType::Loop || address.traddr.is_loopback();
        if *self == Self::Any && !stays_here {
            tracing::warn!(
                target: "nvferry::target", %address,
                "this target lets every host in that reaches it: name those that may connect, with a secret each"
            );
        }
    }

    /// What the host with this name has to prove, if anything.
    #[must_use]
    pub fn auth(&self, host: &Nqn) -> Option<&HostAuth> {
        match self {
            Self::Any => None,
            Self::Only(hosts) => hosts.iter().find(|allowed| allowed.nqn == *host)?.auth.as_ref(),
        }
    }
}

/// A host that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// Its name.
    pub nqn: Nqn,
    /// How it proves that it is the one; `None` believes its name.
    pub auth: Option<HostAuth>,
}

/// Whoever knows the name may connect.
impl From<Nqn> for AllowedHost {
    fn from(nqn: Nqn) -> Self {
        Self { nqn, auth: None }
    }
}

impl From<HostLine> for AllowedHost {
    fn from(line: HostLine) -> Self {
        let auth = line.secret.map(|secret| {
            let usual = HostAuth::new(secret);
            HostAuth {
                controller_secret: line.controller_secret,
                hash: line.hash.unwrap_or(usual.hash),
                group: line.group.unwrap_or(usual.group),
                ..usual
            }
        });
        Self { nqn: line.nqn, auth }
    }
}

/// How a host proves who it is: DH-HMAC-CHAP (base specification 8.13.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAuth {
    /// What the host knows (`dhchap_key`).
    pub secret: Secret,
    /// What the target knows, and proves to a host that asks for it (`dhchap_ctrl_key`). Without it, such hosts are
    /// refused.
    pub controller_secret: Option<Secret>,
    /// The hash of the exchange (`dhchap_hash`).
    pub hash: AuthHash,
    /// The Diffie-Hellman group of the exchange (`dhchap_dhgroup`). With one, who records the exchange cannot try
    /// secrets at leisure.
    pub group: DhGroup,
}

impl HostAuth {
    /// The host proves that it knows `secret`, with SHA-256 and ffdhe2048.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self { secret, controller_secret: None, hash: AuthHash::Sha256, group: DhGroup::Ffdhe2048 }
    }
}

/// A file or block device to offer as a namespace.
///
/// The namespace holds exactly the first [`size_bytes`](Self::size_bytes) bytes of the file. NVMe counts in blocks, so
/// where the size is no multiple of the block the last block is only partly backed: the bytes beyond the size read
/// as zeroes, what is written to them is dropped, and the file never grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Its id in the subsystem.
    pub nsid: Nsid,
    /// The file or block device.
    pub path: PathBuf,
    /// How many bytes of it to offer, from its start.
    pub size_bytes: u64,
    /// Direct I/O (past the page cache) instead of buffered.
    pub direct: bool,
    /// Refuse everything that changes data.
    pub read_only: bool,
    /// The logical block, a power of two from 512 to 65536; `None` chooses the smallest that the storage takes.
    pub block_bytes: Option<u32>,
    /// Offer it even if it holds something: a file system, partitions, a mount (see [`crate::guard`]).
    pub overwrite: bool,
}

impl NamespaceSpec {
    /// The first `size_bytes` of the file at `path`, with Direct I/O, writable, in the smallest block that it takes.
    #[must_use]
    pub fn new(nsid: Nsid, path: impl Into<PathBuf>, size_bytes: u64) -> Self {
        Self {
            nsid,
            path: path.into(),
            size_bytes,
            direct: true,
            read_only: false,
            block_bytes: None,
            overwrite: false,
        }
    }

    /// A UUID (version 8) that stays the same for this namespace of this subsystem over restarts, whichever driver
    /// serves it, so that hosts recognise it again.
    #[must_use]
    pub fn uuid(&self, subsystem: &Nqn) -> [u8; 16] {
        let mut name = subsystem.as_str().as_bytes().to_vec();
        name.extend_from_slice(&self.nsid.0.to_le_bytes());
        // A relative path names another file elsewhere.
        let path = std::path::absolute(&self.path);
        name.extend_from_slice(path.as_deref().unwrap_or(&self.path).as_os_str().as_encoded_bytes());
        let high = fnv1a_64(&name, FNV_BASIS);
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&high.to_be_bytes());
        uuid[8..].copy_from_slice(&fnv1a_64(&name, high).to_be_bytes());
        uuid[6] = (uuid[6] & 0x0F) | 0x80;
        uuid[8] = (uuid[8] & 0x3F) | 0x80;
        uuid
    }
}

pub(crate) const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: stable over versions and machines, which the standard library's hashes do not promise.
pub(crate) fn fnv1a_64(bytes: &[u8], basis: u64) -> u64 {
    bytes.iter().fold(basis, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn p13_a_target_that_is_open_to_all_is_warned_of_once() {
        let host = Nqn::new("nqn.2020-01.org.example:h").unwrap();
        let warnings = |address: &str, allowed_hosts: &AllowedHosts| {
            let count = Arc::new(AtomicUsize::new(0));
            let address = address.parse().unwrap();
            tracing::subscriber::with_default(Warnings(Arc::clone(&count)), || {
                allowed_hosts.warn_if_wide_open(&address);
            });
            count.load(Ordering::Relaxed)
        };
        let named = AllowedHosts::Only(vec![host.into()]);
        for address in ["0.0.0.0", "10.0.0.1", "::", "fd00::1"] {
            let address = format!("traddr={address} trsvcid=4420");
            assert_eq!(warnings(&address, &AllowedHosts::Any), 1, "{address}");
            assert_eq!(warnings(&address, &named), 0, "{address}");
            assert_eq!(warnings(&address, &AllowedHosts::Only(vec![])), 0, "{address}");
        }
        for address in ["traddr=127.0.0.1 trsvcid=4420", "traddr=127.9.9.9 trsvcid=1", "traddr=::1 trsvcid=1"] {
            assert_eq!(warnings(address, &AllowedHosts::Any), 0, "{address}");
        }
    }
}
