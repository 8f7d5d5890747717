//! Rotary positions of the heads of a joint projection (Su et al. 2021, arXiv:2104.09864).

use burn::prelude::*;
use burn::tensor::TensorData;

use super::plain;
#[cfg(feature = "tch")]
use super::torch;

/// The angles by which [`rotate_heads`] turns, as cosines and sines.
#[derive(Clone, Debug)]
pub struct Turns {
    /// `[batch, length, 1, dim / 2]` each.
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// On LibTorch: cosines twice, and sines with their signs, `[batch, length, 1, dim]`.
    #[cfg(feature = "tch")]
    wide: Option<[Tensor<4>; 2]>,
}

impl Turns {
    /// Of the cosine and the sine of each of the `half` pairs of each place, row after row.
    pub fn new(
        turns: impl Iterator<Item = [f32; 2]>,
        [batch, half]: [usize; 2],
        device: &Device,
    ) -> Self {
        let (cos, sin): (Vec<f32>, Vec<f32>) = turns.map(|[cos, sin]| (cos, sin)).unzip();
        let seq = cos.len() / (batch * half).max(1);
        #[cfg(feature = "tch")]
        if torch::is_libtorch(device) && !cos.is_empty() {
            return Turns::wide(&cos, &sin, [batch, seq, half], device);
        }
        let tensor =
            |values| Tensor::from_data(TensorData::new(values, [batch, seq, 1, half]), device);
        Turns {
            cos: tensor(cos),
            sin: tensor(sin),
            #[cfg(feature = "tch")]
            wide: None,
        }
    }

    /// All in one piece: one copy to the device.
    #[cfg(feature = "tch")]
    fn wide(cos: &[f32], sin: &[f32], [batch, seq, half]: [usize; 3], device: &Device) -> Self {
        let mut values = Vec::with_capacity(4 * cos.len());
        for cos in cos.chunks_exact(half) {
            values.extend_from_slice(cos);
            values.extend_from_slice(cos);
        }
        for sin in sin.chunks_exact(half) {
            values.extend(sin.iter().map(|sin| -sin));
            values.extend_from_slice(sin);
        }
        let shape = [2 * batch, seq, 1, 2 * half];
        let all = Tensor::<4>::from_data(TensorData::new(values, shape), device);
        let [wide_cos, wide_sin] = [0, batch].map(|first| all.clone().narrow(0, first, batch));
        Turns {
            cos: wide_cos.clone().narrow(3, half, half),
            sin: wide_sin.clone().narrow(3, half, half),
            wide: Some([wide_cos, wide_sin]),
        }
    }
}

/// Rotates the pairs `(i, i + dim / 2)` of the queries' and keys' heads of a joint projection; values stay as they are.
///
/// # Shapes
/// - `qkv`: `[batch, length, 3 · width]`, `width` = `heads · dim`
pub fn rotate_heads(qkv: Tensor<3>, turns: &Turns, heads: usize) -> Tensor<3> {
    #[cfg(feature = "tch")]
    if let (Some([cos, sin]), true) = (&turns.wide, torch::infers(&qkv)) {
        return torch::inference::rotate_heads(qkv, [cos, sin], heads);
    }
    plain::rotate_heads(qkv, &turns.cos, &turns.sin, heads)
}
