//! The environment, read once.

use super::text::{number, on_off};
use super::{MAX_WORKERS, OptionsError};
use nvferry_auth::{Secret, SecretError};
use nvferry_io::fast_paths::FastPaths;

/// Whether Direct I/O is on.
const DIRECT_IO: &str = "MC_NVMEOF_GENERIC_DIRECT_IO";
/// How many workers are asked for.
const NUM_WORKERS: &str = "MC_NVMEOF_GENERIC_NUM_WORKERS";

/// What this host proves to know.
const SECRET: &str = "NVFERRY_DHCHAP_SECRET";
/// What targets have to prove to know.
const CONTROLLER_SECRET: &str = "NVFERRY_DHCHAP_CTRL_SECRET";

/// What the environment says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    pub(super) direct: Option<bool>,
    pub(super) workers: Option<usize>,
    pub(super) secret: Option<Secret>,
    pub(super) controller_secret: Option<Secret>,
    /// What tests force.
    pub(super) paths: FastPaths,
}

impl Environment {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// A variable that cannot be understood.
    pub fn read() -> Result<Self, OptionsError> {
        let read = Self::from_lookup(|name| std::env::var(name).ok())?;
        Ok(Self { paths: FastPaths::check()?, ..read })
    }

    /// Reads from what `lookup` knows. An empty variable counts as absent.
    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, OptionsError> {
        let get = |name| lookup(name).filter(|value| !value.trim().is_empty());
        let workers = |value: String| number(NUM_WORKERS, value.trim(), 1, MAX_WORKERS as u64, "a number from 1 to 64");
        Ok(Self {
            direct: get(DIRECT_IO).map(|value| on_off(DIRECT_IO, value.trim())).transpose()?,
            secret: get(SECRET).map(|value| secret(SECRET, &value)).transpose()?,
            controller_secret: get(CONTROLLER_SECRET).map(|value| secret(CONTROLLER_SECRET, &value)).transpose()?,
            paths: FastPaths::default(),
            workers: get(NUM_WORKERS).map(workers).transpose()?.map(|workers| workers as usize),
        })
    }
}

fn secret(option: &'static str, value: &str) -> Result<Secret, OptionsError> {
    value.trim().parse().map_err(|why: SecretError| OptionsError::Secret { option, why: why.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(direct: &str, workers: &str) -> Result<Environment, OptionsError> {
        Environment::from_lookup(|name| match name {
            DIRECT_IO => Some(direct.to_owned()),
            NUM_WORKERS => Some(workers.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn words_mean_what_people_mean() {
        for off in ["0", "off", "false", "no", "OFF", " No "] {
            assert_eq!(read(off, "").unwrap().direct, Some(false), "{off}");
        }
        for on in ["1", "on", "true", "yes", "On"] {
            assert_eq!(read(on, "").unwrap().direct, Some(true), "{on}");
        }
        assert_eq!(read("", "4").unwrap(), Environment { workers: Some(4), ..Environment::default() });
    }

    #[test]
    fn secrets_are_read_and_wrong_ones_not_repeated() {
        let secret = Secret::generate(None).unwrap();
        let read = |value: &str| Environment::from_lookup(|name| (name == SECRET).then(|| value.to_owned()));
        assert_eq!(read(&secret.expose()).unwrap().secret, Some(secret.clone()));
        let error = read(&secret.expose().replace(":00:", ":07:")).unwrap_err().to_string();
        assert!(error.starts_with("NVFERRY_DHCHAP_SECRET: "), "{error}");
        assert!(!error.contains(&secret.expose()[10..30]), "{error}");
    }

    #[test]
    fn nonsense_is_named() {
        let error = read("perhaps", "").unwrap_err().to_string();
        assert!(error.contains("MC_NVMEOF_GENERIC_DIRECT_IO=perhaps"), "{error}");
        for workers in ["0", "-1", "65", "many"] {
            assert!(read("", workers).unwrap_err().to_string().contains("NUM_WORKERS"), "{workers}");
        }
    }
}
