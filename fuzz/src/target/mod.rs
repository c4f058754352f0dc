//! The target under attack: the input decides what hosts say on up to twelve connections, how it is split, when they
//! leave, what storage answers, and how time passes.
//!
//! Checked throughout: what the target says is well-formed and answers something ([`mod@line`]); files hold only what was
//! written to them ([`files`]); memory is bounded; the target comes to rest. Checked at the end, when all hosts have gone:
//! nothing is kept.

mod files;
mod line;
mod words;

use crate::input::Input;
use crate::storage::{Ending, Storage};
use files::Files;
use line::{Line, split};
use nvferry_auth::Secret;
use nvferry_io::stream::Cut;
use nvferry_target::userspace::limits;
use nvferry_target::userspace::simulation::{Holdings, SimulatedTarget};
use nvferry_target::{AllowedHost, AllowedHosts, HostAuth};
use nvferry_wire::{ControllerId, Nqn, Nsid, TransportId};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The subsystem, and the host that the words here speak for.
pub(crate) const SUBSYSTEM: &str = "nqn.2016-06.io.mc:target";
pub(crate) const HOST: &str = "nqn.2016-06.io.mc:host";
/// What the host proves to know, where it has to.
pub(crate) const SECRET: [u8; 32] = [7; 32];

const MAX_LINES: usize = 12;
/// A target that takes more turns than this, and nothing comes of it, goes round in circles.
const MAX_TURNS: usize = 5000;

/// Turns that a conversation may take while its streams carry little at once. After that they carry all there is: a megabyte
/// byte by byte takes seconds, and shows nothing that its first thousands did not.
const MAX_SPLIT_TURNS: usize = 3000;

/// Every conversation begins at this time.
pub(crate) static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A target, its storage and its hosts.
pub(crate) struct Attack {
    target: SimulatedTarget,
    storage: Vec<Storage>,
    files: Files,
    lines: Vec<Line>,
    /// Which of them speaks.
    line: usize,
    /// Connections that were ever made.
    made: usize,
    /// The controller that was given last.
    controller: ControllerId,
    pub(crate) now: Instant,
    offered: Vec<bool>,
    /// Turns that were taken while streams carried little at once, and whether they do.
    split_turns: usize,
    is_split: bool,
}

/// One conversation, from an input.
pub(crate) fn converse(input: &[u8]) {
    let mut input = Input::new(input);
    let setup = input.u8();
    let mut attack = Attack::new(1 + usize::from(setup & 1), setup & 2 != 0);
    while !input.is_empty() {
        attack.act(&mut input);
        attack.check_bounds();
    }
    attack.end();
}

