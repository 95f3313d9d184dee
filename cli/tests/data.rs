//! What goes in comes out: list, get, put, delete, create, dump, load, diff, copy, compact; exit statuses, pipes.

mod support;

use kissdb::Database;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use support::{Bytes, Dir, PAIR, command, feed, run, settings};

const KEYS: [(&str, &str); 3] = [("/a", "one"), ("/b", "two\n"), ("/ä", "\u{1}\u{0}")];

#[test]
fn values_go_in_and_come_out() {
    let dir = Dir::new();
    let db = dir.path("a.db");
    run("create", &[&db]).is(0);
    run("create", &[&db]).is(2).says("is there already");
    run("put", &[&db, &"k", &"v"]).is(0);
    assert_eq!(run("get", &[&db, &"k"]).is(0).out, "v\n");
    run("put", &[&db, &"k", &"-1"]).is(0);
    assert_eq!(run("get --raw", &[&db, &"k"]).is(0).out, "-1");
    feed("put", &[&db, &"bin"], b"\x00\xff").is(0);
    assert_eq!(run("get", &[&db, &"bin"]).is(0).out, "\\x00\\xff\n");
    assert_eq!(run("get --hex", &[&db, &"bin"]).is(0).out, "00ff\n");
    feed("put --hex", &[&db, &"hex", &"-"], b"61 62\n").is(0);
    assert_eq!(
        run("list", &[&db]).is(0).out,
        "bin\t2\t\\x00\\xff\nhex\t2\tab\nk\t2\t-1\n"
    );
    assert_eq!(run("list -k", &[&db, &"h"]).is(0).out, "hex\n");
    let lines = run("list --json", &[&db]).is(0).json_lines();
    assert_eq!(lines[0]["value_base64"], "AP8=");
    assert_eq!(
        lines[2],
        serde_json::json!({"key": "k", "size": 2, "value": "-1"})
    );
    run("get", &[&db, &"nope"]).is(1).says("no key nope");
    run("delete", &[&db, &"k", &"nope"])
        .is(1)
        .says("no key nope");
    run("delete", &[&db, &"bin", &"hex"]).is(0);
    assert_eq!(run("list", &[&db]).is(0).out, "");
    assert!(dir.objects().is_empty());
}

/// A value in hexadecimal with many blanks came through a pipe. It was cut off without a word, and what was left was stored as a
/// shorter value.
#[test]
fn a_value_that_is_too_long_is_refused_and_not_cut_off() {
    let dir = Dir::new();
    let db = dir.path("a.db");
    settings(&db, &KEYS);
    let digits = format!("61{}62", " ".repeat(4 * 8028));
    feed("put --hex", &[&db, &"/a"], digits.as_bytes())
        .is(2)
        .says("standard input: more than 32112 bytes");
    feed("put", &[&db, &"/a"], &[b'v'; 4 * 8028 + 1])
        .is(2)
        .says("standard input: more than 32112 bytes");
    assert_eq!(run("get", &[&db, &"/a"]).is(0).out, "one\n");
    let digits = format!("61{}62", " ".repeat(4 * 8028 - 4));
    feed("put --hex", &[&db, &"/a"], digits.as_bytes()).is(0);
    assert_eq!(run("get", &[&db, &"/a"]).is(0).out, "ab\n");
}

#[test]
fn wrong_use_is_status_2_and_one_line() {
    let dir = Dir::new();
    let (db, none) = (dir.path("a.db"), dir.path("none.db"));
    settings(&db, &KEYS);
    for words in ["info", "list", "dump", "check", "repair", "compact", "map"] {
        run(words, &[&none])
            .is(2)
            .says("no such file; `kissdb create");
    }
    run("put", &[&none, &"k", &"v"]).is(2).says("no such file");
    assert!(!none.exists());
    run("put", &[&db, &"", &"v"])
        .is(2)
        .says("a key has 1 to 127 bytes");
    run("put", &[&db, &"k".repeat(128), &"v"])
        .is(2)
        .says("a key has 1 to 127 bytes");
    run("put", &[&db, &"k", &"v".repeat(8029)])
        .is(2)
        .says("at most 8028 bytes");
    run("put --hex", &[&db, &"k", &"0"])
        .is(2)
        .says("not hexadecimal");
    std::fs::write(&none, vec![b'x'; 5000]).expect("writes");
    run("list", &[&none]).is(2).says("not a database");
    run("list", &[&"/tmp"]).is(2).says("not a regular file");
    run("create --kind 511/1/1", &[&dir.path("x.db")]).is(2);
    run("nonsense", &[]).is(2);
    run("list", &[]).is(2);
}

