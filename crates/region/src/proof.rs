//! Proof that an image is gone, from what the kernel knows.
//!
//! Each slot has a lock file, which its image locks twice: with a record lock, and with `flock` through a mapping of one
//! page, the *witness*, whose descriptor is closed at once. An image is gone when both are free *and* its process is
//! absent, was started at another time, or no longer maps this region. Each alone lies: a record lock vanishes when a live
//! process closes any descriptor of that file, a mapping when a program unmaps what it does not know, a pid is reused, exec
//! keeps pid and start time. Of a process in another pid namespace, or without a `/proc` of ours, the kernel tells no
//! more than the two locks: there they are the proof.

use crate::image::{self, Holder};
use crate::process;
use crate::region::{LOCK_DESCRIPTOR, Region, out_of_the_way};
use crate::{Errno, Result};
use core::ffi::c_void;
use rustix::fd::{IntoRawFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::thread::Timespec;

fn lock_path(slot: u32, out: &mut [u8; 64]) -> usize {
    process::decimal(b"", slot as u64, b"", out)
}

fn open_lock_file(region: &Region, slot: u32, create: bool) -> Result<OwnedFd> {
    let mut path = [0; 64];
    let length = lock_path(slot, &mut path);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match rustix::fs::openat(region.images(), &path[..length], flags, Mode::empty()) {
        Err(Errno::NOENT) if create => {
            let file = rustix::fs::openat(region.images(), &path[..length], flags | OFlags::CREATE, SHARED_FILE)?;
            // Whatever the program's mask; a file that somebody else has just made is as good. By its name: a program that closes
            // what it does not know may have made the descriptor another's meanwhile.
            let _ = rustix::fs::chmodat(region.images(), &path[..length], SHARED_FILE, AtFlags::empty());
            Ok(file)
        }
        opened => opened,
    }
}

/// Others can come to these files only through descriptors that a program of the owner's held when it gave up its user
/// id: the directory above is the owner's alone.
const SHARED_FILE: Mode = Mode::from_raw_mode(0o666);

/// Who this process is, for the words of a slot.
pub(crate) fn own_identity(region: &Region) -> Result<Holder> {
    Ok(Holder {
        pid: rustix::process::getpid().as_raw_nonzero().get() as u32,
        start: process::own_start_time()?,
        namespace: process::pid_namespace()?,
        run: region.superblock().run,
    })
}

/// The record lock on a slot, which ends with the descriptor.
pub(crate) struct SlotLock(OwnedFd);

impl SlotLock {
    /// Takes the lock of `slot`; `None` while another process has it.
    pub(crate) fn take(region: &Region, slot: u32) -> Result<Option<SlotLock>> {
        let file = out_of_the_way(open_lock_file(region, slot, true)?, LOCK_DESCRIPTOR);
        let locked = rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok(locked.then_some(SlotLock(file)))
    }

    /// Keeps it for the life of the image: closing it would end the lock. The number of its descriptor.
    pub(crate) fn keep(self) -> u32 {
        self.0.into_raw_fd() as u32
    }
}

/// Ends a lock and a witness that were kept; the latter 0 where there is none.
///
/// # Safety
/// They came from [`SlotLock::keep`] and [`Witness::keep`], and are given up nowhere else.
pub(crate) unsafe fn let_go(descriptor: Option<u32>, page: usize) {
    if let Some(descriptor) = descriptor {
        // SAFETY: the caller's promise.
        unsafe { rustix::io::close(descriptor as i32) };
    }
    if page != 0 {
        drop(Witness(page));
    }
}

/// A mapping of the slot's lock file that holds an `flock`: it ends with this image's memory, whatever becomes of
/// descriptors, and no forked child inherits it.
pub(crate) struct Witness(usize);

const WITNESS: usize = 4096;
/// How often a witness is looked for that may only be asked for by somebody else.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };

impl Witness {
    /// `None` when another holds it, or is just looking whether somebody does.
    pub(crate) fn take(region: &Region, slot: u32) -> Result<Option<Witness>> {
        let file = open_lock_file(region, slot, true)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other?,
        }
        let (protection, flags) = (ProtFlags::empty(), MapFlags::SHARED);
        // SAFETY: a new mapping without access, where the kernel finds room for it.
        let page = unsafe { rustix::mm::mmap(core::ptr::null_mut(), WITNESS, protection, flags, &file, 0) }?;
        let witness = Witness(page as usize);
        // SAFETY: advice on our own page; it takes effect in children only.
        unsafe { rustix::mm::madvise(page, WITNESS, Advice::LinuxDontFork) }?;
        Ok(Some(witness))
    }

    /// Its address: held until that is unmapped.
    pub(crate) fn keep(self) -> usize {
        let page = self.0;
        core::mem::forget(self);
        page
    }

    /// Whether no image holds one, for sure: who only asks, as [`Witness::is_held`] says, does not for long.
    pub(crate) fn is_lost(region: &Region, slot: u32) -> bool {
        (0..LOOKS).any(|look| {
            if look > 0 {
                let _ = rustix::thread::nanosleep(&BETWEEN_LOOKS);
            }
            Witness::is_held(region, slot) == Ok(false)
        })
    }

    /// Whether an image holds one. Tells yes, too, while another asks the same of a slot that is being taken.
    fn is_held(region: &Region, slot: u32) -> Result<bool> {
        let file = match open_lock_file(region, slot, false) {
            Err(Errno::NOENT) => return Ok(false),
            file => file?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // SAFETY: mapped by `take`, unmapped nowhere else.
        let _ = unsafe { rustix::mm::munmap(self.0 as *mut c_void, WITNESS) };
    }
}

/// Proves or fails to prove that the holder of `slot` is gone. Own slots are never gone.
pub(crate) fn is_gone(region: &Region, slot: u32) -> Result<bool> {
    if image::has_own(region) && image::own(region)?.slot == slot {
        return Ok(false);
    }
    is_gone_but_for_us(region, slot, false)
}

/// As [`is_gone`], of a slot that is not ours; `has_witness`: its witness is ours already, so nobody else has it.
pub(crate) fn is_gone_but_for_us(region: &Region, slot: u32, has_witness: bool) -> Result<bool> {
    let holder = image::holder(region, slot)?;
    if holder.run != region.superblock().run {
        return Ok(true);
    }
    if lock_is_held(region, slot)? || (!has_witness && Witness::is_held(region, slot)?) {
        return Ok(false);
    }
    if process::pid_namespace()? != holder.namespace || !process::proc_is_of_our_namespace() {
        // A pid of another namespace proves nothing either way.
        return Ok(region.load(region.image_at(slot)? + 40)? == 1);
    }
    Ok(match process::start_time(holder.pid) {
        Err(Errno::NOENT | Errno::SRCH) => true,
        Err(_) => false,
        Ok(start) if start != holder.start => true,
        Ok(_) => {
            let (device, inode) = region.file_identity();
            !process::maps_file(holder.pid, device, inode)
        }
    })
}

fn lock_is_held(region: &Region, slot: u32) -> Result<bool> {
    let file = match open_lock_file(region, slot, false) {
        Ok(file) => file,
        // Without its lock file the slot's lock is nobody's; the process itself is examined next.
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error),
    };
    let wanted = rustix::process::Flock::from(rustix::process::FlockType::WriteLock);
    Ok(rustix::process::fcntl_getlk(&file, &wanted)?.is_some())
}
