//! T5's tokenizer against transformers, and npz files against NumPy, on the golden files that
//! `tools/golden/{t5_tokenizer,t5_npz}.py` wrote.

use std::path::{Path, PathBuf};

use dreamclear::tensor::DType;
use dreamclear::text::{CaptionFeatures, T5Tokenizer};
use dreamclear::weights::{Container, WeightSet};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Texts with their ids, whole and cut to nine.
fn cases() -> Vec<(String, Vec<i64>, Vec<i64>)> {
    let text = std::fs::read_to_string(golden("t5_tokenizer/cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn ids_equal_those_of_transformers() {
    let cases = cases();
    assert!(cases.len() > 300);
    for file in ["spiece.model", "tokenizer.json"] {
        let tokenizer = T5Tokenizer::open(golden("t5_tokenizer").join(file)).unwrap();
        let mut wrong = Vec::new();
        for (text, whole, short) in &cases {
            let got = tokenizer.encode(text, whole.len());
            if got.ids != *whole {
                wrong.push(format!("{text:?}: {:?}, expected {whole:?}", got.ids));
            }
            assert_eq!(got.len(), whole.len());
            let got = tokenizer.encode(text, 9);
            let kept = whole.len().min(9);
            if got.ids != *short || got.mask != [vec![1; kept], vec![0; 9 - kept]].concat() {
                wrong.push(format!("{text:?} cut: {got:?}, expected {short:?}"));
            }
        }
        assert!(wrong.is_empty(), "{file}: {} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }
}

#[test]
fn folders_are_searched_and_lengths_kept() {
    let tokenizer = T5Tokenizer::open(golden("t5_tokenizer")).unwrap();
    let tokens = tokenizer.encode("a photo of a cat", 120);
    assert_eq!((tokens.ids.len(), tokens.mask.len()), (120, 120));
    assert_eq!(tokens.ids[tokens.len() - 1..][..2], [1, 0]);
    assert_eq!(tokenizer.encode("a photo", 1).ids, [1]);
    assert!(tokenizer.encode("a photo", 0).is_empty());

    let diffusers = tempfile::tempdir().unwrap();
    let error = T5Tokenizer::open(diffusers.path()).unwrap_err().to_string();
    assert!(error.contains("spiece.model"), "{error}");
    std::fs::create_dir(diffusers.path().join("tokenizer")).unwrap();
    std::fs::copy(golden("t5_tokenizer/spiece.model"), diffusers.path().join("tokenizer/spiece.model"))
        .unwrap();
    assert_eq!(T5Tokenizer::open(diffusers.path()).unwrap().encode("a photo of a cat", 120), tokens);
}

#[test]
fn other_tokenizers_are_refused_with_a_reason() {
    let text = std::fs::read_to_string(golden("t5_tokenizer/tokenizer.json")).unwrap();
    for (from, to, part) in [
        ("\"Unigram\"", "\"BPE\"", "BPE"),
        ("\"WhitespaceSplit\"", "\"ByteLevel\"", "pre-tokenizers"),
        ("\"always\"", "\"never\"", "pre-tokenizers"),
        ("\"Precompiled\"", "\"Lowercase\"", "Lowercase"),
        ("\"</s>\"", "\"<end>\"", "</s> is missing"),
        ("\"unk_id\":2", "\"unk_id\":7000", "7000"),
        ("\"byte_fallback\":false", "\"byte_fallback\":true", "byte fallback"),
        ("{", "[", "tokenizer.json"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = T5Tokenizer::from_json(text.replace(from, to).as_bytes()).unwrap_err();
        assert!(error.contains(part), "{to}: {error}");
    }
    let model = std::fs::read(golden("t5_tokenizer/spiece.model")).unwrap();
    for n in (0..model.len()).step_by(997) {
        assert!(T5Tokenizer::from_sentencepiece(&model[..n]).is_err(), "cut to {n}");
    }
    let mut changed = model.clone();
    for at in (0..model.len()).step_by(101) {
        changed[at] ^= 0x55;
        if let Ok(tokenizer) = T5Tokenizer::from_sentencepiece(&changed) {
            tokenizer.encode("ＡＢＣ cafe\u{301} ﬁne 🙂 ½", 20);
        }
        changed[at] = model[at];
    }
}

#[test]
fn arrays_of_numpy_are_read() {
    let real: Vec<f64> = (0..24).map(|i| f64::from(i - 12) / 8.0).collect();
    let whole: Vec<f64> = (0..24).map(f64::from).collect();
    for file in ["stored.npz", "deflated.npz"] {
        let set = WeightSet::open(golden("t5_npz").join(file)).unwrap();
        assert_eq!((set.container(), set.len()), (Container::Npz, 16), "{file}");
        for (name, tensor) in set.iter() {
            assert_eq!(tensor.shape(), [2, 3, 4], "{file} {name}");
            let want = match name {
                "bool" => &whole.iter().map(|i| i % 2.0).collect(),
                "fortran" | "transposed" => &real,
                _ if name.contains('f') && !name.contains("fortran") => &real,
                _ => &whole,
            };
            assert_eq!(tensor.to_f64(), *want, "{file} {name}");
        }
        assert_eq!(set.get("bool").unwrap().dtype(), DType::Bool);
        assert_eq!(set.get("big_i8").unwrap().dtype(), DType::I64);
    }
    let error = WeightSet::open(golden("t5_npz/objects.npz")).unwrap_err().to_string();
    assert!(error.contains("array `x`") && error.contains("pickle"), "{error}");
}

#[test]
fn caption_features_of_the_official_tool_are_read() {
    let features = CaptionFeatures::open(&golden("t5_npz/caption.npz")).unwrap();
    assert_eq!(features.feature.shape(), [6, 5]);
    assert_eq!(features.feature.to_f64(), (0..30).map(|i| f64::from(i - 15) / 4.0).collect::<Vec<_>>());
    assert_eq!(features.mask, [1, 1, 1, 1, 0, 0]);
    let error = CaptionFeatures::open(&golden("t5_npz/stored.npz")).unwrap_err().to_string();
    assert!(error.contains("\"caption_feature\""), "{error}");
}
