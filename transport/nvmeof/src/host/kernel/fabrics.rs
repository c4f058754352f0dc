//! One attempt to connect, and what to tell a person when it fails.

use super::sysfs::Sysfs;
use nvferry_engine::EngineError;
use nvferry_engine::error::ErrorKind;
use nvferry_libnvme_sys::{ConnectError, ConnectRequest};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long loading a module may take.
const MODPROBE_PATIENCE: Duration = Duration::from_secs(5);
/// How much of the kernel's log is told.
const MAX_TOLD_LINES: usize = 4;
/// How much of it is looked at.
const MAX_LOG_LINES: usize = 256;

/// What connects the kernel to targets: libnvme, or a test.
pub(crate) trait Fabrics: Send + Sync + std::fmt::Debug {
    /// Connects; returns the controller's name. May block for as long as the kernel does.
    fn connect(&self, request: &ConnectRequest) -> Result<String, ConnectError>;
}

/// The number of an error that libnvme never got to make: it cannot be loaded, or is not in this build.
const NO_LIBRARY: i32 = -1;

/// libnvme, loaded when it is first needed.
#[derive(Debug)]
pub(crate) struct Libnvme;

impl Fabrics for Libnvme {
    #[cfg(feature = "libnvme")]
    fn connect(&self, request: &ConnectRequest) -> Result<String, ConnectError> {
        // Loading it again costs nothing: it stays in the process.
        let library = nvferry_libnvme_sys::LibNvme::load().map_err(|error| ConnectError {
            number: NO_LIBRARY,
            words: format!("{error}; or use host_driver=userspace, which needs no library"),
        })?;
        tracing::debug!(target: "nvferry::host", ?library, "libnvme loaded");
        library.connect(request)
    }

    #[cfg(not(feature = "libnvme"))]
    fn connect(&self, _request: &ConnectRequest) -> Result<String, ConnectError> {
        Err(ConnectError { number: NO_LIBRARY, words: NOT_BUILT.to_owned() })
    }
}

/// What is said where the feature is off.
pub(crate) const NOT_BUILT: &str = "this program was built without the kernel host driver: build it with --features libnvme (needs libnvme-dev and \
     libclang-dev), or use host_driver=userspace";

/// What may be seen of this machine beside the error.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// `/dev/nvme-fabrics` is there.
    pub(crate) has_fabrics_node: bool,
    /// The transport's module is in the kernel.
    pub(crate) has_transport_module: bool,
    /// What the kernel logged about NVMe meanwhile.
    pub(crate) kernel_log: Vec<String>,
    /// What loading the module said, where that was tried.
    pub(crate) modprobe: Option<String>,
}

/// Why a connection could not be made.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) error: EngineError,
    /// Trying again soon may help, without anybody doing anything.
    pub(crate) may_pass: bool,
    /// Somebody has connected to the same target as the same host meanwhile.
    pub(crate) already: bool,
}

/// What came of trying to connect.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The controller's name.
    pub(crate) outcome: Result<String, Refusal>,
    /// What the kernel logged about NVMe meanwhile.
    pub(crate) kernel_log: Vec<String>,
}

/// Connects once, loading modules where that is needed.
pub(crate) fn connect(fabrics: &dyn Fabrics, sysfs: &Sysfs, request: &ConnectRequest) -> Attempt {
    let module = format!("nvme-{}", request.transport);
    // The kernel loads the transport's module when it is asked to connect, but then it must have the node to be asked by.
    let modprobe = if sysfs.fabrics_node().exists() { None } else { modprobe(&module).err() };
    let log = KernelLog::begin(&sysfs.kernel_log());
    let result = fabrics.connect(request);
    let kernel_log = log.map_or_else(Vec::new, KernelLog::end);
    let outcome = result.map_err(|error| {
        let surroundings = Surroundings {
            has_fabrics_node: sysfs.fabrics_node().exists(),
            has_transport_module: sysfs.has_module(&module),
            kernel_log: kernel_log.clone(),
            modprobe,
        };
        explain(&error, request, &surroundings)
    });
    Attempt { outcome, kernel_log }
}

/// Whether the target has proved to the kernel that it knows the controller secret. The kernel tells that in its log only
/// (`nvme_auth_process_dhchap_success1` in drivers/nvme/host/auth.c).
pub(crate) fn has_proved_itself(kernel_log: &[String], controller: &str) -> bool {
    let proof = format!("nvme {controller}: qid 0: controller authenticated");
    kernel_log.iter().any(|line| line.contains(&proof))
}

