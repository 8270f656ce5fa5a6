//! Instruction sets: which one this machine has, and which one a test forces.

use std::fmt;
use std::str::FromStr;

/// An instruction set that the kernels are written for.
///
/// Naming one does not run it: [`crate::Kernels::new`] refuses an instruction set that the machine lacks, so a forged
/// value cannot reach an instruction that would fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// No SIMD of our own: the oracle, for tests and for machines that we have no kernels for.
    Portable,
    /// x86-64 with AVX2, FMA and F16C (2013 and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI (Ice Lake, Zen 4 and later).
    Avx512,
    /// AArch64 with the dot product of bytes (Cortex-A75, Neoverse N1, Apple A11 and later).
    Neon,
    /// The same with products of matrices of bytes (Cortex-X2, Neoverse N2 and V1, Apple A15 and M2, and later).
    NeonI8mm,
}

impl Isa {
    /// Every instruction set, slowest first on each kind of machine.
    pub const ALL: [Isa; 5] = [
        Isa::Portable,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Neon,
        Isa::NeonI8mm,
    ];

    /// Whether this machine has it. Portable is everywhere.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => has_avx2(),
            Isa::Avx512 => has_avx2() && has_avx512(),
            Isa::Neon => has_neon(),
            Isa::NeonI8mm => has_neon() && has_i8mm(),
        }
    }

    /// AVX2 if the machine has it.
    pub fn avx2() -> Option<Isa> {
        Isa::Avx2.available().then_some(Isa::Avx2)
    }

    /// AVX-512 with VNNI if the machine has it.
    pub fn avx512() -> Option<Isa> {
        Isa::Avx512.available().then_some(Isa::Avx512)
    }

    /// NEON with the dot product if the machine has it.
    pub fn neon() -> Option<Isa> {
        Isa::Neon.available().then_some(Isa::Neon)
    }

    /// NEON with products of matrices if the machine has it.
    pub fn neon_i8mm() -> Option<Isa> {
        Isa::NeonI8mm.available().then_some(Isa::NeonI8mm)
    }
}

/// The fastest instruction set of this machine.
pub fn detect() -> Isa {
    Isa::avx512()
        .or_else(Isa::avx2)
        .or_else(Isa::neon_i8mm)
        .or_else(Isa::neon)
        .unwrap_or(Isa::Portable)
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(target_arch = "aarch64")]
fn has_neon() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("dotprod")
}

#[cfg(target_arch = "aarch64")]
fn has_i8mm() -> bool {
    std::arch::is_aarch64_feature_detected!("i8mm")
}

#[cfg(not(target_arch = "aarch64"))]
fn has_neon() -> bool {
    false
}

#[cfg(not(target_arch = "aarch64"))]
fn has_i8mm() -> bool {
    false
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::NeonI8mm => "neon-i8mm",
        })
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.to_string() == name)
            .ok_or(UnknownIsa)
    }
}

/// A name that is no instruction set of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownIsa;

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown instruction set: use portable, avx2, avx512, neon or neon-i8mm")
    }
}

impl std::error::Error for UnknownIsa {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert_eq!("sse".parse::<Isa>(), Err(UnknownIsa));
        assert_eq!("AVX2".parse::<Isa>(), Err(UnknownIsa));
    }

    /// The line tells which processor an emulator was.
    #[test]
    fn the_detected_one_is_available() {
        println!("detected {}", detect());
        assert!(detect().available());
        assert!(Isa::Portable.available());
        assert_eq!(Isa::avx2().is_some(), Isa::Avx2.available());
        assert_eq!(Isa::neon().is_some(), Isa::Neon.available());
    }
}
