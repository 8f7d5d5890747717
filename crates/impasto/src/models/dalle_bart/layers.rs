//! One layer of the encoder, one of the decoder, and what both are made of.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::StackConfig;
use crate::nn::layer_norm::EPSILON;
use crate::nn::{Adaptable, CacheRows, Init, LayerNorm, Linear, extend_groups, heads, ops};

/// A layer norm before a product, which makes its scale superfluous: the published models leave it out.
#[derive(Module, Debug)]
pub(super) struct PreNorm {
    weight: Option<Param<Tensor<1>>>,
    bias: Param<Tensor<1>>,
}

impl PreNorm {
    pub(super) fn new(init: &mut Init, width: usize, scaled: bool) -> Self {
        PreNorm {
            weight: scaled.then(|| init.constant([width], 1.0)),
            bias: init.constant([width], 0.0),
        }
    }

    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.val();
        match &self.weight {
            Some(weight) => ops::layer_norm(x, weight.val(), bias, EPSILON),
            None => ops::layer_norm_shifted(x, bias, EPSILON),
        }
    }
}

/// Self-attention between its two norms: `norm(out(attention(pre_norm(x))))`.
#[derive(Module, Debug)]
struct SelfAttention {
    pre_norm: PreNorm,
    qkv: Linear,
    out: Linear,
    norm: LayerNorm,
    #[module(skip)]
    n_heads: usize,
}

impl SelfAttention {
    fn new(init: &mut Init, width: usize, n_heads: usize, scaled: bool) -> Self {
        SelfAttention {
            pre_norm: PreNorm::new(init, width, scaled),
            qkv: Linear::new(init, width, 3 * width, 0.02),
            out: Linear::new(init, width, width, 0.02),
            norm: LayerNorm::new(init, width),
            n_heads,
        }
    }

    /// Of captions side by side in one row, each of this many tokens, which see their own caption.
    fn forward(&self, x: Tensor<3>, lengths: &[usize]) -> Tensor<3> {
        let qkv = self.qkv.forward(self.pre_norm.forward(x));
        let mut first = 0;
        let seen = lengths.iter().map(|&length| {
            let own = qkv.clone().narrow(1, first, length);
            first += length;
            self.attend(own, false)
        });
        self.finish(one(seen.collect(), 1))
    }

    /// Of picture tokens, which see those before them.
    fn forward_causal(&self, x: Tensor<3>, groups: &mut [CacheRows<'_>]) -> Tensor<3> {
        let qkv = self.qkv.forward(self.pre_norm.forward(x));
        self.finish(match groups {
            [] => self.attend(qkv, true),
            groups => extend_groups(groups, qkv, &self.qkv, None, self.n_heads),
        })
    }

    fn attend(&self, qkv: Tensor<3>, causal: bool) -> Tensor<3> {
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], self.n_heads));
        heads::join(ops::attention(q, k, v, causal))
    }

    fn finish(&self, seen: Tensor<3>) -> Tensor<3> {
        self.norm.forward(self.out.forward(seen))
    }

    fn linears(&mut self, [q, k, v, out]: [&'static str; 4]) -> [Adaptable<'_>; 2] {
        [
            Adaptable::new(&[q, k, v], &mut self.qkv),
            Adaptable::whole(out, &mut self.out),
        ]
    }
}

/// Attention to the caption, between its two norms.
#[derive(Module, Debug)]
struct CaptionAttention {
    pre_norm: PreNorm,
    query: Linear,
    key_value: Linear,
    out: Linear,
    norm: LayerNorm,
    #[module(skip)]
    n_heads: usize,
}

impl CaptionAttention {
    fn new(init: &mut Init, width: usize, n_heads: usize, scaled: bool) -> Self {
        CaptionAttention {
            pre_norm: PreNorm::new(init, width, scaled),
            query: Linear::new(init, width, width, 0.02),
            key_value: Linear::new(init, width, 2 * width, 0.02),
            out: Linear::new(init, width, width, 0.02),
            norm: LayerNorm::new(init, width),
            n_heads,
        }
    }

    /// `captions` with the number of rows that follow each, in the order of the batch.
    fn forward(&self, x: Tensor<3>, captions: &[(&(Tensor<4>, Tensor<4>), usize)]) -> Tensor<3> {
        let [_, n, width] = x.dims();
        let query = self.query.forward(self.pre_norm.forward(x));
        let mut seen = Vec::with_capacity(captions.len());
        let mut first = 0;
        for &((keys, values), rows) in captions {
            // No query sees another, so all rows that share one caption are computed as one.
            let query = query
                .clone()
                .narrow(0, first, rows)
                .reshape([1, rows * n, width]);
            let answer = ops::attention(
                heads::split(&query, [0, 1], self.n_heads),
                keys.clone(),
                values.clone(),
                false,
            );
            seen.push(heads::join(answer).reshape([rows, n, width]));
            first += rows;
        }
        self.norm.forward(self.out.forward(one(seen, 0)))
    }
}

