//! check finds every kind of damage, says where, and says truly what repair does about it.

mod support;

use kissdb::format::block::{self, Side};
use kissdb::format::table;
use kissdb::inspect::{Inspector, Report, Rule, Weight};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use support::{Bytes, Dir, PAIR, TABLE, run, settings, small};

const KEYS: [(&str, &str); 3] = [("/a", "one"), ("/b", "two"), ("/c", "three")];
/// Keys of one chain: tables of a single slot.
const NEXT: usize = 16384;

/// Makes a file, damages it, and looks at it with check, then mends it with repair.
struct Case<'a> {
    dir: &'a Dir,
    seen: &'a RefCell<BTreeSet<Rule>>,
}

impl Case<'_> {
    fn path(&self) -> std::path::PathBuf {
        self.dir.path("case.db")
    }

    /// The findings must be exactly these (notes aside, unless they are named), and repair must do what they say.
    #[track_caller]
    fn finds(&self, rules: &[Rule], lost: &[&str]) {
        let path = self.path();
        let before = std::fs::read(&path).expect("reads");
        let ran = run("check --json --notes", &[&path]);
        let named: BTreeSet<&str> = rules.iter().map(|r| r.name()).collect();
        let weight = |f: &Value| f["weight"] == "note";
        let found: Vec<Value> = ran.json()["findings"].as_array().expect("a list").clone();
        let names: BTreeSet<&str> = found
            .iter()
            .map(|f| f["rule"].as_str().expect("a name"))
            .filter(|n| named.contains(n) || !found.iter().any(|f| f["rule"] == *n && weight(f)))
            .collect();
        assert_eq!(names, named, "{}", ran.out);
        let bad = found.iter().any(|f| !weight(f));
        let ran = ran.is(i32::from(bad));
        drop(ran);
        assert_eq!(
            std::fs::read(&path).expect("reads"),
            before,
            "check has written"
        );
        self.seen.borrow_mut().extend(rules);
        if !bad {
            return;
        }
        let readable = entries(&path);
        let repaired = run("repair --json", &[&path]);
        let repaired = repaired.is(i32::from(!lost.is_empty())).json();
        let told: Vec<&str> = repaired["lost"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|f| f["key"].as_str().unwrap_or("?"))
            .collect();
        assert_eq!(told, lost);
        let kept = repaired["kept"].as_str().expect("a copy");
        assert_eq!(std::fs::read(kept).expect("reads"), before, "the copy");
        std::fs::remove_file(kept).expect("removes");
        let report = survey(&path);
        let left: Vec<_> = report
            .findings
            .iter()
            .filter(|f| f.rule.weight() > Weight::Note)
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let now = entries(&path).expect("opens");
        for (k, v) in readable.into_iter().flatten() {
            assert!(now.contains(&(k.clone(), v)), "{k:?} is gone");
        }
        for (key, _) in KEYS {
            let there = now.iter().any(|(k, _)| k == key.as_bytes());
            assert!(there != lost.contains(&key), "{key}");
        }
    }

    fn settings(&self) -> Bytes {
        let _ = std::fs::remove_file(self.path());
        settings(&self.path(), &KEYS);
        Bytes::of(&self.path())
    }

    /// Table 0, pair of /a, table 1, pair of /b, table 2, pair of /c: one slot a table.
    fn chain(&self) -> Bytes {
        let _ = std::fs::remove_file(self.path());
        small(&self.path(), 1, &KEYS);
        Bytes::of(&self.path())
    }
}

fn survey(path: &Path) -> Report {
    let mut inspector = Inspector::open(path).expect("opens");
    inspector.survey(|_, _| ()).expect("looks")
}

fn entries(path: &Path) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut db = kissdb::OpenOptions::new().read_only().open(path).ok()?;
    let all = db.snapshot(|_, _| ()).ok()?;
    Some(
        all.entries()
            .into_iter()
            .map(|(k, v)| (k.to_vec(), v.to_vec()))
            .collect(),
    )
}

