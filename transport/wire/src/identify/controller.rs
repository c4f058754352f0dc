//! Identify Controller (CNS 01h; base specification 5.17.2.1).

use super::IDENTIFY_LEN;
use crate::codec::{
    get, get_u8, get_u16, get_u32, get_u128, pad_text, padded_text, prefix, put, put_u8, put_u16, put_u32, put_u128,
};
use crate::error::WireError;
use crate::fabrics::Vs;
use crate::feature::AsyncEventConfig;
use crate::ids::ControllerId;
use crate::nqn::{NQN_FIELD_LEN, Nqn};

/// What a controller is and can do. The default is all zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentifyController {
    /// PCI vendor id; 0 for software.
    pub vid: u16,
    /// PCI subsystem vendor id; 0 for software.
    pub ssvid: u16,
    /// Serial number, at most 20 characters.
    pub sn: String,
    /// Model number, at most 40 characters.
    pub mn: String,
    /// Firmware revision, at most 8 characters.
    pub fr: String,
    /// Recommended arbitration burst, as a power of two.
    pub rab: u8,
    /// IEEE OUI, least significant byte first.
    pub ieee: [u8; 3],
    /// Multipath and sharing: bit 0 several ports, bit 1 several controllers, bit 3 ANA.
    pub cmic: u8,
    /// The most data of one command, as a power of two of CAP.MPSMIN; 0 is no limit. See
    /// [`IdentifyController::max_transfer_bytes`].
    pub mdts: u8,
    /// This controller.
    pub cntlid: ControllerId,
    /// The version of the specification that it follows.
    pub ver: Vs,
    /// The notices that it can send.
    pub oaes: AsyncEventConfig,
    /// Attributes: bit 0 host ids of 128 bits.
    pub ctratt: u32,
    /// What kind of controller.
    pub cntrltype: ControllerType,
    /// Retry delays 1 to 3, in units of 100 ms; a status's CRD names one.
    pub crdt_100ms: [u16; 3],
    /// Optional admin commands.
    pub oacs: u16,
    /// How many Abort commands may be outstanding, from zero.
    pub acl: u8,
    /// How many Asynchronous Event Requests may be outstanding, from zero.
    pub aerl: u8,
    /// Firmware updates: bit 0 slot 1 is read only, bits 3:1 number of slots.
    pub frmw: u8,
    /// Log pages: bit 1 commands supported and effects, bit 2 extended Get Log Page, bit 5 supported log pages.
    pub lpa: u8,
    /// How many entries the error log has, from zero.
    pub elpe: u8,
    /// How many power states, from zero.
    pub npss: u8,
    /// Warning composite temperature threshold, in kelvin; 0 is none.
    pub wctemp: u16,
    /// Critical composite temperature threshold, in kelvin; 0 is none.
    pub cctemp: u16,
    /// Total capacity in bytes; 0 is not reported.
    pub tnvmcap: u128,
    /// The granularity of the keep alive timer, in units of 100 ms; 0 is that there is none.
    pub kas_100ms: u16,
    /// How long a change of ANA states takes, in seconds.
    pub anatt: u8,
    /// Which ANA states can be, and how groups are named.
    pub anacap: u8,
    /// The highest ANA group id.
    pub anagrpmax: u32,
    /// How many ANA groups.
    pub nanagrpid: u32,
    /// Submission queue entry sizes as powers of two: required in bits 3:0, maximum in bits 7:4.
    pub sqes: u8,
    /// Completion queue entry sizes, likewise.
    pub cqes: u8,
    /// How many commands a queue should have outstanding at most; fabrics must say.
    pub maxcmd: u16,
    /// The highest NSID there can be.
    pub nn: u32,
    /// Optional I/O commands; see the constants.
    pub oncs: u16,
    /// Fused operations.
    pub fuses: u16,
    /// Format attributes.
    pub fna: u8,
    /// The volatile write cache.
    pub vwc: Vwc,
    /// Blocks of a write that is atomic as seen by others, from zero.
    pub awun: u16,
    /// Blocks of a write that is atomic when power fails, from zero.
    pub awupf: u16,
    /// Blocks of a fused compare and write, from zero.
    pub acwu: u16,
    /// SGL support.
    pub sgls: SglSupport,
    /// The most namespaces; 0 is `nn`.
    pub mnan: u32,
    /// The subsystem's name. `None` if the field is empty or holds no name.
    pub subnqn: Option<Nqn>,
    /// Command capsule size, in units of 16 bytes: 4 for the command, the rest is in-capsule data.
    pub ioccsz_16bytes: u32,
    /// Response capsule size, in units of 16 bytes: 1.
    pub iorcsz_16bytes: u32,
    /// Where in-capsule data begins after the command, in units of 16 bytes: 0 for TCP.
    pub icdoff_16bytes: u16,
    /// Fabrics attributes: bit 0 is the static controller model.
    pub fcatt: u8,
    /// The most SGL data block descriptors of a command.
    pub msdbd: u8,
    /// Optional fabrics commands: bit 0 Disconnect.
    pub ofcs: u16,
}

