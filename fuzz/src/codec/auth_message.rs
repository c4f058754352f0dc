//! Authentication commands and messages of arbitrary bytes: decoded without panic, and encoded to what means the same.

use nvferry_wire::Sqe;
use nvferry_wire::auth::{AuthMessage, AuthReceive, AuthSend, MAX_MESSAGE_BYTES};

/// One input.
pub(crate) fn run(input: &[u8]) {
    match AuthMessage::decode(input) {
        Ok(message) => {
            let bytes = message.encode();
            assert!(bytes.len() <= MAX_MESSAGE_BYTES);
            assert_eq!(AuthMessage::decode(&bytes), Ok(message));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let Some(command) = input.first_chunk() else { return };
    let sqe = Sqe::from_bytes(*command);
    if let Ok(send) = AuthSend::decode(&sqe) {
        assert_eq!(AuthSend::decode(&send.sqe(sqe.cid())), Ok(send));
    }
    if let Ok(receive) = AuthReceive::decode(&sqe) {
        assert_eq!(AuthReceive::decode(&receive.sqe(sqe.cid())), Ok(receive));
    }
}
