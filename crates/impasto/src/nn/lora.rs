//! Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685, section 4.1): a frozen weight `w` gets a trained addition
//! `alpha / rank · a · b`, with `b` zero at first, so that the training begins with the model as it is.
//!
//! Several products of a layer may be one here (queries, keys and values are the columns of one weight), so an
//! addition is to some columns of a weight, and what these make has a name by which it is requested.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Init, Linear, ops};
use crate::{Error, Result};

/// What is adapted, and by how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of each `b`.
    pub rank: usize,
    /// The additions are multiplied by this over the rank; as much as the rank where nothing is given.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// Names of what is adapted: whole ones ("decoder.attention.q") or their ends ("attention.q", "q").
    #[serde(default = "default_targets")]
    pub targets: Vec<String>,
    /// Share of the additions' inputs that a training pass leaves out.
    #[serde(default)]
    pub dropout: f64,
}

/// The paper's choice (section 7.1): queries and values.
fn default_targets() -> Vec<String> {
    vec!["attention.q".to_owned(), "attention.v".to_owned()]
}

impl LoraConfig {
    /// What the additions are multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha
            .map_or(1.0, |alpha| alpha / self.rank.max(1) as f64)
    }

    /// Returns an error that names the invalid field; the targets are seen only against a model.
    pub fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid("lora", reason));
        // No weight of a model has more rows.
        if self.rank == 0 || self.rank > 1 << 16 {
            return bad(format!("rank is {}, expected 1 to 65536", self.rank));
        }
        if let Some(alpha) = self.alpha
            && !(alpha > 0.0 && alpha.is_finite())
        {
            return bad(format!("alpha is {alpha}, expected a positive number"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad(format!(
                "dropout is {}, expected 0 or more and less than 1",
                self.dropout
            ));
        }
        if self.targets.is_empty() {
            return bad("targets is empty, expected one name or more".into());
        }
        Ok(())
    }
}

/// A model whose linear layers can be adapted.
pub trait Adapt: Module {
    /// All of them, and what their columns make.
    fn linears(&mut self) -> Vec<Adaptable<'_>>;
}

/// A linear layer and the names of what its columns make, in equal parts.
#[derive(Debug)]
pub struct Adaptable<'a> {
    parts: Vec<&'static str>,
    linear: &'a mut Linear,
}

impl<'a> Adaptable<'a> {
    /// A layer whose columns are as many parts as there are names.
    pub fn new(parts: &[&'static str], linear: &'a mut Linear) -> Self {
        Adaptable {
            parts: parts.to_vec(),
            linear,
        }
    }

    /// A layer of one part.
    pub fn whole(name: &'static str, linear: &'a mut Linear) -> Self {
        Adaptable::new(&[name], linear)
    }
}

/// An addition to some columns of a weight.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[inputs, rank]`.
    a: Param<Tensor<2>>,
    /// `[rank, columns]`.
    b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
    /// The first of the columns.
    #[module(skip)]
    first: usize,
    #[module(skip)]
    noise: Option<Noise>,
}

/// What a training pass leaves out is drawn from here, one addition after the other.
#[derive(Clone, Debug)]
struct Noise {
    share: f64,
    rng: Arc<Mutex<ChaCha8Rng>>,
}

impl Noise {
    /// Of `count` numbers: 0 for those left out, and what makes up for them for the others.
    fn mask(&self, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; 2 * count];
        // Nothing panics while it is held.
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        rng.fill_bytes(&mut bytes);
        let below = (self.share * f64::from(1 << 16)) as u32;
        let kept = (1.0 / (1.0 - self.share)) as f32;
        let draws = bytes.as_chunks().0.iter();
        draws
            .map(|&draw| match u32::from(u16::from_le_bytes(draw)) < below {
                true => 0.0,
                false => kept,
            })
            .collect()
    }
}

impl Lora {
    fn columns(&self) -> usize {
        self.b.dims()[1]
    }

    fn addition<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
        let x = match &self.noise {
            None => x.clone(),
            Some(noise) => {
                let mask = noise.mask(x.dims().iter().product());
                x.clone() * Tensor::from_data(TensorData::new(mask, x.dims()), &x.device())
            }
        };
        let narrow = ops::linear(x, self.a.val(), None);
        ops::linear(narrow, self.b.val(), None).mul_scalar(self.scale)
    }
}

