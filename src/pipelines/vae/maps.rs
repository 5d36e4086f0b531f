//! Feature maps between layers: in memory or in a file that nobody else sees, and the moments of
//! their channels.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;
use rayon::prelude::*;

use crate::device::cpu::simd::{Level, simd_fn};
use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// Rows whose moments are found at once.
const ROWS: usize = 32;

/// What stored maps take, now and at most. A map goes to a file if those in memory would exceed
/// `memory` with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// Bytes that maps may take in memory.
    pub memory: usize,
    /// Where files go; `None` only counts and stores nothing.
    pub folder: Option<PathBuf>,
    /// Bytes in memory and in files now.
    now: [usize; 2],
    /// The most that there ever were.
    pub peak: [usize; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Memory,
    File,
}

enum Values {
    /// A plan has none.
    Absent,
    Memory(Vec<f32>),
    File {
        map: MmapMut,
        _removed: Removed,
    },
    /// A picture that the caller gave, which no one writes to.
    Given(HostTensor),
}

/// One NHWC feature map of batch 1, dense from the start of its memory.
pub(super) struct Map {
    /// Rows, columns, channels.
    pub size: [usize; 3],
    values: Values,
    place: Place,
    /// Bytes that the ledger has for it.
    held: usize,
    /// Over all pixels so far.
    moments: Moments,
}

impl Ledger {
    /// An empty account; without `folder` it only counts.
    pub fn new(memory: usize, folder: Option<PathBuf>) -> Self {
        Ledger { memory, folder, ..Ledger::default() }
    }

    /// Bytes of maps in memory now.
    pub fn in_memory(&self) -> usize {
        self.now[Place::Memory as usize]
    }

    /// A map of zeros.
    pub fn take(&mut self, size: [usize; 3]) -> Result<Map> {
        let elements: usize = size.iter().product();
        let held = elements * size_of::<f32>();
        let place = if self.in_memory() + held <= self.memory { Place::Memory } else { Place::File };
        let values = match (&self.folder, place) {
            (None, _) => Values::Absent,
            (Some(_), Place::Memory) => Values::Memory(vec![0.0; elements]),
            (Some(folder), Place::File) => scratch_file(folder, held)?,
        };
        let now = &mut self.now[place as usize];
        *now += held;
        self.peak[place as usize] = self.peak[place as usize].max(*now);
        Ok(Map { size, values, place, held, moments: Moments::default() })
    }

    /// Ends a map.
    pub fn give_back(&mut self, map: Map) {
        self.now[map.place as usize] -= map.held;
    }

    /// The map now has fewer channels, its values dense from the start.
    pub fn shrink(&mut self, map: &mut Map, channels: usize) {
        map.size[2] = channels;
        let elements = map.size.iter().product::<usize>();
        if let Values::Memory(values) = &mut map.values {
            values.truncate(elements);
            values.shrink_to_fit();
        }
        if map.place == Place::Memory {
            self.now[0] -= map.held - elements * size_of::<f32>();
            map.held = elements * size_of::<f32>();
        }
    }
}

impl Map {
    /// A picture `[1, H, W, C]` in f32 that its owner accounts for; `None` in a plan.
    pub fn given(picture: Option<HostTensor>, size: [usize; 3]) -> Map {
        let values = picture.map_or(Values::Absent, Values::Given);
        Map { size, values, place: Place::Memory, held: 0, moments: Moments::default() }
    }

