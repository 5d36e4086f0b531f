//! The text of what may be HTML, read as BeautifulSoup's `html.parser` reads it.
//!
//! That parser (Python 3.11, Beautiful Soup 4) is lenient in its own way, and captions contain
//! `<`, `&` and brackets by accident more often than tags. It works in two passes: the first
//! stops at whatever might go on in input yet to come, the second resumes there and knows that
//! nothing does. Only the text is kept; of the tree, the open tags.

use std::collections::HashMap;

use super::entities;
use super::unicode::{is_space, strip};

/// The parser gives up on this markup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejected;

/// The text nodes and CDATA sections of `markup`, joined.
///
/// # Errors
/// [`Rejected`] for `<![` without one of the few keywords that may follow it.
pub(super) fn text(markup: &str) -> Result<String, Rejected> {
    let mut parser = Parser { markup, at: 0, raw: None, tree: Tree::default(), known: Known::default() };
    parser.pass(false)?;
    parser.pass(true)?;
    parser.tree.end_string(Kind::Text);
    Ok(parser.tree.text)
}

/// What a construct that began at some place came to.
enum Found {
    /// It ends here.
    End(usize),
    /// It is not complete.
    Unfinished,
}

struct Parser<'a> {
    markup: &'a str,
    at: usize,
    /// Inside `<script>` or `<style>`: everything is text until its end tag.
    raw: Option<&'static str>,
    tree: Tree,
    known: Known,
}

/// What was found out about the rest of the markup, so that no input takes quadratic time.
#[derive(Default)]
struct Known {
    /// From a place where attributes may begin to where they end.
    attributes_end: HashMap<usize, usize>,
    /// Terminators that do not occur from a place on.
    absent: HashMap<&'static str, usize>,
}