#[test]
fn resources_are_decoded_and_come_back() {
    let dir = Dir::new();
    let (db, again) = (dir.path("r.db"), dir.path("again.db"));
    run("create --kind resources", &[&db]).is(0);
    let line = r#"{"key":"lang","resource":{"policy":"write-through","storage":"custom","type":"key","permission":"read-only","max_size":32,"responsible":"hmi","custom_name":"","customID":""}}"#;
    feed("load", &[&db], line.as_bytes()).is(0);
    let get = run("get", &[&db, &"lang"]).is(0).out;
    assert!(
        get.contains("policy       write-through\n") && get.contains("max_size     32\n"),
        "{get}"
    );
    let list = run("list", &[&db]).is(0).out;
    assert_eq!(
        list,
        "lang\t212\tpolicy=write-through storage=custom type=key permission=read-only max_size=32 responsible=hmi\n"
    );
    let dump = run("dump", &[&db]).is(0).out;
    assert_eq!(dump.lines().nth(1), Some(line));
    feed("load", &[&again], dump.as_bytes()).is(0);
    run("diff", &[&db, &again]).is(0);
    assert_eq!(
        run("info --json", &[&again]).is(0).json()["sizes"]["value"],
        212
    );
    let bad = line.replace("custom\"", "customs\"");
    feed("load", &[&db], bad.as_bytes())
        .is(2)
        .says("line 1: storage is one of local, shared, custom");
}

#[test]
fn a_dump_loads_and_a_bad_one_changes_nothing() {
    let dir = Dir::new();
    let (a, b) = (dir.path("a.db"), dir.path("b.db"));
    settings(&a, &KEYS);
    let dump = run("dump", &[&a]).is(0).out;
    assert_eq!(dump.lines().count(), 4);
    feed("load", &[&b], dump.as_bytes()).is(0);
    run("diff", &[&a, &b]).is(0);
    assert_eq!(run("dump", &[&b]).is(0).out, dump);
    std::fs::set_permissions(&b, PermissionsExt::from_mode(0o640)).expect("sets");
    for how in ["load", "load --in-place"] {
        let before = std::fs::read(&b).expect("reads");
        for bad in [
            "{\"key\":\"x\",\"value\":\"1\"}\nnonsense",
            "{\"key\":\"x\",\"value\":\"1\"}\n{\"key\":\"y\"}",
            "{\"key\":\"x\",\"value\":\"1\"}\n{\"key\":\"x\",\"value\":\"2\"}",
            "{\"key\":\"x\",\"value\":\"1\"}\n{\"key\":\"\",\"value\":\"2\"}",
        ] {
            feed(how, &[&b], bad.as_bytes())
                .is(2)
                .says("nothing was changed");
        }
        assert_eq!(std::fs::read(&b).expect("reads"), before);
        let more =
            format!("{{\"key\":\"new\",\"value\":\"{how}\"}}\n{{\"key\":\"/a\",\"deleted\":true}}");
        feed(how, &[&b], more.as_bytes()).is(0);
        assert_eq!(run("list -k", &[&b]).is(0).out, "/b\n/ä\nnew\n");
        assert_eq!(run("get", &[&b, &"new"]).is(0).out, format!("{how}\n"));
        feed(&format!("{how} --replace"), &[&b], dump.as_bytes()).is(0);
        run("diff", &[&a, &b]).is(0);
        assert_eq!(
            std::fs::metadata(&b).expect("is there").mode() & 0o777,
            0o640
        );
    }
    // Nothing is left beside it.
    assert_eq!(
        std::fs::read_dir(b.parent().expect("a directory"))
            .expect("reads")
            .count(),
        2
    );
}

