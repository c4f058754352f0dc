//! What a power failure would lose: writes that no flush has covered.

use crate::engine::{IoBuf, IoKind, IoRequest};
use crate::file::{FileIdentity, IoFile};
use crate::memory::AlignedBuf;
use std::io;
use std::sync::Arc;

/// The unit in which a write may be torn, in bytes.
const TEAR_BYTES: usize = 512;

/// A write that was made and not flushed.
#[derive(Debug)]
pub(super) struct Written {
    file: Arc<IoFile>,
    offset: u64,
    before: AlignedBuf,
    after: AlignedBuf,
}

impl Written {
    /// Remembers what a write, zeroing or giving back is about to replace; nothing for other operations.
    pub(super) fn about_to(request: &IoRequest) -> io::Result<Option<Self>> {
        let len = match request.kind {
            IoKind::Write => request.buf.len(),
            IoKind::WriteZeroes { len } | IoKind::Deallocate { len } => {
                usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?
            }
            IoKind::Read | IoKind::SyncData => return Ok(None),
        };
        let mut before = AlignedBuf::pages(len);
        request.file.read_at(&mut before, request.offset)?;
        let mut after = AlignedBuf::pages(len);
        match &request.buf {
            IoBuf::Pool(buffer, len) if request.kind == IoKind::Write => after.copy_from_slice(&buffer[..*len]),
            IoBuf::Leased(slice) if request.kind == IoKind::Write => slice.copy_to(0, &mut after),
            IoBuf::Pool(..) | IoBuf::Leased(_) | IoBuf::None => {}
        }
        Ok(Some(Self { file: Arc::clone(&request.file), offset: request.offset, before, after }))
    }
}

/// All writes since the last flush, in the order of their ends.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    writes: Vec<(u64, Written)>,
    next: u64,
}

impl Unflushed {
    pub(super) fn ended(&mut self, written: Written) {
        self.writes.push((self.next, written));
        self.next += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    /// What a flush that begins now will cover: writes with numbers below this.
    pub(super) fn flush_begins(&self) -> u64 {
        self.next
    }

    pub(super) fn flush_ended(&mut self, file: FileIdentity, covered: u64) {
        self.writes.retain(|(number, write)| *number >= covered || write.file.identity() != file);
    }

    /// Takes all writes back and makes some again. `below(n)` is a random number below n.
    pub(super) fn lose_some(&mut self, mut below: impl FnMut(u64) -> u64) -> io::Result<usize> {
        let writes = std::mem::take(&mut self.writes);
        for (_, write) in writes.iter().rev() {
            write.file.write_at(&write.before, write.offset)?;
        }
        let mut lost = 0;
        for (_, write) in &writes {
            let len = write.after.len();
            let kept = match below(3) {
                0 => 0,
                1 => len,
                _ => (below(len as u64 + 1) as usize) / TEAR_BYTES * TEAR_BYTES,
            };
            // Under Direct I/O only whole units can be written.
            let unit = if write.file.is_direct() { write.file.geometry().dio_offset_align_bytes as usize } else { 1 };
            let kept = if kept == len { len } else { kept / unit * unit };
            write.file.write_at(&write.after[..kept], write.offset)?;
            lost += usize::from(kept < len);
        }
        Ok(lost)
    }
}