/// What kind of controller (CNTRLTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ControllerType {
    /// Not said, as before version 1.4.
    #[default]
    NotReported,
    /// Does I/O.
    Io,
    /// Tells where subsystems are.
    Discovery,
    /// Administers.
    Administrative,
    /// A value without a name.
    Other(u8),
}

/// The volatile write cache (VWC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Vwc(pub u8);

impl Vwc {
    /// None: writes are durable when they complete.
    pub const NONE: Self = Self(0);
    /// There is one, and Flush works for one namespace and for all.
    pub const PRESENT_FLUSH_ALL: Self = Self(0b111);
    /// There is one, and Flush works for one namespace only.
    pub const PRESENT_FLUSH_ONE: Self = Self(0b101);

    /// Whether a completed write may be lost when power fails, unless it was flushed.
    pub const fn is_present(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Which SGLs are supported (SGLS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SglSupport(pub u32);

impl SglSupport {
    /// What NVMe/TCP needs: SGLs without alignment (bit 0), in-capsule data by offset (bit 20), transport data blocks
    /// (bit 21).
    pub const TCP: Self = Self(1 | 1 << 20 | 1 << 21);

    /// Whether data may be in capsules, addressed by offset (bit 20).
    pub const fn in_capsule_offset(self) -> bool {
        self.0 >> 20 & 1 == 1
    }
}

impl IdentifyController {
    /// ONCS: Compare.
    pub const ONCS_COMPARE: u16 = 1 << 0;
    /// ONCS: Dataset Management.
    pub const ONCS_DATASET_MANAGEMENT: u16 = 1 << 2;
    /// ONCS: Write Zeroes.
    pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
    /// LPA: commands supported and effects log page.
    pub const LPA_COMMANDS_SUPPORTED: u8 = 1 << 1;
    /// LPA: extended data for Get Log Page (lengths above 16 bits, offsets).
    pub const LPA_EXTENDED: u8 = 1 << 2;
    /// CTRATT: host ids of 128 bits.
    pub const CTRATT_HOST_ID_128: u32 = 1 << 0;
    /// CTRATT: a keep alive timer that any command restarts.
    pub const CTRATT_TRAFFIC_BASED_KEEP_ALIVE: u32 = 1 << 6;
    /// CMIC: more than one controller.
    pub const CMIC_MULTI_CONTROLLER: u8 = 1 << 1;
    /// CMIC: asymmetric namespace access reporting.
    pub const CMIC_ANA: u8 = 1 << 3;

    /// The most data of one command, in bytes; `None` is no limit. `min_page_bytes` is from CAP.
    pub fn max_transfer_bytes(&self, min_page_bytes: u32) -> Option<u64> {
        (self.mdts != 0).then(|| u64::from(min_page_bytes).checked_shl(self.mdts.into()).unwrap_or(u64::MAX))
    }

    /// The most in-capsule data, in bytes.
    pub fn max_in_capsule_bytes(&self) -> u32 {
        self.ioccsz_16bytes.saturating_sub(4).saturating_sub(self.icdoff_16bytes.into()).saturating_mul(16)
    }

    /// Writes the structure.
    pub fn encode(&self, out: &mut [u8; IDENTIFY_LEN]) {
        out.fill(0);
        put_u16::<0, _>(out, self.vid);
        put_u16::<2, _>(out, self.ssvid);
        put::<4, 20, _>(out, pad_text(&self.sn));
        put::<24, 40, _>(out, pad_text(&self.mn));
        put::<64, 8, _>(out, pad_text(&self.fr));
        put_u8::<72, _>(out, self.rab);
        put::<73, 3, _>(out, self.ieee);
        put_u8::<76, _>(out, self.cmic);
        put_u8::<77, _>(out, self.mdts);
        put_u16::<78, _>(out, self.cntlid.0);
        put_u32::<80, _>(out, self.ver.0);
        put_u32::<92, _>(out, self.oaes.0);
        put_u32::<96, _>(out, self.ctratt);
        put_u8::<111, _>(out, self.cntrltype.to_wire());
        let [crdt1, crdt2, crdt3] = self.crdt_100ms;
        put_u16::<128, _>(out, crdt1);
        put_u16::<130, _>(out, crdt2);
        put_u16::<132, _>(out, crdt3);
        put_u16::<256, _>(out, self.oacs);
        put_u8::<258, _>(out, self.acl);
        put_u8::<259, _>(out, self.aerl);
        put_u8::<260, _>(out, self.frmw);
        put_u8::<261, _>(out, self.lpa);
        put_u8::<262, _>(out, self.elpe);
        put_u8::<263, _>(out, self.npss);
        put_u16::<266, _>(out, self.wctemp);
        put_u16::<268, _>(out, self.cctemp);
        put_u128::<280, _>(out, self.tnvmcap);
        put_u16::<320, _>(out, self.kas_100ms);
        put_u8::<342, _>(out, self.anatt);
        put_u8::<343, _>(out, self.anacap);
        put_u32::<344, _>(out, self.anagrpmax);
        put_u32::<348, _>(out, self.nanagrpid);
        put_u8::<512, _>(out, self.sqes);
        put_u8::<513, _>(out, self.cqes);
        put_u16::<514, _>(out, self.maxcmd);
        put_u32::<516, _>(out, self.nn);
        put_u16::<520, _>(out, self.oncs);
        put_u16::<522, _>(out, self.fuses);
        put_u8::<524, _>(out, self.fna);
        put_u8::<525, _>(out, self.vwc.0);
        put_u16::<526, _>(out, self.awun);
        put_u16::<528, _>(out, self.awupf);
        put_u16::<532, _>(out, self.acwu);
        put_u32::<536, _>(out, self.sgls.0);
        put_u32::<540, _>(out, self.mnan);
        put::<768, NQN_FIELD_LEN, _>(out, self.subnqn.as_ref().map_or([0; NQN_FIELD_LEN], Nqn::to_wire));
        put_u32::<1792, _>(out, self.ioccsz_16bytes);
        put_u32::<1796, _>(out, self.iorcsz_16bytes);
        put_u16::<1800, _>(out, self.icdoff_16bytes);
        put_u8::<1802, _>(out, self.fcatt);
        put_u8::<1803, _>(out, self.msdbd);
        put_u16::<1804, _>(out, self.ofcs);
    }

    /// Reads the structure.
    ///
    /// # Errors
    /// Fewer than 4096 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; IDENTIFY_LEN] = prefix(bytes, "Identify Controller")?;
        Ok(Self {
            vid: get_u16::<0, _>(b),
            ssvid: get_u16::<2, _>(b),
            sn: padded_text(&get::<4, 20, _>(b)),
            mn: padded_text(&get::<24, 40, _>(b)),
            fr: padded_text(&get::<64, 8, _>(b)),
            rab: get_u8::<72, _>(b),
            ieee: get::<73, 3, _>(b),
            cmic: get_u8::<76, _>(b),
            mdts: get_u8::<77, _>(b),
            cntlid: ControllerId(get_u16::<78, _>(b)),
            ver: Vs(get_u32::<80, _>(b)),
            oaes: AsyncEventConfig(get_u32::<92, _>(b)),
            ctratt: get_u32::<96, _>(b),
            cntrltype: ControllerType::from_wire(get_u8::<111, _>(b)),
            crdt_100ms: [get_u16::<128, _>(b), get_u16::<130, _>(b), get_u16::<132, _>(b)],
            oacs: get_u16::<256, _>(b),
            acl: get_u8::<258, _>(b),
            aerl: get_u8::<259, _>(b),
            frmw: get_u8::<260, _>(b),
            lpa: get_u8::<261, _>(b),
            elpe: get_u8::<262, _>(b),
            npss: get_u8::<263, _>(b),
            wctemp: get_u16::<266, _>(b),
            cctemp: get_u16::<268, _>(b),
            tnvmcap: get_u128::<280, _>(b),
            kas_100ms: get_u16::<320, _>(b),
            anatt: get_u8::<342, _>(b),
            anacap: get_u8::<343, _>(b),
            anagrpmax: get_u32::<344, _>(b),
            nanagrpid: get_u32::<348, _>(b),
            sqes: get_u8::<512, _>(b),
            cqes: get_u8::<513, _>(b),
            maxcmd: get_u16::<514, _>(b),
            nn: get_u32::<516, _>(b),
            oncs: get_u16::<520, _>(b),
            fuses: get_u16::<522, _>(b),
            fna: get_u8::<524, _>(b),
            vwc: Vwc(get_u8::<525, _>(b)),
            awun: get_u16::<526, _>(b),
            awupf: get_u16::<528, _>(b),
            acwu: get_u16::<532, _>(b),
            sgls: SglSupport(get_u32::<536, _>(b)),
            mnan: get_u32::<540, _>(b),
            subnqn: Nqn::from_wire(&get::<768, NQN_FIELD_LEN, _>(b)).ok(),
            ioccsz_16bytes: get_u32::<1792, _>(b),
            iorcsz_16bytes: get_u32::<1796, _>(b),
            icdoff_16bytes: get_u16::<1800, _>(b),
            fcatt: get_u8::<1802, _>(b),
            msdbd: get_u8::<1803, _>(b),
            ofcs: get_u16::<1804, _>(b),
        })
    }
}

impl ControllerType {
    fn to_wire(self) -> u8 {
        match self {
            Self::NotReported => 0,
            Self::Io => 1,
            Self::Discovery => 2,
            Self::Administrative => 3,
            Self::Other(value) => value,
        }
    }

    fn from_wire(value: u8) -> Self {
        match value {
            0 => Self::NotReported,
            1 => Self::Io,
            2 => Self::Discovery,
            3 => Self::Administrative,
            other => Self::Other(other),
        }
    }
}
