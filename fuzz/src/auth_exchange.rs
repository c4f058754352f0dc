//! DH-HMAC-CHAP between a host and a controller of which one, or both, are told something else than the other said.
//!
//! A side that does not know the secret never proves anything, whatever is said.

use crate::input::Input;
use crate::target::{HOST, SECRET, SUBSYSTEM};
use nvferry_auth::{AuthHash, ControllerExchange, ControllerTerms, DhGroup, HostExchange, HostTerms, Secret, Standing};
use nvferry_wire::Nqn;
use nvferry_wire::auth::MAX_MESSAGE_BYTES;

/// The message as the input changes it, and whether it was changed.
fn spoilt(message: &[u8], input: &mut Input<'_>) -> (Vec<u8>, bool) {
    let mut bytes = message.to_vec();
    match input.u8() % 6 {
        0 => {
            let at = usize::from(input.u16()) % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= input.u8();
            }
        }
        1 => bytes.truncate(usize::from(input.u16()) % (bytes.len() + 1)),
        2 => bytes.extend_from_slice(input.chunk()),
        3 => bytes = input.chunk().to_vec(),
        _ => {}
    }
    let changed = bytes != message;
    (bytes, changed)
}

/// One exchange, from an input.
pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let setup = input.u8();
    let secret = |byte| Secret::from_key(&[byte; 32], None).unwrap();
    let name = |name| Nqn::new(name).unwrap();
    let (knows, mutual) = (setup & 1 == 0, setup & 2 != 0);
    let controller_secret = mutual.then(|| secret(9));
    let terms = ControllerTerms {
        host: name(HOST),
        subsystem: name(SUBSYSTEM),
        secret: secret(SECRET[0]),
        controller_secret: controller_secret.clone(),
        hash: AuthHash::ALL[usize::from(setup >> 2 & 3) % AuthHash::ALL.len()],
        // The largest power that a fuzzer has the patience for.
        group: if setup & 0x70 == 0x70 { DhGroup::Ffdhe2048 } else { DhGroup::Null },
    };
    let mut controller = ControllerExchange::new(terms);
    let host_terms = HostTerms {
        host: name(HOST),
        subsystem: name(SUBSYSTEM),
        secret: secret(if knows { SECRET[0] } else { SECRET[0] ^ 1 }),
        controller_secret,
    };
    let (mut host, mut said) = HostExchange::begin(host_terms, input.u16());
    let (mut is_spoilt, mut is_over) = (false, false);
    for round in 0..6 {
        let (message, changed) = spoilt(&said, &mut input);
        is_spoilt |= changed;
        controller.take(&message);
        assert!(knows || controller.standing() != Standing::Proved, "proved without the secret");
        if is_over {
            break;
        }
        let given = controller.give().unwrap_or_default();
        assert!(given.len() <= MAX_MESSAGE_BYTES);
        let (given, changed) = spoilt(&given, &mut input);
        is_spoilt |= changed;
        // In its order, and now and then out of it.
        let order = if input.u8() & 15 == 15 { round + 1 } else { round };
        let next = if order % 2 == 0 { host.challenged(&given).map(Some) } else { host.concluded(&given) };
        is_spoilt |= order != round;
        said = match next {
            Ok(Some(message)) => {
                is_over = order % 2 == 1;
                message
            }
            Ok(None) => break,
            Err(failure) => {
                assert!(!failure.why.to_string().is_empty());
                assert!(is_spoilt || !knows, "an exchange that nobody disturbed failed: {}", failure.why);
                failure.message.unwrap_or_default()
            }
        };
        assert!(said.len() <= MAX_MESSAGE_BYTES);
    }
    assert!(
        is_spoilt || !knows || controller.standing() == Standing::Proved,
        "nobody disturbed it, and it did not end"
    );
}
