//! Identify (base specification 5.17): what the controller and its namespaces are.

use super::super::limits;
use super::super::namespace::Namespace;
use super::feature::{DISCOVERY_EVENTS, IO_EVENTS};
use super::property::VERSION;
use super::{Asked, FIRMWARE_REVISION, Reply, expects};
use nvferry_wire::admin::Identify;
use nvferry_wire::identify::{
    Cns, ControllerType, IDENTIFY_LEN, IdentifyController, IdentifyNamespace, NamespaceIds, NamespaceIndependent,
    NvmIdentifyController, NvmIdentifyNamespace, SglSupport, Vwc, encode_controller_list, encode_io_command_sets,
    encode_nsid_list,
};
use nvferry_wire::{Nqn, Nsid, Sqe, StatusCode};
use std::sync::Arc;

/// The NVM command set.
const NVM: u8 = 0;
/// The arbitration burst that controllers recommend, 2^6 commands, as nvmet does.
const RAB: u8 = 6;
/// One firmware slot, which is read-only.
const FRMW: u8 = 1 << 0 | 1 << 1;
/// A command capsule with all the data that it may bring, in units of 16 bytes.
const IOCCSZ_16BYTES: u32 = (64 + limits::MAX_IN_CAPSULE_BYTES) / 16;
/// Disconnect is supported.
const OFCS_DISCONNECT: u16 = 1 << 0;

type Page = [u8; IDENTIFY_LEN];

