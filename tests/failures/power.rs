//! Power cuts: 1 to 4, 12, 13. Every state of the medium that is tried here goes through the C interface; many more are
//! tried in tests/power_cuts.rs, through the engine alone.

use super::agent::Agent;
use super::build::Image;
use super::cuts::{Permitted, Run, mixtures, original_survives, survives};
use super::support::ffi::{RESOURCES, SETTINGS};
use super::*;
use kissdb::engine::storage::Event;

/// The file at the caller's last sync, and as it was when the power went: a process makes the first calls, syncs, makes
/// the others, and dies with all that it had in memory.
fn cut(scratch: &Scratch, synced: &[&str], unsynced: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let path = scratch.db("cut.db");
    let mut agent = Agent::start();
    assert_eq!(agent.ask(&format!("open h RDWR {}", path.display())), "0");
    let make = |agent: &mut Agent, calls: &[&str]| {
        for call in calls {
            assert_eq!(agent.ask(call), "0", "{call}");
        }
    };
    make(&mut agent, synced);
    assert_eq!(agent.ask("sync h"), "0");
    let old = fs::read(&path).expect("the file");
    make(&mut agent, unsynced);
    let new = fs::read(&path).expect("the file");
    agent.kill();
    scratch.wipe_objects();
    (old, new)
}

/// Each state is survived, for the original as well, and takes a put.
fn all_survive(
    states: &[Vec<u8>],
    path: &Path,
    permitted: &Permitted,
    (key, value): (&str, &[u8]),
) {
    for (n, state) in states.iter().enumerate() {
        let what = format!("state {n}");
        survives(&what, path, state, SETTINGS, permitted, |db, mut found| {
            put(db, key, value);
            found.insert(key.into(), value.to_vec());
            found
        });
        original_survives(&what, state, permitted);
    }
}

#[test]
fn failure_01_a_new_key_after_a_clean_close() {
    // On the disk: the file as it was closed, then closeFailed 1, then the blocks of a new key, synced by the caller. Not
    // on the disk: the table, which the original kept in shared memory until the close. Its old version had a
    // right checksum, so it was believed after the power cut: the key was gone, although it had been synced. Fails
    // if a slot is not in the file when the put answers, or if recovery believes a table of an older time.
    let scratch = place();
    let path = scratch.db("cut.db");
    let before: [(&str, &[u8]); 2] = [("/a", b"1"), ("/b", b"2")];
    make(&path, SETTINGS, &before);
    let (old, new) = cut(
        &scratch,
        &["put h /new synced", "put h /k0 synced"],
        &["put h /late unsynced", "fill h /large 1 3000"],
    );
    let mut synced = model(&before);
    synced.insert(b"/new".to_vec(), b"synced".to_vec());
    synced.insert(b"/k0".to_vec(), b"synced".to_vec());
    let large = support::value(1, 3000);
    let permitted = Permitted::of(&synced)
        .or("/late", Some(b"unsynced"))
        .or("/large", Some(&large));
    let states = mixtures(&old, &new, 40);
    assert!(states.len() > 20, "{} states are too few", states.len());
    all_survive(&states, &path, &permitted, ("/after", b"3"));
}

#[test]
fn failure_01_the_table_of_the_last_close_is_not_believed() {
    // The same to the letter: the table in the file is put back to what it was at the clean close, as if the original had
    // kept the new one in memory; header and blocks are those of the sync. Fails if its right checksum is enough.
    let scratch = place();
    let path = scratch.db("cut.db");
    let before: [(&str, &[u8]); 2] = [("/a", b"1"), ("/b", b"2")];
    make(&path, SETTINGS, &before);
    let closed = fs::read(&path).expect("the file");
    let (mut state, _) = cut(&scratch, &["put h /new synced"], &[]);
    let table = 4096..16384;
    state[table.clone()].copy_from_slice(&closed[table]);
    // End delimiters stand in every block that the original wrote.
    for (at, word) in [(8184, 0x5555_5555_u64), (16376, 0xAAAA_AAA8)] {
        let pair = 16384 + 2 * 16384;
        build::put_u64(&mut state, pair + at, word);
    }
    let mut synced = model(&before);
    synced.insert(b"/new".to_vec(), b"synced".to_vec());
    let permitted = Permitted::of(&synced);
    survives(
        "the story",
        &path,
        &state,
        SETTINGS,
        &permitted,
        |_, found| found,
    );
}

