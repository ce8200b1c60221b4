//! What the tests share: levels one after the other, memory with an edge, a handler of faults that chains.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use lifeboat_kernels::{Level, fault, tuning};

/// The smallest page of this architecture.
pub const PAGE: usize = 4096;

/// Pages behind an edge: more than any test asks for. Some routines begin at the end of their range, so with fewer they would
/// write into whatever the kernel had mapped next.
pub const BEHIND_EDGE: usize = 32;

/// Bytes that differ from those 8, 64 or 4096 places on.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The level and the thresholds belong to the whole process: tests that set them take turns.
pub struct Turn(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Turn {
    pub fn take() -> Turn {
        static TURN: Mutex<()> = Mutex::new(());
        Turn(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        tuning::limit_level(None);
        tuning::STREAM_FROM.store(4096, Ordering::Relaxed);
        tuning::INTERLEAVE_FROM.store(16384, Ordering::Relaxed);
    }
}

/// Runs `test` once per level that this machine has, and says which it has not.
pub fn at_every_level(test: impl Fn(Level)) {
    let _turn = Turn::take();
    for level in Level::ALL {
        tuning::limit_level(Some(level));
        if lifeboat_kernels::level() == level {
            test(level);
        } else {
            println!("skip: level {} (this processor does not have it)", level.name());
        }
    }
}

/// A mapping that goes away with its owner.
pub struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    /// Private memory of `pages` pages.
    pub fn private(pages: usize) -> Mapping {
        Mapping::new(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// Private memory of `pages` pages followed by [`BEHIND_EDGE`] that cannot be touched.
    pub fn with_edge(pages: usize) -> Mapping {
        let mapping = Mapping::private(pages + BEHIND_EDGE);
        // SAFETY: the last pages of a mapping of our own.
        let answer = unsafe { libc::mprotect(mapping.at(pages * PAGE).cast(), BEHIND_EDGE * PAGE, libc::PROT_NONE) };
        assert_eq!(answer, 0, "mprotect: {}", std::io::Error::last_os_error());
        mapping
    }

    /// A shared mapping of `pages` pages of a nameless file that has only `kept` pages left.
    pub fn of_truncated_file(pages: usize, kept: usize) -> Mapping {
        // SAFETY: a constant name; the answer is checked.
        let file = unsafe { libc::memfd_create(c"truncated".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(file >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        let resize = |pages: usize| {
            // SAFETY: `file` is an open descriptor of our own.
            let answer = unsafe { libc::ftruncate(file, (pages * PAGE) as libc::off_t) };
            assert_eq!(answer, 0, "ftruncate: {}", std::io::Error::last_os_error());
        };
        resize(pages);
        let mapping = Mapping::new(pages, libc::MAP_SHARED, file);
        // SAFETY: the whole of a mapping that nobody else knows.
        unsafe { mapping.at(0).write_bytes(0x5a, pages * PAGE) };
        resize(kept);
        // SAFETY: our own descriptor, not used again; the mapping keeps the file.
        unsafe { libc::close(file) };
        mapping
    }

    fn new(pages: usize, flags: c_int, file: c_int) -> Mapping {
        let length = pages * PAGE;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping where the kernel likes; the answer is checked.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, rights, flags, file, 0) };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Mapping { start: start.cast(), length }
    }

    pub fn make_read_only(&self) {
        // SAFETY: a mapping of our own.
        let answer = unsafe { libc::mprotect(self.start.cast(), self.length, libc::PROT_READ) };
        assert_eq!(answer, 0, "mprotect: {}", std::io::Error::last_os_error());
    }

    /// The address of byte `place`, which may lie behind the end.
    pub fn at(&self, place: usize) -> *mut u8 {
        self.start.wrapping_add(place)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: a mapping of our own that nobody uses any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

// SAFETY: plain memory; the tests that share it say who writes when.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Faults that were passed on because they were not ours.
pub static CHAINED: AtomicUsize = AtomicUsize::new(0);

/// The handlers that were there before, of SIGSEGV and SIGBUS.
static BEFORE: [AtomicPtr<libc::sigaction>; 2] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 2];

/// Installs, once per process, the handler that a program would: ours first, then whoever was there.
pub fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (place, signal) in [libc::SIGSEGV, libc::SIGBUS].into_iter().enumerate() {
            // SAFETY: all zeros is a valid sigaction; both structures live as long as the calls.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let mut before: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_fault as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                // The old one is stored before the new one can run.
                assert_eq!(libc::sigaction(signal, std::ptr::null(), &mut before), 0);
                BEFORE[place].store(Box::into_raw(Box::new(before)), Ordering::SeqCst);
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
        }
    });
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: exactly what the kernel passed.
    if unsafe { fault::handle(signal, info.cast_const().cast(), context) } {
        return;
    }
    CHAINED.fetch_add(1, Ordering::Relaxed);
    let before = BEFORE[usize::from(signal == libc::SIGBUS)].load(Ordering::SeqCst);
    // SAFETY: stored before the handler was installed, never freed; the instruction then faults again under it.
    unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
}
