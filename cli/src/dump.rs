//! dump and load: JSON lines.
//!
//! The first line tells the sizes, each other line one key: `{"key":…,"value":…}`. What is not plain
//! text stands as `key_base64`, `value_base64`; a value of a resource table as `resource`, its fields.
//! A line `{"key":…,"deleted":true}` deletes a key.

use crate::args::{Dump, Kind, Load};
use crate::data::{check_entry, open_to_read, put_value, snapshot, whole};
use crate::fail::{About, Fail, Result, Status, said};
use crate::interrupt;
use crate::newfile::{NewFile, in_use, place_of, repeat, sync_directory};
use crate::out::{self, Out};
use crate::progress::Progress;
use crate::resource;
use kissdb::engine::Snapshot;
use kissdb::format::Sizes;
use kissdb::inspect::Inspector;
use kissdb::{Database, OpenOptions};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

pub fn dump(a: &Dump, out: &mut Out) -> Result<Status> {
    let mut db = open_to_read(&a.db.file)?;
    let sizes = db.sizes().about(&a.db.file)?;
    let snapshot = snapshot(&mut db, &a.db.file)?;
    // Others need not wait for whoever reads this.
    db.close().about(&a.db.file)?;
    match &a.output {
        None => each_line(&snapshot, sizes, |v| out.object(v))?,
        Some(path) => {
            // An older dump stays until the new one is whole.
            let new = NewFile::of_usual_mode(path)?;
            let mut to = BufWriter::new(File::create(new.path()).about(path)?);
            each_line(&snapshot, sizes, |v| writeln!(to, "{v}").about(path))?;
            to.flush().about(path)?;
            new.put(true)?;
        }
    }
    Ok(whole(&[&snapshot]))
}

fn each_line(
    snapshot: &Snapshot,
    sizes: Sizes,
    mut f: impl FnMut(&Value) -> std::result::Result<(), Fail>,
) -> Result<()> {
    f(
        &json!({"kissdb": "2.3", "slots": sizes.slots, "key_size": sizes.key, "value_size": sizes.value}),
    )?;
    for (key, value) in snapshot.entries() {
        let mut o = Map::new();
        out::put_bytes(&mut o, "key", key);
        put_value(&mut o, value, sizes);
        f(&Value::Object(o))?;
    }
    Ok(())
}

/// What a dump says: the new value of each key, `None` where it is to be deleted.
type Entries = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

struct Dumped {
    sizes: Option<Sizes>,
    entries: Entries,
}

fn read_dump(from: impl BufRead, name: &str) -> Result<Dumped> {
    let mut dumped = Dumped {
        sizes: None,
        entries: Entries::new(),
    };
    for (n, line) in (1..).zip(from.split(b'\n')) {
        let line = line.about(Path::new(name))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong =
            |why: String| Fail::Said(format!("{name}: line {n}: {why}; nothing was changed"));
        let object: Map<String, Value> =
            serde_json::from_slice(&line).map_err(|e| wrong(format!("not a JSON object ({e})")))?;
        if object.contains_key("kissdb") {
            let size = |name: &str| object.get(name).and_then(Value::as_u64).unwrap_or(0);
            let sizes = Sizes::new(size("slots"), size("key_size"), size("value_size"));
            dumped.sizes = Some(sizes.ok_or_else(|| wrong("sizes out of range".into()))?);
            continue;
        }
        let key = out::take_bytes(&object, "key").ok_or_else(|| wrong("no key".into()))?;
        let value = match object.get("resource").map(Value::as_object) {
            Some(fields) => {
                let fields = fields.ok_or_else(|| wrong("resource is not an object".into()))?;
                Some(resource::encode(fields).map_err(wrong)?)
            }
            None if object.get("deleted") == Some(&json!(true)) => None,
            None => {
                let value = out::take_bytes(&object, "value");
                Some(value.ok_or_else(|| wrong("no value".into()))?)
            }
        };
        if dumped.entries.insert(key.clone(), value).is_some() {
            return Err(wrong(format!(
                "the key {} stands there twice",
                out::text(&key)
            )));
        }
    }
    Ok(dumped)
}

pub fn load(a: &Load) -> Result<Status> {
    let input = a.input.as_deref().filter(|i| *i != Path::new("-"));
    let name = input.map_or("standard input".into(), |i| i.display().to_string());
    let dumped = match input {
        Some(path) => read_dump(BufReader::new(File::open(path).about(path)?), &name)?,
        None => read_dump(std::io::stdin().lock(), &name)?,
    };
    if !a.db.file.exists() {
        return load_new(a, &dumped);
    }
    let sizes = open_to_read(&a.db.file)?.sizes().about(&a.db.file)?;
    check_all(&dumped, sizes, &name)?;
    if a.in_place {
        return load_in_place(a, dumped);
    }
    let (place, meta) = place_of(&a.db.file)?;
    repeat(&place, || {
        if Inspector::open(&place).about(&place)?.is_in_use() {
            return in_use(&place).map_err(|e| match e {
                Fail::Said(text) => Fail::Said(format!("{text}, or use --in-place")),
                e => e,
            });
        }
        let mut db = open_to_read(&place)?;
        let mut before = snapshot(&mut db, &place)?;
        if before.damaged() > 0 {
            return said(format!(
                "{0}: damaged, and what can't be read would be lost; first `kissdb repair {0}`",
                place.display()
            ));
        }
        let new = NewFile::beside(&place)?;
        {
            let mut entries = if a.replace {
                BTreeMap::new()
            } else {
                before.entries()
            };
            for (key, value) in &dumped.entries {
                match value {
                    Some(v) => drop(entries.insert(key, v)),
                    None => drop(entries.remove(&key[..])),
                }
            }
            new.fill(sizes, entries.iter().map(|(k, v)| (*k, *v)))?;
        }
        new.rights_of(&meta)?;
        let replaced = new.replace(&mut db, &mut before, || Ok(()))?;
        Ok(replaced.then_some(Status::Fine))
    })
}

