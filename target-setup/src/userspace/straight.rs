//! Writes that need no more than one plain call: all of their data has come with them, and their file is in memory.
//!
//! They are carried out from the receive buffer as soon as they are looked at. That spares them a buffer, a copy, and a
//! command's whole way through its lane and the engine. What is not so simple goes that way.

use super::command::{After, Change, Data, Work};
use super::complete::Kind;
use super::connection::Connection;
use super::core::Core;
use super::lane::LaneId;
use nvferry_io::fast_paths::Path;
use nvferry_io::{Stream, clock};
use nvferry_wire::digest::{Crc32c, DIGEST_LEN};
use nvferry_wire::pdu::PduLayout;
use nvferry_wire::{Cqe, SglDescriptor, Sqe, Status};

impl<S: Stream> Connection<S> {
    /// Carries out and answers a write whose data is in `behind`, what was received after its header. Tells whether it
    /// did; if not, nothing has happened.
    pub(super) fn write_straight(
        &mut self,
        core: &mut Core,
        sqe: &Sqe,
        (lane_id, work, data): &mut (LaneId, Work, Data),
        layout: &PduLayout,
        behind: &[u8],
    ) -> bool {
        let Work::Modify { change: Change::Write, offset, body, tail: 0, durable: false, .. } = *work else {
            return false;
        };
        let data_bytes = layout.data_bytes;
        let whole = *data == Data::FromHost(data_bytes)
            && body == u64::from(data_bytes)
            && matches!(sqe.sgl(), Ok(SglDescriptor::InCapsule { offset: 0, .. }));
        let Some((bytes, after)) = behind.split_at_checked(data_bytes as usize) else { return false };
        if !whole || core.paths.straight.is_off() || !self.has_room() {
            return false;
        }
        if layout.data_digest_bytes > 0 {
            let Some(digest) = after.first_chunk::<DIGEST_LEN>() else { return false };
            let mut computed = Crc32c::new();
            computed.update(bytes);
            if computed.to_bytes() != *digest {
                return false;
            }
        }
        let Some(lane) = core.lanes.get(*lane_id) else { return false };
        if lane.namespace().orphans.hold_up(&(offset..offset + body), &core.mailbox) {
            return false;
        }
        let begun_us = core.now_us;
        let Some(result) = core.engine.write_now(&lane.files.file, offset, bytes) else { return false };
        let status = match work.operation_ended(lane.namespace(), data_bytes, result, None, None) {
            After::Done(status) => status,
            // Nothing is left to do: there is no tail, and it need not be durable.
            After::Continue | After::NextLane(_) => Status::SUCCESS,
        };
        self.capsule_bytes = layout.total_bytes() as usize;
        core.taken.add(Path::Commands, 1);
        core.taken.add(Path::InCapsule, 1);
        core.taken.add(Path::Straight, 1);
        core.taken.add(Path::DataDigests, (layout.data_digest_bytes > 0).into());
        core.taken.set(Path::Inline, core.engine.inline_stats().inline);
        core.tick(clock::now());
        self.account(core, Some(*lane_id), Kind::Write, status, data_bytes, begun_us);
        self.note_failure(sqe, status);
        self.respond(core, Cqe::new(sqe.cid(), self.sqhd(), status));
        true
    }
}