/// A load in place was cut off after the old values were written down: the next one says so, and they can be put back.
#[test]
fn a_load_that_was_cut_off_can_be_undone() {
    let dir = Dir::new();
    let (a, undo) = (dir.path("a.db"), dir.path("a.db.undo-load"));
    settings(&a, &KEYS);
    std::fs::write(
        &undo,
        "{\"key\":\"/a\",\"value\":\"old\"}\n{\"key\":\"/b\",\"deleted\":true}\n",
    )
    .expect("writes");
    feed("load --in-place", &[&a], b"{\"key\":\"x\",\"value\":\"1\"}")
        .is(2)
        .says("an earlier load was cut off");
    run("load --in-place", &[&a, &undo]).is(0);
    assert_eq!(
        run("list", &[&a]).is(0).out,
        "/a\t3\told\n/ä\t2\t\\x01\\x00\n"
    );
    assert!(!undo.exists());
}

#[test]
fn diff_tells_what_differs() {
    let dir = Dir::new();
    let (a, b) = (dir.path("a.db"), dir.path("b.db"));
    settings(&a, &[("only a", "1"), ("same", "2"), ("other", "3")]);
    settings(&b, &[("only b", "1"), ("same", "2"), ("other", "4")]);
    let out = run("diff", &[&a, &b]).is(1).out;
    assert_eq!(out, "- only a  1\n+ only b  1\n~ other  3  ->  4\n");
    let json = run("diff --json", &[&a, &b]).is(1).json_lines();
    assert_eq!(json.len(), 3);
    assert!(
        json.contains(
            &serde_json::json!({"change": "changed", "key": "other", "a": "3", "b": "4"})
        )
    );
    run("diff", &[&a, &a]).is(0);
    run("diff", &[&a, &dir.path("none")]).is(2);
}

/// Both copies of a record are damaged. A list, a dump and a comparison went on without it and answered 0, so that a script took a part
/// for the whole.
#[test]
fn what_was_left_out_shows_in_the_status() {
    let dir = Dir::new();
    let (a, b, out) = (dir.path("a.db"), dir.path("b.db"), dir.path("out"));
    settings(&a, &KEYS);
    let mut sick = Bytes::of(&a);
    sick.flip(PAIR + 150).flip(PAIR + 8192 + 150).write();
    let left_out = "1 record left out, both copies of each are damaged";
    run("copy", &[&a, &b]).is(1).says(left_out);
    for words in ["list", "list -k", "list --json", "dump"] {
        let ran = run(words, &[&a]).is(1).says(left_out);
        assert!(ran.out.contains("/b"), "{}", ran.out);
    }
    run("dump --output", &[&out, &a]).is(1).says(left_out);
    assert_eq!(
        std::fs::read_to_string(&out)
            .expect("reads")
            .lines()
            .count(),
        3
    );
    // What is left is the same.
    assert_eq!(run("diff", &[&a, &b]).is(1).says(left_out).out, "");
    assert_eq!(run("diff", &[&b, &a]).is(1).says(left_out).out, "");
    run("list", &[&b]).is(0);
}

#[test]
fn a_copy_has_the_same_contents_and_the_same_bytes_each_time() {
    let dir = Dir::new();
    let (a, b, c) = (dir.path("a.db"), dir.path("b.db"), dir.path("c.db"));
    settings(&a, &KEYS);
    run("put", &[&a, &"/b", &"more"]).is(0);
    run("delete", &[&a, &"/a"]).is(0);
    run("copy", &[&a, &b]).is(0);
    run("diff", &[&a, &b]).is(0);
    run("copy", &[&a, &b]).is(2).says("is there already");
    run("copy --force", &[&a, &a])
        .is(2)
        .says("is the database itself");
    run("copy", &[&b, &c]).is(0);
    assert_eq!(
        std::fs::read(&b).expect("reads"),
        std::fs::read(&c).expect("reads")
    );
    settings(&b, &[("x", "y")]);
    run("copy --force", &[&a, &b]).is(0);
    run("diff", &[&a, &b]).is(0);
}

