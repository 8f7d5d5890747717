//! The blocks of [`super::Amused`]. All work on tokens, `[batch, grid², width]`: convolutions of one position and those
//! of two by two that don't overlap are the products that they are.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use super::AmusedConfig;
use crate::models::masked::layers::{Of, STD, part};
use crate::nn::{Adaptable, Init, Linear, RmsNorm, heads, ops};

/// What is added to mean squares in the norms before the attentions of [`CrossBlock`], whatever the config says
/// (`SkipFFTransformerBlock`).
const CROSS_EPSILON: f64 = 1e-6;
/// What is added to means in [`ConvNext`]'s normalisation (`GlobalResponseNorm`).
const RESPONSE_EPSILON: f64 = 1e-6;

/// `x · (1 + scale) + shift` with the scale and the shift of each row's prompt.
///
/// # Shapes
/// - `x`: `[batch, seq, width]`
/// - `rows`: `[1, 2 · width]` each, the scales first
fn modulate(x: Tensor<3>, rows: &[Of<'_, Tensor<2>>]) -> Tensor<3> {
    let [_, _, width] = x.dims();
    let both: Vec<Tensor<2>> = rows
        .iter()
        .map(|group| group.prompt.clone().expand([group.rows, 2 * width]))
        .collect();
    let batch = rows.iter().map(|group| group.rows).sum();
    let both = Tensor::cat(both, 0).reshape([batch, 1, 2 * width]);
    let (scale, shift) = (
        both.clone().narrow(2, 0, width),
        both.narrow(2, width, width),
    );
    x * scale.add_scalar(1.0) + shift
}

/// Attention of each row to the keys and values of its prompt. Rows of one prompt are one row of queries: none sees
/// another's.
///
/// # Shapes
/// - `q`: `[batch, seq, width]`
/// - `rows`: `[1, text, 2 · width]` each, the keys first
fn cross_attention(q: Tensor<3>, rows: &[Of<'_, Tensor<3>>], n_heads: usize) -> Tensor<3> {
    let [_, seq, width] = q.dims();
    let mut first = 0;
    let mut seen = Vec::with_capacity(rows.len());
    for group in rows {
        let own = q.clone().narrow(0, first, group.rows);
        first += group.rows;
        let own = own.reshape([1, group.rows * seq, width]);
        let q = heads::split(&own, [0, 1], n_heads);
        let [k, v] = [0, 1].map(|part| heads::split(group.prompt, [part, 2], n_heads));
        let attended = heads::join(ops::attention(q, k, v, false));
        seen.push(attended.reshape([group.rows, seq, width]));
    }
    Tensor::cat(seen, 0)
}

/// An attention to the caption.
#[derive(Module, Debug)]
pub(super) struct CrossAttention {
    q: Linear,
    kv: Linear,
    out: Linear,
    #[module(skip)]
    n_heads: usize,
}

impl CrossAttention {
    fn new(init: &mut Init, width: usize, n_heads: usize) -> Self {
        CrossAttention {
            q: Linear::new(init, width, width, STD),
            kv: Linear::new(init, width, 2 * width, STD),
            out: Linear::new(init, width, width, STD),
            n_heads,
        }
    }

    fn forward(&self, x: Tensor<3>, rows: &[Of<'_, Tensor<3>>]) -> Tensor<3> {
        let seen = cross_attention(self.q.forward(x), rows, self.n_heads);
        self.out.forward(seen)
    }

    fn linears(&mut self) -> [Adaptable<'_>; 3] {
        [
            Adaptable::whole("cross_attention.q", &mut self.q),
            Adaptable::new(&["cross_attention.k", "cross_attention.v"], &mut self.kv),
            Adaptable::whole("cross_attention.out", &mut self.out),
        ]
    }
}

/// A scale and a shift of normalised tokens, from the condition (`AdaLayerNormContinuous`).
#[derive(Module, Debug)]
pub(super) struct Adaptive {
    norm: RmsNorm,
    modulation: Linear,
}

impl Adaptive {
    fn new(init: &mut Init, width: usize) -> Self {
        Adaptive {
            norm: RmsNorm::new(init, width),
            modulation: Linear::new(init, width, 2 * width, STD),
        }
    }
}

/// What a [`TransformerLayer`] computes of a prompt.
#[derive(Clone, Debug)]
pub(super) struct LayerPrompt {
    /// Of its three norms, `[1, 2 · width]` each.
    modulations: [Tensor<2>; 3],
    /// Keys and values, `[1, text, 2 · width]`.
    keys_values: Tensor<3>,
}

/// A layer of the transformer (`BasicTransformerBlock` with `norm_type` "ada_norm_continuous"): self-attention, an
/// attention to the caption and a gated MLP, each after an adaptive norm. The first two norms are RMS, the third
/// centres, too.
#[derive(Module, Debug)]
pub(super) struct TransformerLayer {
    norm1: Adaptive,
    qkv: Linear,
    attention_out: Linear,
    norm2: Adaptive,
    cross: CrossAttention,
    norm3: Adaptive,
    gate_up: Linear,
    down: Linear,
    #[module(skip)]
    n_heads: usize,
    #[module(skip)]
    epsilon: f64,
}

impl TransformerLayer {
    pub fn new(init: &mut Init, config: &AmusedConfig) -> Self {
        let width = config.width;
        TransformerLayer {
            norm1: Adaptive::new(init, width),
            qkv: Linear::new(init, width, 3 * width, STD),
            attention_out: Linear::new(init, width, width, STD),
            norm2: Adaptive::new(init, width),
            cross: CrossAttention::new(init, width, config.n_heads),
            norm3: Adaptive::new(init, width),
            gate_up: Linear::new(init, width, 2 * config.hidden, STD),
            down: Linear::new(init, config.hidden, width, STD),
            n_heads: config.n_heads,
            epsilon: config.norm_epsilon,
        }
    }

    /// # Shapes
    /// - `states`: the caption, `[1, text, width]`
    /// - `condition`: after its SiLU, `[1, width]`
    pub fn read(&self, states: &Tensor<3>, condition: &Tensor<2>) -> LayerPrompt {
        let of = |norm: &Adaptive| norm.modulation.forward(condition.clone());
        LayerPrompt {
            modulations: [of(&self.norm1), of(&self.norm2), of(&self.norm3)],
            keys_values: self.cross.kv.forward(states.clone()),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, seq, width]`
    pub fn forward(&self, x: Tensor<3>, rows: &[Of<'_, LayerPrompt>]) -> Tensor<3> {
        let [_, _, width] = x.dims();
        let normal = |norm: &Adaptive, x: &Tensor<3>, number: usize| {
            let weight = norm.norm.weight.val();
            let x = x.clone();
            let normal = match number {
                2 => {
                    let zeros = Tensor::zeros([width], &x.device());
                    ops::layer_norm(x, weight, zeros, self.epsilon)
                }
                _ => ops::rms_norm(x, weight, self.epsilon),
            };
            modulate(normal, &part(rows, |prompt| &prompt.modulations[number]))
        };
        let qkv = self.qkv.forward(normal(&self.norm1, &x, 0));
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], self.n_heads));
        let seen = heads::join(ops::attention(q, k, v, false));
        let x = x + self.attention_out.forward(seen);
        let keys_values = part(rows, |prompt| &prompt.keys_values);
        let x = x.clone() + self.cross.forward(normal(&self.norm2, &x, 1), &keys_values);
        let inner = self.gate_up.forward(normal(&self.norm3, &x, 2));
        x + self.down.forward(ops::gelu_gate(inner))
    }

    pub fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all = vec![
            Adaptable::new(
                &["attention.q", "attention.k", "attention.v"],
                &mut self.qkv,
            ),
            Adaptable::whole("attention.out", &mut self.attention_out),
            Adaptable::new(&["feed_forward.gate", "feed_forward.up"], &mut self.gate_up),
            Adaptable::whole("feed_forward.down", &mut self.down),
        ];
        all.extend(self.cross.linears());
        all
    }
}

/// A residual block of ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808): a depthwise convolution, an MLP with a
/// normalisation of each channel over the picture, then a scale and a shift from the condition (`ConvNextBlock`).
#[derive(Module, Debug)]
pub(super) struct ConvNext {
    /// `[9, width]`: a 3×3 kernel for each channel, row-major.
    depthwise: Param<Tensor<2>>,
    norm: RmsNorm,
    up: Linear,
    /// `[4 · width]`.
    gamma: Param<Tensor<1>>,
    /// `[4 · width]`.
    beta: Param<Tensor<1>>,
    down: Linear,
    modulation: Linear,
    #[module(skip)]
    epsilon: f64,
}

impl ConvNext {
    fn new(init: &mut Init, config: &AmusedConfig) -> Self {
        let width = config.block_width;
        ConvNext {
            depthwise: init.normal([9, width], 1.0 / 3.0),
            norm: RmsNorm::new(init, width),
            up: Linear::new(init, width, 4 * width, STD),
            gamma: init.constant([4 * width], 0.0),
            beta: init.constant([4 * width], 0.0),
            down: Linear::new(init, 4 * width, width, STD),
            modulation: Linear::new(init, config.width, 2 * width, STD),
            epsilon: config.norm_epsilon,
        }
    }

    /// A 3×3 convolution of each channel, with zeros around the picture.
    ///
    /// # Shapes
    /// - `x`: `[batch, side², width]`
    fn convolve(&self, x: &Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let side = seq.isqrt();
        let device = x.device();
        let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
        let x = x.clone().reshape([batch, side, side, width]);
        let row = zeros([batch, 1, side, width]);
        let x = Tensor::cat(vec![row.clone(), x, row], 1);
        let column = zeros([batch, side + 2, 1, width]);
        let x = Tensor::cat(vec![column.clone(), x, column], 2);
        let weight = self.depthwise.val();
        let shifted = |place: usize| {
            let weight = weight.clone().narrow(0, place, 1);
            let part = x.clone().narrow(1, place / 3, side);
            part.narrow(2, place % 3, side) * weight.reshape([1, 1, 1, width])
        };
        let sum = (1..9).fold(shifted(0), |sum, place| sum + shifted(place));
        sum.reshape([batch, seq, width])
    }

    fn forward(&self, x: Tensor<3>, rows: &[Of<'_, Tensor<2>>]) -> Tensor<3> {
        let inner = ops::rms_norm(self.convolve(&x), self.norm.weight.val(), self.epsilon);
        let inner = ops::gelu(self.up.forward(inner));
        // How large each channel is over the picture, beside the others.
        let size = inner.clone().square().sum_dim(1).sqrt();
        let share = size.clone() / size.mean_dim(2).add_scalar(RESPONSE_EPSILON);
        let scale = (share * self.gamma.val().unsqueeze()).add_scalar(1.0);
        let inner = inner * scale + self.beta.val().unsqueeze();
        modulate(x + self.down.forward(inner), rows)
    }
}

/// Two attentions to the caption, without self-attention and MLP (`SkipFFTransformerBlock`).
#[derive(Module, Debug)]
pub(super) struct CrossBlock {
    /// From the transformer's width to the block's, where they differ.
    caption: Option<Linear>,
    norm1: RmsNorm,
    cross1: CrossAttention,
    norm2: RmsNorm,
    cross2: CrossAttention,
}

impl CrossBlock {
    fn new(init: &mut Init, config: &AmusedConfig) -> Self {
        let width = config.block_width;
        CrossBlock {
            caption: (width != config.width).then(|| Linear::new(init, config.width, width, STD)),
            norm1: RmsNorm::new(init, width),
            cross1: CrossAttention::new(init, width, config.block_heads),
            norm2: RmsNorm::new(init, width),
            cross2: CrossAttention::new(init, width, config.block_heads),
        }
    }

    fn read(&self, states: &Tensor<3>) -> [Tensor<3>; 2] {
        let states = match &self.caption {
            Some(caption) => caption.forward(silu(states.clone())),
            None => states.clone(),
        };
        [&self.cross1, &self.cross2].map(|cross| cross.kv.forward(states.clone()))
    }

    fn forward(&self, x: Tensor<3>, rows: &[Of<'_, BlockPrompt>]) -> Tensor<3> {
        let normal = |norm: &RmsNorm, x: &Tensor<3>| {
            ops::rms_norm(x.clone(), norm.weight.val(), CROSS_EPSILON)
        };
        let of = |number: usize| part(rows, |prompt: &BlockPrompt| &prompt.keys_values[number]);
        let x = x.clone() + self.cross1.forward(normal(&self.norm1, &x), &of(0));
        x.clone() + self.cross2.forward(normal(&self.norm2, &x), &of(1))
    }
}

/// What a [`Block`] computes of a prompt.
#[derive(Clone, Debug)]
pub(super) struct BlockPrompt {
    /// `[1, 2 · width]`.
    modulation: Tensor<2>,
    /// Keys and values of both attentions, `[1, text, 2 · width]` each.
    keys_values: [Tensor<3>; 2],
}

/// A convolution and attentions to the caption.
#[derive(Module, Debug)]
pub(super) struct Block {
    convolution: ConvNext,
    attention: CrossBlock,
}

impl Block {
    pub fn new(init: &mut Init, config: &AmusedConfig) -> Self {
        Block {
            convolution: ConvNext::new(init, config),
            attention: CrossBlock::new(init, config),
        }
    }

    /// See [`TransformerLayer::read`].
    pub fn read(&self, states: &Tensor<3>, condition: &Tensor<2>) -> BlockPrompt {
        BlockPrompt {
            modulation: self.convolution.modulation.forward(condition.clone()),
            keys_values: self.attention.read(states),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, side², width]`
    pub fn forward(&self, x: Tensor<3>, rows: &[Of<'_, BlockPrompt>]) -> Tensor<3> {
        let modulations = part(rows, |prompt| &prompt.modulation);
        let x = self.convolution.forward(x, &modulations);
        self.attention.forward(x, rows)
    }

    pub fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let mut all = vec![
            Adaptable::whole("convolution.up", &mut self.convolution.up),
            Adaptable::whole("convolution.down", &mut self.convolution.down),
        ];
        all.extend(self.attention.cross1.linears());
        all.extend(self.attention.cross2.linears());
        all
    }
}
