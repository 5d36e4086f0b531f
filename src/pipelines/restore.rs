//! Restoring one picture with one network: enlarge if asked, run (in tiles), resize.

use serde_json::Map;

use super::batch::{Job, Restored, Restorer};
use super::tiled::{TiledNetwork, Tiling, Watch};
use crate::data::pixels::{FloatImage, Rounding};
use crate::data::resize::{Sizes, bicubic_antialias, bicubic_torch, photo_alpha, photo_rgb, restore_sizes};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::Workspace;
use crate::models::load::Loaded;

/// Working memory that a tile may take unless the user says otherwise.
pub const DEFAULT_MEMORY: usize = 1536 << 20;

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Output pixels per input pixel.
    pub upscale: f64,
    /// Tile side in pixels that the network sees; `None` picks the largest that fits `memory`.
    pub tile: Option<usize>,
    /// Overlap of neighbouring tiles, in the same pixels.
    pub overlap: Option<usize>,
    /// Working memory for a tile, in bytes.
    pub memory: usize,
    /// How results become integers.
    pub rounding: Rounding,
    /// Shorter side that the picture is enlarged to before a same-size network (DreamClear's
    /// first stage uses 1024); 0 for none.
    pub min_size: usize,
}

/// How a picture of one size will be run.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The picture.
    pub input: (usize, usize),
    /// What the network sees, before reflect padding.
    pub network_input: (usize, usize),
    /// The result.
    pub output: (usize, usize),
    /// How the network's input is cut.
    pub tiling: Tiling,
    /// Pictures in f32 and as integers, bytes.
    pub pictures: usize,
}

impl Layout {
    /// Peak memory of restoring this picture, bytes.
    pub fn peak(&self) -> usize {
        self.tiling.arena + self.tiling.weights + self.pictures
    }
}

/// A [`Restorer`] around an image network.
pub struct NetworkRestorer {
    name: String,
    tiled: TiledNetwork,
    settings: Settings,
}

impl NetworkRestorer {
    /// Checks that the weights fit the network.
    pub fn new(name: &str, model: Loaded, settings: Settings, device: Device) -> Result<Self> {
        if !matches!(model.network.channels(), 1 | 3) {
            let c = model.network.channels();
            return Err(Error::Usage(format!("a network of {c} channels cannot restore pictures")));
        }
        let Settings { tile, overlap, memory, .. } = settings;
        let tiled = TiledNetwork::new(model, tile, overlap, memory, device, Workspace::new())?;
        Ok(NetworkRestorer { name: name.to_owned(), tiled, settings })
    }

    /// What the network sees and what comes out. Networks that enlarge see the picture as it is;
    /// same-size networks see it already enlarged, the general SwinIR on DreamClear's grid of 64.
    fn sizes(&self, input: (usize, usize)) -> Result<Sizes> {
        let net = &*self.tiled.model.network;
        let min_size = if net.scale() > 1 { 0 } else { self.settings.min_size };
        let sizes = restore_sizes(input, self.settings.upscale, min_size)?;
        let working = match (net.scale(), self.settings.min_size) {
            (1, 0) => sizes.output,
            (1, _) => sizes.working,
            _ => input,
        };
        Ok(Sizes { working, ..sizes })
    }

    /// Predicted seconds of the network, if the device is a GPU or stands for one.
    pub fn seconds(&self, layout: &Layout) -> Result<Option<f64>> {
        self.tiled.seconds(&layout.tiling)
    }

    /// Chooses tiles for a picture and says what they cost.
    pub fn layout(&self, input: (usize, usize)) -> Result<Layout> {
        let scale = self.tiled.model.network.scale();
        let Sizes { working: seen, output } = self.sizes(input)?;
        let tiling = self.tiled.tiling(seen)?;
        let area = |s: (usize, usize)| s.0 * s.1;
        // f32: what the network sees, its joined result, the resized result; then integers.
        let joined = area(tiling.padded) * scale * scale;
        let resized = if output == (seen.0 * scale, seen.1 * scale) { 0 } else { area(output) };
        let pictures = 12 * (area(tiling.padded) + joined + resized) + 4 * (area(input) + 2 * area(output));
        Ok(Layout { input, network_input: seen, output, tiling, pictures })
    }
}

impl Restorer for NetworkRestorer {
    fn settings(&self) -> String {
        let s = &self.settings;
        let w = &self.tiled.model.weights;
        format!(
            "model={} weights={}:{} tensors:{} bytes upscale={} tile={:?} overlap={:?} memory={} min_size={} rounding={:?}",
            self.name,
            w.path().display(),
            w.len(),
            w.bytes(),
            s.upscale,
            s.tile,
            s.overlap,
            s.memory,
            s.min_size,
            s.rounding
        )
    }

    fn restore(&mut self, job: &Job<'_>) -> Result<Restored> {
        match self.attempt(job) {
            // Another program has taken memory: once more, with tiles for what is free now.
            Err(Error::OutOfMemory(_)) => {
                self.tiled.forget();
                self.attempt(job)
            }
            result => result,
        }
    }
}

impl NetworkRestorer {
    fn attempt(&mut self, job: &Job<'_>) -> Result<Restored> {
        job.cancel.check()?;
        let photo = job.photo;
        let layout = self.layout((photo.height, photo.width))?;
        let (h, w) = layout.network_input;
        let grey = self.tiled.model.network.channels() == 1;
        // Enlarging first is one 8-bit bicubic resize before anything else, as in DreamClear.
        let mut image = if (h, w) == layout.input { photo.rgb_f32() } else { photo_rgb(photo, h, w) };
        if grey {
            image = to_grey(&image);
        }
        let watch = Watch { cancel: job.cancel, progress: job.progress };
        let mut result = self.tiled.run(image, &layout.tiling, watch)?;
        if grey {
            result = from_grey(&result);
        }
        let (oh, ow) = layout.output;
        if (result.height, result.width) != (oh, ow) {
            // Shrinking needs a filter as wide as the step; enlarging does not.
            let shrinks = oh < result.height || ow < result.width;
            result =
                if shrinks { bicubic_antialias(&result, oh, ow) } else { bicubic_torch(&result, oh, ow) };
        }
        let alpha = photo_alpha(photo, oh, ow);
        let photo = photo.with_pixels(&result, alpha.as_ref(), self.settings.rounding)?;
        let notes = layout.tiling.note().into_iter().collect();
        Ok(Restored { photo, reference: None, notes, details: Map::new() })
    }
}

fn to_grey(image: &FloatImage) -> FloatImage {
    let data = image.data.chunks_exact(3).map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]).collect();
    FloatImage::new(image.height, image.width, 1, data)
}

fn from_grey(image: &FloatImage) -> FloatImage {
    FloatImage::new(image.height, image.width, 3, image.data.iter().flat_map(|&v| [v; 3]).collect())
}
