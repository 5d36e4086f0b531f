//! Text on its way to a text encoder: tokens, and the features that come out.

mod charsmap;
pub mod features;
pub mod sentencepiece;
pub mod tokenizer;
mod unigram;

pub use features::CaptionFeatures;
pub use tokenizer::{T5Tokenizer, Tokens};