#[test]
fn failure_02_a_delete_after_a_clean_close() {
    // The same with a delete: the blocks said deleted and were empty, the believed table said live: the deleted key came
    // back, with an empty value. And with a put into a deleted slot: the believed table said deleted: the key was
    // gone. Fails if what is found of either is not what was synced.
    let scratch = place();
    let path = scratch.db("cut.db");
    let before: [(&str, &[u8]); 4] = [
        ("/gone", b"old"),
        ("/kept", b"1"),
        ("/late", b"2"),
        (CHAIN[0], b"3"),
    ];
    make(&path, SETTINGS, &before);
    let db = open(&path);
    delete(&db, CHAIN[0]);
    close(&db);
    let again = format!("put h {} again", CHAIN[1]);
    let (old, new) = cut(
        &scratch,
        &["delete h /gone", &again],
        &["delete h /late", "put h /kept new"],
    );
    let permitted = Permitted::of(&model(&[
        ("/kept", b"1"),
        ("/late", b"2"),
        (CHAIN[1], b"again"),
    ]))
    .or("/late", None)
    .or("/kept", Some(b"new"));
    let states = mixtures(&old, &new, 40);
    assert!(states.len() > 10, "{} states are too few", states.len());
    all_survive(&states, &path, &permitted, ("/gone", b"new life"));
}

#[test]
fn failure_03_a_lost_put_does_not_come_back_lives_later() {
    // On the disk: the blocks of a put that was never synced. Not on the disk: its slot. The user found the key absent and
    // went on, perhaps for months; the blocks stayed in the file. At the next rebuild, after some later crash, the
    // original found them there: a value appeared that was never confirmed and long outdated. Fails if a put that
    // was found absent once is ever found again, or if its bytes are still in the file.
    let scratch = place();
    let path = scratch.db("cut.db");
    make(&path, SETTINGS, &[("/a", b"1"), ("/b", b"2")]);
    let (old, new) = cut(&scratch, &["put h /a synced"], &["put h /lost lostvalue"]);
    let synced = model(&[("/a", b"synced"), ("/b", b"2")]);
    let permitted = Permitted::of(&synced).or("/lost", Some(b"lostvalue"));
    let (mut absent, mut present) = (0, 0);
    for (n, state) in mixtures(&old, &new, 30).iter().enumerate() {
        let what = format!("state {n}");
        let left = survives(&what, &path, state, SETTINGS, &permitted, |_, found| found);
        let was_there = left.contains_key(&b"/lost"[..]);
        *if was_there { &mut present } else { &mut absent } += 1;
        let bytes = fs::read(&path).expect("the file");
        let found = bytes.windows(9).any(|w| w == b"lostvalue");
        assert_eq!(found, was_there, "{what}: the value in the file");
        for turn in 0..2 {
            to_rebuild(&path);
            let db = open(&path);
            finds(&format!("{what}, rebuild {turn}"), &db, &left);
            close(&db);
        }
        let db = open(&path);
        let mut left = left;
        if was_there {
            delete(&db, "/lost");
            left.remove(&b"/lost"[..]);
        } else {
            put(&db, "/lost", b"found");
            left.insert(b"/lost".to_vec(), b"found".to_vec());
        }
        close(&db);
        to_rebuild(&path);
        let db = open(&path);
        finds(&format!("{what}, much later"), &db, &left);
        close(&db);
    }
    assert!(
        absent > 3 && present > 0,
        "{absent} absent, {present} present"
    );
}

#[test]
fn failure_04_power_cut_while_a_table_is_appended() {
    // On the disk: the longer file, and some sectors of a new table or none. Not on the disk: its delimiters, or the link
    // to it. The original counted the table in the header of its shared memory and not in the file; the next
    // clean close wrote it to offset 0: the header was destroyed, and the database with it. Fails if a state of the
    // medium in the middle of such a put loses the header or a key.
    for (what, sizes) in [("settings", SETTINGS), ("resources", RESOURCES)] {
        let before: [(&str, &[u8]); 2] = [(CHAIN[0], b"1"), ("/b", b"2")];
        let mut run = Run::new(&Image::with(sizes, &before));
        run.put("/b", b"2");
        run.sync(1);
        run.put(CHAIN[1], b"new");
        run.put(CHAIN[2], b"new");
        run.close();
        let permitted = Permitted::of(&model(&before))
            .or(CHAIN[1], Some(b"new"))
            .or(CHAIN[2], Some(b"new"));
        let scratch = place();
        let path = scratch.db("cut.db");
        let mut states = 0;
        for (e, epoch) in run.epochs().iter().enumerate() {
            if epoch.mark < 1 {
                continue;
            }
            for (n, state) in epoch.states(40).iter().enumerate() {
                states += 1;
                let what = format!("{what}, epoch {e}, state {n}");
                survives(&what, &path, state, sizes, &permitted, |db, mut found| {
                    put(db, CHAIN[3], b"4");
                    found.insert(CHAIN[3].into(), b"4".to_vec());
                    found
                });
                original_survives(&what, state, &permitted);
            }
        }
        assert!(states > 100, "{what}: {states} states are too few");
    }
}

