//! The products: a task takes some panels of weights, and for each of them all rows, so that memory is
//! read once and in order.

use super::integers::Integers;
use super::layout::{BLOCK, Format, LINE, PANEL, Weights};
use crate::gemm::Matrix;
use crate::isa::Isa;
use crate::shared::{SharedPtr, with_scratch};
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512, has_byte_products};
use crate::simd::{Kernel, Portable, Vector};
use crate::team;

/// Panels that are taken together, so that short chains of multiply-adds wait for each other less.
const TOGETHER: usize = 4;

/// Where the result goes; with `load` its chains begin at what is there.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) y: SharedPtr<f32>,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) load: bool,
}

/// The panels of a call of a kernel, and where they and the results are.
#[derive(Clone, Copy)]
pub(super) struct PanelCall {
    pub(super) weights: *const u8,
    panel_bytes: usize,
    pub(super) blocks: usize,
    pub(super) y: *mut f32,
    pub(super) stride: usize,
    /// Outputs from the first panel on; what is beyond does not exist.
    pub(super) columns: usize,
    pub(super) load: bool,
    ahead: Ahead,
}

/// What comes from memory while a panel is multiplied: a part of the panels that are taken next.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const u8,
    /// For each block of the panel.
    lines: usize,
}

/// Calls `work(row, panels, place)` for all panels, [`TOGETHER`] at a time where there are as many;
/// `work` returns how many rows it has done; `prefetches` says that it prefetches the weights of the next moment itself.
pub(super) fn for_panels(
    parallel: bool,
    w: &Weights,
    out: Out,
    rows_at_once: usize,
    prefetches: bool,
    work: impl Fn(usize, usize, PanelCall) -> usize + Sync,
) {
    let panels = w.outputs().div_ceil(PANEL);
    let groups = panels.div_ceil(TOGETHER);
    let tasks = if parallel {
        (8 * rayon::current_num_threads()).min(groups)
    } else {
        1
    };
    let each = groups.div_ceil(tasks);
    let blocks = w.inputs().div_ceil(BLOCK);
    // All rows are multiplied with some panels before the next ones are read, so memory would have nothing to do for all
    // but the first of them.
    let rounds = out.rows.div_ceil(rows_at_once).max(1);
    let lines = if prefetches && rounds == 1 {
        0
    } else {
        w.format().block_bytes().div_ceil(LINE * rounds)
    };
    let task = |index: usize| {
        for group in index * each..((index + 1) * each).min(groups) {
            let first = group * TOGETHER;
            let panels = TOGETHER.min(panels - first);
            let (mut row, mut round) = (0, 0);
            while row < out.rows {
                // SAFETY: the panel exists, and so do the rows and columns of the result.
                let place = unsafe {
                    PanelCall {
                        weights: w.bytes().as_ptr().add(first * w.panel_bytes()),
                        panel_bytes: w.panel_bytes(),
                        blocks,
                        y: out.y.get().add(row * out.stride + first * PANEL),
                        stride: out.stride,
                        columns: w.outputs() - first * PANEL,
                        load: out.load,
                        ahead: Ahead {
                            at: w
                                .bytes()
                                .as_ptr()
                                .wrapping_add((first + panels) * w.panel_bytes())
                                .wrapping_add(round * panels * blocks * lines * LINE),
                            lines: if group + 1 < groups { lines } else { 0 },
                        },
                    }
                };
                row += work(row, panels, place);
                round += 1;
            }
        }
    };
    if tasks > 1 {
        team::for_each(tasks, task);
    } else {
        task(0);
    }
}

impl PanelCall {
    /// The same from the panel `index` on.
    pub(super) fn panel(self, index: usize) -> Self {
        Self {
            weights: self.weights.wrapping_add(index * self.panel_bytes),
            y: self.y.wrapping_add(index * PANEL),
            columns: self.columns.saturating_sub(index * PANEL),
            ahead: Ahead {
                at: self
                    .ahead
                    .at
                    .wrapping_add(index * self.blocks * self.ahead.lines * LINE),
                ..self.ahead
            },
            ..self
        }
    }

