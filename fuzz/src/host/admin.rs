//! The admin queue under attack: from Connect over authentication to namespaces, keep-alive, events and shutting down.
//!
//! The controller's owner is told of an association only when all of it was answered; what the host says is right; it
//! never has more commands under way than its queue has room for; a target that falls silent is given up; no timer that
//! is due stays due.

use super::peer::Peer;
use super::{Host, settings};
use crate::input::Input;
use crate::target::{BEGINNING, SUBSYSTEM};
use nvferry_io::stream::{MemoryStream, Stream};
use nvferry_nvmeof::host::userspace::controller::{Controller, ControllerEvent};
use nvferry_wire::admin::{AdminOpcode, GetLogPage, Identify, SetFeatures};
use nvferry_wire::fabrics::{Cap, ConnectResult, Csts, FABRICS_OPCODE, FabricsType, Property, PropertyGet, Shst};
use nvferry_wire::feature::{FeatureId, NumberOfQueues};
use nvferry_wire::identify::{Cns, IDENTIFY_LEN, IdentifyController, IdentifyNamespace, encode_nsid_list};
use nvferry_wire::pdu::{DataEnd, Digests};
use nvferry_wire::{ControllerId, Nqn, Nsid, Sqe, StatusCode};
use std::time::{Duration, Instant};

/// Entries of the admin queue, of which one stays empty.
const MAX_COMMANDS: usize = 31;

pub(crate) struct Attack {
    controller: Controller,
    stream: Option<MemoryStream>,
    peer: Peer,
    now: Instant,
    /// Connect was answered well on this connection.
    is_connected: bool,
    shut_down: bool,
    /// Namespaces that a target that behaves well has.
    namespaces: u8,
}

impl Host for Attack {
    const RAW: u8 = 8;

    fn begin(setup: u8) -> Self {
        let digests = Digests { header: setup & 1 != 0, data: setup & 2 != 0 };
        let settings = settings(digests, setup & 4 != 0);
        let mut controller = Controller::new(settings, Nqn::new(SUBSYSTEM).unwrap(), 4, *BEGINNING);
        controller.distrust_short_receives();
        let mut attack = Self {
            controller,
            stream: None,
            peer: Peer::new(1).0,
            now: *BEGINNING,
            is_connected: false,
            shut_down: false,
            namespaces: 2,
        };
        attack.connect(1 << 20);
        attack
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() % 18 {
            0 => {
                self.peer.say_icresp(input);
                self.drive();
            }
            1..=3 => self.complete(input),
            4..=6 => self.send_data(input),
            7 => {
                if let Some(at) = self.peer.which(input) {
                    let how = input.u8();
                    let whole = self.peer.commands[at].len();
                    let (r2to, r2tl) = if how & 1 == 0 { (0, whole) } else { (input.u32(), input.u32()) };
                    self.peer.say_r2t(at, input.u16(), r2to, r2tl);
                    self.drive();
                }
            }
            8 => {
                self.peer.say_raw(input.chunk());
                self.drive();
            }
            9 => self.pass(Duration::from_millis(input.pick(&[1, 10, 100, 1000, 2000, 4000, 10_000]))),
            10 => {
                self.peer.leave(input.u8());
                self.drive();
            }
            11 => self.connect(input.pick(&[1 << 20, 4096, 65_536, 300])),
            12 => self.peer.split(input),
            13 => {
                self.controller.rescan(self.now);
                self.drive();
            }
            14 => {
                if input.u8() & 3 == 3 {
                    self.controller.shut_down(self.now);
                    self.drive();
                }
            }
            15 => {
                self.peer.say_term(input);
                self.drive();
            }
            16 => {
                self.namespaces = input.u8() % 40;
                self.serve(1);
            }
            _ => self.serve(40),
        }
    }

    fn drive(&mut self) {
        for _ in 0..10_000 {
            let Some(stream) = &mut self.stream else { return };
            let readable = stream.readable();
            let driven = self.controller.drive(stream, self.now, readable);
            if driven.is_err() {
                self.stream = None;
            }
            self.events();
            self.hear();
            if !self.stream.as_ref().is_some_and(MemoryStream::readable) {
                return;
            }
        }
        panic!("the host does not come to rest");
    }

