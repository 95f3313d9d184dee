//! What `make install` and `make uninstall` do, what the library exports, and that the README's and the
//! demo's commands work as they are written.

#[allow(dead_code)]
mod installed;

use installed::{Linking, Scratch, installed, make, root, succeeds};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All that callers may link.
const EXPORTED: [&str; 19] = [
    "KISSDB_open",
    "KISSDB_close",
    "KISSDB_get",
    "KISSDB_put",
    "KISSDB_delete",
    "KISSDB_Iterator_init",
    "KISSDB_Iterator_next",
    "kdbGetShmName",
    "kdbShmemOpen",
    "getKdbShmemPtr",
    "freeKdbShmemPtr",
    "kdbShmemClose",
    "Kdb_wrlock",
    "Kdb_rdlock",
    "Kdb_unlock",
    "checkIsLink",
    "cleanKdbStruct",
    "pcoCrc32",
    "kissdb_set_log",
];

/// Files and links below a directory, relative to it.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(dir).unwrap().to_path_buf());
            }
        }
    }
    found
}

#[test]
fn exports() {
    let nm = succeeds(
        Command::new("nm")
            .args(["-D", "--defined-only"])
            .arg(installed().lib().join("libkissdb.so")),
    );
    let found: BTreeSet<_> = nm
        .lines()
        .filter_map(|l| l.split_whitespace().last())
        .collect();
    assert_eq!(found, BTreeSet::from(EXPORTED));
}

#[test]
fn links_and_soname() {
    let version = env!("CARGO_PKG_VERSION");
    let soname = format!("libkissdb.so.{}", env!("CARGO_PKG_VERSION_MAJOR"));
    let file = format!("libkissdb.so.{version}");
    let installed = installed();
    let lib = installed.lib();
    assert_eq!(
        fs::read_link(lib.join("libkissdb.so")).unwrap(),
        Path::new(&soname)
    );
    assert_eq!(fs::read_link(lib.join(&soname)).unwrap(), Path::new(&file));
    let dynamic = succeeds(
        Command::new("readelf")
            .args(["-d", "-W"])
            .arg(lib.join(&file)),
    );
    let line = dynamic.lines().find(|l| l.contains("(SONAME)")).unwrap();
    assert!(line.contains(&format!("[{soname}]")), "{line}");
    assert_eq!(installed.pkg_config(&["--modversion"]), [version]);
}

/// What docs/integration.md says that a target must have: nothing beside the C library, of which the loader and
/// libm are parts, and what unwinds.
#[test]
fn needed() {
    let installed = installed();
    let library = installed.lib().join("libkissdb.so");
    for file in [library, installed.prefix().join("bin/kissdb")] {
        let dynamic = succeeds(Command::new("readelf").args(["-d", "-W"]).arg(&file));
        let needed: BTreeSet<_> = dynamic
            .lines()
            .filter(|l| l.contains("(NEEDED)"))
            .filter_map(|l| l.split(['[', ']']).nth(1))
            .filter(|name| !name.starts_with("ld-linux") && *name != "libm.so.6")
            .collect();
        let expected = BTreeSet::from(["libc.so.6", "libgcc_s.so.1"]);
        assert_eq!(needed, expected, "{}", file.display());
    }
}

