//! A source as an endless sequence of samples.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::order::{Draws, Order};
use super::{Sample, Source};
use crate::{Error, Result};

/// So many broken items in a row are no accident: their disk is gone, or they are not pictures at all.
const MOST_IN_A_ROW: usize = 1000;

/// An item that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The item's name.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

/// The samples of a run by number: every item once an epoch, in an order of its own each epoch.
pub struct Stream {
    source: Box<dyn Source>,
    seed: u64,
    /// Items that were found broken, so that no epoch tries them again.
    broken: Mutex<Broken>,
}

#[derive(Default)]
struct Broken {
    reasons: BTreeMap<usize, String>,
    /// Those that nobody has asked for yet.
    news: Vec<Skipped>,
}

impl Stream {
    /// The samples of `source`, ordered and cut by `seed`.
    pub fn new(source: Box<dyn Source>, seed: u64) -> Self {
        Stream { source, seed, broken: Mutex::default() }
    }

    /// Items of an epoch.
    pub fn items(&self) -> usize {
        self.source.len()
    }

    /// Sample `number` (from 0). If its item is broken, the epoch's next whole one takes its place, with its
    /// own draws.
    ///
    /// # Errors
    /// `Error::Run` if all items, or a thousand in a row, are broken, with the first reason; other errors than
    /// of files and pictures as they are.
    pub fn sample(&self, number: u64) -> Result<Sample> {
        let items = self.source.len();
        let (epoch, position) = (number / items as u64, number % items as u64);
        let order = Order::new(self.seed, epoch, items);
        let most = items.min(MOST_IN_A_ROW);
        for ahead in 0..most {
            let index = order.at(position + ahead as u64);
            if self.lock().reasons.contains_key(&index) {
                continue;
            }
            let draws = Draws { seed: self.seed, epoch, index: index as u64 };
            match self.attempt(index, &draws) {
                Ok(sample) => return Ok(sample),
                Err(e @ (Error::File { .. } | Error::Io { .. } | Error::Run(_))) => {
                    self.note(index, e.to_string());
                }
                Err(e) => return Err(e),
            }
        }
        let first = self.lock().reasons.values().next().cloned().unwrap_or_default();
        Err(Error::Run(if most == items {
            format!("none of the {items} items of the training set can be used; the first: {first}")
        } else {
            format!("{most} items of the training set in a row cannot be used; the first: {first}")
        }))
    }

