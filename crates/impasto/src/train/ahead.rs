//! Work that is prepared beside the training, so that the device never waits for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use burn::tensor::Device;

use crate::error::Reason;
use crate::nn::ops;
use crate::{Error, Result};

/// Makes numbered items in order, on threads of its own, a few ahead of the one that is needed.
pub(super) struct Ahead<T> {
    make: Arc<dyn Fn(u64) -> Result<T> + Send + Sync>,
    depth: usize,
    workers: usize,
    running: Option<Running<T>>,
}

/// Threads that take turns.
struct Running<T> {
    first: u64,
    next: u64,
    /// What each of them made.
    made: Vec<Receiver<Result<T>>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Items of `make`, up to `depth` of them kept ready.
    pub fn new(depth: usize, make: impl Fn(u64) -> Result<T> + Send + Sync + 'static) -> Self {
        Ahead {
            make: Arc::new(make),
            depth,
            workers: 1,
            running: None,
        }
    }

    /// The same with two items in the making at a time: one computes on the device while the other is drawn or read.
    fn in_pairs(self) -> Self {
        Ahead { workers: 2, ..self }
    }

    /// In pairs on devices other than the CPU, whose cores train.
    pub fn on(self, device: &Device) -> Self {
        match ops::is_cpu(device) {
            true => self,
            false => self.in_pairs(),
        }
    }

    /// Item `number`. Any number can be the first; after that, the next one is ready soonest.
    pub fn get(&mut self, number: u64) -> Result<T> {
        let mut running = match self.running.take() {
            Some(running) if running.next == number => running,
            _ => self.start(number)?,
        };
        let turn = (number - running.first) % running.made.len() as u64;
        let item = running.made[turn as usize].recv().unwrap_or_else(|_| {
            Err(Error::invalid(
                "training",
                "the thread that prepares the data has ended",
            ))
        });
        running.next += 1;
        self.running = Some(running);
        item
    }

    fn start(&self, first: u64) -> Result<Running<T>> {
        let worker = |turn: usize| {
            let (sender, receiver) = sync_channel(self.depth.div_ceil(self.workers));
            let make = self.make.clone();
            let numbers = (first + turn as u64..).step_by(self.workers);
            std::thread::Builder::new()
                .name("training data".into())
                .spawn(move || {
                    for number in numbers {
                        // The training has ended, or wants other numbers.
                        if sender.send(make(number)).is_err() {
                            break;
                        }
                    }
                })
                .map_err(|e| {
                    Error::invalid("training", Reason::because("can't start a thread", e))
                })?;
            Ok(receiver)
        };
        Ok(Running {
            first,
            next: first,
            made: (0..self.workers).map(worker).collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn items_come_in_order_from_any_number() {
        let ahead = || Ahead::new(3, |number| Ok(number * 10));
        for mut ahead in [ahead(), ahead().in_pairs()] {
            for number in [5, 6, 7, 8, 2, 3, 9] {
                assert_eq!(ahead.get(number).unwrap(), number * 10);
            }
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
