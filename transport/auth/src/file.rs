//! Secrets in files: one secret, or a target's list of hosts.
//!
//! A file that others than its owner may read is refused: what is in it would be no secret.

use crate::{AuthHash, DhGroup, Secret, SecretError};
use nvferry_wire::Nqn;
use nvferry_wire::nqn::NqnError;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The longest file that is read, in bytes: thousands of hosts.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why a file of secrets cannot be used. What it holds is never repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "{path} holds a secret and has mode {mode:04o}: others than its owner may read or change it; `chmod 600 {path}`"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is longer than any such file should be.
    #[error("{path} is longer than {MAX_FILE_BYTES} bytes: it does not look like a file of secrets")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It holds no secret.
    #[error("{path}: it holds no secret; write one there with `nvferry secret --out {path}`")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A secret in it is wrong.
    #[error("{path}, line {line}: {source}")]
    Secret {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        source: SecretError,
    },
    /// A name in it is wrong.
    #[error("{path}, line {line}: {source}")]
    Nqn {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        source: NqnError,
    },
    /// A line has another form.
    #[error("{path}, line {line}: {why}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// One line of a target's list of hosts: `NQN [SECRET [CONTROLLER-SECRET]] [hash=sha384] [dhgroup=ffdhe4096]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLine {
    /// The host.
    pub nqn: Nqn,
    /// What it has to prove that it knows.
    pub secret: Option<Secret>,
    /// What the controller proves to it, if it asks.
    pub controller_secret: Option<Secret>,
    /// The hash of the exchange, where another than usual is wanted.
    pub hash: Option<AuthHash>,
    /// The DH group, likewise.
    pub group: Option<DhGroup>,
}

/// Reads the one secret in a file; blank lines and lines that begin with `#` do not count.
///
/// # Errors
/// Anything wrong with the file or the secret.
pub fn read_secret(path: &Path) -> Result<Secret, SecretFileError> {
    let (text, mode) = read(path)?;
    let mut lines = lines(&text);
    let (line, text) = lines.next().ok_or_else(|| SecretFileError::Empty { path: path.to_owned() })?;
    if let Some((line, _)) = lines.next() {
        return Err(SecretFileError::Line { path: path.to_owned(), line, why: "one secret is enough" });
    }
    check_mode(path, mode)?;
    text.parse().map_err(|source| SecretFileError::Secret { path: path.to_owned(), line, source })
}

/// Reads a target's list of hosts. Only one that holds secrets has to be closed to others.
///
/// # Errors
/// Anything wrong with the file, a name or a secret; a host that is named twice.
pub fn read_hosts(path: &Path) -> Result<Vec<HostLine>, SecretFileError> {
    let (text, mode) = read(path)?;
    let mut hosts: Vec<HostLine> = Vec::new();
    for (line, text) in lines(&text) {
        let path = || path.to_owned();
        let wrong = |why| SecretFileError::Line { path: path(), line, why };
        let secret = |text: &str| text.parse().map_err(|source| SecretFileError::Secret { path: path(), line, source });
        let (mut hash, mut group) = (None, None);
        let mut plain = Vec::new();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("hash", name)) => {
                    let known = AuthHash::ALL.into_iter().find(|hash| hash.to_string() == name);
                    hash = Some(known.ok_or_else(|| wrong("hash= is none of sha256, sha384, sha512"))?);
                }
                Some(("dhgroup", name)) => {
                    let known = DhGroup::ALL.into_iter().find(|group| group.kernel_name() == name);
                    let unknown = "dhgroup= is none of null, ffdhe2048, ffdhe3072, ffdhe4096, ffdhe6144, ffdhe8192";
                    group = Some(known.ok_or_else(|| wrong(unknown))?);
                }
                // A secret may have the sign, too.
                _ => plain.push(word),
            }
        }
        let mut words = plain.into_iter();
        let nqn = Nqn::new(words.next().unwrap_or_default());
        let nqn = nqn.map_err(|source| SecretFileError::Nqn { path: path(), line, source })?;
        let host = HostLine {
            nqn,
            secret: words.next().map(secret).transpose()?,
            controller_secret: words.next().map(secret).transpose()?,
            hash,
            group,
        };
        if words.next().is_some() {
            return Err(wrong("more than a name, a secret and a controller secret"));
        }
        if hosts.iter().any(|other| other.nqn == host.nqn) {
            return Err(wrong("this host is named a second time"));
        }
        hosts.push(host);
    }
    if hosts.iter().any(|host| host.secret.is_some()) {
        check_mode(path, mode)?;
    }
    Ok(hosts)
}