#[test]
fn failure_04_power_cut_while_the_first_table_is_appended() {
    // The same in a new file, whose first put appends table 0.
    let mut run = Run::new(&Image::new(SETTINGS));
    run.put("/a", b"new");
    run.close();
    let permitted = Permitted::default().or("/a", Some(b"new"));
    let scratch = place();
    let path = scratch.db("cut.db");
    for (e, epoch) in run.epochs().iter().enumerate() {
        for (n, state) in epoch.states(60).iter().enumerate() {
            let what = format!("epoch {e}, state {n}");
            survives(
                &what,
                &path,
                state,
                SETTINGS,
                &permitted,
                |db, mut found| {
                    put(db, "/b", b"4");
                    found.insert(b"/b".to_vec(), b"4".to_vec());
                    found
                },
            );
            original_survives(&what, state, &permitted);
        }
    }
}

#[test]
fn failure_12_a_put_in_front_of_a_chain_is_undone() {
    // On the disk: a deleted and emptied pair in front of a used slot, a long value in copy B, durable, and of copy A the
    // start delimiter of a live one. Not on the disk: the rest, so recovery takes the put for one that did not happen. It made both copies
    // deleted at once; power went with B's delimiters on the disk and A's not, and the original found the key with an empty value,
    // which nobody had given it.
    // Fails if a state gives anything but the value or no key, or if the other key is not there.
    let value = support::value(4, 3000);
    let mut image = Image::with(SETTINGS, &[(CHAIN[0], &value[..90]), (CHAIN[1], b"behind")]);
    image.delete(CHAIN[0]);
    let permitted = Permitted::of(&model(&[(CHAIN[1], b"behind")])).or(CHAIN[0], Some(&value));
    let mut put = Run::new(&image);
    put.put(CHAIN[0], &value);
    let mut undone = 0;
    for (n, epoch) in put.epochs().iter().enumerate() {
        for torn in epoch.states(40) {
            let mut run = Run::new(&Image::of(torn, SETTINGS));
            let size = run.engine.get(CHAIN[0].as_bytes(), &mut []);
            undone += u64::from(size.expect("a get").is_none());
            run.close();
            for (m, epoch) in run.epochs().iter().enumerate() {
                for state in epoch.states(40) {
                    let read = original::recover(&state);
                    assert!(read.opens && !read.crashes, "epoch {n}, then {m}");
                    if let Err(e) = permitted.judge(&read.pairs) {
                        panic!("epoch {n}, then {m}, for the original: {e}");
                    }
                }
            }
        }
    }
    assert!(undone > 0);
}

#[test]
fn failure_12_an_empty_value_beside_a_deleted_copy() {
    // On the disk: an empty value that was put where a deleted pair was, in A, and of a delete the start delimiter of B alone.
    // Recovery took the delete back, and a get said so. The close made B like A, and while power went A lost the byte that
    // tells an empty value from a torn delete. Not on the disk: B's end delimiter, which was still that of the deleted
    // pair, and the last store into A. So B looked like a torn delete, A like nothing, and the key was gone.
    // Fails if a state gives anything but the empty value.
    let scratch = place();
    let path = scratch.db("a.db");
    // The second file was closed with the empty value, which has lost that byte already.
    let mut deleted_before = Image::with(SETTINGS, &[("/e", b"old")]);
    deleted_before.delete("/e");
    let empty_before = Image::with(SETTINGS, &[("/e", b"")]);
    // In both the pair is the first one.
    let at = empty_before.find("/e").2 as usize;
    for (i, image) in [deleted_before, empty_before].iter().enumerate() {
        let mut run = Run::new(image);
        if i == 0 {
            run.put("/e", b"");
        }
        run.put("/f", b"marks the file");
        run.sync(1);
        let mut torn = run.engine.store().bytes();
        run.delete("/e");
        let deleted = run.engine.store().bytes();
        let b = at + 8192..at + 8192 + 512;
        torn[b.clone()].copy_from_slice(&deleted[b]);
        let mut run = Run::new(&Image::of(torn, SETTINGS));
        let size = run.engine.get(b"/e", &mut []).expect("a get");
        assert_eq!(size, Some(0));
        run.sync(2);
        run.close();
        let permitted = Permitted::of(&model(&[("/e", b""), ("/f", b"marks the file")]));
        for (n, epoch) in run.epochs().iter().enumerate() {
            if epoch.mark < 2 {
                continue;
            }
            for (m, state) in epoch.states(200).iter().enumerate() {
                let what = format!("file {i}, epoch {n}, state {m}");
                survives(&what, &path, state, SETTINGS, &permitted, |_, found| found);
            }
        }
    }
}

