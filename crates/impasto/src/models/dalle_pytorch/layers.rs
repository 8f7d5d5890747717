//! A layer: attention and feed-forward, each between a layer norm and its scale (LayerScale, arXiv:2103.17239).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::DallePytorchConfig;
use super::attention::{AttentionKind, RotaryAngles};
use super::shift::Shift;
use crate::nn::{Adaptable, Init, KvCache, LayerNorm, Linear, heads, ops};

/// How many times wider the feed-forward part is inside.
const WIDER: usize = 4;

/// The sizes and options of a layer.
#[derive(Clone, Copy)]
pub(super) struct LayerSizes {
    pub width: usize,
    pub n_heads: usize,
    pub head_width: usize,
    pub sandwich_norm: bool,
    pub shift_tokens: bool,
}

impl From<&DallePytorchConfig> for LayerSizes {
    fn from(config: &DallePytorchConfig) -> Self {
        LayerSizes {
            width: config.width,
            n_heads: config.n_heads,
            head_width: config.head_width,
            sandwich_norm: config.sandwich_norm,
            shift_tokens: config.shift_tokens,
        }
    }
}

/// Where the tokens of a pass stand.
pub(super) struct TokenPlaces<'a> {
    /// The start and words; else image tokens.
    pub is_text: bool,
    /// Image tokens before them.
    pub n_before: usize,
    pub grid: usize,
    /// Tokens of the start and the caption.
    pub prefix: usize,
    pub turn: Option<&'a RotaryAngles>,
}

/// What a layer keeps of the tokens before.
#[derive(Clone, Debug)]
pub(super) struct LayerState {
    cache: KvCache,
    attention_shift: Shift,
    feed_shift: Shift,
}

impl LayerState {
    pub fn new(config: &DallePytorchConfig) -> Self {
        LayerState {
            cache: KvCache::new(config.prefix_length() + config.image_length()),
            attention_shift: Shift::default(),
            feed_shift: Shift::default(),
        }
    }

    pub fn select_rows(&mut self, rows: &[usize]) {
        self.cache.select_rows(rows);
        self.attention_shift.select_rows(rows);
        self.feed_shift.select_rows(rows);
    }
}

/// The norms around a part and what its result is multiplied by.
#[derive(Module, Debug)]
struct Around {
    norm: LayerNorm,
    norm_out: Option<LayerNorm>,
    scale: Param<Tensor<1>>,
    #[module(skip)]
    shifts: bool,
}

impl Around {
    fn new(init: &mut Init, config: &LayerSizes) -> Self {
        Around {
            norm: LayerNorm::new(init, config.width),
            norm_out: config
                .sandwich_norm
                .then(|| LayerNorm::new(init, config.width)),
            scale: init.constant([config.width], 0.1),
            shifts: config.shift_tokens,
        }
    }

    fn before(&self, x: Tensor<3>, place: &TokenPlaces<'_>, shift: &mut Shift) -> Tensor<3> {
        let x = self.norm.forward(x);
        match (self.shifts, place.is_text) {
            (false, _) => x,
            (true, true) => shift.of_text(x),
            (true, false) => shift.of_image(x, place.n_before, place.grid),
        }
    }

    fn behind(&self, x: Tensor<3>) -> Tensor<3> {
        let x = match &self.norm_out {
            Some(norm) => norm.forward(x),
            None => x,
        };
        x * self.scale.val().unsqueeze()
    }
}

#[derive(Module, Debug)]
struct Attention {
    around: Around,
    qkv: Linear,
    out: Linear,
}

#[derive(Module, Debug)]
struct FeedForward {
    around: Around,
    /// What is passed on, and what it is gated by.
    up_gate: Linear,
    down: Linear,
}

impl FeedForward {
    fn gated(&self, x: Tensor<3>) -> Tensor<3> {
        let both = self.up_gate.forward(x);
        let hidden = both.dims()[2] / 2;
        let gate = ops::gelu(both.clone().narrow(2, hidden, hidden));
        self.down.forward(both.narrow(2, 0, hidden) * gate)
    }
}

/// One layer.
#[derive(Module, Debug)]
pub(super) struct Layer {
    attention: Attention,
    feed_forward: FeedForward,
    #[module(skip)]
    kind: AttentionKind,
    #[module(skip)]
    n_heads: usize,
}

impl Layer {
    pub fn new(init: &mut Init, config: &LayerSizes, kind: AttentionKind) -> Self {
        let (width, inner) = (config.width, config.n_heads * config.head_width);
        Layer {
            attention: Attention {
                around: Around::new(init, config),
                qkv: Linear::new(init, width, 3 * inner, 0.02),
                out: Linear::with_bias(init, inner, width, 0.02),
            },
            feed_forward: FeedForward {
                around: Around::new(init, config),
                up_gate: Linear::with_bias(init, width, 2 * WIDER * width, 0.02),
                down: Linear::with_bias(init, WIDER * width, width, 0.02),
            },
            kind,
            n_heads: config.n_heads,
        }
    }

    /// The linear layers and what their columns make.
    pub fn linears(&mut self) -> [Adaptable<'_>; 4] {
        let (attention, feed_forward) = (&mut self.attention, &mut self.feed_forward);
        [
            Adaptable::new(
                &["attention.q", "attention.k", "attention.v"],
                &mut attention.qkv,
            ),
            Adaptable::whole("attention.out", &mut attention.out),
            Adaptable::new(
                &["feed_forward.up", "feed_forward.gate"],
                &mut feed_forward.up_gate,
            ),
            Adaptable::whole("feed_forward.down", &mut feed_forward.down),
        ]
    }

    /// `x` after the layer where all tokens see all, and there is no order among them.
    pub fn encode(&self, x: Tensor<3>) -> Tensor<3> {
        let part = &self.attention;
        let qkv = part.qkv.forward(part.around.norm.forward(x.clone()));
        let [q, k, v] = [0, 1, 2].map(|part| heads::split(&qkv, [part, 3], self.n_heads));
        let seen = heads::join(ops::attention(q, k, v, false));
        let x = x + part.around.behind(part.out.forward(seen));
        let part = &self.feed_forward;
        let fed = part.gated(part.around.norm.forward(x.clone()));
        x + part.around.behind(fed)
    }

    /// What attention adds to `x`.
    pub fn attend(
        &self,
        x: Tensor<3>,
        place: &TokenPlaces<'_>,
        state: &mut LayerState,
    ) -> Tensor<3> {
        let part = &self.attention;
        let x = part.around.before(x, place, &mut state.attention_shift);
        let qkv = part.qkv.forward(x);
        let [query, k, v] = [0, 1, 2].map(|part| {
            let part = heads::split(&qkv, [part, 3], self.n_heads);
            match place.turn {
                Some(turn) => turn.apply(part),
                None => part,
            }
        });
        let (keys, values) = state.cache.append(k, v);
        let seen = if place.is_text {
            ops::attention(query, keys, values, true)
        } else {
            let places = [place.prefix, place.n_before, place.grid];
            self.kind.of_image(query, keys, values, places)
        };
        let seen = heads::join(seen);
        part.around.behind(part.out.forward(seen))
    }

    /// What the feed-forward part adds to `x`.
    pub fn feed(&self, x: Tensor<3>, place: &TokenPlaces<'_>, state: &mut LayerState) -> Tensor<3> {
        let part = &self.feed_forward;
        let x = part.around.before(x, place, &mut state.feed_shift);
        part.around.behind(part.gated(x))
    }
}