    /// Bytes between a block of some panels that are taken together and what they prefetch with it: blocks of theirs, and
    /// at their ends the first ones of the panels after them. The processor looks ahead by itself, but not far enough
    /// for memory to be busy all the time.
    #[inline(always)]
    fn soon(&self, block: usize, panels: usize, format: Format) -> usize {
        let blocks = match format {
            Format::Int8 => 2,
            Format::Int4 => 4,
        };
        let others = if block + blocks < self.blocks {
            0
        } else {
            (panels - 1) * self.panel_bytes
        };
        blocks * format.block_bytes() + others
    }

    /// Prefetches the part of a block of what comes next.
    #[inline(always)]
    pub(super) fn look_ahead<V: Vector>(&self, block: usize) {
        let at = self.ahead.at.wrapping_add(block * self.ahead.lines * LINE);
        for line in 0..self.ahead.lines {
            // SAFETY: the address may be any.
            unsafe { V::prefetch_far(at.wrapping_add(line * LINE)) };
        }
    }

    /// The beginnings of the chains of a row.
    ///
    /// # Safety
    /// `H` registers are a panel; the processor has the instruction set; the row exists.
    #[inline(always)]
    unsafe fn begin<V: Vector, const H: usize>(&self, row: usize) -> [V; H] {
        // SAFETY: the caller's: `columns` of the row exist from the panel on.
        std::array::from_fn(|h| unsafe {
            if !self.load {
                return V::splat(0.0);
            }
            let at = self.y.wrapping_add(row * self.stride + h * V::LANES);
            if self.columns >= PANEL {
                V::load(at)
            } else {
                V::load_first(at, self.columns.saturating_sub(h * V::LANES))
            }
        })
    }

    /// Writes the results of a row.
    ///
    /// # Safety
    /// As for [`Self::begin`].
    #[inline(always)]
    unsafe fn end<V: Vector, const H: usize>(&self, row: usize, y: [V; H]) {
        for (h, y) in y.into_iter().enumerate() {
            let at = self.y.wrapping_add(row * self.stride + h * V::LANES);
            // SAFETY: the caller's: `columns` of the row exist from the panel on.
            unsafe {
                if self.columns >= PANEL {
                    y.store(at);
                } else {
                    y.store_first(at, self.columns.saturating_sub(h * V::LANES));
                }
            }
        }
    }
}

/// The product with activations as they are: up to [`crate::gemm::skinny::MAX_ROWS`] rows.
pub(super) fn with_floats(isa: Isa, parallel: bool, x: Matrix, w: &Weights, out: Out) {
    let (rows, inputs) = (x.rows(), w.padded_inputs());
    with_scratch(rows * inputs, |lines| {
        for (row, line) in lines.chunks_exact_mut(inputs.max(1)).enumerate() {
            x.copy_row(row, line);
        }
        let lines = &*lines;
        for_panels(parallel, w, out, rows, false, |row, panels, place| {
            let args = Floats {
                x: lines[row * inputs..].as_ptr(),
                inputs,
                format: w.format(),
            };
            // SAFETY: rows and panels exist; the caller looked for the instruction set.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => match rows - row {
                        1 => args.run::<Avx512, 1, 4, 1>(panels, place),
                        2 | 3 => args.run::<Avx512, 2, 4, 1>(panels, place),
                        4..8 => args.run::<Avx512, 4, 2, 1>(panels, place),
                        _ => args.run::<Avx512, 8, 2, 1>(panels, place),
                    },
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => match rows - row {
                        1 => args.run::<Avx2, 1, 2, 2>(panels, place),
                        2 | 3 => args.run::<Avx2, 2, 2, 2>(panels, place),
                        _ => args.run::<Avx2, 4, 1, 2>(panels, place),
                    },
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon => match rows - row {
                        1 => args.run::<Neon, 1, 2, 4>(panels, place),
                        2 | 3 => args.run::<Neon, 2, 2, 4>(panels, place),
                        _ => args.run::<Neon, 4, 1, 4>(panels, place),
                    },
                    _ => match rows - row {
                        1 => args.run::<Portable, 1, 2, 2>(panels, place),
                        2 | 3 => args.run::<Portable, 2, 2, 2>(panels, place),
                        _ => args.run::<Portable, 4, 1, 2>(panels, place),
                    },
                }
            }
        });
    });
}

