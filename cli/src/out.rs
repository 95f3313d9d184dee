//! Standard output: text with colours or JSON, and how bytes are shown.

use crate::args::When;
use crate::fail::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// A line on standard error. Where nobody reads that, there is nobody to be told.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use complain;

/// Standard output.
pub struct Out {
    to: BufWriter<Stdout>,
    pub json: bool,
    /// Columns of the terminal; `None` if it is no terminal.
    pub width: Option<usize>,
}

impl Out {
    pub fn new(json: bool, color: When) -> Self {
        let wanted = |terminal: bool| match color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let says_no = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
                terminal && !says_no && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
            }
        };
        console::set_colors_enabled(wanted(io::stdout().is_terminal()));
        console::set_colors_enabled_stderr(wanted(io::stderr().is_terminal()));
        let width = console::Term::stdout()
            .size_checked()
            .map(|(_, w)| usize::from(w));
        Self {
            to: BufWriter::new(io::stdout()),
            json,
            width: width.filter(|_| io::stdout().is_terminal()),
        }
    }

    /// A line of text.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<()> {
        Ok(writeln!(self.to, "{}", text.as_ref())?)
    }

    /// A line of JSON.
    pub fn object(&mut self, value: &Value) -> Result<()> {
        Ok(writeln!(self.to, "{value}")?)
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.to.write_all(bytes)?)
    }

    pub fn flush(&mut self) -> Result<()> {
        Ok(self.to.flush()?)
    }
}

/// Bytes as text on one line: what can't be printed as `\xNN`, the backslash doubled.
pub fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                c if c.is_control() || is_invisible(c) => {
                    for b in c.encode_utf8(&mut [0; 4]).bytes() {
                        // Writing into a String can't fail.
                        let _ = write!(out, "\\x{b:02x}");
                    }
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// Marks that change the direction or the meaning of what is printed beside them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for b in bytes {
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// The bytes that hexadecimal digits mean; blanks between them are passed over.
pub fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let digits: Option<Vec<u32>> = text
        .iter()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|&b| digit(b))
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(pairs.map(|p| (p[0] * 16 + p[1]) as u8).collect())
}

/// Puts bytes into a JSON object: as `name` if they are plain text, else as `name_base64`.
pub fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    let plain = |s: &&str| !s.chars().any(|c| c.is_control() && !"\n\t\r".contains(c));
    match std::str::from_utf8(bytes).ok().filter(plain) {
        Some(s) => object.insert(name.into(), json!(s)),
        None => object.insert(format!("{name}_base64"), json!(BASE64.encode(bytes))),
    };
}

/// What [`put_bytes`] has put there; `None` if neither is there or it can't be read.
pub fn take_bytes(object: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    if let Some(s) = object.get(name) {
        return Some(s.as_str()?.as_bytes().to_vec());
    }
    BASE64
        .decode(object.get(&format!("{name}_base64"))?.as_str()?)
        .ok()
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut v = n as f64;
    let mut u = 0;
    while v >= 1024.0 && u + 1 < units.len() {
        v /= 1024.0;
        u += 1;
    }
    match u {
        0 if n == 1 => "1 byte".into(),
        0 => format!("{n} bytes"),
        _ if v.fract() == 0.0 => format!("{v:.0} {}", units[u]),
        _ => format!("{v:.1} {}", units[u]),
    }
}

/// `1 key`, `2 keys`.
pub fn count(n: u64, what: &str) -> String {
    match (n, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) if !what.ends_with("ey") => format!("{n} {stem}ies"),
        _ => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_on_one_line_and_nothing_hides() {
        assert_eq!(text(b"a\\b\n\x00\xff"), "a\\\\b\\n\\x00\\xff");
        assert_eq!(text("°C".as_bytes()), "°C");
        assert_eq!(text("\u{202e}".as_bytes()), "\\xe2\\x80\\xae");
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(from_hex(b"00 fF"), Some(vec![0, 255]));
        assert_eq!(from_hex(b"0"), None);
        assert_eq!(from_hex(b"0x"), None);
    }

    #[test]
    fn json_keeps_every_byte() {
        for b in [&b"de_DE"[..], b"", b"\x00\x01", b"\xff", "ä\n".as_bytes()] {
            let mut o = Map::new();
            put_bytes(&mut o, "value", b);
            assert_eq!(take_bytes(&o, "value").as_deref(), Some(b));
        }
    }

    #[test]
    fn numbers_and_words() {
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(1_011_712), "988 KiB");
        assert_eq!(count(2, "key"), "2 keys");
        assert_eq!(count(2, "copy"), "2 copies");
    }
}
