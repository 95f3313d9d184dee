//! Paths: 33.

use super::agent::Agent;
use super::support::ffi::{self, SETTINGS};
use super::*;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

/// Bytes of the buffer that checkIsLink may fill.
const BUFFER: usize = 256;
/// Stands behind the buffer.
const GUARD: usize = 4096;

/// The answer and what was written; nothing may be written behind the buffer.
#[track_caller]
fn check_is_link(path: &Path) -> (i32, Option<Vec<u8>>) {
    let text = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let mut buffer = vec![ffi::UNTOUCHED; BUFFER + GUARD];
    // SAFETY: a C string, and more room than the call may use.
    let rc = unsafe { ffi::checkIsLink(text.as_ptr(), buffer.as_mut_ptr().cast()) };
    let behind = &buffer[BUFFER..];
    assert!(
        behind.iter().all(|&b| b == ffi::UNTOUCHED),
        "written behind the buffer"
    );
    let end = buffer[..BUFFER].iter().position(|&b| b == 0);
    (rc, end.filter(|_| rc == 1).map(|n| buffer[..n].to_vec()))
}

#[track_caller]
fn leads_to(path: &Path, wanted: impl AsRef<Path>) {
    let (rc, to) = check_is_link(path);
    assert_eq!(rc, 1, "{}", path.display());
    let to = to.expect("a NUL inside the buffer");
    assert_eq!(
        to.escape_ascii().to_string(),
        wanted
            .as_ref()
            .as_os_str()
            .as_bytes()
            .escape_ascii()
            .to_string()
    );
    let there = fs::canonicalize(path).ok();
    let to = std::ffi::OsStr::from_bytes(&to);
    assert_eq!(fs::canonicalize(to).ok(), there, "another file");
}

#[test]
fn failure_33_links_are_resolved_where_they_lie() {
    // A directory of the path is a symbolic link with a relative text. The original took that text for a path from the
    // current directory: another database was opened, or none. Fails if the answer is another file.
    let scratch = place();
    let real = scratch.db("deep/real");
    fs::create_dir_all(&real).expect("directories");
    fs::write(real.join("a.db"), "x").expect("a file");
    for (name, text, dir) in [
        ("absolute", real.as_path(), real.clone()),
        ("relative", Path::new("deep/real"), scratch.db("deep/real")),
        (
            "dotted",
            Path::new("./deep/../deep/real"),
            scratch.db("./deep/../deep/real"),
        ),
        (
            "deep/up",
            Path::new("../deep/real"),
            scratch.db("deep/../deep/real"),
        ),
        ("deep/beside", Path::new("real"), scratch.db("deep/real")),
    ] {
        let link = scratch.db(name);
        symlink(text, &link).expect("a link");
        leads_to(&link.join("a.db"), dir.join("a.db"));
    }
    for path in [
        real.join("a.db"),
        scratch.db("a.db"),
        scratch.db("nowhere/a.db"),
        "a.db".into(),
        "/a.db".into(),
        "/".into(),
        "".into(),
    ] {
        assert_eq!(check_is_link(&path).0, -1, "{}", path.display());
    }
    // The file itself being a link is not what is asked.
    symlink(real.join("a.db"), scratch.db("file.db")).expect("a link");
    assert_eq!(check_is_link(&scratch.db("file.db")).0, -1);
}

