//! What goes wrong with machines: targets are killed, lose power, move and start again; namespaces go and come back.

use crate::app::path_of;
use crate::machines::TargetMachine;
use crate::plan::{MS, SECOND};
use crate::world::{Event, Sim};
use nvferry_engine::{FileBufferDesc, FileBufferId, SegmentDesc};
use nvferry_io::stream::Cut;
use nvferry_target::userspace::simulation::Holdings;

/// A description's field that says where its target is.
const TRID_FIELD: &str = "nvmeof_generic_trid";

impl Sim {
    /// Something may go wrong, now and again later.
    pub(crate) fn chaos(&self) {
        if self.healed.get() {
            return;
        }
        let plan = &self.plan;
        let (happens, target, pause, time) = {
            let random = &mut *self.random.borrow_mut();
            let target = random.below(plan.targets as u64) as usize;
            let rates = [plan.kills, plan.namespaces, plan.outages, plan.stops];
            let happens = rates.map(|rate| random.rarely(rate));
            (happens, target, random.size(200 * MS) + MS, random.size(60 * SECOND))
        };
        let [kill, namespace, outage, stop] = happens;
        if kill {
            self.kill(target);
        }
        if namespace {
            self.change_namespace(target);
        }
        if outage {
            self.outage(target);
        }
        if stop {
            self.stop(target, time);
        }
        self.schedule(pause, Event::Chaos);
    }

    /// A target is told to end, within so long.
    pub(crate) fn stop(&self, target: usize, within: u64) {
        let mut targets = self.targets.borrow_mut();
        let machine = &mut targets[target];
        if machine.is_up() && !machine.draining {
            tracing::debug!(now = self.now_ns(), target, within, "telling a target to end");
            machine.drain();
            let must_end = self.healed.get();
            self.schedule(within, Event::StopNow { target, life: machine.life, must_end });
        }
    }

    /// Whether a target was told to end, and has.
    pub(crate) fn has_drained(&self, target: usize) -> bool {
        self.targets.borrow()[target].has_drained()
    }

    /// A target has ended, as it was told to. It holds nothing, and starts again.
    pub(crate) fn drained(&self, target: usize) {
        let holdings = self.targets.borrow()[target].holdings();
        if holdings != Holdings::default() {
            self.fail(format!("target {target} has ended, as it was told to, and holds {holdings:?}"));
        }
        tracing::debug!(now = self.now_ns(), target, "a target has ended as it was told to");
        self.end(target, false, Cut::Close);
    }

    /// Its time is over. What is still under way then is given up.
    pub(crate) fn stop_now(&self, target: usize, life: u32, must_end: bool) {
        let is_it = {
            let machine = &self.targets.borrow()[target];
            machine.life == life && machine.draining
        };
        if is_it && must_end {
            self.fail(format!("target {target} was told to end and has not, though nothing goes wrong"));
        } else if is_it {
            tracing::debug!(now = self.now_ns(), target, "a target has not ended in time");
            self.end(target, false, Cut::Reset);
        }
    }

    /// A target's connections end, all of them or one, and it goes on.
    fn outage(&self, target: usize) {
        let mut open = 0;
        self.connections_of(target, |connection| open += u64::from(connection.is_open()));
        let (only, cut) = {
            let random = &mut *self.random.borrow_mut();
            let only = if random.chance(50) { None } else { Some(random.below(open)) };
            (only, random.pick(&[Cut::Reset, Cut::Reset, Cut::Close]))
        };
        tracing::debug!(now = self.now_ns(), target, ?only, ?cut, "an outage");
        let mut at = 0;
        self.connections_of(target, |connection| {
            if connection.is_open() {
                if only.is_none_or(|only| only == at) {
                    connection.cut(cut);
                }
                at += 1;
            }
        });
    }

    /// A host loses a connection, and mostly all others to that target with it; what it had sent arrives there later all the
    /// same, and only then does the target hear that they have ended.
    pub(crate) fn strand(&self, connection: usize) {
        let stranded: Vec<_> = {
            let random = &mut *self.random.borrow_mut();
            let alone = random.chance(30);
            let longest = random.pick(&[3, 20]) * SECOND;
            let late = random.within(SECOND / 10, longest);
            let mut net = self.net.borrow_mut();
            let (host, target) = (net[connection].owner.0, net[connection].target);
            let live = self.live.borrow();
            let it = |&index: &usize| index == connection || (!alone && net[index].is_between(host, target));
            let some: Vec<_> =
                live.iter().copied().filter(it).map(|index| (index, late + random.size(SECOND))).collect();
            some.into_iter().filter(|&(index, late)| net[index].strand(self.now_ns() + late)).collect()
        };
        tracing::debug!(now = self.now_ns(), ?stranded, "connections are stranded");
        for (connection, late) in stranded {
            let owner = self.net.borrow()[connection].owner;
            self.tell(owner, connection);
            let heard = self.random.borrow_mut().size(SECOND);
            self.schedule(late + heard, Event::TakenForDead { connection });
        }
    }

    /// A target dies, and starts again after a while.
    fn kill(&self, target: usize) {
        if !self.targets.borrow()[target].is_up() {
            return;
        }
        let power = self.plan.power_loss && self.random.borrow_mut().chance(50);
        tracing::debug!(now = self.now_ns(), target, power, "killing a target");
        // A program's sockets end with it; of a machine without power nobody hears.
        self.end(target, power, if power { Cut::Silence } else { Cut::Reset });
    }

