//! A conversation as a list of PDUs: built with the encoders, compared with a file, taken apart with the decoders.

#![allow(unreachable_pub)]

use std::fmt::Write as _;

use nvferry_wire::digest::Crc32c;
use nvferry_wire::pdu::*;
use nvferry_wire::*;

/// One side's PDU, as it goes over the wire.
pub struct Line {
    pub name: &'static str,
    pub sender: Role,
    pub bytes: Vec<u8>,
}

/// Collects a conversation.
pub struct Conversation {
    pub framing: Framing,
    pub lines: Vec<Line>,
}

impl Conversation {
    pub fn new(framing: Framing) -> Self {
        Self { framing, lines: Vec::new() }
    }

    pub fn push(
        &mut self,
        name: &'static str,
        sender: Role,
        data: &[u8],
        encode: impl Fn(&Framing, &mut [u8; MAX_HEADER_BYTES]) -> usize,
    ) {
        // Whatever the buffer held before must not show.
        let mut header = [0xA5; MAX_HEADER_BYTES];
        let len = encode(&self.framing, &mut header);
        let mut bytes = header[..len].to_vec();
        bytes.extend_from_slice(data);
        if !data.is_empty() && self.framing.digests.data {
            let mut digest = Crc32c::new();
            data.chunks(100).for_each(|piece| digest.update(piece));
            bytes.extend_from_slice(&digest.to_bytes());
        }
        self.lines.push(Line { name, sender, bytes });
    }

    pub fn command(&mut self, name: &'static str, sqe: Sqe, data: &[u8]) {
        let capsule = CapsuleCmd { sqe, data_bytes: data.len() as u32 };
        self.push(name, Role::Host, data, |framing, out| capsule.encode(framing, out));
    }

    pub fn response(&mut self, name: &'static str, cqe: Cqe) {
        self.push(name, Role::Controller, &[], |framing, out| CapsuleResp { cqe }.encode(framing, out));
    }

    pub fn c2h_data(&mut self, name: &'static str, cid: u16, offset: u32, data: &[u8], end: DataEnd) {
        let pdu =
            DataPdu { cccid: CommandId(cid), ttag: TransferTag(0xFFFF), datao: offset, datal: data.len() as u32, end };
        self.push(name, Role::Controller, data, |framing, out| pdu.encode_c2h(framing, out));
    }

    pub fn h2c_data(&mut self, name: &'static str, cid: u16, ttag: u16, offset: u32, data: &[u8], end: DataEnd) {
        let pdu =
            DataPdu { cccid: CommandId(cid), ttag: TransferTag(ttag), datao: offset, datal: data.len() as u32, end };
        self.push(name, Role::Host, data, |framing, out| pdu.encode_h2c(framing, out));
    }

    pub fn initialize(&mut self, digests: Digests, hpda: DataAlignment, cpda: DataAlignment) {
        let request = IcReq { pfv: PFV_1_0, hpda, digests, maxr2t: 4 };
        let response = IcResp { pfv: PFV_1_0, cpda, digests, maxh2cdata: 0x2_0000 };
        self.push("ICReq", Role::Host, &[], |_, out| request.encode(out));
        self.push("ICResp", Role::Controller, &[], |_, out| response.encode(out));
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let sender = if line.sender == Role::Host { "host" } else { "controller" };
            writeln!(text, "{} | {sender} | {}", line.name, to_hex(&line.bytes)).unwrap();
        }
        text
    }
}

/// Hexadecimal in groups of 8 bytes, with runs of zeros shortened.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut words = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let zeros = rest.iter().take_while(|&&b| b == 0).count();
        if zeros >= 8 {
            words.push(format!("00*{zeros}"));
            rest = &rest[zeros..];
            continue;
        }
        let (word, after) = rest.split_at(rest.len().min(8));
        words.push(word.iter().map(|b| format!("{b:02x}")).collect());
        rest = after;
    }
    words.join(" ")
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        if let Some(zeros) = word.strip_prefix("00*") {
            bytes.resize(bytes.len() + zeros.parse::<usize>().unwrap(), 0);
        } else {
            bytes.extend((0..word.len()).step_by(2).map(|i| u8::from_str_radix(&word[i..i + 2], 16).unwrap()));
        }
    }
    bytes
}

/// Compares a conversation with its file, and shows the first PDU that differs.
pub fn check(conversation: &Conversation, file: &str, golden: &str) {
    if std::env::var_os("NVFERRY_WRITE_GOLDEN").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
        std::fs::write(path, conversation.to_text()).unwrap();
        return;
    }
    let golden: Vec<&str> = golden.lines().collect();
    assert_eq!(golden.len(), conversation.lines.len(), "{file} has another number of PDUs");
    for (line, ours) in golden.iter().zip(&conversation.lines) {
        let mut parts = line.split(" | ");
        assert_eq!(parts.next(), Some(ours.name), "in {file}");
        parts.next();
        let theirs = from_hex(parts.next().unwrap());
        assert_eq!(to_hex(&theirs), to_hex(&ours.bytes), "{} in {file}", ours.name);
    }
}

/// Takes a conversation apart again, each PDU as its receiver does, and returns the headers.
pub fn decode_all(conversation: &Conversation, framing_to: impl Fn(Role) -> Framing) -> Vec<Pdu> {
    let mut pdus = Vec::new();
    for line in &conversation.lines {
        let receiver = if line.sender == Role::Host { Role::Controller } else { Role::Host };
        let rules = PduRules {
            receiver,
            framing: framing_to(receiver),
            max_capsule_data_bytes: 8192,
            max_data_bytes: 0x2_0000,
        };
        let common = CommonHeader::decode(line.bytes.first_chunk().unwrap(), &rules).unwrap();
        let layout = common.layout();
        assert_eq!(layout.total_bytes() as usize, line.bytes.len(), "{}", line.name);
        layout.check_header_digest(&line.bytes).unwrap();
        let data_end = layout.data_offset() + layout.data_bytes as usize;
        if layout.data_digest_bytes > 0 {
            let mut digest = Crc32c::new();
            digest.update(&line.bytes[layout.data_offset()..data_end]);
            assert_eq!(line.bytes[data_end..], digest.to_bytes(), "{}", line.name);
        }
        pdus.push(Pdu::decode(&common, &line.bytes).unwrap());
    }
    pdus
}
