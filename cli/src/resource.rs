//! The values of a resource table (sizes 64/212): the configuration of a resource, as the
//! middleware lays it out.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | policy: 0 cached, 1 write-through, 2 n/a |
//! | 4 | 4 | storage: 0 local, 1 shared, 2 custom |
//! | 8 | 4 | type: 0 key, 1 file |
//! | 12 | 4 | permission: 0 read-write, 1 read-only, 2 write-only |
//! | 16 | 4 | max_size, unsigned |
//! | 20 | 64 | responsible |
//! | 84 | 64 | custom_name |
//! | 148 | 64 | customID |

use kissdb::format::Sizes;
use serde_json::{Map, Value, json};

const SIZE: usize = 212;
const NUMBERS: [(&str, &[&str]); 4] = [
    ("policy", &["cached", "write-through", "n/a"]),
    ("storage", &["local", "shared", "custom"]),
    ("type", &["key", "file"]),
    ("permission", &["read-write", "read-only", "write-only"]),
];
const NAMES: [&str; 3] = ["responsible", "custom_name", "customID"];
const NAME: usize = 64;
const FIRST_NAME: usize = 20;

/// Whether values of a database of these sizes are resources.
pub fn is_table(sizes: Sizes) -> bool {
    (sizes.key, sizes.value) == (64, SIZE as u16)
}

/// The fields of a value, if they say everything that its bytes do.
pub fn decode(value: &[u8]) -> Option<Map<String, Value>> {
    let fields = read(value)?;
    (encode(&fields).ok()? == value).then_some(fields)
}

fn read(value: &[u8]) -> Option<Map<String, Value>> {
    if value.len() != SIZE {
        return None;
    }
    let number = |at: usize| Some(i32::from_le_bytes(value[at..at + 4].try_into().ok()?));
    let mut out = Map::new();
    for (i, (name, words)) in NUMBERS.iter().enumerate() {
        let n = number(4 * i)?;
        let word = usize::try_from(n).ok().and_then(|n| words.get(n));
        out.insert((*name).into(), word.map_or(json!(n), |w| json!(w)));
    }
    out.insert("max_size".into(), json!(number(16)? as u32));
    for (i, name) in NAMES.iter().enumerate() {
        let at = FIRST_NAME + NAME * i;
        let field = &value[at..at + NAME];
        let n = field.iter().position(|&b| b == 0).unwrap_or(NAME);
        let text = std::str::from_utf8(&field[..n]).ok()?;
        out.insert((*name).into(), json!(text));
    }
    Some(out)
}

/// The value that has these fields; all must be there.
pub fn encode(fields: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let get = |name: &str| {
        fields
            .get(name)
            .ok_or_else(|| format!("the field {name} is missing"))
    };
    if let Some(odd) = fields.keys().find(|k| {
        *k != "max_size" && !NAMES.contains(&k.as_str()) && !NUMBERS.iter().any(|(n, _)| n == k)
    }) {
        return Err(format!("there is no field {odd}"));
    }
    let mut out = Vec::with_capacity(SIZE);
    for (name, words) in NUMBERS {
        let v = get(name)?;
        let n = match v.as_str() {
            Some(w) => words.iter().position(|x| *x == w).map(|n| n as i32),
            None => v.as_i64().and_then(|n| i32::try_from(n).ok()),
        };
        let n = n.ok_or_else(|| format!("{name} is one of {}", words.join(", ")))?;
        out.extend(n.to_le_bytes());
    }
    let max = get("max_size")?
        .as_u64()
        .and_then(|n| u32::try_from(n).ok());
    out.extend(max.ok_or("max_size is a number below 2^32")?.to_le_bytes());
    for name in NAMES {
        let text = get(name)?.as_str().map(str::as_bytes);
        let text = text.filter(|t| t.len() <= NAME && !t.contains(&0));
        let text = text.ok_or_else(|| format!("{name} is a text of at most {NAME} bytes"))?;
        let end = out.len() + NAME;
        out.extend(text);
        out.resize(end, 0);
    }
    Ok(out)
}

/// The fields of a value on one line; texts that are empty are left out.
pub fn line(fields: &Map<String, Value>) -> String {
    let mut out = Vec::new();
    for (name, v) in fields {
        match v.as_str() {
            Some("") => {}
            Some(s) => out.push(format!("{name}={}", crate::out::text(s.as_bytes()))),
            None => out.push(format!("{name}={v}")),
        }
    }
    out.join(" ")
}

/// A headline, then key and fields of each entry; `None` if one of them is no resource.
pub fn rows(entries: &[(&[u8], &[u8])]) -> Option<Vec<Vec<String>>> {
    let names = NUMBERS.iter().map(|n| n.0).chain(["max_size"]).chain(NAMES);
    let head = ["key"].into_iter().chain(names).map(String::from);
    let mut rows = vec![head.collect()];
    for (key, value) in entries {
        let mut row = vec![crate::out::text(key)];
        let fields = decode(value)?;
        row.extend(fields.values().map(|v| match v.as_str() {
            Some(s) => crate::out::text(s.as_bytes()),
            None => v.to_string(),
        }));
        rows.push(row);
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_the_same_bytes() {
        let mut value = vec![0; SIZE];
        value[0] = 1;
        value[4] = 2;
        value[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        value[20..23].copy_from_slice(b"hmi");
        value[148..212].fill(b'x');
        let fields = decode(&value).expect("a resource");
        assert_eq!(fields["policy"], "write-through");
        assert_eq!(fields["storage"], "custom");
        assert_eq!(fields["max_size"], u32::MAX);
        assert_eq!(fields["responsible"], "hmi");
        assert_eq!(encode(&fields), Ok(value));
    }

    #[test]
    fn unknown_numbers_stay_numbers_and_remains_are_not_hidden() {
        let mut value = vec![0; SIZE];
        value[0] = 77;
        assert_eq!(decode(&value).expect("a resource")["policy"], 77);
        // Behind the end of a text: the fields do not say it.
        value[30] = 1;
        assert_eq!(decode(&value), None);
        assert_eq!(decode(b""), None);
    }
}