impl Parser<'_> {
    /// Reads on until nothing is left or, unless this is the last pass, something is unfinished.
    fn pass(&mut self, last: bool) -> Result<(), Rejected> {
        let n = self.markup.len();
        while self.at < n {
            if let Some(element) = self.raw {
                // Scripts and styles never count as text, finished or not.
                let Some(end) = self.raw_end(element) else { return Ok(()) };
                self.at = end;
                self.raw = None;
                self.tree.end_tag(element, true);
                continue;
            }
            let next = self.markup[self.at..].find(['&', '<']).map_or(n, |i| self.at + i);
            self.tree.data(&self.markup[self.at..next]);
            self.at = next;
            let goes_on = match self.markup.as_bytes().get(next) {
                None => break,
                Some(b'<') => self.markup_at(last)?,
                Some(_) => self.reference_at(last),
            };
            if !goes_on {
                break;
            }
        }
        if last && self.raw.is_none() {
            self.tree.data(&self.markup[self.at..]);
            self.at = n;
        }
        Ok(())
    }

    fn rest(&self) -> &str {
        &self.markup[self.at..]
    }

    /// At `<`. Returns false where the pass has to end.
    fn markup_at(&mut self, last: bool) -> Result<bool, Rejected> {
        let rest = self.rest();
        let found = match rest.as_bytes().get(1) {
            Some(c) if c.is_ascii_alphabetic() => self.start_tag(),
            Some(b'/') => self.end_tag(),
            Some(b'!') if rest.starts_with("<!--") => self.comment(),
            Some(b'?') => self.declaration(),
            Some(b'!') if rest.starts_with("<![") => self.marked_section()?,
            Some(b'!') => self.declaration(),
            Some(_) => {
                self.tree.data("<");
                Found::End(self.at + 1)
            }
            None => return Ok(false),
        };
        match found {
            Found::End(end) => self.at = end,
            Found::Unfinished if !last => return Ok(false),
            Found::Unfinished => {
                let rest = &self.rest()[1..];
                let length = rest.find('>').map(|i| i + 1).or_else(|| rest.find('<')).unwrap_or(0);
                let end = self.at + 1 + length;
                self.tree.data(&self.markup[self.at..end]);
                self.at = end;
            }
        }
        Ok(true)
    }

    /// At `&`. Returns false where the pass has to end.
    fn reference_at(&mut self, last: bool) -> bool {
        let rest = &self.markup[self.at..];
        if let Some(digits) = rest.strip_prefix("&#") {
            let Some((value, length)) = numeric_reference(digits) else {
                if rest.contains(';') {
                    self.tree.data("&#");
                    self.at += 2;
                }
                return false;
            };
            self.tree.data(value.encode_utf8(&mut [0; 4]));
            self.at += 2 + length;
            return true;
        }
        match named_reference(&rest[1..]) {
            Some(name) => {
                let with_semicolon = [name, ";"].concat();
                match entities::named(name).or_else(|| entities::named(&with_semicolon)) {
                    Some(character) => self.tree.data(character),
                    None => self.tree.data(&rest[..=name.len()]),
                }
                self.at += 1 + name.len();
                if self.rest().starts_with(';') {
                    self.at += 1;
                }
                true
            }
            None if rest.as_bytes().get(1).is_some_and(u8::is_ascii_alphabetic) => {
                if last && rest.len() == 2 {
                    // A quirk: of `&` and one last letter the `&` is lost.
                    self.at += 1;
                }
                false
            }
            None if rest.len() > 1 => {
                self.tree.data("&");
                self.at += 1;
                true
            }
            None => false,
        }
    }

    /// What `find` finds from byte `from` on, unless it is known that `terminator` is absent there.
    fn search(
        &mut self,
        from: usize,
        terminator: &'static str,
        find: impl Fn(&str) -> Option<(usize, usize)>,
    ) -> Option<(usize, usize)> {
        if self.known.absent.get(terminator).is_some_and(|&absent| absent <= from) {
            return None;
        }
        let found = self.markup.get(from..).and_then(find).map(|(start, end)| (from + start, from + end));
        if found.is_none() {
            self.known.absent.insert(terminator, from);
        }
        found
    }

    /// `<!doctype …>`, `<?…>` and what browsers take for a comment.
    fn declaration(&mut self) -> Found {
        match self.search(self.at + 2, ">", |s| s.find('>').map(|i| (i, i + 1))) {
            Some((_, end)) => {
                self.tree.hidden_string();
                Found::End(end)
            }
            None => Found::Unfinished,
        }
    }

    fn comment(&mut self) -> Found {
        match self.search(self.at + 4, "-->", |s| terminator(s, "--", &['>'])) {
            Some((_, end)) => {
                self.tree.hidden_string();
                Found::End(end)
            }
            None => Found::Unfinished,
        }
    }

    /// `<![CDATA[ … ]]>`, `<![if …]>` and the like.
    fn marked_section(&mut self) -> Result<Found, Rejected> {
        let start = self.at + 3;
        let content = &self.markup[start..];
        let name_end = content
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
            .unwrap_or(content.len());
        let after = content[name_end..].trim_start_matches(is_space);
        if !content.is_empty() && !content.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(Rejected);
        }
        if after.is_empty() {
            return Ok(Found::Unfinished);
        }
        let found = match &*content[..name_end].to_ascii_lowercase() {
            "temp" | "cdata" | "ignore" | "include" | "rcdata" => {
                self.search(start, "]]>", |s| terminator(s, "]", &[']', '>']))
            }
            "if" | "else" | "endif" => self.search(start, "]>", |s| terminator(s, "]", &['>'])),
            _ => return Err(Rejected),
        };
        let Some((end, next)) = found else { return Ok(Found::Unfinished) };
        let content = &self.markup[start..end];
        match content.get(..6) {
            Some(keyword) if keyword.eq_ignore_ascii_case("CDATA[") => {
                self.tree.end_string(Kind::Text);
                self.tree.data(&content[6..]);
                self.tree.end_string(Kind::CData);
            }
            _ => self.tree.hidden_string(),
        }
        Ok(Found::End(next))
    }

    fn end_tag(&mut self) -> Found {
        let Some((gt, _)) = self.search(self.at + 1, ">", |s| s.find('>').map(|i| (i, i + 1))) else {
            return Found::Unfinished;
        };
        let inside = &self.markup[self.at + 2..gt];
        // `</ name >`, or `</name` and anything up to `>`.
        let strict = strip(inside);
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
        let name = if strict.starts_with(|c: char| c.is_ascii_alphabetic()) && strict.chars().all(is_name) {
            strict
        } else if inside.starts_with(|c: char| c.is_ascii_alphabetic()) {
            &inside[..name_length(inside)]
        } else {
            if !inside.is_empty() {
                self.tree.hidden_string();
            }
            return Found::End(gt + 1);
        };
        self.tree.end_tag(&name.to_lowercase(), true);
        Found::End(gt + 1)
    }

    fn start_tag(&mut self) -> Found {
        let name_end = self.at + 1 + name_length(&self.markup[self.at + 1..]);
        let name = self.markup[self.at + 1..name_end].to_lowercase();
        let spaces_and_slashes = |c: char| is_space(c) || c == '/';
        let before_attributes =
            self.markup.len() - self.markup[name_end..].trim_start_matches(spaces_and_slashes).len();
        let attributes_end = self.attributes(before_attributes);
        let close = self.markup.len() - self.markup[attributes_end..].trim_start_matches(is_space).len();
        let end = match self.markup[close..].chars().next() {
            None => return Found::Unfinished,
            Some('>') => close + 1,
            Some('/') if self.markup[close..].starts_with("/>") => close + 2,
            Some('/' | '=') => return Found::Unfinished,
            Some(c) if c.is_ascii_alphabetic() => return Found::Unfinished,
            Some(_) => close,
        };
        // The slash of `<br/>` was taken for one before attributes.
        let tail_from = self.attributes(self.skip_separators(name_end));
        match strip(&self.markup[tail_from..end.max(tail_from)]) {
            ">" => {
                self.tree.start_tag(&name, true);
                self.raw = ["script", "style"].into_iter().find(|raw| *raw == name);
            }
            "/>" => {
                self.tree.start_tag(&name, false);
                self.tree.end_tag(&name, false);
            }
            _ => self.tree.data(&self.markup[self.at..end]),
        }
        Found::End(end)
    }

    /// Where the attributes end that may begin at `from`.
    fn attributes(&mut self, from: usize) -> usize {
        let (mut at, mut passed) = (from, Vec::new());
        let end = loop {
            if let Some(&end) = self.known.attributes_end.get(&at) {
                break end;
            }
            passed.push(at);
            match self.attribute(at) {
                Some(next) => at = next,
                None => break at,
            }
        };
        self.known.attributes_end.extend(passed.into_iter().map(|p| (p, end)));
        end
    }

    /// The end of one attribute with its value and the space after it.
    fn attribute(&mut self, at: usize) -> Option<usize> {
        let before = self.markup[..at].chars().next_back()?;
        if !(is_space(before) || matches!(before, '\'' | '"' | '/')) {
            return None;
        }
        let name_stops = |c: char| is_space(c) || matches!(c, '/' | '>');
        let first = self.markup[at..].chars().next().filter(|&c| !name_stops(c))?;
        let name = at + first.len_utf8();
        let name_end = self.find_from(name, |c| name_stops(c) || c == '=');
        let value_end = self.value(name_end).unwrap_or(name_end);
        Some(self.skip_separators(value_end))
    }

    /// The end of `= value` at `at`, if there is one.
    fn value(&mut self, at: usize) -> Option<usize> {
        let equals = self.find_from(at, |c| !is_space(c));
        let after_equals = self.find_from(equals, |c| c != '=');
        if after_equals == equals {
            return None;
        }
        let value = self.find_from(after_equals, |c| !is_space(c));
        let bare_end = |p: &Self, from| p.find_from(from, |c| c == '>' || is_space(c));
        let quote = match self.markup[value..].chars().next() {
            Some('\'') => "'",
            Some('"') => "\"",
            _ => return Some(bare_end(self, value)),
        };
        if let Some((_, end)) = self.search(value + 1, quote, |s| s.find(quote).map(|i| (i, i + 1))) {
            return Some(end);
        }
        // The quote is not closed: the value is empty before a space, or begins with the last `=`.
        if value > after_equals {
            Some(value)
        } else if after_equals - equals >= 2 {
            Some(bare_end(self, after_equals - 1))
        } else {
            None
        }
    }

    /// The first place from `from` on where `stop` holds, or the end.
    fn find_from(&self, from: usize, stop: impl Fn(char) -> bool) -> usize {
        self.markup[from..].find(stop).map_or(self.markup.len(), |i| from + i)
    }

    /// Past white space, and slashes that no `>` follows.
    fn skip_separators(&self, from: usize) -> usize {
        let mut at = from;
        let mut rest = self.markup[from..].chars().peekable();
        while let Some(c) = rest.next() {
            if !(is_space(c) || (c == '/' && rest.peek() != Some(&'>'))) {
                break;
            }
            at += c.len_utf8();
        }
        at
    }

    /// The end of the end tag of a script or style.
    fn raw_end(&self, element: &str) -> Option<usize> {
        let mut from = self.at;
        while let Some(i) = self.markup[from..].find("</") {
            from += i + 2;
            let inside = self.markup[from..].trim_start_matches(is_space);
            let Some(name) = inside.get(..element.len()) else { continue };
            let after = inside[element.len()..].trim_start_matches(is_space);
            if name.eq_ignore_ascii_case(element) && after.starts_with('>') {
                return Some(self.markup.len() - after.len() + 1);
            }
        }
        None
    }
}

