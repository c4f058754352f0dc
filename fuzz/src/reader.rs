//! The PDUs of one direction of a connection, for whoever looks on: taken apart by the codec alone, independently of how
//! host and target receive.

use nvferry_wire::digest::{DIGEST_LEN, crc32c};
use nvferry_wire::pdu::{COMMON_HEADER_LEN, CommonHeader, Pdu, PduError, PduRules, Role};

/// A PDU, with its data.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) pdu: Pdu,
    pub(crate) data: Vec<u8>,
    /// Its data digest is right, or there is none.
    pub(crate) intact: bool,
    /// [`Reader::begun`] told of it.
    pub(crate) was_told: bool,
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) rules: PduRules,
    bytes: Vec<u8>,
    /// The header of the PDU that is coming was told.
    is_told: bool,
    /// What was sent is no PDU; nothing is looked at from there on.
    broken: Option<PduError>,
}

impl Reader {
    /// What `receiver` gets, from the first byte on.
    pub(crate) fn new(receiver: Role) -> Self {
        Self { rules: PduRules::initial(receiver), bytes: Vec::new(), is_told: false, broken: None }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    pub(crate) fn broken(&self) -> Option<PduError> {
        self.broken
    }

    /// The header of a PDU that has not come whole, once: a receiver may act on that.
    pub(crate) fn begun(&mut self) -> Option<Pdu> {
        let common = self.bytes.first_chunk::<COMMON_HEADER_LEN>().filter(|_| !self.is_told)?;
        let common = CommonHeader::decode(common, &self.rules).ok()?;
        let layout = common.layout();
        let header = self.bytes.get(..layout.data_offset())?;
        layout.check_header_digest(header).ok()?;
        let pdu = Pdu::decode(&common, header).ok()?;
        self.is_told = true;
        Some(pdu)
    }

    /// The next whole PDU, and whether its header was told before.
    pub(crate) fn next(&mut self) -> Option<Seen> {
        let common = self.bytes.first_chunk::<COMMON_HEADER_LEN>()?;
        match self.decode(*common) {
            Ok(seen) => seen,
            Err(error) => {
                self.broken = Some(error);
                self.bytes.clear();
                None
            }
        }
    }

    fn decode(&mut self, common: [u8; COMMON_HEADER_LEN]) -> Result<Option<Seen>, PduError> {
        let common = CommonHeader::decode(&common, &self.rules)?;
        let layout = common.layout();
        let (at, total) = (layout.data_offset(), layout.total_bytes() as usize);
        if self.bytes.len() < at {
            return Ok(None);
        }
        layout.check_header_digest(&self.bytes)?;
        let pdu = Pdu::decode(&common, &self.bytes[..at])?;
        if self.bytes.len() < total {
            return Ok(None);
        }
        let whole: Vec<u8> = self.bytes.drain(..total).collect();
        let data = whole[at..at + layout.data_bytes as usize].to_vec();
        let intact = layout.data_digest_bytes == 0 || whole[total - DIGEST_LEN..] == crc32c(&data).to_le_bytes();
        let was_told = std::mem::take(&mut self.is_told);
        Ok(Some(Seen { pdu, data, intact, was_told }))
    }
}
