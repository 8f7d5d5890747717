//! How long drawing takes, estimated before a model is loaded.

use impasto_kernels::machine;
use serde::Serialize;

use super::{Family, FamilyConfig, NetSizes, Order};
use crate::bench::{Peaks, linear_sizes};
use crate::checkpoint::WeightFormat;
use crate::models::ImageTokenizer;

/// What one picture takes: reading and computing, pass after pass, and the pixels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrawingWork {
    /// Passes through the transformer.
    pub passes: usize,
    /// Bytes of weights, keys and values that a pass reads, on average.
    pub bytes_of_a_pass: u64,
    /// Operations of a pass's linear layers, two for each multiply-add.
    pub operations_of_a_pass: u64,
    /// Operations of the image tokenizer's convolutions; none where they are not counted.
    pub operations_of_pixels: u64,
    /// In what the linear layers are.
    pub precision: WeightFormat,
}

/// What this machine can do at most, measured in a quarter of a second.
#[derive(Clone, Debug)]
pub struct MachineSpeeds {
    /// Bytes that memory gives, a second.
    pub bandwidth: f64,
    /// Operations a second.
    pub peaks: Peaks,
}

impl MachineSpeeds {
    /// On all threads of the current rayon pool.
    pub fn measure() -> Self {
        const PASSES: usize = 4;
        const BYTES: usize = 256 << 20;
        let rates = machine::bandwidths(PASSES, BYTES);
        MachineSpeeds {
            bandwidth: rates.into_iter().fold(0.0, f64::max),
            peaks: Peaks::measure(),
        }
    }
}

/// What drawing reaches of the machine's limits: 0.7 to 0.8 where Janus-Pro-1B reads in int8 and bfloat16, less where a
/// model is so small that it is not its weights that take the time.
const SHARE: f64 = 0.7;

impl DrawingWork {
    /// By the nets of a config, whose values do not matter.
    pub(super) fn of<F: Family>(
        config: &FamilyConfig<F>,
        net: &F::Net,
        image: &ImageTokenizer,
    ) -> Self {
        let sizes = &config.sizes;
        let weights = linear_sizes(net, |name| sizes.is_read_each_pass(name));
        let numbers: u64 = weights.iter().map(|[i, o]| (i * o) as u64).sum();
        let stored = weights.iter().filter_map(|&w| config.precision.bytes(w));
        let rows = if config.sampling.needs_unconditional() {
            2
        } else {
            1
        };
        let tokens = sizes.tokens_each_pass() as u64;
        let positions = sizes.grid() * sizes.grid();
        let (passes, cached) = match F::order(&config.options) {
            Order::Confidence { steps } => (steps.min(positions), 0),
            // Half of them, on average.
            _ => (positions, rows * sizes.cache_bytes(config.precision) / 2),
        };
        DrawingWork {
            passes,
            bytes_of_a_pass: stored.sum::<usize>() as u64 + cached,
            operations_of_a_pass: 2 * numbers * rows * tokens,
            operations_of_pixels: image.decoding_operations(),
            precision: config.precision,
        }
    }

    /// Seconds of a picture on such a machine, loading left out.
    pub fn seconds(&self, machine: &MachineSpeeds) -> f64 {
        let reading = self.bytes_of_a_pass as f64 / machine.bandwidth;
        let computing = self.operations_of_a_pass as f64 / machine.peaks.of(self.precision);
        let pixels = self.operations_of_pixels as f64 / machine.peaks.f32;
        (self.passes as f64 * reading.max(computing) + pixels) / SHARE
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;
    use crate::checkpoint::ModelSource;
    use crate::families::{ModelFiles, info};

    fn of_golden(name: &str) -> DrawingWork {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import");
        let source = ModelSource::parse(goldens.join(name).to_str().unwrap()).unwrap();
        let info = info(&ModelFiles::find(&source).unwrap()).unwrap();
        info.drawing.unwrap()
    }

    /// What sees and speaks is no part of it; both rows of guidance are.
    #[test]
    fn a_pass_goes_through_the_weights_of_drawing() {
        let janus = of_golden("janus/goldens/pro");
        let layers = 2 * (4 * 64 * 64 + 3 * 64 * 96);
        let heads = (8 * 64 + 64 * 64) + (64 * 64 + 64 * 128);
        assert_eq!(janus.passes, 16);
        assert_eq!(janus.operations_of_a_pass, 2 * 2 * (layers + heads));
        // Keys and values of two layers of half of at most 1,024 places, for both rows.
        let weights = 4 * (layers + heads);
        let cached = janus.bytes_of_a_pass - weights;
        assert!(cached > 0 && cached < 4 * 2 * 2 * 1024 * 64, "{cached}");
        assert!(janus.operations_of_pixels > 0);
    }

    #[test]
    fn passes_over_whole_pictures_are_few_and_large() {
        let amused = of_golden("amused/goldens/plain");
        assert_eq!(amused.passes, 12);
        assert!(amused.operations_of_a_pass > 8 * amused.bytes_of_a_pass);
    }

    #[test]
    fn the_slower_of_reading_and_computing_counts() {
        let machine = MachineSpeeds {
            bandwidth: 1e9,
            peaks: Peaks {
                f32: 1e9,
                bf16: None,
                int8: Some(4e9),
            },
        };
        let work = |bytes, operations, precision| DrawingWork {
            passes: 7,
            bytes_of_a_pass: bytes,
            operations_of_a_pass: operations,
            operations_of_pixels: 700_000_000,
            precision,
        };
        for (bytes, operations, precision, seconds) in [
            (100_000_000, 1000, WeightFormat::F32, 2.0),
            (1000, 100_000_000, WeightFormat::F32, 2.0),
            (1000, 400_000_000, WeightFormat::Int8, 2.0),
            (1000, 100_000_000, WeightFormat::Bf16, 2.0),
        ] {
            let found = work(bytes, operations, precision).seconds(&machine);
            assert!((found - seconds).abs() < 1e-9, "{found} {seconds}");
        }
    }
}
