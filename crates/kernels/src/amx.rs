//! Intel AMX: products of whole tiles, 16 rows of 64 bytes, through inline assembly, as the compiler has no stable
//! intrinsics for them. The system must allow a process to use the tiles; they are configured before each piece of
//! work and released after it, so that nothing else pays for saving them.

use std::sync::OnceLock;

/// Bytes of a tile.
pub(crate) const TILE: usize = 1024;

/// What the tile unit multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Support {
    bf16: bool,
    int8: bool,
}

/// Whether the tile unit multiplies bfloat16s, and this process may use it.
pub(crate) fn has_bf16() -> bool {
    support().bf16
}

/// Whether the tile unit multiplies bytes, and this process may use it.
pub(crate) fn has_int8() -> bool {
    support().int8
}

fn support() -> Support {
    static SUPPORT: OnceLock<Support> = OnceLock::new();
    *SUPPORT.get_or_init(|| {
        let none = Support {
            bf16: false,
            int8: false,
        };
        // Bits of leaf 7: AMX-BF16, AMX-TILE, AMX-INT8.
        let features = if std::arch::x86_64::__cpuid(0).eax >= 7 {
            std::arch::x86_64::__cpuid_count(7, 0).edx
        } else {
            0
        };
        let has = |bit: u32| features >> bit & 1 == 1;
        // Packing needs these.
        let vectors = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        if !has(24) || !vectors || !is_permitted() {
            return none;
        }
        Support {
            bf16: has(22) && is_x86_feature_detected!("avx512bf16"),
            int8: has(25),
        }
    })
}

/// Asks the system for the use of tiles by this process. Only Linux is asked: others have other ways.
fn is_permitted() -> bool {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        use std::ffi::c_long;
        const ARCH_PRCTL: c_long = 158;
        const REQUEST_STATE: c_long = 0x1023;
        const TILE_DATA: c_long = 18;
        unsafe extern "C" {
            fn syscall(number: c_long, ...) -> c_long;
        }
        // SAFETY: the call takes two numbers and changes which registers the process may use.
        unsafe { syscall(ARCH_PRCTL, REQUEST_STATE, TILE_DATA) == 0 }
    }
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    {
        false
    }
}

/// Rows and bytes a row of each tile register.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// The shapes of the registers: 0 to 3 are sums, 4 and 5 of the first factor, 6 and 7 of the second.
#[derive(Clone, Copy)]
pub(crate) struct Shapes {
    /// Bytes a row of the first factor; the second has a row for each four of them.
    pub(crate) depth_bytes: u16,
}

/// Runs `work` with configured tiles.
///
/// # Safety
/// [`has_bf16`] or [`has_int8`]; `work` touches tiles of these shapes only, on this thread.
pub(crate) unsafe fn with_tiles<R>(shapes: Shapes, work: impl FnOnce() -> R) -> R {
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: tiles were configured on this thread.
            unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) }
        }
    }
    let mut configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes: [0; 16],
        rows: [0; 16],
    };
    for tile in 0..8 {
        configuration.bytes[tile] = 64;
        configuration.rows[tile] = 16;
    }
    for tile in 4..6 {
        configuration.bytes[tile] = shapes.depth_bytes;
    }
    for tile in 6..8 {
        configuration.rows[tile] = (shapes.depth_bytes / 4) as u8;
    }
    // SAFETY: the processor has tiles, the process may use them, and the configuration is a valid one.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{}]",
            in(reg) &configuration,
            options(nostack, readonly)
        );
    }
    let _release = Release;
    work()
}