/// A packager's directories; everything that was put there goes away again, and nothing else does.
#[test]
fn packaging() {
    let stage = Scratch::new();
    let variables = || {
        [
            format!("DESTDIR={}", stage.path().display()),
            "PREFIX=/usr".to_string(),
            "LIBDIR=/usr/lib/machine".to_string(),
        ]
    };
    make("install", variables());
    let version = env!("CARGO_PKG_VERSION");
    let commands = fs::read_dir(root().join("cli/man")).unwrap();
    let commands: Vec<String> = commands
        .map(|e| format!("usr/share/man/man1/{}", e.unwrap().file_name().display()))
        .collect();
    assert!(commands.contains(&"usr/share/man/man1/kissdb.1".to_string()));
    let expected = [
        "usr/bin/kissdb".to_string(),
        "usr/include/kissdb.h".to_string(),
        "usr/include/kissdb.hpp".to_string(),
        "usr/lib/machine/cmake/kissdb/kissdb-config-version.cmake".to_string(),
        "usr/lib/machine/cmake/kissdb/kissdb-config.cmake".to_string(),
        "usr/lib/machine/libkissdb.a".to_string(),
        "usr/lib/machine/libkissdb.so".to_string(),
        format!(
            "usr/lib/machine/libkissdb.so.{}",
            env!("CARGO_PKG_VERSION_MAJOR")
        ),
        format!("usr/lib/machine/libkissdb.so.{version}"),
        "usr/lib/machine/pkgconfig/kissdb.pc".to_string(),
        "usr/share/bash-completion/completions/kissdb".to_string(),
        "usr/share/fish/vendor_completions.d/kissdb.fish".to_string(),
        "usr/share/zsh/site-functions/_kissdb".to_string(),
    ];
    let functions = EXPORTED.into_iter().chain(["kissdb"]);
    let functions = functions.map(|name| format!("usr/share/man/man3/{name}.3"));
    assert_eq!(
        files(stage.path()),
        expected
            .into_iter()
            .chain(functions)
            .chain(commands)
            .map(PathBuf::from)
            .collect()
    );
    let pc = fs::read_to_string(stage.path().join("usr/lib/machine/pkgconfig/kissdb.pc")).unwrap();
    assert!(pc.contains("prefix=/usr\nlibdir=/usr/lib/machine\nincludedir=/usr/include\n"));
    assert!(!pc.contains('@') && !pc.contains(stage.path().to_str().unwrap()));

    let other = stage.path().join("usr/lib/machine/libother.so");
    fs::write(&other, "").unwrap();
    make("uninstall", variables());
    assert_eq!(
        files(stage.path()),
        BTreeSet::from([PathBuf::from("usr/lib/machine/libother.so")])
    );
}

/// `examples/` is a CMake project: shared and static, in a prefix that was moved after the installation
/// and whose headers are elsewhere; another major number, or a newer one, is not found.
#[test]
fn cmake() {
    let dir = Scratch::new();
    let (first, prefix) = (dir.path().join("first"), dir.path().join("prefix"));
    let (lib, include) = (first.join("lib/machine"), first.join("include/other"));
    make(
        "install",
        [
            format!("PREFIX={}", first.display()),
            format!("LIBDIR={}", lib.display()),
            format!("INCLUDEDIR={}", include.display()),
        ],
    );
    fs::rename(&first, &prefix).unwrap();
    let (build, db) = (dir.path().join("build"), dir.path().join("settings.db"));
    let package = format!(
        "-Dkissdb_DIR={}",
        prefix.join("lib/machine/cmake/kissdb").display()
    );
    succeeds(
        Command::new("cmake")
            .args(["-Werror=dev", "-S"])
            .arg(root().join("examples"))
            .arg("-B")
            .arg(&build)
            .arg(&package),
    );
    succeeds(Command::new("cmake").arg("--build").arg(&build));
    let gz = root().join("examples/vehicle.db.gz");
    succeeds(
        Command::new("sh")
            .args(["-c", "gunzip -c \"$0\" > \"$1\""])
            .args([&gz, &db]),
    );
    for program in ["settings", "settings-cpp"] {
        let mut run = Command::new(build.join(program));
        succeeds(run.arg(&db).env_remove("LD_LIBRARY_PATH"));
    }
    let needed = |program: &str| {
        let mut readelf = Command::new("readelf");
        succeeds(readelf.arg("-dW").arg(build.join(program)))
    };
    assert!(needed("settings").contains("[libkissdb.so.2]"));
    assert!(!needed("settings-cpp").contains("libkissdb"));

    for (version, found) in [
        ("2", true),
        ("2.3.0", true),
        ("3", false),
        ("1", false),
        ("2.99", false),
    ] {
        let project = dir.path().join(version);
        fs::create_dir(&project).unwrap();
        let text = format!(
            "cmake_minimum_required(VERSION 3.13)\nproject(p C)\nfind_package(kissdb {version} REQUIRED)\n"
        );
        fs::write(project.join("CMakeLists.txt"), text).unwrap();
        let configured = Command::new("cmake")
            .args([&project, Path::new(&package)])
            .current_dir(&project)
            .output()
            .unwrap();
        assert_eq!(
            configured.status.success(),
            found,
            "find_package(kissdb {version})"
        );
    }
}

