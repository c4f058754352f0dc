//! The driver against the fake: set-up, tear-down, and death at every step of both.

use super::driver::{NvmetOptions, NvmetTarget};
use super::fake::{Fake, Fault};
use super::modules::Roots;
use super::step::Step;
use super::tree::Tree;
use crate::desired::{AllowedHost, AllowedHosts, HostAuth, NamespaceSpec, TargetSpec};
use crate::driver::{AllowedHostStatus, TargetDriver};
use crate::error::TargetError;
use nvferry_wire::{Nqn, Nsid};
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::{NamedTempFile, TempDir};

const NQN: &str = "nqn.2016-06.io.mc:node7";

struct Machine {
    nvmet: Fake,
    records: TempDir,
    file: NamedTempFile,
}

impl Machine {
    /// nvmet with a subsystem, a host and a port of another program.
    fn new() -> Self {
        let nvmet = Fake::new();
        for dir in ["subsystems/nqn.2020-01.org.example:theirs", "ports/1", "hosts/nqn.2020-01.org.example:h0"] {
            nvmet.make_dir(dir).unwrap();
        }
        for (path, value) in [("addr_trtype", "tcp"), ("addr_traddr", "127.0.0.1"), ("addr_trsvcid", "4420")] {
            nvmet.write(&format!("ports/1/{path}"), value).unwrap();
        }
        let theirs = "subsystems/nqn.2020-01.org.example:theirs";
        nvmet.write(&format!("{theirs}/attr_allow_any_host"), "1").unwrap();
        nvmet.link(theirs, "ports/1/subsystems/nqn.2020-01.org.example:theirs").unwrap();
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        Self { nvmet, records: tempfile::tempdir().unwrap(), file }
    }

    fn options(&self) -> NvmetOptions {
        let roots = Roots::other("/nonexistent", self.records.path());
        NvmetOptions { roots, ..NvmetOptions::default() }
    }

    fn namespace(&self) -> NamespaceSpec {
        NamespaceSpec { direct: false, ..NamespaceSpec::new(Nsid(3), self.file.path(), 1 << 20) }
    }

    fn spec(&self) -> TargetSpec {
        let transport = "traddr=127.0.0.1 trsvcid=4421".parse().unwrap();
        let mut spec = TargetSpec::new(transport, Nqn::new(NQN).unwrap());
        spec.namespaces.push(self.namespace());
        let hosts = ["nqn.2020-01.org.example:h0", "nqn.2020-01.org.example:h1"];
        spec.allowed_hosts = AllowedHosts::Only(hosts.map(|host| Nqn::new(host).unwrap().into()).to_vec());
        spec
    }

    fn start(&self, spec: TargetSpec) -> Result<Arc<NvmetTarget>, TargetError> {
        NvmetTarget::start_on(Box::new(self.nvmet.clone()), spec, self.options())
    }

    fn port(&self) -> String {
        let ports = self.nvmet.list("ports").unwrap();
        format!("ports/{}", ports.iter().find(|id| *id != "1").unwrap())
    }

