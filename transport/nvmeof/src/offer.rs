//! The target side: files of this engine, offered through a target driver.

use crate::config::{Environment, NvmeofOptions, Settings, TargetDriverKind};
use crate::trid;
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{EngineError, FileBufferDesc, FileBufferId, SegmentDesc};
use nvferry_target::configfs::{NvmetError, PortOptions};
use nvferry_target::{
    AllowedHosts, NamespaceInfo, NamespaceSpec, NvmetOptions, NvmetTarget, TargetDriver, TargetError, TargetSpec,
    UserspaceOptions, UserspaceTarget,
};
use nvferry_wire::{Nguid, Nqn, Nsid, TransportId};
use parking_lot::Mutex;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The target that an engine of this name would start if its transport were installed with this text: with the namespaces
/// of these files, in this order, numbered from 1; and how the kernel would be asked to do it.
///
/// # Errors
/// The text or the environment cannot be understood, or the text has no address to listen on.
pub fn desired_target(
    server_name: &str,
    text: &str,
    files: impl IntoIterator<Item = (PathBuf, u64)>,
) -> Result<(TargetSpec, NvmetOptions), EngineError> {
    let settings = Settings::resolve(NvmeofOptions::new(), Some(text), &Environment::read()?, server_name)?;
    let offer = Offer::new(&settings, server_name);
    let Some((listen, subnqn)) = &offer.listen else { return Err(nowhere_to_listen("files")) };
    let mut spec = offer.spec(listen, subnqn);
    let namespace = |(id, (path, size_bytes))| offer.namespace(Nsid(id), path, size_bytes);
    spec.namespaces = (1..).zip(files).map(namespace).collect();
    Ok((spec, offer.nvmet_options()))
}

fn nowhere_to_listen(what: impl Display) -> EngineError {
    let message = format!(
        "cannot offer {what}: the transport was installed without an address to listen on; give it one, like \
         \"trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4420\""
    );
    EngineError::new(ErrorKind::InvalidArgument, message)
}

/// What this engine offers, if it was told where to listen.
pub(crate) struct Offer {
    listen: Option<(TransportId, Nqn)>,
    driver: TargetDriverKind,
    allowed_hosts: AllowedHosts,
    direct: bool,
    overwrite: bool,
    spin: Duration,
    port: PortOptions,
    /// Where the target's status is told.
    status_url: Option<String>,
    /// The address in the server name: what hosts use where the target listens on all of them.
    public_address: Option<IpAddr>,
    /// Started with the first file.
    target: Mutex<Option<Arc<dyn TargetDriver>>>,
}

impl Offer {
    pub(crate) fn new(settings: &Settings, server_name: &str) -> Self {
        let listen = settings.offer.clone().and_then(|trid| trid.subnqn.clone().map(|subnqn| (trid, subnqn)));
        let Settings { target_driver: driver, direct, overwrite, spin, port, .. } = *settings;
        Self {
            listen,
            driver,
            allowed_hosts: settings.allowed_hosts.clone(),
            direct,
            overwrite,
            spin,
            port,
            status_url: settings.status_url.clone(),
            public_address: address_in(server_name),
            target: Mutex::new(None),
        }
    }

    /// Offers a file; the first one starts the target.
    pub(crate) fn register(
        &self,
        id: FileBufferId,
        path: &Path,
        size_bytes: u64,
    ) -> Result<FileBufferDesc, EngineError> {
        let Some((listen, subnqn)) = &self.listen else {
            return Err(nowhere_to_listen(path.display()));
        };
        let namespace = self.namespace(Nsid(id.0), path, size_bytes);
        let mut target = self.target.lock();
        let running = target.clone();
        let info = match &running {
            Some(running) => running.add_namespace(namespace),
            None => self.start(listen, subnqn, namespace).map(|(started, info)| {
                *target = Some(started);
                info
            }),
        };
        let info = info.map_err(|error| engine_error(&error))?;
        let desc = FileBufferDesc::new(id, path.to_string_lossy(), info.size_bytes, info.block_bytes.into());
        let nguid = Nguid::new(info.uuid).map(|nguid| nguid.to_string());
        Ok(FileBufferDesc { identity: nguid, ..desc })
    }

