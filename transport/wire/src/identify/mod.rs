//! What Identify returns (base specification 5.17.2): 4096 bytes, of which [`Cns`] says what they are.
//!
//! Fields that this crate does not name are sent as zero and not read.

mod command_set;
mod controller;
mod descriptors;
mod list;
mod namespace;

pub use command_set::{NvmIdentifyController, NvmIdentifyNamespace, encode_io_command_sets};
pub use controller::{ControllerType, IdentifyController, SglSupport, Vwc};
pub use descriptors::NamespaceIds;
pub use list::{NSID_LIST_ENTRIES, controller_list, encode_controller_list, encode_nsid_list, nsid_list};
pub use namespace::{IdentifyNamespace, LBAF_COUNT, LbaFormat, NamespaceIndependent};

/// Bytes of every structure that Identify returns.
pub const IDENTIFY_LEN: usize = 4096;

/// Which structure Identify returns (Controller or Namespace Structure).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cns {
    /// A namespace: [`IdentifyNamespace`].
    Namespace = 0x00,
    /// The controller: [`IdentifyController`].
    Controller = 0x01,
    /// The active namespaces above NSID, in order: [`nsid_list`].
    ActiveNamespaceList = 0x02,
    /// The names of a namespace: [`NamespaceIds`].
    NamespaceDescriptors = 0x03,
    /// A namespace, as its I/O command set has it: [`NvmIdentifyNamespace`].
    CommandSetNamespace = 0x05,
    /// The controller, as an I/O command set has it: [`NvmIdentifyController`].
    CommandSetController = 0x06,
    /// The active namespaces of an I/O command set: [`nsid_list`].
    CommandSetActiveNamespaceList = 0x07,
    /// A namespace, as all I/O command sets have it: [`NamespaceIndependent`].
    NamespaceIndependent = 0x08,
    /// All namespaces, active or not: [`nsid_list`].
    AllocatedNamespaceList = 0x10,
    /// A namespace, active or not: [`IdentifyNamespace`].
    AllocatedNamespace = 0x11,
    /// The controllers that a namespace is attached to.
    NamespaceControllerList = 0x12,
    /// The controllers of the subsystem from CNTID on, in order: [`controller_list`].
    ControllerList = 0x13,
    /// Which I/O command sets there are.
    IoCommandSets = 0x1C,
}

impl Cns {
    /// The structure with this number.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::Namespace,
            0x01 => Self::Controller,
            0x02 => Self::ActiveNamespaceList,
            0x03 => Self::NamespaceDescriptors,
            0x05 => Self::CommandSetNamespace,
            0x06 => Self::CommandSetController,
            0x07 => Self::CommandSetActiveNamespaceList,
            0x08 => Self::NamespaceIndependent,
            0x10 => Self::AllocatedNamespaceList,
            0x11 => Self::AllocatedNamespace,
            0x12 => Self::NamespaceControllerList,
            0x13 => Self::ControllerList,
            0x1C => Self::IoCommandSets,
            _ => return None,
        })
    }
}
