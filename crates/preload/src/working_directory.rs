//! The working directory, when it lies below the mount. The kernel knows nothing of such a place, so the process
//! really stands in the directory that the mount covers, and relative paths start here instead.

use crate::{covered, environment, signals, state, user};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use lifeboat_fs::{Errno, InodeId, LastLink, Result};

static INSIDE: AtomicBool = AtomicBool::new(false);
static DIRECTORY: AtomicU64 = AtomicU64::new(0);

/// Bytes of the mount's path that are the kernel's working directory, plus one, when that lies above the mount; 0 when
/// it does not. From there a relative path can lead below the mount.
static ABOVE: AtomicUsize = AtomicUsize::new(0);

/// A `vfork` child's own directory: it may not change its parent's. Its process, and whether it is inside.
static CHILD: AtomicU32 = AtomicU32::new(0);
static CHILD_INSIDE: AtomicBool = AtomicBool::new(false);
static CHILD_DIRECTORY: AtomicU64 = AtomicU64::new(0);

/// The working directory, if it is one of ours.
#[inline(always)]
pub fn current() -> Option<InodeId> {
    if CHILD.load(Ordering::Relaxed) != 0 {
        return current_with_child();
    }
    if !INSIDE.load(Ordering::Relaxed) {
        return None;
    }
    Some(InodeId::from_word(DIRECTORY.load(Ordering::Relaxed)))
}

#[cold]
fn current_with_child() -> Option<InodeId> {
    let (inside, directory) = if CHILD.load(Ordering::Relaxed) == state::own_pid() {
        (&CHILD_INSIDE, &CHILD_DIRECTORY)
    } else {
        (&INSIDE, &DIRECTORY)
    };
    inside.load(Ordering::Relaxed).then(|| InodeId::from_word(directory.load(Ordering::Relaxed)))
}

fn set(directory: Option<InodeId>) {
    let (inside, place) = if state::borrows_memory() {
        CHILD.store(state::own_pid(), Ordering::Relaxed);
        (&CHILD_INSIDE, &CHILD_DIRECTORY)
    } else {
        (&INSIDE, &DIRECTORY)
    };
    if let Some(directory) = directory {
        place.store(directory.to_word(), Ordering::Relaxed);
    }
    inside.store(directory.is_some(), Ordering::Relaxed);
}

/// The process went into a directory of ours.
pub fn enter(directory: InodeId) {
    set(Some(directory));
    // Where the covered directory exists, what libc does by itself with relative names ends there, in an empty place.
    let mut path = [0u8; user::PATH_MAX];
    let mount = environment::mount();
    if let Some(text) = path.get_mut(..mount.len()) {
        text.copy_from_slice(mount);
        let _ = rustix::process::chdir(&*text);
    }
}

/// The process went to a directory of the kernel's.
pub fn leave() {
    if current().is_some() {
        set(None);
    }
    note_kernel_directory();
}

/// Asks the kernel where the process stands.
pub fn note_kernel_directory() {
    if !state::configured() || state::borrows_memory() {
        return;
    }
    let mut shown = [0u8; user::PATH_MAX];
    let length = rustix::fs::readlinkat_raw(rustix::fs::CWD, c"/proc/self/cwd", &mut shown[..]).unwrap_or(0);
    let directory = match shown.get(..length).unwrap_or_default() {
        b"/" => b"",
        [] => return ABOVE.store(0, Ordering::Relaxed),
        directory => directory,
    };
    // By a link, or by a descriptor of the covered directory.
    if !directory.is_empty()
        && directory == covered::path()
        && let Ok(file_system) = state::file_system()
    {
        set(Some(file_system.root()));
    }
    let rest = environment::mount().strip_prefix(directory);
    let above = if rest.and_then(<[u8]>::first) == Some(&b'/') { directory.len() + 1 } else { 0 };
    ABOVE.store(above, Ordering::Relaxed);
}

/// The rest of the mount's path, beginning with a slash, when the kernel's working directory lies above the mount.
#[inline(always)]
pub fn rest_to_mount() -> Option<&'static [u8]> {
    match ABOVE.load(Ordering::Relaxed) {
        0 => None,
        above => environment::mount().get(above - 1..),
    }
}

/// A `vfork` child has gone its own way, or a new one begins.
pub fn forget_child() {
    CHILD.store(0, Ordering::Relaxed);
}

/// Goes where the program before this one was.
pub fn inherit() {
    let Some(path) = environment::inherited_directory() else { return };
    let found = state::file_system().and_then(|file_system| {
        let _held = signals::hold();
        crate::identity::with_caller(|who| file_system.resolve(who, file_system.root(), path, LastLink::Follow))
    });
    if let Ok(directory) = found {
        set(Some(directory));
    }
}

/// Path of the working directory with the mount in front; `None` when it is the kernel's.
pub fn path(out: &mut [u8; user::PATH_MAX]) -> Option<Result<usize>> {
    current().map(|directory| absolute_path(directory, out))
}

/// Path of one of our directories with the mount in front.
pub fn absolute_path(directory: InodeId, out: &mut [u8; user::PATH_MAX]) -> Result<usize> {
    let mut below = [0u8; user::PATH_MAX];
    let length = crate::call::call_once(|file_system, _| file_system.path_of(directory, &mut below))?;
    join_mount(below.get(..length).unwrap_or_default(), out)
}

/// Puts the mount in front of an absolute path below it.
pub fn join_mount(below: &[u8], out: &mut [u8; user::PATH_MAX]) -> Result<usize> {
    let mount = environment::mount();
    let below = if below == b"/" { b"" } else { below };
    let length = mount.len() + below.len();
    if length >= user::PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    out[..mount.len()].copy_from_slice(mount);
    out[mount.len()..length].copy_from_slice(below);
    Ok(length)
}

/// Writes `name` and the path below the mount, with a NUL, for the environment of the next program. False when
/// `directory`, in which that starts, is the kernel's.
pub fn to_hand_on(directory: Option<InodeId>, out: &mut [u8], name: &[u8]) -> bool {
    let Some(directory) = directory else { return false };
    let mut below = [0u8; user::PATH_MAX];
    let length = crate::call::call_once(|file_system, _| file_system.path_of(directory, &mut below));
    let Ok(length) = length else { return false };
    let total = name.len() + length;
    let Some(place) = out.get_mut(..total + 1) else { return false };
    place[..name.len()].copy_from_slice(name);
    place[name.len()..total].copy_from_slice(&below[..length]);
    place[total] = 0;
    true
}
