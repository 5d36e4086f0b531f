//! Text that was decoded with the wrong encoding, made right again: `sÃ³lo` is `sólo`.
//!
//! The procedure and the classes of suspicious characters are those of ftfy 6.3. Text is looked
//! at only if characters stand together that hardly ever do in real text ([`is_bad`]); then every
//! single-byte encoding is tried in which the text could have been read, until its bytes turn out
//! to be UTF-8.

use std::sync::LazyLock;

use super::codepages::{self, CodePage};
use super::pattern::Pattern;

/// Classes of characters that occur in UTF-8 read as something else, by where they belong in
/// real text. [`SUSPICIOUS`] refers to them by name.
const CLASSES: [(&str, &str); 14] = [
    ("{common}", "\u{a0}\u{ad}·´–—―…’"),
    ("{c1}", "\u{80}-\u{9f}"),
    ("{bad}", "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº"),
    ("{law}", "¶§"),
    ("{currency}", "¢£¥₧€"),
    ("{opening}", "¡«¿©΄΅‘‚“„•‹\u{f8ff}"),
    ("{closing}", "®»˝”›™"),
    ("{numeric}", "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№"),
    ("{kaomoji}", "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°"),
    ("{upper_accented}", "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ"),
    ("{lower_accented}", "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ"),
    ("{upper_common}", "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я"),
    ("{lower_common}", "α-ωάέήίΰа-џ"),
    ("{box}", "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓"),
];

/// Any of these makes a text suspicious.
const SUSPICIOUS: [&str; 37] = [
    "[{c1}]",
    "[{bad}{accented}{box}{opening}{closing}{currency}{numeric}{law}][{bad}]",
    "[a-zA-Z][{lower_common}{upper_common}][{bad}]",
    "[{bad}][{accented}{box}{opening}{closing}{currency}{numeric}{law}]",
    "[{lower_accented}{lower_common}{box}{closing}{currency}{numeric}][{upper_accented}]",
    "[{box}{closing}{currency}{numeric}][{lower_accented}]",
    "[{lower_accented}{box}{closing}][{currency}]",
    r"\s[{upper_accented}][{currency}]",
    "[{upper_accented}{box}][{numeric}{law}]",
    "[{accented}{box}{currency}{closing}][{opening}][{numeric}]",
    "[{accented}{currency}{numeric}{box}{law}][{closing}][{opening}]",
    "[{currency}{numeric}{box}][{opening}]",
    "[a-z][{upper_accented}][{opening}{currency}]",
    "[{box}][{kaomoji}]",
    "[{accented}{currency}{numeric}{opening}{closing}{law}][{box}]",
    "[{box}][{closing}]",
    r"[{accented}][{opening}{closing}]\w",
    // A ligature before anything but a plain letter; a degree sign after a capital letter.
    "[Œœ][^A-Za-z]",
    "[{upper_accented}]°",
    // Windows-1252.
    "[ÂÃÎÐ][€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»{opening}{closing}–—´]",
    "×[²³]",
    // Windows-1252 read from Arabic; from scripts of South Asia.
    "[ØÙ][{common}{currency}{bad}{numeric}{opening}ŸŠ®°µ»][ØÙ][{common}{currency}{bad}{numeric}{opening}ŸŠ®°µ»]",
    "à[²µ¹¼½¾]",
    // Mac Roman.
    "√[±∂†≠®™´≤≥¥µø]",
    "≈[°¢]",
    "‚Ä[ìîïòôúùû†°¢π]",
    "‚[âó][àä°ê]",
    // Windows-1251: of general punctuation, of Latin-1 and Cyrillic, of Windows-1252 twice over.
    "вЂ",
    "[ВГРС][{c1}{bad}{opening}{closing}{currency}°µ][ВГРС]",
    "ГўВЂВ.[A-Za-z ]",
    // Windows-1252 of à, á and the no-break space.
    "Ã[\u{a0}¡]",
    r"[a-z]\s?[ÃÂ][ ]",
    "^[ÃÂ][ ]",
    "[a-z.,?!{closing}]Â[ {opening}{closing}]",
    // Windows-1253 and Windows-1257.
    "β€[™\u{a0}Ά\u{ad}®°]",
    "[ΒΓΞΟ][{c1}{bad}{opening}{closing}{currency}°][ΒΓΞΟ]",
    "ā€",
];

static BADNESS: LazyLock<Pattern> = LazyLock::new(|| {
    let mut pattern = SUSPICIOUS.join("|");
    pattern = pattern.replace("{accented}", "{upper_accented}{lower_accented}");
    for (name, characters) in CLASSES {
        pattern = pattern.replace(name, characters);
    }
    Pattern::new(&pattern)
});

