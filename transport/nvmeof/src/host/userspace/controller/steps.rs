//! What is asked of a controller, one answer after the other.
//!
//! Connect, CAP, CC.EN, CSTS.RDY, Identify Controller, Number of Queues, Asynchronous Event Configuration, the first
//! scan; then an Asynchronous Event Request that always waits, and Keep Alive (base specification 3.5.1, 3.9).

use super::scan::ScanStep;
use super::{
    ADMIN_ENTRIES, AdminCommand, AdminOp, Association, Controller, ControllerEvent, MAX_TRANSFER_BYTES, READY_POLL,
    State, Step, connect,
};
use crate::host::userspace::auth::{Authentication, Command, Next, Secrets};
use crate::host::userspace::link::{DataFault, Ended, Flow, LinkError, Payload};
use nvferry_wire::admin::{GetLogPage, Identify, SetFeatures, async_event_request, keep_alive};
use nvferry_wire::async_event::{AsyncEvent, AsyncEventKind};
use nvferry_wire::fabrics::{Cap, Cc, Connect, ConnectData, Csts, Property, PropertyGet, PropertySet, Shn, Shst};
use nvferry_wire::feature::{AsyncEventConfig, FeatureId, NumberOfQueues};
use nvferry_wire::identify::{Cns, IDENTIFY_LEN, IdentifyController, controller_list};
use nvferry_wire::log_page::{CHANGED_NAMESPACES_LEN, LogPageId};
use nvferry_wire::{CommandId, ControllerId, Cqe, Nsid, QueueId};
use std::time::Instant;

/// The link fills in the real one.
const CID: CommandId = CommandId(0);

impl Controller {
    /// Sends Connect once the connection is initialised.
    pub(super) fn begin_if_open(&mut self, now: Instant) -> Result<(), LinkError> {
        let State::Establishing { step: Step::Initialize, until } = self.state else { return Ok(()) };
        if !self.link.as_ref().is_some_and(super::Link::is_open) {
            return Ok(());
        }
        let kato_ms = u32::try_from(self.settings.kato.as_millis()).unwrap_or(u32::MAX);
        let command = Connect {
            qid: QueueId::ADMIN,
            sq_entries: ADMIN_ENTRIES,
            disable_sq_flow_control: true,
            individual_io_queue_deletion: false,
            kato_ms,
        };
        let data = ConnectData {
            hostid: self.settings.host_id,
            cntlid: ControllerId::DYNAMIC,
            subnqn: self.subnqn.clone(),
            hostnqn: self.settings.host_nqn.clone(),
        };
        let (sqe, flow, payload) = connect::command(&command, &data);
        self.state = State::Establishing { step: Step::Answers, until };
        self.send(AdminCommand::Connect, sqe, flow, payload, now);
        Ok(())
    }

    /// Acts on all commands that have ended.
    pub(super) fn settle(&mut self, now: Instant) -> Result<(), LinkError> {
        if let Some(link) = &mut self.link {
            link.take_ended(&mut self.ended);
        }
        for Ended { context: AdminOp { command, .. }, payload, cqe, fault } in std::mem::take(&mut self.ended) {
            let data = match payload {
                Payload::Bytes(bytes) => bytes,
                Payload::None | Payload::Slice { .. } | Payload::Bounce { .. } => Box::default(),
            };
            if let Some(fault) = fault {
                let what = match fault {
                    DataFault::Digest => "was damaged on its way (data digest)",
                    DataFault::Short => "came incomplete",
                };
                return Err(LinkError::GivenUp(format!("the answer to {command:?} {what}").into()));
            }
            self.answered(command, cqe, &data, now)?;
        }
        Ok(())
    }

