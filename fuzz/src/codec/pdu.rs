//! A stream of PDUs as an untrusted peer may send it: taken apart under the rules of a connection. Nothing may
//! panic, lengths must add up, and a header that is accepted means the same when it is encoded again.

use nvferry_wire::digest::Crc32c;
use nvferry_wire::pdu::*;

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((&[setup, pda, limit], mut stream)) = input.split_first_chunk() else { return };
    let receiver = if setup & 1 == 0 { Role::Controller } else { Role::Host };
    let framing = Framing {
        digests: Digests::from_wire(setup >> 1),
        alignment: DataAlignment::from_wire(pda).unwrap_or_default(),
    };
    let limit_bytes = u32::from(limit) * 16;
    let rules = PduRules { receiver, framing, max_capsule_data_bytes: limit_bytes, max_data_bytes: limit_bytes };

    while let Some(first) = stream.first_chunk() {
        let common = match CommonHeader::decode(first, &rules) {
            Ok(common) => common,
            Err(error) => return refuse(&error, stream, receiver),
        };
        let layout = common.layout();
        assert_eq!(layout.total_bytes(), common.plen);
        assert!(layout.data_offset() <= MAX_HEADER_BYTES);
        assert!(layout.data_bytes <= limit_bytes.max(TERM_REQ_MAX_DATA_LEN as u32));
        let Some((pdu, rest)) = stream.split_at_checked(common.plen as usize) else { return };
        if setup & 0x80 == 0 {
            // Digests are checked in half of the runs, for a fuzzer seldom makes a right one.
            if let Err(error) = layout.check_header_digest(pdu) {
                return refuse(&error, pdu, receiver);
            }
            let mut digest = Crc32c::new();
            let data = &pdu[layout.data_offset()..][..layout.data_bytes as usize];
            data.chunks(7).for_each(|piece| digest.update(piece));
            if layout.data_digest_bytes > 0 && pdu[pdu.len() - 4..] != digest.to_bytes() {
                return;
            }
        }
        match Pdu::decode(&common, pdu) {
            Ok(decoded) => encode_again(decoded, &common, &rules),
            Err(error) => return refuse(&error, pdu, receiver),
        }
        stream = rest;
    }
}

/// What a receiver does then: tell the peer, quoting its header. The peer must be able to read that.
fn refuse(error: &PduError, pdu: &[u8], receiver: Role) {
    assert!(!error.to_string().is_empty());
    let term = TermReq::for_error(error);
    let mut out = [0; TERM_REQ_MAX_LEN];
    let len = term.encode(receiver, pdu, &mut out);
    let peer = if receiver == Role::Host { Role::Controller } else { Role::Host };
    let first = out.first_chunk().expect("a constant length");
    let common = CommonHeader::decode(first, &PduRules::initial(peer)).expect("our own PDU");
    assert_eq!(common.plen as usize, len);
    let decoded = Pdu::decode(&common, &out).expect("our own PDU");
    assert!(matches!(decoded, Pdu::H2cTermReq(t) | Pdu::C2hTermReq(t) if t == term));
}

fn encode_again(pdu: Pdu, common: &CommonHeader, rules: &PduRules) {
    let mut out = [0xA5; MAX_HEADER_BYTES];
    let framing = &rules.framing;
    let len = match pdu {
        Pdu::IcReq(ic) if ic.maxr2t == u32::MAX => return, // 2^32 cannot be told, and is read as one less
        Pdu::IcReq(ic) => ic.encode(&mut out),
        Pdu::IcResp(ic) => ic.encode(&mut out),
        Pdu::H2cTermReq(_) | Pdu::C2hTermReq(_) => return,
        Pdu::CapsuleCmd(capsule) => capsule.encode(framing, &mut out),
        Pdu::CapsuleResp(capsule) => capsule.encode(framing, &mut out),
        Pdu::H2cData(data) => data.encode_h2c(framing, &mut out),
        Pdu::C2hData(data) => data.encode_c2h(framing, &mut out),
        Pdu::R2t(r2t) => r2t.encode(framing, &mut out),
    };
    let first = out.first_chunk().expect("a constant length");
    let again = CommonHeader::decode(first, rules).expect("our own PDU");
    let layout = again.layout();
    assert_eq!(layout.data_offset(), len);
    assert_eq!(layout.data_bytes, common.layout().data_bytes);
    layout.check_header_digest(&out[..len]).expect("our own digest");
    let decoded = Pdu::decode(&again, &out[..len]).expect("our own PDU");
    match (decoded, pdu) {
        // The transfer tag of C2HData is reserved, and not repeated.
        (Pdu::C2hData(a), Pdu::C2hData(b)) => assert_eq!(a, DataPdu { ttag: a.ttag, ..b }),
        (decoded, pdu) => assert_eq!(decoded, pdu),
    }
}