/// The lines that count, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn check_mode(path: &Path, mode: u32) -> Result<(), SecretFileError> {
    if mode & 0o077 == 0 { Ok(()) } else { Err(SecretFileError::Open { path: path.to_owned(), mode }) }
}

/// The file's text and permissions.
fn read(path: &Path) -> Result<(Zeroizing<String>, u32), SecretFileError> {
    let io = |source| SecretFileError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    // Room for all of it at once: a string that grows leaves copies of its content behind.
    let mut text = Zeroizing::new(String::with_capacity(metadata.len().clamp(4096, MAX_FILE_BYTES) as usize + 1));
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(SecretFileError::TooLong { path: path.to_owned() });
    }
    Ok((text, metadata.permissions().mode() & 0o777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(mode: u32, text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_list_names_hosts_with_and_without_secrets() {
        let (a, b) = (Secret::generate(None).unwrap(), Secret::generate(None).unwrap());
        let text = format!(
            "# hosts\n\nnqn.2020-01.org.example:a {} {} hash=sha384 dhgroup=null\n nqn.2020-01.org.example:b\n",
            *a.expose(),
            *b.expose()
        );
        let hosts = read_hosts(file(0o600, &text).path()).unwrap();
        assert_eq!(hosts.len(), 2);
        assert_eq!((&hosts[0].secret, &hosts[0].controller_secret), (&Some(a), &Some(b)));
        assert_eq!((hosts[0].hash, hosts[0].group), (Some(AuthHash::Sha384), Some(DhGroup::Null)));
        assert_eq!((hosts[1].nqn.as_str(), &hosts[1].secret), ("nqn.2020-01.org.example:b", &None));
        let error = read_hosts(file(0o644, &text).path()).unwrap_err().to_string();
        assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
        assert_eq!(read_hosts(file(0o644, "nqn.2020-01.org.example:b").path()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_the_secret() {
        let secret = Secret::generate(None).unwrap().expose();
        let broken = secret.replace("DHHC-1", "DHHC-9");
        for (text, needle) in [
            ("\nnode7", "line 2: NQN \"node7\""),
            ("nqn.2020-01.org.example:a\nnqn.2020-01.org.example:a", "line 2: this host is named a second time"),
            ("nqn.2020-01.org.example:a hash=md5", "line 1: hash= is none of"),
            ("nqn.2020-01.org.example:a dhgroup=x", "line 1: dhgroup= is none of"),
            (&format!("nqn.2020-01.org.example:a {broken}"), "line 1: a secret has the form"),
            (&format!("nqn.2020-01.org.example:a {0} {0} {0}", *secret), "line 1: more than"),
        ] {
            let error = read_hosts(file(0o600, text).path()).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
            assert!(!error.contains(&secret[10..30]), "{error}");
        }
        for (text, mode, needle) in [
            ("# none\n", 0o600, "holds no secret"),
            (&*format!("{0}\n{0}", *secret), 0o600, "line 2: one secret is enough"),
            (&secret, 0o640, "mode 0640"),
        ] {
            let error = read_secret(file(mode, text).path()).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
        assert_eq!(read_secret(file(0o400, &secret).path()).unwrap().expose(), secret);
        assert!(read_secret(Path::new("/nonexistent")).unwrap_err().to_string().contains("/nonexistent"));
    }
}
