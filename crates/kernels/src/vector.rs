//! Element-wise arithmetic written once in plain Rust and compiled for each instruction set:
//! multiply-adds, sums in sixteen lanes, exponentials.

/// Lanes of a sum: one AVX-512 register; the order of summing is the same everywhere.
pub(crate) const LANES: usize = 16;

/// `a · b + c`; fused where the caller was compiled for it.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of sixteen lanes, by halves.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The sum of `term(x)` over all numbers: number `i` in lane `i mod 16`, lane by lane, then by halves. (By slices: with
/// indices the compiler would check each, and add one number at a time.)
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for lane in 0..LANES {
            lanes[lane] += term(x[lane]);
        }
    }
    for (sum, &x) in lanes.iter_mut().zip(rest) {
        *sum += term(x);
    }
    sum_lanes(lanes)
}

/// [`sum_of`] over pairs.
#[inline(always)]
pub(crate) fn sum_of_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    for (sum, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += term(a, b);
    }
    sum_lanes(lanes)
}

/// The dot product, in the order of [`sum_of`].
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            lanes[lane] = multiply_add::<FUSED>(a[lane], b[lane], lanes[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] = multiply_add::<FUSED>(*a, *b, lanes[lane]);
    }
    sum_lanes(lanes)
}

/// The sum of `a · b · c`, in the order of [`sum_of`].
#[inline(always)]
pub(crate) fn dot3<const FUSED: bool>(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    let (c_whole, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_whole.iter().zip(b_whole).zip(c_whole) {
        for lane in 0..LANES {
            lanes[lane] = multiply_add::<FUSED>(a[lane] * b[lane], c[lane], lanes[lane]);
        }
    }
    for (lane, ((a, b), c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
        lanes[lane] = multiply_add::<FUSED>(a * b, *c, lanes[lane]);
    }
    sum_lanes(lanes)
}

/// The largest of the numbers, −∞ for none.
#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for lane in 0..LANES {
            lanes[lane] = if x[lane] > lanes[lane] {
                x[lane]
            } else {
                lanes[lane]
            };
        }
    }
    let mut largest = f32::NEG_INFINITY;
    for &x in lanes.iter().chain(rest) {
        largest = if x > largest { x } else { largest };
    }
    largest
}

/// `eˣ` within 2 units of the last place for results that are normal numbers; 0 below −87.33 (−∞
/// included), at most e^88.37 ≈ 2.4e38 above; NaN stays NaN.
///
/// Range reduction by multiples of ln 2 in two parts, then the polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer that stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.37 { 88.37 } else { x };
    let clamped = if clamped < -87.33 { -87.33 } else { clamped };
    let rounded = multiply_add::<FUSED>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add::<FUSED>(n, -0.693_359_4, clamped);
    let r = multiply_add::<FUSED>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_65,
        0.5,
    ] {
        p = multiply_add::<FUSED>(p, r, coefficient);
    }
    let p = multiply_add::<FUSED>(p, r * r, r) + 1.0;
    let power = rounded
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let result = p * f32::from_bits(power);
    if x < -87.33 { 0.0 } else { result }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// Defines a function that runs the body compiled for the best instruction set of the processor. The
/// body sees `FUSED`, whether its multiply-adds are fused.
macro_rules! vectorised {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<const FUSED: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            match $crate::isa::isa() {
                // SAFETY: the processor has these instruction sets.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2($($argument),*) },
                _ => body::<{ cfg!(target_arch = "aarch64") }>($($argument),*),
            }
        }
    };
}
pub(crate) use vectorised;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_within_two_units_of_the_last_place() {
        vectorised! {
            fn all(x: &mut [f32]) {
                for x in x {
                    *x = exp::<FUSED>(*x);
                }
            }
        }
        let inputs: Vec<f32> = (-873_000..883_600).map(|i| i as f32 * 1e-4).collect();
        for fused in [false, true] {
            let mut outputs = inputs.clone();
            if fused {
                all(&mut outputs);
            } else {
                outputs.iter_mut().for_each(|x| *x = exp::<false>(*x));
            }
            for (x, y) in inputs.iter().zip(outputs) {
                let exact = (*x as f64).exp();
                let unit = (f32::from_bits((exact as f32).to_bits() + 1) - exact as f32) as f64;
                assert!(
                    (y as f64 - exact).abs() <= 2.0 * unit,
                    "exp({x}) = {y}, not {exact}"
                );
            }
        }
        assert_eq!(exp::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<false>(-100.0), 0.0);
        assert_eq!(exp::<false>(0.0), 1.0);
        assert!(exp::<false>(1e9).is_finite());
        assert!(exp::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn sums_take_every_element_once() {
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let sum = (0..len).sum::<usize>() as f32;
            assert_eq!(sum_of(&x, |x| x), sum);
            assert_eq!(dot::<false>(&x, &vec![1.0; len]), sum);
            assert_eq!(
                maximum(&x),
                if len == 0 {
                    f32::NEG_INFINITY
                } else {
                    len as f32 - 1.0
                }
            );
        }
    }
}
