//! Connecting, safely: everything that libnvme wants is made and freed within one call.

use crate::bindings::Functions;
use crate::config::{self, Config};
use crate::request::{ConnectError, ConnectOptions, ConnectRequest};
use nvferry_auth::Secret;
use std::ffi::{CStr, CString, c_char};
use std::io::{self, Read, Seek};
use std::os::fd::FromRawFd;
use std::ptr::null;

/// The library's name at run time.
const SONAME: &str = "libnvme.so.1";
/// syslog's LOG_INFO: at this level newer versions tell the kernel's errno, which their result does not.
const LOG_INFO: i32 = 6;
/// libnvme's first number for an error of its own; what is below is an errno.
const FIRST_CONNECT_ERROR: i32 = 1000;

/// Why libnvme cannot be used here.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It is not installed, or lacks a function.
    #[error("cannot load {SONAME} ({why}); install libnvme 1.x (Debian: apt install libnvme1)")]
    Missing {
        /// The loader's words.
        why: String,
    },
}

/// libnvme, loaded. It stays loaded.
pub struct LibNvme {
    functions: Functions,
}

impl std::fmt::Debug for LibNvme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LibNvme").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl LibNvme {
    /// Loads the library.
    ///
    /// # Errors
    /// It is not on this machine, or is not libnvme 1.x.
    pub fn load() -> Result<Self, LoadError> {
        Self::load_from(SONAME)
    }

    fn load_from(name: &str) -> Result<Self, LoadError> {
        // SAFETY: libnvme's initialisers do nothing; its soname promises the interface that the bindings are of, and
        // every function is looked up here.
        let loaded = unsafe { Functions::new(name) };
        loaded.map(|functions| Self { functions }).map_err(|error| {
            // The loader's own words stand behind those of the crate.
            let loader = std::error::Error::source(&error).map(|source| format!(": {source}"));
            LoadError::Missing { why: format!("{error}{}", loader.unwrap_or_default()) }
        })
    }

    /// The library's version, such as `1.3`.
    #[must_use]
    pub fn version(&self) -> String {
        // SAFETY: 0 asks for the project's version; the result is a constant text or null.
        unsafe { text(self.functions.nvme_get_version(0)) }
    }

    /// Connects the kernel to a target: returns the controller's name, such as `nvme3`. Blocks for as long as the kernel
    /// does, which may be minutes.
    ///
    /// # Errors
    /// libnvme's or the kernel's.
    pub fn connect(&self, request: &ConnectRequest) -> Result<String, ConnectError> {
        let c = |text: &str| CString::new(text).map_err(|_| refused(format!("{text:?} has a zero byte in it")));
        let (transport, traddr, trsvcid) = (c(&request.transport)?, c(&request.traddr)?, c(&request.trsvcid)?);
        let (subsysnqn, hostnqn, hostid) = (c(&request.subsysnqn)?, c(&request.hostnqn)?, c(&request.hostid)?);
        // The library and the kernel keep copies that nobody wipes; these are no worse.
        let c_secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| c(&secret.expose())).transpose();
        let (secret, controller_secret) = (c_secret(&request.secret)?, c_secret(&request.controller_secret)?);
        let config = self.config(&request.options)?;
        let mut log = Log::new().map_err(|error| refused(format!("no memory file for libnvme's messages: {error}")))?;
        let library = &self.functions;

        // SAFETY: the log's stream lives until after the tree is freed.
        let root = unsafe { library.nvme_create_root(log.stream, LOG_INFO) };
        if root.is_null() {
            return Err(failed(&io::Error::last_os_error(), library, log.text()));
        }
        let outcome;
        // SAFETY: the root is valid until it is freed below, and everything made of it with it; all texts live until
        // then, and the library copies them. A null pointer is checked before it is used. The configuration is one of
        // this library's own layout (see `config`), and is only read.
        unsafe {
            let host = library.nvme_lookup_host(root, hostnqn.as_ptr(), hostid.as_ptr());
            let controller = library.nvme_create_ctrl(
                root,
                subsysnqn.as_ptr(),
                transport.as_ptr(),
                traddr.as_ptr(),
                null(),
                null(),
                trsvcid.as_ptr(),
            );
            if !host.is_null() && !controller.is_null() {
                if let Some(secret) = &secret {
                    library.nvme_host_set_dhchap_key(host, secret.as_ptr());
                }
                if let Some(secret) = &controller_secret {
                    library.nvme_ctrl_set_dhchap_key(controller, secret.as_ptr());
                }
                outcome = match library.nvmf_add_ctrl(host, controller, (&raw const *config).cast()) {
                    0 => Ok(text(library.nvme_ctrl_get_name(controller))),
                    _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
                };
                if outcome.is_err() {
                    // It belongs to no tree yet.
                    library.nvme_free_ctrl(controller);
                }
            } else {
                outcome = Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
            }
            library.nvme_free_tree(root);
        }
        outcome.map_err(|number| failed(&io::Error::from_raw_os_error(number), library, log.text()))
    }

    fn config(&self, options: &ConnectOptions) -> Result<Box<Config>, ConnectError> {
        // SAFETY: the room is larger than the structure of any version.
        let filled = Config::new(|config| unsafe { self.functions.nvmf_default_config(config.cast()) });
        let version = || self.version();
        let (mut config, size) = filled
            .ok_or_else(|| refused(format!("libnvme {} is not like 1.x: its defaults make no sense", version())))?;
        config.change(|fields| {
            let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
            fields.nr_io_queues = options.nr_io_queues.map_or(0, i32::from);
            fields.queue_size = options.queue_size.map_or(0, i32::from);
            fields.keep_alive_tmo = options.keep_alive_tmo_s.map_or(0, number);
            fields.reconnect_delay = options.reconnect_delay_s.map_or(0, number);
            if let Some(seconds) = options.ctrl_loss_tmo_s {
                fields.ctrl_loss_tmo = seconds;
            }
        });
        if options.hdr_digest || options.data_digest {
            let at = config::flags_at(size).ok_or_else(|| {
                refused(format!(
                    "where libnvme {} keeps the digests is not known to this program (its options take {size} bytes); \
                     turn digests off, or use libnvme 1.0 to 1.16",
                    version()
                ))
            })?;
            config.set_digests(at, options.hdr_digest, options.data_digest);
        }
        Ok(config)
    }
}

