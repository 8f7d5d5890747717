//! The loop that every training runs: forward, backward, clip, step, average, log, checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use super::checkpoints::{Checkpoints, Snapshot};
use super::config::RunConfig;
use super::metrics::MetricsFile;
use super::optimizer::{Moments, NamedGradients, Optimizer};
use super::timer::{self, Timer};
use crate::checkpoint::weights::{self, LazyTensor, Precision};
use crate::error::Hint;
use crate::models::parameters::{self, Parameters};
use crate::nn::{ComputePrecision, precision as mixed_precision};
use crate::observer;
pub use crate::observer::{Observer, TrainingEvent as Event};
use crate::{Error, Result};

/// Reports what happens in a training.
pub(super) trait ReportEvents {
    /// Passes an event on. A training stops where [`Observer::stop`] says so.
    fn report(&mut self, event: Event);
}

impl ReportEvents for dyn Observer + '_ {
    fn report(&mut self, event: Event) {
        let _ = self.event(&observer::Event::Training(&event));
    }
}

/// The loss of one forward pass and what else is worth logging.
pub struct Pass {
    /// `[1]`, with a gradient.
    pub loss: Tensor<1>,
    /// Further values, `[1]` each.
    pub metrics: Vec<(&'static str, Tensor<1>)>,
}

/// What is trained.
pub trait Task {
    /// The model.
    type Model: Module;

    /// The loss of forward pass number `pass` (from 0, `gradient_accumulation` of them a step).
    fn pass(&mut self, model: &Self::Model, pass: u64, step: u64) -> Result<Pass>;

    /// Whether the model can compute in bf16 (see [`crate::nn::precision`]).
    fn has_mixed_precision(&self) -> bool {
        false
    }

    /// Floating-point operations of a forward and backward pass, where they are known.
    fn pass_operations(&self) -> Option<f64> {
        None
    }

    /// Which data a pass sees, for the message when its loss is not finite.
    fn describe_pass(&self, pass: u64) -> String;

    /// Called after each step, for what gradients don't train. Changes to the returned parameters are kept.
    fn after_step(&mut self, model: Self::Model, _step: u64) -> Result<Self::Model> {
        Ok(model)
    }

    /// What else a checkpoint must hold, by file name.
    fn state(&self) -> BTreeMap<String, Parameters> {
        BTreeMap::new()
    }

    /// Takes back what [`Task::state`] gave.
    fn restore(&mut self, _state: BTreeMap<String, Parameters>) -> Result<()> {
        Ok(())
    }

