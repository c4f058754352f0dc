//! The answering side of the wire limit.

use super::units::{Units, send_units};
use super::{Direction, FILE_BYTES, REPLY_BYTES, REQUEST_BYTES, Source, WireLimitArgs, pin_to};
use crate::cpu::cpu_seconds;
use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nvferry_io::AlignedBuf;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Serves the one connection that the client makes, until it ends; then prints the CPU seconds that this took.
pub(super) fn serve(args: &WireLimitArgs) -> Result<()> {
    pin_to(args.server_cpu)?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("cannot take the listening socket")?;
    let file = match args.source {
        Source::File => Some(prepare(args)?),
        Source::Memory => None,
    };
    let (socket, _) = TcpListener::from(stdin).accept().context("cannot accept the client")?;
    socket.set_nodelay(true).context("cannot set TCP_NODELAY")?;

    let writing = args.direction == Direction::Write;
    let (size, depth) = (args.size as usize, args.depth);
    let mut units = Units::new(depth, size, 1);
    let reply = [0; REPLY_BYTES];
    let mut random = 1u32;
    let before = cpu_seconds();
    while let Some(whole) = units.take(&socket, args.idle, REQUEST_BYTES, if writing { size } else { 0 })? {
        let oldest = (units.first + depth - whole) % depth;
        for i in 0..whole {
            random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let at = u64::from(random) % (FILE_BYTES / args.size) * args.size;
            let Some(file) = &file else { continue };
            if writing {
                let slot = (oldest + i) % depth * size;
                file.write_all_at(&units.slots[slot..slot + size], at)
            } else {
                file.read_exact_at(&mut units.slots[i * size..(i + 1) * size], at)
            }
            .with_context(|| format!("cannot {:?} {size} bytes at {at} of the file", args.direction))?;
        }
        let payload_bytes = if writing { 0 } else { size };
        let payloads = (0..whole).map(|i| &units.slots[i * size..i * size + payload_bytes]);
        // A client that has measured enough closes with replies outstanding: no failure of this side.
        if send_units(&socket, &reply, payloads).is_err() {
            break;
        }
    }
    println!("{}", cpu_seconds() - before);
    Ok(())
}

/// Opens the file that was named; or makes one, with real data in it, and takes its name away at once, so that nothing
/// can be left behind.
fn prepare(args: &WireLimitArgs) -> Result<File> {
    if let Some(path) = &args.file {
        let mut options = File::options();
        options.read(true).write(args.direction == Direction::Write).custom_flags(OFlag::O_DIRECT.bits());
        let open = || options.open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = open().with_context(|| format!("cannot open {} for Direct I/O", path.display()))?;
        if bytes < FILE_BYTES {
            bail!("{} has {bytes} bytes: name a file of at least {FILE_BYTES}", path.display());
        }
        return Ok(file);
    }
    let named = tempfile::Builder::new()
        .prefix("wire-limit-")
        .make_in(&args.dir, |path| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true).mode(0o600).custom_flags(OFlag::O_DIRECT.bits()).open(path)
        })
        .with_context(|| format!("cannot make a file for Direct I/O in {}: choose with --dir", args.dir.display()))?;
    let file = named.into_parts().0;
    let mut block = AlignedBuf::pages(1 << 20);
    block.fill(1);
    for at in (0..FILE_BYTES).step_by(block.len()) {
        file.write_all_at(&block, at).with_context(|| format!("cannot fill the file in {}", args.dir.display()))?;
    }
    Ok(file)
}
