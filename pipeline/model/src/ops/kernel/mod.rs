//! Arithmetic on slices for the CPU: vectorised for the processor at hand, on the threads of
//! rayon's current pool where the work is large enough. Every output value has one order of
//! additions whatever the number of threads.

/// Declares functions that are compiled for the widest instructions that the processor
/// has. A closure would not do: the compiler leaves it outside of the function that
/// carries the instructions, and every multiply-add becomes a call.
macro_rules! vectorised {
    ($(
        $(#[$meta:meta])*
        fn $name:ident<'a>($($arg:ident: $ty:ty),* $(,)?) -> $out:ty $body:block
    )*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub(in crate::ops) fn $name<'a>($($arg: $ty),*) -> $out {
            struct Work<'a> {
                $($arg: $ty),*
            }
            impl<'a> pulp::WithSimd for Work<'a> {
                type Output = $out;

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $out {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Work { $($arg),* })
        }
    )*};
}

pub(super) mod attention;
mod gemm;
pub(super) mod math;
pub(super) mod norm;
mod parallel;
pub(super) mod rows;

pub(super) use gemm::{Matrix, Start, Values, gemm};
