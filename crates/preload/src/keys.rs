//! Protection keys: with `LIFEBOAT_GUARD`, where the processor has them, the region is closed to every thread of the program
//! except while a call of ours works on it.
//!
//! The rights are a register of each thread (PKRU, two bits for each of 16 keys): the kernel saves it with the thread, hands it on
//! to new threads and forked children, and starts handlers of signals with all keys but the first closed. So a handler that
//! interrupts one of our calls cannot reach the region either, unless it makes calls itself; and whoever jumps out of a
//! call leaves it closed.

use core::sync::atomic::{AtomicU32, Ordering};
use lifeboat_region::Region;

/// Both bits of the region's key; 0 where keys are not used.
static BITS: AtomicU32 = AtomicU32::new(0);

/// While it lives, this thread may use the region. What is within another changes nothing.
pub struct Opened(u32);

impl Opened {
    /// Opens the region to this thread.
    #[inline(always)]
    pub fn begin() -> Opened {
        match BITS.load(Ordering::Relaxed) {
            0 => Opened(0),
            bits => open(bits),
        }
    }
}

impl Drop for Opened {
    #[inline(always)]
    fn drop(&mut self) {
        if self.0 != 0 {
            rights::set(rights::get() | self.0);
        }
    }
}

fn open(bits: u32) -> Opened {
    let rights = rights::get();
    let closed = rights & bits;
    if closed != 0 {
        rights::set(rights & !bits);
    }
    Opened(closed)
}

/// Gives the region a key, if the processor and the kernel have one left; this thread may use it until the value is dropped.
pub fn protect(region: &Region) -> Opened {
    match rights::take_key() {
        Some(key) if rights::give_key(region, key) => {
            let bits = 3 << (2 * key);
            BITS.store(bits, Ordering::Release);
            Opened(bits)
        }
        _ => Opened(0),
    }
}

#[cfg(target_arch = "x86_64")]
mod rights {
    use core::arch::asm;
    use core::ffi::{c_int, c_uint, c_void};
    use lifeboat_region::Region;

    /// This thread's rights. Only where a key was taken.
    pub(super) fn get() -> u32 {
        let rights: u32;
        // SAFETY: the instruction only reads a register; a key was taken, so processor and kernel know it.
        unsafe {
            asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack, preserves_flags))
        };
        rights
    }

    /// Sets them. No access to memory moves across: the compiler takes it for one of any memory.
    pub(super) fn set(rights: u32) {
        // SAFETY: as above; only bits of the region's key are changed, which nobody else uses.
        unsafe { asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags)) };
    }

    /// A key that is open to this thread and closed to others.
    pub(super) fn take_key() -> Option<u32> {
        let key = libc_function!(c"pkey_alloc", fn(c_uint, c_uint) -> c_int)(0, 0);
        u32::try_from(key).ok().filter(|key| (1..16).contains(key))
    }

    /// Gives it to the region's pages; if that fails, the key is free again.
    pub(super) fn give_key(region: &Region, key: u32) -> bool {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let (at, length) = (region.base() as *mut c_void, region.length() as usize);
        let give = libc_function!(c"pkey_mprotect", fn(*mut c_void, usize, c_int, c_int) -> c_int);
        let given = give(at, length, rights, key as c_int) == 0;
        if !given {
            // Pages that have it already get the usual one back before somebody else gets the key.
            give(at, length, rights, 0);
            libc_function!(c"pkey_free", fn(c_int) -> c_int)(key as c_int);
        }
        given
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod rights {
    use lifeboat_region::Region;

    pub(super) fn get() -> u32 {
        0
    }

    pub(super) fn set(_rights: u32) {}

    pub(super) fn take_key() -> Option<u32> {
        None
    }

    pub(super) fn give_key(_region: &Region, _key: u32) -> bool {
        false
    }
}
