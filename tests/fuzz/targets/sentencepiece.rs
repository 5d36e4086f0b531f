//! Any bytes as a `spiece.model`, or as a `tokenizer.json` where they begin with a brace: what is
//! accepted must encode odd texts into as many tokens as were asked for.
#![no_main]

use dreamclear::text::T5Tokenizer;

const TEXTS: [&str; 3] = ["", "a photo\tof  \u{ff21}\u{fb01} cafe\u{301}\u{200b}", "\u{1f642}\u{2581}\0 <extra_id_3></s>x"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let json = data.first() == Some(&b'{');
    let read = if json { T5Tokenizer::from_json(data) } else { T5Tokenizer::from_sentencepiece(data) };
    if let Ok(tokenizer) = read {
        for text in TEXTS {
            let tokens = tokenizer.encode(text, 12);
            assert!((1..=12).contains(&tokens.len()) && tokens.ids.len() == 12);
        }
    }
});