/// Some rows of activations.
#[derive(Clone, Copy)]
struct Floats {
    x: *const f32,
    inputs: usize,
    format: Format,
}

/// [`Floats`] for a panel or more.
struct FloatProduct<const R: usize, const P: usize, const H: usize, const INT4: bool> {
    args: Floats,
    place: PanelCall,
}

impl Floats {
    /// `R` rows, `P` panels at a time; returns `R`.
    ///
    /// # Safety
    /// The processor has the instruction set; `R` rows and `panels` panels exist.
    #[inline(always)]
    unsafe fn run<V: Vector, const R: usize, const P: usize, const H: usize>(
        self,
        panels: usize,
        place: PanelCall,
    ) -> usize {
        let mut done = 0;
        while done < panels {
            let (args, place) = (self, place.panel(done));
            // SAFETY: the caller's.
            unsafe {
                let int4 = self.format == Format::Int4;
                if done + P <= panels {
                    done += P;
                    if int4 {
                        V::enter(FloatProduct::<R, P, H, true> { args, place });
                    } else {
                        V::enter(FloatProduct::<R, P, H, false> { args, place });
                    }
                } else {
                    done += 1;
                    if int4 {
                        V::enter(FloatProduct::<R, 1, H, true> { args, place });
                    } else {
                        V::enter(FloatProduct::<R, 1, H, false> { args, place });
                    }
                }
            }
        }
        R
    }
}

impl<const R: usize, const P: usize, const H: usize, const INT4: bool> Kernel
    for FloatProduct<R, P, H, INT4>
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        debug_assert_eq!(H * V::LANES, PANEL);
        let Self { args, place } = self;
        // SAFETY: the caller's, see `Floats::run`.
        unsafe {
            let mut acc: [[[V; H]; P]; R] =
                std::array::from_fn(|r| std::array::from_fn(|p| place.panel(p).begin(r)));
            // Integers stand as unsigned ones with an offset: this makes them signed.
            let (flip, per_line) = if INT4 {
                (0x8888_8888_u32 as i32, 8)
            } else {
                (0x8080_8080_u32 as i32, 4)
            };
            let mut at = place.weights;
            let mut x = args.x;
            for _ in 0..place.blocks {
                for group in 0..2 {
                    let scales: [[V; H]; P] = std::array::from_fn(|p| {
                        std::array::from_fn(|h| {
                            let first = group * PANEL + h * V::LANES;
                            V::load_bf16(at.add(p * place.panel_bytes + 2 * first))
                        })
                    });
                    for line in 0..32 / per_line {
                        let line = at.add(LINE * (1 + group * 32 / per_line + line));
                        let words: [[V::Words; H]; P] = std::array::from_fn(|p| {
                            std::array::from_fn(|h| {
                                let first = 4 * h * V::LANES;
                                V::xor(V::load_words(line.add(p * place.panel_bytes + first)), flip)
                            })
                        });
                        for i in 0..per_line {
                            let (left, right) = if INT4 {
                                (28 - 8 * (i % 4) - 4 * (i / 4), 28)
                            } else {
                                (24 - 8 * i, 24)
                            };
                            let w: [[V; H]; P] = std::array::from_fn(|p| {
                                std::array::from_fn(|h| {
                                    V::field(words[p][h], left as u32, right).times(scales[p][h])
                                })
                            });
                            for r in 0..R {
                                let x = V::splat(*x.add(r * args.inputs + i));
                                for p in 0..P {
                                    for h in 0..H {
                                        acc[r][p][h] = x.multiply_add(w[p][h], acc[r][p][h]);
                                    }
                                }
                            }
                        }
                        x = x.add(per_line);
                    }
                }
                at = at.add(LINE + LINE * 64 / per_line);
            }
            for (r, row) in acc.into_iter().enumerate() {
                for (p, y) in row.into_iter().enumerate() {
                    place.panel(p).end(r, y);
                }
            }
        }
    }
}

