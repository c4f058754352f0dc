//! Makes the bindings from the libnvme headers of this machine, where the feature `libnvme` is on.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "libnvme")]
    bindings();
}

#[cfg(feature = "libnvme")]
fn bindings() {
    // Only the headers: the library is loaded when it is needed, so nothing is linked. They are not looked for with
    // pkg-config, as libnvme.pc asks for json-c's development files, which nothing here needs; headers that are not where
    // the compiler looks are named in BINDGEN_EXTRA_CLANG_ARGS.
    let bindings = bindgen::Builder::default()
        .header_contents("wrapper.h", "#include <libnvme.h>\n")
        .allowlist_function("nvme_(create_root|free_tree|lookup_host|create_ctrl|free_ctrl|ctrl_get_name)")
        .allowlist_function("nvme_(host|ctrl)_set_dhchap_key")
        .allowlist_function("nvme_(errno_to_string|get_version)")
        .allowlist_function("nvmf_(default_config|add_ctrl)")
        .allowlist_type("nvme_fabrics_config")
        .allowlist_type("nvme_connect_err")
        .blocklist_type("FILE|_IO_FILE")
        .raw_line("use libc::FILE;")
        .dynamic_library_name("Functions")
        .dynamic_link_require_all(true)
        .generate_comments(false)
        .wrap_unsafe_ops(true)
        .layout_tests(true)
        .generate();
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("libnvme.rs");
    match bindings {
        Ok(bindings) => {
            if let Err(error) = bindings.write_to_file(&out) {
                fail(&format!("cannot write {}: {error}", out.display()));
            }
        }
        Err(error) => fail(&format!(
            "the feature libnvme needs the headers of libnvme 1.x, and libclang (Debian: apt install libnvme-dev \
             libclang-dev); cannot make bindings of libnvme.h: {error}"
        )),
    }
}

#[cfg(feature = "libnvme")]
fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    std::process::exit(1);
}
