//! Identify structures and log pages of arbitrary bytes: decoded without panic; what was decoded is encoded
//! to bytes that decode to the same.

use nvferry_wire::fabrics::{CONNECT_DATA_LEN, ConnectData};
use nvferry_wire::identify::*;
use nvferry_wire::log_page::*;

/// Decodes, encodes and decodes again.
macro_rules! there_and_back {
    ($kind:ty, $len:expr, $bytes:expr) => {
        if let Ok(value) = <$kind>::decode($bytes) {
            let mut out = [0xA5; $len];
            value.encode(&mut out);
            assert_eq!(<$kind>::decode(&out).as_ref(), Ok(&value));
        }
    };
}

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((&kind, start)) = input.split_first() else { return };
    // The fuzzer need not write the zeros that most of a structure is; short inputs are also tried as they are.
    let mut page = vec![0; 4096];
    let len = start.len().min(page.len());
    page[..len].copy_from_slice(&start[..len]);
    for bytes in [start, &page[..]] {
        match kind % 14 {
            0 => {
                there_and_back!(IdentifyController, IDENTIFY_LEN, bytes);
                if let Ok(controller) = IdentifyController::decode(bytes) {
                    let _ = (controller.max_in_capsule_bytes(), controller.max_transfer_bytes(4096));
                }
            }
            1 => {
                there_and_back!(IdentifyNamespace, IDENTIFY_LEN, bytes);
                if let Ok(namespace) = IdentifyNamespace::decode(bytes) {
                    let _ = namespace.format().block_bytes();
                }
            }
            2 => there_and_back!(NamespaceIds, IDENTIFY_LEN, bytes),
            3 => there_and_back!(NamespaceIndependent, IDENTIFY_LEN, bytes),
            4 => there_and_back!(NvmIdentifyController, IDENTIFY_LEN, bytes),
            5 => there_and_back!(NvmIdentifyNamespace, IDENTIFY_LEN, bytes),
            6 => {
                if let Ok(nsids) = nsid_list(bytes) {
                    let nsids: Vec<_> = nsids.collect();
                    let mut out = [0xA5; IDENTIFY_LEN];
                    assert_eq!(encode_nsid_list(nsids.iter().copied(), &mut out), nsids.len());
                    assert!(nsid_list(&out).is_ok_and(|again| again.eq(nsids)));
                }
            }
            7 => there_and_back!(SmartHealth, SMART_LOG_LEN, bytes),
            8 => there_and_back!(FirmwareSlots, FIRMWARE_LOG_LEN, bytes),
            9 => there_and_back!(ErrorEntry, ERROR_ENTRY_LEN, bytes),
            10 => there_and_back!(CommandEffects, COMMAND_EFFECTS_LEN, bytes),
            11 => {
                there_and_back!(DiscoveryHeader, DISCOVERY_HEADER_LEN, bytes);
                there_and_back!(DiscoveryEntry, DISCOVERY_ENTRY_LEN, bytes);
                if let Ok(entry) = DiscoveryEntry::decode(bytes) {
                    let _ = entry.transport_id();
                }
            }
            12 => {
                let Ok(reader) = AnaGroupReader::new(bytes) else { continue };
                let groups: Vec<AnaGroup> = reader.map_while(Result::ok).collect();
                let mut out = vec![0xA5; bytes.len()];
                let len = encode_ana(1, &groups, &mut out).expect("no longer than what was read");
                let again: Result<Vec<_>, _> = AnaGroupReader::new(&out[..len]).expect("our own page").collect();
                assert_eq!(again, Ok(groups));
            }
            _ => there_and_back!(ConnectData, CONNECT_DATA_LEN, bytes),
        }
    }
}
