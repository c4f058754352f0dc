//! How an etcd is addressed: `etcd://[user@]host:port[,host:port…][?option=value&…]`, with `etcds://` for TLS, or a bare
//! `host:port` as the original writes it.
//!
//! Secrets are never part of an address, which `ps`, logs and reports show: the password comes from the environment or
//! from a file.

use crate::error::{EngineError, ErrorKind};
use crate::metadata::secret_file::read_secret;
use std::path::PathBuf;

/// The user's password.
const PASSWORD_VARIABLE: &str = "NVFERRY_ETCD_PASSWORD";
/// A file that holds it.
const PASSWORD_FILE_VARIABLE: &str = "NVFERRY_ETCD_PASSWORD_FILE";
/// Members of the largest cluster that etcd itself advises, and room for proxies.
const MOST_ENDPOINTS: usize = 64;

/// Where an etcd is, and how it is entered.
pub(super) struct Address {
    /// `host:port` each, at least one.
    pub(super) endpoints: Vec<String>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) user: Option<User>,
}

/// PEM files. Without `ca`, the system's authorities are trusted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) ca: Option<PathBuf>,
    /// This client's certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
}

impl Address {
    /// Takes an address apart and reads the password. `variable` is the environment.
    pub(super) fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, EngineError> {
        let shown = super::super::without_secrets(text);
        let refused = |why: String| EngineError::new(ErrorKind::InvalidArgument, format!("etcd '{shown}': {why}"));
        let (scheme, rest) = text.split_once("://").unwrap_or(("etcd", text));
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        let endpoints = endpoints(place).map_err(refused)?;
        let options = Options::parse(options).map_err(refused)?;
        let is_tls = scheme.eq_ignore_ascii_case("etcds");
        let tls = options.tls(is_tls).map_err(refused)?;
        let user = match user {
            None if options.password_file.is_some() => {
                return Err(refused("it has a password_file, but names no user: etcd://user@host:port".into()));
            }
            None => None,
            Some(user) => Some(User::read(user, options.password_file, variable).map_err(refused)?),
        };
        Ok(Self { endpoints, tls, user })
    }

    /// The address without what only this client uses, for people.
    pub(super) fn location(&self) -> String {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        format!("{scheme}://{}", self.endpoints.join(","))
    }
}

fn endpoints(place: &str) -> Result<Vec<String>, String> {
    let place = place.strip_suffix('/').unwrap_or(place);
    let endpoints: Vec<String> = place.split([',', ';']).map(|part| part.trim().to_owned()).collect();
    if endpoints.len() > MOST_ENDPOINTS {
        return Err(format!("{} endpoints: at most {MOST_ENDPOINTS} are used", endpoints.len()));
    }
    for endpoint in &endpoints {
        let wrong = || format!("'{endpoint}' is no endpoint: write host:port, such as 10.0.0.9:2379");
        let (host, port) = endpoint.rsplit_once(':').ok_or_else(wrong)?;
        let is_ipv6 = host.starts_with('[') && host.ends_with(']');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_host = if is_ipv6 {
            host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()
        } else {
            !host.is_empty() && host.chars().all(is_plain)
        };
        if !is_host || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(wrong());
        }
    }
    Ok(endpoints)
}

#[derive(Default)]
struct Options {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    password_file: Option<PathBuf>,
}

impl Options {
    fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let place = match name {
                "ca" => &mut options.ca,
                "cert" => &mut options.cert,
                "key" => &mut options.key,
                "password_file" => &mut options.password_file,
                // The value is not repeated: it may be a password.
                _ => return Err(format!("'{name}' is no option: there are ca, cert, key and password_file")),
            };
            if value.is_empty() {
                return Err(format!("option {name} names no file"));
            }
            if place.replace(value.into()).is_some() {
                return Err(format!("option {name} is given twice"));
            }
        }
        Ok(options)
    }

    fn tls(&self, is_tls: bool) -> Result<Option<TlsFiles>, String> {
        let identity = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            _ => return Err("cert and key belong together".into()),
        };
        let files = TlsFiles { ca: self.ca.clone(), identity };
        match is_tls {
            true => Ok(Some(files)),
            false if files == TlsFiles::default() => Ok(None),
            false => Err("ca, cert and key are for TLS: begin the address with etcds://".into()),
        }
    }
}

