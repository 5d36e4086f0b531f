//! Reads `spiece.model`, the protocol-buffer file of SentencePiece.
//!
//! Only the fields that a unigram tokenizer needs are looked at; everything else is skipped.

/// What the reader takes from a model file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Pieces with their log-probabilities, in the order of ids.
    pub pieces: Vec<(String, f32)>,
    /// Id of the piece for everything that is in no other piece.
    pub unknown: usize,
    /// Compiled normalisation rules; empty if there are none.
    pub charsmap: Vec<u8>,
}

/// One field of a message.
enum Field<'a> {
    Number(u64),
    Bits32(u32),
    Bytes(&'a [u8]),
    /// A 64-bit value, which no message here has.
    Other,
}

/// The fields of a message with their numbers, in the order of the file.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.0.split_at_checked(n).ok_or("it is cut off")?;
        self.0 = tail;
        Ok(head)
    }

    /// Seven bits a byte, lowest first; the last byte has no highest bit.
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is longer than ten bytes".into())
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(usize::try_from(n).map_err(|_| "it is cut off")?)?)
            }
            5 => Field::Bits32(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes"))),
            kind => return Err(format!("field {} has the unknown wire type {kind}", tag >> 3)),
        };
        Ok(Some((tag >> 3, field)))
    }
}

/// Reads a whole model file.
///
/// # Errors
/// If it is damaged, or holds another kind of model than unigram.
pub fn parse(bytes: &[u8]) -> Result<Model, String> {
    let damaged = |what: String| format!("expected a SentencePiece model, but {what}");
    let mut model = Model::default();
    let mut trainer = Trainer::default();
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next().map_err(damaged)? {
        match (number, field) {
            (1, Field::Bytes(b)) => {
                let id = model.pieces.len();
                let piece =
                    piece(b).map_err(|what| format!("piece {id} of the SentencePiece model: {what}"))?;
                model.pieces.push(piece);
            }
            (2, Field::Bytes(b)) => trainer = Trainer::parse(b).map_err(damaged)?,
            (3, Field::Bytes(b)) => model.charsmap = charsmap(b).map_err(damaged)?,
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err("expected a SentencePiece model, found no pieces in it".into());
    }
    if trainer.kind != UNIGRAM {
        return Err(
            "expected a SentencePiece model of the kind unigram, found BPE, words or characters".into()
        );
    }
    if trainer.byte_fallback {
        return Err("this SentencePiece model spells unknown characters as bytes, which T5's never do".into());
    }
    model.unknown = trainer.unknown;
    Ok(model)
}

const UNIGRAM: u64 = 1;

/// `TrainerSpec` with the defaults of its definition.
struct Trainer {
    kind: u64,
    byte_fallback: bool,
    unknown: usize,
}

impl Default for Trainer {
    fn default() -> Self {
        Trainer { kind: UNIGRAM, byte_fallback: false, unknown: 0 }
    }
}

impl Trainer {
    fn parse(bytes: &[u8]) -> Result<Trainer, String> {
        let mut trainer = Trainer::default();
        let mut fields = Fields(bytes);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (3, Field::Number(n)) => trainer.kind = n,
                (35, Field::Number(n)) => trainer.byte_fallback = n != 0,
                (40, Field::Number(n)) => {
                    trainer.unknown =
                        usize::try_from(n).map_err(|_| "the id of the unknown piece is out of range")?;
                }
                _ => {}
            }
        }
        Ok(trainer)
    }
}

/// `SentencePiece`: text and score.
fn piece(bytes: &[u8]) -> Result<(String, f32), String> {
    let (mut text, mut score) = (String::new(), 0.0);
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(b)) => text = str::from_utf8(b).map_err(|_| "its text is not UTF-8")?.to_owned(),
            (2, Field::Bits32(bits)) => score = f32::from_bits(bits),
            _ => {}
        }
    }
    Ok((text, score))
}

/// `NormalizerSpec`: the compiled rules.
fn charsmap(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut fields = Fields(bytes);
    let mut rules = Vec::new();
    while let Some((number, field)) = fields.next()? {
        if let (2, Field::Bytes(b)) = (number, field) {
            rules = b.to_vec();
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One piece "ab" with score −1.5; trainer: `trainer`; then a field of each kind to skip.
    fn file(trainer: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x0a\x09\x0a\x02ab\x15\x00\x00\xc0\xbf".to_vec();
        bytes.extend([0x12, trainer.len() as u8]);
        bytes.extend(trainer);
        bytes.extend(b"\x1a\x06\x12\x02\x01\x02\x18\x01");
        bytes.extend(b"\x7a\x01x\x79\x00\x00\x00\x00\x00\x00\x00\x00\x78\x80\x01");
        bytes
    }

    #[test]
    fn known_fields_are_read_and_others_skipped() {
        let model = parse(&file(b"\x18\x01\xc0\x02\x02")).unwrap();
        assert_eq!(model, Model { pieces: vec![("ab".into(), -1.5)], unknown: 2, charsmap: vec![1, 2] });
    }

    #[test]
    fn other_kinds_and_damage_are_refused() {
        for (bytes, part) in [
            (file(b"\x18\x02"), "unigram"),
            (file(b"\x98\x02\x01"), "bytes"),
            (vec![], "no pieces"),
            (b"<html>".to_vec(), "expected a SentencePiece model"),
            (b"\x0a\x02\x0a\x05".to_vec(), "piece 0"),
            (b"\x0a\x03\x0a\x01\xff".to_vec(), "UTF-8"),
            ([0xff; 12].to_vec(), "ten bytes"),
        ] {
            let error = parse(&bytes).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let whole = file(b"\x18\x01");
        assert!((1..whole.len()).any(|n| parse(&whole[..n]).is_err()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
