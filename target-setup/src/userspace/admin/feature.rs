//! Get and Set Features (base specification 5.15, 5.27).

use super::super::limits;
use super::{Asked, Reply, expects};
use nvferry_wire::admin::{FeatureSelect, GetFeatures, SetFeatures};
use nvferry_wire::feature::{
    AsyncEventConfig, EXHID, FeatureId, KeepAliveTimer, NumberOfQueues, VolatileWriteCache, host_identifier_data,
};
use nvferry_wire::{Sqe, StatusCode};

/// What Get Features with SEL 3 returns: the feature can be changed.
const CHANGEABLE: u32 = 1 << 2;

/// The events that an I/O controller can send.
pub(super) const IO_EVENTS: AsyncEventConfig = AsyncEventConfig::NAMESPACE_ATTRIBUTE;
/// The events that a discovery controller can send.
pub(super) const DISCOVERY_EVENTS: AsyncEventConfig = AsyncEventConfig::DISCOVERY_LOG_CHANGE;

impl Asked<'_> {
    /// A feature that this kind of controller has.
    fn feature(&self, fid: u8) -> Result<FeatureId, StatusCode> {
        let known = FeatureId::from_u8(fid).filter(|feature| match feature {
            FeatureId::AsyncEventConfig | FeatureId::KeepAliveTimer => true,
            FeatureId::NumberOfQueues | FeatureId::VolatileWriteCache | FeatureId::HostIdentifier => self.is_io(),
            _ => false,
        });
        known.ok_or(StatusCode::InvalidField)
    }

    pub(super) fn get_features(&self, sqe: &Sqe) -> Result<Reply, StatusCode> {
        let command = GetFeatures::decode(sqe)?;
        let feature = self.feature(command.fid)?;
        match command.select {
            // Nothing is saved, so the saved value is the default, which is what follows.
            FeatureSelect::Current => {}
            FeatureSelect::Default | FeatureSelect::Saved => return Ok(Reply::value(default_value(feature).into())),
            FeatureSelect::Supported => {
                let changeable = matches!(feature, FeatureId::AsyncEventConfig | FeatureId::KeepAliveTimer);
                return Ok(Reply::value(if changeable { CHANGEABLE.into() } else { 0 }));
            }
        }
        let value = match feature {
            FeatureId::AsyncEventConfig => self.controller.events_wanted().0,
            FeatureId::KeepAliveTimer => {
                // Set from 32 bits of milliseconds, and rounded up within them unless it was near their end.
                self.controller.kato().map_or(0, |kato| u32::try_from(kato.as_millis()).unwrap_or(u32::MAX))
            }
            FeatureId::HostIdentifier => {
                if command.cdw11 & EXHID == 0 {
                    return Err(StatusCode::InvalidField);
                }
                let id = host_identifier_data(self.controller.hostid);
                expects(sqe, id.len() as u64)?;
                return Ok(Reply::data(id.into()));
            }
            other => default_value(other),
        };
        Ok(Reply::value(value.into()))
    }

    pub(super) fn set_features(&self, sqe: &Sqe) -> Result<Reply, StatusCode> {
        let command = SetFeatures::decode(sqe);
        let feature = self.feature(command.fid)?;
        if command.save {
            return Err(StatusCode::FeatureNotSaveable);
        }
        match feature {
            FeatureId::NumberOfQueues => {
                let asked = NumberOfQueues::from_dword(command.cdw11);
                if asked.submission > 0xFFFF || asked.completion > 0xFFFF {
                    return Err(StatusCode::InvalidField);
                }
                let granted = asked.pair_count().min(limits::MAX_IO_QUEUES.into());
                Ok(Reply::value(NumberOfQueues::pairs(granted).to_dword().into()))
            }
            FeatureId::KeepAliveTimer => {
                self.controller.set_kato(KeepAliveTimer::from_dword(command.cdw11).kato_ms);
                Ok(Reply::value(0))
            }
            FeatureId::AsyncEventConfig => {
                // Health events are part of every controller's and simply never come.
                let possible = if self.is_io() { IO_EVENTS.with(AsyncEventConfig::SMART) } else { DISCOVERY_EVENTS };
                let wanted = AsyncEventConfig(command.cdw11);
                if !possible.contains(wanted) {
                    return Err(StatusCode::InvalidField);
                }
                self.controller.set_events_wanted(wanted);
                Ok(Reply::value(0))
            }
            FeatureId::VolatileWriteCache => {
                if VolatileWriteCache::from_dword(command.cdw11).enabled {
                    Ok(Reply::value(0))
                } else {
                    // Writes go where the file system puts them; a cache that cannot be turned off must not pretend.
                    Err(StatusCode::FeatureNotChangeable)
                }
            }
            // Connect has said it.
            FeatureId::HostIdentifier => Err(StatusCode::CommandSequenceError),
            _ => Err(StatusCode::FeatureNotChangeable),
        }
    }
}

fn default_value(feature: FeatureId) -> u32 {
    match feature {
        FeatureId::NumberOfQueues => NumberOfQueues::pairs(limits::MAX_IO_QUEUES.into()).to_dword(),
        FeatureId::VolatileWriteCache => VolatileWriteCache { enabled: true }.to_dword(),
        _ => 0,
    }
}