#[test]
fn failure_12_a_torn_delete_is_taken_back() {
    // On the disk: of a delete the start delimiter of copy A alone. Not on the disk: the rest, so the value counts, which is in
    // copy B; A holds the one before it. Recovery makes A like B, and power goes again. For the original A was then
    // a deleted and bad copy: it gave the pair up, its slot as well, and the keys of later tables behind it were gone.
    // Fails if a state gives anything but the value or no key, or if the other key is not there.
    let scratch = place();
    let path = scratch.db("a.db");
    let [long, longer, longest] = [1, 2, 3].map(|n| support::value(n, 1500 * n as usize));
    for (old, new) in [(&long[..45], &longer[..30]), (&long, &longer)] {
        let image = Image::with(SETTINGS, &[(CHAIN[0], old), (CHAIN[1], b"behind")]);
        let at = image.find(CHAIN[0]).2 as usize;
        let mut run = Run::new(&image);
        run.put(CHAIN[0], new);
        run.sync(1);
        let mut torn = run.engine.store().bytes();
        run.delete(CHAIN[0]);
        let deleted = run.engine.store().bytes();
        torn[at..at + 512].copy_from_slice(&deleted[at..at + 512]);
        let permitted =
            Permitted::of(&model(&[(CHAIN[0], new), (CHAIN[1], b"behind")])).or(CHAIN[0], None);
        // It is mended by the close, by a get, or by an overwrite, which follows at once.
        for by in ["close", "get", "put"] {
            let mut run = Run::new(&Image::of(torn.clone(), SETTINGS));
            let mut permitted = permitted.clone();
            if by != "close" {
                let size = run.engine.get(CHAIN[0].as_bytes(), &mut []);
                assert_eq!(size.expect("a get"), Some(new.len()));
            }
            if by == "put" {
                run.put(CHAIN[0], &longest);
                permitted = permitted.or(CHAIN[0], Some(&longest));
            }
            run.close();
            for (n, epoch) in run.epochs().iter().enumerate() {
                for state in epoch.states(200) {
                    let what = format!("{} bytes, by a {by}, epoch {n}", new.len());
                    for reading in [original::Reading::LiveWins, original::Reading::StartDecides] {
                        let read = original::recover_reading(&state, reading);
                        assert!(read.opens && !read.crashes, "{what}");
                        if let Err(e) = permitted.judge(&read.pairs) {
                            panic!("{what}, for the original ({reading:?}): {e}");
                        }
                    }
                    survives(&what, &path, &state, SETTINGS, &permitted, |_, found| found);
                }
            }
        }
    }
}

#[test]
fn failure_12_torn_deletes_and_torn_puts_into_deleted_slots() {
    // On the disk: some sectors of a pair that is being deleted, or of one that is being written over a deleted one. Not on
    // the disk: the others. The original emptied the blocks first and marked them last, or the other way round, so
    // that a delimiter of the one stood beside contents of the other: an empty or an old value was live. Fails if any
    // state gives a value that was not synced or given since, or a deleted key.
    let old = super::support::value(1, 1500);
    let new = super::support::value(2, 1200);
    for (what, sizes) in [("settings", SETTINGS), ("resources", RESOURCES)] {
        let room = (sizes.value as usize).min(1500);
        let (old, new) = (&old[..room], &new[..room.min(1200)]);
        let before: [(&str, &[u8]); 4] = [
            ("/gone", old),
            (CHAIN[0], old),
            ("/again", old),
            ("/empty", b""),
        ];
        let mut image = Image::with(sizes, &before);
        image.delete(CHAIN[0]);
        let mut run = Run::new(&image);
        run.delete("/gone");
        run.delete("/empty");
        run.put(CHAIN[1], new);
        run.sync(1);
        run.delete("/again");
        run.sync(2);
        run.put("/again", new);
        run.put("/gone", new);
        run.sync(3);
        run.delete("/gone");
        run.close();
        // What was synced, and what was given since, by the number of the mark.
        let permitted = |mark: u64| match mark {
            0 => Permitted::of(&model(&[("/again", old)]))
                .or("/gone", Some(old))
                .or("/empty", Some(b""))
                .or(CHAIN[1], Some(new)),
            1 => Permitted::of(&model(&[("/again", old), (CHAIN[1], new)])).or("/again", None),
            2 => Permitted::of(&model(&[(CHAIN[1], new)]))
                .or("/again", Some(new))
                .or("/gone", Some(new)),
            _ => Permitted::of(&model(&[(CHAIN[1], new), ("/again", new), ("/gone", new)]))
                .or("/gone", None),
        };
        let scratch = place();
        let path = scratch.db("cut.db");
        for (e, epoch) in run.epochs().iter().enumerate() {
            let may = permitted(epoch.mark);
            for (n, state) in epoch.states(60).iter().enumerate() {
                let what = format!("{what}, epoch {e}, state {n}");
                survives(&what, &path, state, sizes, &may, |db, mut found| {
                    put(db, "/after", b"4");
                    found.insert(b"/after".to_vec(), b"4".to_vec());
                    found
                });
                if sizes == SETTINGS {
                    original_survives(&what, state, &may);
                }
            }
        }
    }
}