/// The manual page has every function and every number of the header, its example works, and nothing
/// is wrong with its markup.
#[test]
fn man_page() {
    let path = root().join("man/kissdb.3");
    let page = fs::read_to_string(&path).unwrap();
    succeeds(
        Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(&path),
    );
    for name in EXPORTED {
        assert!(page.contains(&format!(".Nm {name}")), "{name} in NAME");
        let synopsis = [format!(".Fn {name} "), format!(".Fo {name}\n")];
        assert!(
            synopsis.iter().any(|s| page.contains(s)),
            "{name} in SYNOPSIS"
        );
        assert!(
            page.contains(&format!(".Fn {name}\n")) || page.contains(&format!(".Fn {name} ,\n")),
            "{name} is not described"
        );
    }
    let header = fs::read_to_string(root().join("include/kissdb.h")).unwrap();
    for line in header.lines() {
        let Some((name, value)) = line
            .strip_prefix("#define KISSDB_")
            .and_then(|l| l.split_once(' '))
        else {
            continue;
        };
        let group = name.split('_').next().unwrap();
        if !["ERROR", "OPEN", "WRITE", "ITERATOR", "LOG"].contains(&group) {
            continue;
        }
        let number = value.trim_matches(['(', ')']).replace('-', "\\-");
        let numbered = ["ERROR", "ITERATOR"].contains(&group);
        let full = format!("KISSDB_{name}");
        // Once with its number on the same line or the next one.
        let shown = page.split(&full).skip(1).any(|after| {
            let near: Vec<_> = after.lines().take(2).collect();
            !numbered || near.join(" ").contains(&number)
        });
        assert!(shown, "{full} {number}");
    }
    let (_, example) = page.split_once(".Sh EXAMPLES\n.Bd -literal\n").unwrap();
    let (example, _) = example.split_once(".Ed").unwrap();
    let dir = Scratch::new();
    let source = dir.path().join("page.c");
    let text = format!("#define _DEFAULT_SOURCE\n{}", example.replace("\\e", "\\"));
    fs::write(&source, text).unwrap();
    let installed = installed();
    let program = installed.compile(&source, Linking::Shared);
    let said = succeeds(Command::new(program).current_dir(dir.path()));
    assert_eq!(said, "volume 11\n");
}

/// The blocks of the README in a language.
fn blocks(readme: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    readme
        .split(&start)
        .skip(1)
        .map(|b| b.split("```").next().unwrap().to_string())
        .collect()
}

/// Its program, its commands for linking, and the targets of make that it names.
#[test]
fn readme() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("libkissdb.so.{version}")));
    let rust = format!("Rust {}", env!("CARGO_PKG_RUST_VERSION"));
    assert!(
        text.contains(&rust),
        "README says another version than {rust}"
    );

    let dir = Scratch::new();
    let [app] = &blocks(&text, "c")[..] else {
        panic!("one C program")
    };
    fs::write(dir.path().join("app.c"), app).unwrap();
    let [link, link_static] = &blocks(&text, "sh")[..] else {
        panic!("two ways to link")
    };
    // The commands run where app.c is; make is told where its Makefile is.
    let script = format!(
        "make() {{ command make -C '{}' \"$@\"; }}\n{link}\nrm settings.db\n{link_static}\n./app-static\n",
        root().display()
    );
    let printed = succeeds(
        Command::new("bash")
            .args(["-euc", &script])
            .current_dir(dir.path())
            .env("PREFIX", dir.path().join("prefix"))
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .env_remove("LD_LIBRARY_PATH"),
    );
    assert_eq!(printed.matches("volume 11, 2 bytes\n").count(), 2);
    assert!(dir.shared_objects().is_empty());

    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for target in ["demo", "test", "install", "uninstall"] {
        assert!(text.contains(&format!("make {target}")));
        assert!(makefile.contains(&format!("\n{target}:")));
    }
    // Files that it points to.
    for link in text.split("](").skip(1) {
        let file = link.split(')').next().unwrap();
        assert!(root().join(file).exists(), "{file}");
    }
}

#[test]
fn demo() {
    let dir = Scratch::new();
    let printed = make(
        "demo",
        [format!("DEMO={}", dir.path().join("demo").display())],
    );
    for line in [
        "  /node/system/odometer_km                      6 B  128512 km",
        "  /node/system/odometer_km                      6 B  128530 km",
        "  /user/1/seat/1/seat/height_mm                 3 B  412 mm",
        "  /node/tmp/update_pending                        -  (no such key)",
        "58 settings before, 58 now.",
        "  13 settings of user 1",
        "  /user/1/example/volume: (none), now 1",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line}\n{printed}");
    }
    assert!(dir.shared_objects().is_empty());
}

/// The example's database is the one of the conformance suite.
#[test]
fn demo_database() {
    let ours = fs::read(root().join("examples/vehicle.db.gz")).unwrap();
    let golden = fs::read(root().join("tests/data/golden/vehicle.db.gz")).unwrap();
    assert!(ours == golden);
}
