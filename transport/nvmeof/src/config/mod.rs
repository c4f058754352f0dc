//! What can be set, and where it comes from: the caller's [`NvmeofOptions`] (flags) win over the text given to
//! `install_transport` (keys), which wins over the environment, which wins over the defaults.
//!
//! Everything is parsed and checked here, once; the rest of the room sees only [`Settings`].

mod env;
mod text;

pub use env::Environment;

use nvferry_auth::Secret;
use nvferry_auth::file::SecretFileError;
use nvferry_engine::EngineError;
use nvferry_engine::error::ErrorKind;
use nvferry_io::fast_paths::PathsError;
use nvferry_target::AllowedHosts;
use nvferry_target::configfs::PortOptions;
use nvferry_wire::pdu::Digests;
use nvferry_wire::trid::TridError;
use nvferry_wire::{HostId, Nqn, TransportId};
use std::time::Duration;

/// Worker threads asked for where nobody says otherwise.
pub const DEFAULT_WORKERS: usize = 8;
/// The most worker threads, and so the most I/O queue pairs to one target.
pub const MAX_WORKERS: usize = 64;
/// Commands under way on one queue pair where nobody says otherwise.
pub const DEFAULT_QUEUE_DEPTH: u16 = 128;
/// The deepest queue that can be asked for.
pub const MAX_QUEUE_DEPTH: u16 = 1024;
/// Keep-alive timeout where nobody says otherwise.
pub const DEFAULT_KATO: Duration = Duration::from_secs(15);
/// Seconds that the kernel reconnects where nobody says otherwise: for ever, as a controller is given up only when told.
const DEFAULT_CTRL_LOSS_TMO_S: i32 = -1;
/// Seconds between two of the kernel's attempts to reconnect where nobody says otherwise: the shortest that it takes.
const DEFAULT_RECONNECT_DELAY_S: u32 = 1;
/// The longest that can be asked for.
pub(crate) const MAX_RECONNECT_DELAY_S: u32 = 3600;
/// What a subsystem is called where nobody says otherwise: this and the server name.
pub const SUBNQN_PREFIX: &str = "nqn.2016-06.io.mc:";

/// How remote files are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HostDriver {
    /// What fits the target: `userspace` for tcp, `kernel` for rdma.
    #[default]
    Auto,
    /// Our own NVMe/TCP host.
    Userspace,
    /// The kernel's NVMe host, through libnvme; only in programs built with the feature `libnvme`.
    Kernel,
    /// Opens the target's files directly; only where target and host are the same machine.
    Local,
}

/// How local files are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TargetDriverKind {
    /// Our own NVMe/TCP target.
    #[default]
    Userspace,
    /// The kernel's target, configured through configfs; needs root.
    Nvmet,
}

/// What is wrong with an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A word without `=`.
    #[error("transport options: {0:?} is not of the form key=value")]
    NotKeyValue(String),
    /// A key that does not exist.
    #[error("transport options: unknown key {key:?}; the keys are {known}")]
    UnknownKey {
        /// As given.
        key: String,
        /// Those that exist.
        known: String,
    },
    /// A key given twice.
    #[error("transport options: {0} is given twice")]
    Duplicate(&'static str),
    /// A value that its option cannot have.
    #[error("{option}={value}: must be {must_be}")]
    Value {
        /// The key or the environment variable.
        option: &'static str,
        /// As given.
        value: String,
        /// What would do.
        must_be: &'static str,
    },
    /// A driver that was left out of this build.
    #[error("{option}={value}: {why}")]
    NotBuilt {
        /// The key.
        option: &'static str,
        /// As given.
        value: &'static str,
        /// How to get it, and what to use instead.
        why: &'static str,
    },
    /// The transport id within the text is wrong.
    #[error(transparent)]
    Trid(#[from] TridError),
    /// What tests force of the data path.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// A secret, or the file that it is in.
    #[error("{option}: {why}")]
    Secret {
        /// The key or the environment variable.
        option: &'static str,
        /// What is wrong; never the secret itself.
        why: String,
    },
    /// A target is to prove itself, and this host has nothing to prove itself with.
    #[error("a controller secret was given and no secret: targets prove themselves only to hosts that do; give both")]
    ControllerSecretAlone,
    /// A setting of the kernel's port, with another target.
    #[error(
        "inline_data_bytes and max_queue_entries are settings of the kernel's target: use them with target_driver=nvmet"
    )]
    NotNvmet,
    /// No subsystem name can be made of the server name.
    #[error("no subsystem name can be made of the server name {server_name:?} ({why}); give subnqn=")]
    ServerName {
        /// The engine's server name.
        server_name: String,
        /// What is wrong with it.
        why: String,
    },
}

