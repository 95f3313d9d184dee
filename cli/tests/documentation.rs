//! The commands of docs/command.md are run one after the other on the example's database: what they print must be what stands
//! there. `KISSDB_WRITE=1 cargo test -p kissdb-cli --test documentation` writes it anew.

mod support;

use std::path::Path;
use std::process::Command;
use support::Dir;

#[test]
fn command_md_tells_what_the_command_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("docs/command.md");
    let text = std::fs::read_to_string(&path).expect("reads");
    let dir = Dir::new();
    let work = dir.path("work");
    std::fs::create_dir(&work).expect("makes");
    let bin = Path::new(env!("CARGO_BIN_EXE_kissdb"))
        .parent()
        .expect("a directory");
    let search = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let shell = |line: &str| {
        let ran = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .current_dir(&work)
            .env("PATH", &search)
            .env_remove("NO_COLOR")
            .output()
            .expect("starts");
        String::from_utf8(ran.stdout).expect("text")
    };
    let example = root.join("examples/vehicle.db.gz");
    shell(&format!("gunzip -c '{}' > vehicle.db", example.display()));
    let mut now = String::new();
    let mut console = false;
    let mut ran = 0;
    for line in text.lines() {
        if line.starts_with("```") {
            console = line == "```console";
        } else if console {
            // An output is made anew behind its command.
            let Some(command) = line.strip_prefix("$ ") else {
                continue;
            };
            now += &format!("{line}\n{}", shell(command));
            ran += 1;
            continue;
        }
        now += line;
        now.push('\n');
    }
    assert!(ran > 20, "{ran}");
    if std::env::var_os("KISSDB_WRITE").is_some() {
        std::fs::write(&path, &now).expect("writes");
        return;
    }
    for (n, (is, was)) in (1..).zip(now.lines().zip(text.lines())) {
        assert_eq!(is, was, "line {n}");
    }
    assert_eq!(now.len(), text.len());
}