/// The length of a tag's name.
fn name_length(text: &str) -> usize {
    text.find(['\t', '\n', '\r', '\u{c}', ' ', '/', '>', '\0']).unwrap_or(text.len())
}

/// Finds `opening`, then each of `then` after any white space.
fn terminator(text: &str, opening: &str, then: &[char]) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(i) = text[from..].find(opening) {
        let start = from + i;
        let rest = then.iter().try_fold(&text[start + opening.len()..], |rest, &c| {
            rest.trim_start_matches(is_space).strip_prefix(c)
        });
        if let Some(rest) = rest {
            return Some((start, text.len() - rest.len()));
        }
        from = start + 1;
    }
    None
}

/// The name at the start of `text` (after `&`). It may contain dots and hyphens, and needs another character behind it.
fn named_reference(text: &str) -> Option<&str> {
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.')));
    // At the end of the text a dot or hyphen serves as that character.
    end.or_else(|| text.rfind(['-', '.'])).map(|end| &text[..end])
}

/// The character that the digits at the start of `digits` (after `&#`) name, and their length
/// with the `;`. Some character that is no hexadecimal digit has to follow.
fn numeric_reference(digits: &str) -> Option<(char, usize)> {
    let (prefix, radix) = if digits.starts_with(['x', 'X']) { (1, 16) } else { (0, 10) };
    let n = digits[prefix..].bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    let end = prefix + n;
    let follower = digits[end..].chars().next()?;
    if n == 0 || follower.is_ascii_hexdigit() {
        return None;
    }
    let character = match entities::number(&digits[prefix..end], radix) {
        0 => '\u{fffd}',
        c @ 0x80..=0x9f => super::codepages::windows_1252(c as u8),
        c => char::from_u32(c).unwrap_or('\u{fffd}'),
    };
    Some((character, end + usize::from(follower == ';')))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    CData,
    /// Comments, declarations, processing instructions.
    Hidden,
}