#[test]
fn failure_13_the_clean_flag_comes_last() {
    // On the disk: closeOk 1. Not on the disk: pairs and tables, which the original synced after the flag, or not at all. The
    // file passed for clean, was not checked, and the user read what happened to lie there. Fails if anything but
    // the flags and the mark of table 0 is stored between the sync before the flag and the one behind it.
    let mut run = Run::new(&Image::with(SETTINGS, &[("/a", b"1"), (CHAIN[0], b"2")]));
    run.put("/a", b"new");
    run.put(CHAIN[1], b"3");
    run.put("/b", b"");
    run.delete(CHAIN[0]);
    run.close();
    let log = run.log();
    let flag = log
        .iter()
        .position(|e| *e == Event::Store(24, 1))
        .expect("the clean flag");
    let before = log[..flag].iter().rposition(|e| *e == Event::Sync);
    let behind = log[flag..].iter().position(|e| *e == Event::Sync);
    let (before, behind) = (before.expect("a sync"), flag + behind.expect("a sync"));
    for event in &log[before + 1..behind] {
        let allowed = matches!(event, Event::Store(16, 0) | Event::Store(24, 1))
            || matches!(event, Event::Store(at, _) if *at == 4096 + 8);
        assert!(allowed, "{event:?} together with the clean flag");
    }
    assert_eq!(
        log[behind..],
        [Event::Sync],
        "something is done after the clean flag"
    );
    // And the flag that says the contrary is on the disk before anything else is.
    let dirty = log
        .iter()
        .position(|e| *e == Event::Store(16, 1))
        .expect("the other flag");
    let synced = dirty
        + log[dirty..]
            .iter()
            .position(|e| *e == Event::Sync)
            .expect("a sync");
    for event in &log[..synced] {
        let allowed = matches!(event, Event::Store(16, 1) | Event::Store(24, 0))
            || matches!(event, Event::Store(at, _) if *at == 4096 + 8);
        assert!(allowed, "{event:?} before the file is marked as changed");
    }
}

#[test]
fn failure_13_no_state_during_a_close_passes_for_clean_and_is_not() {
    // The same as a user sees it: whenever the power goes during a close, the next one finds everything; and a file that
    // says that it was closed is whole.
    let before: [(&str, &[u8]); 2] = [("/a", b"1"), (CHAIN[0], b"2")];
    let mut run = Run::new(&Image::with(SETTINGS, &before));
    run.put("/a", b"new");
    run.put(CHAIN[1], b"3");
    run.delete(CHAIN[0]);
    run.sync(1);
    run.close();
    let wanted = model(&[("/a", b"new"), (CHAIN[1], b"3")]);
    let permitted = Permitted::of(&wanted);
    let scratch = place();
    let path = scratch.db("cut.db");
    let mut clean = 0;
    for epoch in run.epochs().iter().filter(|e| e.mark == 1) {
        for (n, state) in epoch.states(60).iter().enumerate() {
            let what = format!("state {n}");
            survives(&what, &path, state, SETTINGS, &permitted, |_, found| found);
            original_survives(&what, state, &permitted);
            if state[16..32] == [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
                && state[4096 + 8..4096 + 16] != [0xFF; 8]
            {
                clean += 1;
                assert_eq!(
                    check::check(state, true),
                    [""; 0],
                    "{what} passes for clean"
                );
            }
        }
    }
    assert!(clean > 0, "no state was clean");
}