impl Asked<'_> {
    pub(super) fn identify(&self, sqe: &Sqe) -> Result<Reply, StatusCode> {
        let command = Identify::decode(sqe)?;
        if !self.is_io() && command.cns != Cns::Controller {
            return Err(StatusCode::InvalidField);
        }
        expects(sqe, IDENTIFY_LEN as u64)?;
        let mut page: Box<Page> = Box::new([0; IDENTIFY_LEN]);
        self.fill(&command, &mut page)?;
        Ok(Reply::data(page))
    }

    fn fill(&self, command: &Identify, page: &mut Page) -> Result<(), StatusCode> {
        let of_nvm = || if command.csi == NVM { Ok(()) } else { Err(StatusCode::InvalidField) };
        match command.cns {
            Cns::Controller => self.controller_page().encode(page),
            Cns::Namespace | Cns::AllocatedNamespace => {
                if let Some(namespace) = self.namespace(command.nsid)? {
                    namespace_page(&namespace).encode(page);
                }
            }
            Cns::ActiveNamespaceList | Cns::AllocatedNamespaceList => self.list(command.nsid, page)?,
            Cns::CommandSetActiveNamespaceList => {
                of_nvm()?;
                self.list(command.nsid, page)?;
            }
            Cns::NamespaceDescriptors => {
                let namespace = self.namespace(command.nsid)?.ok_or(StatusCode::InvalidNamespace)?;
                let uuid = Some(namespace.info.uuid);
                NamespaceIds { eui64: None, nguid: uuid, uuid, csi: Some(NVM) }.encode(page);
            }
            Cns::CommandSetNamespace => {
                of_nvm()?;
                if self.namespace(command.nsid)?.is_some() {
                    NvmIdentifyNamespace::default().encode(page);
                }
            }
            Cns::CommandSetController => {
                of_nvm()?;
                NvmIdentifyController::default().encode(page);
            }
            Cns::NamespaceIndependent => {
                if let Some(namespace) = self.namespace(command.nsid)? {
                    NamespaceIndependent {
                        nmic: IdentifyNamespace::NMIC_SHARED,
                        nsattr: namespace_attributes(&namespace),
                        ready: true,
                        ..NamespaceIndependent::default()
                    }
                    .encode(page);
                }
            }
            Cns::IoCommandSets => encode_io_command_sets(page),
            Cns::ControllerList => {
                let ids = self.subsystem.controller_ids();
                encode_controller_list(ids.range(command.cntid..).copied(), page);
            }
            Cns::NamespaceControllerList => return Err(StatusCode::InvalidField),
        }
        Ok(())
    }

    /// The namespace, or nothing when it is not there (which many structures tell with zeroes).
    fn namespace(&self, nsid: Nsid) -> Result<Option<Arc<Namespace>>, StatusCode> {
        if !(1..=limits::MAX_NSID).contains(&nsid.0) {
            return Err(StatusCode::InvalidNamespace);
        }
        Ok(self.subsystem.namespaces.snapshot().1.get(&nsid).map(Arc::clone))
    }

    /// The namespaces with higher ids than `after`.
    fn list(&self, after: Nsid, page: &mut Page) -> Result<(), StatusCode> {
        if after.0 >= Nsid::ALL.0 - 1 {
            return Err(StatusCode::InvalidNamespace);
        }
        let (_, snapshot) = self.subsystem.namespaces.snapshot();
        encode_nsid_list(snapshot.range(Nsid(after.0 + 1)..).map(|(&nsid, _)| nsid), page);
        Ok(())
    }

    fn controller_page(&self) -> IdentifyController {
        let common = IdentifyController {
            fr: FIRMWARE_REVISION.to_owned(),
            mdts: limits::MDTS,
            cntlid: self.controller.id,
            ver: VERSION,
            aerl: limits::MAX_ASYNC_EVENTS as u8 - 1,
            kas_100ms: limits::KEEP_ALIVE_GRANULARITY_100MS,
            maxcmd: limits::MAX_QUEUE_ENTRIES,
            lpa: IdentifyController::LPA_EXTENDED,
            sgls: SglSupport::TCP,
            ioccsz_16bytes: IOCCSZ_16BYTES,
            iorcsz_16bytes: 1,
            msdbd: 1,
            ..IdentifyController::default()
        };
        if !self.is_io() {
            return IdentifyController {
                cntrltype: ControllerType::Discovery,
                oaes: DISCOVERY_EVENTS,
                subnqn: Some(Nqn::discovery()),
                ..common
            };
        }
        IdentifyController {
            sn: self.subsystem.serial.clone(),
            mn: self.subsystem.model.clone(),
            rab: RAB,
            cmic: IdentifyController::CMIC_MULTI_CONTROLLER,
            oaes: IO_EVENTS,
            ctratt: IdentifyController::CTRATT_HOST_ID_128,
            cntrltype: ControllerType::Io,
            acl: limits::MAX_ABORTS - 1,
            frmw: FRMW,
            lpa: IdentifyController::LPA_COMMANDS_SUPPORTED | IdentifyController::LPA_EXTENDED,
            elpe: limits::ERROR_LOG_ENTRIES as u8 - 1,
            sqes: 0x66,
            cqes: 0x44,
            nn: limits::MAX_NSID,
            mnan: limits::MAX_NAMESPACES as u32,
            oncs: IdentifyController::ONCS_COMPARE
                | IdentifyController::ONCS_DATASET_MANAGEMENT
                | IdentifyController::ONCS_WRITE_ZEROES,
            vwc: Vwc::PRESENT_FLUSH_ALL,
            subnqn: Some(self.subsystem.nqn.clone()),
            ofcs: OFCS_DISCONNECT,
            ..common
        }
    }
}

fn namespace_attributes(namespace: &Namespace) -> u8 {
    if namespace.info.read_only { IdentifyNamespace::NSATTR_WRITE_PROTECTED } else { 0 }
}

fn namespace_page(namespace: &Namespace) -> IdentifyNamespace {
    let page = IdentifyNamespace {
        nmic: IdentifyNamespace::NMIC_SHARED,
        dlfeat: IdentifyNamespace::DLFEAT_ZEROES_WITH_DEALLOCATE,
        nsattr: namespace_attributes(namespace),
        nguid: namespace.info.uuid,
        // A power of two from 512 to 65536, so 9 to 16.
        ..IdentifyNamespace::with_blocks(namespace.info.blocks, namespace.block_shift as u8)
    };
    IdentifyNamespace { nvmcap: namespace.info.size_bytes.into(), ..page }
}
