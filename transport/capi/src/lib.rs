//! The C interface: libnvferry.