/// The instruction set that products of integers use where another one was chosen, and how far above their
/// values it takes the weights' integers.
pub(super) fn for_integers(isa: Isa, format: Format) -> (Isa, i32) {
    #[cfg(target_arch = "x86_64")]
    let isa = if isa == Isa::Avx512 && !has_byte_products() {
        Isa::Avx2
    } else {
        isa
    };
    let offset = match (format, isa) {
        (Format::Int4, _) => 8,
        #[cfg(target_arch = "x86_64")]
        (Format::Int8, Isa::Avx512) => Avx512::BYTE_OFFSET,
        #[cfg(target_arch = "x86_64")]
        (Format::Int8, Isa::Avx2) => Avx2::BYTE_OFFSET,
        #[cfg(target_arch = "aarch64")]
        (Format::Int8, Isa::Neon) => Neon::BYTE_OFFSET,
        (Format::Int8, _) => Portable::BYTE_OFFSET,
    };
    (isa, offset)
}

/// Rows of rounded activations that are multiplied together, of those that are left.
pub(super) fn rows_together(isa: Isa) -> fn(usize) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => |left| match left {
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        },
        _ => |left| left.min(2),
    }
}

/// The product with rounded activations, of any number of rows, which take turns as [`rows_together`] says; instruction
/// set and the integers' offset are [`for_integers`]'.
pub(super) fn with_integers(isa: Isa, parallel: bool, x: Integers, w: &Weights, out: Out) {
    debug_assert_eq!((x.rows, x.inputs), (out.rows, w.padded_inputs()));
    let together = rows_together(isa);
    let at_once = together(x.rows);
    for_panels(parallel, w, out, at_once, true, |row, panels, place| {
        let args = Bytes {
            words: x.words[row * x.stride..].as_ptr(),
            starts: x.starts[row * x.inputs / 32..].as_ptr(),
            scales: x.scales[row * x.inputs / 32..].as_ptr(),
            format: w.format(),
        };
        // SAFETY: rows and panels exist; the caller looked for the instruction set.
        unsafe {
            match (isa, together(x.rows - row)) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 8) => args.run::<Avx512, 8, 2, 1>(panels, place),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 4) => args.run::<Avx512, 4, 2, 1>(panels, place),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 2) => args.run::<Avx512, 2, 4, 1>(panels, place),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, _) => args.run::<Avx512, 1, 4, 1>(panels, place),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 2) => args.run::<Avx2, 2, 2, 2>(panels, place),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => args.run::<Avx2, 1, 2, 2>(panels, place),
                #[cfg(target_arch = "aarch64")]
                (Isa::Neon, 2) => args.run::<Neon, 2, 1, 4>(panels, place),
                #[cfg(target_arch = "aarch64")]
                (Isa::Neon, _) => args.run::<Neon, 1, 1, 4>(panels, place),
                (_, 2) => args.run::<Portable, 2, 1, 2>(panels, place),
                _ => args.run::<Portable, 1, 1, 2>(panels, place),
            }
        }
    });
}

/// A block of rounded activations: rows of which the words, starts and scales take turns.
#[derive(Clone, Copy)]
struct Bytes {
    words: *const i32,
    starts: *const i32,
    scales: *const f32,
    format: Format,
}