/// What `adapters`, in the order of their columns, add to the result `[.., outputs]` of a layer.
pub(super) fn additions<const D: usize>(
    adapters: &[Lora],
    x: &Tensor<D>,
    outputs: usize,
) -> Tensor<D> {
    let (device, mut shape) = (x.device(), x.dims());
    let mut parts = Vec::new();
    let mut end = 0;
    let mut zeros_up_to = |parts: &mut Vec<Tensor<D>>, end: usize, first: usize| {
        if first > end {
            shape[D - 1] = first - end;
            parts.push(Tensor::zeros(shape, &device));
        }
    };
    for adapter in adapters {
        zeros_up_to(&mut parts, end, adapter.first);
        parts.push(adapter.addition(x));
        end = adapter.first + adapter.columns();
    }
    zeros_up_to(&mut parts, end, outputs);
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, D - 1),
    }
}

/// All additions to a model: what is trained and stored in the place of the whole.
#[derive(Module, Debug)]
pub struct Adapter {
    loras: Vec<Lora>,
    /// By what they are found again: the target, and which one of that name it is.
    #[module(skip)]
    places: Vec<String>,
    #[module(skip)]
    dropout: f64,
}

impl Adapter {
    /// Additions that are zero so far, to the `linears` of a model. `a` is normal with a standard deviation of one
    /// over the root of its rows, so that what it makes has the size of its input.
    pub fn new(config: &LoraConfig, linears: &[Adaptable<'_>], init: &mut Init) -> Result<Self> {
        config.validate()?;
        let mut known: Vec<&str> = Vec::new();
        let names = linears.iter().flat_map(|linear| linear.parts.iter());
        names.for_each(|name| {
            if !known.contains(name) {
                known.push(name);
            }
        });
        let unknown = |target: &&String| !known.iter().any(|name| is_meant(name, target));
        if let Some(target) = config.targets.iter().find(unknown) {
            return Err(Error::invalid(
                "lora",
                format!(
                    "unknown target \"{target}\", expected one of {} or the end of such a name",
                    known.join(", ")
                ),
            ));
        }
        let mut adapter = Adapter {
            loras: Vec::new(),
            places: Vec::new(),
            dropout: config.dropout,
        };
        for part in parts(linears) {
            let target = |target: &String| is_meant(part.name, target);
            if !config.targets.iter().any(target) {
                continue;
            }
            let most = part.inputs.min(part.columns);
            if config.rank > most {
                return Err(Error::invalid(
                    "lora",
                    format!(
                        "rank is {}, expected 1 to {most}: {} has {} inputs and {} outputs",
                        config.rank, part.name, part.inputs, part.columns
                    ),
                ));
            }
            let std = 1.0 / (part.inputs as f64).sqrt();
            adapter.loras.push(Lora {
                a: init.normal([part.inputs, config.rank], std),
                b: init.constant([config.rank, part.columns], 0.0),
                scale: config.scale(),
                first: part.first,
                noise: None,
            });
            adapter.places.push(part.place);
        }
        Ok(adapter)
    }

    /// Puts the additions into the layers of the model that they are for. In a training pass, `seed` decides what is
    /// left out.
    pub fn attach(&self, linears: Vec<Adaptable<'_>>, seed: Option<u64>) {
        let noise = seed.filter(|_| self.dropout > 0.0).map(|seed| Noise {
            share: self.dropout,
            rng: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))),
        });
        let places = parts(&linears);
        let mut by_place: BTreeMap<&str, &Lora> = self
            .places
            .iter()
            .map(String::as_str)
            .zip(&self.loras)
            .collect();
        let mut places = places.into_iter();
        for linear in linears {
            let own = places.by_ref().take(linear.parts.len());
            let own = own.filter_map(|part| by_place.remove(part.place.as_str()));
            linear.linear.adapters = own
                .map(|lora| Lora {
                    noise: noise.clone(),
                    ..lora.clone()
                })
                .collect();
        }
    }

    /// The additions by the names that files have for them: `PLACE.a` and `PLACE.b`.
    pub fn named(&self) -> Vec<(String, Tensor<2>)> {
        let each = self.places.iter().zip(&self.loras);
        each.flat_map(|(place, lora)| {
            [
                (format!("{place}.a"), lora.a.val()),
                (format!("{place}.b"), lora.b.val()),
            ]
        })
        .collect()
    }

    /// [`Self::named`] with the names that the walk over the module has in their place.
    pub fn walked_names(&self) -> BTreeMap<String, String> {
        let each = self.places.iter().enumerate();
        each.flat_map(|(i, place)| {
            ["a", "b"].map(|matrix| (format!("{place}.{matrix}"), format!("loras.{i}.{matrix}")))
        })
        .collect()
    }

    /// How many numbers it has.
    pub fn parameters(&self) -> usize {
        let count = |lora: &Lora| {
            lora.a.dims().iter().product::<usize>() + lora.b.dims()[0] * lora.columns()
        };
        self.loras.iter().map(count).sum()
    }
}