#[test]
fn every_rule_is_noticed_and_repair_does_what_it_says() {
    let dir = Dir::new();
    let seen = RefCell::default();
    let case = Case {
        dir: &dir,
        seen: &seen,
    };
    let live = |side: Side| side.delimiters(true);

    // The header.
    case.settings().write();
    case.finds(&[], &[]);
    case.settings().flip(0).write();
    case.finds(&[Rule::Header], &[]);
    case.settings().set(32, 1000).write();
    case.finds(&[Rule::Header], &[]);
    case.settings().set(56, 7).write();
    case.finds(&[Rule::HeaderStray], &[]);
    case.settings().set(24, 0).write();
    case.finds(&[Rule::Flags, Rule::NotClosed], &[]);
    case.settings().set(16, 1).set(24, 0).write();
    case.finds(&[Rule::NotClosed], &[]);
    let mut b = case.settings();
    b.all.truncate(b.all.len() - 100);
    b.write();
    // The last block B is cut off.
    case.finds(&[Rule::Length, Rule::SlotOffset, Rule::LooseRecord], &[]);
    let mut b = case.settings();
    b.all.truncate(b.all.len() - 16384 + 200);
    b.flip(b.all.len() - 60).write();
    // All but the beginning of a record, and that is damaged.
    case.finds(&[Rule::Length, Rule::SlotBehindEnd], &["/c"]);

    // Tables.
    case.settings().set(TABLE, 0).write();
    case.finds(&[Rule::TableDelimiter], &[]);
    case.settings()
        .set(TABLE, 0)
        .set(TABLE + table::END as usize, 0)
        .write();
    case.finds(&[Rule::NoTable, Rule::LooseRecord, Rule::Leaked], &[]);
    case.settings().flip(TABLE + 8).write();
    case.finds(&[Rule::TableChecksum], &[]);
    let mut b = case.settings();
    b.all[TABLE + 8..TABLE + table::END as usize].fill(0);
    b.write();
    case.finds(&[Rule::TableZero, Rule::LooseRecord], &[]);
    let link = TABLE + 16 + 24 * 510;
    let other = TABLE + 16 + 24;
    case.chain()
        .set(link, 1 << 40)
        .set(other, 1 << 40)
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::Link, Rule::LooseTable, Rule::LooseRecord], &[]);
    // In a circle.
    case.chain()
        .set(link, TABLE as u64)
        .set(other, TABLE as u64)
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::Link, Rule::LooseTable, Rule::LooseRecord], &[]);
    case.chain().set(other, 0).seal_table(TABLE).write();
    case.finds(&[Rule::LinkTwice], &[]);

    // Slots.
    let slot = Bytes::slot(TABLE, 510, "/a");
    let slot_b = Bytes::slot(TABLE, 510, "/b");
    case.settings().set(slot, 1 << 50).seal_table(TABLE).write();
    case.finds(&[Rule::SlotOffset, Rule::LooseRecord], &[]);
    case.settings()
        .set(slot, PAIR as u64 + 1)
        .set(slot + 8, PAIR as u64 + 8193)
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::SlotOffset, Rule::LooseRecord], &[]);
    // As the original leaves them: the file had an odd length when it went on.
    let mut b = case.settings();
    let pair = b.all[PAIR..PAIR + 16384].to_vec();
    b.all[PAIR..PAIR + 16384].fill(0);
    let odd = b.all.len() + 512;
    b.all.resize(odd, 0);
    b.all.extend(pair);
    b.all.resize(b.all.len().next_multiple_of(4096), 0);
    b.set(slot, odd as u64)
        .set(slot + 8, odd as u64 + 8192)
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::OddPair], &[]);
    case.settings()
        .set(slot_b, PAIR as u64)
        .set(slot_b + 8, PAIR as u64 + 8192)
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::Overlap, Rule::WrongSlot, Rule::LooseRecord], &[]);
    case.settings().set(slot + 16, 77).seal_table(TABLE).write();
    case.finds(&[Rule::SlotWord], &[]);
    let minus = |v: usize| (v as u64).wrapping_neg();
    case.settings()
        .set(slot, minus(PAIR))
        .set(slot + 8, minus(PAIR + 8192))
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::SlotKind], &[]);
    case.chain()
        .set(TABLE + 16, 0)
        .set(TABLE + 24, 0)
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::Hole, Rule::LooseRecord], &[]);

    // Records.
    case.settings()
        .flip(PAIR + 150)
        .flip(PAIR + 8192 + 150)
        .write();
    case.finds(&[Rule::RecordLost], &["/a"]);
    case.settings().flip(PAIR + 150).write();
    case.finds(&[Rule::CopyDamaged], &[]);
    case.settings().set(PAIR + block::END, 0).write();
    case.finds(&[Rule::Delimiters], &[]);
    case.settings()
        .set(PAIR + block::END, Side::A.delimiters(false).1)
        .write();
    case.finds(&[Rule::Delimiters], &[]);
    case.settings()
        .block(PAIR, Side::B, |b| b[17] = b'z')
        .write();
    case.finds(&[Rule::KeysDiffer], &[]);
    case.settings().both(PAIR, |b| b[block::TABLE] = 9).write();
    case.finds(&[Rule::TableNumber], &[]);
    // The key of /b, put into the record of table 1, is that of /a.
    case.chain()
        .both(NEXT + 16384 + 12288, |b| b[17] = b'a')
        .write();
    seen.borrow_mut().insert(Rule::Duplicate);
    let ran = run("check", &[&case.path()]).is(1);
    assert!(ran.out.contains("[duplicate]"), "{}", ran.out);
    // A delete of which only the slot was written by the original, and its record lies loose.
    case.settings()
        .set(slot, 0)
        .set(slot + 8, 0)
        .seal_table(TABLE)
        .write();
    case.finds(&[Rule::LooseRecord], &[]);

    // Notes: no reason for status 1.
    case.settings()
        .block(PAIR, Side::B, |b| b[148] = b'x')
        .write();
    case.finds(&[Rule::CopiesDiffer], &[]);
    case.settings().both(PAIR, |b| b[400] = b'x').write();
    case.finds(&[Rule::ValueRemains], &[]);
    case.settings().both(PAIR, |b| b[100] = b'x').write();
    case.finds(&[Rule::KeyRemains], &[]);
    let mut b = case.settings();
    b.set(slot, minus(PAIR))
        .set(slot + 8, minus(PAIR + 8192))
        .seal_table(TABLE);
    for side in [Side::A, Side::B] {
        let at = side.offset(PAIR as u64) as usize;
        assert_eq!(b.word(at), live(side).0);
        b.set(at, side.delimiters(false).0)
            .set(at + block::END, side.delimiters(false).1);
    }
    b.write();
    case.finds(&[Rule::DeletedRemains], &[]);
    let mut b = case.settings();
    let len = b.all.len();
    b.all.resize(len + 4096, 0);
    b.all.resize(len + 8192, 0x55);
    b.write();
    case.finds(&[Rule::Leaked, Rule::Unused], &[]);

    let mut b = case.chain();
    b.all.truncate(NEXT + 16384);
    b.write();
    let ran = run("check", &[&case.path()]).is(1);
    assert!(ran.out.contains("[table-behind-end]"), "{}", ran.out);
    seen.borrow_mut().insert(Rule::TableBehindEnd);

    // What is no database at all.
    std::fs::write(case.path(), vec![b'x'; 5000]).expect("writes");
    let ran = run("check", &[&case.path()]).is(1);
    assert!(ran.out.contains("[not-a-database]"), "{}", ran.out);
    run("repair", &[&case.path()]).is(2).says("--kind");
    seen.borrow_mut().insert(Rule::NotADatabase);
    std::fs::write(case.path(), b"KdB\x02.\x03").expect("writes");
    let ran = run("check", &[&case.path()]).is(1);
    assert!(ran.out.contains("[header-cut]"), "{}", ran.out);
    seen.borrow_mut().insert(Rule::HeaderCut);

    let all: BTreeSet<Rule> = Rule::ALL.iter().copied().collect();
    let missed: Vec<_> = all.difference(&seen.borrow()).copied().collect::<Vec<_>>();
    assert!(missed.is_empty(), "{missed:?}");
    assert!(dir.objects().is_empty(), "{:?}", dir.objects());
}