    fn said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.peer.tape)
    }

    fn end(mut self) {
        for _ in 0..6 {
            self.pass(Duration::from_secs(4));
        }
        let over = self.controller.is_down() || self.shut_down;
        assert!(over, "a silent target was not given up: {:?}", self.controller.next_timer());
        self.stream = None;
        self.peer.leave(1);
    }
}

impl Attack {
    fn connect(&mut self, capacity_bytes: usize) {
        if !self.controller.is_down() {
            return;
        }
        let (peer, stream) = Peer::new(capacity_bytes);
        self.peer = peer;
        self.stream = Some(stream);
        self.is_connected = false;
        self.controller.connecting(self.now);
        self.controller.connected(self.now);
        self.drive();
    }

    fn hear(&mut self) {
        self.peer.hear();
        let commands = self.peer.commands.len();
        assert!(self.peer.is_muddled || commands <= MAX_COMMANDS, "{commands} commands are under way");
    }

    fn events(&mut self) {
        for event in self.controller.take_events() {
            match event {
                ControllerEvent::Ready(association) => {
                    assert!(self.is_connected || self.peer.is_muddled, "an association without Connect");
                    assert!(association.entries >= 2 && association.io_queues <= 4, "{association:?}");
                    assert!(association.max_transfer_bytes <= 1 << 20, "{association:?}");
                    assert!(association.in_capsule_bytes <= association.max_transfer_bytes, "{association:?}");
                }
                ControllerEvent::Namespaces { namespaces, .. } => {
                    assert!(namespaces.is_sorted_by_key(|namespace| namespace.nsid));
                    for namespace in namespaces {
                        assert!((9..=16).contains(&namespace.block_shift) && namespace.nsid.is_valid());
                        let _ = (namespace.capacity_bytes(), namespace.max_command_bytes(1 << 20));
                    }
                }
                ControllerEvent::ShutDown => self.shut_down = true,
                ControllerEvent::Listed(_) => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if let Err(error) = self.controller.tick(self.now) {
            let stream = self.stream.as_mut().map(|stream| stream as &mut dyn Stream);
            self.controller.lost(&error, stream);
            self.stream = None;
        }
        self.drive();
        assert!(self.controller.next_timer().is_none_or(|at| at > self.now), "a timer that is due stays due");
    }

    /// A value that a command like this may be completed with.
    fn result(&self, sqe: &Sqe) -> u64 {
        if sqe.opcode() != FABRICS_OPCODE {
            let feature = SetFeatures::decode(sqe).fid;
            let queues = AdminOpcode::from_u8(sqe.opcode()) == Some(AdminOpcode::SetFeatures)
                && FeatureId::from_u8(feature) == Some(FeatureId::NumberOfQueues);
            return if queues { NumberOfQueues::pairs(2).to_dword().into() } else { 0 };
        }
        match FabricsType::of(sqe) {
            Ok(FabricsType::Connect) => {
                let connected = ConnectResult {
                    cntlid: ControllerId(1),
                    authentication_required: false,
                    secure_channel_required: false,
                };
                connected.to_result()
            }
            Ok(FabricsType::PropertyGet) => match PropertyGet::decode(sqe).map(|get| Property::from_offset(get.offset))
            {
                Ok(Some(Property::Cap)) => Cap::fabrics(128, 10).0,
                _ => Csts::new(true, false, Shst::Complete).0.into(),
            },
            _ => 0,
        }
    }

    /// What a target that behaves well sends for a command.
    fn data(&self, sqe: &Sqe) -> Vec<u8> {
        let mut data = [0; IDENTIFY_LEN];
        match AdminOpcode::from_u8(sqe.opcode()) {
            Some(AdminOpcode::Identify) => match Identify::decode(sqe).map(|identify| (identify.cns, identify.nsid)) {
                Ok((Cns::Controller, _)) => {
                    let identify = IdentifyController { mdts: 5, ioccsz_16bytes: 516, ..Default::default() };
                    identify.encode(&mut data);
                }
                Ok((Cns::ActiveNamespaceList, above)) => {
                    let listed = (1..=u32::from(self.namespaces)).filter(|&nsid| nsid > above.0);
                    encode_nsid_list(listed.map(Nsid), &mut data);
                }
                _ => IdentifyNamespace::with_blocks(100, 9).encode(&mut data),
            },
            Some(AdminOpcode::GetLogPage) if GetLogPage::decode(sqe).is_ok() => {
                encode_nsid_list([Nsid(1)], &mut data);
            }
            _ => return Vec::new(),
        }
        data.to_vec()
    }

    /// Answers commands as it should be: one, or all but event requests.
    fn serve(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let mut at = 0;
            while at < self.peer.commands.len() {
                let sqe = self.peer.commands[at].sqe;
                if AdminOpcode::from_u8(sqe.opcode()) == Some(AdminOpcode::AsyncEventRequest)
                    && sqe.opcode() != FABRICS_OPCODE
                {
                    at += 1;
                    continue;
                }
                self.answer(at);
            }
            self.drive();
            if self.peer.commands.is_empty() {
                break;
            }
        }
    }

    fn answer(&mut self, at: usize) {
        let sqe = self.peer.commands[at].sqe;
        let data = if sqe.opcode() == FABRICS_OPCODE { Vec::new() } else { self.data(&sqe) };
        if data.is_empty() {
            self.note_connect(&sqe);
            self.peer.complete(Some(at), StatusCode::Success, false, self.result(&sqe), 0);
        } else {
            self.peer.say_data(at, 0, &data, DataEnd::LastWithSuccess);
        }
    }

    fn note_connect(&mut self, sqe: &Sqe) {
        self.is_connected |= sqe.opcode() == FABRICS_OPCODE && FabricsType::of(sqe) == Ok(FabricsType::Connect);
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        let at = self.peer.which(input);
        let how = input.u8();
        let status = if how & 7 == 7 { StatusCode::from_raw(input.u8() & 7, input.u8()) } else { StatusCode::Success };
        let sqe = at.map(|at| self.peer.commands[at].sqe);
        let result = match (how >> 3 & 7, &sqe) {
            (0..=3, Some(sqe)) => self.result(sqe),
            // A namespace attribute has changed.
            (4, _) => 0x0004_0002,
            (5, _) => ConnectResult {
                cntlid: ControllerId(1),
                authentication_required: true,
                secure_channel_required: how & 0x80 != 0,
            }
            .to_result(),
            _ => input.u64(),
        };
        if let (Some(sqe), true) = (&sqe, status == StatusCode::Success) {
            self.note_connect(sqe);
        }
        self.peer.complete(at.filter(|_| how & 0xC0 != 0xC0), status, how & 0x40 != 0, result, input.u16());
        self.drive();
    }

    /// Data for a command: what it should be, but for some bytes.
    fn send_data(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.peer.which(input) else { return };
        let command = &self.peer.commands[at];
        let (sqe, moved, whole) = (command.sqe, command.moved, command.len());
        let how = input.u8();
        let mut data = self.data(&sqe);
        data.resize((whole as usize).min(1 << 20), 0);
        if how & 1 != 0 {
            let from = usize::from(input.u16()) % data.len().max(1);
            let bytes = input.chunk();
            let n = bytes.len().min(data.len() - from);
            data[from..from + n].copy_from_slice(&bytes[..n]);
        }
        if how & 2 != 0 && !data.is_empty() && sqe.opcode() != FABRICS_OPCODE {
            // A list without an end.
            let from = input.u32();
            let listed = (0..1024).map(|at| Nsid(from.wrapping_add(at).max(1)));
            let mut list = [0; IDENTIFY_LEN];
            encode_nsid_list(listed, &mut list);
            let n = data.len().min(list.len());
            data[..n].copy_from_slice(&list[..n]);
        }
        let mut datao = moved;
        let mut part = data.get(moved as usize..).unwrap_or_default().to_vec();
        match how >> 2 & 7 {
            0 => part.truncate(1 + usize::from(input.u16())),
            1 => datao = input.u32(),
            2 => part.resize(usize::from(input.u16()), 1),
            3 => self.peer.corrupt_next(),
            _ => {}
        }
        let end = input.pick(&[DataEnd::LastWithSuccess, DataEnd::LastWithSuccess, DataEnd::Last, DataEnd::More]);
        self.peer.say_data(at, datao, &part, end);
        self.drive();
    }
}