#[test]
fn failure_33_long_paths_and_long_links() {
    // A long path, or a link with a long text: the original copied both into buffers of 256 bytes on its stack. Fails if
    // anything is written behind the caller's buffer, or the answer is cut off.
    let scratch = place();
    let base = scratch.path().as_os_str().len() + 1;
    // Resolved, the path has base + name + 5 bytes; 255 and a NUL fit.
    for len in [200, 250, 254, 255, 256, 257, 300, 400] {
        let Some(room) = (len as usize).checked_sub(base + 5).filter(|&n| n > 2) else {
            continue;
        };
        let mut dir = "d".repeat(room.min(200));
        if room > 200 {
            dir = format!("{dir}/{}", "e".repeat(room - 201));
        }
        fs::create_dir_all(scratch.db(&dir)).expect("directories");
        let link = scratch.db(&format!("link{len}"));
        symlink(scratch.db(&dir), &link).expect("a link");
        let path = link.join("a.db");
        let resolved = scratch.db(&dir).join("a.db");
        assert_eq!(
            resolved.as_os_str().len(),
            len as usize,
            "the test's own sum"
        );
        if len < 256 {
            let (rc, to) = check_is_link(&path);
            assert_eq!(
                (rc, to.as_deref()),
                (1, Some(resolved.as_os_str().as_bytes())),
                "{len}"
            );
        } else {
            assert_eq!(check_is_link(&path).0, -1, "{len}");
        }
    }
    let link = scratch.db("long");
    symlink("x".repeat(4000), &link).expect("a link");
    assert_eq!(check_is_link(&link.join("a.db")).0, -1);
    for len in [255, 256, 1000, 4095, 4096, 5000, 100_000] {
        let path = format!("{}/a.db", "y".repeat(len));
        assert_eq!(check_is_link(Path::new(&path)).0, -1, "{len}");
        let slashes = format!("{}a.db", "/".repeat(len));
        assert_eq!(check_is_link(Path::new(&slashes)).0, -1, "{len} slashes");
    }
}

#[test]
fn failure_33_opens_of_long_paths() {
    // The names of the shared objects are as long as the path, and there is a limit for them: -7 from 247 bytes on. Fails
    // on a crash, if a shorter path does not work, or if a longer one leaves a file or an object behind.
    let scratch = place();
    let base = scratch.path().as_os_str().len() + 1;
    let mut agent = Agent::start();
    for len in [245, 246, 247, 248, 255, 256, 300, 1000, 4000] {
        let rest: usize = len - base;
        let mut names = Vec::new();
        let mut left = rest;
        while left > 101 {
            names.push("d".repeat(100));
            left -= 101;
        }
        names.push("f".repeat(left));
        let path = scratch.db(&names.join("/"));
        assert_eq!(path.as_os_str().len(), len, "the test's own sum");
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        for door in ["open", "middle", "middle19"] {
            let answer = agent.ask_quickly(&format!("{door} h RWCREAT {}", path.display()));
            let fits = len < 247;
            assert_eq!(answer, if fits { "0" } else { "-7" }, "{len}, {door}");
            if fits {
                assert_eq!(agent.ask("put h /a 1"), "0");
                assert_eq!(agent.ask_quickly("close h"), "0");
                is_clean("long", &path, &model(&[("/a", b"1")]));
            }
            assert_eq!(scratch.objects(), [""; 0], "{len}, {door}");
        }
    }
    for len in [4096, 5000, 100_000] {
        let path = format!("/{}", "z".repeat(len));
        assert_eq!(
            agent.ask(&format!("middle h RWCREAT {path}")),
            "-1",
            "{len}"
        );
        assert_eq!(agent.ask(&format!("open h RDONLY {path}")), "-1", "{len}");
    }
    assert_eq!(agent.end(), "exit 0");
}

#[test]
fn failure_33_a_database_through_a_linked_directory() {
    // The same as a user has it. Fails if the keys are not those of the real file.
    let scratch = place();
    fs::create_dir(scratch.db("real")).expect("a directory");
    symlink("real", scratch.db("link")).expect("a link");
    let (real, linked) = (scratch.db("real/a.db"), scratch.db("link/a.db"));
    make(&linked, SETTINGS, &[("/a", b"1")]);
    is_clean("through the link", &real, &model(&[("/a", b"1")]));
    let db = open(&real);
    finds("the real one", &db, &model(&[("/a", b"1")]));
    close(&db);
}