    /// Measures the averaged model at a checkpoint and may write sample pictures into `dir`.
    fn evaluate(&mut self, model: &Self::Model, step: u64, dir: &Path) -> Result<Evaluation>;
}

/// What [`Task::evaluate`] found.
#[derive(Default)]
pub struct Evaluation {
    /// Metrics on the validation set.
    pub values: Vec<(String, f64)>,
    /// What deserves attention.
    pub warnings: Vec<String>,
}

/// Files that the engine keeps itself.
const MODEL: &str = "model";
const EMA: &str = "ema";
const FIRST: &str = "first";
const SECOND: &str = "second";
/// Steps after each start that don't count for the speed.
const WARM_UP: u64 = 5;

/// Trains to the end, or until stopped; returns the averaged model.
pub fn train<T: Task>(
    task: &mut T,
    mut model: T::Model,
    config: &RunConfig,
    dir: &Path,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<T::Model> {
    let device = model.devices().into_iter().next().unwrap_or_default();
    let mixed = task.has_mixed_precision();
    let precision = config.precision.on(&device.inner(), mixed)?;
    let checkpoints = Checkpoints::open(dir, config.keep_checkpoints)?;
    let mut optimizer = Optimizer::new(config).with_products_in(precision);
    let mut step = 0;
    let mut timer = Timer::new(config);
    let latest = checkpoints.latest(&mut |damaged| {
        observer.report(Event::Warning(format!(
            "{damaged}; this checkpoint is passed over for the one before it"
        )));
    })?;
    match (latest, resume) {
        (Some(_), false) => {
            return Err(Error::invalid(
                "output",
                format!("{} holds checkpoints already", dir.display()),
            )
            .with_hint(Hint::Resume));
        }
        (Some(snapshot), true) => {
            step = snapshot.step;
            model = restore(model, &mut optimizer, task, &mut timer, snapshot)?;
            observer.report(Event::Resumed { step });
            // A run that was killed right after it wrote one has one too many. Where a damaged one is passed over, all
            // stay.
            let newest = checkpoints.list()?.pop();
            if newest.is_some_and(|(newest, _)| newest == step) {
                checkpoints.remove_old()?;
            }
        }
        (None, _) => {}
    }
    let mut metrics = MetricsFile::open(dir, step)?;
    let mut last_good = checkpoints.list()?.pop().map(|(_, path)| path);
    let mut clock = Clock::new(config);
    let mut saved_at = step;
    let mut final_values = None;
    let started_at = step;
    timer.start();
    while step < config.steps && !timer.is_up() {
        let accumulated = config.gradient_accumulation as u64;
        let mut gradients = NamedGradients::default();
        let mut loss = 0.0;
        let mut logged: Vec<(&'static str, f64)> = Vec::new();
        let logs = (step + 1) % config.log_every == 0 || step + 1 == config.steps;
        for micro in 0..accumulated {
            let number = step * accumulated + micro;
            let pass = match precision {
                ComputePrecision::F32 => task.pass(&model, number, step)?,
                ComputePrecision::Bf16 => {
                    task.pass(&mixed_precision::in_bf16(&model), number, step)?
                }
            };
            let value: f64 = pass.loss.clone().into_scalar::<f32>().into();
            if !value.is_finite() {
                return Err(Error::NonFinite {
                    what: "loss",
                    detail: format!(
                        "{value} at step {step}, {}; the last good checkpoint is {}",
                        task.describe_pass(number),
                        last_good
                            .as_ref()
                            .map_or_else(|| "none".to_owned(), |path| path.display().to_string())
                    ),
                });
            }
            loss += value / accumulated as f64;
            if logs {
                for (name, tensor) in pass.metrics {
                    let value: f64 = f64::from(tensor.into_scalar::<f32>()) / accumulated as f64;
                    match logged.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, sum)) => *sum += value,
                        None => logged.push((name, value)),
                    }
                }
            }
            let found = pass.loss.backward();
            gradients.add(NamedGradients::collect(&model, &found));
        }
        let norm = gradients.norm() / accumulated as f64;
        if !norm.is_finite() {
            return Err(Error::NonFinite {
                what: "gradient",
                detail: format!(
                    "norm {norm} at step {step}, {}",
                    task.describe_pass(step * accumulated)
                ),
            });
        }
        let clip = if config.gradient_clip > 0.0 {
            (config.gradient_clip / norm.max(1e-12)).min(1.0)
        } else {
            1.0
        };
        let learning_rate = config.learning_rate_at(step, timer.elapsed());
        model = optimizer.step(
            model,
            gradients,
            learning_rate,
            clip / accumulated as f64,
            step,
        );
        model = task.after_step(model, step)?;
        step += 1;
        clock.tick();
        observer.report(Event::Step {
            step,
            steps: config.steps,
            loss,
            samples_per_second: clock.samples_per_second(),
            operations_per_second: task
                .pass_operations()
                .map(|operations| operations * accumulated as f64 / clock.seconds_per_step()),
            remaining: timer.remaining(clock.remaining(config.steps - step)),
        });
        if logs {
            let mut values = vec![("loss".to_owned(), loss)];
            values.extend(
                logged
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), *value)),
            );
            values.push(("gradient_norm".to_owned(), norm));
            values.push(("learning_rate".to_owned(), learning_rate));
            metrics.log(step, &values)?;
        }
        let stopped = observer.stop();
        let last = step == config.steps || timer.is_up();
        let due = step % config.checkpoint_every == 0 || last;
        if due {
            // Evaluated before the checkpoint is written: it must not change what follows.
            let averaged = optimizer.averaged(model.clone());
            let evaluation = task.evaluate(&averaged, step, dir)?;
            for warning in evaluation.warnings {
                observer.report(Event::Warning(warning));
            }
            metrics.log(step, &evaluation.values)?;
            metrics.plot(dir)?;
            if last {
                final_values = Some(evaluation.values.clone());
            }
            observer.report(Event::Metrics {
                step,
                values: evaluation.values,
            });
        }
        if (due || stopped) && step > saved_at {
            let path = checkpoints.save(step, snapshot(&model, &optimizer, task, &timer))?;
            saved_at = step;
            observer.report(Event::Checkpoint {
                step,
                path: path.clone(),
            });
            last_good = Some(path);
        }
        // The first steps of a start compile kernels and ask for memory.
        if due || step == started_at + WARM_UP {
            clock.restart();
        }
        if stopped {
            return Err(Error::Stopped);
        }
    }
    let averaged = optimizer.averaged(model);
    // A finished run that is resumed has no step left to measure at, but must not pass for that.
    let values = match final_values {
        Some(values) => values,
        None if config.expect.is_empty() => Vec::new(),
        None => task.evaluate(&averaged, step, dir)?.values,
    };
    match missed_expectation(config, &values) {
        Some(reason) => Err(Error::invalid("training", reason)),
        None => Ok(averaged),
    }
}

/// The first metric that ended where a healthy run's does not.
fn missed_expectation(config: &RunConfig, values: &[(String, f64)]) -> Option<String> {
    config.expect.iter().find_map(|(name, bounds)| {
        let value = values
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value);
        match value {
            None => Some(format!(
                "a bound is expected of {name}, which is not measured"
            )),
            Some(value) if bounds.hold(value) => None,
            Some(value) => Some(format!(
                "{name} ended at {value:.4}, a healthy run ends {bounds}"
            )),
        }
    })
}

