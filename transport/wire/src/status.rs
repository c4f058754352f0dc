//! How a command ended (base specification 3.3.3.2.1): a status code, and what it means for a retry.

use std::fmt;

/// The status of a completion: what happened, and what the controller says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status {
    /// What happened.
    pub code: StatusCode,
    /// Which of the controller's retry delays applies (CRD, 0 to 3; 0 is none). See Identify Controller, CRDT1 to 3.
    pub retry_delay: u8,
    /// There is more about it in the error log (M).
    pub more: bool,
    /// The same command would fail again (DNR).
    pub do_not_retry: bool,
}

/// Whether a failed command may be sent again, from what the controller said. Whether it *can* be (the
/// deadline, a command that is not idempotent) is for the host to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryAdvice {
    /// It succeeded.
    NotNeeded,
    /// It would fail again.
    Never,
    /// To the same controller, at once.
    Now,
    /// To the same controller after a delay: the controller's own (CRDT1 to CRDT3) where `delay` is 1 to 3, else the
    /// host's choice.
    Later {
        /// The status's CRD field.
        delay: u8,
    },
    /// On another path, or on this one when it has been set up again: the path failed, not the storage.
    AnotherPath,
}

macro_rules! status_codes {
    ($($sct:literal { $($sc:literal $name:ident $words:literal,)* })*) => {
        /// What happened, by the names of the NVMe specification.
        #[non_exhaustive]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum StatusCode {
            $($(
                #[doc = concat!($words, " (type ", $sct, ", code ", $sc, ").")]
                $name,
            )*)*
            /// A code that this implementation has no name for.
            Unknown {
                /// Status code type, 0 to 7.
                sct: u8,
                /// Status code.
                sc: u8,
            },
        }

        impl StatusCode {
            /// The codes that have a name, in numerical order but for those that only fabrics commands use.
            pub const KNOWN: &[Self] = &[$($(Self::$name,)*)*];

            /// Status code type and status code, as numbers.
            #[inline]
            pub const fn to_raw(self) -> (u8, u8) {
                match self {
                    $($(Self::$name => ($sct, $sc),)*)*
                    Self::Unknown { sct, sc } => (sct, sc),
                }
            }

            fn words(self) -> Option<&'static str> {
                match self {
                    $($(Self::$name => Some($words),)*)*
                    Self::Unknown { .. } => None,
                }
            }

            /// The name of a code. What stands later in the table is shadowed by what stands earlier: see
            /// [`StatusCode::for_fabrics`].
            #[inline]
            pub const fn from_raw(sct: u8, sc: u8) -> Self {
                #[allow(unreachable_patterns)]
                match (sct, sc) {
                    $($(($sct, $sc) => Self::$name,)*)*
                    _ => Self::Unknown { sct, sc },
                }
            }
        }
    };
}

