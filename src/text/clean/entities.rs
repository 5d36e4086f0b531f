//! HTML character references: `&amp;`, `&#233;`, `&notin`.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::codepages;

/// The references that HTML has names for, as the standard lists them: with `;` where it is
/// required, without where old pages may leave it out. Each line: name, tab, code points.
static NAMED: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
    include_str!("entities.txt")
        .lines()
        .filter_map(|line| {
            let (name, points) = line.split_once('\t')?;
            let text =
                points.split(' ').filter_map(|p| char::from_u32(u32::from_str_radix(p, 16).ok()?)).collect();
            Some((name, text))
        })
        .collect()
});

/// What `&name` stands for; `name` includes the `;` if there is one.
pub(super) fn named(name: &str) -> Option<&'static str> {
    NAMED.get(name).map(String::as_str)
}

/// The digits at the start of `text` as a number; too large a number is the largest there is.
pub(super) fn number(digits: &str, radix: u32) -> u32 {
    digits
        .chars()
        .map_while(|c| c.to_digit(radix))
        .fold(0u32, |n, d| n.saturating_mul(radix).saturating_add(d))
}

/// Replaces all references in `text` as Python's `html.unescape` does: also those without `;`, by
/// the longest name that fits.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let used = match rest.strip_prefix('#') {
            Some(digits) => numeric(digits, &mut out).map(|n| n + 1),
            None => by_name(rest, &mut out),
        };
        match used {
            Some(n) => rest = &rest[n..],
            None => out.push('&'),
        }
    }
    out + rest
}

/// Appends what `#digits` stands for and says how many bytes of `digits` that took.
fn numeric(digits: &str, out: &mut String) -> Option<usize> {
    let (prefix, radix) = if digits.starts_with(['x', 'X']) { (1, 16) } else { (0, 10) };
    let n = digits[prefix..].bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    if n == 0 {
        return None;
    }
    let end = prefix + n;
    match number(&digits[prefix..end], radix) {
        0 => out.push('\u{fffd}'),
        13 => out.push('\r'),
        c @ 0x80..=0x9f => out.push(codepages::windows_1252(c as u8)),
        // Control characters and what Unicode will never assign vanish.
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => {}
        c if c <= 0x10_ffff && c & 0xfffe == 0xfffe => {}
        c => out.push(char::from_u32(c).unwrap_or('\u{fffd}')),
    }
    Some(end + usize::from(digits[end..].starts_with(';')))
}

/// Appends what the name at the start of `text` stands for and says how many bytes that took.
fn by_name(text: &str, out: &mut String) -> Option<usize> {
    let name_char = |c: &char| !matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let mut end: usize = text.chars().take(32).take_while(name_char).map(char::len_utf8).sum();
    if end == 0 {
        return None;
    }
    end += usize::from(text[end..].starts_with(';'));
    if let Some(character) = named(&text[..end]) {
        out.push_str(character);
        return Some(end);
    }
    let (n, character) = (2..end).rev().find_map(|n| Some((n, named(text.get(..n)?)?))).unwrap_or((0, "&"));
    out.push_str(character);
    out.push_str(&text[n..end]);
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_pythons_html_unescape() {
        for (text, expected) in [
            ("&lt;&gt;&amp;&quot;&#39;", "<>&\"'"),
            ("&amp;amp;", "&amp;"),
            ("&notit; &notin; &not", "¬it; ∉ ¬"),
            ("&#233;&#xE9;&#Xe9", "ééé"),
            ("&#128;&#0;&#55296;&#99999999999;", "€\u{fffd}\u{fffd}\u{fffd}"),
            ("a&#1;b&#65534;c&#13;", "abc\r"),
            ("& &; &# &#x; &#x &bogus; &\u{e9}", "& &; &# &#x; &#x &bogus; &\u{e9}"),
            ("&acE;", "∾\u{333}"),
            ("&copyé &ampx;", "©é &x;"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
        assert_eq!(NAMED.len(), 2231);
    }
}
