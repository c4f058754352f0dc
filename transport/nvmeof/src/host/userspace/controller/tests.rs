//! The controller against a scripted target.

use super::ControllerEvent;
use crate::testing::admin::{AdminRig, KATO};
use crate::testing::scripted::Heard;
use nvferry_io::stream::Cut;
use nvferry_wire::admin::AdminOpcode;
use nvferry_wire::fabrics::{Cap, ConnectInvalid, Csts, Shst};
use nvferry_wire::pdu::Pdu;
use nvferry_wire::{CommandId, Cqe, Status, StatusCode};
use std::time::Duration;

fn ready(rig: &AdminRig) -> &super::Association {
    let ready = rig.events.iter().find_map(|event| match event {
        ControllerEvent::Ready(association) => Some(association),
        _ => None,
    });
    ready.expect("the controller is ready")
}

#[test]
fn everything_is_asked_for_and_obeyed() {
    let rig = AdminRig::live();
    let association = ready(&rig);
    assert_eq!(association.io_queues, 2, "as many as granted");
    assert_eq!(association.entries, 64, "CAP.MQES is the smallest limit");
    assert_eq!(association.max_transfer_bytes, 128 << 10, "MDTS of 5 pages of 4 KiB as a power of two");
    assert_eq!(association.in_capsule_bytes, 8192);
    assert_eq!((association.serial.as_str(), association.model.as_str()), ("serial", "model"));
    assert_eq!(rig.namespaces().0, [1, 2]);
    let log: Vec<_> = rig.script.log.iter().map(String::as_str).collect();
    let expected = [
        "set CC, None",
        "identify Controller 0",
        "set NumberOfQueues",
        "set AsyncEventConfig",
        "identify ActiveNamespaceList 0",
        "identify Namespace 1",
        "identify Namespace 2",
    ];
    assert_eq!(log, expected);
    assert!(rig.script.waiting_event.is_some());
}

#[test]
fn the_answers_may_come_byte_by_byte() {
    let mut rig = AdminRig::new();
    rig.connect();
    rig.stream.as_ref().unwrap().incoming().set_max_bytes_per_call(1);
    rig.stream.as_ref().unwrap().outgoing().set_max_bytes_per_call(3);
    rig.serve();
    assert!(rig.controller.is_live());
    assert_eq!(rig.namespaces().0, [1, 2]);
}

#[test]
fn limits_that_a_target_leaves_open_are_this_hosts() {
    let mut rig = AdminRig::new();
    rig.script.cap = Cap::fabrics(65_536, 1);
    rig.script.identify.mdts = 0;
    rig.script.identify.maxcmd = 0;
    rig.script.queues = 100;
    rig.connect();
    rig.serve();
    let association = ready(&rig);
    assert_eq!((association.io_queues, association.entries, association.max_transfer_bytes), (4, 128, 1 << 20));
}

#[test]
fn a_controller_that_is_slow_to_get_ready_is_waited_for_but_not_for_ever() {
    let mut rig = AdminRig::new();
    rig.script.looks_until_ready = 3;
    rig.connect();
    rig.serve();
    for _ in 0..3 {
        assert!(!rig.controller.is_live());
        rig.pass(Duration::from_millis(10)).unwrap();
        rig.serve();
    }
    assert!(rig.controller.is_live());

    let mut rig = AdminRig::new();
    rig.script.looks_until_ready = u32::MAX;
    rig.connect();
    let error = loop {
        rig.serve();
        if let Err(error) = rig.pass(Duration::from_millis(500)) {
            break error;
        }
    };
    assert!(error.to_string().contains("did not become ready"), "{error}");
    assert!(rig.controller.is_down());
}

/// Connects to a target that answers Connect so.
fn refused(cqe: impl FnOnce(Cqe) -> Cqe) -> String {
    let mut rig = AdminRig::new();
    rig.connect();
    let icreq = rig.hear().remove(0);
    rig.answer(&icreq);
    let connect = rig.hear().remove(0);
    rig.target.complete_with(cqe(Cqe::new(connect.command().unwrap().cid(), 0, StatusCode::Success)));
    rig.drive().unwrap_err().to_string()
}

