//! Text of TOML as a lock has it: one line for every value, so that a diff is short.

use crate::bundle::sha256;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// The values of nested tables by their dotted names.
pub fn flatten(table: &Table) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => values
                .extend(flatten(inner).into_iter().map(|(below, value)| (format!("{}.{below}", key(name)), value))),
            value => drop(values.insert(key(name), value.clone())),
        }
    }
    values
}

/// SHA-256 of the values of a profile.
pub(super) fn profile_digest(profile: &BTreeMap<String, Value>) -> String {
    let lines = profile.iter().map(|(name, value)| format!("{name} = {}\n", line(value)));
    sha256(lines.collect::<String>().as_bytes())
}

/// A key as TOML writes it: quoted where it must be.
pub(super) fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { name.to_owned() } else { quoted(name) }
}

/// A text in quotes, on one line.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A value on one line.
pub(super) fn line(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Float(number) => format!("{number:?}"),
        Value::Array(values) => format!("[{}]", values.iter().map(line).collect::<Vec<_>>().join(", ")),
        Value::Table(values) => {
            let entries: Vec<String> =
                values.iter().map(|(name, value)| format!("{} = {}", key(name), line(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}
