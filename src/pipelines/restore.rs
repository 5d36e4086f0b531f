//! Restoring one picture with one network: enlarge if asked, cut into tiles, run, join, resize.

use std::sync::Arc;

use super::batch::{Job, Restored, Restorer};
use crate::data::pixels::{FloatImage, Rounding};
use crate::data::resize::{Sizes, bicubic_antialias, bicubic_torch, photo_alpha, photo_rgb, restore_sizes};
use crate::data::tiles::{Canvas, Join, crop, pad_reflect};
use crate::device::cpu::CpuDevice;
use crate::error::{Error, Result};
use crate::graph::{Executable, Plan};
use crate::models::load::Loaded;
use crate::tensor::HostTensor;

/// Working memory that a tile may take unless the user says otherwise.
pub const DEFAULT_MEMORY: usize = 1536 << 20;
/// Overlap of neighbouring tiles in input pixels of the network, unless the user says otherwise.
const DEFAULT_OVERLAP: usize = 32;
/// Sides of tiles that are tried, largest first.
const TILE_SIDES: [usize; 12] = [2048, 1536, 1024, 768, 640, 512, 448, 384, 320, 256, 192, 128];

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
    /// Tile height and width.
    pub tile: (usize, usize),
    /// Overlap of neighbouring tiles.
    pub overlap: usize,
    /// Number of tiles.
    pub tiles: usize,
    /// Whether the overlap covers the receptive field, so that tiles change nothing.
    pub exact: bool,
    /// Arena of one tile, bytes.
    pub arena: usize,
    /// Weights in f32, bytes.
    pub weights: usize,
    /// Pictures in f32 and as integers, bytes.
    pub pictures: usize,
    /// Operations of the whole picture.
    pub flops: f64,
}

impl Layout {
    /// Peak memory of restoring this picture, bytes.
    pub fn peak(&self) -> usize {
        self.arena + self.weights + self.pictures
    }
}

/// A [`Restorer`] around an image network.
pub struct NetworkRestorer {
    name: String,
    model: Loaded,
    settings: Settings,
    device: Arc<CpuDevice>,
    /// The executable of the last tile size: pictures of one job are often alike.
    ready: Option<((usize, usize), Executable)>,
}

impl NetworkRestorer {
    /// Checks that the weights fit the network.
    pub fn new(name: &str, model: Loaded, settings: Settings, device: Arc<CpuDevice>) -> Result<Self> {
        let side = model.network.multiple().max(8);
        // A learned position embedding only fits its own size; `restore` has no use for it.
        let graph = model.network.graph(1, side, side, false)?;
        model.check(&graph)?;
        if !matches!(model.network.channels(), 1 | 3) {
            let c = model.network.channels();
            return Err(Error::Usage(format!("a network of {c} channels cannot restore pictures")));
        }
        Ok(NetworkRestorer { name: name.to_owned(), model, settings, device, ready: None })
    }

    fn plan(&self, (height, width): (usize, usize)) -> Result<Plan> {
        Plan::new(self.model.network.graph(1, height, width, false)?, self.device.threads())
    }

    /// What the network sees and what comes out. Networks that enlarge see the picture as it is;
    /// same-size networks see it already enlarged, the general SwinIR on DreamClear's grid of 64.
    fn sizes(&self, input: (usize, usize)) -> Result<Sizes> {
        let net = &*self.model.network;
        let min_size = if net.scale() > 1 { 0 } else { self.settings.min_size };
        let sizes = restore_sizes(input, self.settings.upscale, min_size)?;
        let working = match (net.scale(), self.settings.min_size) {
            (1, 0) => sizes.output,
            (1, _) => sizes.working,
            _ => input,
        };
        Ok(Sizes { working, ..sizes })
    }

    /// Chooses tiles for a picture and says what they cost.
    pub fn layout(&self, input: (usize, usize)) -> Result<Layout> {
        let net = &*self.model.network;
        let (m, scale) = (net.multiple(), net.scale());
        let Sizes { working: seen, output } = self.sizes(input)?;
        let padded = (seen.0.next_multiple_of(m), seen.1.next_multiple_of(m));
        let (tile, overlap, plan) = self.choose_tile(padded)?;
        let canvas = Canvas::new(padded, tile, overlap, 1, 1, Join::Exact)?;
        let tiles = canvas.len();
        let exact = tiles == 1 || net.receptive_radius().is_some_and(|r| overlap >= 2 * r);
        let area = |s: (usize, usize)| s.0 * s.1;
        // f32: what the network sees, its joined result, the resized result; then integers.
        let joined = area(padded) * scale * scale;
        let resized = if output == (seen.0 * scale, seen.1 * scale) { 0 } else { area(output) };
        let pictures = 12 * (area(padded) + joined + resized) + 4 * (area(input) + 2 * area(output));
        Ok(Layout {
            input,
            network_input: seen,
            output,
            tile: canvas.tile_size(),
            overlap,
            tiles,
            exact,
            arena: plan.arena_bytes,
            weights: plan.param_bytes(),
            pictures,
            flops: plan.cost().flops * tiles as f64,
        })
    }