#[test]
fn a_refused_connect_is_told_in_words() {
    let invalid = |what: ConnectInvalid| {
        move |cqe| Cqe {
            result: what.to_result(),
            status: Status::permanent(StatusCode::ConnectInvalidParameters),
            ..cqe
        }
    };
    let error = refused(invalid(ConnectInvalid::SUBNQN));
    assert!(error.contains("Connect Invalid Parameters") && error.contains("no subsystem of that name"), "{error}");
    let error = refused(invalid(ConnectInvalid::KATO));
    assert!(error.contains("byte 48"), "{error}");
    let error = refused(|cqe| Cqe { status: Status::permanent(StatusCode::ConnectInvalidHost), ..cqe });
    assert!(error.contains("not on the target's list of allowed hosts"), "{error}");
    // A target that wants authentication, and a host without a secret.
    let error = refused(|cqe| Cqe { result: 1 | 1 << 17, ..cqe });
    assert!(error.contains("no secret"), "{error}");
}

#[test]
fn p14_a_controller_that_fails_at_any_step_is_given_up() {
    // However many answers come, the connection may end after any of them, or nothing more may come.
    for answers in 0.. {
        for silent in [false, true] {
            let mut rig = AdminRig::new();
            rig.connect();
            let mut left = answers;
            while left > 0 {
                let heard = rig.hear();
                assert!(!heard.is_empty(), "{answers} answers are not all");
                for one in heard.iter().take(left) {
                    rig.answer(one);
                    left -= 1;
                }
            }
            rig.drive().unwrap();
            if rig.controller.is_live() {
                assert!(answers >= 10, "there is much to ask");
                return;
            }
            if silent {
                let error = rig.pass(Duration::from_secs(20)).unwrap_err();
                assert!(error.to_string().contains("in time"), "{error}");
            } else {
                rig.target.stream.outgoing().cut(Cut::Close);
                rig.drive().unwrap_err();
            }
            assert!(rig.controller.is_down() && rig.events.is_empty());
            // The next time all is well.
            rig.connect();
            rig.serve();
            assert!(rig.controller.is_live());
        }
    }
}

#[test]
fn a_fatal_status_ends_it() {
    let mut rig = AdminRig::new();
    rig.connect();
    loop {
        let one = rig.hear().remove(0);
        let is_status = one.command().is_some_and(|sqe| {
            nvferry_wire::fabrics::PropertyGet::decode(&sqe).is_ok_and(|get| sqe.fctype() == 4 && get.offset == 0x1C)
        });
        if is_status {
            let fatal = Csts::new(false, true, Shst::Normal);
            rig.target.complete_with(Cqe::success(one.command().unwrap().cid(), 0, fatal.0.into()));
            break;
        }
        rig.answer(&one);
    }
    assert!(rig.drive().unwrap_err().to_string().contains("CSTS.CFS"));
}

#[test]
fn p06_changes_of_namespaces_are_followed() {
    let mut rig = AdminRig::live();
    rig.script.log.clear();
    rig.script.namespaces.insert(7, (50, 9));
    rig.script.namespaces.remove(&1);
    rig.announce(&[1, 7]);
    rig.serve();
    assert_eq!(rig.namespaces().0, [2, 7]);
    let log: Vec<_> = rig.script.log.iter().map(String::as_str).collect();
    assert_eq!(log, ["changed namespaces", "identify ActiveNamespaceList 0", "identify Namespace 7"]);
    assert!(rig.script.waiting_event.is_some(), "the next event can come");
}

#[test]
fn p06_asking_again_finds_what_no_event_told_of() {
    let mut rig = AdminRig::live();
    rig.script.namespaces.insert(3, (50, 9));
    let ticket = rig.controller.rescan(rig.now);
    rig.serve();
    let (namespaces, answered) = rig.namespaces();
    assert_eq!(namespaces, [1, 2, 3]);
    assert!(answered >= ticket);
}

#[test]
fn keep_alive_goes_out_and_its_absence_is_noticed() {
    let mut rig = AdminRig::live();
    rig.script.log.clear();
    for _ in 0..5 {
        assert_eq!(rig.controller.next_timer(), Some(rig.now + KATO / 2));
        rig.pass(KATO / 2).unwrap();
        rig.serve();
    }
    assert_eq!(rig.script.log, ["keep alive"; 5]);
    // The target falls silent.
    rig.pass(KATO / 2).unwrap();
    let error = rig.pass(KATO).unwrap_err();
    assert!(error.to_string().contains("KeepAlive was not answered"), "{error}");
    assert!(rig.controller.is_down());
}