    fn nvmet_options(&self) -> NvmetOptions {
        NvmetOptions { port: self.port, ..NvmetOptions::default() }
    }

    /// The target, without files.
    fn spec(&self, listen: &TransportId, subnqn: &Nqn) -> TargetSpec {
        let allowed_hosts = self.allowed_hosts.clone();
        TargetSpec { allowed_hosts, ..TargetSpec::new(listen.clone(), subnqn.clone()) }
    }

    fn namespace(&self, nsid: Nsid, path: impl Into<PathBuf>, size_bytes: u64) -> NamespaceSpec {
        let (direct, overwrite) = (self.direct, self.overwrite);
        NamespaceSpec { direct, overwrite, ..NamespaceSpec::new(nsid, path, size_bytes) }
    }

    /// Starts the target with its first file: no host shall find it without any.
    fn start(
        &self,
        listen: &TransportId,
        subnqn: &Nqn,
        first: NamespaceSpec,
    ) -> Result<(Arc<dyn TargetDriver>, NamespaceInfo), TargetError> {
        let mut spec = self.spec(listen, subnqn);
        let nsid = first.nsid;
        spec.namespaces.push(first);
        let target: Arc<dyn TargetDriver> = match self.driver {
            TargetDriverKind::Userspace => {
                let mut options = UserspaceOptions::default();
                options.spin = self.spin;
                UserspaceTarget::start(spec, options)?
            }
            TargetDriverKind::Nvmet => NvmetTarget::start(spec, self.nvmet_options())?,
        };
        tracing::info!(target: "nvferry::target", address = %target.address(), "serving");
        match target.status().namespaces.into_iter().find(|it| it.info.nsid == nsid) {
            Some(offered) => Ok((target, offered.info)),
            None => Err(TargetError::UnknownNamespace { nsid }),
        }
    }

    /// Takes a file back.
    pub(crate) fn unregister(&self, id: FileBufferId, deadline: Instant) -> Result<(), EngineError> {
        let target = self.target.lock().clone();
        let Some(target) = target else {
            return Err(EngineError::new(ErrorKind::DeviceNotFound, format!("file {id} is not offered")));
        };
        target.remove_namespace(Nsid(id.0), deadline).map_err(|error| engine_error(&error))
    }

    /// Writes where the target is into this engine's own segment.
    pub(crate) fn describe(&self, segment: &mut SegmentDesc) {
        let Some((listen, subnqn)) = &self.listen else { return };
        let running = self.target.lock().as_ref().map(|target| target.address());
        let mut address = running.unwrap_or_else(|| listen.clone()).with_subnqn(subnqn.clone());
        if address.traddr.is_unspecified()
            && let Some(public) = self.public_address
        {
            address.traddr = public;
        }
        segment.protocol = crate::PROTOCOL.to_owned();
        trid::describe(segment, &address);
        if let Some(url) = &self.status_url {
            trid::add_status_url(segment, url);
        }
    }

    /// Stops the target.
    pub(crate) fn stop(&self, deadline: Instant) {
        // It can be looked at while it ends.
        let Some(target) = self.target() else { return };
        if let Err(error) = target.stop(deadline) {
            tracing::warn!(target: "nvferry::target", %error, "the target did not stop in order");
        }
        *self.target.lock() = None;
    }

    /// The running target.
    pub(crate) fn target(&self) -> Option<Arc<dyn TargetDriver>> {
        self.target.lock().clone()
    }
}

/// The address that a server name such as `10.0.0.7:8081` begins with.
fn address_in(server_name: &str) -> Option<IpAddr> {
    if let Ok(socket) = server_name.parse::<std::net::SocketAddr>() {
        return Some(socket.ip());
    }
    server_name.parse().ok()
}

