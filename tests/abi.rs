//! The ABI that callers were compiled against, `abi/libkissdb.abi`, and what the header and the
//! library offer today. After a change that is meant: `make abi-bless`.
//!
//! abidw reads types out of debug information. Rust's is full of this library's inside and differs
//! from compiler to compiler, so a stub stands for the library: the header's functions with empty
//! bodies, compiled by the C compiler. That the header is that of the source is checked by
//! `tests/header.rs`, its layouts against the library's by `ctest/layout.c`; here, that stub and
//! library have the same symbols.
#![cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]

#[allow(dead_code)]
mod installed;

use installed::{Scratch, installed, make, root, succeeds};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Structs that no function mentions, but callers use.
const TYPES: &str =
    "void other_types(struct Header_s *a, struct DataBlock_s *b) { (void)a; (void)b; }\n";

/// A definition for each function that a header declares.
fn bodies(header: &str) -> String {
    let (_, declarations) = header
        .split_once("extern \"C\" {")
        .expect("a header for C++");
    let code: String = declarations
        .split("/*")
        .map(|part| part.split_once("*/").map_or(part, |(_, code)| code))
        .collect();
    code.lines()
        .filter(|line| !line.starts_with('#') && !line.contains("extern \"C\""))
        .collect::<Vec<_>>()
        .join("\n")
        .split(';')
        .filter(|declaration| declaration.contains('('))
        .map(|declaration| format!("{declaration} {{ __builtin_trap(); }}\n"))
        .collect()
}

/// Compiles the stub of a header in `dir`.
fn stub(dir: &Path, header: &str) -> PathBuf {
    fs::write(dir.join("kissdb.h"), header).unwrap();
    let text = format!("#include \"kissdb.h\"\n{}{TYPES}", bodies(header));
    fs::write(dir.join("stub.c"), text).unwrap();
    let soname = format!(
        "-Wl,-soname,libkissdb.so.{}",
        env!("CARGO_PKG_VERSION_MAJOR")
    );
    succeeds(
        Command::new(std::env::var_os("CC").unwrap_or("gcc".into()))
            .current_dir(dir)
            .args([
                "-g",
                "-gdwarf-4",
                "-shared",
                "-fPIC",
                "-D_GNU_SOURCE",
                &soname,
            ])
            .arg(format!("-fdebug-prefix-map={}=.", dir.display()))
            .args(["-o", "libkissdb.so", "stub.c"]),
    );
    dir.join("libkissdb.so")
}

fn symbols(library: &Path) -> BTreeSet<String> {
    let printed = succeeds(
        Command::new("nm")
            .args(["-D", "--defined-only"])
            .arg(library),
    );
    let names = printed.lines().filter_map(|l| l.split_whitespace().last());
    names.map(String::from).collect()
}

/// What abidiff has against a library; empty if nothing.
fn differences(library: &Path) -> String {
    let compared = Command::new("abidiff")
        // Harmless for compiled callers: a field with another name.
        .arg("--harmless")
        .arg("--suppressions")
        .arg(root().join("abi/suppressions.ini"))
        .arg(root().join("abi/libkissdb.abi"))
        .arg(library)
        .output()
        .expect("abidiff (Debian: abigail-tools)");
    let printed = String::from_utf8_lossy(&compared.stdout).into_owned()
        + &String::from_utf8_lossy(&compared.stderr);
    // 4: a change, 8: one that breaks callers, 1 and 2: it could not compare.
    match compared.status.code() {
        Some(0) => String::new(),
        code => format!("abidiff: {code:?}\n{printed}"),
    }
}

fn header() -> String {
    fs::read_to_string(root().join("include/kissdb.h")).unwrap()
}

#[test]
fn abi_is_the_committed_one() {
    let dir = Scratch::new();
    let library = stub(dir.path(), &header());
    if std::env::var_os("KISSDB_BLESS").is_some() {
        let mut abidw = Command::new("abidw");
        abidw
            .args([
                "--no-corpus-path",
                "--no-comp-dir-path",
                "--no-show-locs",
                "--no-elf-needed",
            ])
            .arg("--out-file")
            .arg(root().join("abi/libkissdb.abi"))
            .arg(&library);
        succeeds(&mut abidw);
    }
    let found = differences(&library);
    assert!(
        found.is_empty(),
        "the ABI has changed; if it is meant to: make abi-bless\n{found}"
    );

    let installed = installed();
    let mut offered = symbols(&installed.lib().join("libkissdb.so"));
    offered.insert("other_types".into());
    assert_eq!(
        symbols(&library),
        offered,
        "the header and the library differ"
    );
}

/// Each of these would break callers that exist. One by one they are made, and found.
#[test]
fn changes_are_found() {
    let dir = Scratch::new();
    let header = header();
    for (what, from, to) in [
        (
            "a field moved",
            "    uint16_t htSize;",
            "    uint64_t htSize_wide;\n    uint16_t htSize;",
        ),
        (
            "a field narrower",
            "    uint64_t keySize;",
            "    uint32_t keySize;",
        ),
        (
            "a field gone, its place kept",
            "    int htFd;",
            "    int unused;",
        ),
        (
            "a struct that no function mentions",
            "    uint64_t closeFailed;",
            "    uint32_t closeFailed;",
        ),
        (
            "an answer of another type",
            "int KISSDB_close(",
            "long KISSDB_close(",
        ),
        (
            "an argument more",
            "int KISSDB_close(struct KISSDB *db)",
            "int KISSDB_close(struct KISSDB *db, int how)",
        ),
        (
            "an argument of another type",
            "int valueSize",
            "long valueSize",
        ),
        (
            "a function gone",
            "unsigned int pcoCrc32(",
            "static inline unsigned int pcoCrc32(",
        ),
        (
            "a function more",
            "unsigned int pcoCrc32(",
            "int another(void);\nunsigned int pcoCrc32(",
        ),
        (
            "a callback of another type",
            "const char *message)",
            "char message)",
        ),
        (
            "Kdb_bool wider",
            "typedef int16_t Kdb_bool",
            "typedef int32_t Kdb_bool",
        ),
    ] {
        assert!(
            header.contains(from),
            "{what}: the header has no {from:?} any more"
        );
        let library = stub(dir.path(), &header.replacen(from, to, 1));
        let found = differences(&library);
        assert!(
            found.contains("abidiff: Some(4)") || found.contains("abidiff: Some(12)"),
            "{what}: not found\n{found}"
        );
    }
}

/// The target that the messages above send people to.
#[test]
fn make_target() {
    let said = make("abi-bless", ["--dry-run".to_string()]);
    assert!(
        said.contains("KISSDB_BLESS=1") && said.contains("--test abi"),
        "{said}"
    );
}
