//! A host's application: it opens segments, reads and writes, gives up, closes; and checks what it is told.

use crate::model::{self, Mismatch, WriteId};
use crate::plan::{MS, SECOND, US};
use crate::random::{Random, mix};
use crate::world::{Event, Sim};
use nvferry_engine::{
    Batch, Deadline, FileBufferId, Memory, Operation, Request, SegmentId, TransferEngine, TransferState, WaitError,
};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Bytes around a request's memory that nobody may touch.
const MARGIN: usize = 64;
/// The thread of applications that wait, other than those that only submit.
const APPLICATION_THREAD: usize = 7;
/// Places that an application likes best.
const FAVOURITES: u64 = 4;
/// What unused memory holds.
const UNUSED: u8 = 0xEE;

/// Where a file is, as descriptions say it.
pub(crate) fn path_of(file: usize) -> String {
    format!("/files/{file}")
}

/// A part of memory, with what is just beside it.
fn beside(used: &Range<usize>, len: usize) -> Range<usize> {
    used.start.saturating_sub(MARGIN)..(used.end + MARGIN).min(len)
}

/// Whether nobody has touched memory.
fn is_unused(bytes: &[u8]) -> bool {
    bytes.chunks(1024).all(|chunk| *chunk == [UNUSED; 1024][..chunk.len()])
}

/// How late a request's end may be known: threads run late, too. Less than the engine's own grace for transports that do
/// not answer, so that it is the transport that ends requests.
const LATE: u64 = 60 * MS;

/// A host's application.
pub(crate) struct App {
    /// Its engine.
    pub(crate) engine: TransferEngine,
    random: Random,
    /// Makes its favourite places others than those of other applications.
    salt: u64,
    places: Vec<Place>,
    /// The open segments, by target.
    pub(crate) segments: Vec<Option<SegmentId>>,
    /// Which namespaces their files are, as was last said when they were opened or synchronised; by target and file.
    nsids: Vec<Vec<Option<u32>>>,
    /// Requests that it will still submit.
    pub(crate) left: u64,
    /// Requests that ended, by state's number.
    pub(crate) ended: [u64; 7],
}

/// Memory for one request at a time.
struct Place {
    memory: Memory,
    busy: Option<Busy>,
    /// What the last request used, with the margins: where the transport would go wrong first.
    used: Range<usize>,
}

/// A request under way.
#[derive(Clone)]
struct Busy {
    batch: Rc<Batch>,
    number: usize,
    operation: Operation,
    file: usize,
    offset: u64,
    /// Where in the memory.
    at: usize,
    len: usize,
    write: WriteId,
    since: u64,
    deadline: u64,
    /// The caller has given it up.
    canceled: bool,
}

impl Busy {
    fn end(&self) -> u64 {
        self.offset + self.len as u64
    }

    fn is_over(&self) -> Option<TransferState> {
        let state = self.batch.status(self.number).map_or(TransferState::Invalid, |status| status.state);
        state.is_terminal().then_some(state)
    }
}

/// A request to come.
#[derive(Debug, Clone, Copy)]
struct Wish {
    operation: Operation,
    target: usize,
    segment: SegmentId,
    nsid: u32,
    file: usize,
    offset: u64,
    len: usize,
    place: usize,
    at: usize,
    write: WriteId,
}

impl App {
    /// An application with memory for as many requests as the plan says.
    ///
    /// # Errors
    /// When the engine refuses the memory.
    pub(crate) fn new(sim: &Sim, engine: TransferEngine, mut random: Random) -> anyhow::Result<Self> {
        let bytes = sim.plan.max_request_bytes as usize + 4 * MARGIN;
        let place = |_| Ok(Place { memory: engine.register_memory(vec![UNUSED; bytes])?, busy: None, used: 0..0 });
        let places = (0..sim.plan.slots).map(place).collect::<anyhow::Result<_>>()?;
        let segments = vec![None; sim.plan.targets];
        let nsids = vec![(1..=sim.plan.files.len() as u32).map(Some).collect(); sim.plan.targets];
        let salt = random.next();
        Ok(Self { engine, random, salt, places, segments, nsids, left: sim.plan.requests, ended: [0; 7] })
    }

