//! Loops over one plane or row. Each is compiled three times on x86-64, for every CPU, for AVX2 and for AVX-512; the
//! best one that the CPU has runs.
#![allow(unsafe_code)]

use super::geometry::Geometry;
use crate::graph::Activation;
use crate::kernels::InputSteps;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Functions with further instances for AVX2 with FMA, and for AVX-512.
macro_rules! lanes {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$meta])*
        pub(super) fn $name($($arg: $kind),*) $(-> $out)? {
            #[inline(always)]
            fn portable($($arg: $kind),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $kind),*) $(-> $out)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx512f,fma")]
                fn widest($($arg: $kind),*) $(-> $out)? {
                    portable($($arg),*)
                }
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                    // SAFETY: the CPU has what `widest` is compiled for.
                    return unsafe { widest($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the CPU has what `wide` is compiled for.
                    return unsafe { wide($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    )*};
}

lanes! {
    /// `y = act(scale * z + shift)`; all of `y` is written.
    fn affine(act: Activation, scale: f32, shift: f32, z: &[f32], y: &mut [MaybeUninit<f32>]) {
        match act {
            Activation::Identity => write(y, z, z, |z, _| z * scale + shift),
            Activation::Relu => write(y, z, z, |z, _| (z * scale + shift).max(0.0)),
            Activation::Silu => write(y, z, z, |z, _| {
                let t = z * scale + shift;
                t * sigmoid(t)
            }),
        };
    }

    /// `dt = dy * act'(scale * z + shift)`, all of it; gives the sums of `dt` and of `dt * (z - mean)`.
    fn affine_slopes(
        act: Activation,
        scale: f32,
        shift: f32,
        mean: f32,
        z: &[f32],
        dy: &[f32],
        dt: &mut [MaybeUninit<f32>],
    ) -> [f64; 2] {
        let dt: &[f32] = match act {
            Activation::Identity => write(dt, dy, dy, |dy, _| dy),
            Activation::Relu => write(dt, z, dy, |z, dy| if z * scale + shift > 0.0 { dy } else { 0.0 }),
            Activation::Silu => write(dt, z, dy, |z, dy| {
                let t = z * scale + shift;
                let s = sigmoid(t);
                dy * (s * (1.0 + t * (1.0 - s)))
            }),
        };
        let (mut plain, mut with_z) = (0.0f64, 0.0f64);
        for (dt, z) in dt.chunks(RUN).zip(z.chunks(RUN)) {
            plain += f64::from(strands(dt, dt, |dt, _| dt));
            with_z += f64::from(strands(dt, z, |dt, z| dt * (z - mean)));
        }
        [plain, with_z]
    }

    /// `dt = scale * (dt - offset - (z - mean) * slope)`.
    fn centred(scale: f32, offset: f32, mean: f32, slope: f32, z: &[f32], dt: &mut [f32]) {
        dt.iter_mut().zip(z).for_each(|(dt, z)| *dt = scale * (*dt - offset - (z - mean) * slope));
    }

    /// The sum.
    fn sum(values: &[f32]) -> f64 {
        values.chunks(RUN).map(|run| f64::from(strands(run, run, |v, _| v))).sum()
    }

    /// The sum of `(v - centre)^2`.
    fn squares(values: &[f32], centre: f32) -> f64 {
        values.chunks(RUN).map(|run| f64::from(strands(run, run, |v, _| (v - centre) * (v - centre)))).sum()
    }

    /// The sum of products.
    fn products(a: &[f32], b: &[f32]) -> f64 {
        a.chunks(RUN).zip(b.chunks(RUN)).map(|(a, b)| f64::from(strands(a, b, |a, b| a * b))).sum()
    }

    /// `y = factor * x`.
    fn scaled(factor: f32, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = factor * x);
    }

    /// `y` is what int8 computes with in place of `x`.
    fn rounded(steps: InputSteps, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = steps.rounded(*x));
    }

    /// `dx = dy` where `x` lies inside the range of int8, else 0.
    fn rounded_dx(steps: InputSteps, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let pairs = x.iter().zip(dy);
        dx.iter_mut().zip(pairs).for_each(|(dx, (x, dy))| *dx = if steps.holds(*x) { *dy } else { 0.0 });
    }

    /// `sum += part`.
    fn accumulate(part: &[f32], sum: &mut [f32]) {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }

    /// Depthwise convolution of one plane; `y` comes in as zeros.
    fn depthwise(g: &Geometry, size: (usize, usize), taps: &[f32], x: &[f32], y: &mut [f32]) {
        g.runs(size, &(0..g.side(size.0)), 0, |row, out, input, count| {
            let factor = taps[row];
            let y = &mut y[out..out + count];
            if g.stride == 1 {
                y.iter_mut().zip(&x[input..input + count]).for_each(|(y, x)| *y += factor * x);
            } else {
                y.iter_mut().zip(x[input..].iter().step_by(g.stride)).for_each(|(y, x)| *y += factor * x);
            }
        });
    }

    /// Gradient of one plane's input; `dx` comes in as zeros.
    fn depthwise_dx(g: &Geometry, size: (usize, usize), taps: &[f32], dy: &[f32], dx: &mut [f32]) {
        g.runs(size, &(0..g.side(size.0)), 0, |row, out, input, count| {
            let (dy, factor) = (&dy[out..out + count], taps[row]);
            if g.stride == 1 {
                dx[input..input + count].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += factor * dy);
            } else {
                dx[input..].iter_mut().step_by(g.stride).zip(dy).for_each(|(dx, dy)| *dx += factor * dy);
            }
        });
    }

    /// Gradient of one plane's taps; `dw` comes in as zeros.
    fn depthwise_dw(g: &Geometry, size: (usize, usize), x: &[f32], dy: &[f32], dw: &mut [f32]) {
        g.runs(size, &(0..g.side(size.0)), 0, |row, out, input, count| {
            let dy = &dy[out..out + count];
            dw[row] += if g.stride == 1 {
                strands(&x[input..input + count], dy, |x, dy| x * dy)
            } else {
                x[input..].iter().step_by(g.stride).zip(dy).map(|(x, dy)| x * dy).sum::<f32>()
            };
        });
    }

    /// The transpose of the patch matrix: adds every entry to the pixel it came from. Rows of `patches` begin `pitch`
    /// values after each other; `dx` is one image, of which some output lines are added.
    fn add_patches(
        g: &Geometry,
        size: (usize, usize),
        lines: &Range<usize>,
        patches: &[f32],
        pitch: usize,
        dx: &mut [f32],
    ) {
        for (channel, dx) in dx.chunks_exact_mut(size.0 * size.1).enumerate() {
            g.runs(size, lines, channel, |row, out, input, count| {
                let from = &patches[row * pitch + out..][..count];
                if g.stride == 1 {
                    dx[input..input + count].iter_mut().zip(from).for_each(|(dx, d)| *dx += d);
                } else {
                    dx[input..].iter_mut().step_by(g.stride).zip(from).for_each(|(dx, d)| *dx += d);
                }
            });
        }
    }
}

