//! Where models look: attention as heat maps of words, to be compared with what a word's absence changes.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::NativeModel;
use crate::Result;
use crate::engine::to_host;
use crate::nn::recorded::LayerAttention;
use crate::text::EOS;
use crate::text::clip::LongCaption;

/// How attention of all layers and heads becomes one number for each word and patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionRule {
    /// The mean over layers and heads.
    Mean,
    /// Attention rollout: the product over layers of the heads' mean, half of it the identity for the residual stream
    /// (Abnar and Zuidema 2020, arXiv:2005.00928, section 3).
    Rollout,
    /// Relevance by gradients of the picture's likelihood: `R = R + E_h[(∇A ⊙ A)⁺] · R` over the layers (Chefer et al.
    /// 2021, arXiv:2103.15679, equations 5 and 6).
    Gradient,
}

/// A model whose attention can be looked at.
pub trait Attentive {
    /// For each of the words (byte ranges of the prompt) and for each position in raster order, how much the prediction
    /// there attends to the word.
    ///
    /// # Shapes
    /// - returns: `[words][positions]`
    fn attention_maps(
        &self,
        prompt: &str,
        words: &[Range<usize>],
        image_ids: &[u32],
        rule: AttentionRule,
    ) -> Result<Vec<Vec<f64>>>;
}

impl Attentive for NativeModel {
    fn attention_maps(
        &self,
        prompt: &str,
        words: &[Range<usize>],
        image_ids: &[u32],
        rule: AttentionRule,
    ) -> Result<Vec<Vec<f64>>> {
        let text_ids = self.encode_caption(prompt, LongCaption::Truncate)?;
        let with_gradient = rule == AttentionRule::Gradient;
        let layers = self.net.attention(&text_ids, image_ids, with_gradient)?;
        let relevance = relevance(layers, rule)?;
        let sequence = relevance.len().isqrt();
        let first = text_ids.len();
        // The start comes before the text's own ids, and the end after them, where a long text was not cut.
        let ids = text_ids.iter().position(|&id| id == EOS).unwrap_or(first);
        let mut ends = Vec::with_capacity(ids);
        let mut end = 0;
        for length in self.text.byte_lengths(prompt)? {
            ends.push(end..end + length);
            end += length;
        }
        let map = |word: &Range<usize>| -> Vec<f64> {
            let columns: Vec<usize> = (1..ids)
                .zip(&ends)
                .filter(|(_, bytes)| bytes.start < word.end && word.start < bytes.end)
                .map(|(column, _)| column)
                .collect();
            let of = |position: usize| -> f64 {
                let row = (first + position) * sequence;
                columns.iter().map(|&column| relevance[row + column]).sum()
            };
            (0..image_ids.len()).map(of).collect()
        };
        Ok(words.iter().map(map).collect())
    }
}

/// One number for each pair of places of the sequence, `[sequence, sequence]`: of the row's by the column's.
pub(crate) fn relevance(layers: Vec<LayerAttention>, rule: AttentionRule) -> Result<Vec<f64>> {
    let mut relevance: Vec<f64> = Vec::new();
    let n_layers = layers.len() as f64;
    for layer in layers {
        let [heads, n, _] = layer.weights.dims();
        let weights = match (rule, layer.gradient) {
            (AttentionRule::Gradient, Some(gradient)) => {
                (layer.weights.inner() * gradient).clamp_min(0.0)
            }
            _ => layer.weights,
        };
        let of_layer = mean_of_heads(weights, heads)?;
        if relevance.is_empty() {
            relevance = vec![0.0; n * n];
            if rule != AttentionRule::Mean {
                (0..n).for_each(|i| relevance[i * n + i] = 1.0);
            }
        }
        relevance = match rule {
            AttentionRule::Mean => {
                let sums = relevance.iter().zip(&of_layer);
                sums.map(|(sum, weight)| sum + weight / n_layers).collect()
            }
            AttentionRule::Rollout => {
                let through = product(&of_layer, &relevance, n);
                let halves = relevance.iter().zip(&through);
                halves.map(|(stays, moves)| (stays + moves) / 2.0).collect()
            }
            AttentionRule::Gradient => {
                let through = product(&of_layer, &relevance, n);
                let sums = relevance.iter().zip(&through);
                sums.map(|(stays, moves)| stays + moves).collect()
            }
        };
    }
    Ok(relevance)
}

fn mean_of_heads(weights: Tensor<3>, heads: usize) -> Result<Vec<f64>> {
    let weights = to_host(weights)?;
    let mut mean = vec![0.0; weights.len() / heads];
    for head in weights.chunks(mean.len()) {
        for (sum, &weight) in mean.iter_mut().zip(head) {
            *sum += f64::from(weight) / heads as f64;
        }
    }
    Ok(mean)
}

/// The product of two square matrices of `n` rows.
fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let mut product = vec![0.0; n * n];
    for (row, out) in a.chunks(n).zip(product.chunks_mut(n)) {
        for (&factor, of_b) in row.iter().zip(b.chunks(n)) {
            if factor != 0.0 {
                for (sum, &value) in out.iter_mut().zip(of_b) {
                    *sum += factor * value;
                }
            }
        }
    }
    product
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn layer(weights: [f32; 8], gradient: Option<[f32; 8]>) -> LayerAttention {
        let device = Device::flex();
        let of = |values: [f32; 8]| {
            Tensor::from_data(TensorData::new(values.to_vec(), [2, 2, 2]), &device)
        };
        LayerAttention {
            weights: of(weights),
            gradient: gradient.map(of),
        }
    }

    /// Two heads over two places, worked out by hand.
    #[test]
    fn rules_are_those_of_the_papers() {
        let weights = [1.0, 0.0, 0.5, 0.5, 1.0, 0.0, 0.25, 0.75];
        let layers = |gradient| vec![layer(weights, gradient), layer(weights, gradient)];
        let of = |rule, gradient| relevance(layers(gradient), rule).unwrap();
        assert_eq!(of(AttentionRule::Mean, None), [1.0, 0.0, 0.375, 0.625]);
        // Half of the mean and half of the identity, squared: its last row is (0.1875, 0.8125).
        let rollout = of(AttentionRule::Rollout, None);
        assert_eq!(rollout[2..], [0.1875 + 0.8125 * 0.1875, 0.8125 * 0.8125]);
        // Only the first head's attention of the second place to the first raises the likelihood.
        let gradient = [0.0, 0.0, 2.0, -1.0, 0.0, 0.0, -3.0, 0.0];
        let by_gradient = of(AttentionRule::Gradient, Some(gradient));
        assert_eq!(by_gradient, [1.0, 0.0, 1.0, 1.0]);
    }
}
