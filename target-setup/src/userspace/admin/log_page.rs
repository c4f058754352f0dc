//! Get Log Page (base specification 5.16).

use super::super::limits;
use super::{ADMIN_COMMANDS, Asked, FIRMWARE_REVISION, IO_COMMANDS, Reply, expects};
use nvferry_wire::admin::GetLogPage;
use nvferry_wire::log_page::{
    CHANGED_NAMESPACES_LEN, COMMAND_EFFECTS_LEN, CommandEffects, DISCOVERY_ENTRY_LEN, DISCOVERY_HEADER_LEN,
    DiscoveryEntry, DiscoveryHeader, ERROR_ENTRY_LEN, ErrorEntry, FIRMWARE_LOG_LEN, FirmwareSlots, LogPageId,
    SMART_LOG_LEN, SUPPORTED_PAGES_LEN, SmartHealth, encode_changed_namespaces, encode_supported_pages,
};
use nvferry_wire::{Lba, Nsid, Sqe, StatusCode};

/// The number of NVMe/TCP among transports.
const TRTYPE_TCP: u8 = 3;
/// GENCTR of the discovery log page: what it tells does not change while a target runs.
const GENERATION: u64 = 1;
/// The only port that there is.
const PORT_ID: u16 = 1;
/// Room temperature: files have none of their own.
const TEMPERATURE_KELVIN: u16 = 298;

const IO_PAGES: &[LogPageId] = &[
    LogPageId::SupportedPages,
    LogPageId::Error,
    LogPageId::Smart,
    LogPageId::Firmware,
    LogPageId::ChangedNamespaces,
    LogPageId::CommandsSupported,
];
const DISCOVERY_PAGES: &[LogPageId] = &[LogPageId::SupportedPages, LogPageId::Error, LogPageId::Discovery];

impl Asked<'_> {
    pub(super) fn get_log_page(&self, sqe: &Sqe) -> Result<Reply, StatusCode> {
        let command = GetLogPage::decode(sqe)?;
        let pages = if self.is_io() { IO_PAGES } else { DISCOVERY_PAGES };
        let page = LogPageId::from_u8(command.lid).filter(|page| pages.contains(page));
        let page = page.ok_or(StatusCode::LogPageInvalid)?;
        if command.index_offset || command.length_bytes > limits::MAX_TRANSFER_BYTES.into() {
            return Err(StatusCode::InvalidField);
        }
        expects(sqe, command.length_bytes)?;
        let whole = match page {
            LogPageId::SupportedPages => {
                let mut out = Box::new([0; SUPPORTED_PAGES_LEN]);
                encode_supported_pages(pages, &mut out);
                out as Box<[u8]>
            }
            LogPageId::Error => self.error_page(),
            LogPageId::Smart => self.smart_page(command.nsid)?,
            LogPageId::Firmware => {
                let mut out = Box::new([0; FIRMWARE_LOG_LEN]);
                FirmwareSlots::single(FIRMWARE_REVISION).encode(&mut out);
                out
            }
            LogPageId::ChangedNamespaces => self.changed_page(&command),
            LogPageId::CommandsSupported => {
                let mut out = Box::new([0; COMMAND_EFFECTS_LEN]);
                CommandEffects::of(ADMIN_COMMANDS, IO_COMMANDS).encode(&mut out);
                out
            }
            LogPageId::Discovery => self.discovery_page(),
            LogPageId::Ana => return Err(StatusCode::LogPageInvalid),
        };
        part(&whole, &command)
    }

    fn error_page(&self) -> Box<[u8]> {
        let mut out = vec![0; limits::ERROR_LOG_ENTRIES * ERROR_ENTRY_LEN];
        let (slots, _) = out.as_chunks_mut::<ERROR_ENTRY_LEN>();
        for (slot, failure) in slots.iter_mut().zip(self.controller.failures().0) {
            ErrorEntry {
                error_count: failure.number,
                sqid: failure.qid,
                cid: failure.cid,
                status: failure.status,
                parameter_location: 0xFFFF,
                lba: Lba(failure.lba),
                nsid: failure.nsid,
                trtype: TRTYPE_TCP,
                command_specific: 0,
            }
            .encode(slot);
        }
        out.into()
    }

    fn smart_page(&self, nsid: Nsid) -> Result<Box<[u8]>, StatusCode> {
        // Not told for single namespaces (LPA bit 0): the controller's page is for all.
        if nsid != Nsid::ALL && nsid != Nsid::NONE {
            return Err(StatusCode::InvalidField);
        }
        let totals = self.controller.totals();
        let mut out = Box::new([0; SMART_LOG_LEN]);
        SmartHealth {
            temperature_kelvin: TEMPERATURE_KELVIN,
            available_spare_percent: 100,
            spare_threshold_percent: 10,
            data_units_read: SmartHealth::data_units(totals.read_bytes.into()),
            data_units_written: SmartHealth::data_units(totals.written_bytes.into()),
            host_read_commands: totals.reads.into(),
            host_write_commands: totals.writes.into(),
            error_log_entries: self.controller.failures().1.into(),
            ..SmartHealth::default()
        }
        .encode(&mut out);
        Ok(out)
    }

    fn changed_page(&self, command: &GetLogPage) -> Box<[u8]> {
        let mut out = Box::new([0; CHANGED_NAMESPACES_LEN]);
        // More than the list can name are told as all.
        let list = self.controller.changed_namespaces(command.rae).unwrap_or_else(|| vec![Nsid::ALL]);
        encode_changed_namespaces(&list, &mut out);
        out
    }

    fn discovery_page(&self) -> Box<[u8]> {
        let visible = self.subsystem.allowed_hosts.allows(&self.controller.host);
        let mut entries = Vec::new();
        if visible {
            let mut address = self.subsystem.address.clone();
            // A host cannot connect to "any address", but to the one at which it is just asking.
            if let Some(local) = self.controller.ends.local.filter(|_| address.traddr.is_unspecified()) {
                address.traddr = local.ip();
            }
            let entry = DiscoveryEntry::nvm(&address, self.subsystem.nqn.clone(), PORT_ID, limits::MAX_QUEUE_ENTRIES);
            let mut out = [0; DISCOVERY_ENTRY_LEN];
            entry.encode(&mut out);
            entries.extend_from_slice(&out);
        }
        let mut header = [0; DISCOVERY_HEADER_LEN];
        DiscoveryHeader { genctr: GENERATION, numrec: visible.into(), recfmt: 0 }.encode(&mut header);
        [header.as_slice(), &entries].concat().into()
    }
}

/// The part of a page that was asked for; beyond its end there are zeroes.
fn part(page: &[u8], command: &GetLogPage) -> Result<Reply, StatusCode> {
    let from = usize::try_from(command.offset).ok().filter(|&from| from <= page.len());
    let rest = &page[from.ok_or(StatusCode::InvalidField)?..];
    // At most the largest transfer, which was checked.
    let mut out = vec![0; command.length_bytes as usize];
    let len = rest.len().min(out.len());
    out[..len].copy_from_slice(&rest[..len]);
    Ok(Reply::data(out.into()))
}
