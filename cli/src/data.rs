//! list, get, put, delete, create.

use crate::args::{Create, Delete, Get, List, Put};
use crate::fail::{About, Result, Status, said};
use crate::out::{self, Out};
use crate::progress::Progress;
use crate::resource;
use kissdb::engine::Snapshot;
use kissdb::format::Sizes;
use kissdb::{Database, OpenOptions};
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Everything in the database at one moment; says so where records can't be read.
pub fn snapshot(db: &mut Database, path: &Path) -> Result<Snapshot> {
    let mut progress = Progress::new("reading");
    let apart = db.is_apart().about(path)?;
    let snapshot = db
        .snapshot(|done, all| progress.at(done, all))
        .about(path)?;
    drop(progress);
    if apart {
        crate::out::complain!(
            "kissdb: {}: its users can't be asked to pause (run this as its owner or as root): what they change meanwhile may be old, new or missing",
            path.display()
        );
    }
    if snapshot.damaged() > 0 {
        crate::out::complain!(
            "kissdb: {}: {} left out, both copies of each are damaged; see `kissdb check {0}`",
            path.display(),
            out::count(snapshot.damaged(), "record")
        );
    }
    Ok(snapshot)
}

/// The answer of what has shown or written these: without what could not be read it is not the whole.
pub fn whole(of: &[&Snapshot]) -> Status {
    match of.iter().all(|s| s.damaged() == 0) {
        true => Status::Fine,
        false => Status::Found,
    }
}

pub fn open_to_read(path: &Path) -> Result<Database> {
    OpenOptions::new().read_only().open(path).about(path)
}

fn open_to_write(path: &Path) -> Result<Database> {
    OpenOptions::new().open(path).about(path)
}

/// A value as text: as fields in a resource table.
pub fn show(value: &[u8], sizes: Sizes) -> String {
    match resource::decode(value).filter(|_| resource::is_table(sizes)) {
        Some(fields) => resource::line(&fields),
        None => out::text(value),
    }
}

/// A value in a JSON object.
pub fn put_value(object: &mut Map<String, Value>, value: &[u8], sizes: Sizes) {
    match resource::decode(value).filter(|_| resource::is_table(sizes)) {
        Some(fields) => drop(object.insert("resource".into(), Value::Object(fields))),
        None => out::put_bytes(object, "value", value),
    }
}

pub fn list(a: &List, out: &mut Out) -> Result<Status> {
    let mut db = open_to_read(&a.db.file)?;
    let sizes = db.sizes().about(&a.db.file)?;
    let snapshot = snapshot(&mut db, &a.db.file)?;
    let prefix = a.prefix.as_deref().unwrap_or(OsStr::new("")).as_bytes();
    let entries: Vec<(&[u8], &[u8])> = snapshot
        .entries()
        .into_iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .collect();
    if out.json {
        for (key, value) in entries {
            let mut o = Map::new();
            out::put_bytes(&mut o, "key", key);
            if !a.keys {
                o.insert("size".into(), json!(value.len()));
                put_value(&mut o, value, sizes);
            }
            out.object(&Value::Object(o))?;
        }
        return Ok(whole(&[&snapshot]));
    }
    if let Some(width) = out
        .width
        .filter(|_| !a.keys && !a.hex && resource::is_table(sizes))
        && let Some(rows) = resource::rows(&entries)
    {
        columns(&rows, width, out)?;
        return Ok(whole(&[&snapshot]));
    }
    let keys: Vec<String> = entries.iter().map(|(key, _)| out::text(key)).collect();
    // For people in columns and cut to the window, for a pipe whole and between tabs.
    let widest = keys.iter().map(|k| console::measure_text_width(k)).max();
    for (key, (_, value)) in keys.iter().zip(entries) {
        if a.keys {
            out.line(key)?;
            continue;
        }
        let shown = if a.hex {
            out::hex(value)
        } else {
            show(value, sizes)
        };
        let Some(width) = out.width else {
            out.line(format!("{key}\t{}\t{shown}", value.len()))?;
            continue;
        };
        let column = widest.unwrap_or(0).min(width / 2);
        let pad = " ".repeat(column.saturating_sub(console::measure_text_width(key)));
        let head = format!(
            "{}{pad} {:>5}  ",
            console::style(key).cyan(),
            console::style(value.len()).dim()
        );
        let room = width
            .saturating_sub(console::measure_text_width(&head))
            .max(8);
        let shown = console::truncate_str(&shown, room, "…");
        out.line(format!("{head}{shown}").trim_end())?;
    }
    Ok(whole(&[&snapshot]))
}

/// A table with a headline.
fn columns(rows: &[Vec<String>], width: usize, out: &mut Out) -> Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let wide = |n: usize| {
        rows.iter()
            .map(move |r| console::measure_text_width(&r[n]))
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|n| wide(n).unwrap_or(0)).collect();
    for (n, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, wide) in row.iter().zip(&widths) {
            line += cell;
            line += &" ".repeat(wide + 2 - console::measure_text_width(cell));
        }
        let line = console::truncate_str(line.trim_end(), width, "…");
        match n {
            0 => out.line(console::style(line).dim().to_string())?,
            _ => out.line(line)?,
        }
    }
    Ok(())
}

