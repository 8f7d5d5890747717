//! Muon: momentum whose matrices are made orthogonal, so that every direction moves alike (Jordan et al.
//! 2024, "Muon: An optimizer for hidden layers in neural networks"), scaled to AdamW's size of step so
//! that both share a learning rate and a decay (Liu et al. 2025, arXiv:2502.16982, equation 4).

use burn::tensor::{DType, FloatDType, Tensor};

use crate::nn::{ComputePrecision, ops};

/// Decay of the momentum.
const MOMENTUM: f64 = 0.95;
const STEPS: usize = 5;
/// Jordan's quintic: singular values end near 1, between about 0.7 and 1.2, after five steps.
const QUINTIC: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
/// The root mean square of AdamW's steps, as Liu et al. measured it.
const STEP_RMS: f64 = 0.2;

/// Whether a parameter is a matrix within a block: embeddings, heads, norms and everything else are AdamW's.
pub fn is_hidden_matrix(name: &str) -> bool {
    let block = ["", "image.", "text."].iter().any(|tower| {
        name.strip_prefix(tower)
            .is_some_and(|rest| rest.starts_with("blocks."))
    });
    block && name.ends_with(".weight") && !name.contains("norm")
}

/// The step to subtract, times the learning rate, and the new momentum. `precision` is that of the products; Jordan et
/// al. multiply in bf16.
///
/// # Shapes
/// - all: `[rows, columns]`
pub fn step(
    gradient: Tensor<2>,
    momentum: Option<Tensor<2>>,
    precision: ComputePrecision,
) -> (Tensor<2>, Tensor<2>) {
    let momentum = match momentum {
        Some(known) => known.mul_scalar(MOMENTUM) + gradient.clone(),
        None => gradient.clone(),
    };
    // Nesterov's look ahead.
    let update = gradient + momentum.clone().mul_scalar(MOMENTUM);
    let [rows, columns] = update.dims();
    let scale = STEP_RMS * (rows.max(columns) as f64).sqrt();
    (orthogonal(update, precision).mul_scalar(scale), momentum)
}

/// [`step`] for many matrices of one shape at once, in bf16 where the device has it (as Jordan et al. do): a GPU
/// is idle with one small matrix at a time.
///
/// # Shapes
/// - all: `[matrices, rows, columns]`
pub fn step_together(gradients: Tensor<3>, momentum: Option<Tensor<3>>) -> (Tensor<3>, Tensor<3>) {
    let momentum = match momentum {
        Some(known) => known.mul_scalar(MOMENTUM) + gradients.clone(),
        None => gradients.clone(),
    };
    let update = gradients + momentum.clone().mul_scalar(MOMENTUM);
    let [_, rows, columns] = update.dims();
    let scale = STEP_RMS * (rows.max(columns) as f64).sqrt();
    (orthogonal_together(update).mul_scalar(scale), momentum)
}

fn orthogonal_together(matrices: Tensor<3>) -> Tensor<3> {
    let [_, rows, columns] = matrices.dims();
    if rows > columns {
        return orthogonal_together(matrices.transpose()).transpose();
    }
    let norm = matrices.clone().square().sum_dim(2).sum_dim(1);
    let x = matrices / (norm.sqrt() + 1e-7);
    let dtype = if x.device().supports_dtype(DType::BF16) {
        FloatDType::BF16
    } else {
        FloatDType::F32
    };
    let mut x = x.cast(dtype);
    let (a, b, c) = QUINTIC;
    for _ in 0..STEPS {
        let gram = x.clone().matmul(x.clone().transpose());
        let squared = gram.clone().matmul(gram.clone());
        let mix = gram.mul_scalar(b) + squared.mul_scalar(c);
        x = x.clone().mul_scalar(a) + mix.matmul(x);
    }
    x.cast(FloatDType::F32)
}

