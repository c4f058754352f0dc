//! A controller with a scripted target at the other end, and a clock that only the test moves.

use super::scripted::{Heard, ScriptedTarget};
use crate::config::HostSettings;
use crate::host::userspace::LinkError;
use crate::host::userspace::controller::{Controller, ControllerEvent};
use nvferry_io::Stream;
use nvferry_io::stream::{MemoryStream, memory_pair};
use nvferry_wire::admin::{AdminOpcode, Identify, SetFeatures};
use nvferry_wire::fabrics::{
    Cap, Cc, Csts, FABRICS_OPCODE, FabricsType, Property, PropertyGet, PropertySet, Shn, Shst,
};
use nvferry_wire::feature::{FeatureId, NumberOfQueues};
use nvferry_wire::identify::{Cns, IDENTIFY_LEN, IdentifyController, IdentifyNamespace, encode_nsid_list};
use nvferry_wire::log_page::encode_changed_namespaces;
use nvferry_wire::pdu::{DataEnd, Digests};
use nvferry_wire::{CommandId, Cqe, HostId, Nqn, Nsid, Sqe, StatusCode};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(crate) const KATO: Duration = Duration::from_secs(4);

/// What the scripted controller is.
pub(crate) struct AdminScript {
    /// Its namespaces: blocks, and the block's size as a power of two.
    pub(crate) namespaces: BTreeMap<u32, (u64, u8)>,
    pub(crate) changed: Vec<u32>,
    pub(crate) cap: Cap,
    pub(crate) identify: IdentifyController,
    pub(crate) queues: u32,
    /// Looks at CSTS until it is ready.
    pub(crate) looks_until_ready: u32,
    pub(crate) shut_down: bool,
    /// The Asynchronous Event Request that waits.
    pub(crate) waiting_event: Option<CommandId>,
    /// Commands heard, by name.
    pub(crate) log: Vec<String>,
}

pub(crate) struct AdminRig {
    pub(crate) controller: Controller,
    pub(crate) stream: Option<MemoryStream>,
    pub(crate) target: ScriptedTarget,
    pub(crate) script: AdminScript,
    pub(crate) now: Instant,
    pub(crate) events: Vec<ControllerEvent>,
}

impl AdminScript {
    /// A controller with two namespaces that grants two I/O queues.
    pub(crate) fn new() -> Self {
        let identify = IdentifyController {
            sn: "serial".into(),
            mn: "model".into(),
            mdts: 5,
            ioccsz_16bytes: 4 + 512,
            maxcmd: 128,
            ..Default::default()
        };
        Self {
            namespaces: [(1, (100, 9)), (2, (200, 12))].into(),
            changed: Vec::new(),
            cap: Cap::fabrics(64, 10),
            identify,
            queues: 2,
            looks_until_ready: 0,
            shut_down: false,
            waiting_event: None,
            log: Vec::new(),
        }
    }

    /// Answers one PDU as it should be.
    pub(crate) fn answer<S: Stream>(&mut self, target: &mut ScriptedTarget<S>, heard: &Heard) {
        if target.open(heard) {
            return;
        }
        let sqe = heard.command().expect("a command");
        let cid = sqe.cid();
        match (sqe.opcode(), AdminOpcode::from_u8(sqe.opcode())) {
            (FABRICS_OPCODE, _) => self.answer_fabrics(target, &sqe),
            (_, Some(AdminOpcode::Identify)) => {
                let command = Identify::decode(&sqe).unwrap();
                self.log.push(format!("identify {:?} {}", command.cns, command.nsid));
                let data = self.identify(command);
                target.say_data(cid, 0, &data, DataEnd::LastWithSuccess);
            }
            (_, Some(AdminOpcode::SetFeatures)) => {
                let command = SetFeatures::decode(&sqe);
                let feature = FeatureId::from_u8(command.fid).unwrap();
                self.log.push(format!("set {feature:?}"));
                let result = match feature {
                    FeatureId::NumberOfQueues => {
                        assert_eq!(NumberOfQueues::from_dword(command.cdw11).pair_count(), 4);
                        NumberOfQueues::pairs(self.queues).to_dword()
                    }
                    _ => 0,
                };
                target.complete_with(Cqe::success(cid, 0, result.into()));
            }
            (_, Some(AdminOpcode::GetLogPage)) => {
                self.log.push("changed namespaces".into());
                let mut data = [0; IDENTIFY_LEN];
                let changed: Vec<_> = self.changed.drain(..).map(Nsid).collect();
                encode_changed_namespaces(&changed, &mut data);
                target.say_data(cid, 0, &data, DataEnd::LastWithSuccess);
            }
            (_, Some(AdminOpcode::AsyncEventRequest)) => {
                assert!(self.waiting_event.replace(cid).is_none(), "one event request at a time");
            }
            (_, Some(AdminOpcode::KeepAlive)) => {
                self.log.push("keep alive".into());
                target.complete(cid, StatusCode::Success);
            }
            _ => panic!("the host sent {sqe:?}"),
        }
    }