impl User {
    fn read(name: &str, file: Option<PathBuf>, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        if name.contains(':') {
            return Err(format!(
                "a password in an address is shown by ps and in logs: write user@host, and give the password in \
                 {PASSWORD_VARIABLE}, or in a file that {PASSWORD_FILE_VARIABLE} or ?password_file= names"
            ));
        }
        if name.is_empty() {
            return Err("the user before the @ has no name".into());
        }
        let file = file.or_else(|| match variable(PASSWORD_VARIABLE) {
            Some(_) => None,
            None => variable(PASSWORD_FILE_VARIABLE).map(PathBuf::from),
        });
        let password = match file {
            Some(file) => read_secret("password", &file)?,
            None => variable(PASSWORD_VARIABLE).ok_or_else(|| {
                format!(
                    "user {name} has no password: set {PASSWORD_VARIABLE}, or name a file that holds it in \
                     {PASSWORD_FILE_VARIABLE} or ?password_file="
                )
            })?,
        };
        Ok(Self { name: name.to_owned(), password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, EngineError> {
        Address::parse(text, |name| (name == PASSWORD_VARIABLE).then(|| "from-environment".into()))
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (text, location) in [
            ("127.0.0.1:2379", "etcd://127.0.0.1:2379"),
            ("etcd://a:1,b:2,c:3", "etcd://a:1,b:2,c:3"),
            ("etcd://a:1;b:2/", "etcd://a:1,b:2"),
            ("ETCDS://[::1]:2379", "etcds://[::1]:2379"),
            ("etcds://u@a:1?ca=/x/ca.pem", "etcds://a:1"),
        ] {
            assert_eq!(parse(text).unwrap().location(), location);
        }
        let address = parse("etcds://root@a:1?ca=/ca.pem&cert=/c.pem&key=/k.pem").ok().unwrap();
        let tls = TlsFiles { ca: Some("/ca.pem".into()), identity: Some(("/c.pem".into(), "/k.pem".into())) };
        assert_eq!(address.tls, Some(tls));
        let user = address.user.unwrap();
        assert_eq!((user.name.as_str(), user.password.as_str()), ("root", "from-environment"));
    }

    #[test]
    fn what_is_wrong_is_said_and_passwords_are_not() {
        for (text, why) in [
            ("etcd://a", "host:port"),
            ("etcd://a:0", "host:port"),
            ("etcd://a:1,", "host:port"),
            ("etcd://a:1/b", "host:port"),
            ("etcd://:2379", "host:port"),
            ("etcd://a b:1", "host:port"),
            ("etcd://[::x]:1", "host:port"),
            ("etcd://root:geheim@a:1", "NVFERRY_ETCD_PASSWORD"),
            ("etcd://root:ge@heim@a:1", "NVFERRY_ETCD_PASSWORD"),
            ("etcd://@a:1", "no name"),
            ("etcd://a:1?ca=/x", "etcds://"),
            ("etcds://a:1?cert=/x", "together"),
            ("etcds://a:1?ca=", "no file"),
            ("etcds://a:1?ca=/x&ca=/y", "twice"),
            ("etcd://a:1?password=geheim", "password_file"),
            ("etcd://a:1?password_file=/x", "no user"),
            ("etcd://u@a:1?password_file=/does/not/exist", "/does/not/exist"),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(!error.to_string().contains("heim"), "{error}");
        }
        let error = Address::parse("etcd://u@a:1", |_| None).err().unwrap();
        assert!(error.to_string().contains("NVFERRY_ETCD_PASSWORD"), "{error}");
    }

    #[test]
    fn a_password_file_holds_one_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let read = |file: &tempfile::NamedTempFile| {
            let path = file.path().to_str().unwrap().to_owned();
            let variable = move |name: &str| (name == PASSWORD_FILE_VARIABLE).then(|| path.clone());
            Address::parse("etcd://u@a:1", variable).map(|address| address.user.unwrap().password)
        };
        assert!(read(&file).is_err());
        std::io::Write::write_all(&mut file, b"pass word\n").unwrap();
        assert_eq!(read(&file).unwrap(), "pass word");
        std::io::Write::write_all(&mut file, b"more\n").unwrap();
        let error = read(&file).err().unwrap().to_string();
        assert!(error.contains("one line") && !error.contains("pass word"), "{error}");
    }
}
