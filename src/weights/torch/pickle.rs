//! A pickle reader that executes nothing.
//!
//! Pickle is a stack machine whose programs import names and call them. This one builds plain
//! data only (see [`super::globals`]). Values live in an arena and refer to each other by
//! index: memory stays proportional to the pickle's length whatever it repeats, and deep or
//! cyclic structures can be dropped without recursion.

use std::collections::HashMap;
use std::rc::Rc;

use super::globals::{self, Global};
use super::tensor::{self, Storage, View};

/// Something a pickle built. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer; those beyond 127 bits become [`Value::Opaque`].
    Int(i128),
    /// A float.
    Float(f64),
    /// Text, or bytes that Python 2 called text.
    Str(Rc<str>),
    /// A list, tuple or set: index into [`Heap::sequence`].
    Sequence(usize),
    /// A dictionary: index into [`Heap::dict`].
    Dict(usize),
    /// An allowed name that was imported and not yet called.
    Global(Global),
    /// A storage that a persistent id refers to.
    Storage(Rc<Storage>),
    /// A tensor: a view into a storage.
    Tensor(Rc<View>),
    /// Metadata that is not looked into.
    Opaque,
}

impl Value {
    /// What the value is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Str(_) => "a string",
            Value::Sequence(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Global(_) => "a class",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
            Value::Opaque => "an object",
        }
    }
}

/// Containers, which pickles fill after they were referred to.
#[derive(Default)]
pub struct Heap {
    sequences: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<Rc<Storage>>,
}

impl Heap {
    /// Items of a [`Value::Sequence`].
    pub fn sequence(&self, index: usize) -> &[Value] {
        &self.sequences[index]
    }

    /// Pairs of a [`Value::Dict`] in insertion order, keys possibly repeated (the last counts).
    pub fn dict(&self, index: usize) -> &[(Value, Value)] {
        &self.dicts[index]
    }

    /// Every storage that was referred to, repeatedly if it was.
    pub fn seen_storages(&self) -> impl Iterator<Item = &Storage> {
        self.storages.iter().map(|s| &**s)
    }

    fn new_sequence(&mut self, items: Vec<Value>) -> Value {
        self.sequences.push(items);
        Value::Sequence(self.sequences.len() - 1)
    }

    fn new_dict(&mut self, pairs: Vec<(Value, Value)>) -> Value {
        self.dicts.push(pairs);
        Value::Dict(self.dicts.len() - 1)
    }
}

/// A finished pickle: its value, what it refers to, and how many bytes it took.
pub struct Pickle {
    /// The value left on the stack.
    pub root: Value,
    /// Containers that `root` refers to.
    pub heap: Heap,
    /// Bytes up to and including the STOP opcode.
    pub len: usize,
}

/// Reads the pickle at the start of `bytes`.
///
/// # Errors
/// One sentence; a refused import is named in it.
pub fn parse(bytes: &[u8]) -> Result<Pickle, String> {
    let mut machine = Machine { input: Input { bytes, at: 0 }, ..Machine::default() };
    let root = machine.run()?;
    Ok(Pickle { root, heap: machine.heap, len: machine.input.at })
}

#[derive(Default)]
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| {
            format!(
                "the pickle ends at byte {} in the middle of an instruction: it is truncated",
                self.bytes.len()
            )
        })?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut a = [0; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }

    fn u8(&mut self) -> Result<usize, String> {
        Ok(self.array::<1>()?[0].into())
    }
    fn u32(&mut self) -> Result<usize, String> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }
    /// A length that must lie in what is left, whatever 64-bit number is written.
    fn u64(&mut self) -> Result<usize, String> {
        usize::try_from(u64::from_le_bytes(self.array()?))
            .map_err(|_| "the pickle holds an absurd length".into())
    }

    /// Text up to a newline, which is consumed.
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or("the pickle ends in the middle of a line")?;
        self.at += n + 1;
        text(&rest[..n])
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    str::from_utf8(bytes).map_err(|_| "the pickle holds text that is not UTF-8".into())
}