/// Makes the additions part of the weights that they are to.
pub fn merge(linears: Vec<Adaptable<'_>>) -> Result<()> {
    for Adaptable { parts, linear } in linears {
        if linear.adapters.is_empty() {
            continue;
        }
        let weight = linear.weight.val();
        if ops::packed::is_packed(&weight) {
            return Err(Error::invalid(
                "adapter",
                format!(
                    "{} is held in fewer bits, expected f32: merge into the model as it was, then quantise",
                    parts.join(", ")
                ),
            ));
        }
        let [inputs, _] = weight.dims();
        let mut merged = weight;
        for lora in linear.adapters.drain(..) {
            let place = [0..inputs, lora.first..lora.first + lora.columns()];
            let addition = ops::linear(lora.a.val(), lora.b.val(), None).mul_scalar(lora.scale);
            let old = merged.clone().slice(place.clone());
            merged = merged.slice_assign(place, old + addition);
        }
        linear.weight = Param::from_tensor(merged);
    }
    Ok(())
}

/// Whether a target means this name.
fn is_meant(name: &str, target: &str) -> bool {
    name.strip_suffix(target)
        .is_some_and(|before| !target.is_empty() && (before.is_empty() || before.ends_with('.')))
}

/// Columns of a layer that have a name.
struct Part {
    name: &'static str,
    place: String,
    inputs: usize,
    first: usize,
    columns: usize,
}