/// The kernel has connected to a target that was not asked to prove itself.
pub(crate) fn unproved(request: &ConnectRequest) -> Refusal {
    let message = format!(
        "the kernel's NVMe host was connected to {} at {}:{} as {}, but its log (/dev/kmsg) does not say that the target has \
         proved itself, as this host's controller secret demands: it may be an impostor, or authenticate nobody",
        request.subsysnqn, request.traddr, request.trsvcid, request.hostnqn
    );
    Refusal { error: EngineError::new(ErrorKind::RejectHandshake, message), may_pass: false, already: false }
}

/// What the kernel's log says about authentication, for people; nothing where it says nothing.
fn auth_trouble(error: &ConnectError, request: &ConnectRequest, kernel_log: &[String]) -> Option<String> {
    let logged = |text: &str| kernel_log.iter().any(|line| line.contains(text));
    let is_key = error.number == number::NOKEY || error.words.contains("Key was rejected");
    // Not "authenticated", which is no trouble.
    let is_logged = logged("authentication") || logged("did not authenticate");
    if !is_key && !is_logged || error.number <= 0 || error.number == number::ALREADY {
        None
    } else if request.secret.is_none() {
        Some("the target wants authentication and no secret is set: give this host's with dhchap_secret_file=".into())
    } else if logged("controller authentication failed") || logged("controller did not authenticate") {
        Some(
            "the target did not prove itself: it may be an impostor, or have another controller secret than this host"
                .into(),
        )
    } else {
        Some("the target refuses this host's secret: is it the one that is set for this host there?".into())
    }
}

/// libnvme's numbers (`enum nvme_connect_err`); those that no version gives another meaning.
mod number {
    pub(super) const RESOLVE: i32 = 1000;
    pub(super) const AARG: i32 = 1004;
    pub(super) const OPEN: i32 = 1005;
    pub(super) const WRITE: i32 = 1006;
    pub(super) const INVAL_TR: i32 = 1009;
    pub(super) const ALREADY: i32 = 1012;
    pub(super) const INVAL: i32 = 1013;
    pub(super) const ADDRINUSE: i32 = 1014;
    pub(super) const NODEV: i32 = 1015;
    pub(super) const OPNOTSUPP: i32 = 1016;
    pub(super) const CONNREFUSED: i32 = 1017;
    pub(super) const ADDRNOTAVAIL: i32 = 1018;
    pub(super) const NOKEY: i32 = 1020;
    pub(super) const EPERM: i32 = 1;
    pub(super) const EACCES: i32 = 13;
    pub(super) const ETIMEDOUT: i32 = 110;
    pub(super) const ECONNREFUSED: i32 = 111;
    pub(super) const EHOSTUNREACH: i32 = 113;
}

