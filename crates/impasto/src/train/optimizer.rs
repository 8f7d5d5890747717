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

#[cfg(test)]
mod tests;

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
        let all = self.by_name.values().cloned();
        let total = match self.by_name.values().next() {
            Some(first) if !ops::is_cpu(&first.device()) => {
                Some(Tensor::cat(all.collect(), 0).square().sum())
            }
            _ => all
                .map(|gradient| gradient.square().sum())
                .reduce(|a, b| a + b),
        };
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
    /// On any device; see [`Optimizer::moves_together`].
    #[cfg(test)]
    together: bool,
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
            precision: ComputePrecision::F32,
            #[cfg(test)]
            together: false,
        }
    }

    /// The same with Muon's products in another type.
    pub fn with_products_in(self, precision: ComputePrecision) -> Self {
        Optimizer { precision, ..self }
    }

    /// Whether parameters like this one are moved together: not on the CPU, whose kernels take one at a time.
    fn moves_together(&self, values: &Tensor<1>) -> bool {
        #[cfg(test)]
        if self.together {
            return true;
        }
        !ops::is_cpu(&values.device())
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
        let adamw = AdamW {
            learning_rate: learning_rate as f32,
            gradient_scale: scale as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            correction1: (1.0 - self.beta1.powf(count)) as f32,
            correction2: (1.0 - self.beta2.powf(count)) as f32,
            eps: EPSILON,
            decay: 1.0,
        };
        let mut gradients = gradients.by_name;
        let moved = self.step_together(&module, &mut gradients, learning_rate, &adamw);
        let module = module.map(&mut Apply {
            path: Vec::new(),
            gradients,
            moved,
            learning_rate,
            adamw,
            optimizer: self,
        });
        if self.ema_decay > 0.0 {
            // A young average follows fast: no memory of the first, random weights.
            self.average(&module, self.ema_decay.min(count / (count + 10.0)));
        }
        module
    }

    /// The new values of parameters by name, moved together with others that move alike: on devices other than the CPU,
    /// where hundreds of small operations take longer than what they compute. Takes their gradients.
    fn step_together<M: Module>(
        &mut self,
        module: &M,
        gradients: &mut BTreeMap<String, Tensor<1>>,
        learning_rate: f64,
        adamw: &AdamW,
    ) -> BTreeMap<String, Tensor<1>> {
        let mut moved = BTreeMap::new();
        let first = gradients.values().next();
        if !first.is_some_and(|gradient| self.moves_together(gradient)) {
            return moved;
        }
        let mut by_shape: BTreeMap<[usize; 2], Vec<Parameter>> = BTreeMap::new();
        let (mut decaying, mut others) = (Vec::new(), Vec::new());
        for parameter in parameters(module) {
            if !gradients.contains_key(&parameter.name) {
                continue;
            }
            if self.uses_adamw(&parameter.name) {
                match parameter.decays {
                    true => decaying.push(parameter),
                    false => others.push(parameter),
                }
            } else {
                by_shape
                    .entry(parameter.matrix)
                    .or_default()
                    .push(parameter);
            }
        }
        let decay = 1.0 - learning_rate * self.weight_decay;
        for ([rows, columns], group) in by_shape {
            let group = self.group(group, gradients);
            let shape = [group.names.len(), rows, columns];
            let stack = |all: Vec<Tensor<1>>| Tensor::cat(all, 0).reshape(shape);
            let gradients = stack(group.gradients).mul_scalar(adamw.gradient_scale);
            let momentum = group
                .moments
                .map(|moments| stack(moments.into_iter().map(|moments| moments.first).collect()));
            let (update, momentum) = muon::step_together(gradients, momentum);
            let values = stack(group.values).mul_scalar(decay) - update.mul_scalar(learning_rate);
            let flat = |all: Tensor<3>| all.reshape([shape.iter().product::<usize>()]);
            let (values, first) = (flat(values), flat(momentum));
            self.keep(&mut moved, &group.names, &group.sizes, values, first, None);
        }
        for (group, decay) in [(decaying, decay as f32), (others, 1.0)] {
            if group.is_empty() {
                continue;
            }
            let group = self.group(group, gradients);
            let gradients = Tensor::cat(group.gradients, 0);
            let (first, second) = match group.moments {
                None => (gradients.zeros_like(), gradients.zeros_like()),
                Some(moments) => {
                    let second = moments.iter().map(|moments| {
                        let second = moments.second.clone();
                        second.unwrap_or_else(|| moments.first.zeros_like())
                    });
                    let second = Tensor::cat(second.collect(), 0);
                    let first = moments.into_iter().map(|moments| moments.first);
                    (Tensor::cat(first.collect(), 0), second)
                }
            };
            let adamw = AdamW { decay, ..*adamw };
            let values = Tensor::cat(group.values, 0);
            let (values, first, second) = ops::adamw(values, gradients, first, second, &adamw);
            let second = Some(second);
            self.keep(
                &mut moved,
                &group.names,
                &group.sizes,
                values,
                first,
                second,
            );
        }
        moved
    }

    /// What a step of `parameters` needs, without their names' gradients and moments in the maps.
    fn group(
        &mut self,
        parameters: Vec<Parameter>,
        gradients: &mut BTreeMap<String, Tensor<1>>,
    ) -> Group {
        let moments = parameters
            .iter()
            .map(|parameter| self.moments.remove(&parameter.name));
        // All have moments, or, at the first step, none.
        let moments = moments.collect();
        let found = parameters
            .iter()
            .filter_map(|parameter| gradients.remove(&parameter.name));
        let gradients = found.collect();
        let mut group = Group {
            names: Vec::new(),
            sizes: Vec::new(),
            values: Vec::new(),
            gradients,
            moments,
        };
        for parameter in parameters {
            group.sizes.push(parameter.values.dims()[0]);
            group.names.push(parameter.name);
            group.values.push(parameter.values);
        }
        group
    }

    /// Parts what was moved together.
    fn keep(
        &mut self,
        moved: &mut BTreeMap<String, Tensor<1>>,
        names: &[String],
        sizes: &[usize],
        values: Tensor<1>,
        first: Tensor<1>,
        second: Option<Tensor<1>>,
    ) {
        let mut start = 0;
        for (name, &size) in names.iter().zip(sizes) {
            let part = |all: &Tensor<1>| all.clone().narrow(0, start, size);
            let moments = Moments {
                first: part(&first),
                second: second.as_ref().map(part),
            };
            self.moments.insert(name.clone(), moments);
            moved.insert(name.clone(), part(&values));
            start += size;
        }
    }

    /// Moves the averages of what is trained towards its values. What is not trained stays as it is, to the last bit.
    fn average<M: Module>(&mut self, module: &M, decay: f64) {
        let trained = parameters(module)
            .into_iter()
            .filter(|parameter| parameter.is_trained);
        let (known, new): (Vec<_>, Vec<_>) =
            trained.partition(|parameter| self.ema.contains_key(&parameter.name));
        let averages: Vec<Tensor<1>> = known
            .iter()
            .filter_map(|parameter| self.ema.remove(&parameter.name))
            .collect();
        let step = |average: Tensor<1>, current: Tensor<1>| {
            average.mul_scalar(decay) + current.mul_scalar(1.0 - decay)
        };
        let first = averages.first();
        if first.is_some_and(|average| self.moves_together(average)) {
            let current = known.iter().map(|parameter| parameter.values.clone());
            let all = step(Tensor::cat(averages, 0), Tensor::cat(current.collect(), 0));
            let mut start = 0;
            for parameter in known {
                let size = parameter.values.dims()[0];
                let average = all.clone().narrow(0, start, size);
                self.ema.insert(parameter.name, average);
                start += size;
            }
        } else {
            for (parameter, average) in known.into_iter().zip(averages) {
                let average = step(average, parameter.values);
                self.ema.insert(parameter.name, average);
            }
        }
        let new = new.into_iter();
        self.ema
            .extend(new.map(|parameter| (parameter.name, parameter.values)));
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

/// A parameter of a model.
struct Parameter {
    name: String,
    /// Flattened, without gradients.
    values: Tensor<1>,
    /// Its first dimension, and the product of the others.
    matrix: [usize; 2],
    /// Whether weight decay pulls it.
    decays: bool,
    is_trained: bool,
}

/// Parameters that are moved together, one entry each.
struct Group {
    names: Vec<String>,
    sizes: Vec<usize>,
    values: Vec<Tensor<1>>,
    gradients: Vec<Tensor<1>>,
    moments: Option<Vec<Moments>>,
}

/// All of a module's parameters.
fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut visitor = Visit::default();
    module.visit(&mut visitor);
    visitor.found
}

#[derive(Default)]
struct Visit {
    path: Vec<String>,
    found: Vec<Parameter>,
}

impl ModuleVisitor for Visit {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        let values = param.val();
        let dims = values.dims();
        let count: usize = dims.iter().product();
        self.found.push(Parameter {
            decays: decays::<D>(&name),
            is_trained: values.is_require_grad(),
            values: values.inner().reshape([count]),
            matrix: [dims[0], count / dims[0].max(1)],
            name,
        });
    }
}

/// Whether weight decay pulls a parameter: matrices and kernels, not embeddings.
fn decays<const D: usize>(name: &str) -> bool {
    D >= 2 && !name.contains("embed") && !name.contains("position")
}

struct Apply<'a> {
    path: Vec<String>,
    gradients: BTreeMap<String, Tensor<1>>,
    /// New values that are computed already.
    moved: BTreeMap<String, Tensor<1>>,
    learning_rate: f64,
    adamw: AdamW,
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
        let decay = if decays::<D>(&name) {
            1.0 - self.learning_rate * optimizer.weight_decay
        } else {
            1.0
        };
        match (self.moved.remove(&name), self.gradients.remove(&name)) {
            (Some(values), _) => param.map(|old| rewrap(old, values.reshape(dims))),
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
        }
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
