//! The settings of a trainer: shipped defaults, a TOML file over them, single values over that.
//!
//! The shipped file of a trainer (`settings/*.toml`) says every key there is, with the official values and what
//! each means: it is documentation, default and schema in one. A key that it does not have is refused with the
//! nearest one that it has; a value of another type is refused, too.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{Error, Result};

/// Settings as a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    shipped: &'static str,
    schema: Table,
    table: Table,
}

/// Tables that belong to others, who check them: a network's hyper-parameters have their official names, a
/// degradation has its own files, weights tell which layers there are. What a file says here takes the place of the
/// whole default.
const FOREIGN: [&str; 3] = ["degradation", "model.network", "loss.perceptual.layers"];

impl Settings {
    /// The defaults of a shipped file.
    ///
    /// # Panics
    /// If it is no TOML: tests read all shipped files.
    pub fn shipped(text: &'static str) -> Self {
        let schema: Table = text.parse().expect("the shipped settings are valid TOML");
        Settings { shipped: text, table: schema.clone(), schema }
    }

    /// Puts the values of a file in place of the defaults.
    ///
    /// # Errors
    /// `Error::File` naming the line or the key that is wrong.
    pub fn merge_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        self.merge_text(&text).map_err(|message| Error::file(path, message))
    }

    /// As [`Settings::merge_file`], for the text of a file.
    ///
    /// # Errors
    /// One sentence.
    pub fn merge_text(&mut self, text: &str) -> Result<(), String> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| match e.span() {
            Some(span) => {
                let line = 1 + text.as_bytes()[..span.start].iter().filter(|&&b| b == b'\n').count();
                format!("line {line}: expected TOML: {}", e.message().replace('\n', "; "))
            }
            None => format!("expected TOML: {}", e.message()),
        })?;
        self.merge_table(table)
    }

    /// As [`Settings::merge_file`], for a tree that was read already.
    ///
    /// # Errors
    /// One sentence.
    pub fn merge_table(&mut self, table: Table) -> Result<(), String> {
        merge(&mut self.table, &self.schema, table, "")
    }

    /// Puts one value in, as `optimizer.lr=1e-4`. The value is TOML; what is not, is text.
    ///
    /// # Errors
    /// `Error::Usage` naming the key.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let fail = |message: String| Error::Usage(format!("--set {assignment}: {message}"));
        let (key, text) = assignment.split_once('=').ok_or_else(|| {
            fail("expected KEY=VALUE, for example optimizer.lr=1e-4 (`--print-config` shows all keys)".into())
        })?;
        let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
        let value = parsed.unwrap_or_else(|| Value::String(text.trim().to_owned()));
        self.put(key.trim(), value).map_err(|e| fail(e.to_string()))
    }

    /// As [`Settings::set`], for a value that is there.
    ///
    /// # Errors
    /// `Error::Usage` naming the key.
    pub fn put(&mut self, key: &str, mut value: Value) -> Result<()> {
        for part in key.rsplit('.') {
            value = Value::Table(Table::from_iter([(part.to_owned(), value)]));
        }
        let Value::Table(table) = value else { unreachable!("a key has at least one part") };
        // Single values of foreign tables are added to what is there.
        if FOREIGN.iter().any(|f| key.strip_prefix(f).is_some_and(|k| k.starts_with('.'))) {
            insert(&mut self.table, table);
            return Ok(());
        }
        merge(&mut self.table, &self.schema, table, "").map_err(Error::Usage)
    }

    /// The settings as the Rust types of who reads them.
    ///
    /// # Errors
    /// `Error::Usage` naming the key whose value does not fit.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.table.clone().try_into().map_err(|e: toml::de::Error| {
            Error::Usage(format!(
                "the training settings do not fit: {}",
                e.to_string().trim().replace('\n', "; ")
            ))
        })
    }

    /// A table of another's as TOML text; empty if there is none.
    pub fn foreign(&self, key: &str) -> Table {
        let mut table = &self.table;
        for part in key.split('.') {
            match table.get(part).and_then(Value::as_table) {
                Some(t) => table = t,
                None => return Table::new(),
            }
        }
        table.clone()
    }

    /// The settings as TOML: the shipped text with its comments as long as nothing was changed.
    pub fn to_toml(&self) -> String {
        if self.table == self.schema {
            return self.shipped.to_owned();
        }
        toml::to_string_pretty(&self.table).expect("a tree of plain values is TOML")
    }

    /// Settings of the same trainer with the values of another text, as a checkpoint keeps them.
    ///
    /// # Errors
    /// One sentence.
    pub fn with_text(&self, text: &str) -> Result<Self, String> {
        let mut settings = Settings::shipped(self.shipped);
        settings.merge_text(text)?;
        Ok(settings)
    }

    /// What differs from other settings, `key: theirs -> ours`.
    pub fn changes_from(&self, other: &Settings) -> Vec<String> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        flatten(&self.table, "", &mut ours);
        flatten(&other.table, "", &mut theirs);
        let find = |list: &[(String, String)], key: &str| {
            list.iter().find(|(k, _)| k == key).map_or("nothing".to_owned(), |(_, v)| v.clone())
        };
        let mut keys: Vec<_> = ours.iter().chain(&theirs).map(|(k, _)| k.clone()).collect();
        keys.sort();
        keys.dedup();
        let changed = keys.into_iter().filter(|k| find(&ours, k) != find(&theirs, k));
        changed.map(|k| format!("{k}: {} -> {}", find(&theirs, &k), find(&ours, &k))).collect()
    }
}

