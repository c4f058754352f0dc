//! C and C++ programs, built as a stranger would: the library is installed under a prefix, found by pkg-config, linked
//! shared and static. They run alone and under valgrind. And what the shared library exports.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn room(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where cargo put the libraries: beside this test.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a program can be started here; else a line says so.
fn is_here(program: &str) -> bool {
    let is_here = Command::new(program).arg("--version").output().is_ok();
    if !is_here {
        println!("skipped: {program} is not on this machine");
    }
    is_here
}

/// What the program said; it must end well.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// How a program gets the library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Linked {
    Shared,
    Static,
}

/// The library, installed under a prefix of its own.
struct Installed {
    folder: TempDir,
}

impl Installed {
    /// `None` where programs cannot be built with this compiler.
    fn new(compiler: &str) -> Option<Self> {
        if !is_here(compiler) || !is_here("pkg-config") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut install = Command::new(room("../../scripts/install-capi"));
        run(install.arg("--from").arg(libraries()).arg(folder.path().join("prefix")).env_remove("DESTDIR"));
        Some(Self { folder })
    }

    fn lib(&self) -> PathBuf {
        self.folder.path().join("prefix/lib")
    }

    fn flags(&self, options: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        let output = run(command.args(options).arg("nvferry").env("PKG_CONFIG_PATH", self.lib().join("pkgconfig")));
        text(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }

    /// Builds a program of this room.
    fn build(&self, compiler: &[&str], source: &str, linked: Linked) -> PathBuf {
        let libs = match linked {
            Linked::Shared => self.flags(&["--libs"]),
            // As docs/c-api.md says.
            Linked::Static => self.flags(&["--static", "--libs"]),
        };
        let named = |flag: String| if flag == "-lnvferry" { "-l:libnvferry.a".to_owned() } else { flag };
        let libs = libs.into_iter().map(|flag| if linked == Linked::Static { named(flag) } else { flag });
        let program = self.folder.path().join("program");
        let mut compile = Command::new(compiler[0]);
        compile.args(&compiler[1..]).args(["-g", "-pthread", "-Wall", "-Wextra", "-Werror"]);
        compile.args(self.flags(&["--cflags"])).arg(room(source)).args(["-x", "none", "-o"]).arg(&program).args(libs);
        run(&mut compile);
        program
    }

    /// Readies a program to be run, perhaps by another. The file that it uses is its first argument.
    fn command(&self, by: &[&str], program: &Path) -> Command {
        let file = self.folder.path().join("file");
        std::fs::write(&file, vec![0; 1 << 20]).unwrap();
        let mut command = match by.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg(file).env("LD_LIBRARY_PATH", self.lib());
        command
    }
}

const C11: &[&str] = &["gcc", "-std=c11"];
const CPP11: &[&str] = &["g++", "-std=c++11", "-x", "c++"];
const CPP20: &[&str] = &["g++", "-std=c++20", "-pedantic", "-x", "c++"];
const EXAMPLE: &str = "examples/transfer.c";
const DETAILS: &str = "tests/c/details.c";
const THREADS: &str = "tests/c/threads.c";
const SIGNATURES: &str = "tests/c/signatures.c";

fn runs_well(compiler: &[&str], source: &str, linked: Linked) {
    let Some(installed) = Installed::new(compiler[0]) else { return };
    let program = installed.build(compiler, source, linked);
    let output = run(&mut installed.command(&[], &program));
    assert!(source == SIGNATURES || text(&output.stdout).ends_with("all is well\n"));
    let needed = Command::new("objdump").arg("-p").arg(&program).output().map(|output| text(&output.stdout));
    // gcc needs binutils, where objdump is, too.
    let is_shared = needed.unwrap().contains("NEEDED               libnvferry.so.0");
    assert_eq!(is_shared, linked == Linked::Shared);
}

#[test]
fn the_example_runs_with_the_shared_library() {
    runs_well(C11, EXAMPLE, Linked::Shared);
}

#[test]
fn the_example_runs_with_the_static_library() {
    runs_well(C11, EXAMPLE, Linked::Static);
}

#[test]
fn the_example_is_good_cpp_with_either_library() {
    runs_well(CPP11, EXAMPLE, Linked::Shared);
    runs_well(CPP20, EXAMPLE, Linked::Static);
}

#[test]
fn each_function_does_what_the_header_says() {
    runs_well(C11, DETAILS, Linked::Shared);
}

#[test]
fn many_threads_share_engines_and_batches() {
    runs_well(C11, THREADS, Linked::Shared);
}

#[test]
fn types_and_layouts_are_those_that_programs_were_built_for() {
    runs_well(C11, SIGNATURES, Linked::Shared);
    runs_well(&["gcc", "-std=c17", "-pedantic"], SIGNATURES, Linked::Shared);
    runs_well(CPP11, SIGNATURES, Linked::Shared);
    runs_well(CPP20, SIGNATURES, Linked::Shared);
}

#[test]
fn valgrind_finds_nothing() {
    // What a library keeps for the process's lifetime, such as its control thread's state, is no leak.
    const VALGRIND: &[&str] = &[
        "valgrind",
        "--error-exitcode=99",
        "--leak-check=full",
        "--show-leak-kinds=definite,indirect",
        "--errors-for-leak-kinds=definite,indirect",
        // Else threads that ask again and again keep all others from running.
        "--fair-sched=yes",
    ];
    let Some(installed) = is_here("valgrind").then(|| Installed::new("gcc")).flatten() else { return };
    for (source, rounds) in [(EXAMPLE, None), (DETAILS, None), (THREADS, Some("3"))] {
        let program = installed.build(C11, source, Linked::Shared);
        let output = run(installed.command(VALGRIND, &program).args(rounds));
        assert!(text(&output.stderr).contains("ERROR SUMMARY: 0 errors"), "{}", text(&output.stderr));
    }
}

#[test]
fn the_environment_reaches_engines_made_through_c() {
    let Some(installed) = Installed::new("gcc") else { return };
    let program = installed.build(C11, EXAMPLE, Linked::Shared);
    let with = |name: &str, value: &str| installed.command(&[], &program).env(name, value).output().unwrap();
    assert!(with("MC_NVMEOF_GENERIC_NUM_WORKERS", "3").status.success());
    assert!(with("MC_NVMEOF_GENERIC_DIRECT_IO", "off").status.success());
    for (name, value) in [("MC_NVMEOF_GENERIC_NUM_WORKERS", "many"), ("MC_NVMEOF_GENERIC_DIRECT_IO", "perhaps")] {
        let output = with(name, value);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("installTransport") && said.contains(name), "{said}");
    }
}

#[test]
fn an_installation_has_what_builds_look_for() {
    let Some(installed) = Installed::new("gcc") else { return };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(installed.flags(&["--modversion"]), [version]);
    let leads_to = |name: &str| std::fs::read_link(installed.lib().join(name)).unwrap();
    assert_eq!(leads_to("libnvferry.so"), Path::new("libnvferry.so.0"));
    assert_eq!(leads_to("libnvferry.so.0"), PathBuf::from(format!("libnvferry.so.{version}")));
    let header = std::fs::read(installed.folder.path().join("prefix/include/nvferry.h")).unwrap();
    assert_eq!(header, std::fs::read(room("include/nvferry.h")).unwrap());
}

#[test]
fn only_the_functions_of_the_header_are_exported() {
    if !is_here("nm") {
        return;
    }
    let output = run(Command::new("nm").args(["-D", "--defined-only"]).arg(libraries().join("libnvferry.so")));
    let symbols = text(&output.stdout);
    let exported: BTreeSet<&str> = symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
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
    if is_here("objdump") {
        let output = run(Command::new("objdump").arg("-p").arg(libraries().join("libnvferry.so")));
        assert!(text(&output.stdout).contains("SONAME               libnvferry.so.0"));
    }
}
