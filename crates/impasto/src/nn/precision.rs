//! Mixed precision: products in bf16 with sums in f32, as on the matrix units of GPUs; master weights, norms,
//! softmax, loss and optimizer stay in f32 (Micikevicius et al. 2018, arXiv:1710.03740; bf16 needs no loss scaling,
//! Kalamkar et al. 2019, arXiv:1905.12322).

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use super::ops;
use crate::{Error, Result};

/// In which type a training multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputePrecision {
    /// Everything in f32.
    #[default]
    F32,
    /// Products in bf16.
    Bf16,
}

impl ComputePrecision {
    /// Refuses a precision that `device` can't compute in.
    pub fn check(self, device: &Device) -> Result<()> {
        let refused = |reason: &str| {
            Err(Error::Device {
                device: format!("{device:?}"),
                reason: reason.into(),
            })
        };
        match self {
            ComputePrecision::F32 => Ok(()),
            ComputePrecision::Bf16 if ops::is_cpu(device) => match impasto_kernels::bf16::unit() {
                Some(_) => Ok(()),
                None => refused(
                    "this processor does not multiply bfloat16 quicker than f32 (AMX does, and AVX-512 BF16, but not Intel's); expected \"precision\": \"f32\"",
                ),
            },
            ComputePrecision::Bf16 if !device.supports_dtype(DType::BF16) => {
                refused("it has no bf16; expected \"precision\": \"f32\"")
            }
            ComputePrecision::Bf16 => Ok(()),
        }
    }
}

/// `module` with the weights of its products in bf16, cast from the ones that it has: gradients of the result
/// reach `module`'s parameters in f32. Embeddings and codebooks are looked up, not multiplied, and stay.
pub fn in_bf16<M: Module>(module: &M) -> M {
    module.clone().map(&mut CastProducts { path: Vec::new() })
}

/// `module` with the kernels of its convolutions in bf16 for inference, where that is quicker; the result is not to be
/// saved.
pub fn convolutions_in_bf16<M: Module>(module: M) -> M {
    module.map(&mut CastConvolutions {
        containers: Vec::new(),
    })
}

struct CastConvolutions {
    containers: Vec<String>,
}

impl ModuleMapper for CastConvolutions {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let of_convolution = self.containers.iter().any(|of| of == CONVOLUTION);
        if D == 4 && of_convolution && ops::packed::convolves_in_bf16(&param.val().device()) {
            param.map(|weight| weight.cast(FloatDType::BF16))
        } else {
            param
        }
    }
}

/// What contains the weight of a [`super::Conv2d`].
const CONVOLUTION: &str = "Struct:Conv2d";

struct CastProducts {
    path: Vec<String>,
}

impl ModuleMapper for CastProducts {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D >= 2 && is_product_weight(&self.path.join(".")) {
            param.map(|weight| weight.cast(FloatDType::BF16))
        } else {
            param
        }
    }
}

/// Whether a parameter of two or more dimensions is multiplied.
fn is_product_weight(name: &str) -> bool {
    name.ends_with(".weight") && !name.contains("embedding") && !name.contains("position")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Conv2d, ConvTranspose2d, Init};

    #[derive(Module, Debug)]
    struct Both {
        conv: Conv2d,
        transposed: ConvTranspose2d,
    }

    #[test]
    fn kernels_of_convolutions_are_cast_and_the_result_is_near() {
        let init = &mut Init::new(1, &Device::flex());
        let both = Both {
            conv: Conv2d::same(init, 24, 40, 3),
            transposed: ConvTranspose2d::new(init, [40, 24], 4, 2, 1),
        };
        let x = init.normal([2, 24, 11, 13], 1.0).val();
        let cast = convolutions_in_bf16(both.clone());
        let in_bf16 = ops::packed::convolves_in_bf16(&Device::flex());
        let expected = if in_bf16 { DType::BF16 } else { DType::F32 };
        assert_eq!(cast.conv.weight.val().dtype(), expected);
        assert_eq!(cast.conv.bias.val().dtype(), DType::F32);
        assert_eq!(cast.transposed.weight.val().dtype(), DType::F32);
        let (y, exact) = (cast.conv.forward(x.clone()), both.conv.forward(x));
        assert_eq!(y.dtype(), DType::F32);
        // Two factors with 8 significant bits each, over 216 products of a result whose deviation is 1.
        let error: f32 = (y - exact).abs().max().into_scalar();
        assert!(error < 0.03, "{error}");
    }

    #[test]
    fn only_weights_of_products_are_cast() {
        for name in [
            "blocks.3.qkv.weight",
            "image_head.weight",
            "decoder.0.blocks.1.conv.weight",
        ] {
            assert!(is_product_weight(name), "{name}");
        }
        for name in ["text_embedding.weight", "own_position.weight", "codebook"] {
            assert!(!is_product_weight(name), "{name}");
        }
    }
}
