//! Products without carries: of polynomials over GF(2), bit `i` of a word being the coefficient of the power `i`. Many
//! processors have an instruction for them.

/// Can multiply.
pub trait Multiply: Copy {
    /// The product, its lower and its upper 64 bits.
    fn multiply(self, a: u64, b: u64) -> [u64; 2];
}

/// What is to be done with such products. All of it has to be `#[inline(always)]`, or each of them costs a call.
pub trait Work {
    type Answer;
    fn run(self, by: impl Multiply) -> Self::Answer;
}

/// Does this work if the processor can multiply so; else it comes back.
#[inline(always)]
pub fn work<W: Work>(work: W) -> Result<W::Answer, W> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("pclmulqdq") {
        // SAFETY: the processor has it.
        return Ok(unsafe { x86_64::run(work) });
    }
    Err(work)
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::{Multiply, Work};
    use std::arch::x86_64::{
        _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_unpackhi_epi64,
    };

    #[target_feature(enable = "pclmulqdq")]
    pub fn run<W: Work>(work: W) -> W::Answer {
        work.run(Instruction(()))
    }

    /// Made by [`run`] alone.
    #[derive(Clone, Copy)]
    struct Instruction(());

    impl Multiply for Instruction {
        #[inline(always)]
        fn multiply(self, a: u64, b: u64) -> [u64; 2] {
            // SAFETY: who has an `Instruction` runs where the processor has it; the others are in all of this kind.
            unsafe {
                let (a, b) = (_mm_cvtsi64_si128(a as i64), _mm_cvtsi64_si128(b as i64));
                let product = _mm_clmulepi64_si128::<0>(a, b);
                let upper = _mm_cvtsi128_si64(_mm_unpackhi_epi64(product, product));
                [_mm_cvtsi128_si64(product) as u64, upper as u64]
            }
        }
    }
}

/// By shifts, on any processor.
#[cfg(test)]
#[derive(Clone, Copy)]
pub struct Shifts;

#[cfg(test)]
impl Multiply for Shifts {
    fn multiply(self, a: u64, b: u64) -> [u64; 2] {
        let ones = (0..64).filter(|i| b >> i & 1 != 0);
        let product = ones.fold(0, |sum, i| sum ^ u128::from(a) << i);
        [product as u64, (product >> 64) as u64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Product(u64, u64);

    impl Work for Product {
        type Answer = [u64; 2];
        #[inline(always)]
        fn run(self, by: impl Multiply) -> [u64; 2] {
            by.multiply(self.0, self.1)
        }
    }

    #[test]
    fn a_product_is_the_sum_of_shifted_ones() {
        let mut a = 0x9E37_79B9_7F4A_7C15u64;
        let mut b = !0;
        for _ in 0..1000 {
            if let Ok(product) = work(Product(a, b)) {
                assert_eq!(product, Shifts.multiply(a, b));
            }
            (a, b) = (
                b.rotate_left(9) ^ a << 3,
                a.wrapping_mul(0xD6E8_FEB8_6659_FD93),
            );
        }
    }
}
