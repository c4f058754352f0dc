//! The machines: hosts, of which the real parts take turns; and targets, which are killed and started again.

use crate::access;
use crate::disk::{Disk, EngineHandle};
use crate::plan::Plan;
use crate::random::Random;
use nvferry_io::IoEngine;
use nvferry_io::file::{FileIdentity, Geometry, SECTOR_BYTES};
use nvferry_io::poller::Event;
use nvferry_io::simulation::SimulatedFile;
use nvferry_io::stream::MemoryStream;
use nvferry_nvmeof::simulation::{Holdings, Next, Part};
use nvferry_target::userspace::simulation::{Holdings as TargetHoldings, SimulatedTarget};
use nvferry_target::{NamespaceSpec, TargetError};
use nvferry_wire::{Nguid, Nqn, Nsid, TransportId};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A machine that reads and writes.
#[derive(Default)]
pub(crate) struct HostMachine {
    /// What its threads would do.
    pub(crate) parts: Vec<HostPart>,
}

/// One of a host's threads.
pub(crate) struct HostPart {
    part: Part,
    /// When its next turn is.
    pub(crate) turn_at: Option<u64>,
    /// Connections of which its poller has something to tell.
    pub(crate) news: Vec<usize>,
    /// It has ended.
    pub(crate) ended: bool,
}

impl HostPart {
    /// A thread that was started.
    #[must_use]
    pub(crate) fn new(part: Part) -> Self {
        Self { part, turn_at: None, news: Vec::new(), ended: false }
    }

    /// Takes its turn.
    pub(crate) fn turn(&mut self, now: Instant, events: &[Event]) -> Next {
        self.part.turn(now, events)
    }
}

impl HostMachine {
    /// The parts whose wakers were used.
    pub(crate) fn rung(&self) -> impl Iterator<Item = usize> + '_ {
        let parts = self.parts.iter().enumerate();
        parts.filter(|(_, part)| !part.ended && part.part.is_rung()).map(|(index, _)| index)
    }

    /// What its workers hold.
    #[must_use]
    pub(crate) fn holdings(&self) -> Holdings {
        let mut sum = Holdings::default();
        for part in &self.parts {
            let holdings = part.part.holdings();
            sum.slices += holdings.slices;
            sum.commands += holdings.commands;
            sum.bounce_bytes += holdings.bounce_bytes;
        }
        sum
    }
}

/// A file that a target offers.
#[derive(Debug, Clone)]
pub(crate) struct OfferedFile {
    /// Its number over all targets.
    pub(crate) number: usize,
    /// Its namespace.
    pub(crate) nsid: u32,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// It is offered now.
    pub(crate) offered: bool,
}

/// A machine that holds files.
pub(crate) struct TargetMachine {
    /// Its number.
    pub(crate) index: usize,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its subsystem's name.
    pub(crate) subnqn: Nqn,
    /// What it offers.
    pub(crate) files: Vec<OfferedFile>,
    /// Counts its starts.
    pub(crate) life: u32,
    /// It was told to end.
    pub(crate) draining: bool,
    /// When each reactor's next turn is.
    pub(crate) turn_at: Vec<Option<u64>>,
    target: Option<SimulatedTarget>,
    engines: Vec<EngineHandle>,
    disk: Arc<Mutex<Disk>>,
}

impl TargetMachine {
    /// A machine that does not run yet.
    ///
    /// # Errors
    /// When its name is none.
    pub(crate) fn new(index: usize, plan: &Plan) -> anyhow::Result<Self> {
        let mut disk = Disk::default();
        let mut files = Vec::new();
        for (at, &size) in plan.files.iter().enumerate() {
            let number = index * plan.files.len() + at;
            let path = PathBuf::from(format!("/simulated/file{number}"));
            disk.add(identity(number), number, size);
            files.push(OfferedFile { number, nsid: at as u32 + 1, path, size, offered: true });
        }
        Ok(Self {
            index,
            address: SocketAddr::from((Ipv4Addr::new(10, 0, 0, index as u8 + 1), 4420)),
            subnqn: Nqn::new(format!("nqn.2016-06.io.mc:target{index}"))?,
            files,
            life: 0,
            draining: false,
            turn_at: Vec::new(),
            target: None,
            engines: Vec::new(),
            disk: Arc::new(Mutex::new(disk)),
        })
    }

    /// The name under which its segment is published.
    #[must_use]
    pub(crate) fn segment(&self) -> String {
        format!("target{}", self.index)
    }

    /// Which file its namespace says that it is.
    #[must_use]
    pub(crate) fn identity(&self, file: &OfferedFile, plan: &Plan) -> Option<String> {
        Nguid::new(spec(file, plan).uuid(&self.subnqn)).map(|nguid| nguid.to_string())
    }

