//! The text of `install_transport`: a transport id, and more keys of the same form.

use super::{
    HostDriver, MAX_QUEUE_DEPTH, MAX_RECONNECT_DELAY_S, MAX_WORKERS, NvmeofOptions, OptionsError, TargetDriverKind,
};
use nvferry_auth::Secret;
use nvferry_auth::file::{read_hosts, read_secret};
use nvferry_target::{AllowedHost, AllowedHosts};
use nvferry_wire::{HostId, Nqn, TransportId};
use std::path::Path;
use std::time::Duration;

/// Keys of the transport id.
const TRID_KEYS: &[&str] = &["trtype", "adrfam", "traddr", "trsvcid", "subnqn"];

/// All other keys.
const KEYS: &[&str] = &[
    "host_driver",
    "target_driver",
    "workers",
    "queue_depth",
    "hdgst",
    "ddgst",
    "direct",
    "overwrite",
    "kato_ms",
    "hostnqn",
    "hostid",
    "spin_us",
    "ctrl_loss_tmo_s",
    "reconnect_delay_s",
    "dhchap_secret_file",
    "dhchap_ctrl_secret_file",
    "allowed_hosts_file",
    "inline_data_bytes",
    "max_queue_entries",
];

/// Reads the whole text. Keys are read regardless of case; each may stand once.
pub(super) fn parse(text: &str) -> Result<NvmeofOptions, OptionsError> {
    let mut options = NvmeofOptions::default();
    let mut trid = Vec::new();
    let mut seen = Vec::new();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').ok_or_else(|| OptionsError::NotKeyValue(word.to_owned()))?;
        let key = key.to_ascii_lowercase();
        if TRID_KEYS.contains(&key.as_str()) {
            trid.push((key, value));
            continue;
        }
        let Some(&key) = KEYS.iter().find(|&&known| known == key) else {
            return Err(OptionsError::UnknownKey { key, known: [TRID_KEYS, KEYS].concat().join(", ") });
        };
        if seen.contains(&key) {
            return Err(OptionsError::Duplicate(key));
        }
        seen.push(key);
        set(&mut options, key, value)?;
    }
    if !trid.is_empty() {
        options.trid = Some(TransportId::from_fields(trid.iter().map(|(key, value)| (key.as_str(), *value)))?);
    }
    Ok(options)
}

fn set(options: &mut NvmeofOptions, key: &'static str, value: &str) -> Result<(), OptionsError> {
    let wrong = |must_be| OptionsError::Value { option: key, value: value.to_owned(), must_be };
    match key {
        "host_driver" => {
            options.host_driver = Some(match value.to_ascii_lowercase().as_str() {
                "auto" => HostDriver::Auto,
                "userspace" => HostDriver::Userspace,
                "kernel" => HostDriver::Kernel,
                "local" => HostDriver::Local,
                _ => return Err(wrong("auto, userspace, kernel or local")),
            });
        }
        "target_driver" => {
            options.target_driver = Some(match value.to_ascii_lowercase().as_str() {
                "userspace" => TargetDriverKind::Userspace,
                "nvmet" => TargetDriverKind::Nvmet,
                _ => return Err(wrong("userspace or nvmet")),
            });
        }
        "workers" => {
            let workers = number(key, value, 1, MAX_WORKERS as u64, "a number from 1 to 64")?;
            options.workers = Some(workers as usize);
        }
        "queue_depth" => {
            let depth = number(key, value, 2, MAX_QUEUE_DEPTH.into(), "a number from 2 to 1024")?;
            options.queue_depth = Some(depth as u16);
        }
        "hdgst" => options.header_digest = Some(on_off(key, value)?),
        "ddgst" => options.data_digest = Some(on_off(key, value)?),
        "direct" => options.direct = Some(on_off(key, value)?),
        "overwrite" => options.overwrite = Some(on_off(key, value)?),
        "inline_data_bytes" => {
            let bytes = number(key, value, 0, 1 << 20, "a number of bytes from 0 to 1048576")?;
            options.port.inline_data_bytes = Some(bytes as u32);
        }
        "max_queue_entries" => {
            let entries = number(key, value, 16, 1024, "a number from 16 to 1024")?;
            options.port.max_queue_entries = Some(entries as u16);
        }
        "kato_ms" => {
            let ms = number(key, value, 100, 3_600_000, "a number of milliseconds from 100 to 3600000")?;
            options.kato = Some(Duration::from_millis(ms));
        }
        "hostnqn" => {
            options.host_nqn = Some(Nqn::new(value).map_err(|_| wrong("an NQN, such as nqn.2016-06.io.example:host1"))?)
        }
        "hostid" => options.host_id = Some(uuid(value).ok_or_else(|| wrong("a UUID that is not all zeroes"))?),
        "ctrl_loss_tmo_s" => {
            let must_be = "a number of seconds from 0 to 86400, or -1 for ever";
            options.ctrl_loss_tmo_s = Some(match value {
                "-1" => -1,
                _ => number(key, value, 0, 86_400, must_be)? as i32,
            });
        }
        "reconnect_delay_s" => {
            let most = MAX_RECONNECT_DELAY_S.into();
            options.reconnect_delay_s = Some(number(key, value, 1, most, "a number of seconds from 1 to 3600")? as u32);
        }
        "dhchap_secret_file" => options.secret = Some(secret_file(key, value)?),
        "dhchap_ctrl_secret_file" => options.controller_secret = Some(secret_file(key, value)?),
        "allowed_hosts_file" => {
            let hosts = read_hosts(Path::new(value)).map_err(OptionsError::secret_file(key))?;
            options.allowed_hosts = Some(AllowedHosts::Only(hosts.into_iter().map(AllowedHost::from).collect()));
        }
        _ => {
            // The last of KEYS: spin_us.
            let us = number(key, value, 0, 1_000_000, "a number of microseconds from 0 (off) to 1000000")?;
            options.spin = Some(Duration::from_micros(us));
        }
    }
    Ok(())
}