    fn answered(&mut self, command: AdminCommand, cqe: Cqe, data: &[u8], now: Instant) -> Result<(), LinkError> {
        match command {
            AdminCommand::Connect => {
                let connected = connect::accepted("Connect", cqe)?;
                let cntlid = connected.cntlid;
                let association = Association {
                    cntlid,
                    io_queues: 0,
                    entries: 0,
                    in_capsule_bytes: 0,
                    max_transfer_bytes: 0,
                    serial: String::new(),
                    model: String::new(),
                };
                self.association = Some(association);
                let secrets = Secrets {
                    host: &self.settings.host_nqn,
                    subsystem: &self.subnqn,
                    secret: self.settings.secret.as_ref(),
                    controller_secret: self.settings.controller_secret.as_ref(),
                };
                match Authentication::begin(connected, secrets)? {
                    Some((authentication, command)) => {
                        self.authentication = Some(authentication);
                        self.send_auth(command, now);
                    }
                    None => self.get_capabilities(now),
                }
            }
            AdminCommand::Authenticate => {
                let Some(authentication) = &mut self.authentication else { return Ok(()) };
                match authentication.answered(cqe, data)? {
                    Next::Submit(command) => self.send_auth(command, now),
                    Next::Done => {
                        self.authentication = None;
                        self.get_capabilities(now);
                    }
                }
            }
            AdminCommand::GetCapabilities => {
                success("Property Get of CAP", cqe)?;
                self.capabilities = Cap(cqe.result);
                let sqe = PropertySet::of(Property::Cc, Cc::enabled().0.into()).sqe(CID);
                self.send(AdminCommand::Enable, sqe, Flow::None, Payload::None, now);
            }
            AdminCommand::Enable => {
                success("Property Set of CC", cqe)?;
                self.get_status(AdminCommand::GetStatus, now);
            }
            AdminCommand::GetStatus => {
                success("Property Get of CSTS", cqe)?;
                let status = Csts(cqe.dw0());
                if status.fatal() {
                    return Err(LinkError::GivenUp("the controller reports a fatal error (CSTS.CFS)".into()));
                }
                if status.ready() {
                    self.identify(AdminCommand::IdentifyController, Identify::controller(), now);
                } else if let State::Establishing { until, .. } = self.state {
                    self.state = State::Establishing { step: Step::Ready { look_at: now + READY_POLL }, until };
                }
            }
            AdminCommand::IdentifyController => {
                success("Identify Controller", cqe)?;
                self.identified(data)?;
                let asked = NumberOfQueues::pairs(self.io_queues).to_dword();
                let sqe = SetFeatures::new(FeatureId::NumberOfQueues, asked).sqe(CID);
                self.send(AdminCommand::SetQueues, sqe, Flow::None, Payload::None, now);
            }
            AdminCommand::SetQueues => {
                success("Set Features (Number of Queues)", cqe)?;
                let granted = NumberOfQueues::from_dword(cqe.dw0()).pair_count();
                if let Some(association) = &mut self.association {
                    association.io_queues = granted.min(self.io_queues);
                }
                let sqe =
                    SetFeatures::new(FeatureId::AsyncEventConfig, AsyncEventConfig::NAMESPACE_ATTRIBUTE.0).sqe(CID);
                self.send(AdminCommand::SetEvents, sqe, Flow::None, Payload::None, now);
            }
            AdminCommand::SetEvents => {
                // Without events, changes are found when a file is asked for that is not known.
                if cqe.status.is_success() {
                    self.send_async_event_request(now);
                }
                self.scan.request();
                self.begin_scan(now);
            }
            AdminCommand::ChangedNamespaces => {
                let listed = cqe.status.is_success().then_some(data);
                self.scan.changed(listed);
                self.scan.request();
                self.scan_if_wanted(now);
                if std::mem::take(&mut self.changed_again) {
                    self.read_changed_namespaces(now);
                }
            }
            AdminCommand::ActiveNamespaces => {
                success("Identify (active namespaces)", cqe)?;
                let step = self.scan.listed(data).map_err(|error| LinkError::GivenUp(error.to_string().into()))?;
                self.scan_step(step, now);
            }
            AdminCommand::IdentifyNamespace(nsid) => {
                // One that was withdrawn meanwhile is not there.
                let step = self.scan.identified(nsid, cqe.status.is_success().then_some(data));
                self.scan_step(step, now);
            }
            AdminCommand::Controllers { from } => {
                let first = if cqe.status.is_success() { controller_list(data).ok() } else { None };
                let is_there = first.map(|mut list| list.any(|cntlid| cntlid == from));
                self.events.push(ControllerEvent::Listed(is_there));
            }
            AdminCommand::AsyncEvent => self.event(cqe, now),
            AdminCommand::KeepAlive => success("Keep Alive", cqe)?,
            AdminCommand::ShutDown => {
                success("Property Set of CC", cqe)?;
                self.get_status(AdminCommand::GetShutDownStatus, now);
            }
            AdminCommand::GetShutDownStatus => {
                success("Property Get of CSTS", cqe)?;
                if Csts(cqe.dw0()).shst() == Shst::Complete {
                    self.events.push(ControllerEvent::ShutDown);
                } else {
                    self.state = State::ShuttingDown { look_at: Some(now + READY_POLL) };
                }
            }
        }
        Ok(())
    }

    /// Takes over what Identify Controller says.
    fn identified(&mut self, data: &[u8]) -> Result<(), LinkError> {
        let identify =
            IdentifyController::decode(data).map_err(|error| LinkError::GivenUp(error.to_string().into()))?;
        let Some(association) = &mut self.association else { return Ok(()) };
        let limit = identify.max_transfer_bytes(self.capabilities.min_page_bytes()).unwrap_or(u64::MAX);
        association.max_transfer_bytes = limit.min(MAX_TRANSFER_BYTES.into()) as u32;
        association.in_capsule_bytes = identify.max_in_capsule_bytes().min(association.max_transfer_bytes);
        let mut entries = u32::from(self.settings.queue_depth).min(self.capabilities.max_queue_entries());
        if identify.maxcmd > 0 {
            // One entry of a queue always stays empty.
            entries = entries.min(u32::from(identify.maxcmd) + 1);
        }
        association.entries = entries.max(2);
        association.serial = identify.sn;
        association.model = identify.mn;
        Ok(())
    }

