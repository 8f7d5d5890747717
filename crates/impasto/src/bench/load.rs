//! From files to a model that can be run.

use std::path::Path;

use burn::tensor::Device;

use super::sizes::{own_config, random};
use super::{Bench, BenchPart, Of};
use crate::checkpoint::weights::{self, WeightPrecision};
use crate::checkpoint::{EMBEDDED_NAME, WeightFormat};
use crate::model::{Model, OpenOptions};
use crate::nn::Init;
use crate::{Error, Result, files};

impl Bench<'_> {
    /// The model in the program, and weights in a file of each format, which the system has in memory.
    pub(super) fn loads(&mut self) -> Result<()> {
        let device = Device::flex();
        let options = OpenOptions::default();
        let seconds = self.timed(|| Model::open(EMBEDDED_NAME, &device, &options).map(drop))?;
        self.loaded(EMBEDDED_NAME, WeightFormat::F32, seconds)?;
        let folder = tempfile::tempdir().map_err(Error::io("create", Path::new("a folder")))?;
        for &format in &self.options.formats {
            let path = folder.path().join(format!("{format}.safetensors"));
            let init = || own_config().init(&mut Init::empty(&device));
            weights::write_held(&path, &random(init(), format))?;
            let seconds = self.timed(|| {
                let bytes = files::map(&path)?;
                weights::load(init(), &path, &bytes, WeightPrecision::new(format, None)?).map(drop)
            })?;
            self.loaded("Dalle 12 x 768", format, seconds)?;
        }
        Ok(())
    }

    fn loaded(&mut self, model: &str, precision: WeightFormat, seconds: f64) -> Result<()> {
        let of = Of {
            what: BenchPart::Load,
            model,
            precision,
            batch: 1,
            unit: "model",
            count: 1.0,
            bytes: None,
            operations: None,
        };
        self.record(of, seconds)
    }
}
