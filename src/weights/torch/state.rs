//! From a pickled object to the tensors a model wants: choosing the right dictionary.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::pickle::{Heap, Value};
use super::tensor::View;

/// Keys under which training programs put the weights, most wanted first: an exponential
/// moving average is what gets published where both it and the raw weights are there.
const SECTIONS: [&str; 5] = ["params_ema", "params", "state_dict", "state_dict_ema", "model"];

/// Nested deeper than any state dict; guards the recursion.
const MAX_DEPTH: usize = 48;
/// More than any model's tensors and metadata; a pickle can repeat one dictionary exponentially.
const MAX_VISITS: usize = 1_000_000;
/// Longer than any parameter's name.
const MAX_NAME: usize = 1000;

/// The tensors of a pickled checkpoint.
pub struct State {
    /// Names joined with dots, in file order.
    pub tensors: Vec<(String, Rc<View>)>,
    /// The section that was used, such as `params_ema` or `model.state_dict`.
    pub section: Option<String>,
    /// Numbers and strings beside the tensors.
    pub metadata: BTreeMap<String, String>,
}

/// Finds the state dict within `root`.
pub fn find(root: &Value, heap: &Heap) -> Result<State, String> {
    let mut walk = Walk { heap, visits: 0 };
    let mut metadata = BTreeMap::new();
    let mut path: Vec<&str> = Vec::new();
    let mut current = root;
    let mut others: Vec<&str> = Vec::new();
    while let Value::Dict(d) = current {
        if path.len() >= MAX_DEPTH {
            return Err("the checkpoint's dictionaries are nested without end".into());
        }
        let entries = last_wins(heap.dict(*d))?;
        for (key, value) in &entries {
            if let Some(text) = scalar(value) {
                metadata.insert((*key).to_owned(), text);
            }
        }
        if entries.iter().any(|(_, v)| matches!(v, Value::Tensor(_))) {
            break;
        }
        let mut found = Vec::new();
        for wanted in SECTIONS {
            if let Some((key, value)) = entries.iter().find(|(key, _)| *key == wanted)
                && matches!(value, Value::Dict(_))
                && walk.holds_tensor(value, 0)?
            {
                found.push((*key, *value));
            }
        }
        let Some((key, value)) = found.first() else { break };
        path.push(key);
        others.extend(found[1..].iter().map(|(key, _)| *key));
        current = value;
    }
    if !others.is_empty() {
        metadata.insert("unused_sections".to_owned(), others.join(", "));
    }
    if !matches!(current, Value::Dict(_)) {
        return Err(format!("expected a dictionary of tensors, found {}", current.kind()));
    }
    let mut tensors = Vec::new();
    walk.flatten(current, &mut String::new(), 0, &mut tensors)?;
    let section = (!path.is_empty()).then(|| path.join("."));
    Ok(State { tensors, section, metadata })
}

/// String-keyed entries in insertion order; of repeated keys the last, as in Python.
fn last_wins(pairs: &[(Value, Value)]) -> Result<Vec<(&str, &Value)>, String> {
    let mut at = HashMap::new();
    let mut entries: Vec<(&str, &Value)> = Vec::new();
    for (key, value) in pairs {
        let Value::Str(key) = key else { continue };
        if key.len() > MAX_NAME {
            return Err(format!("a name in the checkpoint has {} bytes", key.len()));
        }
        match at.get(&**key) {
            Some(&i) => {
                let entry: &mut (&str, &Value) = &mut entries[i];
                entry.1 = value;
            }
            None => {
                at.insert(&**key, entries.len());
                entries.push((key, value));
            }
        }
    }
    Ok(entries)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(b) => Some(b.to_string()),
        Value::Int(n) => Some(n.to_string()),
        Value::Float(x) => Some(x.to_string()),
        Value::Str(s) => Some(s.chars().take(200).collect()),
        _ => None,
    }
}

struct Walk<'a> {
    heap: &'a Heap,
    visits: usize,
}

impl Walk<'_> {
    fn visit(&mut self, depth: usize) -> Result<(), String> {
        self.visits += 1;
        if depth > MAX_DEPTH || self.visits > MAX_VISITS {
            return Err("the checkpoint's dictionaries are nested without end".into());
        }
        Ok(())
    }

    fn holds_tensor(&mut self, value: &Value, depth: usize) -> Result<bool, String> {
        self.visit(depth)?;
        let children: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Tensor(_) => return Ok(true),
            Value::Dict(d) => Box::new(self.heap.dict(*d).iter().map(|(_, v)| v)),
            Value::Sequence(s) => Box::new(self.heap.sequence(*s).iter()),
            _ => return Ok(false),
        };
        for child in children {
            if self.holds_tensor(child, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn flatten(
        &mut self,
        value: &Value,
        name: &mut String,
        depth: usize,
        out: &mut Vec<(String, Rc<View>)>,
    ) -> Result<(), String> {
        self.visit(depth)?;
        let children: Vec<(Cow<str>, &Value)> = match value {
            Value::Tensor(view) => {
                out.push((name.clone(), view.clone()));
                return Ok(());
            }
            Value::Dict(d) => {
                last_wins(self.heap.dict(*d))?.into_iter().map(|(k, v)| (k.into(), v)).collect()
            }
            Value::Sequence(s) => {
                self.heap.sequence(*s).iter().enumerate().map(|(i, v)| (i.to_string().into(), v)).collect()
            }
            _ => return Ok(()),
        };
        for (key, child) in children {
            let len = name.len();
            if len > 0 {
                name.push('.');
            }
            name.push_str(&key);
            if name.len() > MAX_NAME {
                return Err(format!("a tensor's name has more than {MAX_NAME} bytes"));
            }
            self.flatten(child, name, depth + 1, out)?;
            name.truncate(len);
        }
        Ok(())
    }
}
