//! Transport ids and NQNs of arbitrary bytes: accepted ones are written as they are read, refused ones say why.

use nvferry_wire::nqn::NQN_FIELD_LEN;
use nvferry_wire::{Nqn, TransportId};

/// One input.
pub(crate) fn run(input: &[u8]) {
    let mut field = [0; NQN_FIELD_LEN];
    let len = input.len().min(NQN_FIELD_LEN);
    field[..len].copy_from_slice(&input[..len]);
    match Nqn::from_wire(&field) {
        Ok(nqn) => assert_eq!(Nqn::from_wire(&nqn.to_wire()), Ok(nqn)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }

    let Ok(text) = str::from_utf8(input) else { return };
    match Nqn::new(text) {
        Ok(nqn) => {
            assert_eq!(nqn.as_str(), text);
            assert_eq!(Nqn::from_wire(&nqn.to_wire()), Ok(nqn));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match text.parse::<TransportId>() {
        Ok(trid) => assert_eq!(trid.to_string().parse(), Ok(trid)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
