//! Threads that belong to a handle. Without one, work runs on as many threads as the process has processors, or as its
//! global rayon pool has.

use std::sync::Arc;

use crate::error::Reason;
use crate::{Error, Result};

/// Threads for the work of one or several models; copies share them. Results do not depend on their number.
///
/// ```
/// use impasto::{Model, OpenOptions, Threads, device};
///
/// let (device, _) = device::select("cpu")?;
/// let options = OpenOptions {
///     threads: Some(Threads::new(1)?),
///     ..OpenOptions::default()
/// };
/// let model = Model::open("impasto-styles", &device, &options)?;
/// assert_eq!(model.threads().unwrap().count(), 1);
/// # Ok::<(), impasto::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Threads(Arc<impasto_kernels::Threads>);

impl Threads {
    /// Starts this many; of 0, one for each processor. They end with the last copy of the handle.
    ///
    /// # Errors
    /// Where the system starts no more.
    pub fn new(count: usize) -> Result<Self> {
        let threads = impasto_kernels::Threads::new(count)
            .map_err(|e| Error::invalid("threads", Reason::because("can't be started", e)))?;
        Ok(Threads(Arc::new(threads)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Runs `work`, and what it shares out, in these threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.run(work)
    }
}
