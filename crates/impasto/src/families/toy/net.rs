//! A net of one attention layer: the caption is the mean of its words, added to every input.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::checkpoint::WeightFormat;
use crate::engine::{AutoregressiveModel, DecodeState, Prompted, Rows, Sizes, TokenNll};
use crate::families::{NetSizes, Transformer};
use crate::nn::{
    Adapt, Adaptable, CacheRows, Embedding, Init, KvCache, Linear, extend_groups, ops,
};
use crate::{Error, Result};

/// The sizes of a [`ToyNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToySizes {
    pub words: usize,
    pub text_length: usize,
    pub codes: usize,
    pub grid: usize,
    pub width: usize,
}

impl NetSizes for ToySizes {
    type Net = ToyNet;

    fn validate(&self) -> Result<()> {
        match self.width {
            1..=1024 => Ok(()),
            width => Err(Error::invalid(
                "width",
                format!("expected 1 to 1024, got {width}"),
            )),
        }
    }

    fn parameters(&self) -> u64 {
        let rows = self.words + 2 * self.codes + self.grid * self.grid + 4 * self.width;
        (rows * self.width) as u64
    }

    fn init(&self, init: &mut Init) -> ToyNet {
        let width = self.width;
        ToyNet {
            words: Embedding::new(init, self.words, width, 1.0),
            // One row more: the start.
            codes: Embedding::new(init, self.codes + 1, width, 1.0),
            positions: Embedding::new(init, self.grid * self.grid, width, 1.0),
            qkv: Linear::new(init, width, 3 * width, 0.3),
            out: Linear::new(init, width, width, 0.3),
            head: Linear::new(init, width, self.codes, 0.3),
            sizes: self.clone(),
        }
    }

    fn grid(&self) -> usize {
        self.grid
    }

    fn codebook_size(&self) -> usize {
        self.codes
    }

    fn text_length(&self) -> usize {
        self.text_length
    }

    fn width(&self) -> usize {
        self.width
    }

    fn cache_bytes(&self, format: WeightFormat) -> u64 {
        (format.cache_width() * 2 * self.grid * self.grid * self.width) as u64
    }

    fn describe(&self) -> Transformer {
        Transformer {
            layers: format!("1 layer x {}", self.width),
            text_vocab_size: self.words,
            text_length: self.text_length,
        }
    }
}

/// The net.
#[derive(Module, Debug)]
pub struct ToyNet {
    words: Embedding,
    codes: Embedding,
    positions: Embedding,
    qkv: Linear,
    out: Linear,
    head: Linear,
    #[module(skip)]
    sizes: ToySizes,
}

impl Adapt for ToyNet {
    fn linears(&mut self) -> Vec<Adaptable<'_>> {
        vec![
            Adaptable::new(
                &["attention.q", "attention.k", "attention.v"],
                &mut self.qkv,
            ),
            Adaptable::whole("attention.out", &mut self.out),
            Adaptable::whole("head", &mut self.head),
        ]
    }
}

/// Rows, with their captions: `[rows, 1, width]`.
#[derive(Debug)]
pub struct ToyState {
    captions: Tensor<3>,
    cache: KvCache,
}

impl DecodeState for ToyState {
    fn select_rows(&mut self, rows: &[usize]) {
        let all = self.captions.clone();
        let parts = rows.iter().map(|&row| all.clone().narrow(0, row, 1));
        self.captions = Tensor::cat(parts.collect(), 0);
        self.cache.select_rows(rows);
    }
}

impl ToyNet {
    fn ids(&self, ids: &[u32], rows: usize) -> Tensor<2, Int> {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let shape = [rows, ids.len() / rows];
        Tensor::from_data(
            TensorData::new(ids, shape),
            &self.head.weight.val().device(),
        )
    }

