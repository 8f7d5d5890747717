//! The layers of [`super::Meissonic`] (`TransformerBlock` and `SingleTransformerBlock` of the reference, which are
//! Flux's).

use burn::module::Module;
use burn::tensor::Tensor;

use super::{EPSILON, MeissonicConfig};
use crate::models::masked::layers::STD;
use crate::nn::rope::Rotation;
use crate::nn::{Adaptable, Init, Linear, RmsNorm, ops};

/// What all layers see of a pass.
pub(super) struct Pass {
    /// The caption, the size of the picture and the number of the pass, after SiLU: `[batch, width]`.
    pub condition: Tensor<2>,
    /// Of the caption's tokens, then the picture's.
    pub rotation: Rotation,
    /// `[width]`, as the norms have no weights and no biases.
    pub ones: Tensor<1>,
    /// Likewise.
    pub zeros: Tensor<1>,
}

impl Pass {
    /// Normalised tokens with a scale and a shift of each row.
    fn normal(&self, x: &Tensor<3>, scale: Tensor<3>, shift: Tensor<3>) -> Tensor<3> {
        let x = ops::layer_norm(x.clone(), self.ones.clone(), self.zeros.clone(), EPSILON);
        x * scale.add_scalar(1.0) + shift
    }
}

/// The parts of what a condition is made into: `[batch, 1, width]` each.
fn parts<const N: usize>(modulation: &Linear, pass: &Pass) -> [Tensor<3>; N] {
    let all = modulation.forward(pass.condition.clone());
    let [batch, joint] = all.dims();
    let all = all.reshape([batch, 1, joint]);
    std::array::from_fn(|i| all.clone().narrow(2, i * (joint / N), joint / N))
}

/// Queries, keys and values of tokens, by heads.
#[derive(Module, Debug)]
struct Heads {
    /// Outputs of queries and keys in the order of [`Rotation::apply`].
    qkv: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    #[module(skip)]
    n_heads: usize,
}