fn secret_file(key: &'static str, path: &str) -> Result<Secret, OptionsError> {
    read_secret(Path::new(path)).map_err(OptionsError::secret_file(key))
}

/// A whole number within bounds.
pub(super) fn number(
    option: &'static str,
    value: &str,
    min: u64,
    max: u64,
    must_be: &'static str,
) -> Result<u64, OptionsError> {
    let number = value.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| OptionsError::Value { option, value: value.to_owned(), must_be })
}

/// On or off, in the words that people use.
pub(super) fn on_off(option: &'static str, value: &str) -> Result<bool, OptionsError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "on" | "true" | "yes" => Ok(true),
        "0" | "off" | "false" | "no" => Ok(false),
        _ => Err(OptionsError::Value { option, value: value.to_owned(), must_be: "on or off" }),
    }
}

fn uuid(text: &str) -> Option<HostId> {
    let hex: String = text.chars().filter(|&c| c != '-').collect();
    let number = u128::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 32)?;
    Some(HostId(number.to_be_bytes())).filter(|id| !id.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_target::configfs::PortOptions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn all_keys_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Secret::generate(None).unwrap(), Secret::generate(None).unwrap());
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path.display().to_string()
        };
        let nqn = "nqn.2020-01.org.example:h";
        let (file_a, file_b) = (write("a", &a.expose()), write("b", &b.expose()));
        let hosts = write("hosts", &format!("{nqn} {}", *a.expose()));
        let text = &format!(
            "dhchap_secret_file={file_a} dhchap_ctrl_secret_file={file_b} allowed_hosts_file={hosts} \
                    trtype=tcp adrfam=ipv4 traddr=127.0.0.1 trsvcid=0 host_driver=local target_driver=nvmet workers=3 \
                    queue_depth=64 hdgst=on ddgst=yes direct=off overwrite=on kato_ms=2000 hostnqn=nqn.2020-01.org.example:h \
                    hostid=00000000-0000-0000-0000-0000000000ff spin_us=20 ctrl_loss_tmo_s=-1 \
                    reconnect_delay_s=2 inline_data_bytes=4096 max_queue_entries=64"
        );
        let options = parse(text).unwrap();
        let expected = NvmeofOptions {
            trid: Some("traddr=127.0.0.1 trsvcid=0".parse().unwrap()),
            host_driver: Some(HostDriver::Local),
            target_driver: Some(TargetDriverKind::Nvmet),
            workers: Some(3),
            queue_depth: Some(64),
            header_digest: Some(true),
            data_digest: Some(true),
            direct: Some(false),
            overwrite: Some(true),
            kato: Some(Duration::from_secs(2)),
            host_nqn: Some(Nqn::new("nqn.2020-01.org.example:h").unwrap()),
            host_id: Some(HostId(0xff_u128.to_be_bytes())),
            spin: Some(Duration::from_micros(20)),
            port: PortOptions { inline_data_bytes: Some(4096), max_queue_entries: Some(64) },
            ctrl_loss_tmo_s: Some(-1),
            reconnect_delay_s: Some(2),
            allowed_hosts: Some(AllowedHosts::Only(vec![AllowedHost {
                nqn: Nqn::new(nqn).unwrap(),
                auth: Some(nvferry_target::HostAuth::new(a.clone())),
            }])),
            status_url: None,
            secret: Some(a),
            controller_secret: Some(b),
        };
        assert_eq!(options, expected);
        // None of the keys that the error message lists is missing above.
        for key in KEYS {
            assert!(text.contains(&format!("{key}=")), "{key} is not tested");
        }
    }

    #[test]
    fn keys_without_an_address_offer_nothing() {
        assert_eq!(parse("workers=2").unwrap().trid, None);
        assert!(parse("trtype=tcp").unwrap_err().to_string().contains("traddr is missing"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, needle) in [
            ("traddr=127.0.0.1 wrokers=2", "unknown key \"wrokers\""),
            ("traddr", "not of the form key=value"),
            ("traddr=127.0.0.1 workers=2 workers=3", "workers is given twice"),
            ("traddr=127.0.0.1 traddr=127.0.0.2", "traddr is given twice"),
            ("traddr=127.0.0.1 workers=0", "workers=0: must be"),
            ("traddr=127.0.0.1 hdgst=maybe", "hdgst=maybe: must be on or off"),
            ("traddr=127.0.0.1 kato_ms=1", "kato_ms=1: must be"),
            ("traddr=127.0.0.1 host_driver=spdk", "host_driver=spdk: must be auto, userspace, kernel or local"),
            ("ctrl_loss_tmo_s=-2", "ctrl_loss_tmo_s=-2: must be a number of seconds from 0 to 86400, or -1"),
            ("reconnect_delay_s=0", "reconnect_delay_s=0: must be"),
            ("traddr=127.0.0.1 target_driver=none", "target_driver=none: must be userspace or nvmet"),
            ("dhchap_secret_file=/nonexistent", "dhchap_secret_file: cannot read /nonexistent"),
            ("traddr=127.0.0.1 hostid=0", "hostid=0: must be"),
            ("traddr=127.0.0.1 hostid=00000000-0000-0000-0000-000000000000", "must be"),
            ("traddr=example.org", "is no IP address"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
