//! Which instruction set this processor offers to the kernels.

use std::sync::OnceLock;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Whatever the compiler makes of plain Rust.
    Portable,
    /// AVX2 with FMA (`x86-64-v3`).
    Avx2,
    /// AVX-512F, with AVX2 and FMA.
    Avx512,
    /// NEON, on 64-bit ARM.
    Neon,
}

impl Isa {
    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => matches!(isa(), Isa::Avx2 | Isa::Avx512),
            Isa::Avx512 => isa() == Isa::Avx512,
            Isa::Neon => isa() == Isa::Neon,
        }
    }
}

/// The best instruction set of this processor, found once.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                if is_x86_feature_detected!("avx512f") {
                    return Isa::Avx512;
                }
                return Isa::Avx2;
            }
        }
        if cfg!(target_arch = "aarch64") {
            return Isa::Neon;
        }
        Isa::Portable
    })
}

/// Whether products of bytes run on AVX-512 VNNI; they run on AVX2 otherwise where there is that.
pub fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        crate::simd::has_byte_products()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// What this processor has of the extensions that matter to products, whether the kernels use them or not, and what
/// the compiler's library can tell.
pub fn extensions() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("AVX2", is_x86_feature_detected!("avx2")),
            ("FMA", is_x86_feature_detected!("fma")),
            ("F16C", is_x86_feature_detected!("f16c")),
            ("AVX-512F", is_x86_feature_detected!("avx512f")),
            ("AVX-512 VNNI", is_x86_feature_detected!("avx512vnni")),
            ("AVX-512 BF16", is_x86_feature_detected!("avx512bf16")),
        ];
        found.extend(
            all.into_iter()
                .filter_map(|(name, has)| has.then_some(name)),
        );
    }
    if cfg!(target_arch = "aarch64") {
        found.push("NEON");
    }
    found
}

/// All instruction sets of this processor.
#[cfg(test)]
pub(crate) fn isas() -> Vec<Isa> {
    let mut all = vec![Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon];
    all.retain(|isa| isa.is_available());
    all
}