    /// Rows `rows`.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> &[f32] {
        let row = self.size[1] * self.size[2];
        let range = rows.start * row..rows.end * row;
        match &self.values {
            Values::Memory(v) => &v[range],
            Values::File { map, .. } => &bytemuck::cast_slice(map)[range],
            Values::Given(t) => &bytemuck::cast_slice(t.bytes())[range],
            Values::Absent => unreachable!("a plan reads no values"),
        }
    }

    /// Writes rows of a map with `channels` channels from row `first` on, as they lie in a dense
    /// map of that many channels.
    pub fn write(&mut self, first: usize, channels: usize, rows: &[f32]) {
        let start = first * self.size[1] * channels;
        match &mut self.values {
            Values::Memory(v) => v[start..start + rows.len()].copy_from_slice(rows),
            Values::File { map, .. } => {
                bytemuck::cast_slice_mut(map)[start..start + rows.len()].copy_from_slice(rows);
            }
            Values::Given(_) | Values::Absent => unreachable!("only stored maps are written"),
        }
    }

    /// Forgets the moments: rows of other values follow.
    pub fn reset_moments(&mut self) {
        self.moments = Moments::default();
    }

    /// Takes whole rows into the moments, top to bottom.
    pub fn count(&mut self, rows: &[f32], channels: usize) {
        self.moments.add(rows, self.size[1], channels);
    }

    /// Means and variances of the groups of channels: `(mean, variance)` of each.
    pub fn group_moments(&self, groups: usize) -> Vec<(f64, f64)> {
        self.moments.groups(groups)
    }

    /// The map as a tensor `[1, H, W, C]`.
    pub fn into_tensor(self) -> HostTensor {
        let shape = [&[1], &self.size[..]].concat();
        let rows = 0..self.size[0];
        match self.values {
            Values::Memory(values) => HostTensor::from_f32(shape, values),
            Values::Given(picture) => picture,
            _ => HostTensor::from_f32(shape, self.rows(rows).to_vec()),
        }
    }
}

/// Mean and sum of squared deviations of each channel, merged row by row (Chan, Golub, LeVeque
/// 1979), so that neither bands nor threads change a bit of them.
#[derive(Default)]
struct Moments {
    pixels: f64,
    mean: Vec<f64>,
    deviations: Vec<f64>,
}

impl Moments {
    fn add(&mut self, rows: &[f32], width: usize, channels: usize) {
        self.mean.resize(channels, 0.0);
        self.deviations.resize(channels, 0.0);
        let mut found = vec![0.0; 2 * channels * ROWS];
        for rows in rows.chunks(ROWS * width * channels) {
            rows.par_chunks(width * channels)
                .zip(found.par_chunks_mut(2 * channels))
                .for_each(|(row, found)| row_moments(Level::best(), row, found));
            let count = rows.len() / (width * channels);
            for found in found.chunks_exact(2 * channels).take(count) {
                self.merge(width as f64, found);
            }
        }
    }

    fn merge(&mut self, pixels: f64, row: &[f32]) {
        let total = self.pixels + pixels;
        let (mean, deviations) = row.split_at(row.len() / 2);
        let ours = self.mean.iter_mut().zip(&mut self.deviations);
        for ((mean, deviations), (&m, &d)) in ours.zip(mean.iter().zip(deviations)) {
            let apart = f64::from(m) - *mean;
            *mean += apart * pixels / total;
            *deviations += f64::from(d) + apart * apart * self.pixels * pixels / total;
        }
        self.pixels = total;
    }

    fn groups(&self, groups: usize) -> Vec<(f64, f64)> {
        let width = self.mean.len() / groups;
        let merge = |(mean, deviations): (&[f64], &[f64])| {
            let middle = mean.iter().sum::<f64>() / width as f64;
            let apart: f64 = mean.iter().map(|m| (m - middle) * (m - middle)).sum();
            let variance =
                apart / width as f64 + deviations.iter().sum::<f64>() / (self.pixels * width as f64);
            (middle, variance)
        };
        self.mean.chunks_exact(width).zip(self.deviations.chunks_exact(width)).map(merge).collect()
    }
}

simd_fn! {
    /// Means, then sums of squared deviations, of every channel over one row of pixels.
    fn row_moments(row: &[f32], out: &mut [f32]) {
        let channels = out.len() / 2;
        let (mean, deviations) = out.split_at_mut(channels);
        mean.fill(0.0);
        deviations.fill(0.0);
        for pixel in row.chunks_exact(channels) {
            mean.iter_mut().zip(pixel).for_each(|(m, &x)| *m += x);
        }
        let scale = channels as f32 / row.len() as f32;
        mean.iter_mut().for_each(|m| *m *= scale);
        for pixel in row.chunks_exact(channels) {
            for ((d, &m), &x) in deviations.iter_mut().zip(mean.iter()).zip(pixel) {
                *d += (x - m) * (x - m);
            }
        }
    }
}

