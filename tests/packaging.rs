//! What the packages say of versions, symbols and crates is what the project says.

use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn versions() {
    let version = env!("CARGO_PKG_VERSION");
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    assert!(read("packaging/debian/changelog").starts_with(&format!("kissdb ({version}-")));
    let control = read("packaging/debian/control");
    assert!(control.contains(&format!("Package: libkissdb{major}\n")));
    let recipe = format!("packaging/yocto/recipes-support/kissdb/kissdb_{version}.bb");
    assert!(read(&recipe).contains("require kissdb-crates.inc\n"));
}

/// The Debian symbols file names what the description of the ABI names.
#[test]
fn symbols() {
    let abi = read("abi/libkissdb.abi");
    let mut offered: Vec<&str> = abi
        .lines()
        .filter_map(|l| {
            l.trim()
                .strip_prefix("<elf-symbol name='")?
                .split('\'')
                .next()
        })
        .filter(|&name| name != "other_types")
        .collect();
    offered.sort_unstable();
    let file = read("packaging/debian/libkissdb2.symbols");
    let mut named: Vec<&str> = file
        .lines()
        .filter_map(|l| l.strip_prefix(' ')?.split("@Base ").next())
        .collect();
    named.sort_unstable();
    assert_eq!(named, offered);
}

/// After a change of Cargo.lock: make yocto-crates.
#[test]
fn crates_of_the_recipe() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/yocto/crates.sh");
    let made = Command::new(script).output().unwrap();
    assert!(made.status.success());
    let made = String::from_utf8(made.stdout).unwrap();
    let crates = read("Cargo.lock").matches("\nchecksum = ").count();
    assert!(crates > 0);
    assert_eq!(made.matches("crate://crates.io/").count(), crates);
    assert_eq!(made.matches(".sha256sum] = ").count(), crates);
    let kept = read("packaging/yocto/recipes-support/kissdb/kissdb-crates.inc");
    assert!(
        kept == made,
        "the recipe names other crates than Cargo.lock: make yocto-crates"
    );
}