    /// Whether nothing is under way and nothing is to come.
    #[must_use]
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && self.places.iter().all(|place| place.busy.is_none())
    }

    /// A request that has not ended, for people.
    #[must_use]
    pub(crate) fn first_under_way(&self) -> Option<String> {
        self.places.iter().find_map(|place| place.busy.as_ref()).map(describe)
    }

    /// No request is under way: nobody has touched any memory beside what requests used.
    pub(crate) fn check_memory(&mut self, sim: &Sim) {
        for Place { memory, .. } in &mut self.places {
            match memory.bytes() {
                Ok(bytes) if is_unused(bytes) => {}
                Ok(_) => sim.fail("memory was changed that no request used".into()),
                Err(error) => sim.fail(format!("memory that no request uses: {error}")),
            }
        }
    }

    /// Submits no more.
    pub(crate) fn stop(&mut self) {
        self.left = 0;
    }

    /// Looks at all requests under way, and checks those that have ended.
    pub(crate) fn look(&mut self, sim: &Sim) {
        for at in 0..self.places.len() {
            let place = &mut self.places[at];
            let Some(busy) = &place.busy else { continue };
            let late = sim.now_ns() > busy.deadline + LATE;
            let Some(state) = busy.is_over() else {
                if late {
                    sim.fail(format!("{} did not end by its deadline", describe(busy)));
                }
                continue;
            };
            if place.memory.is_leased() {
                if !busy.canceled || late {
                    sim.fail(format!("{} has ended ({state:?}) and its memory is still in use", describe(busy)));
                }
                continue;
            }
            let Some(busy) = place.busy.take() else { continue };
            let state =
                if busy.canceled && state != TransferState::Completed { TransferState::Canceled } else { state };
            self.ended[state as i32 as usize % 7] += 1;
            sim.note(mix(state as u64 ^ busy.since) ^ busy.offset);
            tracing::debug!(now = sim.now_ns(), ?state, "{} ended", describe(&busy));
            self.places[at].used = busy.at.saturating_sub(MARGIN)..busy.at + busy.len + MARGIN;
            if let Err(why) = judge(sim, &mut self.places[at].memory, &busy, state) {
                sim.fail(format!("{} ended {state:?}: {why}", describe(&busy)));
            }
        }
    }

    /// Does something.
    pub(crate) fn act(&mut self, sim: &Sim) {
        if self.left == 0 {
            // What is under way may wait for a target that has moved.
            if self.random.chance(5) {
                self.sync_one(sim);
            }
            return;
        }
        let fickle = sim.plan.fickle;
        match self.random.below(100) {
            0..9 if !fickle => {}
            0..2 => self.close_one(sim),
            2..6 => self.sync_one(sim),
            6..9 => self.give_up_one(sim),
            9..11 => self.ask_for_what_is_not_there(sim),
            11..20 => {}
            _ if self.random.chance(sim.plan.successions) => {
                let rounds = self.random.size(24);
                let time = self.random.size(sim.plan.max_deadline).max(sim.plan.min_deadline);
                self.in_succession(sim, rounds, time);
            }
            _ => self.submit(sim),
        }
    }

    /// One small request after the other, each waited for on the thread that submits it, `time` for each. Tells how many
    /// completed.
    pub(crate) fn in_succession(&mut self, sim: &Sim, rounds: u64, time: u64) -> u64 {
        let target = self.random.below(sim.plan.targets as u64) as usize;
        let completed = self.ended[TransferState::Completed as i32 as usize];
        sim.thread.set(Some(APPLICATION_THREAD));
        for _ in 0..rounds {
            if sim.has_failed() || !self.open(sim, target, time.clamp(5 * SECOND, 30 * SECOND)) {
                break;
            }
            let Some(mut wish) = self.wish(sim, target, &[]) else { break };
            wish.len = wish.len.min(6000);
            self.submit_wishes(sim, &[wish], time);
            let Some(busy) = self.places[wish.place].busy.clone() else { break };
            // Submitting may have taken its time, where metadata is late.
            let since = sim.now_ns();
            let is_patient = sim.healed.get() || self.random.chance(80);
            let patience = if is_patient { time + SECOND } else { self.random.size(time) };
            let end = busy.batch.wait(Deadline::after(Duration::from_nanos(patience)));
            let now = sim.now_ns();
            if now > (since + patience).min(busy.deadline) + LATE {
                sim.fail(format!("a wait for {} ended at {:.6} s only", describe(&busy), now as f64 / 1e9));
            }
            match end {
                Err(WaitError::UnderWay { .. }) if now < since + patience => {
                    sim.fail(format!("a wait for {} ended too soon", describe(&busy)));
                }
                Err(WaitError::UnderWay { .. }) => {}
                _ if busy.is_over().is_none() => sim.fail(format!("{} was waited for and goes on", describe(&busy))),
                _ => {}
            }
            drop(busy);
            self.look(sim);
        }
        sim.thread.set(None);
        self.ended[TransferState::Completed as i32 as usize] - completed
    }

    /// When it acts again.
    pub(crate) fn pause(&mut self) -> u64 {
        if self.left == 0 {
            return self.random.within(MS, 30 * MS);
        }
        if self.places.iter().all(|place| place.busy.is_some()) {
            return self.random.size(20 * MS) + 100 * US;
        }
        match self.random.below(20) {
            0 => self.random.size(SECOND),
            1..4 => self.random.size(20 * MS),
            _ => self.random.size(MS / 2) + US,
        }
    }

    /// It has a wrong secret, or none: nobody lets it in.
    pub(crate) fn intrude(&mut self, sim: &Sim) {
        let target = self.random.below(sim.plan.targets as u64) as usize;
        if self.open(sim, target, 2 * SECOND) {
            sim.fail(format!("target {target} let a host in that could not prove who it is"));
        }
    }

    /// Opens a segment, if it can be. Tells whether it is open.
    pub(crate) fn open(&mut self, sim: &Sim, target: usize, time: u64) -> bool {
        if self.segments[target].is_none() {
            let name = sim.targets.borrow()[target].segment();
            match self.engine.open_segment_by(&name, Deadline::after(Duration::from_nanos(time))) {
                Ok(segment) => {
                    self.segments[target] = Some(segment);
                    self.learn(sim, target);
                }
                Err(error) => tracing::debug!(now = sim.now_ns(), %error, "open"),
            }
        }
        self.segments[target].is_some()
    }

    /// Takes a segment's files for what its description says now.
    fn learn(&mut self, sim: &Sim, target: usize) {
        // Where that never changes, files that are not described yet may be asked for.
        if let Some(segment) = self.segments[target].filter(|_| sim.plan.exchanges > 0) {
            let described = self.engine.segment_desc(segment).map(|desc| desc.file_buffers).unwrap_or_default();
            for (in_target, nsid) in self.nsids[target].iter_mut().enumerate() {
                let path = path_of(target * sim.plan.files.len() + in_target);
                *nsid = described.iter().find(|file| file.path == path).map(|file| file.id.0);
            }
        }
    }

    /// Takes over what a target says of its files, if it can.
    pub(crate) fn sync(&mut self, sim: &Sim, target: usize) {
        let name = sim.targets.borrow()[target].segment();
        match self.engine.sync_segment_cache(name.as_str()) {
            Ok(()) => self.learn(sim, target),
            Err(error) => tracing::debug!(now = sim.now_ns(), %error, "sync"),
        }
    }

    fn close_one(&mut self, sim: &Sim) {
        let target = self.random.below(sim.plan.targets as u64) as usize;
        if let Some(segment) = self.segments[target].take() {
            let before = sim.now_ns();
            if let Err(error) = self.engine.close_segment(segment) {
                sim.fail(format!("closing a segment failed: {error}"));
            }
            if sim.now_ns() > before + 12 * SECOND {
                sim.fail("closing a segment took longer than its deadline".into());
            }
        }
    }

    fn sync_one(&mut self, sim: &Sim) {
        let target = self.random.below(sim.plan.targets as u64) as usize;
        if self.segments[target].is_some() {
            self.sync(sim, target);
        }
    }

    fn give_up_one(&mut self, sim: &Sim) {
        let at = self.random.below(self.places.len() as u64) as usize;
        if let Some(busy) = &self.places[at].busy {
            let batch = Rc::clone(&busy.batch);
            tracing::debug!(now = sim.now_ns(), "giving up {}", describe(busy));
            batch.cancel();
            for busy in self.places.iter_mut().filter_map(|place| place.busy.as_mut()) {
                busy.canceled |= Rc::ptr_eq(&busy.batch, &batch);
            }
        }
    }

    /// What must be refused before anything starts.
    fn ask_for_what_is_not_there(&mut self, sim: &Sim) {
        let target = self.random.below(sim.plan.targets as u64) as usize;
        let Some(segment) = self.segments[target] else { return };
        let Some(place) = self.places.iter().find(|place| place.busy.is_none()) else { return };
        let size = sim.plan.files.iter().copied().max().unwrap_or(0);
        // Far enough that a description that says more than is true does not cover it.
        let (nsid, offset) = if self.random.chance(50) { (77, 0) } else { (1, size.saturating_mul(1000)) };
        let request = Request::read(&place.memory, 0..1, segment, FileBufferId(nsid), offset);
        let Ok(batch) = self.engine.batch(1) else { return sim.fail("no batch".into()) };
        if batch.try_submit(&[request]).is_ok() {
            sim.fail(format!("a request for byte {offset} of file {nsid}, which has {size}, was taken"));
        }
    }

    fn submit(&mut self, sim: &Sim) {
        let count = self.random.size(8).min(self.left);
        let timeout = self.random.size(sim.plan.max_deadline).max(sim.plan.min_deadline);
        let mut wishes: Vec<Wish> = Vec::new();
        for _ in 0..count {
            let target = self.random.below(sim.plan.targets as u64) as usize;
            if !self.open(sim, target, timeout.clamp(5 * SECOND, 30 * SECOND)) {
                break;
            }
            wishes.extend(self.wish(sim, target, &wishes));
        }
        self.submit_wishes(sim, &wishes, timeout);
    }

    fn wish(&mut self, sim: &Sim, target: usize, others: &[Wish]) -> Option<Wish> {
        let segment = self.segments[target]?;
        let is_free = |place: &usize| self.places[*place].busy.is_none() && others.iter().all(|it| it.place != *place);
        let place = (0..self.places.len()).find(is_free)?;
        let plan = &sim.plan;
        let files = plan.files.len();
        let favourite = self.random.chance(plan.favourites).then(|| self.salt ^ self.random.below(FAVOURITES));
        let in_target = favourite.unwrap_or_else(|| self.random.next()) as usize % files;
        let nsid = self.nsids[target][in_target]?;
        let (file, size) = (target * files + in_target, plan.files[in_target]);
        // Each host writes to a part of its own, if that is not empty.
        let own = plan.part_of(sim.calling.get(), in_target);
        let write = self.random.chance(55) && !own.is_empty();
        let (low, high) = if write { (own.start, own.end) } else { (0, size) };
        let most = plan.max_request_bytes.min(high - low);
        let (len, mut offset) = match favourite.map(Random::new) {
            // The place follows from the favourite's number, how much of it not always.
            Some(mut place) if most >= 2 => {
                let (len, start) = (place.size(most), place.next() % (high - low - 1));
                let len = if self.random.chance(70) { len } else { self.random.size(most) };
                (len, low + start.min(high - low - len))
            }
            _ => {
                let len = self.random.size(most);
                (len, low + self.random.below(high - low - len + 1))
            }
        };
        if self.random.chance(50) {
            offset = (offset & !511).max(low);
        }
        let len = if self.random.chance(40) { (len & !511).max(len.min(512)) } else { len };
        let end = offset + len;
        let overlaps = |file_: usize, from: u64, to: u64| file_ == file && from < end && offset < to;
        let busy = self.places.iter().filter_map(|place| place.busy.as_ref());
        let busy =
            busy.filter(|busy| busy.operation == Operation::Write).map(|busy| (busy.file, busy.offset, busy.end()));
        let planned = others.iter().filter(|it| it.operation == Operation::Write);
        let planned = planned.map(|it| (it.file, it.offset, it.offset + it.len as u64));
        if write && busy.chain(planned).any(|(file, from, to)| overlaps(file, from, to)) {
            return None;
        }
        Some(Wish {
            operation: if write { Operation::Write } else { Operation::Read },
            target,
            segment,
            nsid,
            file,
            offset,
            len: len as usize,
            place,
            at: MARGIN + self.random.below(MARGIN as u64) as usize,
            write: if write { sim.next_write() } else { 0 },
        })
    }

    fn submit_wishes(&mut self, sim: &Sim, wishes: &[Wish], timeout: u64) {
        // A segment may have been closed since.
        if wishes.is_empty() || wishes.iter().any(|wish| self.segments[wish.target] != Some(wish.segment)) {
            return;
        }
        for wish in wishes {
            let place = &mut self.places[wish.place];
            match place.memory.bytes() {
                Ok(bytes) => {
                    if !is_unused(&bytes[place.used.clone()]) {
                        sim.fail(format!("memory was changed that no request used: {wish:?}"));
                    }
                    if wish.operation == Operation::Write {
                        let range = wish.at..wish.at + wish.len;
                        model::fill(wish.file, wish.write, wish.offset, &mut bytes[range]);
                        let mut models = sim.models.borrow_mut();
                        models[wish.file].begin(wish.write, wish.offset, wish.offset + wish.len as u64);
                    }
                }
                Err(error) => sim.fail(format!("memory that no request uses: {error}")),
            }
        }
        let requests: Vec<_> = wishes.iter().map(|wish| self.request(wish)).collect();
        let Ok(batch) = self.engine.batch(wishes.len()) else { return sim.fail("no batch".into()) };
        let batch = Rc::new(batch.with_request_timeout(Duration::from_nanos(timeout)));
        let since = sim.now_ns();
        let taken = match batch.try_submit(&requests) {
            Ok(taken) => taken.len(),
            Err(error) => {
                tracing::debug!(now = sim.now_ns(), %error, "submit");
                0
            }
        };
        drop(requests);
        sim.note(taken as u64);
        let deadline = since + timeout;
        for (number, wish) in wishes.iter().enumerate() {
            if number >= taken {
                self.take_back(sim, wish);
                continue;
            }
            let Wish { operation, file, offset, at, len, write, .. } = *wish;
            let batch = Rc::clone(&batch);
            let busy =
                Busy { batch, number, operation, file, offset, at, len, write, since, deadline, canceled: false };
            tracing::debug!(now = sim.now_ns(), deadline, "{} submitted", describe(&busy));
            self.places[wish.place].busy = Some(busy);
            self.left = self.left.saturating_sub(1);
        }
        if taken > 0 {
            let after = (deadline + LATE + MS).saturating_sub(sim.now_ns());
            sim.schedule(after, Event::App { host: sim.calling.get(), acts: false });
        }
    }

    fn request(&self, wish: &Wish) -> Request<'_> {
        let memory = &self.places[wish.place].memory;
        let range = wish.at..wish.at + wish.len;
        let (segment, file) = (wish.segment, FileBufferId(wish.nsid));
        match wish.operation {
            Operation::Read => Request::read(memory, range, segment, file, wish.offset),
            Operation::Write => Request::write(memory, range, segment, file, wish.offset),
        }
    }

    /// It was not taken: nothing of it has started.
    fn take_back(&mut self, sim: &Sim, wish: &Wish) {
        if wish.operation == Operation::Write {
            let end = wish.offset + wish.len as u64;
            sim.models.borrow_mut()[wish.file].forget(wish.write, wish.offset, end);
        }
        match self.places[wish.place].memory.bytes() {
            Ok(bytes) => bytes.fill(UNUSED),
            Err(error) => sim.fail(format!("{wish:?} was not taken, and its memory is in use: {error}")),
        }
    }

    /// Reads or writes a whole file, as one that must succeed. Tells whether it did.
    pub(crate) fn all_of(
        &mut self,
        sim: &Sim,
        operation: Operation,
        (target, in_target): (usize, usize),
        timeout: u64,
    ) -> bool {
        let (Some(segment), Some(nsid)) = (self.segments[target], self.nsids[target][in_target]) else { return false };
        let (file, size) = (target * sim.plan.files.len() + in_target, sim.plan.files[in_target]);
        let mut offset = 0;
        while offset < size && !sim.has_failed() {
            let len = (size - offset).min(sim.plan.max_request_bytes) as usize;
            let write = if operation == Operation::Write { sim.next_write() } else { 0 };
            let wish = Wish { operation, target, segment, nsid, file, offset, len, place: 0, at: MARGIN, write };
            self.submit_wishes(sim, &[wish], timeout);
            let before = self.ended[TransferState::Completed as i32 as usize];
            let Some(busy) = self.places[0].busy.clone() else { return false };
            while self.places[0].busy.is_some() && !sim.has_failed() {
                // How it ended, `look` tells; memory may be in use for a little longer.
                let _ = busy.batch.wait(Deadline::after(Duration::from_nanos(timeout)));
                self.look(sim);
                if self.places[0].busy.is_some() {
                    sim.run_for(MS);
                }
            }
            drop(busy);
            if self.ended[TransferState::Completed as i32 as usize] == before {
                return false;
            }
            offset += len as u64;
        }
        true
    }
}

