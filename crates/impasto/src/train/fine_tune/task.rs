//! What the loop runs: passes over encoded pairs, for all weights or for additions to them.

use std::path::{Path, PathBuf};

use burn::module::Module;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{ADAPTER, FineTuneConfig};
use crate::checkpoint::adapter::{self, AdapterConfig};
use crate::engine::{SampleSpec, sample_guided};
use crate::families::{Family, FamilyConfig, FamilyLoss, FamilyModel, SaveAs};
use crate::image::{Format, Image};
use crate::models::dalle::Order;
use crate::nn::{Adapt, Adapter};
use crate::observer::NoObserver;
use crate::train::encoded::Encoded;
use crate::train::engine::{Evaluation, Pass, Task};
use crate::train::source::epoch_index;
use crate::{Error, Result, files};

/// What both kinds of training have.
pub struct Session<F: Family> {
    pub config: FineTuneConfig,
    /// Its net is an empty one: that in training is elsewhere.
    pub model: FamilyModel<F>,
    pub training: Encoded,
    pub validation: Encoded,
}

impl<F: Family> Session<F> {
    /// Captions and pictures of a pass; everything random comes from (seed, pass).
    fn batch(&self, pass: u64) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let run = &self.config.run;
        let mut rng = ChaCha8Rng::seed_from_u64(run.seed);
        rng.set_stream(pass + 1);
        let pictures = self.training.image_ids.len() as u64;
        let rows = (0..run.batch_size as u64).map(|row| {
            let number = pass * run.batch_size as u64 + row;
            let sample = epoch_index(run.seed, pictures, number);
            let captions = &self.training.text_ids[sample];
            let caption = &captions[rng.random_range(0..captions.len())];
            let caption = match rng.random_bool(self.config.caption_dropout) {
                true => self.model.unconditional(caption),
                false => caption.clone(),
            };
            (caption, self.training.image_ids[sample].clone())
        });
        rows.unzip()
    }

    fn pass(&self, net: &F::Net, pass: u64) -> Result<Pass> {
        let (captions, image_ids) = self.batch(pass);
        self.losses(net, &captions, &image_ids)
    }

    fn losses(&self, net: &F::Net, captions: &[Vec<u32>], image_ids: &[Vec<u32>]) -> Result<Pass> {
        let weight = self.config.image_loss_weight.or(F::IMAGE_LOSS_WEIGHT);
        let FamilyLoss { loss, metrics } =
            F::loss(net, captions, image_ids, weight.unwrap_or(1.0))?;
        Ok(Pass { loss, metrics })
    }

    fn describe_pass(&self, pass: u64) -> String {
        let size = self.config.run.batch_size as u64;
        format!("samples {} to {}", pass * size, (pass + 1) * size - 1)
    }

    /// The finished model's.
    fn finished_config(&self) -> FamilyConfig<F> {
        let mut config = self.model.config.clone();
        config.name.clone_from(&self.config.name);
        if let Some(licence) = &self.config.licence {
            config.licence.clone_from(licence);
        }
        if let Some(sampling) = &self.config.sampling {
            config.sampling = sampling.clone();
        }
        config
    }

    /// Measures held-out pairs with a transformer that keeps no gradients, and draws some of their captions.
    fn evaluate(&self, net: &F::Net, step: u64, dir: &Path) -> Result<Evaluation> {
        let rows = self.validation.image_ids.len();
        let mut sums: Vec<(String, f64)> = Vec::new();
        for start in (0..rows).step_by(self.config.run.batch_size) {
            let end = (start + self.config.run.batch_size).min(rows);
            let captions: Vec<Vec<u32>> = self.validation.text_ids[start..end]
                .iter()
                .map(|captions| captions[0].clone())
                .collect();
            let image_ids = &self.validation.image_ids[start..end];
            let pass = self.losses(net, &captions, image_ids)?;
            for (name, value) in pass.metrics {
                let name = format!("validation_{name}");
                let value = f64::from(value.into_scalar::<f32>()) * (end - start) as f64;
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name, value)),
                }
            }
        }
        for (_, sum) in &mut sums {
            *sum /= rows as f64;
        }
        self.draw(net, step, dir)?;
        Ok(Evaluation {
            values: sums,
            warnings: Vec::new(),
        })
    }

    fn draw(&self, net: &F::Net, step: u64, dir: &Path) -> Result<()> {
        let shown = self.validation.image_ids.len().min(self.config.samples);
        if shown == 0 {
            return Ok(());
        }
        let sampling = self.finished_config().sampling;
        let unconditional = |caption: &[u32]| self.model.unconditional(caption);
        let mut ids = Vec::with_capacity(shown);
        for (row, captions) in self.validation.text_ids[..shown].iter().enumerate() {
            let spec = SampleSpec {
                text_ids: captions[0].clone(),
                seed: row as u64,
            };
            let order = Order::Raster;
            let sampled = sample_guided(
                net,
                &[spec],
                &unconditional,
                &sampling,
                order,
                &mut NoObserver,
            )?;
            ids.extend(sampled.into_iter().map(|image| image.image_ids));
        }
        let pictures = self.model.image.decode(&ids)?;
        let grid = Image::grid(&pictures, shown.min(4), 2)?;
        let samples = dir.join("samples");
        std::fs::create_dir_all(&samples).map_err(Error::io("create", &samples))?;
        files::write_atomic(
            samples.join(format!("step-{step:08}.png")),
            &grid.encode(Format::Png, 100)?,
        )?;
        let captions = self.validation.captions[..shown].join("\n") + "\n";
        files::write_atomic(samples.join("captions.txt"), captions.as_bytes())
    }
}