/// The request did not get as far as the library.
fn refused(words: String) -> ConnectError {
    ConnectError { number: 0, words }
}

fn failed(error: &io::Error, library: &Functions, log: String) -> ConnectError {
    let number = error.raw_os_error().unwrap_or(0);
    let words = if number >= FIRST_CONNECT_ERROR {
        // SAFETY: takes any number; the result is a constant text or null.
        unsafe { text(library.nvme_errno_to_string(number)) }
    } else {
        error.to_string()
    };
    let log = log.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("; ");
    ConnectError { number, words: if log.is_empty() { words } else { format!("{words} ({log})") } }
}

/// A copy of a C text; empty for null.
///
/// # Safety
/// Null, or a C string that nobody changes during the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// Takes what the library logs. It is a real file, in memory: newer versions write to its descriptor.
struct Log {
    stream: *mut libc::FILE,
    file: std::fs::File,
}

impl Log {
    fn new() -> io::Result<Self> {
        // SAFETY: a C string that lives during the call.
        let fd = unsafe { libc::memfd_create(c"libnvme log".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let file = unsafe { std::fs::File::from_raw_fd(fd) };
        let copy = std::os::fd::IntoRawFd::into_raw_fd(file.try_clone()?);
        // SAFETY: the descriptor is open and becomes the stream's own.
        let stream = unsafe { libc::fdopen(copy, c"w".as_ptr()) };
        if stream.is_null() {
            let error = io::Error::last_os_error();
            // SAFETY: no stream has taken it.
            unsafe { libc::close(copy) };
            return Err(error);
        }
        Ok(Self { stream, file })
    }

    fn text(&mut self) -> String {
        // SAFETY: the stream is open until this value is dropped.
        unsafe { libc::fflush(self.stream) };
        let mut bytes = Vec::new();
        let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut bytes));
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // SAFETY: it was opened by `new`, and is closed once.
        unsafe { libc::fclose(self.stream) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ConnectRequest {
        ConnectRequest {
            transport: "tcp".into(),
            traddr: "127.0.0.1".into(),
            trsvcid: "1".into(),
            subsysnqn: "nqn.2016-06.io.mc:nobody".into(),
            hostnqn: "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111".into(),
            hostid: "11111111-1111-1111-1111-111111111111".into(),
            secret: None,
            controller_secret: None,
            options: ConnectOptions { hdr_digest: true, ..ConnectOptions::default() },
        }
    }

    fn library() -> Option<LibNvme> {
        LibNvme::load().map_err(|error| println!("skipped: {error}")).ok()
    }

    #[test]
    fn a_library_that_is_missing_is_a_clear_error() {
        let error = LibNvme::load_from("libnvme-that-is-not-here.so.1").unwrap_err().to_string();
        for needle in ["cannot load libnvme.so.1", "that-is-not-here.so.1: cannot open", "apt install libnvme1"] {
            assert!(error.contains(needle), "{error}");
        }
        // One that has none of the functions is no better.
        let error = LibNvme::load_from("libc.so.6").unwrap_err().to_string();
        assert!(error.contains("nvme"), "{error}");
    }

    #[test]
    fn the_library_here_has_a_layout_that_is_known() {
        let Some(library) = library() else { return };
        assert!(!library.version().is_empty());
        // SAFETY: the room is larger than the structure.
        let filled = Config::new(|config| unsafe { library.functions.nvmf_default_config(config.cast()) });
        let (mut config, size) = filled.unwrap();
        assert!(config::flags_at(size).is_some(), "{size} bytes in libnvme {}", library.version());
        config.change(|fields| {
            assert_eq!(fields.tos, -1, "libnvme's default");
            assert_eq!(fields.ctrl_loss_tmo, 600, "libnvme's default");
        });
    }

    #[test]
    fn a_connect_that_fails_says_what_the_library_says() {
        let Some(library) = library() else { return };
        // Whatever the reason is here (no /dev/nvme-fabrics, no permission, nobody listens), nobody listens on port 1.
        let error = library.connect(&request()).unwrap_err();
        assert!(error.number > 0 && !error.words.is_empty(), "{error:?}");
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let Some(library) = library() else { return };
        let error = library.connect(&ConnectRequest { hostnqn: "a\0b".into(), ..request() }).unwrap_err();
        assert!(error.words.contains("zero byte"), "{error}");
    }
}
