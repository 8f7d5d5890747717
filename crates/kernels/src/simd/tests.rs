//! Every register against plain arithmetic.

use super::*;
use crate::gemm::tests::numbers;
use crate::isa::{Isa, isas};

/// The results of all methods on sixteen lanes of the same inputs, as bits.
struct All<'a> {
    floats: &'a [f32; 48],
    bytes: &'a [u8; 64],
    x: i32,
    shifts: (u32, u32),
}

impl Kernel for All<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Vec<u32> {
        let mut all = Vec::new();
        let mut line = [7.0f32; 16];
        for first in (0..16).step_by(V::LANES) {
            // SAFETY: 16 lanes lie behind every pointer.
            unsafe {
                let at = |row: usize| self.floats.as_ptr().add(16 * row + first);
                let (a, b, c) = (V::load(at(0)), V::load(at(1)), V::load(at(2)));
                let words = V::load_words(self.bytes.as_ptr().add(4 * first));
                let zero = V::splat_words(0);
                let sum: i32 = self.x.to_le_bytes().iter().map(|&x| x as i8 as i32).sum();
                let start = V::splat_words(-V::BYTE_OFFSET * sum);
                let xored = V::xor(words, -5);
                for floats in [
                    a.times(b),
                    a.multiply_add(b, c),
                    V::splat(1.5),
                    V::load_first(at(0), 3),
                    V::load_first(at(0), 16),
                    V::load_bf16(self.bytes.as_ptr().add(2 * first)),
                    V::load_bf16_first(self.bytes.as_ptr().add(2 * first), 2),
                    V::floats(words),
                    V::floats(xored),
                    V::field(words, self.shifts.0, self.shifts.1),
                    V::floats(V::low_nibbles(words)),
                    V::floats(V::high_nibbles(words)),
                    V::floats(V::dot_bytes(start, words, self.x)),
                    V::floats(V::dot_nibbles(zero, V::high_nibbles(words), self.x)),
                ] {
                    floats.store(line.as_mut_ptr().add(first));
                    all.extend(line[first..][..V::LANES].iter().map(|x| x.to_bits()));
                }
                line.fill(7.0);
                a.store_first(line.as_mut_ptr().add(first), 3);
                all.extend(line[first..][..V::LANES].iter().map(|x| x.to_bits()));
            }
        }
        // By method, then by lane.
        let (methods, lanes) = (15, V::LANES);
        let mut sorted = Vec::new();
        for method in 0..methods {
            for block in 0..16 / lanes {
                let from = (block * methods + method) * lanes;
                sorted.extend_from_slice(&all[from..][..lanes]);
            }
        }
        sorted
    }
}

