//! On whose behalf calls are made: effective ids and the file creation mask, kept so that they cost no system call.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use lifeboat_fs::Caller;

const GROUPS_MAX: usize = 1024;

static UMASK: AtomicU32 = AtomicU32::new(0o022);
static KNOWN: AtomicBool = AtomicBool::new(false);
static CURRENT: AtomicUsize = AtomicUsize::new(0);

struct Credentials {
    uid: u32,
    gid: u32,
    count: usize,
    groups: [u32; GROUPS_MAX],
}

struct Pair([UnsafeCell<Credentials>; 2]);

// SAFETY: readers use the entry that CURRENT names; a refresh writes the other one and then publishes it. Ids change
// once or twice in the life of a program, so nobody still reads the entry of two changes ago.
unsafe impl Sync for Pair {}

const NOBODY: Credentials = Credentials { uid: 65534, gid: 65534, count: 0, groups: [0; GROUPS_MAX] };

static CREDENTIALS: Pair = Pair([UnsafeCell::new(NOBODY), UnsafeCell::new(NOBODY)]);

/// To be called after ids or groups changed.
pub fn forget() {
    KNOWN.store(false, Ordering::Release);
}

/// The mask changed.
pub fn set_umask(mask: u32) {
    UMASK.store(mask & 0o777, Ordering::Relaxed);
}

/// Reads the mask from the kernel; setting it for a moment to learn it would be seen by other threads.
pub fn note_umask() {
    const FIELD: &[u8] = b"\nUmask:\t";
    let mut text = [0u8; 256];
    let Ok(count) = lifeboat_region::process::read_small(b"/proc/self/status", &mut text) else { return };
    let text = &text[..count];
    let Some(at) = text.windows(FIELD.len()).position(|window| window == FIELD) else { return };
    let digits = text[at + FIELD.len()..].iter().take_while(|byte| (b'0'..=b'7').contains(byte));
    set_umask(digits.fold(0, |mask, digit| mask * 8 + (digit - b'0') as u32));
}

/// Runs `use_it` with the caller's effective ids.
pub fn with_caller<R>(use_it: impl FnOnce(&Caller<'_>) -> R) -> R {
    let credentials = known();
    let groups = credentials.groups.get(..credentials.count).unwrap_or_default();
    let umask = UMASK.load(Ordering::Relaxed);
    use_it(&Caller { uid: credentials.uid, gid: credentials.gid, groups, umask, checked: false })
}

/// Runs `use_it` with the caller's real ids, by which `access` asks.
pub fn with_real_caller<R>(who: &Caller<'_>, use_it: impl FnOnce(&Caller<'_>) -> R) -> R {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    use_it(&Caller { uid, gid, ..*who })
}

fn known() -> &'static Credentials {
    if !KNOWN.load(Ordering::Acquire) {
        refresh();
    }
    // SAFETY: see `Pair`.
    unsafe { &*CREDENTIALS.0[CURRENT.load(Ordering::Acquire) & 1].get() }
}

#[cold]
fn refresh() {
    let next = (CURRENT.load(Ordering::Acquire) + 1) & 1;
    // SAFETY: see `Pair`.
    let credentials = unsafe { &mut *CREDENTIALS.0[next].get() };
    credentials.uid = rustix::process::geteuid().as_raw();
    credentials.gid = rustix::process::getegid().as_raw();
    // SAFETY: the array has room for the number of groups that is passed. `getgroups` is not hooked.
    let count = unsafe { libc::getgroups(GROUPS_MAX as libc::c_int, credentials.groups.as_mut_ptr()) };
    credentials.count = usize::try_from(count).unwrap_or(0);
    CURRENT.store(next, Ordering::Release);
    KNOWN.store(true, Ordering::Release);
}
