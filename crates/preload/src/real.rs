//! The next definition of a hooked symbol: libc's, or that of an interception library after ours.

use core::ffi::CStr;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Address of the next definition of one symbol, looked up at its first use.
pub struct Next {
    name: &'static CStr,
    address: AtomicUsize,
}

impl Next {
    /// Nothing is looked up yet.
    pub const fn new(name: &'static CStr) -> Next {
        Next { name, address: AtomicUsize::new(0) }
    }

    /// Address of the function.
    #[inline(always)]
    pub fn address(&self) -> usize {
        match self.address.load(Ordering::Relaxed) {
            0 => self.find(),
            address => address,
        }
    }

    #[cold]
    #[inline(never)]
    fn find(&self) -> usize {
        // The lookup starts behind the object that holds the return address; the store below keeps it from becoming
        // a jump, which would leave our caller's.
        let found = match look_up(self.name) {
            0 => absent as *const () as usize,
            found => found,
        };
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Address of `name` in the objects after this library; 0 when there is none.
#[inline(never)]
pub fn look_up(name: &CStr) -> usize {
    // SAFETY: `name` is a C string; `dlsym` is not hooked.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
    core::hint::black_box(found)
}

/// Stands for a function that this libc lacks.
extern "C" fn absent() -> isize {
    crate::answer::set_errno(libc::ENOSYS);
    -1
}

/// Defines hooks: exported functions that take the place of libc's.
///
/// Names after `also` are further symbols with the same meaning and the same binary interface (the 64-bit twins, on
/// machines where `off_t` has 64 bits). In the body, `next` calls the function that would have been called without us.
macro_rules! hooks {
    ($( $(#[$meta:meta])* fn $name:ident $arguments:tt -> $answer:ty $(, also $twin:ident)* $body:block )*) => { $(
        hook! { $(#[$meta])* $name $arguments -> $answer $body }
        $( hook_twin! { $twin of $name $arguments -> $answer } )*
    )* };
}

/// One hook under its first name.
macro_rules! hook {
    ($(#[$meta:meta])* $name:ident ( $($argument:ident : $kind:ty),* $(,)? ) -> $answer:ty $body:block) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub(super) extern "C" fn $name($($argument: $kind),*) -> $answer {
            #[inline(always)]
            #[allow(dead_code, clippy::too_many_arguments)]
            fn next($($argument: $kind),*) -> $answer {
                static NEXT: $crate::real::Next = {
                    const NAME: &str = concat!(stringify!($name), "\0");
                    match core::ffi::CStr::from_bytes_with_nul(NAME.as_bytes()) {
                        Ok(name) => $crate::real::Next::new(name),
                        Err(_) => panic!("a symbol's name holds a NUL"),
                    }
                };
                let function: extern "C" fn($($kind),*) -> $answer =
                    // SAFETY: the address is that of the next definition of a symbol with this very C signature.
                    unsafe { core::mem::transmute(NEXT.address()) };
                function($($argument),*)
            }
            $body
        }
    };
}

/// A further name of a hook.
macro_rules! hook_twin {
    ($twin:ident of $name:ident ( $($argument:ident : $kind:ty),* $(,)? ) -> $answer:ty) => {
        #[unsafe(no_mangle)]
        extern "C" fn $twin($($argument: $kind),*) -> $answer {
            $name($($argument),*)
        }
    };
}

/// A libc function that is called under its own name although a hook of that name may exist here.
macro_rules! libc_function {
    ($name:literal, fn($($kind:ty),*) -> $answer:ty) => {{
        static NEXT: $crate::real::Next = $crate::real::Next::new($name);
        // SAFETY: the caller names the C signature of the symbol.
        unsafe { core::mem::transmute::<usize, extern "C" fn($($kind),*) -> $answer>(NEXT.address()) }
    }};
}