    /// The largest tile whose plan fits the memory (or the user's), evened out over the picture.
    fn choose_tile(&self, padded: (usize, usize)) -> Result<(usize, usize, Plan)> {
        let m = self.model.network.multiple();
        let overlap = self.settings.overlap.unwrap_or(DEFAULT_OVERLAP).next_multiple_of(m);
        let longest = padded.0.max(padded.1);
        let size = |side: usize| (side.min(padded.0), side.min(padded.1));
        if let Some(tile) = self.settings.tile {
            let tile = tile.next_multiple_of(m);
            let overlap = if tile >= longest { overlap.min(tile - 1) } else { overlap };
            return Ok((tile, overlap, self.plan(size(tile))?));
        }
        let sides = std::iter::once(longest).chain(TILE_SIDES.into_iter().filter(|&s| s < longest));
        let mut smallest = None;
        for side in sides.map(|s| s.next_multiple_of(m)) {
            // Estimates grow with the area; plan only what has a chance.
            if size(side).0 * size(side).1 > self.settings.memory / 64 {
                continue;
            }
            if side < longest && side <= 2 * overlap {
                break;
            }
            let plan = self.plan(size(side))?;
            if plan.arena_bytes <= self.settings.memory {
                let even = even_tile(longest, side, overlap).next_multiple_of(m);
                if even >= side {
                    return Ok((side, overlap.min(side - 1), plan));
                }
                return Ok((even, overlap, self.plan(size(even))?));
            }
            smallest = Some((side, plan.arena_bytes));
        }
        let (side, need) = smallest.unwrap_or((2 * overlap, usize::MAX));
        Err(Error::Usage(format!(
            "the smallest tile ({side} pixels) needs {} MiB of working memory; --memory allows {} MiB",
            need >> 20,
            self.settings.memory >> 20
        )))
    }

    fn executable(&mut self, tile: (usize, usize)) -> Result<&mut Executable> {
        if self.ready.as_ref().is_none_or(|(size, _)| *size != tile) {
            self.ready = None; // give the old arena back first
            let plan = self.plan(tile)?;
            let weights = &self.model.weights;
            let exe = Executable::new(plan, self.device.clone(), |key| weights.get(key).cloned())?;
            self.ready = Some((tile, exe));
        }
        Ok(&mut self.ready.as_mut().expect("just set").1)
    }

    /// Runs the network on a whole picture, tile by tile.
    fn run(&mut self, job: &Job<'_>, image: FloatImage, layout: &Layout) -> Result<FloatImage> {
        let net = &*self.model.network;
        let (m, scale, channels) = (net.multiple(), net.scale(), net.channels());
        let (height, width) = (image.height, image.width);
        let padded = pad_reflect(&image, m);
        drop(image);
        let tile = layout.tile.0.max(layout.tile.1);
        let join = if layout.exact { Join::Exact } else { Join::Blend };
        let mut canvas =
            Canvas::new((padded.height, padded.width), tile, layout.overlap, scale, channels, join)?;
        let count = canvas.len();
        let exe = self.executable(canvas.tile_size())?;
        let whole: f64 = exe.plan().steps.iter().map(|s| s.cost.bytes + s.cost.flops).sum();
        for i in 0..count {
            let part = canvas.crop(&padded, i);
            let x = HostTensor::from_f32([1, part.height, part.width, channels], part.data);
            let mut done = 0.0;
            let mut out = exe.run_observed(&[("x", x)], |step, _| {
                done += step.cost.bytes + step.cost.flops;
                (job.progress)((i as f64 + done / whole) as f32 / count as f32);
                job.cancel.check()
            })?;
            let (_, y) = out.swap_remove(0);
            let (h, w) = (y.shape()[1], y.shape()[2]);
            canvas.place(i, &FloatImage::new(h, w, channels, y.to_f32().into_owned()))?;
        }
        let joined = canvas.into_output();
        if (joined.height, joined.width) == (height * scale, width * scale) {
            return Ok(joined);
        }
        Ok(crop(&joined, 0..height * scale, 0..width * scale))
    }
}

impl Restorer for NetworkRestorer {
    fn settings(&self) -> String {
        let s = &self.settings;
        let w = &self.model.weights;
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
        job.cancel.check()?;
        let photo = job.photo;
        let layout = self.layout((photo.height, photo.width))?;
        let (h, w) = layout.network_input;
        let grey = self.model.network.channels() == 1;
        // Enlarging first is one 8-bit bicubic resize before anything else, as in DreamClear.
        let mut image = if (h, w) == layout.input { photo.rgb_f32() } else { photo_rgb(photo, h, w) };
        if grey {
            image = to_grey(&image);
        }
        let mut result = self.run(job, image, &layout)?;
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
        let mut notes = Vec::new();
        if layout.tiles > 1 {
            let (th, tw) = layout.tile;
            notes.push(format!("{} tiles of {tw}×{th} with an overlap of {}", layout.tiles, layout.overlap));
        }
        Ok(Restored { photo, reference: None, notes })
    }
}

/// The smallest tile that needs no more tiles along `length` than `side` does.
fn even_tile(length: usize, side: usize, overlap: usize) -> usize {
    if side >= length {
        return side;
    }
    let count = (length - side).div_ceil(side - overlap) + 1;
    (length + (count - 1) * overlap).div_ceil(count)
}

fn to_grey(image: &FloatImage) -> FloatImage {
    let data = image.data.chunks_exact(3).map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]).collect();
    FloatImage::new(image.height, image.width, 1, data)
}

fn from_grey(image: &FloatImage) -> FloatImage {
    FloatImage::new(image.height, image.width, 3, image.data.iter().flat_map(|&v| [v; 3]).collect())
}

#[cfg(test)]
mod tests {
    use super::even_tile;

    #[test]
    fn even_tiles_cover_with_no_more_tiles() {
        assert_eq!(even_tile(2048, 416, 32), 368); // six tiles either way
        assert_eq!(even_tile(500, 512, 32), 512);
        for (length, side) in [(1000, 300), (2048, 512), (777, 128)] {
            let count = |t: usize| (length - t.min(length)).div_ceil(t - 32) + 1;
            let even = even_tile(length, side, 32);
            assert!(even <= side && count(even) == count(side));
        }
    }
}
