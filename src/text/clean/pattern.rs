//! Regular expressions that match as Python's `re` does, in linear time.
//!
//! The cleaning rules are defined by Python: `\w`, `\d`, `\s` and `\b` have Python's idea of
//! Unicode, look-around is used, and which of several matches counts follows from backtracking.
//! The matcher here backtracks in the same order, but remembers where it has failed: whether the
//! rest of a pattern matches from a place depends on nothing else, so no place is tried twice,
//! not even for different beginnings of a match. Time is at most (length of the pattern) × (length of the
//! text), where Python's takes the square of the text or worse.
//!
//! Known are: literals, `.`, classes, `\w \d \s \W \D \S \b`, `^ $`, groups (none captures),
//! `|`, the greedy `* + ? {m} {m,} {m,n}`, and `(?!x)` and `(?<!x)` for a single x.

use super::unicode::{is_digit, is_space, is_word};

/// One compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    program: Vec<Step>,
    sets: Vec<Set>,
    /// How many `Step::Split` there are.
    splits: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Char(char),
    Set(usize),
    /// Goes on at `first`, and at `second` if that fails; `slot` numbers the splits.
    Split {
        first: usize,
        second: usize,
        slot: usize,
    },
    Jump(usize),
    Boundary,
    Start,
    End,
    NextIsNot(usize),
    PreviousIsNot(usize),
    Match,
}

/// What `[…]`, `\w` or `.` accepts.
#[derive(Clone, Debug, Default)]
struct Set {
    ranges: Vec<(char, char)>,
    /// Named classes, and whether a character must (true) or must not belong.
    classes: Vec<(Class, bool)>,
    negated: bool,
}

#[derive(Clone, Copy, Debug)]
enum Class {
    Word,
    Digit,
    Space,
}

impl Set {
    fn contains(&self, c: char) -> bool {
        let named = |&(class, wanted): &(Class, bool)| {
            wanted
                == match class {
                    Class::Word => is_word(c),
                    Class::Digit => is_digit(c),
                    Class::Space => is_space(c),
                }
        };
        let found = self.ranges.iter().any(|&(a, b)| (a..=b).contains(&c)) || self.classes.iter().any(named);
        found != self.negated
    }
}

#[derive(Clone, Debug)]
enum Node {
    Step(Step),
    Sequence(Vec<Node>),
    Alternatives(Vec<Node>),
    Repeat { body: Box<Node>, least: usize, most: Option<usize> },
}

impl Pattern {
    /// Compiles a pattern of this module's; a malformed one is a mistake in the source.
    ///
    /// # Panics
    /// If `pattern` is malformed or uses what is not known here.
    pub(super) fn new(pattern: &str) -> Self {
        let mut parser =
            Parser { rest: pattern.chars().collect::<Vec<_>>(), at: 0, sets: Vec::new(), pattern };
        let node = parser.alternatives();
        assert!(parser.at == parser.rest.len(), "unbalanced `)` in {pattern}");
        let mut compiled = Pattern { program: Vec::new(), sets: parser.sets, splits: 0 };
        compiled.emit(&node);
        compiled.program.push(Step::Match);
        compiled
    }

    fn emit(&mut self, node: &Node) {
        match node {
            Node::Step(step) => self.program.push(*step),
            Node::Sequence(nodes) => nodes.iter().for_each(|n| self.emit(n)),
            Node::Alternatives(nodes) => {
                let mut jumps = Vec::new();
                for (i, n) in nodes.iter().enumerate() {
                    if i + 1 == nodes.len() {
                        self.emit(n);
                        continue;
                    }
                    let split = self.emit_split();
                    self.emit(n);
                    jumps.push(self.program.len());
                    self.program.push(Step::Jump(0));
                    self.fail_to_here(split);
                }
                let end = self.program.len();
                jumps.into_iter().for_each(|j| self.program[j] = Step::Jump(end));
            }
            Node::Repeat { body, least, most } => {
                (0..*least).for_each(|_| self.emit(body));
                match most {
                    None => {
                        let split = self.emit_split();
                        self.emit(body);
                        self.program.push(Step::Jump(split));
                        self.fail_to_here(split);
                    }
                    Some(most) => {
                        let splits: Vec<usize> = (*least..*most)
                            .map(|_| {
                                let split = self.emit_split();
                                self.emit(body);
                                split
                            })
                            .collect();
                        splits.into_iter().for_each(|s| self.fail_to_here(s));
                    }
                }
            }
        }
    }

