//! One seed, from its beginning to what is left at its end.

use crate::access;
use crate::app::App;
use crate::machines::{HostMachine, TargetMachine};
use crate::model::Model;
use crate::plan::{MS, Plan, SECOND};
use crate::random::{Random, mix};
use crate::world::{Event, Sim};
use nvferry_engine::{Deadline, Operation, TransferEngine, UnderWay};
use nvferry_io::simulation;
use nvferry_nvmeof::NvmeofOptions;
use nvferry_nvmeof::simulation::{Holdings, take_started};
use nvferry_target::userspace::simulation::Holdings as TargetHoldings;
use std::rc::Rc;
use std::time::Duration;

/// How long after the last fault everything must work again: a dead connection is found by its keep-alive timeout, and
/// tried again within five seconds.
const RECOVERY: u64 = 90 * SECOND;
/// How long anything may take that is under way when the recovery is over.
const LIVELY: u64 = 120 * SECOND;
/// By then all that went wrong is known: storage has ended what it stalled, dead peers have been found.
const QUIET: u64 = 60 * SECOND;
/// Of 100 ends, those before which a target is told to end under load.
const LAST_STOPS: u64 = 25;
/// Small requests at the end, each waited for.
const SUCCESSION: u64 = 12;
/// How long a target may take to end that is told to, while nothing goes wrong.
pub(crate) const DRAIN: u64 = 60 * SECOND;
/// How long a target keeps what it cannot know to be over: its own timeouts, and storage that stalls.
const LINGERING: u64 = 120 * SECOND;

/// What became of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// A hash of all that happened.
    pub trace: u64,
    /// Events that happened.
    pub events: u64,
    /// Requests that ended, by state's number.
    pub ended: [u64; 7],
    /// What was wrong, if anything.
    pub failure: Option<String>,
}

/// Runs a seed's world.
///
/// # Errors
/// When the machine that simulates fails.
pub fn run(seed: u64) -> anyhow::Result<Outcome> {
    let sim = Rc::new(Sim::new(Plan::of(seed), Random::new(mix(seed ^ 0x5EED))));
    tracing::debug!(plan = ?sim.plan);
    // Nothing of an earlier world.
    drop(take_started());
    let world: Rc<dyn simulation::World> = Rc::<Sim>::clone(&sim);
    let leave = simulation::enter(world);
    build(&sim)?;
    let ended = live(&sim);
    // Engines end within the world.
    let apps = sim.apps.take();
    drop(apps);
    drop(leave);
    let failure = sim.failure.borrow().clone();
    Ok(Outcome { seed, trace: sim.trace(), events: sim.events(), ended, failure })
}

fn build(sim: &Sim) -> anyhow::Result<()> {
    let plan = &sim.plan;
    let times = plan.intruder.map_or(0, |(_, times)| times);
    for index in 0..plan.targets {
        let machine = TargetMachine::new(index, plan)?;
        let mut models = sim.models.borrow_mut();
        models.extend(machine.files.iter().map(|file| Model::new(file.number, file.size, plan.block_bytes)));
        sim.files.borrow_mut().extend(machine.simulated_files());
        sim.targets.borrow_mut().push(machine);
        sim.schedule(0, Event::Start { target: index });
    }
    // The one after the last is the intruder.
    for host in 0..plan.hosts + usize::from(plan.intruder.is_some()) {
        sim.hosts.borrow_mut().push(HostMachine::default());
        sim.calling.set(host);
        let options = NvmeofOptions::new()
            .workers(plan.workers)
            .queue_depth(plan.queue_depth)
            .digests(plan.digests)
            .keep_alive(Duration::from_nanos(plan.kato));
        let options = access::of_host(options, plan, host)?;
        let store: std::sync::Arc<dyn nvferry_engine::MetadataStore> =
            std::sync::Arc::<crate::metadata::Store>::clone(&sim.store);
        let engine = TransferEngine::builder()
            .metadata(store)
            .server_name(format!("host{host}"))
            .cluster_id(None)
            .max_slices(plan.max_slices)
            .transport(nvferry_nvmeof::factory(options))
            .build()?;
        engine.install_transport(nvferry_nvmeof::PROTOCOL, None)?;
        let random = sim.random.borrow_mut().fork();
        let mut app = App::new(sim, engine, random)?;
        if host == plan.hosts {
            app.stop();
        }
        sim.apps.borrow_mut().push(Some(app));
        let event = if host == plan.hosts { Event::Intruder { host, times } } else { Event::App { host, acts: true } };
        sim.schedule(host as u64 + 1, event);
    }
    if plan.stranger > 0 {
        sim.schedule(5 * MS, Event::Stranger { times: plan.stranger });
    }
    sim.schedule(1, Event::Chaos);
    sim.schedule(plan.heal_at, Event::Heal);
    Ok(())
}