impl OptionsError {
    fn secret_file(option: &'static str) -> impl Fn(SecretFileError) -> Self {
        move |error| Self::Secret { option, why: error.to_string() }
    }
}

impl From<OptionsError> for EngineError {
    fn from(error: OptionsError) -> Self {
        let kind = match error {
            OptionsError::NotBuilt { .. } => ErrorKind::NotImplemented,
            _ => ErrorKind::InvalidArgument,
        };
        Self::new(kind, error.to_string())
    }
}

/// What a caller sets; what it leaves out comes from the text, the environment or the defaults.
///
/// ```
/// use nvferry_nvmeof::{HostDriver, NvmeofOptions};
/// let options = NvmeofOptions::new().workers(2).queue_depth(64).host_driver(HostDriver::Userspace);
/// let transport = nvferry_nvmeof::factory(options);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NvmeofOptions {
    pub(crate) trid: Option<TransportId>,
    pub(crate) host_driver: Option<HostDriver>,
    pub(crate) target_driver: Option<TargetDriverKind>,
    pub(crate) workers: Option<usize>,
    pub(crate) queue_depth: Option<u16>,
    pub(crate) header_digest: Option<bool>,
    pub(crate) data_digest: Option<bool>,
    pub(crate) direct: Option<bool>,
    pub(crate) overwrite: Option<bool>,
    pub(crate) kato: Option<Duration>,
    pub(crate) host_nqn: Option<Nqn>,
    pub(crate) host_id: Option<HostId>,
    pub(crate) spin: Option<Duration>,
    pub(crate) port: PortOptions,
    pub(crate) ctrl_loss_tmo_s: Option<i32>,
    pub(crate) reconnect_delay_s: Option<u32>,
    pub(crate) secret: Option<Secret>,
    pub(crate) controller_secret: Option<Secret>,
    pub(crate) allowed_hosts: Option<AllowedHosts>,
    pub(crate) status_url: Option<String>,
}

impl NvmeofOptions {
    /// Nothing set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the own target listens; without it (and without one in the text) nothing is offered.
    #[must_use]
    pub fn transport_id(mut self, trid: TransportId) -> Self {
        self.trid = Some(trid);
        self
    }

    /// How remote files are reached.
    #[must_use]
    pub fn host_driver(mut self, driver: HostDriver) -> Self {
        self.host_driver = Some(driver);
        self
    }

    /// How local files are offered.
    #[must_use]
    pub fn target_driver(mut self, driver: TargetDriverKind) -> Self {
        self.target_driver = Some(driver);
        self
    }