    fn scan_step(&mut self, step: ScanStep, now: Instant) {
        match step {
            ScanStep::ListFrom(nsid) => {
                let command = Identify::of(Cns::ActiveNamespaceList, nsid);
                self.identify(AdminCommand::ActiveNamespaces, command, now);
            }
            ScanStep::Identify(nsids) => {
                for nsid in nsids {
                    self.identify(AdminCommand::IdentifyNamespace(nsid), Identify::of(Cns::Namespace, nsid), now);
                }
            }
            ScanStep::Done { ticket, namespaces } => {
                if let State::Establishing { .. } = self.state
                    && let Some(association) = &self.association
                {
                    self.events.push(ControllerEvent::Ready(association.clone()));
                    self.state = State::Live;
                    self.keep_alive_at = now + self.settings.kato / 2;
                }
                self.events.push(ControllerEvent::Namespaces { namespaces, ticket });
                self.scan_if_wanted(now);
            }
        }
    }

    /// Begins a scan if one is wanted and none is under way.
    pub(super) fn scan_if_wanted(&mut self, now: Instant) {
        if self.state == State::Live && self.scan.is_wanted() {
            self.begin_scan(now);
        }
    }

    fn begin_scan(&mut self, now: Instant) {
        let step = self.scan.begin();
        self.scan_step(step, now);
    }

    fn event(&mut self, cqe: Cqe, now: Instant) {
        if !cqe.status.is_success() {
            // The target takes no more of them; changes are found when a file is asked for that is not known.
            return;
        }
        self.send_async_event_request(now);
        if AsyncEvent::from_dword(cqe.dw0()).kind == AsyncEventKind::NamespaceAttributeChanged {
            // One at a time, however many events a target sends.
            if self.commands().any(|op| op.command == AdminCommand::ChangedNamespaces) {
                self.changed_again = true;
            } else {
                self.read_changed_namespaces(now);
            }
        }
    }

    /// Reading the list also lets the next event of this kind come.
    fn read_changed_namespaces(&mut self, now: Instant) {
        let sqe = GetLogPage::new(LogPageId::ChangedNamespaces, CHANGED_NAMESPACES_LEN as u32).sqe(CID);
        let payload = Payload::Bytes(vec![0; CHANGED_NAMESPACES_LEN].into());
        self.send(AdminCommand::ChangedNamespaces, sqe, Flow::ToHost(CHANGED_NAMESPACES_LEN as u32), payload, now);
    }

    pub(super) fn list_controllers(&mut self, from: ControllerId, now: Instant) {
        let command = Identify { cntid: from, ..Identify::of(Cns::ControllerList, Nsid::NONE) };
        self.identify(AdminCommand::Controllers { from }, command, now);
    }

    fn identify(&mut self, command: AdminCommand, identify: Identify, now: Instant) {
        let payload = Payload::Bytes(vec![0; IDENTIFY_LEN].into());
        self.send(command, identify.sqe(CID), Flow::ToHost(IDENTIFY_LEN as u32), payload, now);
    }

    fn send_auth(&mut self, (sqe, flow, payload): Command, now: Instant) {
        self.send(AdminCommand::Authenticate, sqe, flow, payload, now);
    }

    fn get_capabilities(&mut self, now: Instant) {
        let sqe = PropertyGet::of(Property::Cap).sqe(CID);
        self.send(AdminCommand::GetCapabilities, sqe, Flow::None, Payload::None, now);
    }

    pub(super) fn get_status(&mut self, command: AdminCommand, now: Instant) {
        let sqe = PropertyGet::of(Property::Csts).sqe(CID);
        self.send(command, sqe, Flow::None, Payload::None, now);
    }

    fn send_async_event_request(&mut self, now: Instant) {
        self.send(AdminCommand::AsyncEvent, async_event_request(CID), Flow::None, Payload::None, now);
    }

    pub(super) fn send_keep_alive(&mut self, now: Instant) {
        self.keep_alive_at = now + self.settings.kato / 2;
        self.send(AdminCommand::KeepAlive, keep_alive(CID), Flow::None, Payload::None, now);
    }

    pub(super) fn send_shut_down(&mut self, now: Instant) {
        let cc = Cc::enabled().with_shn(Shn::Normal);
        let sqe = PropertySet::of(Property::Cc, cc.0.into()).sqe(CID);
        self.send(AdminCommand::ShutDown, sqe, Flow::None, Payload::None, now);
    }
}

fn success(what: &'static str, cqe: Cqe) -> Result<(), LinkError> {
    if cqe.status.is_success() {
        return Ok(());
    }
    Err(LinkError::Refused { what, status: cqe.status, detail: "".into() })
}

/// Where a list of namespaces begins.
pub(super) const FIRST_NSID: Nsid = Nsid::NONE;