    fn emit_split(&mut self) -> usize {
        let at = self.program.len();
        self.program.push(Step::Split { first: at + 1, second: 0, slot: self.splits });
        self.splits += 1;
        at
    }

    fn fail_to_here(&mut self, split: usize) {
        let here = self.program.len();
        if let Step::Split { second, .. } = &mut self.program[split] {
            *second = here;
        }
    }

    /// Whether the pattern matches anywhere in `text`.
    pub(super) fn is_in(&self, text: &[char]) -> bool {
        Search::new(self, text).next().is_some()
    }

    /// All matches, left to right, as ranges of `text`; none overlap.
    pub(super) fn matches<'a>(&'a self, text: &'a [char]) -> impl Iterator<Item = (usize, usize)> + 'a {
        Search::new(self, text)
    }

    /// `text` with every match replaced by what `with` makes of it.
    pub(super) fn replace_by(&self, text: &str, mut with: impl FnMut(&[char], &mut String)) -> String {
        let chars: Vec<char> = text.chars().collect();
        let (mut out, mut copied) = (String::with_capacity(text.len()), 0);
        for (start, end) in self.matches(&chars) {
            out.extend(&chars[copied..start]);
            with(&chars[start..end], &mut out);
            copied = end;
        }
        out.extend(&chars[copied..]);
        out
    }

    /// `text` with every match replaced by `with`.
    pub(super) fn replace(&self, text: &str, with: &str) -> String {
        self.replace_by(text, |_, out| out.push_str(with))
    }
}

/// A left-to-right search of one text.
struct Search<'a> {
    pattern: &'a Pattern,
    text: &'a [char],
    from: usize,
    /// Bit `position · splits + slot`: this split was taken at this position, in vain.
    tried: Vec<u64>,
    pending: Vec<(usize, usize)>,
}

impl<'a> Search<'a> {
    fn new(pattern: &'a Pattern, text: &'a [char]) -> Self {
        let tried = vec![0; ((text.len() + 1) * pattern.splits).div_ceil(64)];
        Search { pattern, text, from: 0, tried, pending: Vec::new() }
    }

    /// The end of the match that begins at `start`.
    fn match_at(&mut self, start: usize) -> Option<usize> {
        self.pending.clear();
        let mut thread = Some((0, start));
        while let Some((step, at)) = thread {
            if let Some(end) = self.run(step, at) {
                return Some(end);
            }
            thread = self.pending.pop();
        }
        None
    }

    /// Follows one thread to its end, leaving its alternatives in `pending`.
    fn run(&mut self, mut step: usize, mut at: usize) -> Option<usize> {
        let (text, sets) = (self.text, &self.pattern.sets);
        loop {
            let next = text.get(at).copied();
            let consumed = match self.pattern.program[step] {
                Step::Char(c) => next == Some(c),
                Step::Set(i) => next.is_some_and(|c| sets[i].contains(c)),
                Step::Split { first, second, slot } => {
                    let bit = at * self.pattern.splits + slot;
                    if self.tried[bit / 64] >> (bit % 64) & 1 == 1 {
                        return None;
                    }
                    self.tried[bit / 64] |= 1 << (bit % 64);
                    self.pending.push((second, at));
                    step = first;
                    continue;
                }
                Step::Jump(to) => {
                    step = to;
                    continue;
                }
                Step::Match => return Some(at),
                condition => {
                    let previous = at.checked_sub(1).map(|i| text[i]);
                    let holds = match condition {
                        Step::Boundary => previous.is_some_and(is_word) != next.is_some_and(is_word),
                        Step::Start => at == 0,
                        // Python's `$` also holds before a line break that ends the text.
                        Step::End => next.is_none() || (next == Some('\n') && at + 1 == text.len()),
                        Step::NextIsNot(i) => !next.is_some_and(|c| sets[i].contains(c)),
                        Step::PreviousIsNot(i) => !previous.is_some_and(|c| sets[i].contains(c)),
                        _ => false,
                    };
                    if !holds {
                        return None;
                    }
                    step += 1;
                    continue;
                }
            };
            if !consumed {
                return None;
            }
            (step, at) = (step + 1, at + 1);
        }
    }
}