fn check_all(dumped: &Dumped, sizes: Sizes, name: &str) -> Result<()> {
    for (key, value) in &dumped.entries {
        check_entry(key, value.as_deref().unwrap_or_default(), sizes).or_else(|why| {
            said(format!(
                "{name}: key {}: {why}; nothing was changed",
                out::text(key)
            ))
        })?;
    }
    Ok(())
}

fn load_new(a: &Load, dumped: &Dumped) -> Result<Status> {
    let Kind(slots, key, value) = a.kind.unwrap_or(Kind::SETTINGS);
    let asked = Sizes { slots, key, value };
    let sizes = dumped.sizes.filter(|_| a.kind.is_none()).unwrap_or(asked);
    check_all(dumped, sizes, "the dump")?;
    let new = NewFile::of_usual_mode(&a.db.file)?;
    let entries: Vec<(&[u8], &[u8])> = dumped
        .entries
        .iter()
        .filter_map(|(k, v)| Some((&k[..], v.as_deref()?)))
        .collect();
    new.fill(sizes, entries.into_iter())?;
    new.put(false)?;
    Ok(Status::Fine)
}

/// Where the old values stand while a load changes them in place.
fn undo_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".undo-load");
    name.into()
}

/// One key after the other, under the ordinary locks, so that others may go on.
fn load_in_place(a: &Load, dumped: Dumped) -> Result<Status> {
    let path = &a.db.file;
    let mut db = OpenOptions::new().open(path).about(path)?;
    let mut wanted = dumped.entries;
    let before = snapshot(&mut db, path)?;
    let before = before.entries();
    if a.replace {
        for key in before.keys() {
            wanted.entry(key.to_vec()).or_insert(None);
        }
    }
    wanted.retain(|k, v| before.get(&k[..]).copied() != v.as_deref());
    let undo = undo_path(path);
    let undoing = a.input.as_ref().is_some_and(
        |i| matches!((fs::canonicalize(i), fs::canonicalize(&undo)), (Ok(x), Ok(y)) if x == y),
    );
    if !undoing {
        write_undo(&undo, path, &wanted, &before)?;
    }
    interrupt::watch();
    let mut progress = Progress::new("loading");
    let all = wanted.len() as u64;
    let mut done = 0;
    let mut failed = None;
    for (key, value) in &wanted {
        progress.at(done, all);
        if interrupt::came() {
            failed = Some(std::io::Error::from(std::io::ErrorKind::Interrupted).into());
            break;
        }
        if let Err(e) = set(&mut db, key, value.as_deref()) {
            failed = Some(e);
            break;
        }
        done += 1;
    }
    drop(progress);
    let failed = failed.or_else(|| db.sync().err());
    if let Some(e) = failed {
        let mut undone = true;
        for (key, value) in wanted.iter().take(done as usize) {
            // What somebody else has changed since is his.
            let ours = db
                .get(key)
                .is_ok_and(|now| now.as_deref() == value.as_deref());
            undone &= !ours || set(&mut db, key, before.get(&key[..]).copied()).is_ok();
        }
        undone &= db.sync().is_ok();
        let text = if undone {
            "all old values were put back".into()
        } else {
            format!(
                "not all old values could be put back; they are in {}",
                undo.display()
            )
        };
        if undone && !undoing {
            let _ = fs::remove_file(&undo);
        }
        return Err::<(), _>(e)
            .about(path)
            .map(|()| Status::Failed)
            .map_err(|e| match e {
                Fail::Said(why) => Fail::Said(format!("{why}; {text}")),
                e => e,
            });
    }
    db.close().about(path)?;
    if undo.exists() {
        fs::remove_file(&undo)
            .and_then(|()| sync_directory(&undo))
            .about(&undo)?;
    }
    Ok(Status::Fine)
}

fn set(db: &mut Database, key: &[u8], value: Option<&[u8]>) -> kissdb::Result<()> {
    match value {
        Some(v) => db.put(key, v),
        None => db.delete(key).map(drop),
    }
}

/// A dump of the old values of the keys that are about to change, on the medium before the first one does.
fn write_undo(
    undo: &Path,
    path: &Path,
    wanted: &Entries,
    before: &BTreeMap<&[u8], &[u8]>,
) -> Result<()> {
    if undo.exists() {
        return said(format!(
            "{0}: an earlier load was cut off; `kissdb load --in-place {1} {0}` puts its old values back, or remove that file",
            undo.display(),
            path.display()
        ));
    }
    let new = NewFile::beside(undo)?;
    let mut to = BufWriter::new(File::create(new.path()).about(undo)?);
    for key in wanted.keys() {
        let mut o = Map::new();
        out::put_bytes(&mut o, "key", key);
        match before.get(&key[..]) {
            Some(v) => out::put_bytes(&mut o, "value", v),
            None => drop(o.insert("deleted".into(), json!(true))),
        }
        writeln!(to, "{}", Value::Object(o)).about(undo)?;
    }
    to.flush().about(undo)?;
    new.put(false)
}
