//! The functions of `<math.h>` that compiled Rust calls by their C names: what `std` has of floating-point functions, and
//! what a compiler makes of `mul_add`, `%` and rounding where the processor has no instruction for it.
//!
//! They are those of the crate `libm`, musl's, and a function of their arguments alone: nothing is masked. The last digit of
//! a sine may be another than with the C library of another system, which no standard fixes.

use core::ffi::c_int;

/// Defines functions by C names that a crate has under the same ones.
macro_rules! math {
    ($( $name:ident($($argument:ident: $kind:ty),*) -> $result:ty; )*) => { $(
        #[doc = concat!("`", stringify!($name), "` of `<math.h>`.")]
        #[cfg_attr(feature = "image", unsafe(no_mangle))]
        pub extern "C" fn $name($($argument: $kind),*) -> $result {
            libm::$name($($argument),*)
        }
    )* };
}

math! {
    acos(x: f64) -> f64; acosf(x: f32) -> f32; acosh(x: f64) -> f64; acoshf(x: f32) -> f32;
    asin(x: f64) -> f64; asinf(x: f32) -> f32; asinh(x: f64) -> f64; asinhf(x: f32) -> f32;
    atan(x: f64) -> f64; atanf(x: f32) -> f32; atanh(x: f64) -> f64; atanhf(x: f32) -> f32;
    atan2(y: f64, x: f64) -> f64; atan2f(y: f32, x: f32) -> f32;
    cbrt(x: f64) -> f64; cbrtf(x: f32) -> f32;
    ceil(x: f64) -> f64; ceilf(x: f32) -> f32;
    copysign(x: f64, y: f64) -> f64; copysignf(x: f32, y: f32) -> f32;
    cos(x: f64) -> f64; cosf(x: f32) -> f32; cosh(x: f64) -> f64; coshf(x: f32) -> f32;
    erf(x: f64) -> f64; erff(x: f32) -> f32; erfc(x: f64) -> f64; erfcf(x: f32) -> f32;
    exp(x: f64) -> f64; expf(x: f32) -> f32; exp2(x: f64) -> f64; exp2f(x: f32) -> f32;
    exp10(x: f64) -> f64; exp10f(x: f32) -> f32; expm1(x: f64) -> f64; expm1f(x: f32) -> f32;
    fabs(x: f64) -> f64; fabsf(x: f32) -> f32;
    fdim(x: f64, y: f64) -> f64; fdimf(x: f32, y: f32) -> f32;
    floor(x: f64) -> f64; floorf(x: f32) -> f32;
    fma(x: f64, y: f64, z: f64) -> f64; fmaf(x: f32, y: f32, z: f32) -> f32;
    fmax(x: f64, y: f64) -> f64; fmaxf(x: f32, y: f32) -> f32;
    fmin(x: f64, y: f64) -> f64; fminf(x: f32, y: f32) -> f32;
    fmod(x: f64, y: f64) -> f64; fmodf(x: f32, y: f32) -> f32;
    hypot(x: f64, y: f64) -> f64; hypotf(x: f32, y: f32) -> f32;
    ldexp(x: f64, n: c_int) -> f64; ldexpf(x: f32, n: c_int) -> f32;
    lgamma(x: f64) -> f64; lgammaf(x: f32) -> f32;
    log(x: f64) -> f64; logf(x: f32) -> f32; log2(x: f64) -> f64; log2f(x: f32) -> f32;
    log10(x: f64) -> f64; log10f(x: f32) -> f32; log1p(x: f64) -> f64; log1pf(x: f32) -> f32;
    pow(x: f64, y: f64) -> f64; powf(x: f32, y: f32) -> f32;
    rint(x: f64) -> f64; rintf(x: f32) -> f32;
    round(x: f64) -> f64; roundf(x: f32) -> f32;
    roundeven(x: f64) -> f64; roundevenf(x: f32) -> f32;
    scalbn(x: f64, n: c_int) -> f64; scalbnf(x: f32, n: c_int) -> f32;
    sin(x: f64) -> f64; sinf(x: f32) -> f32; sinh(x: f64) -> f64; sinhf(x: f32) -> f32;
    sqrt(x: f64) -> f64; sqrtf(x: f32) -> f32;
    tan(x: f64) -> f64; tanf(x: f32) -> f32; tanh(x: f64) -> f64; tanhf(x: f32) -> f32;
    tgamma(x: f64) -> f64; tgammaf(x: f32) -> f32;
    trunc(x: f64) -> f64; truncf(x: f32) -> f32;
}

/// Defines functions that give a second result at a place.
macro_rules! two_results {
    ($( $name:ident($kind:ty, $second:ty) by $made:ident; )*) => { $(
        #[doc = concat!("`", stringify!($name), "` of `<math.h>`.")]
        ///
        /// # Safety
        /// `place` can be written to.
        #[cfg_attr(feature = "image", unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(x: $kind, place: *mut $second) -> $kind {
            let (first, second) = libm::$made(x);
            // SAFETY: the caller's.
            unsafe { place.write(second) };
            first
        }
    )* };
}

two_results! {
    frexp(f64, c_int) by frexp;
    frexpf(f32, c_int) by frexpf;
    lgamma_r(f64, c_int) by lgamma_r;
    lgammaf_r(f32, c_int) by lgammaf_r;
    modf(f64, f64) by modf;
    modff(f32, f32) by modff;
}

/// Defines functions that give a sine and a cosine at places.
macro_rules! sine_and_cosine {
    ($( $name:ident($kind:ty); )*) => { $(
        #[doc = concat!("`", stringify!($name), "` of `<math.h>`.")]
        ///
        /// # Safety
        /// Both places can be written to.
        #[cfg_attr(feature = "image", unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(x: $kind, sine: *mut $kind, cosine: *mut $kind) {
            let (first, second) = libm::$name(x);
            // SAFETY: the caller's.
            unsafe {
                sine.write(first);
                cosine.write(second);
            }
        }
    )* };
}

sine_and_cosine! {
    sincos(f64);
    sincosf(f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_at_places_are_in_their_order() {
        let (mut sine, mut cosine, mut whole, mut exponent) = (9.0, 9.0, 9.0, 9);
        // SAFETY: the places are variables.
        unsafe {
            sincos(0.0, &raw mut sine, &raw mut cosine);
            assert_eq!((sine, cosine), (0.0, 1.0));
            assert_eq!((modf(-3.25, &raw mut whole), whole), (-0.25, -3.0));
            assert_eq!((frexp(6.0, &raw mut exponent), exponent), (0.75, 3));
            assert!(lgamma_r(-0.5, &raw mut exponent) > 0.0);
            assert_eq!(exponent, -1);
        }
    }
}