status_codes! {
    0x0 {
        0x00 Success "Successful Completion",
        0x01 InvalidOpcode "Invalid Command Opcode",
        0x02 InvalidField "Invalid Field in Command",
        0x03 CommandIdConflict "Command ID Conflict",
        0x04 DataTransferError "Data Transfer Error",
        0x05 AbortedPowerLoss "Commands Aborted due to Power Loss Notification",
        0x06 InternalError "Internal Error",
        0x07 AbortRequested "Command Abort Requested",
        0x08 AbortedQueueDeleted "Command Aborted due to SQ Deletion",
        0x09 AbortedFailedFused "Command Aborted due to Failed Fused Command",
        0x0A AbortedMissingFused "Command Aborted due to Missing Fused Command",
        0x0B InvalidNamespace "Invalid Namespace or Format",
        0x0C CommandSequenceError "Command Sequence Error",
        0x0D SglLastSegmentInvalid "Invalid SGL Segment Descriptor",
        0x0E SglDescriptorCountInvalid "Invalid Number of SGL Descriptors",
        0x0F SglDataLengthInvalid "Data SGL Length Invalid",
        0x10 SglMetadataLengthInvalid "Metadata SGL Length Invalid",
        0x11 SglDescriptorTypeInvalid "SGL Descriptor Type Invalid",
        0x12 CmbUseInvalid "Invalid Use of Controller Memory Buffer",
        0x13 PrpOffsetInvalid "PRP Offset Invalid",
        0x14 AtomicWriteUnitExceeded "Atomic Write Unit Exceeded",
        0x15 OperationDenied "Operation Denied",
        0x16 SglOffsetInvalid "SGL Offset Invalid",
        0x18 HostIdInconsistent "Host Identifier Inconsistent Format",
        0x19 KeepAliveExpired "Keep Alive Timer Expired",
        0x1A KeepAliveInvalid "Keep Alive Timeout Invalid",
        0x1B AbortedPreempt "Command Aborted due to Preempt and Abort",
        0x1C SanitizeFailed "Sanitize Failed",
        0x1D SanitizeInProgress "Sanitize In Progress",
        0x1E SglGranularityInvalid "SGL Data Block Granularity Invalid",
        0x1F QueueInCmbNotSupported "Command Not Supported for Queue in CMB",
        0x20 NamespaceWriteProtected "Namespace is Write Protected",
        0x21 CommandInterrupted "Command Interrupted",
        0x22 TransientTransportError "Transient Transport Error",
        0x23 ProhibitedByLockdown "Command Prohibited by Command and Feature Lockdown",
        0x24 AdminMediaNotReady "Admin Command Media Not Ready",
        0x80 LbaOutOfRange "LBA Out of Range",
        0x81 CapacityExceeded "Capacity Exceeded",
        0x82 NamespaceNotReady "Namespace Not Ready",
        0x83 ReservationConflict "Reservation Conflict",
        0x84 FormatInProgress "Format In Progress",
    }
    0x1 {
        0x00 CompletionQueueInvalid "Completion Queue Invalid",
        0x01 QueueIdInvalid "Invalid Queue Identifier",
        0x02 QueueSizeInvalid "Invalid Queue Size",
        0x03 AbortLimitExceeded "Abort Command Limit Exceeded",
        0x05 AsyncEventLimitExceeded "Asynchronous Event Request Limit Exceeded",
        0x06 FirmwareSlotInvalid "Invalid Firmware Slot",
        0x07 FirmwareImageInvalid "Invalid Firmware Image",
        0x08 InterruptVectorInvalid "Invalid Interrupt Vector",
        0x09 LogPageInvalid "Invalid Log Page",
        0x0A FormatInvalid "Invalid Format",
        0x0B FirmwareNeedsConventionalReset "Firmware Activation Requires Conventional Reset",
        0x0C QueueDeletionInvalid "Invalid Queue Deletion",
        0x0D FeatureNotSaveable "Feature Identifier Not Saveable",
        0x0E FeatureNotChangeable "Feature Not Changeable",
        0x0F FeatureNotNamespaceSpecific "Feature Not Namespace Specific",
        0x10 FirmwareNeedsSubsystemReset "Firmware Activation Requires NVM Subsystem Reset",
        0x11 FirmwareNeedsControllerReset "Firmware Activation Requires Controller Level Reset",
        0x12 FirmwareNeedsMaxTimeViolation "Firmware Activation Requires Maximum Time Violation",
        0x13 FirmwareActivationProhibited "Firmware Activation Prohibited",
        0x14 OverlappingRange "Overlapping Range",
        0x15 NamespaceCapacityInsufficient "Namespace Insufficient Capacity",
        0x16 NamespaceIdUnavailable "Namespace Identifier Unavailable",
        0x18 NamespaceAlreadyAttached "Namespace Already Attached",
        0x19 NamespaceIsPrivate "Namespace Is Private",
        0x1A NamespaceNotAttached "Namespace Not Attached",
        0x1B ThinProvisioningNotSupported "Thin Provisioning Not Supported",
        0x1C ControllerListInvalid "Controller List Invalid",
        0x1D SelfTestInProgress "Device Self-test In Progress",
        0x1E BootPartitionWriteProhibited "Boot Partition Write Prohibited",
        0x1F ControllerIdInvalid "Invalid Controller Identifier",
        0x20 SecondaryControllerStateInvalid "Invalid Secondary Controller State",
        0x21 ControllerResourcesInvalid "Invalid Number of Controller Resources",
        0x22 ResourceIdInvalid "Invalid Resource Identifier",
        0x23 SanitizeProhibitedPmr "Sanitize Prohibited While Persistent Memory Region is Enabled",
        0x24 AnaGroupIdInvalid "ANA Group Identifier Invalid",
        0x25 AnaAttachFailed "ANA Attach Failed",
        0x26 CapacityInsufficient "Insufficient Capacity",
        0x27 AttachmentLimitExceeded "Namespace Attachment Limit Exceeded",
        0x28 LockdownNotSupported "Prohibition of Command Execution Not Supported",
        0x29 CommandSetNotSupported "I/O Command Set Not Supported",
        0x2A CommandSetNotEnabled "I/O Command Set Not Enabled",
        0x2B CommandSetCombinationRejected "I/O Command Set Combination Rejected",
        0x2C CommandSetInvalid "Invalid I/O Command Set",
        0x2D IdentifierUnavailable "Identifier Unavailable",
        0x80 ConflictingAttributes "Conflicting Attributes",
        0x81 ProtectionInformationInvalid "Invalid Protection Information",
        0x82 WriteToReadOnlyRange "Attempted Write to Read Only Range",
        0x83 CommandSizeLimitExceeded "Command Size Limit Exceeded",
        // Fabrics commands use 80h to 83h for something else: these four are shadowed by those above.
        0x80 ConnectIncompatibleFormat "Connect Incompatible Format",
        0x81 ConnectControllerBusy "Connect Controller Busy",
        0x82 ConnectInvalidParameters "Connect Invalid Parameters",
        0x83 ConnectRestartDiscovery "Connect Restart Discovery",
        0x84 ConnectInvalidHost "Connect Invalid Host",
        0x85 DisconnectInvalidQueueType "Invalid Queue Type",
        0x90 DiscoverRestart "Discover Restart",
        0x91 AuthenticationRequired "Authentication Required",
    }
    0x2 {
        0x80 WriteFault "Write Fault",
        0x81 UnrecoveredReadError "Unrecovered Read Error",
        0x82 GuardCheckError "End-to-end Guard Check Error",
        0x83 ApplicationTagCheckError "End-to-end Application Tag Check Error",
        0x84 ReferenceTagCheckError "End-to-end Reference Tag Check Error",
        0x85 CompareFailure "Compare Failure",
        0x86 AccessDenied "Access Denied",
        0x87 UnwrittenBlock "Deallocated or Unwritten Logical Block",
        0x88 StorageTagCheckError "End-to-End Storage Tag Check Error",
    }
    0x3 {
        0x00 InternalPathError "Internal Path Error",
        0x01 AnaPersistentLoss "Asymmetric Access Persistent Loss",
        0x02 AnaInaccessible "Asymmetric Access Inaccessible",
        0x03 AnaTransition "Asymmetric Access Transition",
        0x60 ControllerPathingError "Controller Pathing Error",
        0x70 HostPathingError "Host Pathing Error",
        0x71 AbortedByHost "Command Aborted By Host",
    }
}