#[test]
fn compact_keeps_contents_and_rights_and_refuses_under_others() {
    let dir = Dir::new();
    let (a, link, hard) = (dir.path("a.db"), dir.path("link.db"), dir.path("hard.db"));
    settings(&a, &KEYS);
    run("delete", &[&a, &"/a"]).is(0);
    std::fs::set_permissions(&a, PermissionsExt::from_mode(0o604)).expect("sets");
    let before = run("dump", &[&a]).is(0).out;
    std::os::unix::fs::symlink(&a, &link).expect("links");
    let mut db = Database::open(&a).expect("opens");
    run("compact", &[&a]).is(2).says("in use by process");
    feed("load", &[&a], b"").is(2).says("--in-place");
    run("repair", &[&a]).is(2).says("in use by process");
    db.put("k", b"v").expect("puts");
    db.delete("k").expect("deletes");
    drop(db);
    std::fs::hard_link(&a, &hard).expect("links");
    run("compact", &[&a]).is(2).says("2 names");
    std::fs::remove_file(&hard).expect("removes");
    // Through the link, which stays one.
    let out = run("compact", &[&link]).is(0).out;
    assert_eq!(out, "80 KiB before, 48 KiB now\n");
    assert!(link.is_symlink());
    assert_eq!(
        std::fs::metadata(&a).expect("is there").mode() & 0o777,
        0o604
    );
    assert_eq!(run("dump", &[&a]).is(0).out, before);
    let mut b = Bytes::of(&a);
    b.flip(PAIR + 150).flip(PAIR + 8192 + 150).write();
    run("compact", &[&a]).is(2).says("kissdb repair");
}

#[test]
fn who_reads_may_go_away_at_any_time() {
    let dir = Dir::new();
    let db = dir.path("a.db");
    let mut all = Database::open(&db).expect("opens");
    for n in 0..200 {
        all.put(format!("/key/{n}"), [b'v'; 2000]).expect("puts");
    }
    all.close().expect("closes");
    for words in [
        "list",
        "dump",
        "list --json",
        "map --json",
        "check --notes --json",
    ] {
        let mut child = command(words, &[&db])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut out = child.stdout.take().expect("a pipe");
        out.read_exact(&mut [0; 8]).expect("reads");
        drop(out);
        let ended = child.wait_with_output().expect("ends");
        assert_eq!(ended.status.code(), Some(0), "{words}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{words}");
    }
    // Nobody there from the start.
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    let ended = command("dump", &[&db])
        .stdout(write)
        .output()
        .expect("ends");
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
    // Not for errors either.
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    let ended = command("get", &[&db, &"nope"]).stderr(write).output();
    assert_eq!(ended.expect("ends").status.code(), Some(1));
    // A full disk is an error.
    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let ended = command("dump", &[&db]).stdout(full).output().expect("ends");
        assert_eq!(ended.status.code(), Some(2));
    }
}

#[test]
fn colours_only_when_they_are_wanted() {
    let dir = Dir::new();
    let db = dir.path("a.db");
    settings(&db, &KEYS);
    for (words, no_color, colored) in [
        ("map", None, false),
        ("map --color always", None, true),
        ("map --color always", Some("1"), true),
        ("map --color auto", Some("1"), false),
    ] {
        let mut c = command(words, &[&db]);
        if let Some(v) = no_color {
            c.env("NO_COLOR", v);
        }
        let out = c.output().expect("ends").stdout;
        assert_eq!(out.contains(&0x1b), colored, "{words} {no_color:?}");
    }
}

#[test]
fn the_picture_is_whole() {
    let dir = Dir::new();
    let (db, svg) = (dir.path("a<b>.db"), dir.path("a.svg"));
    settings(&db, &KEYS);
    run("map --svg", &[&svg, &db]).is(0);
    let text = std::fs::read_to_string(&svg).expect("reads");
    assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
    assert!(text.contains("a&lt;b&gt;.db"));
    let json = run("map --json", &[&db]).is(0).json();
    let mut end = 0;
    for r in json["regions"].as_array().expect("a list") {
        assert_eq!(r["offset"], end);
        end += r["length"].as_u64().expect("a number");
    }
    assert_eq!(json["length"], end);
}
