//! `struct nvme_fabrics_config` of whatever libnvme is met at run time.
//!
//! The structure has grown in its middle: 1.4 put two `int`s before the flags, 1.9 made them `long`s, 1.11 added a third.
//! So a program that was built against one version and meets another would set other flags than it means to, and
//! `nvmf_default_config`, which writes as many bytes as its own version has, would write beyond the structure.
//!
//! The answer: no code here uses the layout that bindgen saw. Room is made for far more than any version has, and filled
//! with a pattern; `nvmf_default_config` then writes zeroes over exactly `sizeof` of its version, which tells which
//! version's layout it is. The part before the flags that moved is the same since 1.0. A size that is not known here means
//! a libnvme that is newer than this program: numbers can still be set, but flags (digests) are refused.

use std::ffi::{c_char, c_int, c_long};
use std::mem::offset_of;

/// Room for a structure, several times that of 1.16.
const ROOM_BYTES: usize = 1024;
/// What the room is filled with, so that what the library wrote can be told from what it did not.
const PATTERN: u8 = 0xA5;

/// The fields that have been where they are since 1.0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefix {
    pub(crate) host_traddr: *mut c_char,
    pub(crate) host_iface: *mut c_char,
    pub(crate) queue_size: c_int,
    pub(crate) nr_io_queues: c_int,
    pub(crate) reconnect_delay: c_int,
    pub(crate) ctrl_loss_tmo: c_int,
    pub(crate) fast_io_fail_tmo: c_int,
    pub(crate) keep_alive_tmo: c_int,
    pub(crate) nr_write_queues: c_int,
    pub(crate) nr_poll_queues: c_int,
    pub(crate) tos: c_int,
}

/// The flags, which stand together and in this order in all versions.
#[repr(C)]
pub(crate) struct Flags {
    pub(crate) duplicate_connect: bool,
    pub(crate) disable_sqflow: bool,
    pub(crate) hdr_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) tls: bool,
}

/// The first fields again, without the end that `Prefix` is padded to: what follows `tos` may stand in that padding.
macro_rules! layout {
    ($name:ident, $doc:literal { $($field:ident: $type:ty),* }) => {
        #[doc = $doc]
        #[repr(C)]
        pub(crate) struct $name {
            host: [*mut c_char; 2],
            numbers: [c_int; 9],
            $($field: $type,)*
            flags: Flags,
        }
    };
}
layout!(V1_0, "1.0 to 1.3." {});
layout!(V1_4, "1.4 to 1.7." { keyring: c_int, tls_key: c_int });
layout!(V1_8, "1.8." { keyring: c_int, tls_key: c_int });
layout!(V1_9, "1.9 and 1.10." { keyring: c_long, tls_key: c_long });
layout!(V1_11, "1.11 to 1.16." { keyring: c_long, tls_key: c_long, tls_configured_key: c_long });

/// Where the flags begin in the structure of that size; nothing for a size that no known version has.
///
/// 1.8 added a flag behind the others, in what had been padding, and so did not change the size.
pub(crate) fn flags_at(size_bytes: usize) -> Option<usize> {
    [
        (size_of::<V1_0>(), offset_of!(V1_0, flags)),
        (size_of::<V1_4>(), offset_of!(V1_4, flags)),
        (size_of::<V1_8>(), offset_of!(V1_8, flags)),
        (size_of::<V1_9>(), offset_of!(V1_9, flags)),
        (size_of::<V1_11>(), offset_of!(V1_11, flags)),
    ]
    .into_iter()
    .find_map(|(size, at)| (size == size_bytes).then_some(at))
}

/// A structure of the library's own version, with its defaults.
#[repr(C, align(16))]
pub(crate) struct Config {
    room: [u8; ROOM_BYTES],
}

impl Config {
    /// Has `fill` (the library's `nvmf_default_config`) write the defaults. Returns nothing where it wrote less than the
    /// part that never changed, or as much as there is room.
    pub(crate) fn new(fill: impl FnOnce(*mut Self)) -> Option<(Box<Self>, usize)> {
        let mut config = Box::new(Self { room: [PATTERN; ROOM_BYTES] });
        fill(&raw mut *config);
        let size = config.room.iter().rposition(|&byte| byte != PATTERN).map_or(0, |last| last + 1);
        if size < size_of::<Prefix>().min(offset_of!(V1_0, flags)) || size == ROOM_BYTES {
            return None;
        }
        // Beyond the structure nothing is left that somebody could take for a setting.
        config.room[size..].fill(0);
        Some((config, size))
    }

