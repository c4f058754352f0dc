//! Gives libFuzzer's inputs to the target that the environment variable `NVFERRY_FUZZ_TARGET` names.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<nvferry_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("NVFERRY_FUZZ_TARGET").unwrap_or_default();
    nvferry_fuzz::target(&name).expect("NVFERRY_FUZZ_TARGET names a target: scripts/fuzz --list tells which there are")
});

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
