//! Initial weights, drawn from one seeded stream on the host, so that a seed means the same model on
//! every device.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Draws the initial weights of a model, parameter after parameter.
pub struct Init {
    /// None: zeros, for weights that are about to be loaded.
    rng: Option<ChaCha8Rng>,
    device: Device,
}

impl Init {
    /// A stream of weights on `device`, drawn from `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Init {
            rng: Some(ChaCha8Rng::seed_from_u64(seed)),
            device: device.clone(),
        }
    }

    /// Zeros on `device`, for weights that are about to be loaded.
    pub fn empty(device: &Device) -> Self {
        Init {
            rng: None,
            device: device.clone(),
        }
    }

    /// The device the weights are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Normal with mean 0 and standard deviation `std`, cut off at 3 `std`.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        let Some(rng) = &mut self.rng else {
            // One number for all places: what is about to be replaced takes no memory.
            let zero = Tensor::<D>::zeros([1; D], &self.device);
            return Param::from_tensor(zero.expand(shape));
        };
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (gaussian(rng) * std) as f32).collect();
        Param::from_data(TensorData::new(values, shape), &self.device)
    }

    /// One value everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::full(shape, value, &self.device))
    }
}

/// Box–Muller, redrawn beyond three standard deviations.
fn gaussian(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        let u: f64 = 1.0 - rng.random::<f64>();
        let v: f64 = rng.random();
        let z = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        if z.abs() <= 3.0 {
            return z;
        }
    }
}
