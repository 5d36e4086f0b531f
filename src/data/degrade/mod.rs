//! Low-quality pictures made from good ones: training data for blind restoration.
//!
//! Two kinds of degradation ([`Degradation::from_toml`], settings with comments in the `.toml` files beside this
//! one): `realesrgan`, the second-order one of Real-ESRGAN with the settings of SeeSR and DreamClear, and
//! `codeformer`, the first-order one by which DiffBIR trains its degradation remover.
//!
//! A degradation happens in two steps. [`Degradation::draw`] draws the parameters of picture `index` of pass
//! `epoch`: a pure function of these and the seed, plain data that can be kept as JSON. [`apply`] is a pure
//! function of those parameters and the picture: the same bytes in any order, on any number of threads. It uses
//! one thread; callers work on several pictures at once.
//!
//! ```
//! use dreamclear::data::degrade::Degradation;
//! use dreamclear::data::pixels::FloatImage;
//!
//! # fn main() -> dreamclear::Result<()> {
//! let mut degradation = Degradation::real_esrgan();
//! degradation.config.sharpen_mut().enabled = false;
//! let crop = FloatImage::zeros(64, 64, 3);
//! let pair = degradation.apply(&degradation.draw(0, 0, 7), &crop)?;
//! assert_eq!((pair.lr.height, pair.sr_bicubic.height), (16, 64));
//! # Ok(())
//! # }
//! ```

pub mod chain;
pub mod config;
pub mod draw;
pub mod filter;
pub mod framing;
pub mod jpeg;
pub mod kernels;
pub mod noise;
pub mod resize;
pub mod sharpen;
pub mod stream;

pub use chain::{Pair, apply};
pub use config::Config;
pub use draw::Drawn;
pub use framing::Framing;
pub use stream::Key;

use super::pixels::FloatImage;
use crate::Result;

/// A degradation: checked settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Degradation {
    /// The settings. After a change by hand call [`Config::check`]: draws rely on it.
    pub config: Config,
}

impl Degradation {
    /// Reads settings: a whole TOML file as [`config::REALESRGAN`] or [`config::CODEFORMER`].
    ///
    /// # Errors
    /// As [`Config::from_toml`].
    pub fn from_toml(text: &str) -> Result<Self> {
        Ok(Degradation { config: Config::from_toml(text)? })
    }

    /// The second-order degradation that DreamClear is trained with.
    pub fn real_esrgan() -> Self {
        Self::from_toml(config::REALESRGAN).expect("shipped settings are valid (tested)")
    }

    /// The first-order degradation that DiffBIR's SwinIR is trained with.
    pub fn code_former() -> Self {
        Self::from_toml(config::CODEFORMER).expect("shipped settings are valid (tested)")
    }

    /// Draws the parameters of picture `index` of pass `epoch` under `seed`.
    ///
    /// # Panics
    /// If `epoch` is 2^24 or more.
    pub fn draw(&self, seed: u64, epoch: u32, index: u64) -> Drawn {
        Drawn::draw(&self.config, Key { seed, epoch, index })
    }

    /// Degrades a picture, RGB in 0..1; see [`apply`].
    ///
    /// # Errors
    /// If a side is not a multiple of the scale, or a real JPEG encoder cannot hold the picture.
    ///
    /// # Panics
    /// If the picture is empty or has not 3 channels.
    pub fn apply(&self, drawn: &Drawn, picture: &FloatImage) -> Result<Pair> {
        chain::apply(drawn, picture)
    }
}

#[cfg(test)]
mod tests;