    fn attempt(&self, index: usize, draws: &Draws) -> Result<Sample> {
        // A decoder that trips over a damaged file is that file's fault, not the run's.
        catch_unwind(AssertUnwindSafe(|| self.source.sample(index, draws))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Error::Run(format!("{}: reading it failed: {text}", self.source.name(index))))
        })
    }

    fn note(&self, index: usize, reason: String) {
        let mut broken = self.lock();
        // Two threads may come to the same item.
        if broken.reasons.insert(index, reason.clone()).is_none() {
            broken.news.push(Skipped { name: self.source.name(index), reason });
        }
    }

    /// What was skipped since this was last asked.
    pub fn skipped(&self) -> Vec<Skipped> {
        std::mem::take(&mut self.lock().news)
    }

    /// How many items were skipped so far.
    pub fn skipped_count(&self) -> usize {
        self.lock().reasons.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Broken> {
        self.broken.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} items, seed {})", self.source.len(), self.seed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::dataset::{Balanced, Loader, Share};
    use crate::data::pixels::FloatImage;

    /// Ten items (or so); the picture of each is its index and a draw. Some are broken in one way or another.
    struct Numbers {
        items: usize,
        broken: fn(usize) -> bool,
    }

    impl Source for Numbers {
        fn len(&self) -> usize {
            self.items
        }

        fn name(&self, index: usize) -> String {
            format!("item {index}")
        }

        fn sample(&self, index: usize, draws: &Draws) -> Result<Sample> {
            if (self.broken)(index) {
                assert!(index.is_multiple_of(2), "a decoder's bug");
                return Err(Error::file(self.name(index), "is damaged"));
            }
            let data = vec![index as f32, draws.below("value", 1000) as f32, draws.epoch as f32];
            let gt = FloatImage::new(1, 1, 3, data);
            Ok(Sample { name: self.name(index), gt, lq: None, tensors: Vec::new() })
        }
    }

    fn stream(items: usize, broken: fn(usize) -> bool) -> Arc<Stream> {
        Arc::new(Stream::new(Box::new(Numbers { items, broken }), 9))
    }

    fn pixels(stream: &Stream, number: u64) -> Vec<f32> {
        stream.sample(number).unwrap().gt.data
    }

    #[test]
    fn an_epoch_has_every_item_once_and_numbers_say_all() {
        let stream = stream(10, |_| false);
        for epoch in 0..3 {
            let all: Vec<_> = (0..10).map(|i| pixels(&stream, 10 * epoch + i)).collect();
            let mut items: Vec<_> = all.iter().map(|p| p[0] as usize).collect();
            assert!(all.iter().all(|p| p[2] == epoch as f32));
            items.sort_unstable();
            assert_eq!(items, (0..10).collect::<Vec<_>>());
        }
        let epoch = |e: u64| (0..10).map(|i| pixels(&stream, 10 * e + i)[0]).collect::<Vec<_>>();
        assert!(epoch(0) != epoch(1) || epoch(1) != epoch(2), "epochs differ in order");
    }

    #[test]
    fn broken_items_are_replaced_counted_and_named_once() {
        let stream = stream(10, |i| i == 3 || i == 4);
        let samples: Vec<_> = (0..20).map(|n| pixels(&stream, n)[0]).collect();
        assert!(samples.iter().all(|&i| i != 3.0 && i != 4.0), "{samples:?}");
        let mut skipped = stream.skipped();
        skipped.sort_by(|a, b| a.name.cmp(&b.name));
        let reasons: Vec<_> = skipped.iter().map(|s| s.reason.as_str()).collect();
        assert_eq!(reasons, ["item 3: reading it failed: a decoder's bug", "item 4: is damaged"]);
        assert_eq!((stream.skipped_count(), stream.skipped().len()), (2, 0));
        // A run that comes to sample 15 by another way sees the same.
        let other = Stream::new(Box::new(Numbers { items: 10, broken: |i| i == 3 || i == 4 }), 9);
        assert_eq!(pixels(&other, 15), pixels(&stream, 15));
    }

    #[test]
    fn nothing_but_broken_items_is_one_sentence() {
        let e = stream(6, |_| true).sample(2).unwrap_err().to_string();
        assert_eq!(e, "none of the 6 items of the training set can be used; the first: item 0: is damaged");
    }

    #[test]
    fn threads_prepare_what_one_would_in_order() {
        let stream = stream(7, |i| i == 2);
        for (workers, ahead, first) in [(1, 1, 0), (4, 3, 5), (3, 20, 11)] {
            let share = Share { rank: 1, world: 2, batch: 3 };
            let mut loader = Loader::start(stream.clone(), share, first, workers, ahead);
            for local in first..first + 25 {
                let (number, sample) = loader.next_sample().unwrap();
                assert_eq!(number, share.number(local));
                assert_eq!(sample.gt.data, pixels(&stream, number));
            }
        }
    }

    #[test]
    fn kinds_take_turns_whatever_their_numbers() {
        let numbers = |items| Box::new(Numbers { items, broken: |_| false });
        let both = Balanced::new(numbers(2), numbers(5));
        assert_eq!(both.len(), 10);
        let of = |i| both.sample(i, &Draws::fixed(i)).unwrap().gt.data[0];
        let (even, odd): (Vec<_>, Vec<_>) = (0..5).map(|i| (of(2 * i), of(2 * i + 1))).unzip();
        assert_eq!((even, odd), (vec![0.0, 1.0, 0.0, 1.0, 0.0], vec![0.0, 1.0, 2.0, 3.0, 4.0]));
    }
}
