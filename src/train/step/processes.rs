//! A step that several processes make together: each over its own batches, all with the same parameters.

use super::{Terms, TrainStep};
use crate::data::shard::stable_hash;
use crate::error::{Error, Result};
use crate::train::reduce::Reduce;

impl TrainStep {
    /// Joins processes that train the same objective with the same options. All start from the parameters of rank
    /// 0, and change them by the mean gradient over all batches of all processes: sums of gradients start while
    /// the backward pass of the last batch goes on.
    ///
    /// # Errors
    /// If the others train something else, or are gone.
    pub fn with_processes(mut self, mut reduce: Box<dyn Reduce>) -> Result<Self> {
        if !reduce.same(self.fingerprint())? {
            reduce.close()?; // all know, and each says so
            return Err(Error::Usage(format!(
                "expected {} processes that train the same parameters, found one that does not: start all of them \
                 with the same configuration, build and number of threads",
                reduce.world()
            )));
        }
        self.side.adopt(&mut *reduce)?;
        self.reduce = Some(reduce);
        Ok(self)
    }

    /// What must be the same everywhere, so that sums are of the same things, as one number.
    fn fingerprint(&self) -> u64 {
        let layout = self.side.layout();
        let mut text = format!("{:?} {}", layout.buckets, self.options.accumulate);
        for slot in &layout.slots {
            text += &format!(" {} {:?} {} {}", slot.key, slot.shape, slot.bucket, slot.start);
        }
        stable_hash(text.as_bytes())
    }

    /// This process's number among those that train together, and how many there are.
    pub fn rank(&self) -> (usize, usize) {
        self.reduce.as_ref().map_or((0, 1), |r| (r.rank(), r.world()))
    }

    /// Terms averaged over all processes, each of which must ask. Not while batches are accumulated.
    ///
    /// # Errors
    /// If another process is gone.
    pub fn mean(&mut self, terms: Terms) -> Result<Terms> {
        let Some(reduce) = &mut self.reduce else { return Ok(terms) };
        let names: Vec<String> = terms.terms.iter().map(|(name, _)| name.clone()).collect();
        let here = [terms.loss].into_iter().chain(terms.terms.into_iter().map(|(_, value)| value));
        let sums = reduce.sum(here.map(|x| x as f32).collect())?;
        let mut means = sums.into_iter().map(|x| f64::from(x) / reduce.world() as f64);
        let loss = means.next().expect("as many as were given");
        Ok(Terms { loss, terms: names.into_iter().zip(means).collect() })
    }

    /// Whether any process says so (to stop all of them after the same step); as [`mean`](Self::mean).
    ///
    /// # Errors
    /// If another process is gone.
    pub fn any(&mut self, here: bool) -> Result<bool> {
        self.reduce.as_mut().map_or(Ok(here), |reduce| reduce.any(here))
    }

    /// Whether all processes have the same number (as of the update that they go on from); as [`mean`](Self::mean).
    ///
    /// # Errors
    /// If another process is gone.
    pub fn same(&mut self, number: u64) -> Result<bool> {
        self.reduce.as_mut().map_or(Ok(true), |reduce| reduce.same(number))
    }

    /// Waits for all processes, and leaves them; a process that ends without that is one that has failed.
    ///
    /// # Errors
    /// If another process is gone.
    pub fn leave(&mut self) -> Result<()> {
        self.reduce.take().map_or(Ok(()), |mut reduce| reduce.close())
    }
}