    /// Worker threads, 1 to [`MAX_WORKERS`].
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers.clamp(1, MAX_WORKERS));
        self
    }

    /// Entries of each I/O queue, 2 to [`MAX_QUEUE_DEPTH`]; the target may grant fewer.
    #[must_use]
    pub fn queue_depth(mut self, entries: u16) -> Self {
        self.queue_depth = Some(entries.clamp(2, MAX_QUEUE_DEPTH));
        self
    }

    /// Digests to ask for; a target may not have them.
    #[must_use]
    pub fn digests(mut self, digests: Digests) -> Self {
        (self.header_digest, self.data_digest) = (Some(digests.header), Some(digests.data));
        self
    }

    /// Direct I/O (past the page cache) on the files that are offered, and on those that the local driver opens.
    #[must_use]
    pub fn direct(mut self, on: bool) -> Self {
        self.direct = Some(on);
        self
    }

    /// Keep-alive timeout, at least 100 ms.
    #[must_use]
    pub fn keep_alive(mut self, timeout: Duration) -> Self {
        self.kato = Some(timeout.max(Duration::from_millis(100)));
        self
    }

    /// The host's name, as targets' access lists know it.
    #[must_use]
    pub fn host_nqn(mut self, nqn: Nqn) -> Self {
        self.host_nqn = Some(nqn);
        self
    }

    /// Whether own files and devices that hold something (a file system, partitions, a mount) are offered all the
    /// same.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = Some(overwrite);
        self
    }

    /// The host's id.
    #[must_use]
    pub fn host_id(mut self, id: HostId) -> Self {
        self.host_id = Some(id);
        self
    }

    /// What is chosen about the port of the kernel's target (`target_driver` [`Nvmet`](TargetDriverKind::Nvmet) only).
    #[must_use]
    pub fn port(mut self, port: PortOptions) -> Self {
        self.port = port;
        self
    }

    /// The longest that a worker looks for completions before it sleeps; zero turns spinning off.
    #[must_use]
    pub fn spin(mut self, limit: Duration) -> Self {
        self.spin = Some(limit);
        self
    }

    /// How many seconds the kernel host driver lets the kernel reconnect before it gives a controller up (which is then
    /// connected anew); any negative number is for ever.
    #[must_use]
    pub fn ctrl_loss_tmo(mut self, seconds: i32) -> Self {
        self.ctrl_loss_tmo_s = Some(seconds.max(-1));
        self
    }

    /// How many seconds the kernel host driver lets the kernel wait between two attempts to reconnect, at least 1.
    #[must_use]
    pub fn reconnect_delay(mut self, seconds: u32) -> Self {
        self.reconnect_delay_s = Some(seconds.clamp(1, MAX_RECONNECT_DELAY_S));
        self
    }

    /// What this host proves to know, where a target asks (DH-HMAC-CHAP).
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// What targets have to prove to know. One that does not, or does not ask this host for a proof, is refused.
    #[must_use]
    pub fn controller_secret(mut self, secret: Secret) -> Self {
        self.controller_secret = Some(secret);
        self
    }

    /// Which hosts the own target lets in, and what they have to prove; every host unless set.
    #[must_use]
    pub fn allowed_hosts(mut self, hosts: AllowedHosts) -> Self {
        self.allowed_hosts = Some(hosts);
        self
    }

    /// Where this process tells what its target does now; published with the target's address, for whoever looks at the
    /// segment.
    #[must_use]
    pub fn status_url(mut self, url: impl Into<String>) -> Self {
        self.status_url = Some(url.into());
        self
    }

    /// These where they are set, else those.
    fn or(self, other: Self) -> Self {
        Self {
            trid: self.trid.or(other.trid),
            host_driver: self.host_driver.or(other.host_driver),
            target_driver: self.target_driver.or(other.target_driver),
            workers: self.workers.or(other.workers),
            queue_depth: self.queue_depth.or(other.queue_depth),
            header_digest: self.header_digest.or(other.header_digest),
            data_digest: self.data_digest.or(other.data_digest),
            direct: self.direct.or(other.direct),
            overwrite: self.overwrite.or(other.overwrite),
            kato: self.kato.or(other.kato),
            host_nqn: self.host_nqn.or(other.host_nqn),
            host_id: self.host_id.or(other.host_id),
            spin: self.spin.or(other.spin),
            port: PortOptions {
                inline_data_bytes: self.port.inline_data_bytes.or(other.port.inline_data_bytes),
                max_queue_entries: self.port.max_queue_entries.or(other.port.max_queue_entries),
            },
            ctrl_loss_tmo_s: self.ctrl_loss_tmo_s.or(other.ctrl_loss_tmo_s),
            reconnect_delay_s: self.reconnect_delay_s.or(other.reconnect_delay_s),
            secret: self.secret.or(other.secret),
            controller_secret: self.controller_secret.or(other.controller_secret),
            allowed_hosts: self.allowed_hosts.or(other.allowed_hosts),
            status_url: self.status_url.or(other.status_url),
        }
    }
}

/// Everything decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where the own target listens, its subsystem named; `None` offers nothing.
    pub(crate) offer: Option<TransportId>,
    pub(crate) target_driver: TargetDriverKind,
    /// Which hosts it lets in.
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) host_driver: HostDriver,
    pub(crate) workers: usize,
    pub(crate) direct: bool,
    /// Whether files and devices that hold something are offered all the same.
    pub(crate) overwrite: bool,
    /// The longest that a worker looks for completions before it sleeps.
    pub(crate) spin: Duration,
    /// What is chosen about the kernel's port.
    pub(crate) port: PortOptions,
    /// Where the target's status is told, to be published.
    pub(crate) status_url: Option<String>,
    pub(crate) host: HostSettings,
    pub(crate) kernel: KernelSettings,
}

