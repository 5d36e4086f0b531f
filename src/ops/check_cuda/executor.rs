//! Where the kernels of a case are run to be checked.

use std::sync::Arc;

use crate::device::kernel::{DeviceFacts, DeviceMemory, KernelDevice, Launch, TensorMapSpec};
use crate::device::sim::{GuardedBuffer, Schedule, Simulator};
use crate::ffi;

/// Memory and launches for a check. The same launches can be run in several ways (thread schedules,
/// recorded or not), and the bytes of the results must not depend on the way.
pub trait Executor: Sync {
    /// What differs from way to way, for messages: `schedule`.
    const VARIES: &'static str;

    /// Memory whose surroundings are watched.
    type Buffer;

    /// What the choice of kernels may depend on.
    fn facts(&self) -> DeviceFacts;

    /// In how many ways launches can be run.
    fn ways(&self) -> usize;

    /// A way in words, for messages.
    fn way(&self, way: usize) -> String;

    /// A buffer that holds these bytes.
    fn buffer(&self, bytes: &[u8]) -> Result<Self::Buffer, String>;

    /// Device address of a buffer's first byte.
    fn address(&self, buffer: &Self::Buffer) -> u64;

    /// What a buffer holds, after all launches; or that something was written beside it. Messages call it
    /// `name`.
    fn read(&self, buffer: &Self::Buffer, name: &str) -> Result<Vec<u8>, String>;

    /// As [`KernelDevice::tensor_map`].
    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<ffi::TensorMap, String>;

    /// Runs the launches in order.
    ///
    /// # Safety
    /// Addresses in the parameters must be live buffers of this executor, of the extents that they say.
    unsafe fn launch(&self, launches: &[Launch], way: usize) -> Result<(), String>;
}

/// The simulator: every thread schedule is a way, and every buffer lies between pages that nobody may touch.
pub struct Simulated {
    simulator: Simulator,
    facts: DeviceFacts,
}

impl Simulated {
    /// The simulator in the place of a card, or why this build has none.
    pub fn new(facts: DeviceFacts) -> crate::Result<Self> {
        Ok(Simulated { simulator: Simulator::new()?, facts })
    }
}

impl Executor for Simulated {
    const VARIES: &'static str = "schedule";
    type Buffer = GuardedBuffer;

    fn facts(&self) -> DeviceFacts {
        self.facts
    }

    fn ways(&self) -> usize {
        Schedule::ALL.len()
    }

    fn way(&self, way: usize) -> String {
        format!("{:?}", Schedule::ALL[way])
    }

    fn buffer(&self, bytes: &[u8]) -> Result<GuardedBuffer, String> {
        Ok(GuardedBuffer::of(bytes))
    }

    fn address(&self, buffer: &GuardedBuffer) -> u64 {
        buffer.address()
    }

    fn read(&self, buffer: &GuardedBuffer, name: &str) -> Result<Vec<u8>, String> {
        untouched(name, buffer.head_is_untouched(), buffer.tail_is_untouched())?;
        Ok(buffer.bytes().to_vec())
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<ffi::TensorMap, String> {
        self.simulator.tensor_map(spec)
    }

    unsafe fn launch(&self, launches: &[Launch], way: usize) -> Result<(), String> {
        // SAFETY: the caller's promise.
        launches.iter().try_for_each(|l| unsafe { self.simulator.launch(l, Schedule::ALL[way], 1) })
    }
}

fn untouched(name: &str, head: bool, tail: bool) -> Result<(), String> {
    match (head, tail) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("wrote past the end of {name}")),
        (false, _) => Err(format!("wrote before the start of {name}")),
    }
}

/// A device: launched twice, and once as a recording where it can record. Each buffer has bands of poison on
/// both sides that must not change; reads of them go unseen.
pub struct OnDevice {
    device: Arc<dyn KernelDevice>,
    facts: DeviceFacts,
    records: bool,
    band: usize,
}

/// The ways of [`OnDevice`], in order.
const WAYS: [&str; 3] = ["a first run", "a second run", "a recorded run"];

/// Bytes of poison before and after a buffer; keeps the alignment of device memory.
const BAND: usize = 256;

impl OnDevice {
    /// Checks on this device.
    pub fn new(device: Arc<dyn KernelDevice>) -> Self {
        // SAFETY: there is nothing to launch.
        let records = unsafe { device.record(&[]) }.is_some();
        OnDevice { facts: device.facts(), device, records, band: BAND }
    }

    /// Kernels are chosen as if the card were this one; it must be able to run them.
    pub fn playing(self, facts: DeviceFacts) -> Self {
        OnDevice { facts, ..self }
    }

    /// Every buffer is an allocation of exactly its size, so that `compute-sanitizer` sees whoever reads or
    /// writes beside it.
    pub fn without_bands(device: Arc<dyn KernelDevice>) -> Self {
        OnDevice { band: 0, ..Self::new(device) }
    }
}

impl Executor for OnDevice {
    const VARIES: &'static str = "run";
    type Buffer = DeviceMemory;

    fn facts(&self) -> DeviceFacts {
        self.facts
    }

    fn ways(&self) -> usize {
        if self.records { WAYS.len() } else { WAYS.len() - 1 }
    }

    fn way(&self, way: usize) -> String {
        WAYS[way].into()
    }

    fn buffer(&self, bytes: &[u8]) -> Result<DeviceMemory, String> {
        let mut banded = vec![0xFF; self.band + bytes.len() + self.band];
        banded[self.band..self.band + bytes.len()].copy_from_slice(bytes);
        DeviceMemory::of(&self.device, &banded).map_err(|e| e.to_string())
    }

    fn address(&self, buffer: &DeviceMemory) -> u64 {
        buffer.address() + self.band as u64
    }

    fn read(&self, buffer: &DeviceMemory, name: &str) -> Result<Vec<u8>, String> {
        let mut banded = vec![0; buffer.len()];
        buffer.read(0, &mut banded).map_err(|e| e.to_string())?;
        let poison = |band: &[u8]| band.iter().all(|&b| b == 0xFF);
        let end = banded.len() - self.band;
        untouched(name, poison(&banded[..self.band]), poison(&banded[end..]))?;
        Ok(banded[self.band..end].to_vec())
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<ffi::TensorMap, String> {
        self.device.tensor_map(spec)
    }

    unsafe fn launch(&self, launches: &[Launch], way: usize) -> Result<(), String> {
        launches.iter().try_for_each(|l| self.device.check(l))?;
        let text = |e: crate::Error| e.to_string();
        // SAFETY: the caller's promise; a recording is over before this returns.
        unsafe {
            let recording = if way == 2 { self.device.record(launches) } else { None };
            match recording.transpose().map_err(text)? {
                Some(recording) => {
                    recording.start().map_err(text)?;
                    self.device.synchronize().map_err(text)
                }
                None => {
                    let started = self.device.launch(launches);
                    let named = |(i, e): (usize, String)| {
                        format!("{}: {e}", launches.get(i).map_or("", |l| l.kernel.as_str()))
                    };
                    started.map_err(named)?;
                    self.device.synchronize().map_err(text)
                }
            }
        }
    }
}
