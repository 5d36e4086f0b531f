//! The normalisation rules that a SentencePiece model carries: a trie of UTF-8 strings, each with
//! what replaces it.
//!
//! The layout is that of SentencePiece: the size of the trie in bytes, the trie as a double array
//! of 32-bit units (darts-clone), then the replacements, each ended by a zero byte. Rules are
//! applied as the tokenizers of transformers apply them, with which T5's features were made: by
//! grapheme clusters, where the shortest matching rule replaces all of a short cluster.

use unicode_segmentation::UnicodeSegmentation;

/// Clusters of so many bytes are looked up by character only.
const LONG_CLUSTER: usize = 6;

/// Compiled rules. Any bytes are safe to look up in: a link that leads nowhere matches nothing.
#[derive(Clone)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

/// Whether a unit has a value below it.
fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

/// The byte that leads to a unit; values have their highest bit set, and so match no byte.
fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}

/// What to XOR to a unit's place to reach the block of its children.
fn offset(unit: u32) -> usize {
    ((unit >> 10) as usize) << ((unit & 1 << 9) >> 6)
}

impl Charsmap {
    /// Reads the compiled form.
    pub fn parse(bytes: &[u8]) -> Result<Charsmap, String> {
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or("the normalisation rules are cut off")?;
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 || size % 4 != 0 || size > rest.len() {
            return Err(format!(
                "the normalisation rules claim a trie of {size} bytes, but {} follow",
                rest.len()
            ));
        }
        let (trie, replacements) = rest.split_at(size);
        let units =
            trie.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        let replacements = str::from_utf8(replacements)
            .map_err(|_| "the replacements of the normalisation rules are not UTF-8")?
            .to_owned();
        Ok(Charsmap { units, replacements })
    }

    /// What replaces `chunk`: the rule of its shortest beginning that has one.
    fn replacement(&self, chunk: &str) -> Option<&str> {
        let mut node = offset(*self.units.first()?);
        for byte in chunk.bytes().take_while(|&b| b != 0) {
            node ^= usize::from(byte);
            let unit = *self.units.get(node)?;
            if label(unit) != u32::from(byte) {
                return None;
            }
            node ^= offset(unit);
            if has_leaf(unit) {
                let start = self.units.get(node)? & !(1 << 31);
                let tail = self.replacements.get(start as usize..)?;
                return Some(tail.split('\0').next().unwrap_or(tail));
            }
        }
        None
    }

    /// `text` with all rules applied.
    pub fn normalize(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for cluster in text.graphemes(true) {
            if cluster.len() < LONG_CLUSTER
                && let Some(new) = self.replacement(cluster)
            {
                out.push_str(new);
                continue;
            }
            for c in cluster.chars() {
                match self.replacement(c.encode_utf8(&mut [0; 4])) {
                    Some(new) => out.push_str(new),
                    None => out.push(c),
                }
            }
        }
        out
    }
}
