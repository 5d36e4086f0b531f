//! Single-byte encodings, in which text of another encoding was once read by mistake.

use std::collections::HashMap;
use std::sync::LazyLock;

/// One single-byte encoding.
pub(super) struct CodePage {
    pub(super) name: &'static str,
    /// Bytes without a character stand for the control character of their number, and U+FFFD for
    /// byte 1A: how careless programs treat them.
    pub(super) sloppy: bool,
    characters: [char; 256],
    bytes: HashMap<char, u8>,
}

/// The encodings to be considered, the likeliest first.
pub(super) static ALL: LazyLock<Vec<CodePage>> = LazyLock::new(|| {
    let latin_1: String = ('\u{80}'..='\u{ff}').collect();
    vec![
        CodePage::new("latin-1", false, &latin_1),
        CodePage::new("windows-1252", true, WINDOWS_1252),
        CodePage::new("windows-1251", true, WINDOWS_1251),
        CodePage::new("windows-1250", true, WINDOWS_1250),
        CodePage::new("windows-1253", true, WINDOWS_1253),
        CodePage::new("windows-1254", true, WINDOWS_1254),
        CodePage::new("windows-1257", true, WINDOWS_1257),
        CodePage::new("iso-8859-2", false, ISO_8859_2),
        CodePage::new("macroman", false, MAC_ROMAN),
        CodePage::new("cp437", false, CP437),
    ]
});

impl CodePage {
    /// `upper` are the characters of bytes 80 to FF, U+FFFD where there is none.
    fn new(name: &'static str, sloppy: bool, upper: &str) -> Self {
        let mut characters: [char; 256] = std::array::from_fn(|b| char::from(b as u8));
        for (place, c) in characters[128..].iter_mut().zip(upper.chars()) {
            if c != '\u{fffd}' {
                *place = c;
            }
        }
        if sloppy {
            characters[0x1a] = '\u{fffd}';
        }
        let bytes = characters.iter().enumerate().map(|(b, c)| (*c, b as u8)).collect();
        CodePage { name, sloppy, characters, bytes }
    }

    /// The bytes of `text` in this encoding, if it has all its characters.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.bytes.get(&c).copied()).collect()
    }

    /// What `byte` stands for.
    pub(super) fn decode(&self, byte: u8) -> char {
        self.characters[byte as usize]
    }
}

/// What `byte` stands for in Windows-1252; unassigned ones for the control character.
pub(super) fn windows_1252(byte: u8) -> char {
    ALL[1].decode(byte)
}

/// Whether Windows-1252 gives no character to `byte`.
pub(super) fn unassigned_in_windows_1252(byte: u8) -> bool {
    matches!(byte, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d)
}

const WINDOWS_1252: &str = concat!(
    "€\u{fffd}‚ƒ„…†‡ˆ‰Š‹Œ\u{fffd}Ž\u{fffd}\u{fffd}‘’“”•–—˜™š›œ\u{fffd}žŸ",
    "\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿",
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß",
    "àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
);

const WINDOWS_1251: &str = concat!(
    "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{fffd}™љ›њќћџ",
    "\u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕї",
    "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
);

const WINDOWS_1250: &str = concat!(
    "€\u{fffd}‚\u{fffd}„…†‡\u{fffd}‰Š‹ŚŤŽŹ\u{fffd}‘’“”•–—\u{fffd}™š›śťžź",
    "\u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż",
    "ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß",
    "ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
);

const WINDOWS_1253: &str = concat!(
    "€\u{fffd}‚ƒ„…†‡\u{fffd}‰\u{fffd}‹\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}‘’“”•–—\u{fffd}™\u{fffd}›\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
    "\u{a0}΅Ά£¤¥¦§¨©\u{fffd}«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏ",
    "ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ\u{fffd}ΣΤΥΦΧΨΩΪΫάέήί",
    "ΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ\u{fffd}",
);

const WINDOWS_1254: &str = concat!(
    "€\u{fffd}‚ƒ„…†‡ˆ‰Š‹Œ\u{fffd}\u{fffd}\u{fffd}\u{fffd}‘’“”•–—˜™š›œ\u{fffd}\u{fffd}Ÿ",
    "\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿",
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß",
    "àáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ",
);

const WINDOWS_1257: &str = concat!(
    "€\u{fffd}‚\u{fffd}„…†‡\u{fffd}‰\u{fffd}‹\u{fffd}¨ˇ¸\u{fffd}‘’“”•–—\u{fffd}™\u{fffd}›\u{fffd}¯˛\u{fffd}",
    "\u{a0}\u{fffd}¢£¤\u{fffd}¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ",
    "ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß",
    "ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙",
);

const ISO_8859_2: &str = concat!(
    "\u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\u{8f}\u{90}\u{91}\u{92}\u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\u{9e}\u{9f}",
    "\u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸šşťź˝žż",
    "ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß",
    "ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
);

const MAC_ROMAN: &str = concat!(
    "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü",
    "†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø",
    "¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ",
    "‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ",
);

const CP437: &str = concat!(
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ",
    "áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀",
    "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_one_to_one() {
        for page in ALL.iter() {
            assert_eq!(page.bytes.len(), 256, "{}", page.name);
            for b in 0..=255 {
                assert_eq!(page.encode(&page.decode(b).to_string()), Some(vec![b]), "{}", page.name);
            }
        }
        assert_eq!(ALL[2].encode("Ж"), Some(vec![0xc6]));
        assert_eq!(ALL[9].encode("Ж"), None);
        assert_eq!((windows_1252(0x80), windows_1252(0x81)), ('€', '\u{81}'));
    }
}