/// A file was cut short. Repair said "nothing lost", status 0, although all keys behind the cut were gone.
#[test]
fn what_was_cut_off_is_counted_as_lost() {
    let dir = Dir::new();
    let (path, new) = (dir.path("a.db"), dir.path("new.db"));
    let keys: Vec<String> = (0..12).map(|n| format!("/key/{n:02}")).collect();
    let values: Vec<String> = (0..12).map(|n| "x".repeat(n * 700)).collect();
    let all: Vec<(&str, &str)> = keys
        .iter()
        .zip(&values)
        .map(|(k, v)| (&k[..], &v[..]))
        .collect();
    // Tables of 5 slots make chains: of a table that is gone nobody can say how many keys it had.
    for slots in [510, 5] {
        let _ = std::fs::remove_file(&path);
        small(&path, slots, &all);
        let whole = Bytes::of(&path).all;
        for cut in (TABLE + 100..whole.len()).step_by(7001) {
            std::fs::write(&path, &whole[..cut]).expect("writes");
            let _ = std::fs::remove_file(&new);
            let repaired = run("repair --json --output", &[&new, &path]);
            let left = run("list -k", &[&new]).is(0).out;
            let missing: Vec<_> = keys.iter().filter(|k| !left.contains(*k)).collect();
            let repaired = repaired.is(i32::from(!missing.is_empty())).json();
            let lost = repaired["lost"].as_array().expect("a list");
            let told = lost.iter().filter_map(|f| f["key"].as_str());
            for key in told {
                assert!(missing.iter().any(|k| *k == key), "{cut}: {key} is there");
            }
            let tables = lost.iter().filter(|f| f["rule"] == "table-behind-end");
            if tables.count() == 0 {
                assert_eq!(lost.len(), missing.len(), "{cut}: {lost:?}");
            }
        }
    }
}

