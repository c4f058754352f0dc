//! The header says what the code does: each constant has the code's value, each function the code's signature.
#![allow(clippy::unwrap_used)]

use nvferry_engine::{ErrorKind, TransferState};
use std::collections::BTreeMap;
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn constants_have_the_values_of_the_code() {
    let header = read("include/nvferry.h");
    let stated: BTreeMap<&str, i32> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.strip_suffix(')')?.split_once(" ("))
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect();
    let state = |name, state: TransferState| (name, state as i32);
    let error = |name, kind: ErrorKind| (name, kind as i32);
    let meant = BTreeMap::from([
        // What these three mean is tested by what tests/c/details.c does with them.
        ("OPCODE_READ", 0),
        ("OPCODE_WRITE", 1),
        ("LOCAL_SEGMENT", 0),
        state("STATUS_WAITING", TransferState::Waiting),
        state("STATUS_PENDING", TransferState::Pending),
        state("STATUS_INVALID", TransferState::Invalid),
        state("STATUS_CANCELED", TransferState::Canceled),
        state("STATUS_COMPLETED", TransferState::Completed),
        state("STATUS_TIMEOUT", TransferState::Timeout),
        state("STATUS_FAILED", TransferState::Failed),
        error("NVFERRY_INVALID_ARGUMENT", ErrorKind::InvalidArgument),
        error("NVFERRY_TOO_MANY_REQUESTS", ErrorKind::TooManyRequests),
        error("NVFERRY_ADDRESS_NOT_REGISTERED", ErrorKind::AddressNotRegistered),
        error("NVFERRY_BATCH_BUSY", ErrorKind::BatchBusy),
        error("NVFERRY_DEVICE_NOT_FOUND", ErrorKind::DeviceNotFound),
        error("NVFERRY_ADDRESS_OVERLAPPED", ErrorKind::AddressOverlapped),
        error("NVFERRY_DNS", ErrorKind::Dns),
        error("NVFERRY_SOCKET", ErrorKind::Socket),
        error("NVFERRY_MALFORMED_JSON", ErrorKind::MalformedJson),
        error("NVFERRY_REJECT_HANDSHAKE", ErrorKind::RejectHandshake),
        error("NVFERRY_METADATA", ErrorKind::Metadata),
        error("NVFERRY_ENDPOINT", ErrorKind::Endpoint),
        error("NVFERRY_CONTEXT", ErrorKind::Context),
        error("NVFERRY_NUMA", ErrorKind::Numa),
        error("NVFERRY_CLOCK", ErrorKind::Clock),
        error("NVFERRY_MEMORY", ErrorKind::Memory),
        error("NVFERRY_NOT_IMPLEMENTED", ErrorKind::NotImplemented),
    ]);
    assert_eq!(stated, meant);
}

/// What a Rust type of an exported function is in C.
fn in_c(rust: &str) -> &str {
    match rust {
        "Engine" => "transfer_engine_t",
        "Transport" => "transport_t",
        "SegmentNumber" => "segment_id_t",
        "FileNumber" => "file_id_t",
        "*mut FileNumber" => "file_id_t *",
        "BatchNumber" => "batch_id_t",
        "*const c_char" => "const char *",
        "*mut c_char" => "char *",
        "*mut c_void" => "void *",
        "*mut *mut c_void" => "void **",
        "*mut TransferRequest" => "struct transfer_request *",
        "*mut TransferStatus" => "struct transfer_status *",
        "*mut BufferEntry" => "buffer_entry_t *",
        "c_int" => "int",
        "usize" => "size_t",
        "u64" => "uint64_t",
        "" => "void",
        other => panic!("{other}: say here what that is in C"),
    }
}

/// By name: the type returned, then each argument's name and type.
type Signatures = BTreeMap<String, Vec<(String, String)>>;

fn of_the_code() -> Signatures {
    let files = ["engine", "memory", "segments", "transfers"].map(|file| read(&format!("src/entries/{file}.rs")));
    let text = files.join("\n");
    let functions = text.split("#[unsafe(no_mangle)]").skip(1).map(|part| {
        let declaration = part.split_once("extern \"C\" fn ").unwrap().1.split_once('{').unwrap().0;
        let (name, rest) = declaration.split_once('(').unwrap();
        let (arguments, returned) = rest.split_once(')').unwrap();
        let returned = returned.trim().strip_prefix("->").unwrap_or("").trim();
        let mut types = vec![(String::new(), in_c(returned).to_owned())];
        types.extend(arguments.split(',').map(str::trim).filter(|argument| !argument.is_empty()).map(|argument| {
            let (name, kind) = argument.split_once(": ").unwrap();
            (name.trim_start_matches('_').to_owned(), in_c(kind).to_owned())
        }));
        (name.to_owned(), types)
    });
    functions.collect()
}

/// `const char *name` into type and name.
fn argument(text: &str) -> (String, String) {
    let text = text.trim();
    let at = text.rfind([' ', '*']).map_or(0, |at| at + 1);
    (text[at..].to_owned(), text[..at].trim().to_owned())
}

fn of_the_header() -> Signatures {
    let header = read("include/nvferry.h");
    let body = header.split_once("extern \"C\" {\n#endif").unwrap().1;
    let mut plain = String::new();
    for (index, part) in body.split("/*").enumerate() {
        plain += if index == 0 { part } else { part.split_once("*/").unwrap().1 };
    }
    let lines: Vec<&str> = plain.lines().filter(|line| !line.starts_with('#')).collect();
    let text = lines.join(" ");
    let declarations = text.split(';').map(str::trim).filter(|part| part.ends_with(')') && !part.contains('{'));
    declarations
        .map(|declaration| {
            let (head, arguments) = declaration.strip_suffix(')').unwrap().split_once('(').unwrap();
            let (name, returned) = argument(head.split_once('}').map_or(head, |(_, head)| head));
            let mut types = vec![(String::new(), returned)];
            types.extend(arguments.split(',').filter(|text| text.trim() != "void").map(argument));
            (name, types)
        })
        .collect()
}

#[test]
fn functions_have_the_signatures_of_the_code() {
    let (code, header) = (of_the_code(), of_the_header());
    assert!(code.len() > 25, "{} functions were found", code.len());
    assert_eq!(header, code);
}