    fn records_left(&self) -> usize {
        std::fs::read_dir(self.records.path()).unwrap().count()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn a_target_is_set_up_as_described_and_taken_down_whole() {
    let machine = Machine::new();
    let before = machine.nvmet.dump("");
    let target = machine.start(machine.spec()).unwrap();
    let get = |path: &str| machine.nvmet.read(path).unwrap();
    let subsystem = format!("subsystems/{NQN}");
    let namespace = format!("{subsystem}/namespaces/3");
    assert_eq!(get(&format!("{subsystem}/attr_allow_any_host")), "0");
    assert_eq!(get(&format!("{subsystem}/attr_model")), "nvferry");
    assert_eq!(get(&format!("{subsystem}/attr_serial")), machine.spec().serial);
    assert_eq!(machine.nvmet.list(&format!("{subsystem}/allowed_hosts")).unwrap().len(), 2);
    assert_eq!(get(&format!("{namespace}/device_path")), machine.file.path().to_str().unwrap());
    let uuid = nvferry_wire::HostId(machine.namespace().uuid(&Nqn::new(NQN).unwrap())).to_string();
    assert_eq!(
        [get(&format!("{namespace}/device_uuid")), get(&format!("{namespace}/device_nguid"))],
        [uuid.clone(), uuid]
    );
    assert_eq!(
        (get(&format!("{namespace}/buffered_io")), get(&format!("{namespace}/enable"))),
        ("1".into(), "1".into())
    );
    let port = machine.port();
    assert_eq!(get(&format!("{port}/addr_adrfam")), "ipv4");
    assert_eq!(get(&format!("{port}/addr_trsvcid")), "4421");
    assert!(machine.nvmet.exists(&format!("{port}/subsystems/{NQN}")));
    assert_eq!(
        target.address().to_string(),
        format!("trtype=tcp adrfam=ipv4 traddr=127.0.0.1 trsvcid=4421 subnqn={NQN}")
    );
    assert_eq!(target.status().namespaces.len(), 1);
    assert_eq!(
        target.status().allowed_hosts.unwrap(),
        ["nqn.2020-01.org.example:h0", "nqn.2020-01.org.example:h1"].map(|host| AllowedHostStatus {
            host: Nqn::new(host).unwrap(),
            has_secret: false,
            has_controller_secret: false
        })
    );

    target.remove_namespace(Nsid(3), soon()).unwrap();
    assert!(!machine.nvmet.exists(&namespace));
    assert!(matches!(target.remove_namespace(Nsid(3), soon()), Err(TargetError::UnknownNamespace { .. })));
    let info = target.add_namespace(machine.namespace()).unwrap();
    assert_eq!((info.size_bytes, info.blocks), (1 << 20, (1 << 20) / u64::from(info.block_bytes)));
    assert!(matches!(target.add_namespace(machine.namespace()), Err(TargetError::NsidInUse { .. })));
    let again = NamespaceSpec { nsid: Nsid(4), ..machine.namespace() };
    assert!(matches!(target.add_namespace(again), Err(TargetError::AlreadyOffered { .. })));
    target.stop(soon()).unwrap();
    assert_eq!(machine.nvmet.dump(""), before);
    assert_eq!(machine.records_left(), 0);
    assert!(matches!(target.add_namespace(machine.namespace()), Err(TargetError::Stopped)));
}

/// Sets up, and takes down; with a fault somewhere in it.
fn life(machine: &Machine) -> Result<(), TargetError> {
    let target = machine.start(machine.spec())?;
    target.stop(soon())
}

fn changes_of_a_life() -> usize {
    let machine = Machine::new();
    machine.nvmet.set_fault(None);
    life(&machine).unwrap();
    machine.nvmet.changes()
}

#[test]
fn p09_killed_at_any_step_the_next_start_works_and_others_are_untouched() {
    let steps = changes_of_a_life();
    assert!(steps > 25, "only {steps} changes");
    for fault in (0..steps).flat_map(|at| [Fault::DieBefore(at), Fault::DieAfter(at)]) {
        let machine = Machine::new();
        let before = machine.nvmet.dump("");
        machine.nvmet.set_fault(Some(fault));
        assert!(life(&machine).is_err(), "{fault:?}");
        machine.nvmet.set_fault(None);
        // No host finds it without its files, neither before nor after.
        let dump = machine.nvmet.dump("");
        if dump.contains(&format!("/subsystems/{NQN} -> ")) {
            assert!(dump.contains(&format!("{NQN}/namespaces/3/enable = 1")), "{fault:?}: {dump}");
        }
        let target = machine.start(machine.spec()).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(machine.nvmet.exists(&format!("{}/subsystems/{NQN}", machine.port())), "{fault:?}");
        assert_eq!(machine.nvmet.list("ports").unwrap().len(), 2, "{fault:?}: a port was left");
        target.stop(soon()).unwrap();
        assert_eq!(machine.nvmet.dump(""), before, "{fault:?}");
        assert_eq!(machine.records_left(), 0, "{fault:?}");
    }
}

#[test]
fn p09_killed_while_recovering_the_start_after_that_works() {
    for first in [5, 12, 20, 24] {
        for second in 0..12 {
            let machine = Machine::new();
            let before = machine.nvmet.dump("");
            machine.nvmet.set_fault(Some(Fault::DieAfter(first)));
            assert!(life(&machine).is_err());
            machine.nvmet.set_fault(Some(Fault::DieAfter(second)));
            assert!(life(&machine).is_err());
            machine.nvmet.set_fault(None);
            life(&machine).unwrap_or_else(|error| panic!("{first}, {second}: {error}"));
            assert_eq!(machine.nvmet.dump(""), before, "{first}, {second}");
        }
    }
}

#[test]
fn a_step_that_fails_is_named_and_what_came_before_is_undone() {
    let machine = Machine::new();
    machine.nvmet.set_fault(None);
    let target = machine.start(machine.spec()).unwrap();
    let steps = machine.nvmet.changes();
    target.stop(soon()).unwrap();
    for at in 0..steps {
        let machine = Machine::new();
        let before = machine.nvmet.dump("");
        machine.nvmet.set_fault(Some(Fault::Fail(at, Errno::NOMEM)));
        let error = machine.start(machine.spec()).err().unwrap_or_else(|| panic!("step {at}")).to_string();
        assert!(error.contains("the step \"") && error.contains("failed"), "{at}: {error}");
        assert_eq!(machine.nvmet.dump(""), before, "{at}: {error}");
        assert_eq!(machine.records_left(), 0, "{at}");
    }
}

#[test]
fn p09_what_another_program_made_is_refused_and_left() {
    let machine = Machine::new();
    let before = machine.nvmet.dump("");
    let mut spec = machine.spec();
    spec.subsystem = Nqn::new("nqn.2020-01.org.example:theirs").unwrap();
    let error = machine.start(spec).err().unwrap().to_string();
    assert!(error.contains("did not make"), "{error}");
    let mut spec = machine.spec();
    spec.transport.trsvcid = 4420;
    let error = machine.start(spec).err().unwrap().to_string();
    assert!(error.contains("port 1") && error.contains("another program"), "{error}");
    assert_eq!(machine.nvmet.dump(""), before);
}

#[test]
fn p09_an_object_made_anew_by_another_program_under_our_name_is_theirs() {
    let machine = Machine::new();
    machine.nvmet.set_fault(Some(Fault::DieBefore(3)));
    assert!(life(&machine).is_err());
    machine.nvmet.set_fault(None);
    let ours = format!("subsystems/{NQN}");
    machine.nvmet.remove_dir(&ours).unwrap();
    machine.nvmet.make_dir(&ours).unwrap();
    let theirs = machine.nvmet.dump(&ours);
    let error = machine.start(machine.spec()).err().unwrap().to_string();
    assert!(error.contains("did not make"), "{error}");
    assert_eq!(machine.nvmet.dump(&ours), theirs);
}

#[test]
fn p09_two_engines_live_side_by_side_and_end_in_either_order() {
    for first_ends_first in [true, false] {
        let machine = Machine::new();
        let before = machine.nvmet.dump("");
        let mut second = machine.spec();
        second.subsystem = Nqn::new("nqn.2016-06.io.mc:node8").unwrap();
        second.namespaces.clear();
        let one = machine.start(machine.spec()).unwrap();
        let error = machine.start(machine.spec()).err().unwrap().to_string();
        assert!(error.contains("another target of this process"), "{error}");
        // A port is one engine's.
        let error = machine.start(second.clone()).err().unwrap().to_string();
        assert!(
            error.contains(&format!("nvferry process {}", std::process::id())) || error.contains("this process"),
            "{error}"
        );
        second.transport.trsvcid = 4422;
        let two = machine.start(second).unwrap();
        let (a, b) = if first_ends_first { (one, two) } else { (two, one) };
        a.stop(soon()).unwrap();
        assert!(machine.nvmet.exists(&format!("{}/subsystems", machine.port())));
        b.stop(soon()).unwrap();
        assert_eq!(machine.nvmet.dump(""), before);
    }
}

#[test]
fn p09_a_port_of_ours_that_another_program_uses_is_left_and_used_again() {
    let machine = Machine::new();
    let before = machine.nvmet.dump("ports/1");
    let target = machine.start(machine.spec()).unwrap();
    let port = machine.port();
    let link = format!("{port}/subsystems/nqn.2020-01.org.example:theirs");
    machine.nvmet.link("subsystems/nqn.2020-01.org.example:theirs", &link).unwrap();
    assert!(target.stop(soon()).unwrap_err().to_string().contains(&port));
    drop(target);
    assert!(machine.nvmet.exists(&link));
    let target = machine.start(machine.spec()).unwrap();
    assert_eq!(machine.port(), port);
    machine.nvmet.unlink(&link).unwrap();
    target.stop(soon()).unwrap();
    assert!(!machine.nvmet.exists(&port));
    assert_eq!(machine.nvmet.dump("ports/1"), before);
}

#[test]
fn errors_say_what_to_do() {
    let machine = Machine::new();
    let before = machine.nvmet.dump("");
    let start = |change: &dyn Fn(&mut TargetSpec)| {
        let mut spec = machine.spec();
        change(&mut spec);
        machine.start(spec).err().unwrap().to_string()
    };
    machine.nvmet.take_address("127.0.0.1:4499");
    let error = start(&|spec| spec.transport.trsvcid = 4499);
    assert!(error.contains("choose another trsvcid"), "{error}");
    let error = start(&|spec| spec.transport.traddr = "192.0.2.1".parse().unwrap());
    assert!(error.contains("not on this machine"), "{error}");
    let error = start(&|spec| spec.transport.trtype = nvferry_wire::trid::TrType::Rdma);
    assert!(error.contains("module"), "{error}");
    let error = start(&|spec| spec.subsystem = Nqn::new("nqn.2016-06.io.mc:a/b").unwrap());
    assert!(error.contains("subnqn="), "{error}");
    let error = start(&|spec| spec.namespaces[0].size_bytes = 4096);
    assert!(error.contains("all of it"), "{error}");
    let error = start(&|spec| spec.namespaces[0].read_only = true);
    assert!(error.contains("target_driver=userspace"), "{error}");
    machine.file.as_file().set_len((1 << 20) + 100).unwrap();
    let error = start(&|spec| spec.namespaces[0].size_bytes += 100);
    assert!(error.contains("cut off the last 100"), "{error}");
    // What nvmet really offers of it can be asked for.
    life(&machine).unwrap();
    machine.nvmet.set_fault(Some(Fault::Fail(0, Errno::ACCESS)));
    let error = machine.start(machine.spec()).err().unwrap().to_string();
    assert!(error.contains("root") && error.contains("userspace"), "{error}");
    assert_eq!(machine.nvmet.dump(""), before);
}

#[test]
fn another_program_that_is_quicker_with_a_port_id_is_outrun() {
    let machine = Machine::new();
    // The first attempt meets EEXIST as it makes the port.
    machine.nvmet.set_fault(None);
    let target = machine.start(machine.spec()).unwrap();
    let made = machine.nvmet.changes();
    target.stop(soon()).unwrap();
    for at in 0..made {
        let machine = Machine::new();
        machine.nvmet.set_fault(Some(Fault::Fail(at, Errno::EXIST)));
        if let Err(error) = life(&machine) {
            assert!(!error.to_string().contains("make ports/"), "{error}");
        }
    }
}

#[test]
fn port_zero_takes_a_free_one_and_loop_needs_none() {
    let machine = Machine::new();
    let mut spec = machine.spec();
    spec.transport.trsvcid = 0;
    let target = machine.start(spec).unwrap();
    let port = machine.nvmet.read(&format!("{}/addr_trsvcid", machine.port())).unwrap();
    assert_ne!(port, "0");
    assert_eq!(target.address().trsvcid.to_string(), port);
    drop(target);
    let mut spec = machine.spec();
    spec.transport = "trtype=loop traddr=127.0.0.1".parse().unwrap();
    let target = machine.start(spec).unwrap();
    assert_eq!(machine.nvmet.read(&format!("{}/addr_adrfam", machine.port())).unwrap(), "loop");
    drop(target);
    assert_eq!(machine.nvmet.list("ports").unwrap(), ["1"]);
}

#[test]
fn what_is_as_desired_needs_no_step_and_what_is_not_needs_few() {
    use super::observe::Observed;
    use super::plan::{PortOptions, plan};
    use super::record;
    let machine = Machine::new();
    let target = machine.start(machine.spec()).unwrap();
    let options = machine.options();
    let nqn = Nqn::new(NQN).unwrap();
    let own = record::read(&record::file_of(machine.records.path(), &nqn), &options.roots.boot_id()).unwrap();
    assert!(own.alive);
    let observed = Observed::look(&machine.nvmet, &nqn, &own, &[]).unwrap();
    assert_eq!(plan(&observed, &machine.spec(), PortOptions::default()).unwrap(), []);
    let mut spec = machine.spec();
    spec.namespaces[0].direct = true;
    spec.allowed_hosts = AllowedHosts::Any;
    let text: Vec<String> =
        plan(&observed, &spec, PortOptions::default()).unwrap().iter().map(Step::to_string).collect();
    let namespace = format!("subsystems/{NQN}/namespaces/3");
    assert_eq!(text[0], format!("unlink subsystems/{NQN}/allowed_hosts/nqn.2020-01.org.example:h0"));
    assert_eq!(text[2], format!("set    subsystems/{NQN}/attr_allow_any_host = 1"));
    assert_eq!(text[3], format!("set    {namespace}/enable = 0"));
    assert_eq!(text[7], format!("set    {namespace}/buffered_io = 0"));
    assert_eq!(text[8], format!("set    {namespace}/enable = 1"));
    assert_eq!(text.len(), 9, "{text:#?}");
    drop(target);
}

#[test]
fn status_tells_who_may_connect_as_the_kernel_has_it() {
    let machine = Machine::new();
    let (open, one, both) = ("nqn.2020-01.org.example:h0", "nqn.2020-01.org.example:h1", "nqn.2020-01.org.example:h2");
    let secret = || nvferry_auth::Secret::generate(None).unwrap();
    let mutual = HostAuth { controller_secret: Some(secret()), ..HostAuth::new(secret()) };
    let hosts = [(open, None), (one, Some(HostAuth::new(secret()))), (both, Some(mutual))];
    let mut spec = machine.spec();
    let host = |(nqn, auth): (&str, Option<HostAuth>)| AllowedHost { nqn: Nqn::new(nqn).unwrap(), auth };
    spec.allowed_hosts = AllowedHosts::Only(hosts.map(host).to_vec());
    let desired = spec.allowed_hosts.status();
    let target = machine.start(spec).unwrap();
    let told = target.status().allowed_hosts;
    assert_eq!(told, desired, "as the userspace target tells it");
    let has: Vec<_> = told.iter().flatten().map(|it| (it.has_secret, it.has_controller_secret)).collect();
    assert_eq!(has, [(false, false), (true, false), (true, true)]);
    // Somebody changes it by hand.
    machine.nvmet.unlink(&format!("subsystems/{NQN}/allowed_hosts/{one}")).unwrap();
    assert_eq!(target.status().allowed_hosts.unwrap().len(), 2);
    for host in [open, both] {
        machine.nvmet.unlink(&format!("subsystems/{NQN}/allowed_hosts/{host}")).unwrap();
    }
    assert_eq!(target.status().allowed_hosts, Some(vec![]));
    machine.nvmet.write(&format!("subsystems/{NQN}/attr_allow_any_host"), "1").unwrap();
    assert_eq!(target.status().allowed_hosts, None);
}

/// Waits for something that other threads do.
fn until(what: &str, done: impl Fn() -> bool) {
    let patience = soon();
    while !done() {
        assert!(Instant::now() < patience, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn p07_a_namespace_whose_disabling_hangs_holds_nobody_beyond_the_deadline() {
    for stop_too in [false, true] {
        let machine = Machine::new();
        let before = machine.nvmet.dump("");
        let target = machine.start(machine.spec()).unwrap();
        let namespace = format!("subsystems/{NQN}/namespaces/3");
        machine.nvmet.hold(Some(&format!("{namespace}/enable")));
        let late = |act: &dyn Fn(Instant) -> Result<(), TargetError>, words: &str| {
            let deadline = Instant::now() + Duration::from_millis(100);
            let error = act(deadline).unwrap_err().to_string();
            assert!(Instant::now() >= deadline && error.contains(words), "{error}");
        };
        late(&|deadline| target.remove_namespace(Nsid(3), deadline), "removing namespace 3");
        // It is on its way out; all others come and go.
        assert!(matches!(target.remove_namespace(Nsid(3), soon()), Err(TargetError::UnknownNamespace { .. })));
        assert!(matches!(target.add_namespace(machine.namespace()), Err(TargetError::NsidInUse { .. })));
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let other = NamespaceSpec { direct: false, ..NamespaceSpec::new(Nsid(4), file.path(), 1 << 20) };
        target.add_namespace(other).unwrap();
        assert_eq!(target.status().namespaces.len(), 2);
        target.remove_namespace(Nsid(4), soon()).unwrap();
        if stop_too {
            late(&|deadline| target.stop(deadline), "taking down");
        }
        // Once the kernel lets it go, it goes.
        machine.nvmet.hold(None);
        if stop_too {
            until("the target's end", || machine.records_left() == 0);
        } else {
            until("the namespace's end", || target.status().namespaces.is_empty());
            target.add_namespace(machine.namespace()).unwrap();
            target.stop(soon()).unwrap();
        }
        assert_eq!(machine.nvmet.dump(""), before);
        assert_eq!(machine.records_left(), 0);
    }
}
