//! The programs of `ctest/`, built in strict C99 and C++17 against the installed library and run.
//!
//! With `KISSDB_VALGRIND=1` under memcheck, children included: an invalid access or a leak fails
//! the test. The programs make fewer rounds then.

#[allow(dead_code)]
mod installed;

use installed::{Linking, Scratch, installed, root, succeeds};
use std::path::Path;
use std::process::Command;

fn run(source: &str, linking: Linking) {
    let installed = installed();
    run_program(&installed.compile(&root().join("ctest").join(source), linking));
}

fn run_program(program: &Path) {
    let scratch = Scratch::new();
    succeeds(
        command(program)
            .env("TMPDIR", scratch.path())
            .env_remove("LD_LIBRARY_PATH"),
    );
    let left = scratch.shared_objects();
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn command(program: &Path) -> Command {
    if std::env::var_os("KISSDB_VALGRIND").is_none() {
        return Command::new(program);
    }
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["-q", "--error-exitcode=99", "--leak-check=full"])
        .arg("--errors-for-leak-kinds=definite,indirect,possible")
        // A read that SIGBUS interrupted goes on after the handler: it needs all its registers.
        .arg("--vex-iropt-register-updates=allregs-at-mem-access")
        .arg(program);
    valgrind
}

#[test]
fn layout() {
    run("layout.c", Linking::Shared);
}

#[test]
fn functions() {
    run("functions.c", Linking::Shared);
}

#[test]
fn middleware() {
    run("middleware.c", Linking::Shared);
}

#[test]
fn sharing() {
    run("sharing.c", Linking::Shared);
}

#[test]
fn odd() {
    run("odd.c", Linking::Shared);
}

#[test]
fn threads() {
    run("threads.c", Linking::Shared);
}

#[test]
fn resources() {
    run("resources.c", Linking::Shared);
}

#[test]
fn memory() {
    run("memory.c", Linking::Shared);
}

#[test]
fn log() {
    run("log.c", Linking::Shared);
}

#[test]
fn cpp() {
    run("cpp.cc", Linking::Shared);
}

#[test]
fn cpp_static() {
    run("cpp.cc", Linking::Static);
}

#[test]
fn wrapper() {
    run("wrapper.cc", Linking::Shared);
}

/// A program that can't have exceptions uses the other half of kissdb.hpp.
#[test]
fn wrapper_without_exceptions() {
    let dir = Scratch::new();
    for header in ["check.h", "wrapper.cc"] {
        std::fs::copy(root().join("ctest").join(header), dir.path().join(header)).unwrap();
    }
    let source = dir.path().join("wrapper-codes.cc");
    std::fs::rename(dir.path().join("wrapper.cc"), &source).unwrap();
    let installed = installed();
    let options = ["-fno-exceptions", "-fno-rtti"];
    let program = installed.compile_with(&source, Linking::Shared, &options);
    run_program(&program);
}

#[test]
fn middleware_static() {
    run("middleware.c", Linking::Static);
}

/// The header needs no other before it and no macro, and can come twice.
#[test]
fn header_alone() {
    let installed = installed();
    let dir = Scratch::new();
    for name in ["alone.c", "alone.cc"] {
        let source = dir.path().join(name);
        let text = "#include <kissdb.h>\n#include <kissdb.h>\nint main(void) { return KISSDB_close(0) != -3; }\n";
        std::fs::write(&source, text).unwrap();
        let program = installed.compile(&source, Linking::Shared);
        succeeds(&mut Command::new(program));
    }
}
