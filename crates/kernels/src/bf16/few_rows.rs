//! Products of few rows in the tile unit's order of sums, by vectors: tiles of up to [`MOST`] rows are mostly empty, and
//! loading them does not keep memory busy. The results are the same bits as the tile unit's, which ignores MXCSR, rounds
//! to nearest, and flushes subnormals to zero (Intel, Software Developer's Manual, volume 2,
//! `TDPBF16PS`).

use super::tiles::LINES;
use crate::amx::TILE;

/// Rows up to which vectors are taken.
pub(super) const MOST: usize = 4;

/// Panels that are read side by side: as many as there are registers for.
pub(super) const fn panels(rows: usize) -> usize {
    if rows <= 2 { MOST_PANELS } else { 2 }
}

/// The most of them.
pub(super) const MOST_PANELS: usize = 4;

/// How far ahead of a panel's weights its next ones are prefetched, in tiles.
const AHEAD: usize = 2;

/// Sums of rows, of [`panels`] panels each, row after row.
#[repr(align(64))]
pub(super) struct Sums(pub(super) [[f32; LINES]; 8]);

/// Where a product of a row or some with panels reads.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// Tiles of each panel.
    pub(super) tiles: usize,
    /// The tiles of the rows.
    pub(super) a: *const u8,
    /// Those of [`panels`] panels; where there are fewer, one of them again.
    pub(super) b: [*const u8; MOST_PANELS],
    /// Bytes from a panel's end to the panel that the next call reads in its place.
    pub(super) next: usize,
}

impl Call {
    /// Adds the products of `rows` rows to their sums.
    ///
    /// # Safety
    /// The processor has AVX-512; there are 1 to [`MOST`] rows; all that is named exists.
    pub(super) unsafe fn add(self, rows: usize, sums: &mut Sums) {
        // The last tiles prefetch what the next call begins with.
        let last = self.tiles.min(AHEAD);
        let first = self.tiles - last;
        let call = |call: Self, ahead: usize, sums: &mut Sums| {
            if call.tiles > 0 {
                // SAFETY: the caller's.
                unsafe {
                    match rows {
                        1 => call.rows_1(ahead, sums),
                        2 => call.rows_2(ahead, sums),
                        3 => call.rows_3(ahead, sums),
                        _ => call.rows_4(ahead, sums),
                    }
                }
            }
        };
        let soon = AHEAD * TILE;
        call(
            Self {
                tiles: first,
                ..self
            },
            soon,
            sums,
        );
        call(
            Self {
                tiles: last,
                a: self.a.wrapping_add(first * TILE),
                b: self.b.map(|b| b.wrapping_add(first * TILE)),
                ..self
            },
            self.next.wrapping_add(soon.min(self.tiles * TILE)),
            sums,
        );
    }
}

/// Two numbers of a row for all lanes: the even step's and the odd step's.
macro_rules! row {
    ($at:literal, $even:literal, $odd:literal) => {
        concat!(
            "vpbroadcastd zmm",
            $odd,
            ", dword ptr [{a} + {step} + ",
            $at,
            "]\n",
            "vpslld zmm",
            $even,
            ", zmm",
            $odd,
            ", 16\n",
            "vpandd zmm",
            $odd,
            ", zmm",
            $odd,
            ", zmm31\n",
        )
    };
}

/// A pair of steps of a panel with all rows, into their chains.
macro_rules! panel {
    ($b:literal, $([$even:literal, $odd:literal, $x_even:literal, $x_odd:literal])*) => {
        concat!(
            "prefetcht0 byte ptr [{", $b, "} + {ahead}]\n",
            "vmovdqu32 zmm29, zmmword ptr [{", $b, "}]\n",
            "vpslld zmm28, zmm29, 16\n",
            "vpandd zmm29, zmm29, zmm31\n",
            $(
                "vfmadd231ps zmm", $even, ", zmm28, zmm", $x_even, "\n",
                "vfmadd231ps zmm", $odd, ", zmm29, zmm", $x_odd, "\n",
            )*
            "add {", $b, "}, 64\n",
        )
    };
}

/// After a tile: both chains of a row and a panel, added to its sum.
macro_rules! sum {
    ($at:literal, $even:literal, $odd:literal) => {
        concat!(
            "vaddps zmm28, zmm",
            $even,
            ", zmm",
            $odd,
            "\n",
            "vaddps zmm28, zmm28, zmmword ptr [{sums} + ",
            $at,
            "]\n",
            "vmovaps zmmword ptr [{sums} + ",
            $at,
            "], zmm28\n",
        )
    };
}

