//! Which instructions this library copies with, for whoever asks.

use core::ffi::c_char;
use lifeboat_kernels::Level;

/// Name of the level in use, a C string that stays: found by `dlsym(RTLD_DEFAULT, "lifeboat_kernels")`. It takes a
/// mount for the environment's limit to count.
#[unsafe(no_mangle)]
extern "C" fn lifeboat_kernels() -> *const c_char {
    let name = match lifeboat_kernels::level() {
        Level::Scalar => c"scalar",
        Level::Avx2 => c"avx2",
        Level::Avx512 => c"avx512",
    };
    name.as_ptr()
}