/// All weights are trained.
pub struct FullFineTune<F: Family>(pub Session<F>);

impl<F: Family> FullFineTune<F> {
    /// Writes the whole model, ready to draw, into the run's directory.
    pub fn save(&self, net: &F::Net, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("model");
        let FullFineTune(session) = self;
        let model = FamilyModel::<F> {
            config: session.finished_config(),
            text: session.model.text.clone(),
            image: session.model.image.clone(),
            net: net.clone(),
            device: session.model.device.clone(),
        };
        model.save(&path, SaveAs::Rounded)?;
        Ok(path)
    }
}

impl<F: Family> Task for FullFineTune<F> {
    type Model = F::Net;

    fn pass(&mut self, model: &F::Net, pass: u64, _step: u64) -> Result<Pass> {
        self.0.pass(model, pass)
    }

    fn describe_pass(&self, pass: u64) -> String {
        self.0.describe_pass(pass)
    }

    fn evaluate(&mut self, model: &F::Net, step: u64, dir: &Path) -> Result<Evaluation> {
        let model = model.valid();
        let evaluation = self.0.evaluate(&model, step, dir)?;
        // The run goes on, but its model can be drawn with from here on.
        self.save(&model, dir)?;
        Ok(evaluation)
    }
}

/// Additions are trained; the model that they are to keeps no gradients and stays as it is.
pub struct LoraFineTune<F: Family> {
    pub session: Session<F>,
    pub base: F::Net,
    pub about: AdapterConfig,
}

impl<F: Family> LoraFineTune<F> {
    /// The model with the additions; `seed` decides what a training pass leaves out of them.
    fn with(&self, adapter: &Adapter, seed: Option<u64>) -> F::Net {
        let mut net = self.base.clone();
        adapter.attach(net.linears(), seed);
        net
    }

    /// Writes the additions into the run's directory.
    pub fn save(&self, adapter: &Adapter, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(ADAPTER);
        adapter::save(&path, &self.about, adapter)?;
        Ok(path)
    }
}

impl<F: Family> Task for LoraFineTune<F> {
    type Model = Adapter;

    fn pass(&mut self, model: &Adapter, pass: u64, _step: u64) -> Result<Pass> {
        // Another stream than that of the batches.
        let seed = !self.session.config.run.seed ^ pass.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.session.pass(&self.with(model, Some(seed)), pass)
    }

    fn describe_pass(&self, pass: u64) -> String {
        self.session.describe_pass(pass)
    }

    fn evaluate(&mut self, model: &Adapter, step: u64, dir: &Path) -> Result<Evaluation> {
        let model = model.valid();
        let evaluation = self.session.evaluate(&self.with(&model, None), step, dir)?;
        self.save(&model, dir)?;
        Ok(evaluation)
    }
}