    /// A target is no more, for a while.
    fn end(&self, target: usize, power: bool, cut: Cut) {
        let mut targets = self.targets.borrow_mut();
        let machine = &mut targets[target];
        let mut random = self.random.borrow_mut();
        self.connections_of(target, |connection| connection.cut(cut));
        machine.kill(&mut random);
        let mut models = self.models.borrow_mut();
        machine.files.iter().for_each(|file| models[file.number].settle(self.now_ns()));
        if power {
            self.power_losses.borrow_mut().push((target, self.now_ns()));
            machine.lose_power(&mut random, |number, content| {
                if let Err(wrong) = models[number].rebase(content, self.now_ns()) {
                    self.fail(format!("file {number} after a loss of power: {wrong:?}"));
                }
            });
        }
        let moves = !self.healed.get() && random.chance(20);
        if moves {
            machine.address.set_port(4420 + machine.life as u16);
        }
        let after = random.size(3 * SECOND);
        self.schedule(after, Event::Start { target });
    }

    /// Whether a target has lost power since. What was acknowledged before that may be lost: nobody flushed it.
    pub(crate) fn lost_power_since(&self, target: usize, since: u64) -> bool {
        self.power_losses.borrow().iter().any(|(lost, at)| *lost == target && *at >= since)
    }

    fn connections_of(&self, target: usize, mut each: impl FnMut(&crate::net::Connection)) {
        let net = self.net.borrow();
        let live = self.live.borrow();
        let live = live.iter().map(|&index| &net[index]);
        live.filter(|connection| connection.target == Some(target)).for_each(&mut each);
    }

    /// A target starts.
    pub(crate) fn start_target(&self, target: usize) {
        let mut targets = self.targets.borrow_mut();
        let machine = &mut targets[target];
        if machine.is_up() {
            return;
        }
        tracing::debug!(now = self.now_ns(), target, "starting a target");
        // To what comes over connections of its last life it answers that it knows none of them.
        self.connections_of(target, |connection| connection.cut(Cut::Reset));
        if !self.healed.get() {
            machine.exchange(&self.plan, &mut self.random.borrow_mut());
        }
        if let Err(error) = machine.start(&self.plan) {
            self.fail(format!("a target does not start: {error}"));
        }
        self.publish(machine);
    }

    /// A namespace goes, or comes back.
    fn change_namespace(&self, target: usize) {
        let mut targets = self.targets.borrow_mut();
        let machine = &mut targets[target];
        let at = self.random.borrow_mut().below(machine.files.len() as u64) as usize;
        let offered = !machine.files[at].offered;
        tracing::debug!(now = self.now_ns(), target, at, offered, "changing a namespace");
        if let Err(error) = machine.offer(at, offered, &self.plan) {
            self.fail(format!("a namespace cannot be changed: {error}"));
        }
        self.publish(machine);
    }

    /// Publishes what a target offers.
    fn publish(&self, machine: &TargetMachine) {
        let mut segment = SegmentDesc::new(machine.segment(), nvferry_nvmeof::PROTOCOL);
        let fields = machine.transport_id().fields();
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        segment.extra.insert(TRID_FIELD.into(), serde_json::Value::Object(fields));
        let offered = machine.files.iter().filter(|file| file.offered);
        let files = offered.map(|file| {
            let path = path_of(file.number);
            let desc = FileBufferDesc::new(FileBufferId(file.nsid), path, file.size, self.plan.block_bytes.into());
            FileBufferDesc { identity: machine.identity(file, &self.plan), ..desc }
        });
        segment.file_buffers = files.collect();
        self.store.publish(&format!("mooncake/ram/{}", segment.name), segment.to_json());
    }

    /// Nothing goes wrong from here on: what was broken is mended.
    pub(crate) fn heal(&self) {
        self.healed.set(true);
        tracing::debug!(now = self.now_ns(), "faults are over");
        self.net.borrow_mut().iter_mut().for_each(crate::net::Connection::heal);
        self.store.heal();
        let mut targets = self.targets.borrow_mut();
        let mut again = false;
        for machine in targets.iter_mut() {
            for at in 0..machine.files.len() {
                match machine.offer(at, true, &self.plan) {
                    Ok(true) => {}
                    // Commands of its last time are under way.
                    Ok(false) => again = true,
                    Err(error) => self.fail(format!("a namespace cannot be offered again: {error}")),
                }
            }
            self.publish(machine);
            if !machine.is_up() {
                self.schedule(0, Event::Start { target: machine.index });
            }
        }
        if again {
            self.schedule(SECOND, Event::Heal);
        }
    }

    /// A host that must not get in tries it.
    pub(crate) fn intrude(&self, host: usize, times: u64) {
        let Some(mut app) = self.apps.borrow_mut()[host].take() else { return };
        let calling = self.calling.replace(host);
        app.intrude(self);
        self.calling.set(calling);
        self.apps.borrow_mut()[host] = Some(app);
        if times > 1 {
            let pause = self.random.borrow_mut().size(SECOND);
            self.schedule(pause, Event::Intruder { host, times: times - 1 });
        }
    }

    /// A host's application uses the memory of what has ended for something else at once, unless it waits within a call.
    pub(crate) fn look_at_ended(&self, host: usize) {
        if let Some(Some(app)) = self.apps.borrow_mut().get_mut(host) {
            app.look(self);
        }
    }

    /// A host's application acts, or only looks.
    pub(crate) fn app(&self, host: usize, acts: bool) {
        let Some(mut app) = self.apps.borrow_mut()[host].take() else { return };
        self.calling.set(host);
        app.look(self);
        if acts {
            app.act(self);
            app.look(self);
        }
        if acts && !app.is_done() {
            let pause = app.pause();
            self.schedule(pause, Event::App { host, acts });
        }
        self.apps.borrow_mut()[host] = Some(app);
    }
}
