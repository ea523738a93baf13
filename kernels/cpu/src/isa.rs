//! Which instruction set runs: detected once, forced by `STARLING_ISA`.

use crate::simd::{Avx2, Avx512, Neon, Simd};
use starling_ops::Scalar;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Work that is generic over the instruction set.
///
/// `run` must be `#[inline(always)]`, and so must every function that it calls with the token:
/// only then is the body compiled with the token's features.
pub trait Kernel {
    /// What `run` returns.
    type Out;
    /// Does the work with the vector registers that `s` stands for.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// An instruction set that this machine has.
///
/// Every row but the scalar one holds its token, so a value proves that the machine has the set:
/// that is why [`Isa::run`] is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// One number at a time.
    Scalar,
    /// 8 lanes: AVX2 with FMA and F16C.
    Avx2(Avx2),
    /// 16 lanes: AVX-512 F, BW, DQ and VL.
    Avx512(Avx512),
    /// 4 lanes: NEON.
    Neon(Neon),
}

/// The variable that forces a row.
const VARIABLE: &str = "STARLING_ISA";
/// Every row's name, the slowest first.
const NAMES: [&str; 4] = ["scalar", "neon", "avx2", "avx512"];

/// Why a row cannot be had. The text lists the rows that can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No row has this name.
    Unknown(String),
    /// This machine does not have the row.
    Missing(&'static str),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IsaError::Unknown(name) => write!(f, "unknown instruction set {name:?}")?,
            IsaError::Missing(name) => write!(f, "this machine does not have {name}")?,
        }
        let here: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        write!(f, ": use {}, or leave {VARIABLE} unset", here.join(" or "))
    }
}

impl std::error::Error for IsaError {}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let row = NAMES.into_iter().find(|n| n.eq_ignore_ascii_case(name));
        let row = row.ok_or_else(|| IsaError::Unknown(name.to_string()))?;
        let found = detected().iter().find(|isa| isa.name() == row);
        found.copied().ok_or(IsaError::Missing(row))
    }
}

/// The rows of this machine, the slowest first; looked for once.
fn detected() -> &'static [Isa] {
    static ROWS: OnceLock<Vec<Isa>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let rows = [
            Some(Isa::Scalar),
            Neon::detect().map(Isa::Neon),
            Avx2::detect().map(Isa::Avx2),
            Avx512::detect().map(Isa::Avx512),
        ];
        rows.into_iter().flatten().collect()
    })
}

impl Isa {
    /// `scalar`, `neon`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => NAMES[0],
            Isa::Neon(_) => NAMES[1],
            Isa::Avx2(_) => NAMES[2],
            Isa::Avx512(_) => NAMES[3],
        }
    }

    /// f32 lanes of one register.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Scalar => 1,
            Isa::Neon(_) => 4,
            Isa::Avx2(_) => 8,
            Isa::Avx512(_) => 16,
        }
    }

    /// The rows that this machine has, the slowest first.
    pub fn available() -> Vec<Isa> {
        detected().to_vec()
    }

    /// The fastest row that this machine has.
    pub fn best() -> Isa {
        detected().last().copied().unwrap_or(Isa::Scalar)
    }

    /// The row that `STARLING_ISA` names; [`Isa::best`] when it is unset or empty.
    pub fn from_env() -> Result<Isa, IsaError> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Isa::best()),
            Some(name) if name.is_empty() => Ok(Isa::best()),
            Some(name) => name.to_string_lossy().parse(),
        }
    }

    /// What tests run: the row that `STARLING_ISA` names, alone; every row of this machine when it
    /// is unset or empty.
    ///
    /// # Errors
    /// [`IsaError`] for a row that this machine lacks.
    pub fn under_test() -> Result<Vec<Isa>, IsaError> {
        match std::env::var_os(VARIABLE) {
            Some(name) if !name.is_empty() => Ok(vec![name.to_string_lossy().parse()?]),
            _ => Ok(Isa::available()),
        }
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            Isa::Scalar => kernel.run(Scalar::<f32>::NEW),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token exists, so `Avx2::detect` found the features.
            Isa::Avx2(token) => unsafe { run_avx2(token, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token exists, so `Avx512::detect` found the features.
            Isa::Avx512(token) => unsafe { run_avx512(token, kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2(absent) | Isa::Avx512(absent) => match absent {},
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the token exists, so `Neon::detect` found the features.
            Isa::Neon(token) => unsafe { run_neon(token, kernel) },
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon(absent) => match absent {},
        }
    }
}

/// One entry into code compiled for an instruction set: the only place that names target features.
/// The tokens' `detect` asks for the same ones.
macro_rules! entry {
    ($arch:literal, $name:ident, $token:ty, $features:literal) => {
        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        fn $name<K: Kernel>(token: $token, kernel: K) -> K::Out {
            kernel.run(token)
        }
    };
}
entry!("x86_64", run_avx2, Avx2, "avx2,fma,f16c");
entry!("x86_64", run_avx512, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
entry!("aarch64", run_neon, Neon, "neon");