/// What to tell a person.
pub(crate) fn explain(error: &ConnectError, request: &ConnectRequest, seen: &Surroundings) -> Refusal {
    use number::*;
    let module = format!("nvme-{}", request.transport);
    let words = &error.words;
    let says = |text: &str| words.contains(text);
    let no_permission = || {
        (
            ErrorKind::Context,
            "connecting the kernel needs root (CAP_SYS_ADMIN): run as root, or use host_driver=userspace",
        )
    };
    let auth_trouble = auth_trouble(error, request, &seen.kernel_log);
    let (kind, hint): (ErrorKind, String) = match error.number {
        OPEN if !seen.has_fabrics_node => {
            let tried = seen.modprobe.as_ref().map_or_else(String::new, |why| format!(" (tried: {why})"));
            let hint = format!(
                "there is no /dev/nvme-fabrics: load the kernel's driver with `modprobe {module}` as root{tried}, or use \
                 host_driver=userspace, which needs none"
            );
            (ErrorKind::Context, hint)
        }
        NO_LIBRARY => own((ErrorKind::Context, "nothing was attempted")),
        OPEN | EPERM | EACCES => own(no_permission()),
        WRITE if says("Permission denied") || says("Operation not permitted") => own(no_permission()),
        INVAL | INVAL_TR if !seen.has_transport_module => {
            let hint = format!("the kernel has no {module}: load it with `modprobe {module}` as root");
            (ErrorKind::Context, hint)
        }
        INVAL | INVAL_TR | AARG => {
            (ErrorKind::InvalidArgument, "the kernel takes one of the options not; its log (dmesg) names it".to_owned())
        }
        ADDRINUSE => own((
            ErrorKind::InvalidArgument,
            "another connection uses this host NQN with another host id, or the reverse: set hostnqn= and hostid= to a pair",
        )),
        OPNOTSUPP => {
            own((ErrorKind::NotImplemented, "this kernel lacks what was asked for, such as digests or a transport"))
        }
        NODEV => own((ErrorKind::DeviceNotFound, "there is no network device for that address")),
        CONNREFUSED | ECONNREFUSED => {
            own((ErrorKind::Socket, "nobody listens there: start the target, check address and port"))
        }
        RESOLVE | ADDRNOTAVAIL | EHOSTUNREACH => own((ErrorKind::Socket, "the address cannot be reached from here")),
        ETIMEDOUT => own((ErrorKind::Socket, "the target did not answer: check the address, and firewalls between")),
        WRITE if says("timed out") || says("No route") || says("unreachable") || says("reset by peer") => {
            own((ErrorKind::Socket, "the target cannot be reached: check the address, and firewalls between"))
        }
        WRITE if says("Connection refused") => own((ErrorKind::Socket, "nobody listens there: start the target")),
        ALREADY => own((ErrorKind::Socket, "the same host is connected to it already, or just connects")),
        WRITE => own((
            ErrorKind::RejectHandshake,
            "the target was reached and refused: it lacks that subsystem, or this host's NQN is not on its list",
        )),
        _ => own((ErrorKind::Socket, "the kernel's log (dmesg) may say more")),
    };
    // Another secret does not come by itself.
    let may_pass = matches!(kind, ErrorKind::Socket | ErrorKind::RejectHandshake) && auth_trouble.is_none();
    let (kind, hint) = auth_trouble.map_or((kind, hint), |hint| (ErrorKind::RejectHandshake, hint));
    let log = match seen.kernel_log.as_slice() {
        [] => String::new(),
        lines => format!("; the kernel's log: {}", lines[..lines.len().min(MAX_TOLD_LINES)].join("; ")),
    };
    let mut message = format!(
        "cannot connect the kernel's NVMe host to {} at {}:{} over {} as {}: {words}; {hint}{log}",
        request.subsysnqn, request.traddr, request.trsvcid, request.transport, request.hostnqn
    );
    // The kernel's log repeats options that it does not know.
    for secret in [&request.secret, &request.controller_secret].into_iter().flatten() {
        message = message.replace(secret.expose().as_str(), "…");
    }
    Refusal { error: EngineError::new(kind, message), may_pass, already: error.number == ALREADY }
}

fn own((kind, hint): (ErrorKind, &str)) -> (ErrorKind, String) {
    (kind, hint.to_owned())
}

/// Loads a module, as root; says what came of it where that was not success.
fn modprobe(module: &str) -> Result<(), String> {
    let mut command = Command::new("modprobe");
    command.arg(module).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("modprobe cannot be run: {error}"))?;
    let until = Instant::now() + MODPROBE_PATIENCE;
    let mut pause = Duration::from_millis(2);
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("modprobe {module}: {status}")),
            Ok(None) if Instant::now() < until => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("modprobe {module} did not end in {} s", MODPROBE_PATIENCE.as_secs()));
            }
        }
    }
}

/// The kernel's log from now on; only root may read it.
struct KernelLog(std::fs::File);

