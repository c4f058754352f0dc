//! The transport id in a segment's description: `nvmeof_generic_trid`, an object whose values are all strings.

use nvferry_engine::error::ErrorKind;
use nvferry_engine::{EngineError, SegmentDesc};
use nvferry_wire::{Nqn, TransportId};
use serde_json::{Map, Value};

/// The field's name, as the original writes it.
pub(crate) const TRID_FIELD: &str = "nvmeof_generic_trid";

/// Writes a transport id into a description.
pub(crate) fn describe(segment: &mut SegmentDesc, trid: &TransportId) {
    let fields = trid.fields().into_iter().map(|(key, value)| (key.to_owned(), Value::String(value)));
    segment.extra.insert(TRID_FIELD.to_owned(), Value::Object(fields.collect()));
}

/// Says beside the transport id where the target's status is told. It stands there, so that it goes when another
/// target's id takes the place.
pub(crate) fn add_status_url(segment: &mut SegmentDesc, url: &str) {
    if let Some(Value::Object(fields)) = segment.extra.get_mut(TRID_FIELD) {
        fields.insert("status_url".to_owned(), Value::String(url.to_owned()));
    }
}

/// Reads the transport id and the subsystem's name out of a description.
///
/// # Errors
/// It is missing, wrong, or names no subsystem.
pub(crate) fn read(segment: &SegmentDesc) -> Result<(TransportId, Nqn), EngineError> {
    let name = &segment.name;
    let malformed = |why: String| EngineError::new(ErrorKind::MalformedJson, format!("segment {name}: {why}"));
    let Some(value) = segment.extra.get(TRID_FIELD) else {
        return Err(malformed(format!(
            "its description has no {TRID_FIELD}, so it offers nothing over NVMe (its protocol is {:?})",
            segment.protocol
        )));
    };
    let object = value.as_object().ok_or_else(|| malformed(format!("its {TRID_FIELD} is not an object: {value}")))?;
    let trid = parse(object).map_err(|why| malformed(format!("its {TRID_FIELD} is wrong: {why}")))?;
    let subnqn = trid.subnqn.clone().ok_or_else(|| malformed(format!("its {TRID_FIELD} has no subnqn")))?;
    Ok((trid, subnqn))
}

fn parse(object: &Map<String, Value>) -> Result<TransportId, String> {
    let mut fields = Vec::new();
    for (key, value) in object {
        let text = match value {
            Value::String(text) => text.clone(),
            // Some write the port as a number.
            Value::Number(number) => number.to_string(),
            other => return Err(format!("{key} is {other}, not a string")),
        };
        // Fields that this version does not know are no reason to refuse what it does.
        if ["trtype", "adrfam", "traddr", "trsvcid", "subnqn"].contains(&key.to_ascii_lowercase().as_str()) {
            fields.push((key.as_str(), text));
        }
    }
    TransportId::from_fields(fields.iter().map(|(key, text)| (*key, text.as_str()))).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(trid: Option<Value>) -> SegmentDesc {
        let mut segment = SegmentDesc::new("node7", "nvmeof_generic");
        segment.extra.extend(trid.map(|trid| (TRID_FIELD.to_owned(), trid)));
        segment
    }

    #[test]
    fn what_is_written_is_read_and_is_all_strings() {
        let text = "trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4421 subnqn=nqn.2016-06.io.mc:node7";
        let trid: TransportId = text.parse().unwrap();
        let mut described = segment(None);
        describe(&mut described, &trid);
        let expected = serde_json::json!({
            "trtype": "tcp", "adrfam": "ipv4", "traddr": "10.0.0.7", "trsvcid": "4421",
            "subnqn": "nqn.2016-06.io.mc:node7",
        });
        assert_eq!(described.extra[TRID_FIELD], expected);
        assert_eq!(read(&described).unwrap(), (trid.clone(), trid.subnqn.unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (None, "has no nvmeof_generic_trid"),
            (Some(serde_json::json!("tcp")), "not an object"),
            (Some(serde_json::json!({"traddr": ["x"], "subnqn": "nqn.2016-06.io.mc:x"})), "not a string"),
            (Some(serde_json::json!({"traddr": "127.0.0.1"})), "has no subnqn"),
            (Some(serde_json::json!({"subnqn": "nqn.2016-06.io.mc:x"})), "traddr is missing"),
        ];
        for (trid, needle) in cases {
            let error = read(&segment(trid)).unwrap_err().to_string();
            assert!(error.contains(needle) && error.contains("node7"), "{error}");
        }
    }
}