/// UTF-8 sequences read with some single-byte encoding, whichever.
static EMBEDDED: LazyLock<Pattern> = LazyLock::new(|| {
    let read_as = |bytes: &mut dyn Iterator<Item = u8>| -> String {
        let pages = || codepages::ALL.iter().filter(|p| !matches!(p.name, "macroman" | "cp437"));
        bytes.flat_map(|b| pages().map(move |p| p.decode(b))).collect()
    };
    let first_of_2 = read_as(&mut (0xc2..=0xdf));
    let first_of_3 = read_as(&mut (0xe0..=0xef));
    let first_of_4 = read_as(&mut [0xf0, 0xf3].into_iter());
    let continuation = read_as(&mut (0x80..=0xbf)) + " ";
    // Those that may well stand for themselves do not tell that the sequence began earlier.
    let strict: String = continuation.chars().filter(|c| !" –—―‘’‚“”„•…".contains(*c)).collect();
    Pattern::new(&format!(
        "(?<![{strict}])(?:[{first_of_2}][{continuation}]|[{first_of_3}][{continuation}]{{2}}|[{first_of_4}][{continuation}]{{3}})+"
    ))
});

/// Bytes (as characters) that would be UTF-8 if a space were a no-break space.
static ALTERED: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        "[\u{c2}\u{c3}\u{c5}\u{ce}\u{d0}\u{d9}][ ]\
         |[\u{e2}\u{e3}][ ][\u{80}-\u{84}\u{86}-\u{9f}\u{a1}-\u{bf}]\
         |[\u{e0}-\u{e3}][\u{80}-\u{84}\u{86}-\u{9f}\u{a1}-\u{bf}][ ]\
         |\u{f0}[ ][\u{80}-\u{bf}][\u{80}-\u{bf}]\
         |\u{f0}[\u{80}-\u{bf}][ ][\u{80}-\u{bf}]\
         |\u{f0}[\u{80}-\u{bf}][\u{80}-\u{bf}][ ]",
    )
});

/// Bytes (as characters) that would be UTF-8, had none been replaced by `?` or by U+FFFD, here 1A.
static LOSSY: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        "[\u{c2}-\u{df}]\u{1a}\
         |[\u{c2}-\u{c3}][?]\
         |\u{ed}[\u{a0}-\u{af}][\u{1a}?]\u{ed}[\u{b0}-\u{bf}][\u{1a}?\u{80}-\u{bf}]\
         |\u{ed}[\u{a0}-\u{af}][\u{1a}?\u{80}-\u{bf}]\u{ed}[\u{b0}-\u{bf}][\u{1a}?]\
         |[\u{e0}-\u{ef}][\u{1a}?][\u{1a}\u{80}-\u{bf}]\
         |[\u{e0}-\u{ef}][\u{1a}\u{80}-\u{bf}][\u{1a}?]\
         |[\u{f0}-\u{f4}][\u{1a}?][\u{1a}\u{80}-\u{bf}][\u{1a}\u{80}-\u{bf}]\
         |[\u{f0}-\u{f4}][\u{1a}\u{80}-\u{bf}][\u{1a}?][\u{1a}\u{80}-\u{bf}]\
         |[\u{f0}-\u{f4}][\u{1a}\u{80}-\u{bf}][\u{1a}\u{80}-\u{bf}][\u{1a}?]\
         |\u{1a}",
    )
});

/// Whether `text` contains what hardly anybody writes on purpose.
fn is_bad(text: &str) -> bool {
    BADNESS.is_in(&text.chars().collect::<Vec<_>>())
}

/// Undoes wrong decodings, several on top of each other if need be.
pub(super) fn fix(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let fixed = fix_once(&text);
        if fixed == text {
            return text;
        }
        text = fixed;
    }
}

fn fix_once(text: &str) -> String {
    if text.is_ascii() || !is_bad(text) {
        return text.to_owned();
    }
    if let Some(fixed) = codepages::ALL.iter().find_map(|page| read_as_utf8(text, page)) {
        return fixed;
    }
    let length = text.chars().count();
    let fixed = EMBEDDED.replace_by(text, |found, out| {
        let found: String = found.iter().collect();
        // Only parts: the whole would be tried for ever.
        let part = found.chars().count() < length;
        out.push_str(&if part && is_bad(&found) { fix(&found) } else { found });
    });
    if fixed != text {
        return fixed;
    }
    // Latin-1 that was meant as Windows-1252, in whole or character by character.
    if let Some(bytes) = codepages::ALL[0].encode(text)
        && !bytes.iter().any(|b| codepages::unassigned_in_windows_1252(*b))
    {
        let fixed: String = bytes.iter().map(|b| codepages::windows_1252(*b)).collect();
        if fixed != text {
            return fixed;
        }
    }
    fix_c1(text)
}

/// C1 control characters as what Windows-1252 has in their place.
pub(super) fn fix_c1(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{80}'..='\u{9f}' => codepages::windows_1252(c as u8),
            c => c,
        })
        .collect()
}