/// All parts of all layers, in order.
fn parts(linears: &[Adaptable<'_>]) -> Vec<Part> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all = Vec::new();
    for linear in linears {
        let [inputs, outputs] = linear.linear.weight.dims();
        let columns = outputs / linear.parts.len().max(1);
        for (i, &name) in linear.parts.iter().enumerate() {
            let number = seen.entry(name).or_default();
            all.push(Part {
                name,
                place: format!("{name}.{number}"),
                inputs,
                first: i * columns,
                columns,
            });
            *number += 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn::tensor::{Device, Distribution, Tolerance};

    /// A layer of three parts and one of a single part.
    #[derive(Module, Debug)]
    struct Model {
        qkv: Linear,
        out: Linear,
    }

    impl Model {
        fn new() -> Self {
            let mut init = Init::new(3, &Device::flex());
            Model {
                qkv: Linear::with_bias(&mut init, 8, 30, 0.3),
                out: Linear::new(&mut init, 30, 6, 0.3),
            }
        }

        fn linears(&mut self) -> Vec<Adaptable<'_>> {
            vec![
                Adaptable::new(
                    &["attention.q", "attention.k", "attention.v"],
                    &mut self.qkv,
                ),
                Adaptable::whole("attention.out", &mut self.out),
            ]
        }

        fn forward(&self, x: Tensor<2>) -> Tensor<2> {
            self.out.forward(self.qkv.forward(x))
        }
    }

    fn config(targets: &[&str]) -> LoraConfig {
        LoraConfig {
            rank: 2,
            alpha: Some(3.0),
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            dropout: 0.0,
        }
    }

    fn adapter(targets: &[&str]) -> Adapter {
        let mut init = Init::new(1, &Device::flex());
        Adapter::new(&config(targets), &Model::new().linears(), &mut init).unwrap()
    }

    /// As after some training.
    fn trained(targets: &[&str]) -> Adapter {
        let mut adapter = adapter(targets);
        for lora in &mut adapter.loras {
            let noise = Distribution::Normal(0.0, 0.5);
            lora.b = Param::from_tensor(lora.b.val().random_like(noise));
        }
        adapter
    }

    fn input() -> Tensor<2> {
        let device = Device::flex();
        device.seed(2);
        Tensor::random([5, 8], Distribution::Normal(0.0, 1.0), &device)
    }

    fn refused(config: LoraConfig) -> String {
        let mut init = Init::new(1, &Device::flex());
        let adapter = Adapter::new(&config, &Model::new().linears(), &mut init);
        adapter.unwrap_err().to_string()
    }

    #[test]
    fn a_new_adapter_changes_no_bit() {
        let plain = Model::new();
        let mut model = Model::new();
        adapter(&["q", "v", "attention.out"]).attach(model.linears(), None);
        let (found, expected) = (model.forward(input()), plain.forward(input()));
        assert_eq!(found.into_data(), expected.into_data());
    }

    #[test]
    fn merged_is_as_unmerged_and_touches_its_columns_only() {
        for targets in [&["q", "v"][..], &["attention.k"], &["attention.out", "v"]] {
            let mut model = Model::new();
            trained(targets).attach(model.linears(), None);
            let unmerged = model.forward(input()).into_data();
            assert_ne!(unmerged, Model::new().forward(input()).into_data());
            merge(model.linears()).unwrap();
            assert!(model.qkv.adapters.is_empty());
            let merged = model.forward(input()).into_data();
            // Sums of some dozen products in another order.
            merged.assert_approx_eq::<f32>(&unmerged, Tolerance::rel_abs(1e-5, 1e-5));
        }
        let mut model = Model::new();
        trained(&["attention.k"]).attach(model.linears(), None);
        merge(model.linears()).unwrap();
        let columns =
            |model: &Model, first| model.qkv.weight.val().narrow(1, first, 10).into_data();
        let plain = Model::new();
        for (first, changes) in [(0, false), (10, true), (20, false)] {
            let (merged, plain) = (columns(&model, first), columns(&plain, first));
            assert_eq!(merged != plain, changes, "{first}");
        }
    }

    /// Only the additions learn, and they learn what a full weight would, projected.
    #[test]
    fn gradients_reach_the_additions_alone() {
        let mut init = Init::new(1, &Device::flex().autodiff());
        let mut model = Model::new();
        let adapter = Adapter::new(&config(&["v"]), &model.linears(), &mut init).unwrap();
        adapter.attach(model.linears(), None);
        let gradients = model.forward(input()).sum().backward();
        let lora = &adapter.loras[0];
        // b is zero, so that no gradient passes it yet.
        let a = lora.a.val().grad(&gradients).unwrap();
        assert!(a.abs().max().into_scalar::<f32>() == 0.0);
        let found = lora.b.val().grad(&gradients).unwrap();
        // d sum(y) / d qkv = the rows' sums of the second weight.
        let upstream = model.out.weight.val().sum_dim(1).transpose();
        let upstream = upstream.narrow(1, 20, 10).expand([5, 10]);
        let narrow = input().matmul(lora.a.val().inner());
        let expected = narrow.transpose().matmul(upstream).mul_scalar(1.5);
        let tolerance = Tolerance::rel_abs(1e-5, 1e-5);
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), tolerance);
    }

    #[test]
    fn what_is_left_out_follows_from_the_seed() {
        let mut adapter = trained(&["q"]);
        adapter.dropout = 0.5;
        let run = |seed| {
            let mut model = Model::new();
            adapter.attach(model.linears(), seed);
            model.forward(input()).into_data()
        };
        assert_eq!(run(Some(1)), run(Some(1)));
        assert_ne!(run(Some(1)), run(Some(2)));
        assert_ne!(run(Some(1)), run(None));
        let noise = Noise {
            share: 0.3,
            rng: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(1))),
        };
        let mask = noise.mask(20_000);
        let mean = mask.iter().sum::<f32>() / 20_000.0;
        // Five standard deviations of the mean of 20,000.
        assert!(
            (mean - 1.0).abs() < 5.0 * (0.3f32 / 0.7 / 20_000.0).sqrt(),
            "{mean}"
        );
    }

    #[test]
    fn targets_are_names_or_their_ends() {
        let places = |targets: &[&str]| adapter(targets).places;
        assert_eq!(places(&["q"]), ["attention.q.0"]);
        assert_eq!(
            places(&["attention.v", "out"]),
            ["attention.v.0", "attention.out.0"]
        );
        for wrong in ["x", "", "tention.q", ".q", "attention"] {
            let error = refused(config(&[wrong]));
            assert!(error.contains("attention.k, attention.v"), "{error}");
            assert!(error.contains(&format!("\"{wrong}\"")), "{error}");
        }
    }

    #[test]
    fn impossible_configs_are_refused() {
        let with = |change: fn(&mut LoraConfig)| {
            let mut config = config(&["q"]);
            change(&mut config);
            refused(config)
        };
        assert!(with(|c| c.rank = 0).contains("rank is 0"));
        assert!(with(|c| c.rank = 9).contains("expected 1 to 8"));
        assert!(with(|c| c.alpha = Some(f64::NAN)).contains("alpha"));
        assert!(with(|c| c.alpha = Some(0.0)).contains("alpha"));
        assert!(with(|c| c.dropout = 1.0).contains("dropout"));
        assert!(with(|c| c.targets.clear()).contains("targets is empty"));
    }
}
