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

/// Whether this processor is Intel's.
pub(crate) fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let leaf = std::arch::x86_64::__cpuid(0);
        let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// What this processor has of the extensions that matter to products, whether the kernels use them or not, and what
/// the compiler's library can detect.
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

/// Bytes of the caches that a core has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caches {
    pub(crate) l1: usize,
    pub(crate) l2: usize,
}

/// The caches of data of this processor, or common ones where it does not report them.
pub(crate) fn caches() -> Caches {
    static CACHES: OnceLock<Caches> = OnceLock::new();
    *CACHES.get_or_init(|| {
        let mut found = Caches {
            l1: 32 << 10,
            l2: 1 << 20,
        };
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__cpuid, __cpuid_count};
            // Leaf 4 of Intel; AMD has the same fields in a leaf of its own.
            let amd =
                __cpuid(0x8000_0000).eax >= 0x8000_001D && __cpuid(0x8000_0001).ecx >> 22 & 1 == 1;
            let leaf = match amd {
                true => Some(0x8000_001D),
                false => (__cpuid(0).eax >= 4).then_some(4),
            };
            for index in 0..8 {
                let Some(leaf) = leaf else { break };
                let cache = __cpuid_count(leaf, index);
                let (kind, level) = (cache.eax & 31, cache.eax >> 5 & 7);
                let bytes = ((cache.ebx >> 22) as usize + 1)
                    * ((cache.ebx >> 12 & 0x3FF) as usize + 1)
                    * ((cache.ebx & 0xFFF) as usize + 1)
                    * (cache.ecx as usize + 1);
                // Of data, or of both; what can't be is a virtual machine's invention.
                match (kind, level) {
                    (0, _) => break,
                    (1 | 3, 1) if (8 << 10..=1 << 20).contains(&bytes) => found.l1 = bytes,
                    (1 | 3, 2) if (128 << 10..=64 << 20).contains(&bytes) => found.l2 = bytes,
                    _ => {}
                }
            }
        }
        found
    })
}

/// All instruction sets of this processor.
#[cfg(test)]
pub(crate) fn isas() -> Vec<Isa> {
    let mut all = vec![Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon];
    all.retain(|isa| isa.is_available());
    all
}
