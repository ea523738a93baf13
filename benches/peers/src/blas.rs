//! OpenBLAS and MKL, opened when the program runs.

use crate::{Call, Error, Product, pointer};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, OsStr, c_char, c_int};

type I = c_int;
type P = *const f32;
/// Order, transpositions, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc.
type Sgemm = unsafe extern "C" fn(I, I, I, I, I, I, f32, P, I, P, I, f32, *mut f32, I);

const ROW_MAJOR: c_int = 101;
const PLAIN: c_int = 111;
const TRANSPOSED: c_int = 112;

/// A library with the C interface of the BLAS and 32-bit sizes.
pub struct Blas {
    pub name: &'static str,
    /// Version and kernels, in the library's own words.
    pub description: String,
    sgemm: Sgemm,
    _library: Library,
}

impl Blas {
    /// Opens the library and gives it `threads` threads.
    pub fn open(name: &'static str, path: &OsStr, threads: usize) -> Result<Self, Error> {
        // MKL's parts find each other, and a preloaded function, only through global symbols.
        let scope = if name == "mkl" { RTLD_GLOBAL } else { RTLD_LOCAL };
        // SAFETY: the user names a BLAS; its initialisers are trusted.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | scope)? };
        // SAFETY: these functions have these types in every version of the two libraries.
        unsafe {
            let sgemm = *symbol::<Sgemm>(&library, "cblas_sgemm")?;
            let set =
                if name == "mkl" { "MKL_Set_Num_Threads" } else { "openblas_set_num_threads" };
            symbol::<unsafe extern "C" fn(c_int)>(&library, set)?(threads as c_int);
            let description = if name == "mkl" { mkl(&library) } else { openblas(&library) }?;
            Ok(Self { name, description, sgemm, _library: library })
        }
    }

    /// One product.
    pub fn call<'a>(&'a self, p: &'a Product) -> Call<'a> {
        let (m, n, k) = (p.m as c_int, p.n as c_int, p.k as c_int);
        let (a, b, c) = (pointer(&p.a), pointer(&p.b), pointer(&p.c));
        let (a_order, lda) = if p.a_transposed { (TRANSPOSED, m) } else { (PLAIN, k) };
        let (b_order, ldb) = if p.b_transposed { (TRANSPOSED, k) } else { (PLAIN, n) };
        // SAFETY: pointers and leading dimensions are those of matrices with these sizes.
        Box::new(move || unsafe {
            (self.sgemm)(ROW_MAJOR, a_order, b_order, m, n, k, 1.0, a, lda, b, ldb, 0.0, c, n);
        })
    }
}

/// A function by its name or, as in SciPy's build of OpenBLAS, with a prefix.
///
/// # Safety
/// `T` is the function's type.
unsafe fn symbol<T>(
    library: &Library,
    name: &str,
) -> Result<libloading::os::unix::Symbol<T>, Error> {
    // SAFETY: the caller's promise.
    let found = unsafe {
        library.get(name.as_bytes()).or_else(|_| library.get(format!("scipy_{name}").as_bytes()))
    };
    found.map_err(|_| format!("the library has no {name}").into())
}

/// # Safety
/// The library is OpenBLAS.
unsafe fn openblas(library: &Library) -> Result<String, Error> {
    let text = |name| {
        // SAFETY: both functions return static text.
        unsafe {
            let get = symbol::<unsafe extern "C" fn() -> *const c_char>(library, name)?;
            Ok::<_, Error>(CStr::from_ptr(get()).to_string_lossy().into_owned())
        }
    };
    Ok(format!("{} on {}", text("openblas_get_config")?.trim(), text("openblas_get_corename")?))
}

/// # Safety
/// The library is MKL.
unsafe fn mkl(library: &Library) -> Result<String, Error> {
    let mut text: [c_char; 256] = [0; 256];
    // SAFETY: the function fills the buffer up to its length with text that ends in 0.
    let version = unsafe {
        symbol::<unsafe extern "C" fn(*mut c_char, c_int)>(library, "MKL_Get_Version_String")?(
            text.as_mut_ptr(),
            text.len() as c_int - 1,
        );
        CStr::from_ptr(text.as_ptr())
    };
    Ok(version.to_string_lossy().trim().to_owned())
}