/// A path that is removed when the values are dropped (where an open file cannot be unlinked).
struct Removed(Option<PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A mapped file of zeros that is gone from `folder` as soon as it is open.
fn scratch_file(folder: &Path, bytes: usize) -> Result<Values> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("dreamclear-{}-{number}.map", std::process::id()));
    let failed = |action| {
        let path = path.clone();
        move |e| Error::io(action, path, e)
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(failed("make the scratch file"))?;
    let removed = if cfg!(unix) {
        std::fs::remove_file(&path).map_err(failed("remove the scratch file"))?;
        Removed(None)
    } else {
        Removed(Some(path.clone()))
    };
    reserve(&file, bytes).map_err(failed("find room for the scratch file"))?;
    // SAFETY: no other process knows the file, and its length stays fixed.
    let map = unsafe { MmapMut::map_mut(&file) }.map_err(failed("map the scratch file"))?;
    Ok(Values::File { map, _removed: removed })
}

/// Gives the file its length, and real room: a full disk must be an error now, not a signal later.
fn reserve(file: &File, bytes: usize) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open as long as `file` lives.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
            0 => return Ok(()),
            // File systems that cannot reserve.
            libc::EOPNOTSUPP | libc::EINVAL => {}
            error => return Err(std::io::Error::from_raw_os_error(error)),
        }
    }
    file.set_len(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_beyond_the_budget_live_in_files_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(100, Some(dir.path().to_owned()));
        let mut small = ledger.take([2, 3, 4]).unwrap(); // 96 bytes
        let mut large = ledger.take([4, 3, 2]).unwrap();
        assert_eq!((small.place, large.place), (Place::Memory, Place::File));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(!cfg!(unix)));
        for map in [&mut small, &mut large] {
            map.write(1, map.size[2], &[7.0; 12][..map.size[1] * map.size[2]]);
            assert_eq!(map.rows(1..2), &[7.0; 12][..map.size[1] * map.size[2]]);
            assert!(map.rows(0..1).iter().all(|&x| x == 0.0));
        }
        ledger.shrink(&mut small, 1);
        assert_eq!((ledger.now, ledger.peak), ([24, 96], [96, 96]));
        assert_eq!(small.rows(0..2).len(), 6);
        ledger.give_back(small);
        ledger.give_back(large);
        assert_eq!(ledger.now, [0, 0]);
    }

    #[test]
    fn moments_are_those_of_all_pixels() {
        let (height, width, channels) = (37, 5, 4);
        let values: Vec<f32> = (0..height * width * channels)
            .map(|i| 100.0 + (i * 7919 % 101) as f32 / 50.0 + (i % channels) as f32)
            .collect();
        let whole = |rows: &[usize]| {
            let mut moments = Moments::default();
            let mut at = 0;
            for &n in rows {
                let part = &values[at * width * channels..(at + n) * width * channels];
                moments.add(part, width, channels);
                at += n;
            }
            moments.groups(2)
        };
        let got = whole(&[37]);
        assert_eq!(got, whole(&[1, 35, 1]), "bands change nothing");
        for (g, &(mean, variance)) in got.iter().enumerate() {
            let mine = || {
                values.iter().enumerate().filter(|(i, _)| i % channels / 2 == g).map(|(_, &x)| f64::from(x))
            };
            let n = mine().count() as f64;
            let want = mine().sum::<f64>() / n;
            let spread = mine().map(|x| (x - want) * (x - want)).sum::<f64>() / n;
            assert!((mean - want).abs() < 1e-5 * want && (variance - spread).abs() < 1e-5 * spread);
        }
    }
}