impl StatusCode {
    /// Reads the code as one that a fabrics command (opcode 7Fh) returned. Codes 80h to 83h of the command
    /// specific type mean one thing for Connect and another for I/O; a completion alone does not tell which.
    #[must_use]
    pub const fn for_fabrics(self) -> Self {
        match self.to_raw() {
            (0x1, 0x80) => Self::ConnectIncompatibleFormat,
            (0x1, 0x81) => Self::ConnectControllerBusy,
            (0x1, 0x82) => Self::ConnectInvalidParameters,
            (0x1, 0x83) => Self::ConnectRestartDiscovery,
            _ => self,
        }
    }

    /// Whether the command did what it was asked to.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Success)
    }

    /// What the code alone says about another try.
    fn retry(self, delay: u8) -> RetryAdvice {
        match self {
            Self::Success => RetryAdvice::NotNeeded,
            // The storage, or the controller, is busy with something that ends.
            Self::InternalError
            | Self::NamespaceNotReady
            | Self::AdminMediaNotReady
            | Self::CommandInterrupted
            | Self::FormatInProgress
            | Self::SanitizeInProgress
            | Self::SelfTestInProgress
            | Self::ConnectControllerBusy
            | Self::AbortLimitExceeded
            | Self::AnaTransition => RetryAdvice::Later { delay },
            // The command was lost on the way, or was taken back; it itself is sound.
            Self::DataTransferError | Self::TransientTransportError | Self::AbortedFailedFused => RetryAdvice::Now,
            // Its queue, its controller or the way there is gone.
            Self::AbortedPowerLoss
            | Self::AbortedQueueDeleted
            | Self::KeepAliveExpired
            | Self::InternalPathError
            | Self::AnaPersistentLoss
            | Self::AnaInaccessible
            | Self::ControllerPathingError
            | Self::HostPathingError
            | Self::ConnectRestartDiscovery
            | Self::DiscoverRestart => RetryAdvice::AnotherPath,
            // A path related status without a name still says that it was the path.
            Self::Unknown { sct: 0x3, .. } => RetryAdvice::AnotherPath,
            // A read or write that failed once on the medium may succeed: drives try again themselves, files need not.
            Self::WriteFault | Self::UnrecoveredReadError => RetryAdvice::Later { delay },
            // Without a name, what is left is that the controller did not say "do not retry".
            Self::Unknown { .. } => RetryAdvice::Later { delay },
            _ => RetryAdvice::Never,
        }
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sct, sc) = self.to_raw();
        match self.words() {
            Some(words) => write!(f, "{words} (sct {sct:#x}, sc {sc:#04x})"),
            None if sct == 7 || sc >= 0xC0 => write!(f, "Vendor Specific (sct {sct:#x}, sc {sc:#04x})"),
            None => write!(f, "Unknown Status (sct {sct:#x}, sc {sc:#04x})"),
        }
    }
}

