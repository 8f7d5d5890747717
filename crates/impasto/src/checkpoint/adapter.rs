//! An adapter's folder: `adapter.safetensors` with the additions to a published model's weights, and `config.json`,
//! which says to which model and how large they are.
//!
//! Additions fit any model of the same sizes, but help only the one that they were trained on. Which one that was is
//! identified by a digest of what is never packed and never adapted: embeddings, norms and biases.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use half::f16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::weights::{self, Precision};
use crate::error::Reason;
use crate::models::parameters::{self, LINEAR, Parameters};
use crate::nn::{Adapt, Adapter, Init, LoraConfig};
use crate::sampling::SamplingOptions;
use crate::{Error, Result, files};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "adapter.safetensors";

/// The tag in `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// The only value.
    #[default]
    #[serde(rename = "lora")]
    Lora,
}

/// What an adapter is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// The kind.
    pub architecture: Architecture,
    /// The adapted model's name.
    pub name: String,
    /// SPDX expression of the additions' licence.
    pub licence: String,
    /// The name of the model that it was trained on.
    pub base: String,
    /// [`fingerprint`] of that model.
    pub base_fingerprint: String,
    /// What is adapted.
    pub lora: LoraConfig,
    /// What `generate` uses where nothing else is requested; the model's own where nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingOptions>,
}

/// Writes an adapter's folder, the config last.
pub fn save(dir: &Path, config: &AdapterConfig, adapter: &Adapter) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let named = adapter.named().into_iter();
    let tensors: Parameters = named
        .map(|(name, tensor)| (name, parameters::numbers(tensor)))
        .collect();
    weights::write(&dir.join(WEIGHTS), &tensors, Precision::F32)?;
    let json =
        serde_json::to_vec_pretty(config).map_err(|e| Error::invalid("config", Reason::of(e)))?;
    files::write_atomic(dir.join(CONFIG), &json)
}

/// Whether a folder has an adapter in it.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(WEIGHTS).is_file()
}

/// What the adapter in a folder is.
pub fn config(dir: &Path) -> Result<AdapterConfig> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Err(Error::Missing {
            what: "adapter",
            path: dir.to_owned(),
            hint: "give a folder with config.json and adapter.safetensors, as `impasto train dalle` with \"lora\" in its config writes it".into(),
        });
    }
    let bytes = files::read(&path)?;
    let config: AdapterConfig = serde_json::from_slice(&bytes)
        .map_err(|e| Error::bad_file(&path, Reason::because("not an adapter's config", e)))?;
    let sampling = config.sampling.as_ref();
    let valid = config
        .lora
        .validate()
        .and_then(|()| sampling.map_or(Ok(()), SamplingOptions::validate));
    valid.map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
    Ok(config)
}

/// Reads the adapter in a folder and puts it into `model`, which is called `name` and lies on `device`.
pub fn attach<M: Adapt>(
    dir: &Path,
    model: &mut M,
    name: &str,
    device: &Device,
) -> Result<AdapterConfig> {
    let config = config(dir)?;
    if fingerprint(model) != config.base_fingerprint {
        return Err(Error::bad_file(
            dir,
            format!(
                "is an adapter of {}, whose weights are not those of {name}: give the model that it was trained on",
                config.base
            ),
        ));
    }
    let path = dir.join(WEIGHTS);
    let bytes = files::map(&path)?;
    let tensors = weights::parse(&path, &bytes)?;
    let adapter = Adapter::new(&config.lora, &model.linears(), &mut Init::empty(device))
        .and_then(|adapter| fill(adapter, tensors))
        .map_err(|e| Error::bad_file(&path, Reason::of(e)))?;
    adapter.attach(model.linears(), None);
    Ok(config)
}

/// The additions by the names that files have for them, all of them and no others, in the place of those of `adapter`.
pub(crate) fn fill(adapter: Adapter, mut tensors: Parameters) -> Result<Adapter> {
    let bad = |reason: Reason| Err(Error::invalid("adapter", reason));
    let mut renamed = Parameters::new();
    for (stored, walked) in adapter.walked_names() {
        match tensors.remove(&stored) {
            Some(tensor) => renamed.insert(walked, tensor),
            None => return bad(format!("tensor {stored} is missing").into()),
        };
    }
    if let Some(name) = tensors.keys().next() {
        return bad(format!("unexpected tensor {name}").into());
    }
    let (adapter, report) = parameters::load(adapter, renamed);
    if !report.is_complete() {
        return bad(format!("does not fit its config.json: {}", report.summary()).into());
    }
    Ok(adapter)
}

/// Numbers of each tensor that a fingerprint reads.
const READ: usize = 64;

/// A digest of a model's first embeddings, norms and biases, rounded to 16 bits: the same for a model in f32 and in
/// fewer bits, adapted or not.
pub fn fingerprint<M: Module>(model: &M) -> String {
    let mut visitor = Fingerprint {
        path: Vec::new(),
        containers: Vec::new(),
        digest: Sha256::new(),
    };
    model.visit(&mut visitor);
    let digest = visitor.digest.finalize();
    files::hex(&digest)
}

struct Fingerprint {
    path: Vec<String>,
    containers: Vec<String>,
    digest: Sha256,
}

impl ModuleVisitor for Fingerprint {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let is_weight = self.path.last().is_some_and(|name| name == "weight");
        let of_linear = self.containers.last().is_some_and(|of| of == LINEAR);
        let of_adapter = self.path.iter().any(|name| name == "adapters");
        if of_linear && is_weight || of_adapter {
            return;
        }
        let tensor = param.val();
        let dims = tensor.dims();
        let count: usize = dims.iter().product();
        let first = tensor.reshape([count]).narrow(0, 0, count.min(READ));
        let numbers = parameters::numbers(first);
        self.digest.update(self.path.join("."));
        for size in dims {
            self.digest.update((size as u64).to_le_bytes());
        }
        for &number in numbers.as_slice::<f32>().unwrap_or_default() {
            self.digest.update(f16::from_f32(number).to_le_bytes());
        }
    }
}