/// What the kernel host driver asks of the kernel beside what all hosts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelSettings {
    /// How long the kernel reconnects before it gives a controller up, in seconds; -1 is for ever.
    pub(crate) ctrl_loss_tmo_s: i32,
    /// Between two attempts of the kernel to reconnect.
    pub(crate) reconnect_delay_s: u32,
}

/// How this host presents itself to targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    /// Its name.
    pub host_nqn: Nqn,
    /// Its id.
    pub host_id: HostId,
    /// Entries of each I/O queue to ask for.
    pub queue_depth: u16,
    /// Digests to ask for.
    pub digests: Digests,
    /// Keep-alive timeout.
    pub kato: Duration,
    /// What it proves to know where a target asks.
    pub secret: Option<Secret>,
    /// What targets have to prove to know.
    pub controller_secret: Option<Secret>,
}

/// Worker threads that are of use here: more than the machine has cores would only take turns.
fn useful_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Settings {
    /// Brings everything together for an engine of this name. What people ask for by flag or key counts as it is;
    /// the environment's and the default number of workers never exceed the machine's cores.
    pub(crate) fn resolve(
        flags: NvmeofOptions,
        text: Option<&str>,
        environment: &Environment,
        server_name: &str,
    ) -> Result<Self, OptionsError> {
        let keys = text.map_or_else(|| Ok(NvmeofOptions::default()), text::parse)?;
        let options = flags.or(keys);
        if options.port != PortOptions::default() && options.target_driver != Some(TargetDriverKind::Nvmet) {
            return Err(OptionsError::NotNvmet);
        }
        let offer = options.trid.map(|trid| with_subnqn(trid, server_name)).transpose()?;
        if options.host_driver == Some(HostDriver::Kernel) && !cfg!(feature = "libnvme") {
            let why = crate::host::NO_KERNEL_DRIVER;
            return Err(OptionsError::NotBuilt { option: "host_driver", value: "kernel", why });
        }
        let asked = environment.workers.unwrap_or(DEFAULT_WORKERS);
        let secret = options.secret.or_else(|| environment.secret.clone());
        let controller_secret = options.controller_secret.or_else(|| environment.controller_secret.clone());
        if controller_secret.is_some() && secret.is_none() {
            return Err(OptionsError::ControllerSecretAlone);
        }
        let host_id = options.host_id.unwrap_or_else(|| derived_host_id(server_name));
        Ok(Self {
            offer,
            target_driver: options.target_driver.unwrap_or_default(),
            allowed_hosts: options.allowed_hosts.unwrap_or_default(),
            host_driver: options.host_driver.unwrap_or_default(),
            workers: options.workers.unwrap_or_else(|| asked.min(useful_workers())).clamp(1, MAX_WORKERS),
            direct: options.direct.or(environment.direct).unwrap_or(true),
            overwrite: options.overwrite.unwrap_or(false),
            status_url: options.status_url,
            spin: options.spin.unwrap_or(Duration::ZERO),
            port: options.port,
            host: HostSettings {
                host_nqn: options.host_nqn.unwrap_or_else(|| Nqn::from_uuid(host_id.0)),
                host_id,
                queue_depth: options.queue_depth.unwrap_or(DEFAULT_QUEUE_DEPTH),
                digests: Digests {
                    header: options.header_digest.unwrap_or(environment.paths.header_digest),
                    data: options.data_digest.unwrap_or(environment.paths.data_digest),
                },
                kato: options.kato.unwrap_or(DEFAULT_KATO),
                secret,
                controller_secret,
            },
            kernel: KernelSettings {
                ctrl_loss_tmo_s: options.ctrl_loss_tmo_s.unwrap_or(DEFAULT_CTRL_LOSS_TMO_S),
                reconnect_delay_s: options.reconnect_delay_s.unwrap_or(DEFAULT_RECONNECT_DELAY_S),
            },
        })
    }
}

fn with_subnqn(trid: TransportId, server_name: &str) -> Result<TransportId, OptionsError> {
    if trid.subnqn.is_some() {
        return Ok(trid);
    }
    let subnqn = Nqn::new(format!("{SUBNQN_PREFIX}{server_name}"))
        .map_err(|why| OptionsError::ServerName { server_name: server_name.to_owned(), why: why.to_string() })?;
    Ok(trid.with_subnqn(subnqn))
}