impl Status {
    /// Success.
    pub const SUCCESS: Self = Self::new(StatusCode::Success);

    /// A status with no advice about a retry.
    pub const fn new(code: StatusCode) -> Self {
        Self { code, retry_delay: 0, more: false, do_not_retry: false }
    }

    /// A failure that another try will not change.
    pub const fn permanent(code: StatusCode) -> Self {
        Self { code, retry_delay: 0, more: false, do_not_retry: true }
    }

    /// Whether the command did what it was asked to.
    #[inline]
    pub fn is_success(self) -> bool {
        self.code.is_success()
    }

    /// Whether the host should send the command again, and how.
    pub fn retry(self) -> RetryAdvice {
        match self.code.retry(self.retry_delay) {
            RetryAdvice::NotNeeded => RetryAdvice::NotNeeded,
            _ if self.do_not_retry => RetryAdvice::Never,
            advice => advice,
        }
    }

    /// The same status, read as what a fabrics command returned; see [`StatusCode::for_fabrics`].
    #[must_use]
    pub const fn for_fabrics(self) -> Self {
        Self { code: self.code.for_fabrics(), ..self }
    }

    /// As it stands in the last two bytes of a completion. The phase bit is zero.
    #[inline]
    pub const fn to_wire(self) -> u16 {
        let (sct, sc) = self.code.to_raw();
        (sc as u16) << 1
            | (sct as u16 & 0x7) << 9
            | (self.retry_delay as u16 & 0x3) << 12
            | (self.more as u16) << 14
            | (self.do_not_retry as u16) << 15
    }

    /// From the last two bytes of a completion. The phase bit is ignored.
    #[inline]
    pub const fn from_wire(wire: u16) -> Self {
        Self {
            code: StatusCode::from_raw((wire >> 9 & 0x7) as u8, (wire >> 1 & 0xFF) as u8),
            retry_delay: (wire >> 12 & 0x3) as u8,
            more: wire >> 14 & 1 == 1,
            do_not_retry: wire >> 15 & 1 == 1,
        }
    }
}

