//! Work that is prepared beside the training, so that the device never waits for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use crate::error::Reason;
use crate::{Error, Result};

/// Makes numbered items in order, on a thread of its own, a few ahead of the one that is needed.
pub(super) struct Ahead<T> {
    make: Arc<dyn Fn(u64) -> Result<T> + Send + Sync>,
    depth: usize,
    /// The number that comes next, and the thread's results.
    running: Option<(u64, Receiver<Result<T>>)>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Items of `make`, up to `depth` of them kept ready.
    pub fn new(depth: usize, make: impl Fn(u64) -> Result<T> + Send + Sync + 'static) -> Self {
        Ahead {
            make: Arc::new(make),
            depth,
            running: None,
        }
    }

    /// Item `number`. Any number can be the first; after that, the next one is ready soonest.
    pub fn get(&mut self, number: u64) -> Result<T> {
        let receiver = match self.running.take() {
            Some((next, receiver)) if next == number => receiver,
            _ => self.start(number)?,
        };
        let item = receiver.recv().unwrap_or_else(|_| {
            Err(Error::invalid(
                "training",
                "the thread that prepares the data has ended",
            ))
        });
        self.running = Some((number + 1, receiver));
        item
    }

    fn start(&self, first: u64) -> Result<Receiver<Result<T>>> {
        let (sender, receiver) = sync_channel(self.depth);
        let make = self.make.clone();
        std::thread::Builder::new()
            .name("training data".into())
            .spawn(move || {
                for number in first.. {
                    // The training has ended, or wants other numbers.
                    if sender.send(make(number)).is_err() {
                        break;
                    }
                }
            })
            .map_err(|e| Error::invalid("training", Reason::because("can't start a thread", e)))?;
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn items_come_in_order_from_any_number() {
        let mut ahead = Ahead::new(2, |number| Ok(number * 10));
        for number in [5, 6, 7, 2, 3, 9] {
            assert_eq!(ahead.get(number).unwrap(), number * 10);
        }
    }

    #[test]
    fn errors_are_handed_on() {
        let mut ahead = Ahead::new(1, |number| match number {
            1 => Err(Error::invalid("item", "is bad")),
            number => Ok(number),
        });
        assert_eq!(ahead.get(0).unwrap(), 0);
        assert!(ahead.get(1).unwrap_err().to_string().contains("is bad"));
        assert_eq!(ahead.get(2).unwrap(), 2);
    }
}
