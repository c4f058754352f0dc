//! Both sides against each other, and each against a peer that misbehaves.

use crate::*;
use nvferry_wire::Nqn;
use nvferry_wire::auth::{AuthMessage, FailureReason};

fn nqn(name: &str) -> Nqn {
    Nqn::new(format!("nqn.2020-01.org.example:{name}")).unwrap()
}

fn terms(hash: AuthHash, group: DhGroup, mutual: bool) -> (ControllerTerms, HostTerms) {
    let secret = Secret::generate(Some(hash)).unwrap();
    let controller_secret = mutual.then(|| Secret::generate(None).unwrap());
    let (host, subsystem) = (nqn("host"), nqn("target"));
    let controller = ControllerTerms {
        host: host.clone(),
        subsystem: subsystem.clone(),
        secret: secret.clone(),
        controller_secret: controller_secret.clone(),
        hash,
        group,
    };
    (controller, HostTerms { host, subsystem, secret, controller_secret })
}

/// A whole exchange: how it stands for the controller, and for the host.
fn run(controller: ControllerTerms, host: HostTerms) -> (Standing, Result<(), HostAuthError>) {
    let mut controller = ControllerExchange::new(controller);
    let (mut host, negotiate) = HostExchange::begin(host, 7);
    controller.take(&negotiate);
    let mut run = || -> Result<(), HostFailure> {
        let reply = host.challenged(&controller.give().unwrap())?;
        controller.take(&reply);
        if let Some(success2) = host.concluded(&controller.give().unwrap())? {
            controller.take(&success2);
        }
        Ok(())
    };
    let ended = run().map_err(|HostFailure { message, why }| {
        message.iter().for_each(|message| controller.take(message));
        why
    });
    (controller.standing(), ended)
}

#[test]
fn p13_every_hash_and_group_works_with_and_without_a_controller_secret() {
    for hash in AuthHash::ALL {
        for group in DhGroup::ALL {
            for mutual in [false, true] {
                let (controller, host) = terms(hash, group, mutual);
                assert_eq!(run(controller, host), (Standing::Proved, Ok(())), "{hash:?} {group:?} {mutual}");
            }
        }
    }
}

#[test]
fn p13_a_wrong_secret_is_found_by_either_side() {
    for group in [DhGroup::Null, DhGroup::Ffdhe2048] {
        let (controller, mut host) = terms(AuthHash::Sha256, group, true);
        host.secret = Secret::generate(None).unwrap();
        let (standing, ended) = run(controller, host);
        assert_eq!(ended, Err(HostAuthError::WrongSecret { is_mutual: true }));
        assert_eq!(standing, Standing::Failed("it does not know the secret that is set for it"));

        let (controller, mut host) = terms(AuthHash::Sha256, group, true);
        host.controller_secret = Some(Secret::generate(None).unwrap());
        let (standing, ended) = run(controller, host);
        assert_eq!(ended, Err(HostAuthError::TargetUnproved("its response is wrong")));
        assert!(matches!(standing, Standing::Failed(why) if why.contains("did not believe this target's own proof")));

        let (mut controller, host) = terms(AuthHash::Sha256, group, true);
        controller.controller_secret = None;
        let (standing, ended) = run(controller, host);
        assert_eq!(ended, Err(HostAuthError::WrongSecret { is_mutual: true }));
        assert!(matches!(standing, Standing::Failed(why) if why.contains("no controller secret is set for it")));
    }
}

#[test]
fn p13_a_secret_that_is_bound_to_a_name_proves_no_other() {
    let (mut controller, host) = terms(AuthHash::Sha256, DhGroup::Null, false);
    controller.host = nqn("other");
    assert_eq!(run(controller, host).1, Err(HostAuthError::WrongSecret { is_mutual: false }));
}

/// A controller that was driven with `bytes` after `steps` messages of an honest host: why it refuses.
fn refusal(group: DhGroup, steps: usize, change: impl Fn(&mut AuthMessage)) -> (FailureReason, Standing) {
    let (controller, host) = terms(AuthHash::Sha256, group, true);
    let mut controller = ControllerExchange::new(controller);
    let (mut host, mut message) = HostExchange::begin(host, 7);
    for step in 0..=steps {
        if step == 1 {
            message = host.challenged(&controller.give().unwrap()).unwrap();
        } else if step == 2 {
            message = host.concluded(&controller.give().unwrap()).unwrap().unwrap();
        }
        if step == steps {
            let mut changed = AuthMessage::decode(&message).unwrap();
            change(&mut changed);
            controller.take(&changed.encode());
        } else {
            controller.take(&message);
        }
    }
    assert_eq!(controller.standing(), Standing::Open, "the host has yet to be told");
    let AuthMessage::Failure1(failure) = AuthMessage::decode(&controller.give().unwrap()).unwrap() else {
        panic!("no failure");
    };
    assert_eq!(controller.give(), None);
    (failure.reason, controller.standing())
}

