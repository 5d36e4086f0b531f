//! Sums over the devices of several processes: what NCCL is to GPUs.

use std::time::Duration;

use crate::error::Result;

/// What rank 0 makes and all members of a group must know.
pub type GroupId = [u8; 128];

/// A device that can belong to a group.
pub trait Collectives {
    /// The name of a new group.
    ///
    /// # Errors
    /// If the library is not there, or too old.
    fn new_group(&self) -> Result<GroupId>;

    /// Becomes member `rank` of `world`. Returns when all have.
    ///
    /// # Errors
    /// As [`Collectives::new_group`]; and if the others do not come within `patience`.
    fn join_group(
        &self,
        id: &GroupId,
        rank: usize,
        world: usize,
        patience: Duration,
    ) -> Result<Box<dyn Group>>;
}

/// The devices that add up together. All members call the same functions with the same lengths in the same order.
/// Must not outlive its device.
pub trait Group: Send {
    /// Adds up `len` f32 numbers over all members, in place: after all that this device was given to do, beside
    /// what it is given next. What it is given after [`Group::finish`] sees the sums.
    ///
    /// # Errors
    /// If the library refuses, or a member is gone.
    ///
    /// # Safety
    /// They must be live memory of the device, which nothing else uses before [`Group::finish`] has returned.
    unsafe fn all_reduce(&mut self, address: u64, len: usize) -> Result<()>;

    /// Replaces `len` f32 numbers by those of member 0. Otherwise as [`Group::all_reduce`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there.
    unsafe fn broadcast(&mut self, address: u64, len: usize) -> Result<()>;

    /// Waits until all is done.
    ///
    /// # Errors
    /// If that takes longer than the patience of [`Collectives::join_group`], or a member is gone; then the group
    /// is given up.
    fn finish(&mut self) -> Result<()>;
}
