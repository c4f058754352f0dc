//! Gives the shared library its versioned name.

#![allow(clippy::print_stdout)] // This is how a build script speaks.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvferry.so.{major}");
}