/// What a request's end means for the model, and whether it may have ended so.
fn judge(sim: &Sim, memory: &mut Memory, busy: &Busy, state: TransferState) -> Result<(), String> {
    let mut models = sim.models.borrow_mut();
    let model = &mut models[busy.file];
    let bytes = memory.bytes().map_err(|error| error.to_string())?;
    let used = busy.at..busy.at + busy.len;
    let beside = beside(&used, bytes.len());
    if !is_unused(&bytes[beside.start..used.start]) || !is_unused(&bytes[used.end..beside.end]) {
        return Err("memory around it was changed".into());
    }
    let is_kept = !sim.lost_power_since(busy.file / sim.plan.files.len(), busy.since);
    match (busy.operation, state) {
        (Operation::Write, TransferState::Completed) if is_kept => {
            model.acknowledge(busy.write, busy.offset, busy.end(), busy.since, sim.now_ns());
        }
        (Operation::Write, _) => model.doubt(busy.write, busy.offset, busy.end(), busy.since),
        (Operation::Read, TransferState::Completed) => {
            if let Err(Mismatch { offset, expected }) = model.check(busy.offset, &bytes[used.clone()], busy.since) {
                let at = used.start + (offset - busy.offset) as usize;
                let part = &bytes[at..(at + 8).min(used.end)];
                let from = model.identify(offset, part, sim.last_write());
                return Err(format!("the bytes at {offset} ({part:02x?}, of write {from:?}) are not of {expected}"));
            }
        }
        (Operation::Read, _) => {}
    }
    bytes[used].fill(UNUSED);
    Ok(())
}

fn describe(busy: &Busy) -> String {
    let Busy { operation, file, offset, len, write, since, deadline, .. } = busy;
    let (since, deadline) = (*since as f64 / 1e9, *deadline as f64 / 1e9);
    format!(
        "{operation} {write} of {len} bytes at {offset} of file {file}, submitted at {since:.6} s until {deadline:.6} s"
    )
}
