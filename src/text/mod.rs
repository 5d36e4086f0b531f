//! Text on its way to the denoiser: a caption is asked for ([`vlm`]), cleaned as the networks were
//! trained ([`clean`]), cut into tokens ([`tokenizer`]), and kept as features ([`features`]).

mod charsmap;
pub mod clean;
pub mod features;
pub mod sentencepiece;
pub mod tokenizer;
mod unigram;
pub mod vlm;

pub use features::CaptionFeatures;
pub use tokenizer::{T5Tokenizer, Tokens};