impl Bytes {
    /// `R` rows, `P` panels at a time; returns `R`.
    ///
    /// # Safety
    /// As for [`Floats::run`].
    #[inline(always)]
    unsafe fn run<V: Vector, const R: usize, const P: usize, const H: usize>(
        self,
        panels: usize,
        place: PanelCall,
    ) -> usize {
        let mut done = 0;
        while done < panels {
            let (args, place) = (self, place.panel(done));
            // SAFETY: the caller's.
            unsafe {
                let int4 = self.format == Format::Int4;
                if done + P <= panels {
                    done += P;
                    if int4 {
                        V::enter_with_byte_products(ByteProduct::<R, P, H, true> { args, place });
                    } else {
                        V::enter_with_byte_products(ByteProduct::<R, P, H, false> { args, place });
                    }
                } else {
                    done += 1;
                    if int4 {
                        V::enter_with_byte_products(ByteProduct::<R, 1, H, true> { args, place });
                    } else {
                        V::enter_with_byte_products(ByteProduct::<R, 1, H, false> { args, place });
                    }
                }
            }
        }
        R
    }
}

/// [`Bytes`] for a panel or more.
struct ByteProduct<const R: usize, const P: usize, const H: usize, const INT4: bool> {
    args: Bytes,
    place: PanelCall,
}

impl<const R: usize, const P: usize, const H: usize, const INT4: bool> Kernel
    for ByteProduct<R, P, H, INT4>
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        debug_assert_eq!(H * V::LANES, PANEL);
        let Self { args, place } = self;
        // SAFETY: the caller's, see `Bytes::run`.
        unsafe {
            let mut acc: [[[V; H]; P]; R] =
                std::array::from_fn(|r| std::array::from_fn(|p| place.panel(p).begin(r)));
            let mut at = place.weights;
            for block in 0..place.blocks {
                let soon = place.soon(block, P, if INT4 { Format::Int4 } else { Format::Int8 });
                for p in 0..P {
                    place.panel(p).look_ahead::<V>(block);
                    V::prefetch(at.wrapping_add(p * place.panel_bytes + soon));
                }
                let scales_at = at;
                at = at.add(LINE);
                for half in 0..2 {
                    let group = 2 * block + half;
                    let mut dots: [[[V::Words; H]; P]; R] = std::array::from_fn(|r| {
                        let start = V::splat_words(*args.starts.add(group * R + r));
                        [[start; H]; P]
                    });
                    let x = args.words.add(8 * group * R);
                    for line in 0..if INT4 { 4 } else { 8 } {
                        for p in 0..P {
                            let at = at.add(p * place.panel_bytes);
                            V::prefetch(at.wrapping_add(soon));
                            for h in 0..H {
                                let w = V::load_words(at.add(4 * h * V::LANES));
                                for r in 0..R {
                                    let dot = &mut dots[r][p][h];
                                    if INT4 {
                                        let x = x.add(2 * line * R + r);
                                        *dot = V::dot_nibbles(*dot, V::low_nibbles(w), *x);
                                        *dot = V::dot_nibbles(*dot, V::high_nibbles(w), *x.add(R));
                                    } else {
                                        *dot = V::dot_bytes(*dot, w, *x.add(line * R + r));
                                    }
                                }
                            }
                        }
                        at = at.add(LINE);
                    }
                    for p in 0..P {
                        for h in 0..H {
                            let first = half * PANEL + h * V::LANES;
                            let scale =
                                V::load_bf16(scales_at.add(p * place.panel_bytes + 2 * first));
                            for r in 0..R {
                                let x_scale = V::splat(*args.scales.add(group * R + r));
                                let dot = V::floats(dots[r][p][h]).times(scale);
                                acc[r][p][h] = x_scale.multiply_add(dot, acc[r][p][h]);
                            }
                        }
                    }
                }
            }
            for (r, row) in acc.into_iter().enumerate() {
                for (p, y) in row.into_iter().enumerate() {
                    place.panel(p).end(r, y);
                }
            }
        }
    }
}
