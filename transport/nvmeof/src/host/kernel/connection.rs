//! A connection of the kernel's host to a target: found or made, and removed again if it was made here.
//!
//! The connections that this process made are listed in one place, so that several attachments, of one engine or of
//! several, share a connection, and the last one removes it. What others made, people or programs, is used and left.

use super::fabrics::{self, Attempt, Fabrics, Refusal};
use super::sysfs::{Controller, Sysfs};
use nvferry_engine::EngineError;
use nvferry_engine::error::ErrorKind;
use nvferry_libnvme_sys::ConnectRequest;
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

/// A target, and as which host it is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    transport: String,
    traddr: Option<IpAddr>,
    trsvcid: Option<u16>,
    subsysnqn: String,
    hostnqn: String,
    hostid: String,
}

impl Key {
    fn of(request: &ConnectRequest) -> Self {
        Self {
            transport: request.transport.clone(),
            traddr: request.traddr.parse().ok(),
            trsvcid: request.trsvcid.parse().ok(),
            subsysnqn: request.subsysnqn.clone(),
            hostnqn: request.hostnqn.clone(),
            hostid: request.hostid.to_ascii_lowercase(),
        }
    }

    fn is_of(&self, controller: &Controller) -> bool {
        self.transport == controller.transport
            && self.traddr == controller.traddr
            && self.trsvcid == controller.trsvcid
            && self.subsysnqn == controller.subsysnqn
            && self.hostnqn == controller.hostnqn
            && self.hostid == controller.hostid.to_ascii_lowercase()
    }
}

/// What this process makes, or has made.
#[derive(Debug)]
enum Mine {
    /// A thread is at it.
    BeingMade,
    Made(Weak<Made>),
}

static MINE: Mutex<Vec<(Key, Mine)>> = Mutex::new(Vec::new());

/// A controller that this process made. Goes with its last user.
#[derive(Debug)]
struct Made {
    name: String,
    key: Key,
    sysfs: Sysfs,
}

impl Drop for Made {
    fn drop(&mut self) {
        // Its name may be another's by now, if the kernel gave it up.
        if self.sysfs.controller(&self.name).is_some_and(|controller| self.key.is_of(&controller)) {
            match self.sysfs.delete(&self.name) {
                Ok(()) => tracing::info!(target: "nvferry::host", controller = self.name, "kernel disconnected"),
                Err(error) => {
                    tracing::warn!(target: "nvferry::host", controller = self.name, %error, "the kernel did not disconnect");
                }
            }
        }
    }
}

/// A connection of the kernel's host to a target.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The controller's name, such as `nvme3`.
    pub(crate) name: String,
    key: Key,
    /// Present where this process made it: the last one disconnects.
    _made: Option<Arc<Made>>,
}

impl Connection {
    /// Finds the connection that the request describes, or makes one. May block for as long as the kernel does.
    pub(crate) fn open(fabrics: &dyn Fabrics, sysfs: &Sysfs, request: &ConnectRequest) -> Result<Self, Refusal> {
        let key = Key::of(request);
        {
            let mut mine = MINE.lock();
            mine.retain(|(_, mine)| !matches!(mine, Mine::Made(made) if made.strong_count() == 0));
            for (other, mine) in mine.iter() {
                match mine {
                    _ if *other != key => {}
                    Mine::BeingMade => return Err(busy("this process is connecting to it already")),
                    Mine::Made(made) => {
                        if let Some(made) = made.upgrade()
                            && let Some(controller) = sysfs.controller(&made.name)
                            && key.is_of(&controller)
                            && !controller.is_leaving()
                        {
                            must_ask_for_proof(sysfs, request, &made.name)?;
                            return Ok(Self { name: made.name.clone(), key, _made: Some(made) });
                        }
                    }
                }
            }
            if let Some(controller) = sysfs.controllers().into_iter().find(|controller| key.is_of(controller)) {
                if controller.is_leaving() {
                    return Err(busy("the kernel is just removing the connection to it"));
                }
                let name = controller.name;
                must_ask_for_proof(sysfs, request, &name)?;
                tracing::info!(target: "nvferry::host", controller = name, "using a kernel connection that was there");
                return Ok(Self { name, key, _made: None });
            }
            mine.push((key.clone(), Mine::BeingMade));
        }
        let _undo = BeingMade(key.clone());
        let Attempt { outcome, kernel_log } = fabrics::connect(fabrics, sysfs, request);
        let name = match outcome {
            Ok(name) => name,
            // libnvme can fail to find its way in sysfs after the kernel has connected.
            Err(refusal) if !refusal.already => {
                let controller = sysfs.controllers().into_iter().find(|controller| key.is_of(controller));
                controller.filter(Controller::is_live).ok_or(refusal)?.name
            }
            Err(refusal) => return Err(refusal),
        };
        if request.secret.is_some() {
            sysfs.close_secrets(&name);
        }
        // From here on it is removed again where it is not used.
        let made = Arc::new(Made { name: name.clone(), key: key.clone(), sysfs: sysfs.clone() });
        // A target that asks for no authentication is none that the kernel asks for a proof.
        if request.controller_secret.is_some() && !fabrics::has_proved_itself(&kernel_log, &name) {
            return Err(fabrics::unproved(request));
        }
        tracing::info!(
            target: "nvferry::host", controller = name, subsystem = request.subsysnqn, address = request.traddr,
            "kernel connected"
        );
        MINE.lock().push((key.clone(), Mine::Made(Arc::downgrade(&made))));
        Ok(Self { name, key, _made: Some(made) })
    }

    /// The controller, as long as the kernel has it.
    pub(crate) fn controller(&self, sysfs: &Sysfs) -> Option<Controller> {
        let controller = sysfs.controller(&self.name)?;
        (self.key.is_of(&controller) && !controller.is_leaving()).then_some(controller)
    }
}

/// Takes the note away that a connection is being made.
struct BeingMade(Key);

impl Drop for BeingMade {
    fn drop(&mut self) {
        MINE.lock().retain(|(key, mine)| !(*key == self.0 && matches!(mine, Mine::BeingMade)));
    }
}

/// Refuses a connection that was there and through which a target may be met that has proved nothing.
fn must_ask_for_proof(sysfs: &Sysfs, request: &ConnectRequest, name: &str) -> Result<(), Refusal> {
    match &request.controller_secret {
        Some(secret) if !sysfs.asks_for_proof(name, secret) => {
            let why = format!(
                "the kernel is connected to {} already, and has not asked it to prove itself with this controller secret: \
                 disconnect it (nvme disconnect -d {name})",
                request.subsysnqn
            );
            Err(Refusal { error: EngineError::new(ErrorKind::RejectHandshake, why), may_pass: false, already: false })
        }
        _ => Ok(()),
    }
}

fn busy(why: &str) -> Refusal {
    Refusal { error: EngineError::new(ErrorKind::Socket, why), may_pass: true, already: false }
}