#[test]
fn registers_agree_with_plain_arithmetic() {
    let floats: [f32; 48] = numbers(48, 1).try_into().unwrap();
    for seed in 0..50 {
        // All bytes, so NaNs and subnormals as bfloat16s; extremes on purpose.
        let mut bytes: [u8; 64] = std::array::from_fn(|i| {
            ((i as u64 + 64 * seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8
        });
        bytes[..8].copy_from_slice(&[0, 0, 0, 0, 255, 255, 255, 255]);
        for x in [
            i32::from_le_bytes([127; 4]),
            i32::from_le_bytes([129; 4]),
            i32::from_le_bytes([bytes[9] | 1, bytes[10] | 1, 0, 1]),
        ] {
            let shifts = [(0, 24), (8, 24), (24, 24), (20, 28)][seed as usize % 4];
            let all = |isa| {
                let kernel = All {
                    floats: &floats,
                    bytes: &bytes,
                    x,
                    shifts,
                };
                // SAFETY: `isas` lists what this processor has.
                unsafe {
                    match isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 if has_byte_products() => {
                            Avx512::enter_with_byte_products(kernel)
                        }
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 | Isa::Avx2 => Avx2::enter(kernel),
                        #[cfg(target_arch = "aarch64")]
                        Isa::Neon => Neon::enter(kernel),
                        _ => Portable::enter(kernel),
                    }
                }
            };
            let plain = all(Isa::Portable);
            let word = |i: usize| i32::from_le_bytes(bytes[4 * i..][..4].try_into().unwrap());
            let dot = |w: [i32; 4]| -> i32 {
                let x = x.to_le_bytes();
                (0..4).map(|i| w[i] * x[i] as i8 as i32).sum()
            };
            for i in 0..16 {
                let float = |method: usize| f32::from_bits(plain[16 * method + i]);
                let half = u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]) as u32;
                assert_eq!(float(0), floats[i] * floats[16 + i]);
                let exact = floats[i] as f64 * floats[16 + i] as f64 + floats[32 + i] as f64;
                assert!((float(1) as f64 - exact).abs() < 2e-7);
                assert_eq!(plain[5 * 16 + i], half << 16);
                assert_eq!(float(7), word(i) as f32);
                assert_eq!(float(8), (word(i) ^ -5) as f32);
                assert_eq!(float(9), (word(i) << shifts.0 >> shifts.1) as f32);
                assert_eq!(float(10), (word(i) & 0x0F0F_0F0F) as f32);
                assert_eq!(float(11), (word(i) >> 4 & 0x0F0F_0F0F) as f32);
                let bytes = word(i).to_le_bytes();
                assert_eq!(float(12), dot(bytes.map(|w| w as i32 - 128)) as f32);
                assert_eq!(float(13), dot(bytes.map(|w| w as i32 >> 4)) as f32);
            }
            for isa in isas() {
                for (i, (x, y)) in all(isa).iter().zip(&plain).enumerate() {
                    let (x, y) = (f32::from_bits(*x), f32::from_bits(*y));
                    let method = i / 16;
                    // The product is fused or not; the lanes beyond the first few belong to the register.
                    let same = match method {
                        1 => (x - y).abs() < 2e-7,
                        3 | 6 | 14 => continue,
                        _ => x.to_bits() == y.to_bits(),
                    };
                    assert!(same, "{isa:?}, method {method}, lane {}: {x} {y}", i % 16);
                }
            }
        }
    }
}

/// Reads and writes the first lanes of what ends where the slice ends.
struct First<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for First<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let n = self.0.len();
        // SAFETY: `n` floats are there to read and to write.
        unsafe { V::load_first(self.0.as_ptr(), n).store_first(self.1.as_mut_ptr(), n) }
    }
}

#[test]
fn first_lanes_are_read_and_written_and_no_others() {
    for isa in isas() {
        let lanes = match isa {
            Isa::Avx512 => 16,
            Isa::Neon => 4,
            _ => 8,
        };
        for n in 0..=lanes {
            let x = numbers(n, 1);
            let mut y = vec![7.0; lanes + 1];
            let kernel = First(&x, &mut y);
            // SAFETY: `isas` lists what this processor has.
            unsafe { with(isa, kernel) };
            assert_eq!(y[..n], x);
            assert!(y[n..].iter().all(|&y| y == 7.0));
        }
    }
}

/// Reads fourths, writes them elsewhere and back as fourths; sums and differences of the first two.
struct Fourths<'a>(&'a [f32; 64], &'a mut [[f32; 16]; 6], &'a mut [f32; 64]);

impl Kernel for Fourths<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for first in (0..16).step_by(V::LANES) {
            // SAFETY: four times sixteen floats are there to read and to write.
            unsafe {
                let [a, b, c, d] = V::load_fourths(self.0.as_ptr().add(4 * first));
                for (to, x) in self.1.iter_mut().zip([a, b, c, d, a.plus(b), a.minus(b)]) {
                    x.store(to.as_mut_ptr().add(first));
                }
                V::store_fourths([a, b, c, d], self.2.as_mut_ptr().add(4 * first));
            }
        }
    }
}

#[test]
fn fourths_are_every_fourth_element() {
    let x: [f32; 64] = numbers(64, 1).try_into().unwrap();
    for isa in isas() {
        let (mut lines, mut back) = ([[0.0; 16]; 6], [0.0; 64]);
        // SAFETY: `isas` lists what this processor has.
        unsafe { with(isa, Fourths(&x, &mut lines, &mut back)) };
        for (lane, x) in x.as_chunks::<4>().0.iter().enumerate() {
            let [a, b, c, d] = *x;
            let found = lines.map(|line| line[lane]);
            assert_eq!(found, [a, b, c, d, a + b, a - b], "{isa:?}");
        }
        assert_eq!(back, x, "{isa:?}");
    }
}