#[test]
fn a_fine_file_is_fine_and_nothing_is_repaired() {
    let dir = Dir::new();
    let path = dir.path("a.db");
    settings(&path, &KEYS);
    let before = std::fs::read(&path).expect("reads");
    let ran = run("check", &[&path]).is(0);
    assert_eq!(ran.out, format!("{}: fine, 3 keys\n", path.display()));
    let ran = run("repair", &[&path]).is(0);
    assert!(ran.out.contains("nothing to repair"), "{}", ran.out);
    assert_eq!(std::fs::read(&path).expect("reads"), before);
    assert_eq!(
        std::fs::read_dir(path.parent().expect("a directory"))
            .expect("reads")
            .count(),
        1
    );
}

#[test]
fn repair_to_a_new_file_leaves_the_old_one_alone() {
    let dir = Dir::new();
    let (path, new) = (dir.path("a.db"), dir.path("new.db"));
    settings(&path, &KEYS);
    let mut b = Bytes::of(&path);
    b.flip(PAIR + 150).flip(PAIR + 8192 + 150).write();
    let repair = || run("repair --output", &[&new, &path]);
    let ran = repair().is(1);
    assert!(ran.out.contains("lost /a"), "{}", ran.out);
    assert_eq!(std::fs::read(&path).expect("reads"), b.all);
    assert_eq!(run("list -k", &[&new]).is(0).out, "/b\n/c\n");
    repair().is(2).says("is there already");
}

/// Both flags were 0, and the copies of a record differed. The repair marked the file as not closed before it recovered it; then
/// the slots are not believed, the other copy counted, and it refused because the value would not have been the same.
#[test]
fn repair_recovers_by_the_flags_that_are_there() {
    let dir = Dir::new();
    let path = dir.path("a.db");
    settings(&path, &KEYS);
    let mut b = Bytes::of(&path);
    b.block(PAIR, Side::B, |b| b[148] = b'x').set(24, 0).write();
    assert_eq!(run("get", &[&path, &"/a"]).is(0).out, "one\n");
    run("repair", &[&path]).is(0);
    assert_eq!(run("get", &[&path, &"/a"]).is(0).out, "one\n");
}

/// A creation that was cut off is ended by a repair, with its sizes as far as they were written.
#[test]
fn repair_ends_a_creation() {
    let dir = Dir::new();
    let (path, empty) = (dir.path("a.db"), dir.path("empty.db"));
    run("create --kind 7/64/212", &[&path]).is(0);
    let mut b = Bytes::of(&path);
    b.all.truncate(100);
    b.write();
    run("list", &[&path])
        .is(2)
        .says("cut off inside its header");
    run("repair", &[&path]).is(0);
    assert_eq!(
        run("info --json", &[&path]).is(0).json()["sizes"]["slots"],
        7
    );
    std::fs::write(&empty, "").expect("writes");
    run("repair", &[&empty]).is(2).says("--kind");
    run("repair --kind resources", &[&empty]).is(0);
    run("check", &[&empty]).is(0);
}

#[test]
fn of_a_put_that_was_cut_short_check_says_what_recovery_will() {
    // Power went in a put of a new key: its slot arrived, and of both copies the first sectors only. The value is a run of one byte, so
    // the checksums of the copies are mostly right all the same. The next open takes the put back; check must not call the key sound.
    use kissdb::engine::storage::Memory;
    use kissdb::engine::{Engine, State};
    use kissdb::format::{Sizes, header::Header};
    let dir = Dir::new();
    let path = dir.path("cut.db");
    let sizes = Sizes::new(510, 128, 8028).expect("in range");
    for byte in (1..=255).step_by(7) {
        let memory = Memory::new(Header { sizes, clean: true }.bytes().to_vec());
        let mut e = Engine::open(memory, State::default(), true, false).expect("opens");
        e.put(b"/a", b"one").expect("puts");
        e.put(b"/b", &[byte; 2000]).expect("puts");
        let mut cut = e.store().bytes();
        let pair = NEXT + PAIR;
        assert!(cut[pair + block::KEY..].starts_with(b"/b\0"));
        for copy in [pair, pair + block::SIZE] {
            cut[copy + 1024..copy + block::SIZE].fill(0);
        }
        std::fs::write(&path, cut).expect("writes");
        let report = survey(&path);
        let lost: Vec<_> = report
            .findings
            .iter()
            .filter(|f| f.rule == Rule::RecordLost)
            .collect();
        assert_eq!(lost.len(), 1, "{byte}: {:?}", report.findings);
        assert_eq!(lost[0].key.as_deref(), Some(&b"/b"[..]));
        let found = entries(&path).expect("opens");
        assert_eq!(found, [(b"/a".to_vec(), b"one".to_vec())], "{byte}");
    }
}
