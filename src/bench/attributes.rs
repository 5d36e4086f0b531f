//! An op's attributes as JSON, for the other side of a comparison.
//!
//! [`Op::key`] is the op with all its attributes in Rust's debug notation. That notation is regular
//! enough to be read back, so that no op needs a line of code here:
//!
//! | Rust | JSON |
//! |---|---|
//! | `ConvSpec { stride: [1, 2], groups: 4 }` | `{"type": "ConvSpec", "stride": [1, 2], "groups": 4}` |
//! | `LeakyRelu(0.2)` | `{"type": "LeakyRelu", "args": [0.2]}` |
//! | `Softmax` | `{"type": "Softmax"}` |
//! | `None`, `Some(x)` | `null`, `x` |
//! | `[1, 2]`, `(1, 2)` | `[1, 2]` |
//! | `true`, `-1.5e-6`, `"text"` | the same |
//! | `inf`, `NaN` | `"inf"`, `"NaN"` |

use serde_json::{Map, Number, Value, json};

use crate::graph::Op;

/// The attributes of an op.
///
/// # Panics
/// If the op prints itself in a notation of its own; a test walks the registry.
pub fn of(op: &dyn Op) -> Value {
    let key = op.key();
    parse(&key).unwrap_or_else(|at| panic!("{key}: not debug notation from byte {at} on"))
}

/// Reads debug notation, or says at which byte it stops to be one.
fn parse(text: &str) -> Result<Value, usize> {
    let mut p = Parser { text, at: 0 };
    let value = p.value()?;
    p.space();
    if p.at == text.len() { Ok(value) } else { Err(p.at) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Skips `c` if it comes next.
    fn eat(&mut self, c: char) -> bool {
        self.space();
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn word(&mut self, part: impl Fn(char) -> bool) -> &'a str {
        self.space();
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !part(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    /// Items up to the closing bracket.
    fn list<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T, usize>,
    ) -> Result<Vec<T>, usize> {
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(item(self)?);
            if !self.eat(',') {
                return if self.eat(close) { Ok(items) } else { Err(self.at) };
            }
        }
        Ok(items)
    }

    fn value(&mut self) -> Result<Value, usize> {
        self.space();
        match self.rest().chars().next().ok_or(self.at)? {
            '[' | '(' => {
                let close = if self.eat('[') {
                    ']'
                } else {
                    self.eat('(');
                    ')'
                };
                Ok(Value::Array(self.list(close, Self::value)?))
            }
            '"' => self.string(),
            '-' | '0'..='9' => self.number(),
            c if c.is_alphabetic() || c == '_' => self.named(),
            _ => Err(self.at),
        }
    }

    /// A string without escapes other than the quotation mark and the backslash.
    fn string(&mut self) -> Result<Value, usize> {
        let start = self.at;
        self.eat('"');
        let mut text = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(Value::String(text));
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    _ => return Err(self.at + i),
                },
                c => text.push(c),
            }
        }
        Err(start)
    }

    fn number(&mut self) -> Result<Value, usize> {
        let start = self.at;
        let word = self.word(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
        if word == "-" && self.rest().starts_with("inf") {
            self.at += 3;
            return Ok(json!("-inf"));
        }
        let whole = word.parse::<i64>().ok().map(Number::from);
        let number = whole.or_else(|| Number::from_f64(word.parse().ok()?));
        number.map(Value::Number).ok_or(start)
    }

    fn named(&mut self) -> Result<Value, usize> {
        let name = self.word(|c| c.is_alphanumeric() || c == '_');
        match name {
            "true" => return Ok(json!(true)),
            "false" => return Ok(json!(false)),
            "None" => return Ok(Value::Null),
            "inf" | "NaN" => return Ok(json!(name)),
            _ => {}
        }
        let mut object = Map::from_iter([("type".to_owned(), json!(name))]);
        if self.eat('(') {
            let mut args = self.list(')', Self::value)?;
            if name == "Some" && args.len() == 1 {
                return Ok(args.remove(0));
            }
            object.insert("args".into(), Value::Array(args));
        } else if self.eat('{') {
            let fields = self.list('}', |p| {
                let field = p.word(|c| c.is_alphanumeric() || c == '_').to_owned();
                if p.eat(':') { Ok((field, p.value()?)) } else { Err(p.at) }
            })?;
            object.extend(fields);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::registry;

    #[derive(Debug)]
    #[allow(dead_code)] // read through Debug, which is the point
    enum Kind {
        Unit,
        Tuple(f32, Option<&'static str>),
        Struct { pads: [usize; 2], low: f64 },
    }

    #[test]
    fn debug_notation_is_read_back() {
        let read = |k: Kind| parse(&format!("{k:?}")).unwrap();
        assert_eq!(read(Kind::Unit), json!({"type": "Unit"}));
        assert_eq!(
            read(Kind::Tuple(1e-6, Some("a \"b\" \\"))),
            json!({"type": "Tuple", "args": [1e-6, "a \"b\" \\"]})
        );
        assert_eq!(read(Kind::Tuple(-2.0, None)), json!({"type": "Tuple", "args": [-2.0, null]}));
        assert_eq!(
            read(Kind::Struct { pads: [0, 3], low: f64::NEG_INFINITY }),
            json!({"type": "Struct", "pads": [0, 3], "low": "-inf"})
        );
        assert_eq!(parse("[(1, true), ()]"), Ok(json!([[1, true], []])));
    }

    #[test]
    fn anything_else_is_refused_where_it_goes_wrong() {
        assert_eq!(parse("Foo { a 1 }"), Err(8));
        assert_eq!(parse("[1, 2"), Err(5));
        assert_eq!(parse("Foo bar"), Err(4));
        assert_eq!(parse("\"open"), Err(0));
        assert_eq!(parse(""), Err(0));
    }

    #[test]
    fn every_op_of_the_registry_can_be_described() {
        for case in registry().flat_map(|e| (e.cases)()) {
            assert!(of(case.op.as_ref()).is_object(), "{}", case.op.key());
        }
    }
}