    /// Its files, as programs on it find them.
    pub(crate) fn simulated_files(&self) -> impl Iterator<Item = (PathBuf, SimulatedFile)> + '_ {
        self.files.iter().map(|file| {
            let geometry =
                Geometry { block_bytes: SECTOR_BYTES, dio_mem_align_bytes: 512, dio_offset_align_bytes: SECTOR_BYTES };
            (file.path.clone(), SimulatedFile { identity: identity(file.number), size_bytes: file.size, geometry })
        })
    }

    /// Where hosts find it.
    #[must_use]
    pub(crate) fn transport_id(&self) -> TransportId {
        TransportId::tcp(self.address).with_subnqn(self.subnqn.clone())
    }

    /// Whether it runs, and is at this address.
    #[must_use]
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        self.target.is_some() && !self.draining && self.address == address
    }

    /// Whether it runs.
    #[must_use]
    pub(crate) fn is_up(&self) -> bool {
        self.target.is_some()
    }

    /// While it is down, its files may get each other's namespaces.
    pub(crate) fn exchange(&mut self, plan: &Plan, random: &mut Random) {
        if self.life > 0 && random.chance(plan.exchanges) {
            for at in (1..self.files.len()).rev() {
                let with = random.below(at as u64 + 1) as usize;
                let nsid = self.files[with].nsid;
                self.files[with].nsid = std::mem::replace(&mut self.files[at].nsid, nsid);
            }
        }
    }

    /// Starts it, with the files that it offers.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn start(&mut self, plan: &Plan) -> anyhow::Result<()> {
        self.life += 1;
        let mut engines: Vec<Box<dyn IoEngine>> = Vec::new();
        self.engines.clear();
        for _ in 0..plan.reactors {
            let (handle, engine) = EngineHandle::new(Arc::clone(&self.disk), plan.storage.clone())?;
            self.engines.push(handle);
            engines.push(engine);
        }
        self.turn_at = vec![None; plan.reactors];
        let hosts = access::of_target(plan)?;
        let target = SimulatedTarget::with_hosts(self.transport_id(), self.subnqn.clone(), hosts, engines)?;
        target.give_controller_ids_after((self.life as u16).wrapping_mul(1021) % 0x8000);
        for file in self.files.iter().filter(|file| file.offered) {
            target.add_namespace(&spec(file, plan))?;
        }
        self.target = Some(target);
        Ok(())
    }

    /// Its program dies. What its storage was doing is done, in part, or not.
    pub(crate) fn kill(&mut self, random: &mut Random) {
        self.life += 1;
        self.draining = false;
        self.turn_at.clear();
        self.target = None;
        for engine in std::mem::take(&mut self.engines) {
            engine.die(random);
        }
    }

    /// It is told to end: takes no more connections and commands, and ends those that are under way.
    pub(crate) fn drain(&mut self) {
        if let Some(target) = &self.target {
            self.draining = true;
            target.drain();
        }
    }

    /// Whether it was told to end, and has.
    #[must_use]
    pub(crate) fn has_drained(&self) -> bool {
        self.draining && self.target.as_ref().is_some_and(SimulatedTarget::has_drained)
    }

    /// What its storage was asked for that real storage could not do.
    #[must_use]
    pub(crate) fn misuse(&self) -> Option<String> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).misuse.take()
    }

    /// Its machine loses power, too: call it after [`Self::kill`]. `each` is told what the files hold then.
    pub(crate) fn lose_power(&self, random: &mut Random, mut each: impl FnMut(usize, &[u8])) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.lose_power(random);
        disk.contents().for_each(|(number, content)| each(number, content));
    }

    /// Offers a file, or does so no more. Tells whether that could be done now.
    ///
    /// # Errors
    /// When it cannot be done at all.
    pub(crate) fn offer(&mut self, at: usize, offered: bool, plan: &Plan) -> anyhow::Result<bool> {
        let file = &mut self.files[at];
        if file.offered == offered {
            return Ok(true);
        }
        match &self.target {
            Some(_) if self.draining => return Ok(false),
            Some(target) if offered => match target.add_namespace(&spec(file, plan)) {
                Ok(_) => {}
                Err(TargetError::StillBusy { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            },
            Some(target) => target.remove_namespace(Nsid(file.nsid))?,
            None => {}
        }
        file.offered = offered;
        Ok(true)
    }

    /// Takes a connection.
    pub(crate) fn accept(&mut self, stream: MemoryStream) {
        if let Some(target) = &mut self.target {
            target.accept(stream);
        }
    }

    /// Operations that have begun: the reactor, the operation, and how long it takes.
    pub(crate) fn started(&self, random: &mut Random, healed: bool) -> Vec<(usize, usize, u64)> {
        let engines = self.engines.iter().enumerate();
        let started = engines.flat_map(|(reactor, engine)| {
            let started = engine.started(random, healed);
            started.into_iter().map(move |(operation, time)| (reactor, operation, time))
        });
        started.collect()
    }

    /// The reactors that have something to do.
    pub(crate) fn awake(&self) -> impl Iterator<Item = usize> + '_ {
        let target = self.target.iter();
        target.flat_map(|target| {
            (0..target.reactors()).filter(|&reactor| {
                target.is_rung(reactor) | target.is_ready(reactor) | self.engines[reactor].has_done()
            })
        })
    }

    /// Takes a reactor's turn. Returns when its next one is due at the latest.
    pub(crate) fn turn(&mut self, reactor: usize, now: Instant) -> Option<Instant> {
        let target = self.target.as_mut()?;
        target.turn(reactor, now);
        target.next_deadline(reactor)
    }

    /// An operation's time has come.
    pub(crate) fn storage(&self, reactor: usize, operation: usize, random: &mut Random, healed: bool) -> Option<u64> {
        self.engines.get(reactor)?.act(operation, random, healed)
    }

    /// What it holds.
    #[must_use]
    pub(crate) fn holdings(&self) -> TargetHoldings {
        self.target.as_ref().map(SimulatedTarget::holdings).unwrap_or_default()
    }
}

fn identity(number: usize) -> FileIdentity {
    FileIdentity { device: 1, inode: number as u64 }
}

fn spec(file: &OfferedFile, plan: &Plan) -> NamespaceSpec {
    NamespaceSpec {
        direct: plan.direct,
        overwrite: true,
        block_bytes: Some(plan.block_bytes),
        ..NamespaceSpec::new(Nsid(file.nsid), &file.path, file.size)
    }
}
