//! Pictures in device memory, between the networks of a pipeline.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::data::color_fix;
use crate::data::pixels::{self, FloatImage};
use crate::device::kernel::{DeviceMemory, KernelDevice, Launch, Mark};
use crate::error::{Error, Result};
use crate::graph::cuda::{CudaOperand, CudaResult};
use crate::graph::{Layout, TensorType};
use crate::tensor::DType;

/// No bounds.
pub const UNBOUNDED: RangeInclusive<f32> = f32::NEG_INFINITY..=f32::INFINITY;

/// A [`FloatImage`] in device memory.
pub struct DeviceImage {
    device: Arc<dyn KernelDevice>,
    memory: DeviceMemory,
    layout: Layout,
    /// What launches read that made it: freed with it, since freeing waits for the device.
    kept: Vec<DeviceImage>,
}

impl DeviceImage {
    /// A picture with arbitrary contents.
    pub fn new(device: &Arc<dyn KernelDevice>, height: usize, width: usize, channels: usize) -> Result<Self> {
        let memory = DeviceMemory::new(device, 4 * height * width * channels)?;
        let layout = Layout::dense(&[1, height, width, channels]);
        Ok(DeviceImage { device: device.clone(), memory, layout, kept: Vec::new() })
    }

    /// A copy of the host's, made beside what the device is doing.
    pub fn upload(device: &Arc<dyn KernelDevice>, image: &FloatImage) -> Result<Self> {
        let copy = Self::new(device, image.height, image.width, image.channels)?;
        let bytes: &[u8] = bytemuck::cast_slice(&image.data);
        let mut fill = |start: usize, piece: &mut [u8]| {
            piece.copy_from_slice(&bytes[start..start + piece.len()]);
        };
        // SAFETY: just allocated with this size; nothing uses it yet.
        unsafe { device.upload_beside(copy.memory.address(), bytes.len(), &mut fill) }?;
        Ok(copy)
    }

    /// Height, width, channels.
    pub fn size(&self) -> [usize; 3] {
        [self.layout.shape[1], self.layout.shape[2], self.layout.shape[3]]
    }

    fn ty(&self) -> TensorType {
        TensorType::new(DType::F32, self.layout.shape.clone())
    }

    /// `[1, height, width, channels]` as plans read it.
    pub fn operand(&self) -> CudaOperand<'_> {
        CudaOperand { ty: self.ty(), layout: &self.layout, address: self.memory.address() }
    }

    /// The same as plans write it.
    pub fn result(&self) -> CudaResult {
        CudaResult { ty: self.ty(), address: self.memory.address() }
    }

    fn launch(&self, launches: &[Launch]) -> Result<()> {
        // SAFETY: memory of pictures, which is freed after what uses it.
        unsafe { self.device.launch(launches) }
            .map_err(|(i, message)| Error::Run(format!("{}: {message}", launches[i].kernel)))
    }

    /// Each value x becomes x·`scale` + `shift`, clamped.
    pub fn map(&mut self, scale: f32, shift: f32, range: RangeInclusive<f32>) -> Result<()> {
        let at = self.memory.address();
        let map = pixels::cuda::map(at, at, self.layout.len(), scale, shift, range);
        self.launch(map.as_slice())
    }

    /// Another picture of x·`scale` + `shift`.
    pub fn mapped(&self, scale: f32, shift: f32) -> Result<Self> {
        let [h, w, c] = self.size();
        let to = Self::new(&self.device, h, w, c)?;
        let (x, y) = (self.memory.address(), to.memory.address());
        let map = pixels::cuda::map(x, y, self.layout.len(), scale, shift, UNBOUNDED);
        self.launch(map.as_slice())?;
        Ok(to)
    }

    /// Keeps a picture that it is made from: freeing that earlier would wait for the device.
    pub fn keep(&mut self, source: DeviceImage) {
        self.kept.push(source);
    }

    /// [`color_fix::wavelet`] in place.
    ///
    /// # Panics
    /// If the two have different sizes.
    pub fn fix_colors(&mut self, reference: DeviceImage) -> Result<()> {
        assert_eq!(self.size(), reference.size(), "the picture and its colour reference have one size");
        let [h, w, c] = self.size();
        let scratch = [Self::new(&self.device, h, w, c)?, Self::new(&self.device, h, w, c)?];
        let at = scratch.each_ref().map(|s| s.memory.address());
        let (x, r) = (self.memory.address(), reference.memory.address());
        self.launch(&color_fix::cuda::wavelet(x, r, at, [h, w, c]))?;
        scratch.into_iter().chain([reference]).for_each(|used| self.keep(used));
        Ok(())
    }

    /// A mark behind all that was done to it so far.
    pub fn mark(&self) -> Result<Box<dyn Mark>> {
        self.device.mark()
    }

    /// The host's copy as it is when `mark` is reached; nothing later may have changed it.
    pub fn read(&self, mark: &dyn Mark) -> Result<FloatImage> {
        let [height, width, channels] = self.size();
        let mut image = FloatImage::zeros(height, width, channels);
        // SAFETY: the picture's own memory; the caller's promise is the documentation's.
        unsafe { mark.download(self.memory.address(), bytemuck::cast_slice_mut(&mut image.data)) }?;
        Ok(image)
    }
}