pub fn get(a: &Get, out: &mut Out) -> Result<Status> {
    let key = a.key.as_bytes();
    let mut db = open_to_read(&a.db.file)?;
    let sizes = db.sizes().about(&a.db.file)?;
    let Some(value) = db.get(key).about(&a.db.file)? else {
        crate::out::complain!("kissdb: {}: no key {}", a.db.file.display(), out::text(key));
        return Ok(Status::Found);
    };
    if out.json {
        let mut o = Map::new();
        out::put_bytes(&mut o, "key", key);
        o.insert("size".into(), json!(value.len()));
        put_value(&mut o, &value, sizes);
        out.object(&Value::Object(o))?;
    } else if a.raw {
        out.bytes(&value)?;
    } else if a.hex {
        out.line(out::hex(&value))?;
    } else if resource::is_table(sizes)
        && let Some(fields) = resource::decode(&value)
    {
        for (name, v) in fields {
            let v = v
                .as_str()
                .map_or(v.to_string(), |s| out::text(s.as_bytes()));
            out.line(format!("{name:<12} {v}").trim_end())?;
        }
    } else {
        out.line(out::text(&value))?;
    }
    Ok(Status::Fine)
}

pub fn put(a: &Put) -> Result<Status> {
    let mut value = match a.value.as_deref() {
        Some(v) if v != "-" => v.as_bytes().to_vec(),
        _ => {
            let mut all = Vec::new();
            // Room for the longest value in hexadecimal, with a blank behind each digit; one byte more shows that it is longer.
            let most = kissdb::format::block::VALUE_LEN as u64 * 4;
            std::io::stdin()
                .take(most + 1)
                .read_to_end(&mut all)
                .about(Path::new("standard input"))?;
            if all.len() as u64 > most {
                return said(format!(
                    "standard input: more than {most} bytes; no value is so long, nothing was changed"
                ));
            }
            all
        }
    };
    if a.hex {
        let Some(bytes) = out::from_hex(&value) else {
            return said(
                "the value is not hexadecimal: an even number of digits 0-9 a-f, blanks between them",
            );
        };
        value = bytes;
    }
    let mut db = open_to_write(&a.db.file)?;
    check_entry(a.key.as_bytes(), &value, db.sizes().about(&a.db.file)?)
        .or_else(|why| said(format!("{}: {why}", a.db.file.display())))?;
    db.put(a.key.as_bytes(), &value).about(&a.db.file)?;
    db.sync().about(&a.db.file)?;
    db.close().about(&a.db.file)?;
    Ok(Status::Fine)
}

/// Whether an entry can be in a database of these sizes.
pub fn check_entry(key: &[u8], value: &[u8], sizes: Sizes) -> std::result::Result<(), String> {
    let longest = kissdb::format::block::KEY_LEN - 1;
    if key.is_empty() || key.len() > longest || key.contains(&0) {
        return Err(format!(
            "a key has 1 to {longest} bytes and no NUL, this one has {}",
            key.len()
        ));
    }
    if value.len() > usize::from(sizes.value) {
        return Err(format!(
            "a value has at most {} bytes here, this one has {}",
            sizes.value,
            value.len()
        ));
    }
    Ok(())
}

pub fn delete(a: &Delete, out: &mut Out) -> Result<Status> {
    let mut db = open_to_write(&a.db.file)?;
    let mut status = Status::Fine;
    for key in &a.keys {
        let key = key.as_bytes();
        let deleted = db.delete(key).about(&a.db.file)?;
        if out.json {
            let mut o = Map::new();
            out::put_bytes(&mut o, "key", key);
            o.insert("deleted".into(), json!(deleted));
            out.object(&Value::Object(o))?;
        } else if !deleted {
            crate::out::complain!("kissdb: {}: no key {}", a.db.file.display(), out::text(key));
        }
        if !deleted {
            status = Status::Found;
        }
    }
    db.sync().about(&a.db.file)?;
    db.close().about(&a.db.file)?;
    Ok(status)
}

pub fn create(a: &Create) -> Result<Status> {
    // An empty file counts as none, so nobody can slip in between.
    match File::create_new(&a.file) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return said(format!(
                "{}: is there already; remove it first",
                a.file.display()
            ));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return said(format!("{}: no such directory", a.file.display()));
        }
        r => r.about(&a.file)?,
    };
    let made = OpenOptions::new()
        .create(true)
        .sizes(a.kind.0, a.kind.1, a.kind.2)
        .open(&a.file)
        .and_then(Database::close)
        .about(&a.file);
    if made.is_err() {
        let _ = std::fs::remove_file(&a.file);
    }
    made.map(|()| Status::Fine)
}