/// What a checkpoint holds, by file. Nothing is copied before it is written.
fn snapshot<T: Task>(
    model: &T::Model,
    optimizer: &Optimizer,
    task: &T,
    timer: &Timer,
) -> BTreeMap<String, Vec<LazyTensor<'static>>> {
    let lazy = |(name, tensor): (&String, &Tensor<1>)| LazyTensor::of(name.clone(), tensor.clone());
    let moments = |pick: fn(&Moments) -> Option<&Tensor<1>>| {
        let picked = optimizer.moments.iter();
        let picked = picked.filter_map(|(name, moments)| Some((name, pick(moments)?)));
        picked.map(lazy).collect()
    };
    let mut files = BTreeMap::from([
        (MODEL.to_owned(), weights::lazily(model)),
        (FIRST.to_owned(), moments(|moments| Some(&moments.first))),
        (
            SECOND.to_owned(),
            moments(|moments| moments.second.as_ref()),
        ),
        (EMA.to_owned(), optimizer.ema.iter().map(lazy).collect()),
    ]);
    for (file, parameters) in task.state().into_iter().chain(timer.state()) {
        let tensors = parameters.into_iter().map(|(name, data)| {
            let shape = data.shape().to_vec();
            LazyTensor::new(name, Precision::F32, shape, move || {
                data.try_to_vec().unwrap_or_default()
            })
        });
        files.insert(file, tensors.collect());
    }
    files
}

fn restore<T: Task>(
    model: T::Model,
    optimizer: &mut Optimizer,
    task: &mut T,
    timer: &mut Timer,
    mut snapshot: Snapshot,
) -> Result<T::Model> {
    let devices = model.devices();
    let device: Device = devices
        .into_iter()
        .next()
        .map(Device::inner)
        .unwrap_or_default();
    let mut take = |name: &str| snapshot.tensors.remove(name).unwrap_or_default();
    let (weights, average, first, mut second) = (take(MODEL), take(EMA), take(FIRST), take(SECOND));
    let (model, report) = parameters::load(model, weights);
    if !report.is_complete() {
        return Err(Error::invalid(
            "checkpoint",
            format!("does not fit the config: {}", report.summary()),
        ));
    }
    let sizes = flat_sizes(&model);
    let moments = first.iter().chain(&second).chain(&average);
    for (name, data) in moments {
        check_flat(name, data, &sizes)?;
    }
    let tensor = |data: TensorData| Tensor::<1>::from_data(data, &device);
    for (name, first) in first {
        let second = second.remove(&name);
        if second.is_none() && optimizer.uses_adamw(&name) {
            return Err(Error::invalid(
                "checkpoint",
                format!("has no second moments of {name}; was it trained with another optimizer?"),
            ));
        }
        optimizer.moments.insert(
            name,
            Moments {
                first: tensor(first),
                second: second.map(tensor),
            },
        );
    }
    optimizer.ema = average
        .into_iter()
        .map(|(name, data)| (name, tensor(data)))
        .collect();
    timer.restore(snapshot.tensors.remove(timer::FILE))?;
    task.restore(snapshot.tensors)?;
    Ok(model)
}

/// How many numbers each parameter has.
pub(super) fn flat_sizes<M: Module>(model: &M) -> BTreeMap<String, usize> {
    let shapes = parameters::shapes(model).into_iter();
    shapes
        .map(|(name, shape)| (name, shape.iter().product()))
        .collect()
}

/// Refuses what an optimizer keeps of a parameter unless it is a row of as many numbers.
pub(super) fn check_flat(
    name: &str,
    data: &TensorData,
    sizes: &BTreeMap<String, usize>,
) -> Result<()> {
    let found = data.shape();
    match sizes.get(name) {
        Some(&size) if found.as_slice() == [size] => Ok(()),
        Some(size) => Err(Error::invalid(
            "checkpoint",
            format!(
                "a moment or an average of {name} has shape {:?}, expected [{size}]",
                found.as_slice()
            ),
        )),
        None => Err(Error::invalid(
            "checkpoint",
            format!("has a moment or an average of {name}, which the model lacks"),
        )),
    }
}

/// Speed over the last stretch.
struct Clock {
    samples_per_step: f64,
    started: Instant,
    ticks: u64,
}

impl Clock {
    fn new(config: &RunConfig) -> Self {
        let samples_per_step = (config.batch_size * config.gradient_accumulation) as f64;
        Clock {
            samples_per_step,
            started: Instant::now(),
            ticks: 0,
        }
    }

    fn restart(&mut self) {
        self.started = Instant::now();
        self.ticks = 0;
    }

    fn tick(&mut self) {
        self.ticks += 1;
    }

    fn seconds_per_step(&self) -> f64 {
        self.started.elapsed().as_secs_f64() / self.ticks.max(1) as f64
    }

    fn samples_per_second(&self) -> f64 {
        self.samples_per_step / self.seconds_per_step().max(1e-9)
    }

    fn remaining(&self, steps: u64) -> Duration {
        Duration::from_secs_f64((self.seconds_per_step() * steps as f64).min(1e9))
    }
}
