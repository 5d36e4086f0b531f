//! The unigram language model (Kudo 2018, arXiv 1804.10959): the split of a word into pieces whose
//! scores add up to the most.

use std::collections::HashMap;

/// How much worse than the worst piece an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Pieces with their scores. An id is the place of a piece in the vocabulary.
#[derive(Clone)]
pub(super) struct Unigram {
    /// Sorted by bytes; of equal pieces the last in the vocabulary.
    pieces: Vec<Piece>,
    unknown: usize,
    unknown_score: f64,
}

#[derive(Clone)]
struct Piece {
    bytes: Box<[u8]>,
    score: f64,
    id: usize,
}

/// The best way to a place in the word: its score, and its last piece.
#[derive(Clone, Copy)]
struct Arrival {
    score: f64,
    from: usize,
    id: usize,
}

impl Unigram {
    /// From a vocabulary in the order of ids; `unknown` is the id of what is in no piece.
    pub fn new(vocabulary: &[(String, f64)], unknown: usize) -> Result<Unigram, String> {
        if unknown >= vocabulary.len() {
            let n = vocabulary.len();
            return Err(format!("the unknown piece has id {unknown}, but there are only {n} pieces"));
        }
        if let Some((piece, score)) = vocabulary.iter().find(|(_, score)| !score.is_finite()) {
            return Err(format!("the piece \"{piece}\" has the score {score}"));
        }
        let lowest = vocabulary.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        let last: HashMap<&str, usize> =
            vocabulary.iter().enumerate().map(|(id, (piece, _))| (piece.as_str(), id)).collect();
        let mut pieces: Vec<Piece> = last
            .into_iter()
            .filter(|(piece, _)| !piece.is_empty())
            .map(|(piece, id)| Piece { bytes: piece.as_bytes().into(), score: vocabulary[id].1, id })
            .collect();
        pieces.sort_unstable_by(|a, b| a.bytes.cmp(&b.bytes));
        Ok(Unigram { pieces, unknown, unknown_score: lowest - UNKNOWN_PENALTY })
    }

    /// All pieces that `text` begins with, short ones first.
    fn beginnings<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a Piece> {
        let mut range = self.pieces.as_slice();
        text.bytes()
            .enumerate()
            .map_while(move |(depth, byte)| {
                // Pieces in the range agree with the text so far; shorter ones come first.
                let below = range.partition_point(|p| p.bytes.get(depth).is_none_or(|&b| b < byte));
                range = &range[below..];
                range = &range[..range.partition_point(|p| p.bytes[depth] == byte)];
                let first = range.first()?;
                Some((first.bytes.len() == depth + 1).then_some(first))
            })
            .flatten()
    }

    /// Appends the ids of the best split of `word`; unknown characters in a row become one id.
    pub fn encode(&self, word: &str, ids: &mut Vec<i64>) {
        let mut best: Vec<Option<Arrival>> = vec![None; word.len() + 1];
        let mut so_far = 0.0;
        for (at, c) in word.char_indices() {
            if let Some(here) = best[at] {
                so_far = here.score;
            }
            let mut arrive = |at_end: usize, score: f64, id: usize| {
                let score = so_far + score;
                // Of equal ways the first stays, as in the original.
                if best[at_end].is_none_or(|old| score > old.score) {
                    best[at_end] = Some(Arrival { score, from: at, id });
                }
            };
            let mut alone = false;
            for piece in self.beginnings(&word[at..]) {
                arrive(at + piece.bytes.len(), piece.score, piece.id);
                alone |= piece.bytes.len() == c.len_utf8();
            }
            if !alone {
                arrive(at + c.len_utf8(), self.unknown_score, self.unknown);
            }
        }
        let first = ids.len();
        let mut at = word.len();
        while at > 0
            && let Some(Arrival { from, id, .. }) = best[at]
        {
            let fused = id == self.unknown && ids.len() > first && ids.last() == Some(&(id as i64));
            if !fused {
                ids.push(id as i64);
            }
            at = from;
        }
        ids[first..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unigram() -> Unigram {
        let pieces = [("<unk>", 0.0), ("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", 0.0), ("cd", 1.0)];
        let longer = [("ab", 2.0), ("abc", 5.0), ("abcd", 10.0), ("é", -1.0)];
        let all: Vec<_> = pieces.iter().chain(&longer).map(|(p, s)| (p.to_string(), *s)).collect();
        Unigram::new(&all, 0).unwrap()
    }

    #[test]
    fn the_best_split_wins_and_unknowns_fuse() {
        let encode = |word: &str| {
            let mut ids = vec![99];
            unigram().encode(word, &mut ids);
            ids.split_off(1)
        };
        assert_eq!(encode("abcdacdxx"), [8, 1, 5, 0]);
        assert_eq!(encode("xaxx"), [0, 1, 0]);
        assert_eq!(encode("éxé"), [9, 0, 9]);
        assert!(encode("").is_empty());
    }

    #[test]
    fn wrong_vocabularies_are_refused() {
        assert!(Unigram::new(&[("a".into(), 0.0)], 1).is_err_and(|e| e.contains("only 1 pieces")));
        assert!(Unigram::new(&[("a".into(), f64::NAN)], 0).is_err_and(|e| e.contains("NaN")));
    }

    proptest::proptest! {
        /// Every character is in exactly one piece, and no split of known pieces is better.
        #[test]
        fn no_better_split_exists(word in "[abcdx]{0,9}") {
            let model = unigram();
            let mut ids = Vec::new();
            model.encode(&word, &mut ids);
            let score = |id: i64| model.pieces.iter().find(|p| p.id as i64 == id).map_or(0.0, |p| p.score);
            // Dynamic programming over suffixes, the other way round; x is unknown.
            let mut best = vec![f64::NEG_INFINITY; word.len() + 1];
            best[word.len()] = 0.0;
            for at in (0..word.len()).rev() {
                for end in at + 1..=word.len() {
                    let known = model.pieces.iter().find(|p| *p.bytes == word.as_bytes()[at..end]);
                    let value = match known {
                        Some(p) => p.score,
                        None if end == at + 1 => model.unknown_score,
                        None => continue,
                    };
                    best[at] = best[at].max(value + best[end]);
                }
            }
            let known: f64 = ids.iter().filter(|&&id| id != 0).map(|&id| score(id)).sum();
            let unknown = word.bytes().filter(|&b| b == b'x').count() as f64 * model.unknown_score;
            proptest::prop_assert!((known + unknown - best[0]).abs() < 1e-9);
        }
    }
}
