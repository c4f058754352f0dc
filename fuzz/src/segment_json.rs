//! What stands under a segment's name in the metadata service, which anybody may have written: descriptions of
//! segments, and the transport ids in them.

use nvferry_engine::SegmentDesc;

/// One text.
pub(crate) fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let desc = match SegmentDesc::from_json(text) {
        Ok(desc) => desc,
        Err(error) => {
            // Told to a person, however long what was there is.
            assert!(!error.is_empty() && error.len() < 1000, "{} bytes", error.len());
            return;
        }
    };
    let written = desc.to_json();
    let again = SegmentDesc::from_json(&written).unwrap_or_else(|error| panic!("our own description {error}"));
    assert!(again.says_the_same(&desc), "{text} became {written}");
    assert_eq!(again.to_json(), written);
    for file in &desc.file_buffers {
        assert!(desc.file(file.id).is_some());
    }
    if let Ok(address) = nvferry_nvmeof::simulation::destination(&desc) {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}