/// `to = f(a, b)`.
///
/// # Panics
/// If the slices are not of one length.
#[inline(always)]
fn write<'t>(to: &'t mut [MaybeUninit<f32>], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> &'t mut [f32] {
    assert!(to.len() == a.len() && to.len() == b.len());
    to.iter_mut().zip(a).zip(b).for_each(|((to, a), b)| {
        to.write(f(*a, *b));
    });
    // SAFETY: all three are of one length, so that every value was written.
    unsafe { to.assume_init_mut() }
}

/// Values summed in f32 before the sum goes on in f64.
const RUN: usize = 1024;

/// Sum of `f` over pairs in sixteen strands.
#[inline(always)]
fn strands(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let mut rest = 0.0;
    for (a, b) in a16.remainder().iter().zip(b16.remainder()) {
        rest += f(*a, *b);
    }
    for (a, b) in a16.zip(b16) {
        for i in 0..16 {
            sums[i] += f(a[i], b[i]);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Logistic function; no overflow for any finite value.
#[inline(always)]
fn sigmoid(t: f32) -> f32 {
    1.0 / (1.0 + exp(-t))
}

/// `e^x` for x in -87..88, beyond them their value: a polynomial on the fraction of the binary exponent (Cephes' expf),
/// without branches, so that loops over it vectorise; relative error below 2e-7.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding this leaves the rounded integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 0.166_666_65) * r
        + 0.5;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23)
}