    /// Logits after each input, which is an id of the codes and predicts the position beside it.
    fn logits(
        &self,
        inputs: &[(u32, u32)],
        captions: Tensor<3>,
        groups: &mut [CacheRows<'_>],
    ) -> Tensor<3> {
        let [rows, ..] = captions.dims();
        let (ids, targets): (Vec<u32>, Vec<u32>) = inputs.iter().copied().unzip();
        let x = self.codes.forward(self.ids(&ids, rows));
        let x = x + self.positions.forward(self.ids(&targets, rows)) + captions;
        let qkv = self.qkv.forward(x.clone());
        let seen = extend_groups(groups, qkv, &self.qkv, None, 1);
        self.head.forward(x + self.out.forward(seen))
    }

    fn captions(rows: &[Prompted<'_, Tensor<3>>]) -> Tensor<3> {
        let rows = rows
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.prompt.clone(), group.rows));
        Tensor::cat(rows.collect(), 0)
    }

    fn cache(&self) -> KvCache {
        KvCache::new(self.sizes.grid * self.sizes.grid)
    }

    /// Logits of whole images: `[rows · positions, codes]`.
    fn whole(&self, captions: Tensor<3>, images: &[Vec<u32>]) -> Tensor<2> {
        let inputs: Vec<(u32, u32)> = images
            .iter()
            .flat_map(|ids| {
                let before = std::iter::once(self.sizes.codes as u32).chain(ids.iter().copied());
                before.zip(0..ids.len() as u32)
            })
            .collect();
        let mut cache = self.cache();
        let rows = images.len();
        let group = CacheRows {
            cache: &mut cache,
            rows,
        };
        let logits = self.logits(&inputs, captions, &mut [group]);
        logits.reshape([inputs.len(), self.sizes.codes])
    }
}

impl AutoregressiveModel for ToyNet {
    /// `[1, 1, width]`.
    type Prompt = Tensor<3>;
    type State = ToyState;

    fn sizes(&self) -> Sizes {
        Sizes {
            positions: self.sizes.grid * self.sizes.grid,
            codebook_size: self.sizes.codes,
            text_length: self.sizes.text_length,
        }
    }

    fn device(&self) -> Device {
        self.head.weight.val().device()
    }

    fn read(&self, text_ids: &[u32]) -> Result<Tensor<3>> {
        Ok(self.words.forward(self.ids(text_ids, 1)).mean_dim(1))
    }

    fn prefill(&self, rows: &[Prompted<'_, Tensor<3>>]) -> Result<ToyState> {
        Ok(ToyState {
            captions: Self::captions(rows),
            cache: self.cache(),
        })
    }

    fn step(&self, groups: &mut [Rows<'_, ToyState>], n_logits: usize) -> Result<Tensor<3>> {
        let start = self.sizes.codes as u32;
        let inputs: Vec<(u32, u32)> = groups
            .iter()
            .flat_map(|group| group.inputs.iter().flatten())
            .map(|input| (input.token.map_or(start, |(_, id)| id), input.target))
            .collect();
        let captions = groups.iter().map(|group| group.state.captions.clone());
        let captions = Tensor::cat(captions.collect(), 0);
        let mut caches: Vec<CacheRows<'_>> = groups
            .iter_mut()
            .map(|group| CacheRows {
                cache: &mut group.state.cache,
                rows: group.inputs.len(),
            })
            .collect();
        let logits = self.logits(&inputs, captions, &mut caches);
        let [_, length, _] = logits.dims();
        Ok(logits.narrow(1, length - n_logits, n_logits))
    }

    fn token_nll(
        &self,
        prompts: &[Prompted<'_, Tensor<3>>],
        images: &[Vec<u32>],
        _with_text: bool,
    ) -> Result<TokenNll> {
        let logits = self.whole(Self::captions(prompts), images);
        let ids = images.concat();
        let targets = self.ids(&ids, 1).reshape([ids.len()]);
        Ok(TokenNll {
            text: None,
            text_tokens: 0,
            image: ops::cross_entropy(logits, targets),
        })
    }

    fn image_logits_in(
        &self,
        prompt: &Tensor<3>,
        image_ids: &[u32],
        _order: &[u32],
    ) -> Result<Tensor<2>> {
        Ok(self.whole(prompt.clone(), &[image_ids.to_vec()]))
    }
}
