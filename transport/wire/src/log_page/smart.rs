//! SMART and health (log page 02h).

use crate::codec::{get_u8, get_u16, get_u128, prefix, put_u8, put_u16, put_u128};
use crate::error::WireError;

/// Bytes of the page.
pub const SMART_LOG_LEN: usize = 512;

/// How the device is, and what it has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SmartHealth {
    /// What is wrong: bit 0 spare, bit 1 temperature, bit 2 reliability, bit 3 read only, bit 4 backup.
    pub critical_warning: u8,
    /// In kelvin.
    pub temperature_kelvin: u16,
    /// Spare capacity left, in percent.
    pub available_spare_percent: u8,
    /// Below which an event is sent.
    pub spare_threshold_percent: u8,
    /// Endurance used up, in percent; may exceed 100.
    pub percentage_used: u8,
    /// Read by the host, in thousands of 512 bytes, rounded up.
    pub data_units_read: u128,
    /// Written by the host, in thousands of 512 bytes, rounded up.
    pub data_units_written: u128,
    /// Read commands completed.
    pub host_read_commands: u128,
    /// Write commands completed.
    pub host_write_commands: u128,
    /// Minutes with commands outstanding.
    pub busy_minutes: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Hours powered on.
    pub power_on_hours: u128,
    /// Shutdowns without notice.
    pub unsafe_shutdowns: u128,
    /// Data that could not be recovered.
    pub media_errors: u128,
    /// Entries of the error log over the controller's life.
    pub error_log_entries: u128,
}

impl SmartHealth {
    /// Bytes as data units: thousands of 512 bytes, rounded up.
    pub fn data_units(bytes: u128) -> u128 {
        bytes.div_ceil(512_000)
    }

    /// Writes the page.
    pub fn encode(&self, out: &mut [u8; SMART_LOG_LEN]) {
        out.fill(0);
        put_u8::<0, _>(out, self.critical_warning);
        put_u16::<1, _>(out, self.temperature_kelvin);
        put_u8::<3, _>(out, self.available_spare_percent);
        put_u8::<4, _>(out, self.spare_threshold_percent);
        put_u8::<5, _>(out, self.percentage_used);
        put_u128::<32, _>(out, self.data_units_read);
        put_u128::<48, _>(out, self.data_units_written);
        put_u128::<64, _>(out, self.host_read_commands);
        put_u128::<80, _>(out, self.host_write_commands);
        put_u128::<96, _>(out, self.busy_minutes);
        put_u128::<112, _>(out, self.power_cycles);
        put_u128::<128, _>(out, self.power_on_hours);
        put_u128::<144, _>(out, self.unsafe_shutdowns);
        put_u128::<160, _>(out, self.media_errors);
        put_u128::<176, _>(out, self.error_log_entries);
    }

    /// Reads the page.
    ///
    /// # Errors
    /// Fewer than 512 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; SMART_LOG_LEN] = prefix(bytes, "SMART log page")?;
        Ok(Self {
            critical_warning: get_u8::<0, _>(b),
            temperature_kelvin: get_u16::<1, _>(b),
            available_spare_percent: get_u8::<3, _>(b),
            spare_threshold_percent: get_u8::<4, _>(b),
            percentage_used: get_u8::<5, _>(b),
            data_units_read: get_u128::<32, _>(b),
            data_units_written: get_u128::<48, _>(b),
            host_read_commands: get_u128::<64, _>(b),
            host_write_commands: get_u128::<80, _>(b),
            busy_minutes: get_u128::<96, _>(b),
            power_cycles: get_u128::<112, _>(b),
            power_on_hours: get_u128::<128, _>(b),
            unsafe_shutdowns: get_u128::<144, _>(b),
            media_errors: get_u128::<160, _>(b),
            error_log_entries: get_u128::<176, _>(b),
        })
    }
}
