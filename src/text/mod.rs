//! Text: what the image shows, in words, on its way to the text encoder.
//!
//! [`vlm`] asks a vision-language model for a caption, [`clean`] brings any caption into the form
//! the networks were trained on, and [`tokenizer`] turns it into T5's tokens. [`features`] keeps
//! what the text encoder makes of them in files.

mod charsmap;
pub mod clean;
pub mod features;
pub mod sentencepiece;
pub mod tokenizer;
mod unigram;
pub mod vlm;

pub use features::CaptionFeatures;
pub use tokenizer::{T5Tokenizer, Tokens};
