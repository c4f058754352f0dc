//! The submission queue entry: a command, 64 bytes (base specification 3.3.3.1).

use std::fmt;

use crate::codec::{get, get_u8, get_u16, get_u32, get_u64, put, put_u8, put_u16, put_u32, put_u64};
use crate::ids::{CommandId, Nsid};
use crate::sgl::{SglDescriptor, SglError};

/// How long a submission queue entry is.
pub const SQE_LEN: usize = 64;

/// PSDT: the data pointer is an SGL, metadata is one buffer. What fabrics always use.
const PSDT_SGL: u8 = 0b01 << 6;

/// A command as it stands on the wire. Fields are read where they lie; nothing is copied out before it is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Sqe([u8; SQE_LEN]);

/// Whether a command is half of a pair that executes as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuse {
    /// A command of its own.
    Normal,
    /// The first of two.
    First,
    /// The second of two.
    Second,
    /// A value that has no meaning.
    Reserved,
}

impl Sqe {
    /// A command without data: the data pointer is a transport SGL of length 0, as fabrics hosts send it.
    #[inline]
    pub fn new(opcode: u8, cid: CommandId, nsid: Nsid) -> Self {
        let mut sqe = Self([0; SQE_LEN]);
        put_u8::<0, _>(&mut sqe.0, opcode);
        put_u8::<1, _>(&mut sqe.0, PSDT_SGL);
        sqe.set_cid(cid);
        put_u32::<4, _>(&mut sqe.0, nsid.0);
        sqe.with_sgl(SglDescriptor::Transport { length: 0 })
    }

    /// The command in `bytes`; any bytes are a command, if perhaps one that nobody knows.
    #[inline]
    pub fn from_bytes(bytes: [u8; SQE_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes to send.
    #[inline]
    pub fn as_bytes(&self) -> &[u8; SQE_LEN] {
        &self.0
    }

    /// The bytes to send, to change them in place.
    pub fn as_bytes_mut(&mut self) -> &mut [u8; SQE_LEN] {
        &mut self.0
    }

    /// Which command it is, given the queue it came on.
    #[inline]
    pub fn opcode(&self) -> u8 {
        get_u8::<0, _>(&self.0)
    }

    /// Whether it is half of a fused pair.
    pub fn fuse(&self) -> Fuse {
        match get_u8::<1, _>(&self.0) & 0b11 {
            0b00 => Fuse::Normal,
            0b01 => Fuse::First,
            0b10 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// Whether the data pointer is an SGL (PSDT 01b or 10b), which it must be over fabrics.
    pub fn uses_sgl(&self) -> bool {
        matches!(get_u8::<1, _>(&self.0) >> 6, 0b01 | 0b10)
    }

    /// The host's name for this command.
    #[inline]
    pub fn cid(&self) -> CommandId {
        CommandId(get_u16::<2, _>(&self.0))
    }

    /// Gives the command its name.
    #[inline]
    pub fn set_cid(&mut self, cid: CommandId) {
        put_u16::<2, _>(&mut self.0, cid.0);
    }

    /// The namespace it is for. (In fabrics commands these bytes hold other things.)
    #[inline]
    pub fn nsid(&self) -> Nsid {
        Nsid(get_u32::<4, _>(&self.0))
    }

    /// In a fabrics command (opcode 7Fh): which one (FCTYPE).
    pub fn fctype(&self) -> u8 {
        get_u8::<4, _>(&self.0)
    }

    /// Where its data is.
    ///
    /// # Errors
    /// A descriptor type that fabrics do not use; the error names the status to return.
    #[inline]
    pub fn sgl(&self) -> Result<SglDescriptor, SglError> {
        SglDescriptor::decode(&self.sgl_bytes())
    }

    /// The data pointer's 16 bytes.
    pub fn sgl_bytes(&self) -> [u8; 16] {
        get::<24, 16, _>(&self.0)
    }

    /// Says where its data is.
    #[inline]
    pub fn set_sgl(&mut self, sgl: SglDescriptor) {
        put::<24, _, _>(&mut self.0, sgl.encode());
    }

    /// The same command with its data at `sgl`.
    #[must_use]
    #[inline]
    pub fn with_sgl(mut self, sgl: SglDescriptor) -> Self {
        self.set_sgl(sgl);
        self
    }

    /// Command dwords 10 and 11 as one number.
    #[inline]
    pub fn cdw10_11(&self) -> u64 {
        get_u64::<40, _>(&self.0)
    }

    /// Sets command dwords 10 and 11.
    #[inline]
    pub fn set_cdw10_11(&mut self, value: u64) {
        put_u64::<40, _>(&mut self.0, value);
    }
}

macro_rules! dwords {
    ($($name:ident $set:ident $at:literal $dword:literal;)*) => {
        impl Sqe {$(
            #[doc = concat!("Command dword ", $dword, ".")]
            #[inline]
            pub fn $name(&self) -> u32 {
                get_u32::<$at, _>(&self.0)
            }
            #[doc = concat!("Sets command dword ", $dword, ".")]
            #[inline]
            pub fn $set(&mut self, value: u32) {
                put_u32::<$at, _>(&mut self.0, value);
            }
        )*}
    };
}
dwords! {
    cdw2 set_cdw2 8 "2";
    cdw3 set_cdw3 12 "3";
    cdw10 set_cdw10 40 "10";
    cdw11 set_cdw11 44 "11";
    cdw12 set_cdw12 48 "12";
    cdw13 set_cdw13 52 "13";
    cdw14 set_cdw14 56 "14";
    cdw15 set_cdw15 60 "15";
}

impl fmt::Debug for Sqe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqe")
            .field("opcode", &format_args!("{:#04x}", self.opcode()))
            .field("cid", &self.cid().0)
            .field("nsid", &self.nsid().0)
            .field("sgl", &self.sgl())
            .field("cdw10_15", &format_args!("{:02x?}", &self.0[40..]))
            .finish()
    }
}
