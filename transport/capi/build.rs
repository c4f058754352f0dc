//! Gives the shared library its versioned name.

#![allow(clippy::print_stdout)] // This is how a build script speaks.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvferry.so.0");
}
