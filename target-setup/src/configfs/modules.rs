//! Making sure that nvmet is there: modules loaded, configfs mounted.

use super::error::NvmetError;
use nvferry_wire::trid::TrType;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the machine's own trees are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Where configfs is mounted.
    pub configfs: PathBuf,
    /// Where nvferry keeps the records of what it made. It must not survive a reboot unnoticed longer than `/proc`'s
    /// boot id tells.
    pub records: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// Whether modules may be loaded and configfs mounted there.
    pub prepare: bool,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            configfs: "/sys/kernel/config".into(),
            records: "/run/nvferry/nvmet".into(),
            proc: "/proc".into(),
            sys: "/sys".into(),
            prepare: true,
        }
    }
}

impl Roots {
    /// Another configfs tree than the machine's, with its records: for looking and for tests. No module is loaded.
    #[must_use]
    pub fn other(configfs: impl Into<PathBuf>, records: impl Into<PathBuf>) -> Self {
        Self { configfs: configfs.into(), records: records.into(), prepare: false, ..Self::default() }
    }

    /// nvmet's own directory.
    #[must_use]
    pub fn nvmet(&self) -> PathBuf {
        self.configfs.join("nvmet")
    }

    /// What tells this boot from others.
    #[must_use]
    pub fn boot_id(&self) -> String {
        let id = fs::read_to_string(self.proc.join("sys/kernel/random/boot_id"));
        id.map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
    }
}

/// What must still be done before nvmet can be configured, as a person reads it.
#[must_use]
pub fn missing(roots: &Roots, trtype: TrType) -> Vec<String> {
    let mut todo = Vec::new();
    if !roots.nvmet().join("subsystems").is_dir() {
        if !is_mounted(roots) {
            todo.push(format!("mount  configfs at {}", roots.configfs.display()));
        }
        todo.push("load   module nvmet".to_owned());
    }
    if !is_loaded(roots, transport_module(trtype)) {
        todo.push(format!("load   module {} (where it is not built in)", transport_module(trtype)));
    }
    todo
}

/// Loads what is missing.
///
/// # Errors
/// The step that failed.
pub fn prepare(roots: &Roots, trtype: TrType) -> Result<(), NvmetError> {
    let there = || roots.nvmet().join("subsystems").is_dir();
    if !there() {
        if !roots.prepare {
            let step = format!("looking for {}", roots.nvmet().display());
            return Err(NvmetError::Unavailable { step, why: "there is no nvmet there".into() });
        }
        if !is_mounted(roots) {
            // Often built in; then this fails and mounting does not.
            let _ = modprobe("configfs");
            mount(&roots.configfs)?;
        }
        if !there() {
            let loaded = modprobe("nvmet");
            if !there() {
                let why = loaded.err().unwrap_or_else(|| {
                    format!("it is loaded, but there is no {}", roots.nvmet().join("subsystems").display())
                });
                return Err(NvmetError::Unavailable { step: "loading the kernel module nvmet".into(), why });
            }
        }
    }
    let module = transport_module(trtype);
    if roots.prepare
        && !is_loaded(roots, module)
        && let Err(why) = modprobe(module)
    {
        // Built in, perhaps: those show nowhere. The kernel says so when the port is opened.
        tracing::debug!(target: "nvferry::nvmet", module, why, "a module could not be loaded");
    }
    Ok(())
}

fn transport_module(trtype: TrType) -> &'static str {
    match trtype {
        TrType::Tcp => "nvmet-tcp",
        TrType::Rdma => "nvmet-rdma",
        TrType::Loop => "nvme-loop",
    }
}

fn is_loaded(roots: &Roots, module: &str) -> bool {
    roots.sys.join("module").join(module.replace('-', "_")).is_dir()
}

fn is_mounted(roots: &Roots) -> bool {
    let mounts = fs::read_to_string(roots.proc.join("self/mounts")).unwrap_or_default();
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.any(|words| {
        words.get(2) == Some(&"configfs") && words.get(1).is_some_and(|at| Path::new(at) == roots.configfs)
    })
}

fn mount(at: &Path) -> Result<(), NvmetError> {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("configfs", at, "configfs", flags, None::<&std::ffi::CStr>).map_err(|error| {
        NvmetError::Unavailable { step: format!("mounting configfs at {}", at.display()), why: error.to_string() }
    })
}

fn modprobe(module: &str) -> Result<(), String> {
    // Not in the path of everyone who may run it.
    let program = ["/sbin/modprobe", "/usr/sbin/modprobe"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(program.unwrap_or("modprobe"));
    let output = command.arg(module).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("modprobe cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(if said.is_empty() { format!("modprobe ended with {}", output.status) } else { said })
}