/// The nearest matrix whose singular values are all one, about: Newton and Schulz's iteration.
fn orthogonal(matrix: Tensor<2>, precision: ComputePrecision) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    if rows > columns {
        return orthogonal(matrix.transpose(), precision).transpose();
    }
    let product = |a: Tensor<2>, b: Tensor<2>| match precision {
        ComputePrecision::F32 => ops::linear(a, b, None),
        ComputePrecision::Bf16 => ops::linear(a, b.cast(FloatDType::BF16), None),
    };
    let norm = matrix.clone().square().sum().sqrt().add_scalar(1e-7);
    let mut x = matrix.div(norm.unsqueeze());
    let (a, b, c) = QUINTIC;
    for _ in 0..STEPS {
        let gram = product(x.clone(), x.clone().transpose());
        let squared = product(gram.clone(), gram.clone());
        let mix = gram.mul_scalar(b) + squared.mul_scalar(c);
        x = x.clone().mul_scalar(a) + product(mix, x);
    }
    x
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn all_directions_move_alike() {
        for shape in [[24, 40], [40, 24], [16, 16]] {
            let matrix =
                Tensor::<2>::random(shape, Distribution::Normal(0.0, 3.0), &Device::default());
            let x = orthogonal(matrix, ComputePrecision::F32);
            let x = if shape[0] > shape[1] {
                x.transpose()
            } else {
                x
            };
            let n = x.dims()[0];
            let gram: Vec<f32> = x
                .clone()
                .matmul(x.transpose())
                .into_data()
                .try_into_vec()
                .unwrap();
            for i in 0..n {
                assert!((0.4..1.6).contains(&gram[i * n + i]), "{}", gram[i * n + i]);
            }
            // Off the diagonal little is left: the mean of the squares.
            let off: f32 = (0..n * n)
                .filter(|k| k / n != k % n)
                .map(|k| gram[k] * gram[k])
                .sum::<f32>()
                / (n * (n - 1)) as f32;
            assert!(off < 0.02, "{off}");
        }
    }

    /// Alone or together, in f32 or in bf16: each matrix moves in the same direction.
    #[test]
    fn matrices_of_one_shape_move_together_as_alone() {
        let device = Device::flex();
        for shape in [[3, 24, 40], [2, 40, 24]] {
            let normal = Distribution::Normal(0.0, 1.0);
            let gradients = Tensor::<3>::random(shape, normal, &device);
            let known = Tensor::<3>::random(shape, normal, &device);
            let (updates, momenta) = step_together(gradients.clone(), Some(known.clone()));
            let one = |all: &Tensor<3>, i: usize| all.clone().narrow(0, i, 1).squeeze_dim::<2>(0);
            for i in 0..shape[0] {
                let alone = |precision| step(one(&gradients, i), Some(one(&known, i)), precision);
                let (update, momentum) = alone(ComputePrecision::F32);
                let error = |a: Tensor<2>, b: Tensor<2>| -> f32 {
                    let norm = b.clone().square().sum().sqrt();
                    let difference = (a - b).square().sum().sqrt();
                    (difference / norm).into_scalar()
                };
                assert!(error(one(&momenta, i), momentum) < 1e-6);
                let of_two = |precision: ComputePrecision| {
                    precision.check(&device).is_ok().then(|| alone(precision).0)
                };
                if let Some(rounded) = of_two(ComputePrecision::Bf16) {
                    assert!(error(rounded, update.clone()) < 0.1);
                }
                // bf16 rounds by up to 2⁻⁹, and each of the five steps multiplies small singular values, with their
                // errors, by up to 3.4: a tenth is a cosine of 0.995 between the two steps.
                let error = error(one(&updates, i), update);
                assert!(error < 0.1, "{error}");
            }
        }
    }

    #[test]
    fn the_matrices_of_blocks_are_distinguished_from_the_rest() {
        assert!(is_hidden_matrix("blocks.0.qkv.weight"));
        for name in [
            "blocks.0.attention_norm.weight",
            "text_embedding.weight",
            "image_head.weight",
        ] {
            assert!(!is_hidden_matrix(name), "{name}");
        }
    }
}