/// A UUID (version 8) made from the server name: the same after a restart, another for every other engine.
fn derived_host_id(server_name: &str) -> HostId {
    // FNV-1a, which is the same everywhere and always.
    let hash = |basis: u64| {
        server_name.bytes().fold(basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let high = hash(0xcbf2_9ce4_8422_2325);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&high.to_be_bytes());
    id[8..].copy_from_slice(&hash(high).to_be_bytes());
    id[6] = (id[6] & 0x0F) | 0x80;
    id[8] = (id[8] & 0x3F) | 0x80;
    HostId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: NvmeofOptions, text: Option<&str>, environment: Environment) -> Result<Settings, OptionsError> {
        Settings::resolve(flags, text, &environment, "10.0.0.7:8081")
    }

    #[test]
    fn settings_of_the_kernels_port_are_for_the_kernels_target() {
        let text = "traddr=127.0.0.1 inline_data_bytes=8192";
        let error = resolve(NvmeofOptions::new(), Some(text), Environment::default()).unwrap_err();
        assert_eq!(error, OptionsError::NotNvmet);
        let text = format!("{text} target_driver=nvmet");
        let settings = resolve(NvmeofOptions::new(), Some(&text), Environment::default()).unwrap();
        assert_eq!(settings.port, PortOptions { inline_data_bytes: Some(8192), max_queue_entries: None });
    }

    #[test]
    fn a_flag_wins_over_a_key_and_a_key_over_the_environment() {
        let environment = Environment { direct: Some(false), workers: Some(1), ..Environment::default() };
        let text = Some("traddr=127.0.0.1 workers=3 direct=on");
        let settings = resolve(NvmeofOptions::new().workers(5), text, environment.clone()).unwrap();
        assert_eq!((settings.workers, settings.direct), (5, true));
        let settings = resolve(NvmeofOptions::new(), text, environment.clone()).unwrap();
        assert_eq!((settings.workers, settings.direct), (3, true));
        let settings = resolve(NvmeofOptions::new(), None, environment).unwrap();
        assert_eq!((settings.workers, settings.direct), (1, false));
        let settings = resolve(NvmeofOptions::new(), None, Environment::default()).unwrap();
        assert_eq!((settings.workers, settings.direct), (DEFAULT_WORKERS.min(useful_workers()), true));
    }

    #[test]
    fn the_subsystem_is_named_after_the_server_unless_told() {
        let settings = resolve(NvmeofOptions::new(), Some("traddr=127.0.0.1"), Environment::default()).unwrap();
        let name = settings.offer.unwrap().subnqn.unwrap();
        assert_eq!(name.as_str(), "nqn.2016-06.io.mc:10.0.0.7:8081");
        let text = "trtype=tcp adrfam=ipv4 traddr=127.0.0.1 trsvcid=4421 subnqn=nqn.2020-01.org.example:x";
        let trid = resolve(NvmeofOptions::new(), Some(text), Environment::default()).unwrap().offer.unwrap();
        assert_eq!((trid.trsvcid, trid.subnqn.unwrap().as_str()), (4421, "nqn.2020-01.org.example:x"));
    }

    #[test]
    fn a_server_name_that_no_subsystem_can_have_is_an_error() {
        let error = Settings::resolve(NvmeofOptions::new(), Some("traddr=127.0.0.1"), &Environment::default(), "a b");
        assert!(error.unwrap_err().to_string().contains("give subnqn="));
    }

    #[test]
    fn the_kernel_driver_is_refused_where_it_was_not_built() {
        let settings = resolve(NvmeofOptions::new(), Some("host_driver=kernel"), Environment::default());
        if cfg!(feature = "libnvme") {
            let kernel = settings.unwrap().kernel;
            assert_eq!((kernel.ctrl_loss_tmo_s, kernel.reconnect_delay_s), (-1, 1), "never given up, found again soon");
        } else {
            let error = EngineError::from(settings.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::NotImplemented);
            let message = error.to_string();
            assert!(message.contains("--features libnvme") && message.contains("host_driver=userspace"), "{message}");
        }
    }

    #[test]
    fn a_host_keeps_its_id_and_differs_from_others() {
        let id = |name| Settings::resolve(NvmeofOptions::new(), None, &Environment::default(), name).unwrap().host;
        assert_eq!(id("a").host_id, id("a").host_id);
        assert_ne!(id("a").host_id, id("b").host_id);
        assert!(!id("").host_id.is_zero());
        assert_eq!(id("a").host_nqn, Nqn::from_uuid(id("a").host_id.0));
    }
}
