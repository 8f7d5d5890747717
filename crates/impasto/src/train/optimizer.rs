//! AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with global gradient clipping, and the moving
//! average of the weights, both kept by parameter name so that they can be saved and read.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

use super::config::RunConfig;
use crate::nn::ops::{self, AdamW};

const EPSILON: f32 = 1e-8;

/// Gradients by parameter name, flattened.
#[derive(Default)]
pub struct NamedGradients {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl NamedGradients {
    /// Takes the gradients of `module`'s parameters out of a backward pass.
    pub fn collect<M: Module>(module: &M, gradients: &Gradients) -> Self {
        let mut visitor = Collect {
            path: Vec::new(),
            gradients,
            by_name: BTreeMap::new(),
        };
        module.visit(&mut visitor);
        NamedGradients {
            by_name: visitor.by_name,
        }
    }

    /// Adds another pass's gradients.
    pub fn add(&mut self, other: NamedGradients) {
        for (name, gradient) in other.by_name {
            let sum = match self.by_name.remove(&name) {
                Some(known) => known + gradient,
                None => gradient,
            };
            self.by_name.insert(name, sum);
        }
    }

    /// The norm of the whole gradient.
    pub fn norm(&self) -> f64 {
        let total = self
            .by_name
            .values()
            .map(|gradient| gradient.clone().square().sum())
            .reduce(|a, b| a + b);
        total
            .map_or(0.0, |total| f64::from(total.into_scalar::<f32>()))
            .max(0.0)
            .sqrt()
    }
}

struct Collect<'a> {
    path: Vec<String>,
    gradients: &'a Gradients,
    by_name: BTreeMap<String, Tensor<1>>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            let count: usize = gradient.dims().iter().product();
            self.by_name
                .insert(self.path.join("."), gradient.reshape([count]));
        }
    }
}

/// First and second moments of one parameter.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Mean of the gradients.
    pub first: Tensor<1>,
    /// Mean of their squares.
    pub second: Tensor<1>,
}

/// AdamW and the moving average.
pub struct Optimizer {
    /// By parameter name.
    pub moments: BTreeMap<String, Moments>,
    /// By parameter name; empty when `ema_decay` is 0.
    pub ema: BTreeMap<String, Tensor<1>>,
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    ema_decay: f64,
}

impl Optimizer {
    /// An optimizer that has seen nothing.
    pub fn new(config: &RunConfig) -> Self {
        Optimizer {
            moments: BTreeMap::new(),
            ema: BTreeMap::new(),
            weight_decay: config.weight_decay,
            beta1: config.beta1,
            beta2: config.beta2,
            ema_decay: config.ema_decay,
        }
    }

    /// One step, number `step` from 0. `scale` multiplies the gradients (clipping, accumulation).
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: NamedGradients,
        learning_rate: f64,
        scale: f64,
        step: u64,
    ) -> M {
        let count = (step + 1) as f64;
        let mut mapper = Apply {
            path: Vec::new(),
            gradients: gradients.by_name,
            learning_rate,
            scale,
            correction1: 1.0 - self.beta1.powf(count),
            correction2: 1.0 - self.beta2.powf(count),
            // A young average follows fast: no memory of the first, random weights.
            ema_decay: self.ema_decay.min(count / (count + 10.0)),
            optimizer: self,
        };
        module.map(&mut mapper)
    }

    /// `module` with the averaged weights; as it is when there is no average.
    pub fn averaged<M: Module>(&self, module: M) -> M {
        if self.ema.is_empty() {
            return module;
        }
        module.map(&mut Averaged {
            path: Vec::new(),
            ema: &self.ema,
        })
    }
}

struct Apply<'a> {
    path: Vec<String>,
    gradients: BTreeMap<String, Tensor<1>>,
    learning_rate: f64,
    scale: f64,
    correction1: f64,
    correction2: f64,
    ema_decay: f64,
    optimizer: &'a mut Optimizer,
}

impl ModuleMapper for Apply<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let dims = param.val().dims();
        let count: usize = dims.iter().product();
        let optimizer = &mut *self.optimizer;
        let param = match self.gradients.remove(&name) {
            None => param,
            Some(gradient) => {
                let Moments { first, second } =
                    optimizer.moments.remove(&name).unwrap_or_else(|| Moments {
                        first: gradient.zeros_like(),
                        second: gradient.zeros_like(),
                    });
                let decay = if D >= 2 && !name.contains("embedding") && !name.contains("position") {
                    1.0 - self.learning_rate * optimizer.weight_decay
                } else {
                    1.0
                };
                let adam = AdamW {
                    learning_rate: self.learning_rate as f32,
                    gradient_scale: self.scale as f32,
                    beta1: optimizer.beta1 as f32,
                    beta2: optimizer.beta2 as f32,
                    correction1: self.correction1 as f32,
                    correction2: self.correction2 as f32,
                    eps: EPSILON,
                    decay: decay as f32,
                };
                param.map(|old| {
                    let values = old.clone().inner().reshape([count]);
                    let (values, first, second) =
                        ops::adamw(values, gradient, first, second, &adam);
                    optimizer
                        .moments
                        .insert(name.clone(), Moments { first, second });
                    rewrap(old, values.reshape(dims))
                })
            }
        };
        if optimizer.ema_decay > 0.0 {
            let current = param.val().inner().reshape([count]);
            let average = match optimizer.ema.remove(&name) {
                Some(known) => {
                    known.mul_scalar(self.ema_decay) + current.mul_scalar(1.0 - self.ema_decay)
                }
                None => current,
            };
            optimizer.ema.insert(name, average);
        }
        param
    }
}

struct Averaged<'a> {
    path: Vec<String>,
    ema: &'a BTreeMap<String, Tensor<1>>,
}

impl ModuleMapper for Averaged<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(average) = self.ema.get(&self.path.join(".")) else {
            return param;
        };
        let dims = param.val().dims();
        param.map(|old| rewrap(old, average.clone().reshape(dims)))
    }
}

/// `values` as a parameter in the place of `old`: on the same device, with the same claim to gradients.
pub fn rewrap<const D: usize>(old: Tensor<D>, values: Tensor<D>) -> Tensor<D> {
    let requires = old.is_require_grad();
    let new = if old.is_autodiff() {
        Tensor::from_inner(values)
    } else {
        values
    };
    new.set_require_grad(requires)
}
