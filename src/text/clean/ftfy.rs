//! "Fixes text for you": what ftfy 6.3 does to text by default.

use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;

use super::pattern::Pattern;
use super::{entities, mojibake};

/// The longest stretch fixed at once, in characters: text without line breaks is cut there.
const LONGEST_SEGMENT: usize = 1_000_000;

static ENTITY: LazyLock<Pattern> = LazyLock::new(|| Pattern::new("&#?[0-9A-Za-z]{1,24};"));
static TERMINAL_ESCAPE: LazyLock<Pattern> = LazyLock::new(|| Pattern::new("\u{1b}\\[(?:\\d|;)*[a-zA-Z]"));

/// Fixes every line by itself.
pub(super) fn fix_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Text that is HTML keeps its entities, from the first `<` on.
    let mut unescape = true;
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.find('\n').map_or(rest.len(), |i| i + 1);
        let end = rest[..line].char_indices().nth(LONGEST_SEGMENT).map_or(line, |(i, _)| i);
        unescape &= !rest[..end].contains('<');
        out += &fix_segment(&rest[..end], unescape);
        rest = &rest[end..];
    }
    out
}

fn fix_segment(text: &str, unescape: bool) -> String {
    let mut text = text.to_owned();
    loop {
        let mut fixed = if unescape { unescape_entities(&text) } else { text.clone() };
        fixed = mojibake::fix(&fixed);
        fixed = mojibake::fix_c1(&fixed);
        fixed = fixed.chars().fold(String::new(), |mut out, c| {
            break_ligature(c, &mut out);
            out
        });
        fixed = fixed.chars().flat_map(standard_width).map(uncurl).collect();
        fixed = fixed.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        fixed = TERMINAL_ESCAPE.replace(&fixed, "");
        fixed = fixed.chars().filter(|c| !is_control(*c)).nfc().collect();
        if fixed == text {
            return text;
        }
        text = fixed;
    }
}

/// Replaces unambiguous entities: those that end in `;`. Also names that were capitalised with
/// the text around them, unless that is another entity: `P&EACUTE;REZ`.
fn unescape_entities(text: &str) -> String {
    ENTITY.replace_by(text, |found, out| {
        let found: String = found.iter().collect();
        let name = &found[1..];
        let lower = name.to_ascii_lowercase();
        if let Some(character) = entities::named(name) {
            out.push_str(character);
        } else if name.starts_with('#') {
            let character = entities::unescape(&found);
            out.push_str(if character.contains(';') { &found } else { &character });
        } else if lower.to_ascii_uppercase() == name
            && let Some(character) = entities::named(&lower)
            && entities::unescape(&found) == found
        {
            out.push_str(&character.to_uppercase());
        } else {
            out.push_str(&found);
        }
    })
}

/// Takes Latin ligatures and digraphs apart.
fn break_ligature(c: char, out: &mut String) {
    let parts = match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        c => return out.push(c),
    };
    out.push_str(parts);
}

/// Full-width and half-width forms as their standard characters.
fn standard_width(c: char) -> impl Iterator<Item = char> {
    let standard: Vec<char> = match c {
        '\u{3000}' => vec![' '],
        '\u{ff01}'..='\u{ffef}' => c.nfkc().collect(),
        c => vec![c],
    };
    standard.into_iter()
}

fn uncurl(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        c => c,
    }
}

/// Control characters without a visible effect; line breaks, tabs and form feeds are not among them.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}')
        || matches!(c, '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_its_documentation() {
        for (text, expected) in [
            ("Broken text&hellip; it&#x2019;s ﬂubberiﬁc!", "Broken text… it's flubberific!"),
            ("&macr;\\_(ã\u{83}\u{84})_/&macr;", "¯\\_(ツ)_/¯"),
            ("ＬＯＵＤ　ＮＯＩＳＥＳ", "LOUD NOISES"),
            ("Ｕﾀｰﾝ", "Uターン"),
            ("P&EACUTE;REZ &ntilde; &Ntilde; &NTILDE; &nTILDE;", "PÉREZ ñ Ñ Ñ &nTILDE;"),
            ("BUNDESSTRA&SZLIG;E &#59; this&not that", "BUNDESSTRASSE &#59; this&not that"),
            ("\u{1b}[36;44mI'm blue\u{1b}[0m", "I'm blue"),
            ("a\r\nb\rc\u{2028}d\u{feff}\u{7}", "a\nb\nc\nd"),
            ("<b>&amp;</b>\n&amp;", "<b>&amp;</b>\n&amp;"),
            ("&amp;\n<b>&amp;", "&\n<b>&amp;"),
            ("cafe\u{301}", "café"),
        ] {
            assert_eq!(fix_text(text), expected, "{text}");
        }
    }
}
