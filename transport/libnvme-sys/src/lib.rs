//! Bindings to libnvme, which drives the kernel's NVMe host.
