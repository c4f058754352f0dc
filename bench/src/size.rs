//! Sizes as people write them, and rates as the reference's bench reports them.

use std::fmt;
use std::str::FromStr;

/// Reads a size in bytes: a number, or one with a suffix. `k`, `K`, `KiB`, `Ki` are 1024 (as everywhere in storage
/// tools), `KB` and `kB` 1000; likewise M, G and T.
///
/// # Errors
/// A sentence when it is none.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a size: write bytes, or a number with k, M, G or T, such as 64k or 1M");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (base, power) = match suffix {
        "" | "B" => (1, 1),
        "k" | "K" | "Ki" | "KiB" => (1024, 1),
        "M" | "m" | "Mi" | "MiB" => (1024, 2),
        "G" | "g" | "Gi" | "GiB" => (1024, 3),
        "T" | "t" | "Ti" | "TiB" => (1024, 4),
        "KB" | "kB" => (1000u64, 1),
        "MB" => (1000, 2),
        "GB" => (1000, 3),
        "TB" => (1000, 4),
        _ => return Err(wrong()),
    };
    number.checked_mul(base.pow(power)).ok_or_else(|| format!("{text:?} is more bytes than can be counted"))
}

/// Writes a size as people read it: exact where it is a power's multiple, else with two digits.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len()).rev().find(|unit| bytes >> (10 * unit) > 0).unwrap_or(0);
    let scale = 1u64 << (10 * unit);
    if bytes.is_multiple_of(scale) {
        format!("{} {}", bytes / scale, UNITS[unit])
    } else {
        format!("{:.2} {}", bytes as f64 / scale as f64, UNITS[unit])
    }
}

/// A unit that throughput is reported in, a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateUnit {
    name: &'static str,
    /// Bits in one of it.
    bits: u64,
}

impl RateUnit {
    const ALL: [Self; 14] = [
        Self { name: "TB", bits: 8_000_000_000_000 },
        Self { name: "TiB", bits: 8 << 40 },
        Self { name: "GB", bits: 8_000_000_000 },
        Self { name: "GiB", bits: 8 << 30 },
        Self { name: "Gb", bits: 1_000_000_000 },
        Self { name: "Gib", bits: 1 << 30 },
        Self { name: "MB", bits: 8_000_000 },
        Self { name: "MiB", bits: 8 << 20 },
        Self { name: "Mb", bits: 1_000_000 },
        Self { name: "KB", bits: 8_000 },
        Self { name: "KiB", bits: 8 << 10 },
        Self { name: "Kb", bits: 1_000 },
        Self { name: "B", bits: 8 },
        Self { name: "b", bits: 1 },
    ];

    /// So many bytes a second, in this unit a second.
    pub(crate) fn count(self, bytes_per_second: f64) -> f64 {
        bytes_per_second * 8.0 / self.bits as f64
    }
}

impl FromStr for RateUnit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|unit| unit.name == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|unit| unit.name).collect();
            format!("{text:?} is not a unit of throughput: choose one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for RateUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("12345", 12345),
            ("512B", 512),
            ("64k", 65536),
            ("64K", 65536),
            ("64KiB", 65536),
            ("64KB", 64000),
            ("1M", 1 << 20),
            ("8MiB", 8 << 20),
            ("1G", 1 << 30),
            ("1GB", 1_000_000_000),
            ("2T", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "k", "-1", "1.5M", "64 k", "64kk", "lots", "18446744073709551616", "99999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_people_read_them() {
        assert_eq!(show_size(12345), "12.06 KiB");
        assert_eq!(show_size(512), "512 bytes");
        assert_eq!(show_size(65536), "64 KiB");
        assert_eq!(show_size(1 << 30), "1 GiB");
    }

    #[test]
    fn rates_are_in_the_references_units() {
        let rate = |unit: &str| unit.parse::<RateUnit>().unwrap().count(1_500_000_000.0);
        assert!((rate("GB") - 1.5).abs() < 1e-9);
        assert!((rate("Gb") - 12.0).abs() < 1e-9);
        assert!((rate("MB") - 1500.0).abs() < 1e-9);
        assert!((rate("GiB") - 1.5e9 / f64::from(1 << 30)).abs() < 1e-9);
        assert!((rate("B") - 1.5e9).abs() < 1e-3);
        assert!("gb".parse::<RateUnit>().is_err());
    }
}