/// `down(norm(gelu(gate(x)) · up(x)))` of a normalised `x` (arXiv:2002.05202).
#[derive(Module, Debug)]
struct Glu {
    pre_norm: PreNorm,
    gate_up: Linear,
    inner_norm: PreNorm,
    down: Linear,
}

impl Glu {
    fn new(init: &mut Init, width: usize, hidden: usize, scaled: bool) -> Self {
        Glu {
            pre_norm: PreNorm::new(init, width, scaled),
            gate_up: Linear::new(init, width, 2 * hidden, 0.02),
            inner_norm: PreNorm::new(init, hidden, scaled),
            down: Linear::new(init, hidden, width, 0.02),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let inner = ops::gelu_gate(self.gate_up.forward(self.pre_norm.forward(x)));
        self.down.forward(self.inner_norm.forward(inner))
    }

    fn linears(&mut self, [gate, up, down]: [&'static str; 3]) -> [Adaptable<'_>; 2] {
        [
            Adaptable::new(&[gate, up], &mut self.gate_up),
            Adaptable::whole(down, &mut self.down),
        ]
    }
}

/// A layer of the encoder.
#[derive(Module, Debug)]
pub(super) struct EncoderLayer {
    attention: SelfAttention,
    glu: Glu,
}

impl EncoderLayer {
    pub(super) fn new(init: &mut Init, width: usize, stack: &StackConfig, scaled: bool) -> Self {
        EncoderLayer {
            attention: SelfAttention::new(init, width, stack.n_heads, scaled),
            glu: Glu::new(init, width, stack.hidden, scaled),
        }
    }

    /// Of captions side by side in one row, each of this many tokens.
    pub(super) fn forward(&self, x: Tensor<3>, lengths: &[usize]) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(x, lengths);
        x.clone() + self.glu.forward(x)
    }

    /// The linear layers and what their columns make.
    pub(super) fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let attention = [
            "encoder.attention.q",
            "encoder.attention.k",
            "encoder.attention.v",
            "encoder.attention.out",
        ];
        let glu = ["encoder.glu.gate", "encoder.glu.up", "encoder.glu.down"];
        let attention = self.attention.linears(attention);
        attention.into_iter().chain(self.glu.linears(glu)).collect()
    }
}

/// A layer of the decoder.
#[derive(Module, Debug)]
pub(super) struct DecoderLayer {
    attention: SelfAttention,
    caption_attention: CaptionAttention,
    glu: Glu,
}

impl DecoderLayer {
    pub(super) fn new(init: &mut Init, width: usize, stack: &StackConfig, scaled: bool) -> Self {
        DecoderLayer {
            attention: SelfAttention::new(init, width, stack.n_heads, scaled),
            caption_attention: CaptionAttention::new(init, width, stack.n_heads, scaled),
            glu: Glu::new(init, width, stack.hidden, scaled),
        }
    }

    /// The linear layers and what their columns make.
    pub(super) fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let attention = [
            "decoder.attention.q",
            "decoder.attention.k",
            "decoder.attention.v",
            "decoder.attention.out",
        ];
        let caption = &mut self.caption_attention;
        let caption = [
            Adaptable::whole("decoder.caption_attention.q", &mut caption.query),
            Adaptable::new(
                &["decoder.caption_attention.k", "decoder.caption_attention.v"],
                &mut caption.key_value,
            ),
            Adaptable::whole("decoder.caption_attention.out", &mut caption.out),
        ];
        let glu = ["decoder.glu.gate", "decoder.glu.up", "decoder.glu.down"];
        let attention = self.attention.linears(attention);
        let all = attention.into_iter().chain(caption);
        all.chain(self.glu.linears(glu)).collect()
    }

    /// Keys and values of the encoder's states.
    pub(super) fn cross_attention_kv(&self, states: Tensor<3>) -> (Tensor<4>, Tensor<4>) {
        let attention = &self.caption_attention;
        let both = attention.key_value.forward(states);
        let part = |i: usize| heads::split(&both, [i, 2], attention.n_heads);
        (part(0), part(1))
    }

    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        captions: &[(&(Tensor<4>, Tensor<4>), usize)],
        groups: &mut [CacheRows<'_>],
    ) -> Tensor<3> {
        let x = x.clone() + self.attention.forward_causal(x, groups);
        let x = x.clone() + self.caption_attention.forward(x, captions);
        x.clone() + self.glu.forward(x)
    }
}

/// The parts as one tensor.
fn one(mut parts: Vec<Tensor<3>>, dim: usize) -> Tensor<3> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, dim),
    }
}
