//! AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with global gradient clipping, [`super::muon`] for
//! the matrices that are its own, and the moving average of the weights; all kept by parameter name so that
//! they can be saved and read.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

use super::config::{OptimizerKind, RunConfig};
use super::muon;
use crate::nn::ComputePrecision;
use crate::nn::ops::{self, AdamW};

const EPSILON: f32 = 1e-8;

/// Gradients by parameter name, flattened.
#[derive(Default)]
pub struct NamedGradients {
    pub(crate) by_name: BTreeMap<String, Tensor<1>>,
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
    /// Mean of the gradients; Muon's momentum.
    pub first: Tensor<1>,
    /// Mean of their squares; AdamW's alone.
    pub second: Option<Tensor<1>>,
}

/// AdamW, Muon and the moving average.
pub struct Optimizer {
    /// By parameter name.
    pub moments: BTreeMap<String, Moments>,
    /// By parameter name; empty when `ema_decay` is 0.
    pub ema: BTreeMap<String, Tensor<1>>,
    kind: OptimizerKind,
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    ema_decay: f64,
    /// Of Muon's products.
    precision: ComputePrecision,
}

impl Optimizer {
    /// An optimizer that has seen nothing.
    pub fn new(config: &RunConfig) -> Self {
        Optimizer {
            moments: BTreeMap::new(),
            ema: BTreeMap::new(),
            kind: config.optimizer,
            weight_decay: config.weight_decay,
            beta1: config.beta1,
            beta2: config.beta2,
            ema_decay: config.ema_decay,
            precision: config.precision,
        }
    }

    /// Whether AdamW moves this parameter, so that it needs second moments.
    pub fn uses_adamw(&self, name: &str) -> bool {
        self.kind == OptimizerKind::AdamW || !muon::is_hidden_matrix(name)
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
        let mut gradients = gradients.by_name;
        let together = self.muon_together(&module, &mut gradients, scale);
        let mut mapper = Apply {
            path: Vec::new(),
            gradients,
            together,
            learning_rate,
            adamw: AdamW {
                learning_rate: learning_rate as f32,
                gradient_scale: scale as f32,
                beta1: self.beta1 as f32,
                beta2: self.beta2 as f32,
                correction1: (1.0 - self.beta1.powf(count)) as f32,
                correction2: (1.0 - self.beta2.powf(count)) as f32,
                eps: EPSILON,
                decay: 1.0,
            },
            // A young average follows fast: no memory of the first, random weights.
            ema_decay: self.ema_decay.min(count / (count + 10.0)),
            optimizer: self,
        };
        module.map(&mut mapper)
    }