/// A method for a number of rows. All of it is assembly, as compiled code may not run with subnormals flushed to zero.
macro_rules! for_rows {
    ($name:ident; $($chain:literal)*; $($row:expr)*; $($panel:expr)*; $($sum:expr)*) => {
        #[target_feature(enable = "avx512f")]
        unsafe fn $name(self, ahead: usize, sums: &mut Sums) {
            let mut control = [0u32; 2];
            let [b0, b1, b2, b3] = self.b;
            // SAFETY: the caller's; MXCSR is restored in the end.
            unsafe {
                std::arch::asm!(
                    "stmxcsr dword ptr [{control}]",
                    "mov {step:e}, dword ptr [{control}]",
                    // Flush to zero, denormals are zero.
                    "or {step:e}, 0x8040",
                    "mov dword ptr [{control} + 4], {step:e}",
                    "ldmxcsr dword ptr [{control} + 4]",
                    "mov {step:e}, 0xFFFF0000",
                    "vpbroadcastd zmm31, {step:e}",
                    "2:",
                    $(concat!("vpxord zmm", $chain, ", zmm", $chain, ", zmm", $chain),)*
                    "xor {step:e}, {step:e}",
                    "3:",
                    $($row,)*
                    $($panel,)*
                    "add {step}, 4",
                    "cmp {step}, 64",
                    "jb 3b",
                    $($sum,)*
                    "add {a}, 1024",
                    "dec {tiles}",
                    "jnz 2b",
                    "ldmxcsr dword ptr [{control}]",
                    // Not all numbers of rows have four panels.
                    "/* {b0} {b1} {b2} {b3} */",
                    control = in(reg) control.as_mut_ptr(),
                    step = out(reg) _,
                    a = inout(reg) self.a => _,
                    b0 = inout(reg) b0 => _,
                    b1 = inout(reg) b1 => _,
                    b2 = inout(reg) b2 => _,
                    b3 = inout(reg) b3 => _,
                    ahead = in(reg) ahead,
                    tiles = inout(reg) self.tiles => _,
                    sums = in(reg) sums.0.as_mut_ptr(),
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                    out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                    out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                    out("zmm28") _, out("zmm29") _, out("zmm31") _,
                    options(nostack)
                )
            }
        }
    };
}

#[rustfmt::skip]
impl Call {
    for_rows!(rows_1;
        "0" "1" "2" "3" "4" "5" "6" "7";
        row!("0", "16", "17");
        panel!("b0", ["0", "1", "16", "17"])
        panel!("b1", ["2", "3", "16", "17"])
        panel!("b2", ["4", "5", "16", "17"])
        panel!("b3", ["6", "7", "16", "17"]);
        sum!("0", "0", "1") sum!("64", "2", "3") sum!("128", "4", "5") sum!("192", "6", "7")
    );
    for_rows!(rows_2;
        "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15";
        row!("0", "16", "17") row!("64", "18", "19");
        panel!("b0", ["0", "1", "16", "17"] ["8", "9", "18", "19"])
        panel!("b1", ["2", "3", "16", "17"] ["10", "11", "18", "19"])
        panel!("b2", ["4", "5", "16", "17"] ["12", "13", "18", "19"])
        panel!("b3", ["6", "7", "16", "17"] ["14", "15", "18", "19"]);
        sum!("0", "0", "1") sum!("64", "2", "3") sum!("128", "4", "5") sum!("192", "6", "7")
        sum!("256", "8", "9") sum!("320", "10", "11") sum!("384", "12", "13") sum!("448", "14", "15")
    );
    for_rows!(rows_3;
        "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11";
        row!("0", "16", "17") row!("64", "18", "19") row!("128", "20", "21");
        panel!("b0", ["0", "1", "16", "17"] ["4", "5", "18", "19"] ["8", "9", "20", "21"])
        panel!("b1", ["2", "3", "16", "17"] ["6", "7", "18", "19"] ["10", "11", "20", "21"]);
        sum!("0", "0", "1") sum!("64", "2", "3")
        sum!("128", "4", "5") sum!("192", "6", "7")
        sum!("256", "8", "9") sum!("320", "10", "11")
    );
    for_rows!(rows_4;
        "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15";
        row!("0", "16", "17") row!("64", "18", "19") row!("128", "20", "21") row!("192", "22", "23");
        panel!("b0", ["0", "1", "16", "17"] ["4", "5", "18", "19"] ["8", "9", "20", "21"] ["12", "13", "22", "23"])
        panel!("b1", ["2", "3", "16", "17"] ["6", "7", "18", "19"] ["10", "11", "20", "21"] ["14", "15", "22", "23"]);
        sum!("0", "0", "1") sum!("64", "2", "3")
        sum!("128", "4", "5") sum!("192", "6", "7")
        sum!("256", "8", "9") sum!("320", "10", "11")
        sum!("384", "12", "13") sum!("448", "14", "15")
    );
}
