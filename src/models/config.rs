//! Reading official configurations: known keys are taken, keys that do not change the forward
//! are noted, all others refused.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Splits a configuration object by the keys that a network knows and those that do not change
/// its forward (`harmless`), and reads the known ones. Returns the struct and the ignored keys.
pub(super) fn read<T: DeserializeOwned>(
    network: &str,
    config: &Value,
    known: &[&str],
    harmless: &[&str],
) -> Result<(T, Vec<String>)> {
    let object = config
        .as_object()
        .ok_or_else(|| Error::Usage(format!("the {network} configuration must be a JSON object")))?;
    let (mut taken, mut ignored, mut unknown) = (Map::new(), Vec::new(), Vec::new());
    for (key, value) in object {
        if known.contains(&key.as_str()) {
            taken.insert(key.clone(), value.clone());
        } else if harmless.contains(&key.as_str()) || key.starts_with('_') {
            ignored.push(key.clone());
        } else {
            unknown.push(key.as_str());
        }
    }
    if !unknown.is_empty() {
        return Err(Error::Usage(format!(
            "the {network} configuration has unknown keys: {}; known are {}",
            unknown.join(", "),
            known.join(", ")
        )));
    }
    let read = serde_json::from_value(Value::Object(taken))
        .map_err(|e| Error::Usage(format!("the {network} configuration is wrong: {e}")))?;
    Ok((read, ignored))
}
