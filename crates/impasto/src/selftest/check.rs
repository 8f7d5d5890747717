//! One check, and the room on a device in which it is computed.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::compare::Values;
use super::{Kind, Precision};
use crate::Result;

/// Something to compute on both devices.
pub(super) struct Check {
    /// "group/what".
    pub name: String,
    /// Sizes.
    pub shapes: String,
    /// What its error comes from.
    pub kind: Kind,
    /// Whether it is computed in bf16, too.
    pub bf16: bool,
    /// Computes.
    pub compute: Compute,
}

/// What a check computes, on the device of its room.
type Compute = Box<dyn Fn(&mut Room) -> Result<Values>>;

/// A gradient that is smaller than this share of all has nothing but rounding in it, such as that of queries with one
/// key: it counts as if it were as large.
pub(super) const NEGLIGIBLE: f64 = 1e-3;

/// A device with the inputs that are placed on it, the same numbers on each.
pub(super) struct Room {
    /// Where to compute.
    pub device: Device,
    /// Seed of weights.
    pub seed: u64,
    precision: Precision,
    /// The reference computes in 32 bits, whatever the precision.
    dtype: DType,
    random: ChaCha8Rng,
    /// What gradients are of.
    leaves: Vec<Tensor<1>>,
}

impl Room {
    pub fn new(
        device: &Device,
        precision: Precision,
        is_reference: bool,
        seed: u64,
        name: &str,
    ) -> Self {
        let hash = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update(name)
            .finalize();
        let random = ChaCha8Rng::from_seed(hash.into());
        Room {
            device: device.clone(),
            seed,
            precision,
            dtype: match precision {
                Precision::Bf16 if !is_reference => DType::BF16,
                _ => DType::F32,
            },
            random,
            leaves: Vec::new(),
        }
    }

    /// From here on inputs are leaves of a graph.
    pub fn differentiable(&mut self) {
        self.device = self.device.clone().autodiff();
    }

    /// The type of floats here.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether numbers are rounded to bf16, on both sides.
    pub fn is_bf16(&self) -> bool {
        self.precision == Precision::Bf16
    }

    /// Numbers from −1 to 1, as the precision has them.
    pub fn numbers(&mut self, count: usize) -> Vec<f32> {
        let numbers = (0..count).map(|_| self.random.random_range(-1.0f32..1.0));
        match self.precision {
            Precision::Bf16 => numbers.map(|x| bf16::from_f32(x).to_f32()).collect(),
            _ => numbers.collect(),
        }
    }

    /// Ids below `below`.
    pub fn ids(&mut self, count: usize, below: usize) -> Vec<u32> {
        (0..count)
            .map(|_| self.random.random_range(0..below as u32))
            .collect()
    }

    /// Rows of ids.
    pub fn id_rows(&mut self, rows: usize, count: usize, below: usize) -> Vec<Vec<u32>> {
        (0..rows).map(|_| self.ids(count, below)).collect()
    }

    /// A random number generator for what else is drawn.
    pub fn random(&mut self) -> &mut ChaCha8Rng {
        &mut self.random
    }

    /// Numbers from the host.
    pub fn place<const D: usize>(&self, values: Vec<f32>, dims: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, dims), (&self.device, self.dtype))
    }

    /// Whole numbers from the host.
    pub fn place_ids(&self, ids: &[u32]) -> Tensor<1, Int> {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let count = ids.len();
        Tensor::from_data(TensorData::new(ids, [count]), &self.device)
    }

    /// Random numbers from −1 to 1 without a gradient.
    pub fn constant<const D: usize>(&mut self, dims: [usize; D]) -> Tensor<D> {
        let numbers = self.numbers(dims.iter().product());
        self.place(numbers, dims)
    }

    /// Random numbers from −1 to 1; with a gradient where the room is differentiable. Leaves are flat, so that views
    /// are a part of what is checked.
    pub fn input<const D: usize>(&mut self, dims: [usize; D]) -> Tensor<D> {
        let count = dims.iter().product();
        let mut leaf = self.constant([count]);
        if self.device.is_autodiff() {
            leaf = leaf.require_grad();
            self.leaves.push(leaf.clone());
        }
        leaf.reshape(dims)
    }

    /// The value of `y` and the gradients of all inputs through a random weighing of it.
    pub fn with_gradients<const D: usize>(&mut self, y: Tensor<D>) -> Result<Values> {
        let mut values = Values::default();
        values.add("value", y.clone().inner())?;
        let weights = self.constant(y.dims());
        let gradients = (y * weights).sum().backward();
        let found: Vec<Option<Tensor<1>>> = self
            .leaves
            .iter()
            .map(|leaf| leaf.grad(&gradients))
            .collect();
        let squares = found.iter().flatten().map(|gradient| {
            let square = gradient.clone().cast(DType::F32).square().sum();
            f64::from(square.into_scalar::<f32>())
        });
        let least = NEGLIGIBLE * squares.sum::<f64>().sqrt();
        for (i, gradient) in found.into_iter().enumerate() {
            let name = format!("gradient of input {i}");
            match gradient {
                Some(gradient) => values.add_least(name, gradient, least)?,
                None => values.add_host(format!("{name} (none)"), vec![f32::NAN]),
            }
        }
        Ok(values)
    }
}

/// A check of a function of the room's inputs: its value and its gradients.
pub(super) fn with_gradients<const D: usize>(
    name: &str,
    shapes: String,
    kind: Kind,
    function: impl Fn(&mut Room) -> Tensor<D> + 'static,
) -> Check {
    Check {
        name: name.to_owned(),
        shapes,
        kind,
        bf16: true,
        compute: Box::new(move |room| {
            room.differentiable();
            let y = function(room);
            room.with_gradients(y)
        }),
    }
}

/// A check of what is computed without gradients.
pub(super) fn forward(
    name: &str,
    shapes: String,
    kind: Kind,
    compute: impl Fn(&mut Room) -> Result<Values> + 'static,
) -> Check {
    Check {
        name: name.to_owned(),
        shapes,
        kind,
        bf16: false,
        compute: Box::new(compute),
    }
}
