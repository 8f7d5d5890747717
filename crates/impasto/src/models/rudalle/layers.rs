//! A layer (`DalleTransformerLayer`): attention and feed-forward, each between two norms.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::models::visibility::Visibility;
use crate::nn::{Adaptable, Init, KvCache, LayerNorm, Linear, heads, ops};

/// How many times wider the feed-forward part is inside.
const WIDER: usize = 4;

/// What attention puts out is cut to the range of 16-bit floats, in any precision.
const LARGEST: f32 = 65_504.0;

/// One layer.
#[derive(Module, Debug)]
pub(super) struct Layer {
    attention_norm: LayerNorm,
    qkv: Linear,
    attention_out: Linear,
    attention_norm_out: Option<LayerNorm>,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
    mlp_norm_out: Option<LayerNorm>,
    #[module(skip)]
    n_heads: usize,
}

impl Layer {
    pub fn new(init: &mut Init, width: usize, n_heads: usize, sandwich_norm: bool) -> Self {
        let std = 0.02;
        let mut behind = || sandwich_norm.then(|| LayerNorm::new(init, width));
        let (attention_norm_out, mlp_norm_out) = (behind(), behind());
        Layer {
            attention_norm: LayerNorm::new(init, width),
            qkv: Linear::with_bias(init, width, 3 * width, std),
            attention_out: Linear::with_bias(init, width, width, std),
            attention_norm_out,
            mlp_norm: LayerNorm::new(init, width),
            up: Linear::with_bias(init, width, WIDER * width, std),
            down: Linear::with_bias(init, WIDER * width, width, std),
            mlp_norm_out,
            n_heads,
        }
    }

    /// The linear layers and what their columns make.
    pub fn linears(&mut self) -> [Adaptable<'_>; 4] {
        [
            Adaptable::new(
                &["attention.q", "attention.k", "attention.v"],
                &mut self.qkv,
            ),
            Adaptable::whole("attention.out", &mut self.attention_out),
            Adaptable::whole("mlp.up", &mut self.up),
            Adaptable::whole("mlp.down", &mut self.down),
        ]
    }

    /// # Shapes
    /// - `x`: `[batch, n, width]`, the tokens after those in `cache`
    /// - returns: `[batch, n, width]`
    pub fn forward(&self, x: Tensor<3>, visible: &Visibility, cache: &mut KvCache) -> Tensor<3> {
        let qkv = self.qkv.forward(self.attention_norm.forward(x.clone()));
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], self.n_heads));
        let (keys, values) = cache.append(k, v);
        let seen = heads::join(visible.attention(q, keys, values));
        let attended = self.attention_out.forward(seen).clamp(-LARGEST, LARGEST);
        let x = x + behind(attended, self.attention_norm_out.as_ref());
        let inner = ops::tanh_gelu(self.up.forward(self.mlp_norm.forward(x.clone())));
        x + behind(self.down.forward(inner), self.mlp_norm_out.as_ref())
    }
}

fn behind(x: Tensor<3>, norm: Option<&LayerNorm>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