    /// Muon's updates of all its matrices, by name, on devices where those of one shape are quicker together; none
    /// on the CPU. Takes their gradients and momenta.
    fn muon_together<M: Module>(
        &mut self,
        module: &M,
        gradients: &mut BTreeMap<String, Tensor<1>>,
        scale: f64,
    ) -> BTreeMap<String, (Tensor<1>, Moments)> {
        let mut updates = BTreeMap::new();
        if self.kind != OptimizerKind::Muon {
            return updates;
        }
        let mut shapes = MatrixShapes::default();
        module.visit(&mut shapes);
        for (shape, names) in shapes.by_shape {
            let found: Vec<(String, Tensor<1>)> = names
                .into_iter()
                .filter_map(|name| gradients.remove_entry(&name))
                .collect();
            let Some((_, first)) = found.first() else {
                continue;
            };
            if ops::is_cpu(&first.device()) {
                gradients.extend(found);
                continue;
            }
            let [rows, columns] = shape;
            let stack = |all: Vec<Tensor<1>>| {
                let count = all.len();
                Tensor::cat(all, 0).reshape([count, rows, columns])
            };
            let known: Vec<Option<Moments>> = found
                .iter()
                .map(|(name, _)| self.moments.remove(name))
                .collect();
            // All have moments, or, at the first step, none.
            let known: Option<Vec<Tensor<1>>> = known
                .into_iter()
                .map(|known| known.map(|known| known.first))
                .collect();
            let (names, values): (Vec<String>, Vec<Tensor<1>>) = found.into_iter().unzip();
            let (update, momentum) =
                muon::step_together(stack(values).mul_scalar(scale), known.map(stack));
            let row =
                |all: &Tensor<3>, i: usize| all.clone().narrow(0, i, 1).reshape([rows * columns]);
            for (i, name) in names.into_iter().enumerate() {
                let moments = Moments {
                    first: row(&momentum, i),
                    second: None,
                };
                updates.insert(name, (row(&update, i), moments));
            }
        }
        updates
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

/// The names of Muon's matrices, by `[rows, columns]`.
#[derive(Default)]
struct MatrixShapes {
    path: Vec<String>,
    by_shape: BTreeMap<[usize; 2], Vec<String>>,
}

impl ModuleVisitor for MatrixShapes {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        if muon::is_hidden_matrix(&name) {
            let dims = param.val().dims();
            let shape = [dims[0], dims.iter().product::<usize>() / dims[0]];
            self.by_shape.entry(shape).or_default().push(name);
        }
    }
}

struct Apply<'a> {
    path: Vec<String>,
    gradients: BTreeMap<String, Tensor<1>>,
    /// Muon's updates that are computed already.
    together: BTreeMap<String, (Tensor<1>, Moments)>,
    learning_rate: f64,
    adamw: AdamW,
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
        let decay = if D >= 2 && !name.contains("embed") && !name.contains("position") {
            1.0 - self.learning_rate * optimizer.weight_decay
        } else {
            1.0
        };
        let param = match (self.together.remove(&name), self.gradients.remove(&name)) {
            (Some((update, moments)), _) => param.map(|old| {
                optimizer.moments.insert(name.clone(), moments);
                let values = old.clone().inner().reshape([count]).mul_scalar(decay)
                    - update.mul_scalar(self.learning_rate);
                rewrap(old, values.reshape(dims))
            }),
            (None, None) => param,
            (None, Some(gradient)) => {
                let known = optimizer.moments.remove(&name);
                param.map(|old| {
                    let values = old.clone().inner().reshape([count]);
                    let (values, moments) = if optimizer.uses_adamw(&name) {
                        adamw_step(self.adamw, decay, values, gradient, known)
                    } else {
                        let matrix = |x: Tensor<1>| x.reshape([dims[0], count / dims[0]]);
                        let gradient = matrix(gradient).mul_scalar(self.adamw.gradient_scale);
                        let known = known.map(|known| matrix(known.first));
                        let (update, momentum) = muon::step(gradient, known, optimizer.precision);
                        let update = update.reshape([count]).mul_scalar(self.learning_rate);
                        let moments = Moments {
                            first: momentum.reshape([count]),
                            second: None,
                        };
                        (values.mul_scalar(decay) - update, moments)
                    };
                    optimizer.moments.insert(name.clone(), moments);
                    rewrap(old, values.reshape(dims))
                })
            }
        };
        // What is not trained stays as it is, to the last bit.
        if optimizer.ema_decay > 0.0 && param.val().is_require_grad() {
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

fn adamw_step(
    adamw: AdamW,
    decay: f64,
    values: Tensor<1>,
    gradient: Tensor<1>,
    known: Option<Moments>,
) -> (Tensor<1>, Moments) {
    let (first, second) = known.map_or((None, None), |known| (Some(known.first), known.second));
    let first = first.unwrap_or_else(|| gradient.zeros_like());
    let second = second.unwrap_or_else(|| gradient.zeros_like());
    let adamw = AdamW {
        decay: decay as f32,
        ..adamw
    };
    let (values, first, second) = ops::adamw(values, gradient, first, second, &adamw);
    let second = Some(second);
    (values, Moments { first, second })
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