#[test]
fn p13_a_host_that_misbehaves_is_refused_with_the_reason() {
    use FailureReason::*;
    let null = DhGroup::Null;
    let negotiated = |change: fn(&mut nvferry_wire::auth::Negotiate)| {
        refusal(null, 0, move |message| {
            let AuthMessage::Negotiate(it) = message else { panic!("{message:?}") };
            change(it);
        })
        .0
    };
    assert_eq!(negotiated(|it| it.secure_channel = 1), SecureChannelMismatch);
    assert_eq!(negotiated(|it| it.dhchap = false), ProtocolNotUsable);
    assert_eq!(negotiated(|it| it.hashes = vec![0, 4, 0xFF]), HashNotUsable);
    assert_eq!(negotiated(|it| it.groups = vec![6, 0xFF]), GroupNotUsable);
    let replied = |group, change: fn(&mut nvferry_wire::auth::Reply)| {
        refusal(group, 1, move |message| {
            let AuthMessage::Reply(it) = message else { panic!("{message:?}") };
            change(it);
        })
        .0
    };
    assert_eq!(replied(null, |it| it.transaction += 1), IncorrectPayload);
    assert_eq!(replied(null, |it| it.response[0] ^= 1), AuthenticationFailed);
    assert_eq!(replied(null, |it| it.dh_value = vec![2; 256]), IncorrectPayload);
    assert_eq!(
        replied(null, |it| {
            it.response = vec![0; 48];
            it.challenge = None;
        }),
        IncorrectPayload
    );
    let group = DhGroup::Ffdhe2048;
    assert_eq!(replied(group, |it| it.dh_value = Vec::new()), IncorrectPayload);
    assert_eq!(replied(group, |it| it.dh_value = vec![0; 256]), IncorrectPayload);
    assert_eq!(replied(group, |it| it.dh_value = [vec![0; 255], vec![1]].concat()), IncorrectPayload);
    assert_eq!(replied(group, |it| it.dh_value = vec![0xFF; 256]), IncorrectPayload);
    assert_eq!(replied(group, |it| it.dh_value[255] ^= 1), AuthenticationFailed);
    // Wrong order.
    for steps in 0..3 {
        let (reason, standing) = refusal(null, steps, |message| {
            *message = match message {
                AuthMessage::Negotiate(_) => AuthMessage::Success2(7),
                _ => AuthMessage::Challenge(nvferry_wire::auth::Challenge {
                    transaction: 7,
                    hash: AuthHash::Sha256,
                    group: DhGroup::Null,
                    sequence: 1,
                    challenge: vec![0; 32],
                    dh_value: Vec::new(),
                }),
            }
        });
        assert_eq!(reason, IncorrectMessage);
        assert_eq!(standing, Standing::Failed("it sent a message that was not the next"));
    }
}

#[test]
fn p13_what_was_recorded_once_proves_nothing_again() {
    let (controller, host) = terms(AuthHash::Sha256, DhGroup::Null, false);
    let (mut honest, negotiate) = HostExchange::begin(host, 7);
    let mut first = ControllerExchange::new(controller.clone());
    first.take(&negotiate);
    let reply = honest.challenged(&first.give().unwrap()).unwrap();
    first.take(&reply);
    first.give();
    assert_eq!(first.standing(), Standing::Proved);

    let mut second = ControllerExchange::new(controller);
    second.take(&negotiate);
    second.give();
    second.take(&reply);
    second.give();
    assert_eq!(second.standing(), Standing::Failed("it does not know the secret that is set for it"));
}

#[test]
fn p13_nothing_mends_an_exchange_that_failed_and_no_reply_comes_before_its_challenge() {
    let (controller, host) = terms(AuthHash::Sha256, DhGroup::Null, false);
    let (_, negotiate) = HostExchange::begin(host, 7);
    let mut exchange = ControllerExchange::new(controller);
    assert_eq!(exchange.give(), None);
    exchange.take(&negotiate);
    // The challenge was not fetched.
    exchange.take(&negotiate);
    exchange.take(&negotiate);
    assert!(matches!(AuthMessage::decode(&exchange.give().unwrap()), Ok(AuthMessage::Failure1(_))));
    exchange.take(&negotiate);
    assert_eq!(exchange.give(), None);
    assert!(matches!(exchange.standing(), Standing::Failed(_)));
}

#[test]
fn a_host_that_has_proved_itself_may_do_so_again() {
    let (controller, host) = terms(AuthHash::Sha512, DhGroup::Null, true);
    let mut exchange = ControllerExchange::new(controller);
    for transaction in [1, 2] {
        let (mut host, negotiate) = HostExchange::begin(host.clone(), transaction);
        exchange.take(&negotiate);
        let reply = host.challenged(&exchange.give().unwrap()).unwrap();
        exchange.take(&reply);
        let success2 = host.concluded(&exchange.give().unwrap()).unwrap().unwrap();
        exchange.take(&success2);
        assert_eq!(exchange.standing(), Standing::Proved);
    }
}

#[test]
fn p13_a_target_that_misbehaves_is_left() {
    let (controller, host) = terms(AuthHash::Sha256, DhGroup::Ffdhe2048, true);
    let mut controller = ControllerExchange::new(controller);
    let (mut honest, negotiate) = HostExchange::begin(host.clone(), 7);
    controller.take(&negotiate);
    let challenge = controller.give().unwrap();
    for (wrong, needle) in [
        (&challenge[..20], "cannot be read"),
        (&AuthMessage::Success2(7).encode(), "not the next"),
        (&[&challenge[..4], &[8], &challenge[5..]].concat(), "transaction identifier"),
        (&[&challenge[..48], &[0; 256]].concat(), "DH value"),
        (&[&challenge[..8], &[9], &challenge[9..]].concat(), "cannot be read"),
    ] {
        let (mut host, _) = HostExchange::begin(host.clone(), 7);
        let failure = host.challenged(wrong).unwrap_err();
        assert!(failure.why.to_string().contains(needle), "{}", failure.why);
        assert!(matches!(AuthMessage::decode(&failure.message.unwrap()), Ok(AuthMessage::Failure2(_))));
    }
    // Success without the proof that was asked for.
    honest.challenged(&challenge).unwrap();
    let success = nvferry_wire::auth::Success1 { transaction: 7, hash_bytes: 32, response: None };
    let failure = honest.concluded(&AuthMessage::Success1(success).encode()).unwrap_err();
    assert_eq!(failure.why, HostAuthError::TargetUnproved("it sent no response"));
}