    /// The fields that never moved.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Prefix)) {
        let len = offset_of!(Prefix, tos) + size_of::<c_int>();
        // Only to the last field: the padding behind it holds other fields.
        let mut prefix = std::mem::MaybeUninit::<Prefix>::zeroed();
        // SAFETY: both are at least `len` bytes long and do not overlap; any bytes are valid for integers and raw
        // pointers, and what is not copied is zero.
        let mut prefix = unsafe {
            std::ptr::copy_nonoverlapping(self.room.as_ptr(), prefix.as_mut_ptr().cast(), len);
            prefix.assume_init()
        };
        change(&mut prefix);
        // SAFETY: as above, the other way; every one of these bytes belongs to a field, so none is uninitialised.
        unsafe { std::ptr::copy_nonoverlapping((&raw const prefix).cast(), self.room.as_mut_ptr(), len) };
    }

    /// Turns digests on in a structure whose flags begin there.
    pub(crate) fn set_digests(&mut self, flags_at: usize, header: bool, data: bool) {
        self.room[flags_at + offset_of!(Flags, hdr_digest)] = header.into();
        self.room[flags_at + offset_of!(Flags, data_digest)] = data.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings;

    #[test]
    fn sizes_tell_the_layouts_apart() {
        // On the machines that Rust and Linux share, longs are as long as pointers.
        if size_of::<c_long>() != 8 {
            println!("skipped: the sizes below are those of 64 bits");
            return;
        }
        for (size, at) in [(64, 52), (72, 60), (80, 72), (88, 80)] {
            assert_eq!(flags_at(size), Some(at), "a structure of {size} bytes");
        }
        assert_eq!([flags_at(56), flags_at(96)], [None, None], "no version is like that");
    }

    /// The headers that this was built with are of a version that is known, and agree with what is written here.
    #[test]
    fn the_headers_layout_is_known() {
        use bindings::nvme_fabrics_config as Built;
        let at = flags_at(size_of::<Built>()).expect("a known version");
        assert_eq!(at, offset_of!(Built, duplicate_connect));
        assert_eq!(at + offset_of!(Flags, disable_sqflow), offset_of!(Built, disable_sqflow));
        assert_eq!(at + offset_of!(Flags, hdr_digest), offset_of!(Built, hdr_digest));
        assert_eq!(at + offset_of!(Flags, data_digest), offset_of!(Built, data_digest));
        assert_eq!(at + offset_of!(Flags, tls), offset_of!(Built, tls));
        assert_eq!(offset_of!(Prefix, queue_size), offset_of!(Built, queue_size));
        assert_eq!(offset_of!(Prefix, nr_io_queues), offset_of!(Built, nr_io_queues));
        assert_eq!(offset_of!(Prefix, reconnect_delay), offset_of!(Built, reconnect_delay));
        assert_eq!(offset_of!(Prefix, ctrl_loss_tmo), offset_of!(Built, ctrl_loss_tmo));
        assert_eq!(offset_of!(Prefix, keep_alive_tmo), offset_of!(Built, keep_alive_tmo));
        assert_eq!(offset_of!(Prefix, tos), offset_of!(Built, tos));
    }

    /// A library of each version fills a structure, and finds in it what was set, wherever that version keeps it.
    #[test]
    fn flags_land_where_the_running_version_keeps_them() {
        for size in [size_of::<V1_0>(), size_of::<V1_4>(), size_of::<V1_9>(), size_of::<V1_11>()] {
            let (mut config, measured) = Config::new(|config| {
                // SAFETY: the room is larger than any version.
                unsafe { std::ptr::write_bytes(config.cast::<u8>(), 0, size) };
            })
            .unwrap();
            assert_eq!(measured, size);
            let at = flags_at(measured).unwrap();
            config.change(|fields| (fields.queue_size, fields.tos) = (64, -1));
            config.set_digests(at, false, true);
            let set: Vec<_> = (0..ROOM_BYTES).filter(|&i| config.room[i] != 0).collect();
            let tos = offset_of!(Prefix, tos);
            assert_eq!(set, [offset_of!(Prefix, queue_size), tos, tos + 1, tos + 2, tos + 3, at + 3]);
        }
    }

    #[test]
    fn a_library_that_writes_nothing_or_everything_is_refused() {
        assert!(Config::new(|_| {}).is_none());
        // SAFETY: the room is that large.
        assert!(Config::new(|config| unsafe { std::ptr::write_bytes(config.cast::<u8>(), 0, ROOM_BYTES) }).is_none());
    }
}