/// The part of the document tree that decides which strings are text.
#[derive(Default)]
struct Tree {
    text: String,
    /// The string being collected.
    string: Option<String>,
    open: Vec<String>,
    open_by_name: HashMap<String, usize>,
    /// Tags without content that were closed at once: their end tags are to be ignored.
    closed: HashMap<String, usize>,
    /// Open tags inside which white space is kept.
    preserving: usize,
    /// Open tags whose strings are no text.
    hiding: usize,
}

impl Tree {
    fn data(&mut self, data: &str) {
        if !data.is_empty() {
            self.string.get_or_insert_default().push_str(data);
        }
    }

    /// A string that is no text ends the one before it.
    fn hidden_string(&mut self) {
        self.end_string(Kind::Text);
        self.end_string(Kind::Hidden);
    }

    fn end_string(&mut self, kind: Kind) {
        let string = match (self.string.take(), kind) {
            (Some(string), _) => string,
            // An empty CDATA section counts as white space.
            (None, Kind::CData) => String::new(),
            (None, _) => return,
        };
        if kind == Kind::Hidden || (kind == Kind::Text && self.hiding > 0) {
            return;
        }
        let blank = string.chars().all(|c| matches!(c, ' ' | '\n' | '\t' | '\u{c}' | '\r'));
        match (blank && self.preserving == 0, string.contains('\n')) {
            (false, _) => self.text.push_str(&string),
            (true, true) => self.text.push('\n'),
            (true, false) => self.text.push(' '),
        }
    }

    fn start_tag(&mut self, name: &str, may_be_empty: bool) {
        self.end_string(Kind::Text);
        self.open.push(name.to_owned());
        *self.open_by_name.entry(name.to_owned()).or_default() += 1;
        self.preserving += usize::from(preserves_space(name));
        self.hiding += usize::from(hides_text(name));
        if may_be_empty && is_empty_element(name) {
            self.end_tag(name, false);
            *self.closed.entry(name.to_owned()).or_default() += 1;
        }
    }

    fn end_tag(&mut self, name: &str, may_be_closed: bool) {
        if may_be_closed
            && let Some(n) = self.closed.get_mut(name)
            && *n > 0
        {
            *n -= 1;
            return;
        }
        self.end_string(Kind::Text);
        if self.open_by_name.get(name).is_none_or(|n| *n == 0) {
            return;
        }
        while let Some(top) = self.open.pop() {
            if let Some(n) = self.open_by_name.get_mut(&top) {
                *n -= 1;
            }
            self.preserving -= usize::from(preserves_space(&top));
            self.hiding -= usize::from(hides_text(&top));
            if top == name {
                break;
            }
        }
    }
}

fn preserves_space(tag: &str) -> bool {
    matches!(tag, "pre" | "textarea")
}

fn hides_text(tag: &str) -> bool {
    matches!(tag, "rp" | "rt" | "script" | "style" | "template")
}

#[rustfmt::skip]
fn is_empty_element(tag: &str) -> bool {
    matches!(
        tag,
        "area" | "base" | "basefont" | "bgsound" | "br" | "col" | "command" | "embed" | "frame" | "hr" | "image"
            | "img" | "input" | "isindex" | "keygen" | "link" | "menuitem" | "meta" | "nextid" | "param" | "source"
            | "spacer" | "track" | "wbr"
    )
}