#[test]
fn shutting_down_is_asked_for_and_waited_for() {
    let mut rig = AdminRig::live();
    rig.script.log.clear();
    rig.controller.shut_down(rig.now);
    rig.serve();
    assert_eq!(rig.script.log, ["set CC, Normal"]);
    assert_eq!(rig.events.last(), Some(&ControllerEvent::ShutDown));
}

#[test]
fn a_controller_without_a_connection_is_shut_down_at_once() {
    let mut rig = AdminRig::new();
    rig.controller.shut_down(rig.now);
    assert_eq!(rig.controller.take_events(), [ControllerEvent::ShutDown]);
}

#[test]
fn p14_noise_ends_the_connection_and_nothing_else() {
    let mut random = crate::testing::random("noise");
    for _ in 0..300 {
        let mut rig = AdminRig::live();
        let mut noise = vec![0; 1 + random.below(300) as usize];
        random.fill(&mut noise);
        // Half of the time it begins like a PDU.
        if random.below(2) == 0 {
            noise.splice(..0, [5, 0, 24, 0, 24, 0, 0, 0]);
        }
        rig.target.say_raw(&noise);
        let _ = rig.drive();
        let _ = rig.pass(Duration::from_secs(30));
        assert!(rig.controller.is_down() || noise.len() < 24);
    }
}

#[test]
fn it_says_who_it_is() {
    let mut rig = AdminRig::new();
    rig.connect();
    let icreq = rig.hear().remove(0);
    assert!(matches!(icreq.pdu, Pdu::IcReq(_)));
    rig.answer(&icreq);
    let connect = rig.hear().remove(0);
    let command = nvferry_wire::fabrics::Connect::decode(&connect.command().unwrap()).unwrap();
    assert_eq!((command.qid.0, command.kato_ms), (0, KATO.as_millis() as u32));
}

/// A target that sends events without end, and answers nothing else: the host has one list of changes under way, and ends
/// the connection when that is not answered.
#[test]
fn p14_a_flood_of_events_leads_to_one_command() {
    let mut rig = AdminRig::live();
    let mut lists = Vec::new();
    for _ in 0..100 {
        let cid = rig.script.waiting_event.take().expect("the host waits for events");
        let event = nvferry_wire::async_event::AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
        rig.target.complete_with(Cqe::success(cid, 0, event.to_dword().into()));
        for one in rig.hear() {
            let opcode = one.command().and_then(|sqe| AdminOpcode::from_u8(sqe.opcode()));
            match opcode {
                Some(AdminOpcode::AsyncEventRequest) => rig.answer(&one),
                Some(AdminOpcode::GetLogPage) => lists.push(one),
                _ => panic!("{one:?}"),
            }
        }
    }
    assert_eq!(lists.len(), 1);
    // Once it is answered, it is asked for again, as there was more to tell.
    rig.answer(&lists[0]);
    let again = rig.hear();
    let asks =
        |one: &Heard| one.command().and_then(|sqe| AdminOpcode::from_u8(sqe.opcode())) == Some(AdminOpcode::GetLogPage);
    assert_eq!(again.iter().filter(|one| asks(one)).count(), 1, "{again:?}");
    again.iter().for_each(|one| rig.answer(one));
    rig.serve();
    assert!(rig.controller.is_live());
}

/// A target may know which identifiers the host will use next, and answer before it is asked. It is listened to in turns,
/// and what the host has to say leaves between them.
#[test]
fn p14_answers_sent_ahead_are_taken_in_turns() {
    const AHEAD: u16 = 50;
    let mut rig = AdminRig::live();
    let first = rig.script.waiting_event.take().expect("the host waits for events");
    // The slot's number is five bits for 31 commands; what is above counts its uses.
    for at in 0..AHEAD {
        rig.target.complete_with(Cqe::success(CommandId(first.0 + (at << 5)), 0, 0));
    }
    rig.target.stream.outgoing().set_max_bytes_per_call(24);
    let mut turns = 0;
    loop {
        let stream = rig.stream.as_mut().unwrap();
        let readable = stream.readable();
        let more = rig.controller.drive(stream, rig.now, readable).unwrap();
        if !more {
            break;
        }
        turns += 1;
        assert_eq!(rig.target.hear().len(), 1, "turn {turns}: an event was told, and the next is waited for");
    }
    assert_eq!(turns, AHEAD);
}