#[derive(Default)]
struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value>,
    /// Stack heights at open marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    heap: Heap,
    /// Items copied out of containers by calls, which could repeat one container for ever.
    copied: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let at = self.input.at;
            let op = self.input.u8()? as u8;
            if op == b'.' {
                return self.pop();
            }
            self.step(op).map_err(|e| match e.as_str() {
                UNKNOWN => format!(
                    "instruction {op:#04x} at byte {at} of the pickle is not one that weight files use"
                ),
                _ => e,
            })?;
        }
    }

    fn step(&mut self, op: u8) -> Result<(), String> {
        match op {
            0x80 => drop(self.input.u8()?),  // PROTO
            0x95 => drop(self.input.u64()?), // FRAME: only a hint for buffering
            b'(' => self.marks.push(self.stack.len()),
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?.clone();
                self.stack.push(top);
            }
            b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G' => {
                let number = self.number(op)?;
                self.stack.push(number);
            }
            b'S' | b'V' | b'X' | b'T' | b'U' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => {
                let string = self.string(op)?;
                self.stack.push(string);
            }
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memo(op)?,
            b']' | b')' | 0x8f => self.push_sequence(Vec::new()),
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_sequence(items);
            }
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let items = self.pop_many(n)?;
                self.push_sequence(items);
            }
            b'}' => self.push_dict(Vec::new()),
            b'd' => {
                let items = self.pop_mark()?;
                self.push_dict(pairs(items)?);
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let pair = self.pop_many(2)?;
                self.set_items(pair)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            b'c' | 0x93 | b'i' | b'o' | b'R' | 0x81 | 0x92 | b'b' => self.object(op)?,
            b'Q' => {
                let id = self.pop()?;
                let storage = Rc::new(tensor::storage(&id, &self.heap)?);
                self.heap.storages.push(storage.clone());
                self.stack.push(Value::Storage(storage));
            }
            0x82..=0x84 => {
                return Err("the pickle uses Python's extension registry, which could name anything".into());
            }
            0x97 | 0x98 => return Err("the pickle keeps data outside itself (protocol 5 buffers)".into()),
            _ => return Err(UNKNOWN.into()),
        }
        Ok(())
    }

    fn number(&mut self, op: u8) -> Result<Value, String> {
        let i = &mut self.input;
        Ok(match op {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i32::from_le_bytes(i.array()?).into()),
            b'K' => Value::Int(i.u8()? as i128),
            b'M' => Value::Int(u16::from_le_bytes(i.array()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(i.array()?)),
            b'F' => Value::Float(i.line()?.parse().map_err(|_| "the pickle holds a malformed float")?),
            b'I' | b'L' => match i.line()? {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                digits => digits.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int),
            },
            _ => {
                let n = if op == 0x8a { i.u8()? } else { i.u32()? };
                long(i.take(n)?)
            }
        })
    }

    fn string(&mut self, op: u8) -> Result<Value, String> {
        let i = &mut self.input;
        let n = match op {
            b'S' | b'V' => {
                // A repr with escapes; only its plain form matters to weight files.
                return Ok(Value::Str(i.line()?.trim_matches(['\'', '"']).into()));
            }
            b'U' | 0x8c | b'C' => i.u8()?,
            b'X' | b'T' | b'B' => i.u32()?,
            _ => i.u64()?,
        };
        let bytes = i.take(n)?;
        Ok(match op {
            b'B' | b'C' | 0x8e | 0x96 => Value::Opaque,
            // Python 2 text: usually ASCII, else of unknown encoding.
            b'U' | b'T' => Value::Str(String::from_utf8_lossy(bytes).into()),
            _ => Value::Str(text(bytes)?.into()),
        })
    }

    fn memo(&mut self, op: u8) -> Result<(), String> {
        let key = match op {
            b'p' | b'g' => {
                self.input.line()?.parse().map_err(|_| "the pickle holds a malformed memo index")?
            }
            b'q' | b'h' => self.input.u8()?,
            b'r' | b'j' => self.input.u32()?,
            _ => self.memo.len(),
        };
        if matches!(op, b'g' | b'h' | b'j') {
            let value =
                self.memo.get(&key).ok_or_else(|| format!("the pickle recalls value {key}, never stored"))?;
            self.stack.push(value.clone());
        } else {
            let top = self.top()?.clone();
            self.memo.insert(key, top);
        }
        Ok(())
    }

    /// Everything that in Python would import a name or call something.
    fn object(&mut self, op: u8) -> Result<(), String> {
        let value = match op {
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                Value::Global(import(module, name)?)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Str(module), Value::Str(name)) = (&module, &name) else {
                    return Err(format!("the pickle imports {} from {}", name.kind(), module.kind()));
                };
                Value::Global(import(module, name)?)
            }
            b'i' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                let class = import(module, name)?;
                let args = self.pop_mark()?;
                self.call(Value::Global(class), &args)?
            }
            b'o' => {
                let items = self.pop_mark()?;
                let (class, args) = items.split_first().ok_or("the pickle builds an object of no class")?;
                self.call(class.clone(), args)?
            }
            0x92 => {
                let (_keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                let args = self.args(&args)?;
                self.call(class, &args)?
            }
            b'b' => {
                // State for an object: dictionaries (OrderedDict carries `_metadata` so) and
                // opaque records need none of it.
                drop(self.pop()?);
                return match self.top()? {
                    Value::Dict(_) | Value::Opaque | Value::Tensor(_) | Value::Sequence(_) => Ok(()),
                    other => Err(format!("the pickle sets the state of {}", other.kind())),
                };
            }
            _ => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let args = self.args(&args)?;
                self.call(callable, &args)?
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn args(&mut self, args: &Value) -> Result<Vec<Value>, String> {
        match args {
            Value::Sequence(s) => self.copy_sequence(*s),
            other => Err(format!("the pickle calls something with {} for arguments", other.kind())),
        }
    }

    fn copy_sequence(&mut self, index: usize) -> Result<Vec<Value>, String> {
        self.count_copy(self.heap.sequence(index).len())?;
        Ok(self.heap.sequence(index).to_vec())
    }

    fn count_copy(&mut self, items: usize) -> Result<(), String> {
        self.copied += items;
        if self.copied > 16 * self.input.bytes.len() {
            return Err("the pickle copies its containers over and over: it is made to exhaust memory".into());
        }
        Ok(())
    }

    fn call(&mut self, callable: Value, args: &[Value]) -> Result<Value, String> {
        let Value::Global(global) = callable else {
            return Err(format!("the pickle calls {}, which is not a function", callable.kind()));
        };
        Ok(match global {
            Global::RebuildTensor => Value::Tensor(Rc::new(tensor::view(args, &self.heap)?)),
            Global::RebuildParameter => match args.first() {
                Some(tensor @ Value::Tensor(_)) => tensor.clone(),
                _ => return Err("the pickle wraps a parameter around something that is no tensor".into()),
            },
            Global::Dict => {
                let mut pairs = Vec::new();
                for arg in args {
                    if let Some(found) = self.as_pairs(arg)? {
                        pairs = found;
                    }
                }
                self.heap.new_dict(pairs)
            }
            Global::Sequence => {
                let items = match args.first() {
                    Some(Value::Sequence(s)) => self.copy_sequence(*s)?,
                    _ => Vec::new(),
                };
                self.heap.new_sequence(items)
            }
            Global::Opaque => Value::Opaque,
            Global::Storage(_) | Global::UntypedStorage | Global::DType(_) => {
                return Err("the pickle holds a storage within itself instead of beside it".into());
            }
        })
    }

    /// `dict({…})` or, as Python 2 wrote ordered dictionaries, `dict([[key, value], …])`.
    fn as_pairs(&mut self, arg: &Value) -> Result<Option<Vec<(Value, Value)>>, String> {
        Ok(match arg {
            Value::Dict(d) => {
                self.count_copy(self.heap.dict(*d).len())?;
                Some(self.heap.dict(*d).to_vec())
            }
            Value::Sequence(s) => {
                self.count_copy(self.heap.sequence(*s).len())?;
                let pair = |item: &Value| match item {
                    Value::Sequence(p) => match self.heap.sequence(*p) {
                        [key, value] => Some((key.clone(), value.clone())),
                        _ => None,
                    },
                    _ => None,
                };
                self.heap.sequence(*s).iter().map(pair).collect()
            }
            _ => None,
        })
    }

    fn extend(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.top()? {
            Value::Sequence(s) => {
                let s = *s;
                self.heap.sequences[s].extend(items);
            }
            Value::Opaque => {}
            other => return Err(format!("the pickle appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.top()? {
            Value::Dict(d) => {
                let d = *d;
                self.heap.dicts[d].extend(pairs(items)?);
            }
            Value::Opaque => {}
            other => return Err(format!("the pickle sets items of {}", other.kind())),
        }
        Ok(())
    }

    fn push_sequence(&mut self, items: Vec<Value>) {
        let value = self.heap.new_sequence(items);
        self.stack.push(value);
    }

    fn push_dict(&mut self, pairs: Vec<(Value, Value)>) {
        let value = self.heap.new_dict(pairs);
        self.stack.push(value);
    }

    /// Pops one value, never across an open mark.
    fn pop(&mut self) -> Result<Value, String> {
        if self.marks.last() == Some(&self.stack.len()) {
            return Err("the pickle takes a value from below a mark".into());
        }
        self.stack.pop().ok_or_else(|| "the pickle takes a value from an empty stack".into())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| "the pickle refers to the top of an empty stack".into())
    }

    fn pop_many(&mut self, n: usize) -> Result<Vec<Value>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(format!("the pickle takes {n} values where fewer are")),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("the pickle closes a group that it never opened")?;
        Ok(self.stack.split_off(mark))
    }
}

/// Placeholder error that [`Machine::run`] completes with the place.
const UNKNOWN: &str = "unknown instruction";

fn import(module: &str, name: &str) -> Result<Global, String> {
    globals::resolve(module, name).ok_or_else(|| {
        let full = format!("{module}.{name}");
        let full: String = full.chars().filter(|c| !c.is_control()).take(120).collect();
        format!(
            "refused: the file wants to import `{full}`, which is neither a tensor nor known metadata; nothing in it was executed \
             (if you trust its origin, load it in Python and save only its state_dict, best as safetensors)"
        )
    })
}

fn pairs(items: Vec<Value>) -> Result<Vec<(Value, Value)>, String> {
    if !items.len().is_multiple_of(2) {
        return Err("the pickle gives a dictionary a key without a value".into());
    }
    let mut pairs = Vec::with_capacity(items.len() / 2);
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Little-endian two's complement of any length.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 16 {
        return Value::Opaque;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i128::from_le_bytes(wide))
}
