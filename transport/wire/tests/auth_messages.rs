//! P14: authentication messages of any bytes, and every message through its bytes and back.

#![allow(clippy::unwrap_used)]

use nvferry_wire::auth::*;
use proptest::prelude::*;

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), len)
}

fn message() -> impl Strategy<Value = AuthMessage> {
    let list = proptest::collection::vec(any::<u8>(), 0..=30);
    let negotiate =
        (any::<u16>(), any::<u8>(), list.clone(), list).prop_map(|(transaction, secure_channel, hashes, groups)| {
            AuthMessage::Negotiate(Negotiate { transaction, secure_channel, dhchap: true, hashes, groups })
        });
    let parts = (any::<u16>(), any::<u32>(), 0..3_usize, 0..6_usize, any::<bool>(), bytes(64), bytes(1024));
    let others = (parts, 0..6_u8).prop_map(|((transaction, sequence, hash, group, with, hashed, dh), kind)| {
        let (hash, group) = (AuthHash::ALL[hash], DhGroup::ALL[group]);
        let value = hashed[..hash.len_bytes()].to_vec();
        let dh_value = dh[..group.len_bytes()].to_vec();
        let challenge = with.then(|| value.clone());
        match kind {
            0 => AuthMessage::Challenge(Challenge { transaction, hash, group, sequence, challenge: value, dh_value }),
            1 => AuthMessage::Reply(Reply { transaction, sequence, response: value, challenge, dh_value }),
            2 => {
                AuthMessage::Success1(Success1 { transaction, hash_bytes: hash.len_bytes() as u8, response: challenge })
            }
            3 => AuthMessage::Success2(transaction),
            4 => AuthMessage::Failure1(Failure { transaction, reason: FailureReason::IncorrectPayload }),
            _ => AuthMessage::Failure2(Failure { transaction, reason: FailureReason::AuthenticationFailed }),
        }
    });
    prop_oneof![negotiate, others]
}

proptest! {
    #[test]
    fn every_message_comes_back_also_out_of_a_longer_buffer(message in message(), padding in 0..100_usize) {
        let mut encoded = message.encode();
        prop_assert!(encoded.len() <= MAX_MESSAGE_BYTES);
        encoded.resize(encoded.len() + padding, 0);
        prop_assert_eq!(AuthMessage::decode(&encoded), Ok(message));
    }

    #[test]
    fn p14_messages_cut_or_changed_anywhere_do_no_harm(message in message(), cut in any::<prop::sample::Index>(), change in any::<u8>()) {
        let mut encoded = message.encode();
        let at = cut.index(encoded.len());
        prop_assert!(AuthMessage::decode(&encoded[..at]).is_err() || at >= 16);
        encoded[at] ^= change;
        if let Ok(message) = AuthMessage::decode(&encoded) {
            prop_assert!(message.encode().len() <= MAX_MESSAGE_BYTES);
        }
    }
}