/// What `text` says if it is UTF-8 read as `page`.
fn read_as_utf8(text: &str, page: &CodePage) -> Option<String> {
    let mut bytes = page.encode(text)?;
    // In Mac Roman, it would hit dashes.
    if page.name != "macroman" {
        bytes = restore_no_break_spaces(&bytes);
    }
    if page.sloppy {
        bytes = replace(&LOSSY, &bytes, |_, out| out.extend("\u{fffd}".bytes().map(char::from)));
    }
    if bytes.contains(&0xed) || bytes.contains(&0xc0) {
        decode_utf8_variants(&bytes)
    } else {
        String::from_utf8(bytes).ok()
    }
}

/// `Pattern::replace_by` on bytes: each is the character of its number.
fn replace(pattern: &Pattern, bytes: &[u8], with: impl FnMut(&[char], &mut String)) -> Vec<u8> {
    let text: String = bytes.iter().map(|b| char::from(*b)).collect();
    pattern.replace_by(&text, with).chars().map(|c| c as u8).collect()
}

/// Gives UTF-8 sequences back the byte A0 that someone took for a space.
fn restore_no_break_spaces(bytes: &[u8]) -> Vec<u8> {
    // `Ã ` alone is the word à, which has lost its own A0 but not the space after it. The
    // Portuguese às, àquele … are one word.
    const ONE_WORD: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut with_words = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        with_words.push(*first);
        rest = tail;
        if *first == 0xc3
            && let [b' ', after @ ..] = tail
            && !ONE_WORD.iter().any(|word| after.starts_with(word))
        {
            with_words.extend([0xa0, b' ']);
            rest = after;
        }
    }
    replace(&ALTERED, &with_words, |found, out| {
        out.extend(found.iter().map(|c| if *c == ' ' { '\u{a0}' } else { *c }));
    })
}

/// UTF-8 in which U+0000 may be C0 80 (Java) and characters beyond U+FFFF two encoded surrogates
/// (CESU-8).
fn decode_utf8_variants(bytes: &[u8]) -> Option<String> {
    let mut out = String::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let special = (0..rest.len()).find(|&i| is_special(&rest[i..])).unwrap_or(rest.len());
        out.push_str(std::str::from_utf8(&rest[..special]).ok()?);
        rest = &rest[special..];
        match rest {
            [] => {}
            [0xc0, _, tail @ ..] => {
                out.push('\0');
                rest = tail;
            }
            [0xed, b, c, 0xed, e, f, tail @ ..] if is_surrogate_pair(rest) => {
                let bits = [(b & 0x0f, 16), (c & 0x3f, 10), (e & 0x0f, 6), (f & 0x3f, 0)]
                    .map(|(b, n)| u32::from(b) << n);
                out.push(char::from_u32(0x10000 + bits.iter().sum::<u32>())?);
                rest = tail;
            }
            // A single surrogate, or the start of something cut short.
            _ => return None,
        }
    }
    Some(out)
}

/// Whether `bytes` begin with what UTF-8 has not. At the end of a line, C0 counts by itself.
fn is_special(bytes: &[u8]) -> bool {
    match bytes {
        [0xc0, rest @ ..] => matches!(rest, [0x80, ..] | [] | [b'\n']),
        [0xed] | [0xed, 0xa0..=0xbf] | [0xed, b'\n'] => true,
        [0xed, 0xa0..=0xbf, rest @ ..] => matches!(rest, [0x80..=0xbf, ..] | [b'\n']),
        _ => false,
    }
}

fn is_surrogate_pair(bytes: &[u8]) -> bool {
    match bytes {
        [0xed, 0xa0..=0xaf, 0x80..=0xbf, 0xed, 0xb0..=0xbf, last, rest @ ..] => {
            matches!(last, 0x80..=0xbf) || (*last == b'\n' && rest.is_empty())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_decodings_are_undone() {
        for (text, expected) in [
            ("sÃ³lo", "sólo"),
            ("âœ” No problems", "✔ No problems"),
            ("voilÃ le travail", "voilà le travail"),
            ("ÃƒÂ©tÃƒÂ©", "été"),
            ("л∞⌐", "л∞⌐"),
            ("plain, naïve café", "plain, naïve café"),
            ("â€œ like this â€\u{fffd}", "“ like this \u{fffd}"),
            ("the ã\u{83}\u{84} face and €", "the ツ face and €"),
            ("\u{85} I don't", "… I don't"),
        ] {
            assert_eq!(fix(text), expected, "{text}");
        }
    }

    #[test]
    fn utf8_with_surrogates_and_nulls() {
        let text = |bytes: &[u8]| decode_utf8_variants(bytes);
        assert_eq!(text(b"a\xed\xa0\xbd\xed\xb2\xa9b\xc0\x80").as_deref(), Some("a💩b\0"));
        assert_eq!(text("한국".as_bytes()).as_deref(), Some("한국"));
        assert_eq!(text(b"\xed\xa0\xbd"), None);
        assert_eq!(text(b"\xed\xa0\xbdabc"), None);
        assert_eq!(text(b"\xc0"), None);
        assert_eq!(text(b"x\xff"), None);
    }
}