fn flatten(table: &Table, above: &str, out: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let path = join(above, key);
        match value {
            Value::Table(t) => flatten(t, &path, out),
            other => out.push((path, other.to_string())),
        }
    }
}

fn join(above: &str, key: &str) -> String {
    if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") }
}

/// Puts `new` over `into` without questions.
fn insert(into: &mut Table, new: Table) {
    for (key, value) in new {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => insert(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Puts `new` over `into`, as far as `schema` has its keys with values of the same type.
fn merge(into: &mut Table, schema: &Table, new: Table, above: &str) -> Result<(), String> {
    for (key, value) in new {
        let path = join(above, &key);
        let Some(expected) = schema.get(&key) else {
            return Err(unknown(&path, schema, above));
        };
        match (expected, value) {
            (Value::Table(_), value @ Value::Table(_)) if FOREIGN.contains(&path.as_str()) => {
                into.insert(key, value);
            }
            (Value::Table(schema), Value::Table(new)) => {
                let Some(Value::Table(into)) = into.get_mut(&key) else { unreachable!("all keys are there") };
                merge(into, schema, new, &path)?;
            }
            // A whole number will do where a real one is expected.
            (Value::Float(_), Value::Integer(i)) => {
                into.insert(key, Value::Float(i as f64));
            }
            (Value::Array(_), Value::String(one)) => {
                into.insert(key, Value::Array(vec![Value::String(one)]));
            }
            (expected, value) if expected.same_type(&value) => {
                into.insert(key, value);
            }
            (expected, value) => {
                let (wanted, found) = (expected.type_str(), value.type_str());
                return Err(format!(
                    "{path}: expected {wanted} (the default is {expected}), found {found} {value}"
                ));
            }
        }
    }
    Ok(())
}

fn unknown(path: &str, schema: &Table, above: &str) -> String {
    let near = schema.keys().map(|k| join(above, k));
    let nearest = near.map(|k| (strsim::damerau_levenshtein(path, &k), k)).min();
    let keys: Vec<_> = schema.keys().map(String::as_str).collect();
    match nearest {
        Some((distance, key)) if distance <= 3 => format!("there is no key {path}; did you mean {key}?"),
        _ => format!(
            "there is no key {path}; {} has {}",
            if above.is_empty() { "the file" } else { above },
            keys.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = "steps = 10 # updates\n[optimizer]\nlr = 1e-4\nbetas = [0.9, 0.999]\n\
                           [data]\nphotos = []\n[model.network]\nembed_dim = 180\n[degradation]\nkind = \"x\"\n";

    #[test]
    fn values_are_overridden_and_the_rest_stays() {
        let mut s = Settings::shipped(SHIPPED);
        assert_eq!(s.to_toml(), SHIPPED);
        s.merge_text("[optimizer]\nlr = 1\n[model.network]\nwindow = 8\n").unwrap();
        s.set("data.photos=a/b.txt").unwrap();
        s.set("model.network.depths=[2, 2]").unwrap();
        s.set("degradation.blur.sizes = [7]").unwrap();
        let t: Table = s.read().unwrap();
        assert_eq!(t["optimizer"]["lr"], Value::Float(1.0));
        assert_eq!(t["steps"], Value::Integer(10));
        assert_eq!(t["data"]["photos"], Value::Array(vec!["a/b.txt".into()]));
        assert_eq!(s.foreign("model.network").keys().collect::<Vec<_>>(), ["depths", "window"]);
        assert_eq!(s.foreign("degradation").len(), 2);
        let text: Table = s.to_toml().parse().unwrap();
        assert_eq!(text, t);
        let changes = s.changes_from(&Settings::shipped(SHIPPED));
        assert!(changes.contains(&"optimizer.lr: 0.0001 -> 1.0".to_owned()), "{changes:?}");
        assert!(changes.contains(&"model.network.embed_dim: 180 -> nothing".to_owned()), "{changes:?}");
    }

    #[test]
    fn wrong_keys_and_types_are_named() {
        let error = |text: &str| Settings::shipped(SHIPPED).merge_text(text).unwrap_err();
        assert_eq!(
            error("[optimizer]\nrl = 1e-3\n"),
            "there is no key optimizer.rl; did you mean optimizer.lr?"
        );
        assert!(error("[optimizer]\nmomentum = 1\n").contains("optimizer has betas, lr"));
        assert_eq!(
            error("steps = \"many\"\n"),
            "steps: expected integer (the default is 10), found string \"many\""
        );
        assert!(error("steps = 1\nsteps = 2\n").starts_with("line 2: expected TOML"));
        let e = Settings::shipped(SHIPPED).set("steps").unwrap_err().to_string();
        assert!(e.contains("expected KEY=VALUE"), "{e}");
        let e = Settings::shipped(SHIPPED).set("stepz=3").unwrap_err().to_string();
        assert!(e.contains("did you mean steps?"), "{e}");
    }
}
