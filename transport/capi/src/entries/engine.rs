//! Engines and their transports; errors as text.

use super::{Engine, Transport};
use crate::entry::{code, guard, invalid, last_error, text};
use crate::handles;
use crate::layout::place;
use nvferry_engine::{Deadline, TransferEngine};
use nvferry_nvmeof::{NvmeofOptions, factory};
use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

/// How long `destroyTransferEngine` waits for what is under way.
const DESTROY_TIMEOUT_MS: u64 = 30_000;

/// Makes an engine.
///
/// # Safety
/// The texts are NULL or end with a zero byte.
#[unsafe(no_mangle)] // SAFETY: here and below, the name is this library's own, as its header says.
pub unsafe extern "C" fn createTransferEngine(
    metadata_conn_string: *const c_char,
    local_server_name: *const c_char,
    _ip_or_host_name: *const c_char,
    _rpc_port: u64,
    _auto_discover: c_int,
) -> Engine {
    guard(|| {
        // SAFETY: the caller vouches for the texts.
        let metadata = unsafe { text(metadata_conn_string, "the metadata service's address") }?;
        // SAFETY: as above.
        let name = unsafe { text(local_server_name, "the server name") }?;
        let engine = TransferEngine::builder().metadata(metadata).server_name(name);
        Ok(handles::add_engine(engine.transport(factory(NvmeofOptions::new())).build()?))
    })
    .unwrap_or(std::ptr::null_mut())
}

/// Ends an engine as [`nvferry_destroy`] does, within 30 s.
#[unsafe(no_mangle)]
pub extern "C" fn destroyTransferEngine(engine: Engine) {
    let _code = nvferry_destroy(engine, DESTROY_TIMEOUT_MS);
}

/// Ends an engine, and says whether its memory is the caller's again.
#[unsafe(no_mangle)]
pub extern "C" fn nvferry_destroy(engine: Engine, timeout_ms: u64) -> c_int {
    code(|| handles::end_engine(engine, Deadline::after(Duration::from_millis(timeout_ms))))
}

/// Writes the engine's server name.
///
/// # Safety
/// `buf_out` is NULL, or `buf_len` bytes may be written there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getLocalIpAndPort(engine: Engine, buf_out: *mut c_char, buf_len: usize) -> c_int {
    code(|| {
        let engine = handles::engine(engine)?;
        let (name, to) = (engine.server_name().as_bytes(), place(buf_out.cast::<u8>(), "the server name")?);
        if buf_len <= name.len() {
            return Err(invalid(format!("the server name needs {} bytes, and there are {buf_len}", name.len() + 1)));
        }
        // SAFETY: the caller vouches for `buf_len` bytes, which are more than the name; they are not the engine's.
        unsafe {
            to.as_ptr().copy_from_nonoverlapping(name.as_ptr(), name.len());
            to.add(name.len()).write(0);
        }
        Ok(())
    })
}

/// Installs a transport.
///
/// # Safety
/// `proto` is NULL or ends with a zero byte; `args` is NULL or its first entry is such a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn installTransport(engine: Engine, proto: *const c_char, args: *mut *mut c_void) -> Transport {
    guard(|| {
        // SAFETY: the caller vouches for the text.
        let proto = unsafe { text(proto, "the protocol") }?;
        let first = match place(args, "args") {
            Err(_) => std::ptr::null_mut(),
            // SAFETY: not NULL, and the caller vouches for its first entry.
            Ok(args) => unsafe { args.read() },
        };
        // SAFETY: as above.
        let args = if first.is_null() { None } else { Some(unsafe { text(first.cast(), "args[0]") }?) };
        handles::engine(engine)?.install_transport(proto, args)?;
        Ok(engine)
    })
    .unwrap_or(std::ptr::null_mut())
}

/// Uninstalls a transport.
///
/// # Safety
/// `proto` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uninstallTransport(engine: Engine, proto: *const c_char) -> c_int {
    // SAFETY: the caller vouches for the text.
    code(|| handles::engine(engine)?.uninstall_transport(unsafe { text(proto, "the protocol") }?))
}

/// The text of this thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn nvferry_last_error() -> *const c_char {
    last_error()
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn nvferry_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