impl Iterator for Search<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        while self.from <= self.text.len() {
            let start = self.from;
            let Some(end) = self.match_at(start) else {
                self.from += 1;
                continue;
            };
            // An empty match must not be found again.
            self.from = end.max(start + 1);
            // The only places on the way of this match that the next one can meet.
            (end * self.pattern.splits..(end + 1) * self.pattern.splits)
                .for_each(|bit| self.tried[bit / 64] &= !(1 << (bit % 64)));
            return Some((start, end));
        }
        None
    }
}

struct Parser<'a> {
    rest: Vec<char>,
    at: usize,
    sets: Vec<Set>,
    pattern: &'a str,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn take(&mut self) -> char {
        let c = self.peek().unwrap_or_else(|| panic!("unexpected end of {}", self.pattern));
        self.at += 1;
        c
    }

    fn eat(&mut self, what: &str) -> bool {
        let found = what.chars().enumerate().all(|(i, c)| self.rest.get(self.at + i) == Some(&c));
        if found {
            self.at += what.chars().count();
        }
        found
    }

    fn alternatives(&mut self) -> Node {
        let mut nodes = vec![self.sequence()];
        while self.eat("|") {
            nodes.push(self.sequence());
        }
        if nodes.len() == 1 { nodes.remove(0) } else { Node::Alternatives(nodes) }
    }

    fn sequence(&mut self) -> Node {
        let mut nodes = Vec::new();
        while !matches!(self.peek(), None | Some('|' | ')')) {
            let atom = self.atom();
            nodes.push(self.repeated(atom));
        }
        Node::Sequence(nodes)
    }

    fn repeated(&mut self, body: Node) -> Node {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.at += 1;
                let least = self.number();
                let most = if self.eat(",") {
                    (self.peek() != Some('}')).then(|| self.number())
                } else {
                    Some(least)
                };
                assert!(self.peek() == Some('}'), "expected }} in {}", self.pattern);
                (least, most)
            }
            _ => return body,
        };
        self.at += 1;
        Node::Repeat { body: Box::new(body), least, most }
    }

    fn number(&mut self) -> usize {
        let mut n = 0;
        while let Some(d) = self.peek().and_then(|c| c.to_digit(10)) {
            n = 10 * n + d as usize;
            self.at += 1;
        }
        n
    }

    fn atom(&mut self) -> Node {
        if self.eat("(?!") {
            let set = self.assertion();
            return Node::Step(Step::NextIsNot(set));
        }
        if self.eat("(?<!") {
            let set = self.assertion();
            return Node::Step(Step::PreviousIsNot(set));
        }
        if self.eat("(?:") || self.eat("(") {
            let node = self.alternatives();
            assert!(self.eat(")"), "unbalanced `(` in {}", self.pattern);
            return node;
        }
        Node::Step(match self.peek() {
            Some('^') => {
                self.at += 1;
                Step::Start
            }
            Some('$') => {
                self.at += 1;
                Step::End
            }
            _ if self.eat("\\b") => Step::Boundary,
            _ => self.single(),
        })
    }

    /// `x)`: the one-character condition of a look-around.
    fn assertion(&mut self) -> usize {
        let set = match self.single() {
            Step::Set(i) => i,
            Step::Char(c) => self.keep(Set { ranges: vec![(c, c)], ..Set::default() }),
            _ => panic!("look-around takes one character in {}", self.pattern),
        };
        assert!(self.eat(")"), "look-around takes one character in {}", self.pattern);
        set
    }

    /// A step that consumes one character.
    fn single(&mut self) -> Step {
        match self.take() {
            '.' => {
                let set = Set { ranges: vec![('\n', '\n')], negated: true, ..Set::default() };
                Step::Set(self.keep(set))
            }
            '[' => {
                let mut set = Set { negated: self.eat("^"), ..Set::default() };
                while !self.eat("]") {
                    let first = self.take();
                    let Some(first) = self.member(first, &mut set) else { continue };
                    let is_range =
                        self.peek() == Some('-') && self.rest.get(self.at + 1).is_some_and(|&c| c != ']');
                    let last = if is_range {
                        self.at += 1;
                        let last = self.take();
                        self.member(last, &mut set).expect("a range ends with a character")
                    } else {
                        first
                    };
                    set.ranges.push((first, last));
                }
                Step::Set(self.keep(set))
            }
            c => {
                let mut set = Set::default();
                match self.member(c, &mut set) {
                    Some(c) => Step::Char(c),
                    None => Step::Set(self.keep(set)),
                }
            }
        }
    }

    fn keep(&mut self, set: Set) -> usize {
        self.sets.push(set);
        self.sets.len() - 1
    }

    /// The character that `c` stands for, or None after adding a named class to `set`.
    fn member(&mut self, c: char, set: &mut Set) -> Option<char> {
        if c != '\\' {
            return Some(c);
        }
        let class = match self.take() {
            'w' => (Class::Word, true),
            'W' => (Class::Word, false),
            'd' => (Class::Digit, true),
            'D' => (Class::Digit, false),
            's' => (Class::Space, true),
            'S' => (Class::Space, false),
            c if c.is_ascii_alphanumeric() => panic!("\\{c} is not known in {}", self.pattern),
            c => return Some(c),
        };
        set.classes.push(class);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pattern: &str, text: &str) -> Vec<String> {
        let chars: Vec<char> = text.chars().collect();
        Pattern::new(pattern).matches(&chars).map(|(a, b)| chars[a..b].iter().collect()).collect()
    }

    #[test]
    fn the_first_alternative_wins_and_repeats_are_greedy() {
        assert_eq!(found("co|com", "com"), ["co"]);
        assert_eq!(found("(?:co|com)m?", "comm"), ["com"]);
        assert_eq!(found("a{2,3}", "aaaaaaaa"), ["aaa", "aaa", "aa"]);
        assert_eq!(found("a{2,}", "a aa aaaa"), ["aa", "aaaa"]);
        assert_eq!(found("(ab)?c", "abc c bc"), ["abc", "c", "c"]);
        assert_eq!(found("a*", "baa"), ["", "aa", ""]);
        assert_eq!(found(r"\d{2}", "1234 5"), ["12", "34"]);
    }

    #[test]
    fn word_space_and_boundary_are_pythons() {
        // A combining mark is no word character, a superscript digit is; U+001C is white space.
        assert_eq!(found(r"\w+", "e\u{301}a x² _9"), ["e", "a", "x²", "_9"]);
        assert_eq!(found(r"\s", "a\u{1c}\u{85}\u{200b}"), ["\u{1c}", "\u{85}"]);
        assert_eq!(found(r"\bcat\b", "cat cats cat"), ["cat", "cat"]);
        assert_eq!(found(r"\d+", "1²٣"), ["1", "٣"]);
        assert_eq!(found(r"[^a-c\s]+", "abcd ef"), ["d", "ef"]);
        assert_eq!(found(r"[\w\W]", "a\n"), ["a", "\n"]);
    }

    #[test]
    fn conditions() {
        assert_eq!(found("a(?!@)", "a@ab"), ["a"]);
        assert_eq!(found("(?<![xy])a", "xa ya za"), ["a"]);
        assert_eq!(found("^a", "aa"), ["a"]);
        assert_eq!(found("a$", "a\na\n"), ["a"]);
        assert_eq!(found("a$", "a\n\n"), Vec::<String>::new());
        assert_eq!(found("a.", "a\nab"), ["ab"]);
    }

    #[test]
    fn after_a_match_nothing_of_it_is_remembered_as_failed() {
        assert_eq!(found("(?:ab?)+", "abaab a"), ["abaab", "a"]);
        assert_eq!(found(r"x*y|x", "xxxy xx y"), ["xxxy", "x", "x", "y"]);
        assert_eq!(found(r"\b\d*[a-z]+\d+\b", "1a2 b3c 4d5"), ["1a2", "4d5"]);
    }

    #[test]
    fn what_takes_python_the_square_of_the_length_is_linear() {
        let text: Vec<char> = "a.".repeat(200_000).chars().collect();
        assert!(!Pattern::new(r"\b[a-z.]+[.]com\b").is_in(&text));
        let text: Vec<char> = "a".repeat(200_000).chars().collect();
        assert!(!Pattern::new(r"(?:a*)*b").is_in(&text));
    }
}