fn engine_error(error: &TargetError) -> EngineError {
    let kind = match error {
        TargetError::UnknownNamespace { .. } => ErrorKind::DeviceNotFound,
        TargetError::Bind(_) | TargetError::Nvmet(NvmetError::PortTaken { .. }) => ErrorKind::Socket,
        TargetError::StillBusy { .. } => ErrorKind::Endpoint,
        TargetError::Os { .. } | TargetError::Stopped | TargetError::Nvmet(_) => ErrorKind::Context,
        _ => ErrorKind::InvalidArgument,
    };
    EngineError::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, NvmeofOptions};

    fn with(text: Option<&str>, server_name: &str) -> Offer {
        let flags = NvmeofOptions::new().direct(false);
        Offer::new(&Settings::resolve(flags, text, &Environment::default(), server_name).unwrap(), server_name)
    }

    fn offer(text: &str, server_name: &str) -> Offer {
        with(Some(&format!("{text} subnqn=nqn.2016-06.io.mc:test")), server_name)
    }

    fn described(offer: &Offer) -> serde_json::Value {
        let mut segment = SegmentDesc::new("test", "");
        offer.describe(&mut segment);
        segment.extra.get(trid::TRID_FIELD).cloned().unwrap_or_default()
    }

    #[test]
    fn the_port_that_was_really_taken_is_published() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 16).unwrap();
        let offer = offer("traddr=127.0.0.1 trsvcid=0", "127.0.0.1:1");
        let desc = offer.register(FileBufferId(1), file.path(), 1 << 16).unwrap();
        assert_eq!((desc.id, desc.size, desc.path.as_str()), (FileBufferId(1), 1 << 16, file.path().to_str().unwrap()));
        assert!(desc.align >= 512);
        assert_ne!(described(&offer)["trsvcid"], "0");
        offer.stop(Instant::now());
    }

    #[test]
    fn where_the_status_is_told_is_published_beside_the_address_and_is_no_part_of_it() {
        let options = NvmeofOptions::new().status_url("http://10.0.0.7:9420/status");
        let settings =
            Settings::resolve(options, Some("traddr=10.0.0.7"), &Environment::default(), "10.0.0.7:8081").unwrap();
        let mut segment = SegmentDesc::new("10.0.0.7:8081", "");
        Offer::new(&settings, "10.0.0.7:8081").describe(&mut segment);
        assert_eq!(segment.extra[trid::TRID_FIELD]["status_url"], "http://10.0.0.7:9420/status");
        assert_eq!(trid::read(&segment).unwrap().0.traddr.to_string(), "10.0.0.7");
        assert_eq!(described(&offer("traddr=10.0.0.7", "10.0.0.7:8081")).get("status_url"), None);
    }

    #[test]
    fn a_wildcard_is_published_as_the_servers_own_address() {
        assert_eq!(described(&offer("traddr=0.0.0.0", "10.0.0.7:8081"))["traddr"], "10.0.0.7");
        assert_eq!(described(&offer("traddr=10.0.0.8", "10.0.0.7:8081"))["traddr"], "10.0.0.8");
    }

    #[test]
    fn a_file_that_cannot_be_offered_leaves_no_target_running() {
        let offer = offer("traddr=127.0.0.1 trsvcid=0", "x");
        let error = offer.register(FileBufferId(1), Path::new("/does/not/exist"), 1).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"), "{error}");
        assert!(offer.target().is_none());
    }

    #[test]
    fn p10_a_file_that_holds_a_file_system_is_offered_only_to_be_overwritten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [b"XFSB".as_slice(), &[0; 8188]].concat()).unwrap();
        let refused =
            offer("traddr=127.0.0.1 trsvcid=0", "x").register(FileBufferId(1), file.path(), 8192).unwrap_err();
        assert!(refused.to_string().contains("XFS"), "{refused}");
        let forced = offer("traddr=127.0.0.1 trsvcid=0 overwrite=on", "x");
        forced.register(FileBufferId(1), file.path(), 8192).unwrap();
        forced.stop(Instant::now());
    }

    #[test]
    fn without_an_address_nothing_is_offered_and_nothing_described() {
        let offer = with(None, "x");
        let error = offer.register(FileBufferId(1), Path::new("/x"), 1).unwrap_err();
        assert!(error.to_string().contains("traddr="), "{error}");
        let mut segment = SegmentDesc::new("x", "other");
        offer.describe(&mut segment);
        assert_eq!(segment, SegmentDesc::new("x", "other"));
    }
}
