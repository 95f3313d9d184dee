//! The commands of docs/integration.md work as they are written; its links lead somewhere, and those
//! of docs/guide.md.

#[allow(dead_code)]
mod installed;

use installed::{Scratch, root, succeeds};
use std::fs;
use std::process::Command;

#[test]
fn commands() {
    let text = fs::read_to_string(root().join("docs/integration.md")).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    let script: String = blocks.filter_map(|b| b.split("```").next()).collect();
    assert!(script.contains("make install") && script.contains("raise(SIGKILL)"));
    let stage = Scratch::new();
    let mut run = Command::new("bash");
    run.args(["-euo", "pipefail", "-c", &script])
        .current_dir(root())
        .env("STAGE", stage.path());
    for inherited in [
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "LD_LIBRARY_PATH",
        "PREFIX",
        "DESTDIR",
    ] {
        run.env_remove(inherited);
    }
    let printed = succeeds(&mut run);
    for line in [
        "58 settings before, 58 now.",
        "[libkissdb.so.2]",
        "13 settings of user 1",
    ] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
    assert!(printed.contains(&format!("libkissdb.so.2 => {}", stage.path().display())));
    assert_eq!(stage.shared_objects(), Vec::<std::path::PathBuf>::new());
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("libkissdb.so.{version}")));
    assert!(text.contains(&format!("Rust {} or later", env!("CARGO_PKG_RUST_VERSION"))));
}

#[test]
fn links() {
    for page in ["guide.md", "integration.md", "design.md", "reliability.md"] {
        let text = fs::read_to_string(root().join("docs").join(page)).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { page } else { file };
            let to = root().join("docs").join(file);
            assert!(to.exists(), "{page} links to {link}");
            let anchors = fs::read_to_string(&to).unwrap_or_default();
            let found = anchors
                .lines()
                .filter(|l| l.starts_with('#'))
                .any(|l| l.trim_matches(['#', ' ']).to_lowercase().replace(' ', "-") == heading);
            assert!(heading.is_empty() || found, "{page} links to {link}");
        }
    }
}
