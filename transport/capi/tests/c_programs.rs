//! The C example, compiled as a stranger would and run; and what the shared library exports.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where cargo put the libraries: beside this test.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn room(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What the program said, or `None` with a line that says that it is not on this machine.
fn run(command: &mut Command) -> Option<Output> {
    let Ok(output) = command.output() else {
        println!("skipped: {} is not on this machine", command.get_program().display());
        return None;
    };
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

fn example(compiler: &str, options: &[&str], link: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (program, file) = (folder.path().join("transfer"), folder.path().join("file"));
    // The loader asks for the library by its versioned name.
    std::os::unix::fs::symlink(libraries().join("libnvferry.so"), folder.path().join("libnvferry.so.0")).unwrap();
    let mut compile = Command::new(compiler);
    compile.args(["-Wall", "-Wextra", "-Werror"]).args(options).arg("-I").arg(room("include"));
    compile.arg(room("examples/transfer.c")).arg("-o").arg(&program).arg("-L").arg(libraries()).args(link);
    if run(&mut compile).is_none() {
        return;
    }
    std::fs::write(&file, vec![0; 65536]).unwrap();
    let output = run(Command::new(&program).arg(&file).env("LD_LIBRARY_PATH", folder.path())).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("all is well\n"));
}

#[test]
fn the_example_runs_with_the_shared_library() {
    example("gcc", &["-std=c11"], &["-lnvferry"]);
}

#[test]
fn the_example_runs_with_the_static_library() {
    example("gcc", &["-std=c11"], &["-l:libnvferry.a", "-lpthread", "-ldl", "-lm", "-lgcc_s"]);
}

#[test]
fn the_example_is_good_cpp() {
    example("g++", &["-std=c++11", "-x", "c++"], &["-x", "none", "-lnvferry"]);
}

#[test]
fn exports_are_the_functions_of_the_header() {
    let Some(output) = run(Command::new("nm").args(["-D", "--defined-only"]).arg(libraries().join("libnvferry.so")))
    else {
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let exported: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let header = std::fs::read_to_string(room("include/nvferry.h")).unwrap();
    let declarations = header.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    let declared: BTreeSet<&str> = declarations
        .filter(|line| !line.starts_with("typedef") && line.contains('('))
        .map(|line| line.split('(').next().unwrap().rsplit([' ', '*']).next().unwrap())
        .collect();
    assert_eq!(exported, declared);
}

#[test]
fn the_shared_library_has_a_versioned_name() {
    if let Some(output) = run(Command::new("objdump").arg("-p").arg(libraries().join("libnvferry.so"))) {
        assert!(String::from_utf8_lossy(&output.stdout).contains("SONAME               libnvferry.so.0"));
    }
}