impl From<StatusCode> for Status {
    fn from(code: StatusCode) -> Self {
        Self::new(code)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(f)?;
        if self.do_not_retry {
            f.write_str(", do not retry")?;
        }
        if self.more {
            f.write_str(", more in the error log")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_value_is_read_and_written_back() {
        for wire in 0..=u16::MAX {
            let status = Status::from_wire(wire);
            assert_eq!(status.to_wire(), wire & !1, "{wire:#06x}");
            assert_eq!(status.for_fabrics().to_wire(), wire & !1, "{wire:#06x}");
            assert!(!status.to_string().is_empty());
        }
    }

    #[test]
    fn known_codes_have_numbers_of_their_own() {
        for &code in StatusCode::KNOWN {
            let (sct, sc) = code.to_raw();
            let read = StatusCode::from_raw(sct, sc);
            assert!(read == code || read.for_fabrics() == code, "{code:?} is read as {read:?}");
        }
        // Four numbers have two meanings.
        let shadowed = StatusCode::KNOWN.iter().filter(|c| StatusCode::from_raw(c.to_raw().0, c.to_raw().1) != **c);
        assert_eq!(shadowed.count(), 4);
    }

    /// Numbers that were looked up one by one: `include/linux/nvme.h` has the same.
    #[test]
    fn numbers_of_the_specification() {
        for (code, raw) in [
            (StatusCode::Success, 0x000),
            (StatusCode::InvalidField, 0x002),
            (StatusCode::DataTransferError, 0x004),
            (StatusCode::InternalError, 0x006),
            (StatusCode::InvalidNamespace, 0x00B),
            (StatusCode::CommandSequenceError, 0x00C),
            (StatusCode::SglDescriptorTypeInvalid, 0x011),
            (StatusCode::SglOffsetInvalid, 0x016),
            (StatusCode::KeepAliveInvalid, 0x01A),
            (StatusCode::NamespaceWriteProtected, 0x020),
            (StatusCode::TransientTransportError, 0x022),
            (StatusCode::LbaOutOfRange, 0x080),
            (StatusCode::CapacityExceeded, 0x081),
            (StatusCode::NamespaceNotReady, 0x082),
            (StatusCode::QueueIdInvalid, 0x101),
            (StatusCode::AsyncEventLimitExceeded, 0x105),
            (StatusCode::LogPageInvalid, 0x109),
            (StatusCode::FeatureNotChangeable, 0x10E),
            (StatusCode::ConnectIncompatibleFormat, 0x180),
            (StatusCode::ConnectControllerBusy, 0x181),
            (StatusCode::ConnectInvalidParameters, 0x182),
            (StatusCode::ConnectInvalidHost, 0x184),
            (StatusCode::AuthenticationRequired, 0x191),
            (StatusCode::WriteFault, 0x280),
            (StatusCode::UnrecoveredReadError, 0x281),
            (StatusCode::CompareFailure, 0x285),
            (StatusCode::AnaTransition, 0x303),
            (StatusCode::HostPathingError, 0x370),
        ] {
            let (sct, sc) = code.to_raw();
            assert_eq!(u16::from(sct) << 8 | u16::from(sc), raw, "{code:?}");
        }
    }

    #[test]
    fn do_not_retry_wins_over_everything_but_success() {
        for &code in StatusCode::KNOWN {
            let advice = Status::permanent(code).retry();
            let expected = if code.is_success() { RetryAdvice::NotNeeded } else { RetryAdvice::Never };
            assert_eq!(advice, expected, "{code:?}");
        }
        let busy = Status { retry_delay: 2, ..StatusCode::NamespaceNotReady.into() };
        assert_eq!(busy.retry(), RetryAdvice::Later { delay: 2 });
        assert_eq!(Status::from(StatusCode::LbaOutOfRange).retry(), RetryAdvice::Never);
        assert_eq!(Status::from(StatusCode::AbortedQueueDeleted).retry(), RetryAdvice::AnotherPath);
        assert_eq!(Status::from_wire(0x37F << 1).retry(), RetryAdvice::AnotherPath);
    }

    #[test]
    fn people_read_the_words_of_the_specification() {
        let status = Status { more: true, ..Status::permanent(StatusCode::LbaOutOfRange) };
        assert_eq!(status.to_string(), "LBA Out of Range (sct 0x0, sc 0x80), do not retry, more in the error log");
        assert_eq!(StatusCode::from_raw(7, 1).to_string(), "Vendor Specific (sct 0x7, sc 0x01)");
        assert_eq!(StatusCode::from_raw(0, 0x70).to_string(), "Unknown Status (sct 0x0, sc 0x70)");
    }
}