impl KernelLog {
    fn begin(path: &Path) -> Option<Self> {
        const O_NONBLOCK: i32 = 0o4000;
        let mut log = std::fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).ok()?;
        log.seek(SeekFrom::End(0)).ok()?;
        Some(Self(log))
    }

    /// What it said about NVMe since.
    fn end(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        // Each read gives one record: "priority,number,time,flags;text\n".
        while let Ok(len) = self.0.read(&mut record) {
            if len == 0 || lines.len() >= MAX_LOG_LINES {
                break;
            }
            let text = String::from_utf8_lossy(&record[..len]);
            // Lines that begin with a blank belong to the one before.
            let texts = text.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once(';'));
            // What it says of our own wish to reconnect for ever is no reason.
            let about_nvme = |line: &&str| line.contains("nvme") && !line.contains("will reconnect forever");
            lines.extend(texts.map(|(_, line)| line.trim()).filter(about_nvme).map(str::to_owned));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_auth::Secret;

    fn request() -> ConnectRequest {
        ConnectRequest {
            transport: "tcp".into(),
            traddr: "10.0.0.7".into(),
            trsvcid: "4420".into(),
            subsysnqn: "nqn.2016-06.io.mc:node7".into(),
            hostnqn: "nqn.2014-08.org.nvmexpress:uuid:1".into(),
            hostid: "1".into(),
            secret: None,
            controller_secret: None,
            options: Default::default(),
        }
    }

    #[test]
    fn p13_what_the_kernel_logs_of_authentication_is_told_and_secrets_are_not() {
        let secret = Secret::generate(None).unwrap();
        let set = ConnectRequest { secret: Some(secret.clone()), controller_secret: Some(secret.clone()), ..request() };
        let exposed = secret.expose();
        let unknown = format!("nvme_fabrics: unknown parameter or missing value 'dhchap_secret={}'", *exposed);
        for (request, number, line, needle, may_pass) in [
            (request(), 1006, "nvme nvme0: qid 0: authentication setup failed", "no secret is set", false),
            (request(), 1020, "", "no secret is set", false),
            (set.clone(), 1017, "nvme nvme0: qid 0: authentication failed", "refuses this host's secret", false),
            (set.clone(), 1006, "nvme nvme0: qid 0: controller authentication failed", "did not prove itself", false),
            (set.clone(), 1006, "nvme nvme0: qid 0: controller did not authenticate", "did not prove itself", false),
            (set.clone(), 1017, "nvme nvme0: qid 0: authenticated with hash hmac(sha256)", "nobody listens", true),
            (set.clone(), 1013, unknown.as_str(), "one of the options", false),
            (set.clone(), 1017, "nvme nvme0: failed to connect socket: -111", "nobody listens", true),
        ] {
            let kernel_log = vec![line.to_owned()];
            let seen = Surroundings { has_fabrics_node: true, has_transport_module: true, kernel_log, modprobe: None };
            let error = ConnectError { number, words: format!("words that repeat {}", *exposed) };
            let refusal = explain(&error, &request, &seen);
            let message = refusal.error.to_string();
            assert!(message.contains(needle), "{number} {line}: {message}");
            assert_eq!(refusal.may_pass, may_pass, "{message}");
            assert!(request.secret.is_none() || !message.contains(&exposed[10..30]), "{message}");
        }
    }

    #[test]
    fn each_failure_says_what_on_what_why_and_what_to_do() {
        let all =
            Surroundings { has_fabrics_node: true, has_transport_module: true, kernel_log: Vec::new(), modprobe: None };
        let bare = Surroundings {
            has_fabrics_node: false,
            has_transport_module: false,
            modprobe: Some("modprobe nvme-tcp: exit status: 1".into()),
            ..all.clone()
        };
        let refuses = Surroundings { kernel_log: vec!["Connect for subsystem x is not allowed".into()], ..all.clone() };
        let write = "failed to write to nvme-fabrics device (Failed to write to /dev/nvme-fabrics: ";
        let cases = [
            (1005, "x".to_owned(), &bare, "modprobe nvme-tcp` as root (tried: modprobe nvme-tcp: exit", false),
            (1005, "x".to_owned(), &all, "needs root", false),
            (1006, format!("{write}Operation not permitted)"), &all, "needs root", false),
            (1006, format!("{write}Connection timed out)"), &all, "cannot be reached", true),
            (
                1006,
                format!("{write}Input/output error)"),
                &refuses,
                "not on its list; the kernel's log: Connect for",
                true,
            ),
            (1012, "already connected".to_owned(), &all, "connected to it already", true),
            (1013, "invalid".to_owned(), &bare, "the kernel has no nvme-tcp: load it with `modprobe nvme-tcp`", false),
            (1013, "invalid".to_owned(), &all, "one of the options", false),
            (1014, "hostnqn in use".to_owned(), &all, "hostnqn= and hostid=", false),
            (1017, "connection refused".to_owned(), &all, "nobody listens there", true),
            (13, "Permission denied".to_owned(), &all, "needs root", false),
            (9999, "something new".to_owned(), &all, "dmesg", true),
        ];
        for (number, words, seen, needle, may_pass) in cases {
            let refusal = explain(&ConnectError { number, words: words.clone() }, &request(), seen);
            let message = refusal.error.to_string();
            assert!(message.contains(needle), "{number} {words}: {message}");
            for needle in ["10.0.0.7:4420", "nqn.2016-06.io.mc:node7", "over tcp", "uuid:1", &words] {
                assert!(message.contains(needle), "{message}");
            }
            assert_eq!(refusal.may_pass, may_pass, "{message}");
            assert_eq!(refusal.already, number == 1012);
        }
    }
}
