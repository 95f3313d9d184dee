//! copy, compact, diff.

use crate::args::{Compact, Copy, Diff};
use crate::data::{open_to_read, show, snapshot, whole};
use crate::fail::{About, Result, Status, said};
use crate::newfile::{NewFile, in_use, place_of, repeat, taken};
use crate::out::{self, Out};
use crate::progress::Progress;
use kissdb::format::Sizes;
use kissdb::inspect::{Inspector, Weight};
use serde_json::{Map, Value, json};
use std::fs;

pub fn copy(a: &Copy, out: &mut Out) -> Result<Status> {
    if !a.force && a.new.symlink_metadata().is_ok() {
        return Err(taken(&a.new));
    }
    if a.force
        && let (Ok(from), Ok(to)) = (fs::canonicalize(&a.db.file), fs::canonicalize(&a.new))
        && from == to
    {
        return said(format!("{}: is the database itself", a.new.display()));
    }
    if Inspector::open(&a.new).is_ok_and(|i| i.is_in_use()) {
        return in_use(&a.new);
    }
    let mut db = open_to_read(&a.db.file)?;
    let sizes = db.sizes().about(&a.db.file)?;
    let snapshot = snapshot(&mut db, &a.db.file)?;
    db.close().about(&a.db.file)?;
    let entries = snapshot.entries();
    let new = NewFile::beside(&a.new)?;
    new.fill(sizes, entries.iter().map(|(k, v)| (*k, *v)))?;
    new.mode_of(&fs::metadata(&a.db.file).about(&a.db.file)?)?;
    new.put(a.force)?;
    let keys = entries.len() as u64;
    if out.json {
        out.object(&json!({"file": a.new.display().to_string(), "keys": keys, "damaged": snapshot.damaged()}))?;
    }
    Ok(whole(&[&snapshot]))
}

pub fn compact(a: &Compact, out: &mut Out) -> Result<Status> {
    let path = &a.db.file;
    let (place, meta) = place_of(path)?;
    repeat(path, || {
        let mut inspector = Inspector::open(path).about(path)?;
        if inspector.is_in_use() {
            return in_use(path);
        }
        let mut progress = Progress::new("checking");
        let report = inspector.survey(|n, all| progress.at(n, all)).about(path)?;
        drop(progress);
        // It may have become a user itself.
        drop(inspector);
        if report.in_use {
            return in_use(path);
        }
        if report
            .findings
            .iter()
            .any(|f| f.rule.weight() == Weight::Damage)
        {
            return said(format!(
                "{0}: damaged; first look at it with `kissdb check {0}` and mend it with `kissdb repair {0}`",
                path.display()
            ));
        }
        let mut db = open_to_read(path)?;
        let sizes = db.sizes().about(path)?;
        let mut snapshot = snapshot(&mut db, path)?;
        let new = NewFile::beside(&place)?;
        {
            let entries = snapshot.entries();
            new.fill(sizes, entries.iter().map(|(k, v)| (*k, *v)))?;
        }
        new.rights_of(&meta)?;
        let len = fs::metadata(new.path()).about(path)?.len();
        if !new.replace(&mut db, &mut snapshot, || Ok(()))? {
            return Ok(None);
        }
        if out.json {
            out.object(
                &json!({"file": path.display().to_string(), "before": report.len, "after": len}),
            )?;
        } else {
            out.line(format!(
                "{} before, {} now",
                out::bytes(report.len),
                out::bytes(len)
            ))?;
        }
        Ok(Some(Status::Fine))
    })
}

pub fn diff(a: &Diff, out: &mut Out) -> Result<Status> {
    let read = |path: &std::path::PathBuf| -> Result<_> {
        let mut db = open_to_read(path)?;
        let sizes = db.sizes().about(path)?;
        let snapshot = snapshot(&mut db, path)?;
        db.close().about(path)?;
        Ok((sizes, snapshot))
    };
    let ((sizes_a, all_a), (sizes_b, all_b)) = (read(&a.a)?, read(&a.b)?);
    let (mut left, mut right) = (all_a.entries(), all_b.entries());
    let mut status = whole(&[&all_a, &all_b]);
    if sizes_a != sizes_b {
        status = Status::Found;
        let text = |s: Sizes| format!("{}/{}/{}", s.slots, s.key, s.value);
        if out.json {
            out.object(&json!({"change": "sizes", "a": text(sizes_a), "b": text(sizes_b)}))?;
        } else {
            out.line(format!("sizes {} and {}", text(sizes_a), text(sizes_b)))?;
        }
    }
    let mut keys: Vec<&[u8]> = left.keys().chain(right.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let shown = |v: &[u8], sizes: Sizes| match a.hex {
        true => out::hex(v),
        false => show(v, sizes),
    };
    for key in keys {
        let pair = (left.remove(key), right.remove(key));
        let (change, sign) = match pair {
            (Some(x), Some(y)) if x == y => continue,
            (Some(_), Some(_)) => ("changed", console::style("~").yellow()),
            (Some(_), None) => ("only in a", console::style("-").red()),
            _ => ("only in b", console::style("+").green()),
        };
        status = Status::Found;
        if out.json {
            let mut o = Map::new();
            o.insert("change".into(), json!(change));
            out::put_bytes(&mut o, "key", key);
            for (name, value) in [("a", pair.0), ("b", pair.1)] {
                if let Some(v) = value {
                    out::put_bytes(&mut o, name, v);
                }
            }
            out.object(&Value::Object(o))?;
            continue;
        }
        let values: Vec<String> = [(pair.0, sizes_a), (pair.1, sizes_b)]
            .into_iter()
            .filter_map(|(v, sizes)| v.map(|v| shown(v, sizes)))
            .collect();
        out.line(format!(
            "{sign} {}  {}",
            out::text(key),
            values.join("  ->  ")
        ))?;
    }
    Ok(status)
}
