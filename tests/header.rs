//! `include/kissdb.h` is what cbindgen makes of `src/capi`, set for a C reader by [`for_c`]. After a
//! change there: `KISSDB_BLESS=1 cargo test --test header`.

use std::fs;
use std::path::Path;

fn generate(root: &Path) -> String {
    let config = cbindgen::Config::from_file(root.join("include/cbindgen.toml")).unwrap();
    let builder = ["types", "functions", "helpers"]
        .iter()
        .map(|name| root.join(format!("src/capi/{name}.rs")))
        .fold(
            cbindgen::Builder::new().with_config(config),
            |builder, source| builder.with_src(source),
        );
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    for_c(&String::from_utf8(header).unwrap())
}

/// Rust's habits out, C's in: what callers owe is a sentence, not a heading; comments of one line
/// take one; numbers can stand anywhere in an expression, delimiters are hexadecimal.
fn for_c(header: &str) -> String {
    let (head, body) = header.split_once("#ifndef KISSDB_H").unwrap();
    let body = body.replace(" *\n * # Safety\n * ", " *\n * Requires: ");
    let mut lines: Vec<String> = Vec::new();
    for line in body.lines() {
        let define = line.strip_prefix("#define ");
        let line = match define.and_then(|d| d.split_once(' ')) {
            Some((name, value)) => constant(name, value),
            None => line.replace('`', ""),
        };
        let doubled = line.is_empty() && lines.last().is_some_and(String::is_empty);
        if let [.., open, text] = &lines[..]
            && line.trim() == "*/"
            && open.trim() == "/**"
        {
            let text = text.trim().trim_start_matches("* ").to_string();
            let indent = &line[..line.len() - line.trim_start().len() - 1];
            let short = format!("{indent}/** {text} */");
            lines.truncate(lines.len() - 2);
            lines.push(short);
        } else if !doubled {
            lines.push(line);
        }
    }
    format!("{head}#ifndef KISSDB_H{}\n", lines.join("\n"))
}

fn constant(name: &str, value: &str) -> String {
    match value.parse::<i64>() {
        Ok(n) if name.ends_with("_DELIMITER") => format!("#define {name} {n:#010X}ULL"),
        Ok(n) if n < 0 => format!("#define {name} ({n})"),
        _ => format!("#define {name} {value}"),
    }
    .replace(" 0X", " 0x")
}

#[test]
fn header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("include/kissdb.h");
    let made = generate(root);
    if std::env::var_os("KISSDB_BLESS").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    for (n, (kept, made)) in kept.lines().zip(made.lines()).enumerate() {
        assert_eq!(kept, made, "include/kissdb.h, line {}", n + 1);
    }
    assert_eq!(kept, made, "include/kissdb.h has another length");
}
