//! Which device the models run on. A device given by name is used or refused, never replaced.

pub use burn::tensor::Device;

use crate::{Error, Result};

/// The names of devices, whether this build has them or not; "auto" is none of them.
pub const NAMES: [&str; 6] = ["cpu", "cuda", "vulkan", "metal", "tch-cuda", "tch"];

/// The device called `name`, one of [`NAMES`] or "auto", and a line that describes it.
pub fn select(name: &str) -> Result<(Device, String)> {
    let refused = |reason: String| {
        Err(Error::Device {
            device: name.to_owned(),
            reason: reason.into(),
        })
    };
    match name {
        "cpu" => Ok(cpu()),
        "auto" => Ok(automatic()),
        "vulkan" | "cuda" | "metal" | "tch" | "tch-cuda" => match named(name) {
            Some(found) => found,
            None => {
                let feature = name.split('-').next().unwrap_or(name);
                refused(format!(
                    "this program was built without it; build it with the feature {feature}"
                ))
            }
        },
        _ => refused(format!("expected auto, {}", NAMES.join(", "))),
    }
}

fn cpu() -> (Device, String) {
    (
        Device::flex(),
        format!("cpu ({} threads)", rayon::current_num_threads()),
    )
}

/// The first GPU that answers, else the CPU.
fn automatic() -> (Device, String) {
    for name in ["tch-cuda", "cuda", "metal", "vulkan"] {
        if let Some(Ok(found)) = named(name) {
            return found;
        }
    }
    cpu()
}

/// A GPU of this build, tried with a small computation; none where the build lacks it.
#[allow(unused_variables)]
fn named(name: &str) -> Option<Result<(Device, String)>> {
    #[cfg(feature = "cuda")]
    if name == "cuda" {
        return Some(tried(name, || Device::cuda(0)));
    }
    // Burn marks this backend as deprecated; docs/decisions/0005 says why it is used.
    #[cfg(feature = "tch")]
    #[allow(deprecated)]
    match name {
        "tch-cuda" => {
            return Some(tried(name, || {
                // Numbers in 32 bits are multiplied as such: LibTorch's own default lets convolutions round them.
                impasto_torch::allow_tf32(false);
                Device::libtorch_cuda(0)
            }));
        }
        "tch" => return Some(tried(name, Device::libtorch)),
        _ => {}
    }
    #[cfg(feature = "vulkan")]
    if name == "vulkan" {
        return Some(tried(name, || {
            Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)
        }));
    }
    #[cfg(feature = "metal")]
    if name == "metal" {
        return Some(tried(name, || {
            Device::metal(burn::tensor::DeviceKind::DefaultDevice)
        }));
    }
    None
}

/// Drivers that don't answer panic inside the backend: caught here and reported as an error.
#[cfg(any(
    feature = "cuda",
    feature = "vulkan",
    feature = "metal",
    feature = "tch"
))]
fn tried(name: &str, make: impl FnOnce() -> Device) -> Result<(Device, String)> {
    let answer = crate::panics::catch_of_all_threads(|| {
        let device = make();
        let sum: f32 = burn::tensor::Tensor::<1>::ones([4], &device)
            .sum()
            .into_scalar();
        (sum == 4.0).then_some(device)
    });
    match answer {
        Ok(Some(device)) => {
            let description = format!("{name} ({device:?})");
            Ok((device, description))
        }
        Ok(None) => Err(Error::Device {
            device: name.to_owned(),
            reason: "computes a wrong sum".into(),
        }),
        Err(caught) => Err(Error::Device {
            device: name.to_owned(),
            reason: crate::error::Reason::because("no such device answers on this machine", caught),
        }),
    }
}

/// Whether `f32` products and convolutions of the device `tch-cuda` may round their factors to tf32, with 10 bits of mantissa;
/// they may not until this is called after [`select`]. For the whole process; other devices stay as they are.
#[allow(unused_variables)]
pub fn allow_tf32(allowed: bool) {
    #[cfg(feature = "tch")]
    impasto_torch::allow_tf32(allowed);
}

/// Keeps the memory that a layer or a step frees for the next one, instead of giving it back to the system: on glibc,
/// large blocks are otherwise mapped and zeroed anew each time. For programs to call once, at their start;
/// it holds for the whole process.
pub fn keep_freed_memory() {
    impasto_kernels::memory::keep_freed();
}

/// Returns the freed memory that [`keep_freed_memory`] holds to the operating system: for programs that keep running after
/// they have unloaded a model.
pub fn give_back_freed_memory() {
    impasto_kernels::memory::give_back_freed();
}
