//! The layers that nets of masked ids share (`UVit2DConvEmbed`, `ConvMlmLayer`, `Downsample2D`, `Upsample2D` and the
//! sinusoids of diffusers). All work on tokens, `[batch, grid², width]`.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::nn::{Embedding, Init, Linear, RmsNorm, ops};

/// Standard deviation of fresh weights.
pub(in crate::models) const STD: f64 = 0.02;

/// Consecutive rows of a pass, and what was computed of their prompt.
#[derive(Debug)]
pub struct Of<'a, P> {
    /// What was computed of it.
    pub prompt: &'a P,
    /// How many rows.
    pub rows: usize,
}

impl<P> Clone for Of<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Of<'_, P> {}

/// The same rows with a part of what was computed of their prompts.
pub(in crate::models) fn part<'a, P, Q>(
    rows: &[Of<'a, P>],
    of: impl Fn(&'a P) -> &'a Q,
) -> Vec<Of<'a, Q>> {
    let part = |group: &Of<'a, P>| Of {
        prompt: of(group.prompt),
        rows: group.rows,
    };
    rows.iter().map(part).collect()
}

/// The tokens of ids: embedded, normalised, and given another width.
///
/// # Shapes
/// - `ids`: `[batch, seq]`
/// - returns: `[batch, seq, width]`
pub(in crate::models) fn embedded(
    ids: Tensor<2, Int>,
    (embedding, norm, out): (&Embedding, &RmsNorm, &Linear),
    epsilon: f64,
) -> Tensor<3> {
    let x = embedding.forward(ids);
    out.forward(ops::rms_norm(x, norm.weight.val(), epsilon))
}

/// The logits of tokens.
///
/// # Shapes
/// - `x`: `[batch, seq, width]`
/// - returns: `[batch, seq, codes]`
pub(in crate::models) fn predicted(
    x: Tensor<3>,
    (input, norm, head): (&Linear, &RmsNorm, &Linear),
    epsilon: f64,
) -> Tensor<3> {
    let x = input.forward(x);
    head.forward(ops::rms_norm(x, norm.weight.val(), epsilon))
}

/// Halves the side: a normalisation, then squares of two by two tokens to one each (`Downsample2D`).
#[derive(Module, Debug)]
pub(in crate::models) struct Downsample {
    norm: RmsNorm,
    /// Inputs in the order channel, row, column.
    squares: Linear,
    #[module(skip)]
    epsilon: f64,
}

impl Downsample {
    pub fn new(init: &mut Init, width: usize, epsilon: f64) -> Self {
        Downsample {
            norm: RmsNorm::new(init, width),
            squares: Linear::new(init, 4 * width, width, STD),
            epsilon,
        }
    }

    /// `[batch, side², width]` → `[batch, side² / 4, width]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let half = seq.isqrt() / 2;
        let x = ops::rms_norm(x, self.norm.weight.val(), self.epsilon)
            .reshape([batch, half, 2, half, 2, width])
            .permute([0, 1, 3, 5, 2, 4])
            .reshape([batch, half * half, 4 * width]);
        self.squares.forward(x)
    }
}

/// Doubles the side: a normalisation, then squares of two by two tokens from one each (`Upsample2D` by a transposed
/// convolution).
#[derive(Module, Debug)]
pub(in crate::models) struct Upsample {
    norm: RmsNorm,
    /// Outputs in the order channel, row, column.
    squares: Linear,
    #[module(skip)]
    epsilon: f64,
}

impl Upsample {
    pub fn new(init: &mut Init, width: usize, epsilon: f64) -> Self {
        Upsample {
            norm: RmsNorm::new(init, width),
            squares: Linear::new(init, width, 4 * width, STD),
            epsilon,
        }
    }

    /// `[batch, side², width]` → `[batch, 4 · side², width]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let side = seq.isqrt();
        let x = ops::rms_norm(x, self.norm.weight.val(), self.epsilon);
        self.squares
            .forward(x)
            .reshape([batch, side, side, width, 2, 2])
            .permute([0, 1, 4, 2, 5, 3])
            .reshape([batch, 4 * seq, width])
    }
}

/// Sines and cosines of numbers, `[1, numbers · width]`, the cosines of each first (`get_timestep_embedding`).
pub(in crate::models) fn sinusoids(numbers: &[f32], width: usize, device: &Device) -> Tensor<2> {
    let half = width / 2;
    let frequency = |i: usize| (-(1e4f32.ln()) * i as f32 / half as f32).exp();
    let mut values = Vec::with_capacity(numbers.len() * width);
    for number in numbers {
        let angles = || (0..half).map(|i| f64::from(number * frequency(i)));
        values.extend(angles().map(|angle| angle.cos() as f32));
        values.extend(angles().map(|angle| angle.sin() as f32));
        // An odd width ends with a zero.
        values.extend(std::iter::repeat_n(0.0, width % 2));
    }
    let shape = [1, values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}
