//! Man pages and completions are committed, because a cross-built command can't make them at the installation. They must
//! be those of the present definitions; `KISSDB_WRITE=1 cargo test -p kissdb-cli --test generated` writes them anew.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{Dir, run};

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: std::fs::DirEntry| {
        let name = e.file_name().to_string_lossy().into_owned();
        (name, std::fs::read(e.path()).expect("reads"))
    };
    let dir = std::fs::read_dir(dir).into_iter().flatten().flatten();
    dir.map(entry).collect()
}

#[test]
fn man_pages_and_completions_are_current() {
    let dir = Dir::new();
    let now = dir.path("now");
    for (sub, made) in [("man", "man"), ("completions", "completions")] {
        let to = now.join(sub);
        std::fs::create_dir_all(&to).expect("makes");
        if made == "man" {
            run("man", &[&to]).is(0);
        } else {
            for (shell, name) in [
                ("bash", "kissdb.bash"),
                ("zsh", "_kissdb"),
                ("fish", "kissdb.fish"),
            ] {
                let out = run("completions", &[&shell]).is(0).out;
                std::fs::write(to.join(name), out).expect("writes");
            }
        }
        let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(sub);
        if std::env::var_os("KISSDB_WRITE").is_some() {
            let _ = std::fs::remove_dir_all(&committed);
            std::fs::create_dir_all(&committed).expect("makes");
            for (name, bytes) in files(&to) {
                std::fs::write(committed.join(name), bytes).expect("writes");
            }
        }
        let (now, committed) = (files(&to), files(&committed));
        assert!(now.len() >= 3);
        for (name, bytes) in &now {
            assert!(
                committed.get(name) == Some(bytes),
                "{sub}/{name} is old: KISSDB_WRITE=1 cargo test -p kissdb-cli --test generated"
            );
        }
        assert_eq!(now.len(), committed.len(), "{sub}: files too many");
    }
}
