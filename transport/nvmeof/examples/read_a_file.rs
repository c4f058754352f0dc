//! Offers a file, opens it by its segment's name as another machine would, and reads a piece of it.
//!
//!     cargo run --release -p nvferry-nvmeof --example read_a_file -- /path/to/file [METADATA-URL]

use nvferry_engine::{Deadline, Request, TransferEngine};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::{NvmeofOptions, PROTOCOL, factory};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("which file shall be offered?")?;
    // A service that lives in this process; two machines share `nvferry metadata`.
    let metadata = args.next().unwrap_or_else(|| "memory:example".to_owned());
    let size_bytes = std::fs::metadata(&path)?.len();

    // The storage node: what it registers, others can open by its name.
    let storage = TransferEngine::builder()
        .metadata(metadata.as_str())
        .server_name("storage-1")
        .transport(factory(NvmeofOptions::new()))
        .build()?;
    storage.install_transport(PROTOCOL, "trtype=tcp traddr=127.0.0.1 trsvcid=0")?;
    let file = storage.register_local_file(&path, size_bytes)?;

    // The other node: no transport arguments, as it offers nothing itself.
    let host = TransferEngine::builder()
        .metadata(metadata.as_str())
        .server_name("compute-1")
        .transport(factory(NvmeofOptions::new()))
        .build()?;
    host.install_transport(PROTOCOL, None)?;
    let segment = host.open_segment("storage-1")?;

    // Any offset, length and address will do; 1000 bytes from byte 3, if there are that many.
    let len = size_bytes.saturating_sub(3).min(1000) as usize;
    let mut memory = host.register_memory(RegisteredMemory::allocate(len))?;
    let batch = host.batch(16)?;
    batch.submit(&[Request::read(&memory, 0..len, segment, file, 3)])?;
    batch.wait(Deadline::after(Duration::from_secs(5)))?;
    assert_eq!(memory.bytes()?, &std::fs::read(&path)?[3..3 + len]);

    host.shutdown(Deadline::after(Duration::from_secs(5)))?;
    storage.shutdown(Deadline::after(Duration::from_secs(5)))?;
    Ok(())
}