impl Attack {
    pub(crate) fn new(reactors: usize, authenticated: bool) -> Self {
        let files = Files::new();
        let storage: Vec<_> = (0..reactors).map(|_| Storage::new(files.storage.clone())).collect();
        let engines = storage.iter().map(Storage::engine).collect();
        let subsystem = Nqn::new(SUBSYSTEM).expect("a name");
        let address = TransportId::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 4420))).with_subnqn(subsystem.clone());
        let hosts = if authenticated { allowed() } else { AllowedHosts::Any };
        let target =
            SimulatedTarget::with_hosts(address, subsystem, hosts, engines).expect("a descriptor for each waker");
        for nsid in 1..=Files::count() {
            target.add_namespace(&Files::spec(nsid)).expect("a file that is there");
        }
        Self {
            target,
            storage,
            files,
            lines: Vec::new(),
            line: 0,
            made: 0,
            controller: ControllerId(1),
            now: *BEGINNING,
            offered: vec![true; Files::count() as usize],
            split_turns: 0,
            is_split: false,
        }
    }

    /// Does what the first bytes of an input say.
    pub(crate) fn act_on(&mut self, bytes: &[u8]) {
        self.act(&mut Input::new(bytes));
    }

    /// What the target has said on the present connection, since this was last asked.
    pub(crate) fn heard(&mut self) -> Vec<u8> {
        let line = &mut self.lines[self.line];
        line.tape.replace(Vec::new()).unwrap_or_default()
    }

    /// A new connection, which speaks from now on.
    fn open(&mut self, capacity_bytes: usize) {
        if self.lines.len() >= MAX_LINES {
            self.lines.remove(0);
        }
        let (line, other) = Line::new(capacity_bytes);
        self.lines.push(line);
        self.line = self.lines.len() - 1;
        self.made += 1;
        self.target.accept(other);
    }

    /// Says something on the present connection, letting the target listen where it must.
    fn say(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        for _ in 0..64 {
            let Some(line) = self.lines.get_mut(self.line) else { return };
            let sent = line.say(rest, &mut self.files);
            rest = &rest[sent..];
            if rest.is_empty() {
                return;
            }
            self.turns(4);
            self.hear();
        }
    }

    /// Hears what the target says on all connections.
    fn hear(&mut self) {
        for line in &mut self.lines {
            if let Some(given) = line.hear(&self.files) {
                self.controller = given;
            }
        }
    }

    /// Lets each reactor that has something to do take up to that many turns. Tells whether all are at rest.
    pub(crate) fn turns(&mut self, most: usize) -> bool {
        for _ in 0..most {
            self.count_split_turn();
            let mut any = false;
            for reactor in 0..self.target.reactors() {
                let due = self.target.next_deadline(reactor).is_some_and(|deadline| deadline <= self.now);
                let awake = self.target.is_rung(reactor) | self.target.is_ready(reactor);
                if awake || due || self.storage[reactor].has_done() {
                    self.target.turn(reactor, self.now);
                    any = true;
                }
            }
            if !any {
                return true;
            }
        }
        false
    }

    fn count_split_turn(&mut self) {
        if !self.is_split {
            return;
        }
        self.split_turns += 1;
        if self.split_turns == MAX_SPLIT_TURNS {
            self.lines.iter().filter_map(|line| line.stream.as_ref()).for_each(|stream| split(stream, usize::MAX));
            self.is_split = false;
        }
    }

    /// Lets everything go on until nothing moves: hosts listen, storage does what it should.
    pub(crate) fn settle(&mut self) {
        self.rest(|attack| {
            attack.hear();
            attack.storage.iter().filter(|storage| storage.end(0, Ending::Well)).count() == 0
        });
    }

    /// Lets the target take turns until it rests, and `others` do, too.
    fn rest(&mut self, mut others: impl FnMut(&mut Self) -> bool) {
        let (mut state, mut same) = (self.progress(), 0);
        loop {
            let rests = self.turns(1);
            if others(self) && rests && self.turns(1) {
                return;
            }
            let now = self.progress();
            same = if now == state { same + 1 } else { 0 };
            assert!(same < MAX_TURNS, "the target goes round in circles: {now:?}");
            state = now;
        }
    }

    /// What changes when something happens: what the target holds, and the bytes that went to and fro.
    fn progress(&self) -> (Holdings, u64) {
        let streams = self.lines.iter().filter_map(|line| line.stream.as_ref());
        let moved = streams.map(|stream| stream.outgoing().received_bytes() + stream.incoming().sent_bytes());
        (self.target.holdings(), moved.sum())
    }

    /// Lets time pass, and the target act on it.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.rest(|_| true);
    }

    fn offer(&mut self, nsid: u32) {
        let offered = &mut self.offered[nsid as usize - 1];
        if *offered {
            self.target.remove_namespace(Nsid(nsid)).expect("it was offered");
            *offered = false;
        } else {
            // Refused while commands of its last time are under way.
            *offered = self.target.add_namespace(&Files::spec(nsid)).is_ok();
        }
    }

    fn end_operation(&self, input: &mut Input<'_>) {
        let which = usize::from(input.u8());
        let most = usize::from(input.u8()) * 64;
        let ending = match input.u8() % 8 {
            0 => Ending::Short(most),
            1 => Ending::Error { errno: input.pick(&[5, 28, 30, 12, 22, 95, 4, 11]), after: most },
            _ => Ending::Well,
        };
        self.storage[which % self.storage.len()].end(which, ending);
    }

    fn leave(&mut self, how: u8) {
        let Some(line) = self.lines.get_mut(self.line) else { return };
        match (how % 4, &line.stream) {
            (0, Some(stream)) => stream.close_send(),
            (1, Some(stream)) => stream.outgoing().cut(Cut::Reset),
            (2, Some(stream)) => stream.outgoing().cut(Cut::Silence),
            _ => line.leave(),
        }
    }

    /// Does what the next bytes say.
    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() % 24 {
            0 => self.open(input.pick(&[1 << 20, 65_536, 4096, 150])),
            1 => self.line = usize::from(input.u8()) % self.lines.len().max(1),
            2 => self.leave(input.u8()),
            3 => drop(self.turns(usize::from(input.u8()) + 1)),
            4 => self.end_operation(input),
            5 => self.pass(Duration::from_millis(input.pick(&[1, 100, 1000, 2000, 10_000, 15_000, 30_000, 60_000]))),
            6 => self.hear(),
            7 => self.offer(1 + u32::from(input.u8()) % Files::count()),
            8 => {
                let most = input.pick(&[usize::MAX, 1, 7, 100, 1000]);
                if self.split_turns < MAX_SPLIT_TURNS
                    && let Some(stream) = self.lines.get(self.line).and_then(|line| line.stream.as_ref())
                {
                    split(stream, most);
                    self.is_split |= most < usize::MAX;
                }
            }
            9 => self.settle(),
            10 | 11 => self.say(input.chunk()),
            12 => self.say_opening(input),
            13 => self.say_connect(input),
            14 => self.say_property(input),
            15 => self.say_admin(input),
            16..=18 => self.say_io(input),
            19 | 20 => self.say_data(input),
            21 => self.say_command(input),
            22 => self.say_term(input),
            _ => self.connect_queue(input),
        }
    }

    fn check_bounds(&self) {
        let Holdings { buffer_bytes, unsent_bytes, unread_bytes, connections, controllers, .. } =
            self.target.holdings();
        let reactors = self.target.reactors();
        let pools = reactors * (limits::DATA_POOL_BYTES + limits::CAPSULE_POOL_BYTES);
        assert!(buffer_bytes <= pools, "{buffer_bytes} bytes of buffers");
        assert!(connections <= self.made && controllers <= self.made, "{connections}, {controllers}");
        let own = connections * (limits::SEND_BACKLOG_BYTES + 2 * limits::MAX_TRANSFER_BYTES as usize);
        assert!(unsent_bytes <= pools + own, "{unsent_bytes} bytes wait to be sent");
        assert!(unread_bytes <= connections * limits::RECEIVE_BUFFER_BYTES, "{unread_bytes} bytes wait to be read");
    }

    /// All hosts leave; nothing may stay.
    pub(crate) fn end(mut self) {
        self.hear();
        self.lines.clear();
        self.settle();
        for time in [limits::TERMINATE_LINGER, limits::HANDSHAKE_TIMEOUT, limits::SEND_STALL_TIMEOUT] {
            self.pass(time);
            self.settle();
        }
        assert_eq!(self.target.holdings(), Holdings::default(), "something was kept");
        self.files.check();
    }
}

fn allowed() -> AllowedHosts {
    let secret = Secret::from_key(&SECRET, None).expect("a key of a length that secrets have");
    let nqn = Nqn::new(HOST).expect("a name");
    AllowedHosts::Only(vec![AllowedHost {
        nqn,
        auth: Some(HostAuth { group: nvferry_auth::DhGroup::Null, ..HostAuth::new(secret) }),
    }])
}