impl Heads {
    fn new(init: &mut Init, config: &MeissonicConfig) -> Self {
        let (width, head) = (config.width(), config.head_width());
        Heads {
            qkv: Linear::with_bias(init, width, 3 * width, STD),
            q_norm: RmsNorm::new(init, head),
            k_norm: RmsNorm::new(init, head),
            n_heads: config.n_heads,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, seq, width]`
    /// - returns: `[batch, seq, heads, head_width]` each, queries and keys normalised
    fn forward(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let [batch, seq, width] = x.dims();
        let heads = self.n_heads;
        let qkv = self
            .qkv
            .forward(x)
            .reshape([batch, seq, 3 * heads, width / heads]);
        let part = |i: usize| qkv.clone().narrow(2, i * heads, heads);
        let normal = |x, norm: &RmsNorm| ops::rms_norm(x, norm.weight.val(), EPSILON);
        [
            normal(part(0), &self.q_norm),
            normal(part(1), &self.k_norm),
            part(2),
        ]
    }
}

/// Attention of all tokens to all.
///
/// # Shapes
/// - `qkv`: `[batch, seq, heads, head_width]` each
/// - returns: `[batch, seq, width]`
fn attention([q, k, v]: [Tensor<4>; 3], rotation: &Rotation) -> Tensor<3> {
    let [batch, seq, heads, width] = q.dims();
    let (q, k) = (rotation.apply(q), rotation.apply(k));
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(1, 2));
    ops::attention(q, k, v, false)
        .swap_dims(1, 2)
        .reshape([batch, seq, heads * width])
}

/// One of the streams of a [`DoubleLayer`].
#[derive(Module, Debug)]
struct Stream {
    modulation: Linear,
    heads: Heads,
    attention_out: Linear,
    up: Linear,
    down: Linear,
}

impl Stream {
    fn new(init: &mut Init, config: &MeissonicConfig) -> Self {
        let width = config.width();
        Stream {
            modulation: Linear::with_bias(init, width, 6 * width, STD),
            heads: Heads::new(init, config),
            attention_out: Linear::with_bias(init, width, width, STD),
            up: Linear::with_bias(init, width, 4 * width, STD),
            down: Linear::with_bias(init, 4 * width, width, STD),
        }
    }

    /// What follows the attention.
    fn after(
        &self,
        x: Tensor<3>,
        seen: Tensor<3>,
        [gate, shift, scale, mlp_gate]: [Tensor<3>; 4],
        pass: &Pass,
    ) -> Tensor<3> {
        let x = x + self.attention_out.forward(seen) * gate;
        let inner = ops::tanh_gelu(self.up.forward(pass.normal(&x, scale, shift)));
        x + self.down.forward(inner) * mlp_gate
    }
}

/// A layer with streams of their own for caption and picture, which meet in the attention (`TransformerBlock`).
#[derive(Module, Debug)]
pub(super) struct DoubleLayer {
    text: Stream,
    image: Stream,
}

impl DoubleLayer {
    pub fn new(init: &mut Init, config: &MeissonicConfig) -> Self {
        DoubleLayer {
            text: Stream::new(init, config),
            image: Stream::new(init, config),
        }
    }

    /// # Shapes
    /// - `text`: `[batch, text, width]`
    /// - `image`: `[batch, tokens, width]`
    /// - returns: both
    pub fn forward(
        &self,
        text: Tensor<3>,
        image: Tensor<3>,
        pass: &Pass,
    ) -> (Tensor<3>, Tensor<3>) {
        let [_, text_length, _] = text.dims();
        let [_, tokens, _] = image.dims();
        let begin = |stream: &Stream, x: &Tensor<3>| {
            let [shift, scale, gate, mlp_shift, mlp_scale, mlp_gate] =
                parts(&stream.modulation, pass);
            let qkv = stream.heads.forward(pass.normal(x, scale, shift));
            (qkv, [gate, mlp_shift, mlp_scale, mlp_gate])
        };
        let (of_text, text_rest) = begin(&self.text, &text);
        let (of_image, image_rest) = begin(&self.image, &image);
        let ([tq, tk, tv], [iq, ik, iv]) = (of_text, of_image);
        let joint =
            [(tq, iq), (tk, ik), (tv, iv)].map(|(text, image)| Tensor::cat(vec![text, image], 1));
        let seen = attention(joint, &pass.rotation);
        let of_text = seen.clone().narrow(1, 0, text_length);
        let of_image = seen.narrow(1, text_length, tokens);
        (
            self.text.after(text, of_text, text_rest, pass),
            self.image.after(image, of_image, image_rest, pass),
        )
    }

    pub fn linears(&mut self) -> Vec<Adaptable<'_>> {
        let DoubleLayer { text, image } = self;
        let mut all = Vec::with_capacity(8);
        all.push(Adaptable::new(
            &["text_attention.q", "text_attention.k", "text_attention.v"],
            &mut text.heads.qkv,
        ));
        for (name, linear) in [
            ("text_attention.out", &mut text.attention_out),
            ("text_feed_forward.up", &mut text.up),
            ("text_feed_forward.down", &mut text.down),
        ] {
            all.push(Adaptable::whole(name, linear));
        }
        all.push(Adaptable::new(
            &["attention.q", "attention.k", "attention.v"],
            &mut image.heads.qkv,
        ));
        for (name, linear) in [
            ("attention.out", &mut image.attention_out),
            ("feed_forward.up", &mut image.up),
            ("feed_forward.down", &mut image.down),
        ] {
            all.push(Adaptable::whole(name, linear));
        }
        all
    }
}

/// A layer over caption and picture as one sequence: attention and MLP side by side, with one product behind both
/// (`SingleTransformerBlock`).
#[derive(Module, Debug)]
pub(super) struct SingleLayer {
    modulation: Linear,
    heads: Heads,
    up: Linear,
    /// Of what the attention saw, then the MLP's units.
    out: Linear,
}

impl SingleLayer {
    pub fn new(init: &mut Init, config: &MeissonicConfig) -> Self {
        let width = config.width();
        SingleLayer {
            modulation: Linear::with_bias(init, width, 3 * width, STD),
            heads: Heads::new(init, config),
            up: Linear::with_bias(init, width, 4 * width, STD),
            out: Linear::with_bias(init, 5 * width, width, STD),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, text + tokens, width]`
    pub fn forward(&self, x: Tensor<3>, pass: &Pass) -> Tensor<3> {
        let [shift, scale, gate] = parts(&self.modulation, pass);
        let normal = pass.normal(&x, scale, shift);
        let inner = ops::tanh_gelu(self.up.forward(normal.clone()));
        let seen = attention(self.heads.forward(normal), &pass.rotation);
        x + self.out.forward(Tensor::cat(vec![seen, inner], 2)) * gate
    }

    pub fn linears(&mut self) -> Vec<Adaptable<'_>> {
        vec![
            Adaptable::new(
                &["attention.q", "attention.k", "attention.v"],
                &mut self.heads.qkv,
            ),
            Adaptable::whole("feed_forward.up", &mut self.up),
            Adaptable::whole("out", &mut self.out),
        ]
    }
}