/// Lets everything happen, and looks at what is left.
fn live(sim: &Sim) -> [u64; 7] {
    let is_done = || sim.apps.borrow().iter().flatten().all(App::is_done);
    let limit = sim.plan.heal_at + RECOVERY;
    while !sim.has_failed() && !is_done() && sim.now_ns() < limit {
        if !sim.step(limit) {
            break;
        }
    }
    if !is_done() {
        sim.apps.borrow_mut().iter_mut().flatten().for_each(App::stop);
        sim.run_for(LIVELY);
    }
    // They may have more time than that, and nobody may need it.
    if let Some(left) = sim.apps.borrow().iter().flatten().find_map(App::first_under_way) {
        sim.fail(format!("{left} has not ended, though nothing went wrong since"));
    }
    sim.heal();
    let mut ended = [0; 7];
    let apps = sim.apps.borrow().len();
    for host in 0..apps {
        let Some(mut app) = sim.apps.borrow_mut()[host].take() else { continue };
        sim.calling.set(host);
        if host == sim.plan.hosts {
            app.intrude(sim);
            if let Err(error) = app.engine.shutdown(Deadline::after(Duration::from_secs(10))) {
                sim.fail(format!("the shut-down of an engine that got nowhere failed: {error}"));
            }
            continue;
        }
        if !sim.has_failed() {
            read_back(sim, &mut app);
        }
        if !sim.has_failed() {
            work_undisturbed(sim, &mut app);
        }
        if !sim.has_failed() && host == 0 && sim.random.borrow_mut().chance(LAST_STOPS) {
            drain_under_load(sim, &mut app);
        }
        if !sim.has_failed() {
            app.check_memory(sim);
            let UnderWay { slices, bytes } = app.engine.under_way();
            if (slices, bytes) != (0, 0) {
                sim.fail(format!("the engine holds permits for {slices} slices and {bytes} bytes"));
            }
            if let Err(error) = app.engine.shutdown(Deadline::after(Duration::from_secs(10))) {
                sim.fail(format!("the engine's shut-down failed: {error}"));
            }
        }
        ended.iter_mut().zip(app.ended).for_each(|(sum, count)| *sum += count);
        drop(app);
    }
    if !sim.has_failed() {
        take_stock(sim);
    }
    ended
}

/// All files can be read again, and hold what was written.
fn read_back(sim: &Sim, app: &mut App) {
    let until = sim.now_ns() + RECOVERY;
    for target in 0..sim.plan.targets {
        for file in 0..sim.plan.files.len() {
            loop {
                if app.open(sim, target, 10 * SECOND) {
                    app.sync(sim, target);
                    if app.all_of(sim, Operation::Read, (target, file), 30 * SECOND) {
                        break;
                    }
                }
                if sim.has_failed() {
                    return;
                }
                if sim.now_ns() > until {
                    sim.fail(format!("file {file} of target {target} cannot be read, though nothing goes wrong"));
                    return;
                }
                sim.run_for(SECOND / 10);
            }
        }
    }
}

/// Nothing has gone wrong for longer than anything takes to be noticed: every request is completed at once, and no
/// connection ends.
fn work_undisturbed(sim: &Sim, app: &mut App) {
    sim.run_for(QUIET);
    let open = sim.open_connections();
    for target in 0..sim.plan.targets {
        for file in 0..sim.plan.files.len() {
            for operation in [Operation::Write, Operation::Read] {
                // As slow as the slowest links are.
                if !app.all_of(sim, operation, (target, file), 60 * SECOND) {
                    sim.fail(format!(
                        "a {operation} of file {file} of target {target} failed, though nothing goes wrong"
                    ));
                    return;
                }
            }
        }
    }
    // More rounds than it takes until the waiting thread drives the transport itself.
    let completed = app.in_succession(sim, SUCCESSION, 60 * SECOND);
    app.stop();
    if completed < SUCCESSION && !sim.has_failed() {
        sim.fail(format!("{completed} of {SUCCESSION} small requests completed, though nothing goes wrong"));
    }
    sim.run_for(QUIET);
    let left = sim.open_connections();
    if let Some(gone) = open.iter().find(|index| !left.contains(index)) {
        sim.fail(format!("connection {gone} has ended, though nothing goes wrong"));
    }
}

/// A target that is told to end does so soon, and starts again; nobody notices but for the time that this takes.
fn drain_under_load(sim: &Sim, app: &mut App) {
    for (target, operation) in [(0, Operation::Write), (sim.plan.targets - 1, Operation::Read)] {
        let soon = sim.random.borrow_mut().size(20 * MS);
        sim.schedule(soon, Event::Stop { target });
        if !app.all_of(sim, operation, (target, 0), 120 * SECOND) {
            sim.fail(format!(
                "a {operation} of target {target} failed, though it was only told to end and started again"
            ));
            return;
        }
        // What stood in the way of its end would be known by then.
        sim.run_for(DRAIN);
    }
}

/// Nobody has kept anything.
fn take_stock(sim: &Sim) {
    sim.run_for(LINGERING);
    for (host, machine) in sim.hosts.borrow().iter().enumerate() {
        let holdings = machine.holdings();
        if holdings != Holdings::default() {
            sim.fail(format!("host {host} holds {holdings:?}"));
        }
        if machine.parts.iter().any(|part| !part.ended) {
            sim.fail(format!("a thread of host {host} has not ended"));
        }
    }
    for machine in sim.targets.borrow().iter() {
        let holdings = machine.holdings();
        if holdings != TargetHoldings::default() {
            sim.fail(format!("target {} holds {holdings:?}", machine.index));
        }
    }
}
