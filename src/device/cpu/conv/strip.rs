//! Gathering the input pixels that a rectangle of output sees.

use crate::device::cpu::gemm::extent;
use crate::device::cpu::scratch::Scratch;

/// How the convolution sees an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// As it is.
    Direct,
    /// Every pixel repeated this many times in both directions (nearest-neighbour upsampling).
    Nearest(usize),
    /// With zeros between the rows and columns, so that stored pixels are this far apart
    /// (transposed convolution).
    Spread([usize; 2]),
}

/// One input, channels last.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The values.
    pub values: &'a [f32],
    /// Stored height and width.
    pub size: [usize; 2],
    /// Channels read from each pixel.
    pub channels: usize,
    /// Values from one pixel to the next (0 for a picture of one colour).
    pub stride: usize,
    /// How it is seen.
    pub sampling: Sampling,
}

impl<'a> Input<'a> {
    /// An input without gaps, seen as it is.
    pub fn dense(values: &'a [f32], size: [usize; 2], channels: usize) -> Input<'a> {
        Input { values, size, channels, stride: channels, sampling: Sampling::Direct }
    }

    /// Height and width as the convolution sees them.
    pub(super) fn seen(&self) -> [usize; 2] {
        match self.sampling {
            Sampling::Direct => self.size,
            Sampling::Nearest(factor) => self.size.map(|n| n * factor),
            Sampling::Spread(step) => {
                [0, 1].map(|i| if self.size[i] == 0 { 0 } else { (self.size[i] - 1) * step[i] + 1 })
            }
        }
    }

    /// # Panics
    /// If the values do not suffice or the size is not what the other inputs have.
    pub(super) fn check(&self, batch: usize, seen: [usize; 2]) {
        assert_eq!(self.seen(), seen, "inputs of different sizes");
        let pixels = batch * self.size[0] * self.size[1];
        assert!(self.values.len() >= extent(pixels, self.channels, self.stride), "input too short");
    }

    /// The stored coordinate along `axis` that is seen at `i`, if it is not a zero.
    #[inline]
    fn source(&self, i: isize, axis: usize) -> Option<usize> {
        let i = usize::try_from(i).ok()?;
        let stored = match self.sampling {
            Sampling::Direct => i,
            Sampling::Nearest(factor) => i / factor,
            Sampling::Spread(step) if i % step[axis] == 0 => i / step[axis],
            Sampling::Spread(_) => return None,
        };
        (stored < self.size[axis]).then_some(stored)
    }
}

/// The part of the (padded, seen) input to gather.
#[derive(Clone, Copy, Debug)]
pub(super) struct StripShape {
    /// First row and column; negative ones lie in the padding.
    pub top: isize,
    pub left: isize,
    pub rows: usize,
    pub columns: usize,
}

/// Gathered input: `[rows][columns][channels]`.
pub(super) struct Strip {
    pub values: Scratch,
    pub columns: usize,
    pub channels: usize,
}

impl Strip {
    /// Gathers `shape` from image number `image` of each input.
    pub fn gather(inputs: &[Input], image: usize, shape: StripShape) -> Strip {
        let StripShape { top, left, rows, columns } = shape;
        let channels: usize = inputs.iter().map(|i| i.channels).sum();
        let mut values = Scratch::new(rows * columns * channels);
        let mut first = 0;
        for input in inputs {
            let count = input.channels;
            for (y, line) in values.chunks_exact_mut((columns * channels).max(1)).enumerate() {
                let row = input.source(top + y as isize, 0).map(|row| {
                    let start = (image * input.size[0] + row) * input.size[1] * input.stride;
                    &input.values[start..]
                });
                match row {
                    None if count == channels => line.fill(0.0),
                    // Whole pixels side by side: one copy between the margins.
                    Some(row)
                        if count == channels
                            && input.stride == count
                            && input.sampling == Sampling::Direct =>
                    {
                        let before = (-left).clamp(0, columns as isize) as usize;
                        let skipped = (left.max(0) as usize).min(input.size[1]);
                        let copied = (input.size[1] - skipped).min(columns - before);
                        let (margin, rest) = line.split_at_mut(before * count);
                        let (middle, end) = rest.split_at_mut(copied * count);
                        margin.fill(0.0);
                        middle.copy_from_slice(&row[skipped * count..][..copied * count]);
                        end.fill(0.0);
                    }
                    row => {
                        for (x, pixel) in line.chunks_exact_mut(channels).enumerate() {
                            let pixel = &mut pixel[first..first + count];
                            match row.and_then(|row| {
                                Some(&row[input.source(left + x as isize, 1)? * input.stride..])
                            }) {
                                Some(source) => pixel.copy_from_slice(&source[..count]),
                                None => pixel.fill(0.0),
                            }
                        }
                    }
                }
            }
            first += count;
        }
        Strip { values, columns, channels }
    }
}
