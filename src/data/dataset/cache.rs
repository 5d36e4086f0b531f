//! Decoded pictures that stay in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::Result;
use crate::data::image::Photo;
use crate::data::inputs::Input;
use crate::data::pixels::FloatImage;

/// A picture as 8-bit RGB, `[height, width, 3]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rgb8 {
    pub height: usize,
    pub width: usize,
    pub data: Vec<u8>,
}

impl Rgb8 {
    /// Reads and decodes; grey is replicated, alpha left out, 16-bit samples are rounded.
    pub fn read(input: &Input) -> Result<Self> {
        let photo = Photo::load_bytes(&input.read()?, input.location())?;
        let data = photo.rgb_u8().into_owned();
        Ok(Rgb8 { height: photo.height, width: photo.width, data })
    }

    /// `size` by `size` pixels from row `y` and column `x` on, mirrored left to right if `flip`, in 0..1.
    pub fn window(&self, (y, x): (usize, usize), size: usize, flip: bool) -> FloatImage {
        let mut out = FloatImage::zeros(size, size, 3);
        for (row, out) in out.data.chunks_exact_mut(3 * size).enumerate() {
            let from = &self.data[3 * ((y + row) * self.width + x)..][..3 * size];
            for (column, out) in out.chunks_exact_mut(3).enumerate() {
                let column = if flip { size - 1 - column } else { column };
                for (o, &v) in out.iter_mut().zip(&from[3 * column..]) {
                    // Division in f64, then one rounding, as in `Photo::rgb_f32`.
                    *o = (f64::from(v) / 255.0) as f32;
                }
            }
        }
        out
    }
}

/// Keeps the first pictures that fit. Items come in another order every epoch, each once: keeping what
/// came last would lose most pictures just before they are wanted again.
pub(super) struct Cache {
    kept: Mutex<(HashMap<usize, Arc<Rgb8>>, usize)>,
    limit: usize,
}

impl Cache {
    /// A cache that takes up to so many bytes of pixels.
    pub fn new(limit: usize) -> Self {
        Cache { kept: Mutex::default(), limit }
    }

    /// The picture kept under `key`, or `read`'s.
    pub fn get(&self, key: usize, read: impl FnOnce() -> Result<Rgb8>) -> Result<Arc<Rgb8>> {
        let lock = || self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(picture) = lock().0.get(&key) {
            return Ok(picture.clone());
        }
        // Not under the lock: two threads may decode the same picture, which harms nobody.
        let picture = Arc::new(read()?);
        let (kept, bytes) = &mut *lock();
        if *bytes + picture.data.len() <= self.limit && !kept.contains_key(&key) {
            *bytes += picture.data.len();
            kept.insert(key, picture.clone());
        }
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn pictures_stay_as_long_as_they_fit() {
        let cache = Cache::new(20);
        let picture = |v| Ok(Rgb8 { height: 1, width: 3, data: vec![v; 9] });
        for key in 0..3 {
            assert_eq!(cache.get(key, || picture(key as u8)).unwrap().data, [key as u8; 9]);
        }
        let gone = || Err(Error::Run("read again".into()));
        assert_eq!(cache.get(0, gone).unwrap().data[0], 0);
        assert_eq!(cache.get(1, gone).unwrap().data[0], 1);
        assert!(cache.get(2, gone).is_err(), "three times 9 bytes are more than 20");
    }

    #[test]
    fn windows_are_cut_and_mirrored() {
        let picture = Rgb8 { height: 2, width: 3, data: (0..18).collect() };
        let reds = |flip| {
            let window = picture.window((0, 1), 2, flip);
            window.data.chunks(3).map(|p| (p[0] * 255.0).round() as u8).collect::<Vec<_>>()
        };
        assert_eq!(reds(false), [3, 6, 12, 15]);
        assert_eq!(reds(true), [6, 3, 15, 12]);
    }
}