    fn answer_fabrics<S: Stream>(&mut self, target: &mut ScriptedTarget<S>, sqe: &Sqe) {
        let cid = sqe.cid();
        let result = match FabricsType::of(sqe).unwrap() {
            FabricsType::PropertyGet => {
                match Property::from_offset(PropertyGet::decode(sqe).unwrap().offset).unwrap() {
                    Property::Cap => self.cap.0,
                    Property::Csts => {
                        let ready = self.looks_until_ready == 0;
                        self.looks_until_ready = self.looks_until_ready.saturating_sub(1);
                        let shst = if self.shut_down { Shst::Complete } else { Shst::Normal };
                        Csts::new(ready, false, shst).0.into()
                    }
                    other => panic!("the host asked for {other:?}"),
                }
            }
            FabricsType::PropertySet => {
                let cc = Cc(PropertySet::decode(sqe).unwrap().value as u32);
                assert!(cc.enable());
                self.shut_down = cc.shn() == Shn::Normal;
                self.log.push(format!("set CC, {:?}", cc.shn()));
                0
            }
            other => panic!("the host sent {other:?}"),
        };
        target.complete_with(Cqe::success(cid, 0, result));
    }

    fn identify(&self, command: Identify) -> [u8; IDENTIFY_LEN] {
        let mut data = [0; IDENTIFY_LEN];
        match command.cns {
            Cns::Controller => self.identify.encode(&mut data),
            Cns::ActiveNamespaceList => {
                let above = self.namespaces.keys().filter(|&&nsid| nsid > command.nsid.0);
                encode_nsid_list(above.map(|&nsid| Nsid(nsid)), &mut data);
            }
            Cns::Namespace => {
                if let Some(&(blocks, lbads)) = self.namespaces.get(&command.nsid.0) {
                    IdentifyNamespace::with_blocks(blocks, lbads).encode(&mut data);
                }
            }
            other => panic!("the host asked for {other:?}"),
        }
        data
    }
}

impl AdminRig {
    pub(crate) fn new() -> Self {
        let settings = HostSettings {
            host_nqn: Nqn::new("nqn.2016-06.io.mc:host").unwrap(),
            host_id: HostId([1; 16]),
            queue_depth: 128,
            digests: Digests::NONE,
            kato: KATO,
            secret: None,
            controller_secret: None,
        };
        let now = Instant::now();
        let mut controller = Controller::new(settings, Nqn::new("nqn.2016-06.io.mc:target").unwrap(), 4, now);
        controller.distrust_short_receives();
        let (_, other) = memory_pair(1);
        Self {
            controller,
            stream: None,
            target: ScriptedTarget::new(other),
            script: AdminScript::new(),
            now,
            events: Vec::new(),
        }
    }

    pub(crate) fn connect(&mut self) {
        let (stream, other) = memory_pair(1 << 20);
        self.target = ScriptedTarget::new(other);
        self.script.waiting_event = None;
        self.stream = Some(stream);
        self.controller.connecting(self.now);
        self.controller.connected(self.now);
        self.drive().unwrap();
    }

    /// A rig whose association stands.
    pub(crate) fn live() -> Self {
        let mut rig = Self::new();
        rig.connect();
        rig.serve();
        assert!(rig.controller.is_live());
        rig
    }

    pub(crate) fn drive(&mut self) -> Result<(), LinkError> {
        while let Some(stream) = &mut self.stream {
            let readable = stream.readable();
            if let Err(error) = self.controller.drive(stream, self.now, readable) {
                self.stream = None;
                return Err(error);
            }
            self.events.extend(self.controller.take_events());
            if !stream.readable() {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn hear(&mut self) -> Vec<Heard> {
        self.drive().unwrap();
        self.target.hear()
    }

    /// Answers everything as it should be, until nobody has anything to say.
    pub(crate) fn serve(&mut self) {
        loop {
            let heard = self.hear();
            if heard.is_empty() {
                return;
            }
            heard.iter().for_each(|one| self.answer(one));
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), LinkError> {
        self.now += time;
        if let Err(error) = self.controller.tick(self.now) {
            let stream = self.stream.as_mut().map(|stream| stream as &mut dyn Stream);
            self.controller.lost(&error, stream);
            self.stream = None;
            return Err(error);
        }
        self.drive()
    }

    /// Answers one PDU as it should be.
    pub(crate) fn answer(&mut self, heard: &Heard) {
        self.script.answer(&mut self.target, heard);
    }

    /// Tells the host that namespaces have changed.
    pub(crate) fn announce(&mut self, changed: &[u32]) {
        self.script.changed = changed.to_vec();
        let cid = self.script.waiting_event.take().expect("the host waits for events");
        let event = nvferry_wire::async_event::AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
        self.target.complete_with(Cqe::success(cid, 0, event.to_dword().into()));
    }

    /// The namespaces that the host was told of last, with the highest ticket.
    pub(crate) fn namespaces(&self) -> (Vec<u32>, u64) {
        let last = self.events.iter().rev().find_map(|event| match event {
            ControllerEvent::Namespaces { namespaces, ticket } => {
                Some((namespaces.iter().map(|namespace| namespace.nsid.0).collect(), *ticket))
            }
            _ => None,
        });
        last.expect("namespaces were told of")
    }
}
