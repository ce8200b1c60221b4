//! The variables that say which region, which mount and which instructions, and how they are handed to programs that are executed.

use crate::{message, user, working_directory};
use core::cell::UnsafeCell;
use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};
use lifeboat_kernels::tuning;

const REGION: &[u8] = b"LIFEBOAT_REGION=";
const MOUNT: &[u8] = b"LIFEBOAT_MOUNT=";
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// Carries a working directory below the mount to the next program, as a path below the mount.
const DIRECTORY: &[u8] = b"LIFEBOAT_CWD=";
/// Which instructions may be used.
const KERNELS: &[u8] = b"LIFEBOAT_KERNELS=";
/// Whether system calls past libc are trapped.
const TRAP: &[u8] = b"LIFEBOAT_TRAP_RAW=";
/// Whether sealed data is closed to stores of the program.
const GUARD: &[u8] = b"LIFEBOAT_GUARD=";
/// When checksums of what is written are made.
const CHECKSUMS: &[u8] = b"LIFEBOAT_CHECKSUMS=";
/// No longer value of either means anything.
const SETTING_LONGEST: usize = 32;
/// Where names are claimed that other nodes may want to write, too.
const CLAIMS: &[u8] = b"LIFEBOAT_CLAIMS=";

const TEXT_MAX: usize = user::PATH_MAX + 32;

/// `NAME=value` with its NUL, written once before it is read.
struct Text {
    bytes: UnsafeCell<[u8; TEXT_MAX]>,
    /// Without the NUL; 0 when not set.
    length: AtomicUsize,
}

// SAFETY: `set` is called while the environment is read, before anyone looks at the bytes; all threads that read it
// at once write the same bytes.
unsafe impl Sync for Text {}

impl Text {
    const fn new() -> Text {
        Text { bytes: UnsafeCell::new([0; TEXT_MAX]), length: AtomicUsize::new(0) }
    }

    /// False when the text is too long.
    fn set(&self, name: &[u8], value: &[u8]) -> bool {
        let length = name.len() + value.len();
        if length >= TEXT_MAX {
            return false;
        }
        // SAFETY: see the type.
        let bytes = unsafe { &mut *self.bytes.get() };
        bytes[..name.len()].copy_from_slice(name);
        bytes[name.len()..length].copy_from_slice(value);
        bytes[length] = 0;
        self.length.store(length, Ordering::Release);
        true
    }

    fn value(&'static self, name: &[u8]) -> &'static [u8] {
        let length = self.length.load(Ordering::Acquire);
        // SAFETY: see the type; the length is published after the bytes.
        let bytes = unsafe { &*self.bytes.get() };
        bytes.get(name.len()..length).unwrap_or_default()
    }

    fn is_set(&self) -> bool {
        self.length.load(Ordering::Acquire) != 0
    }

    fn pointer(&self) -> *const c_char {
        self.bytes.get().cast()
    }
}

static REGION_TEXT: Text = Text::new();
static MOUNT_TEXT: Text = Text::new();
static PRELOAD_TEXT: Text = Text::new();
static DIRECTORY_TEXT: Text = Text::new();
static KERNELS_TEXT: Text = Text::new();
static TRAP_TEXT: Text = Text::new();
static CLAIMS_TEXT: Text = Text::new();
static GUARD_TEXT: Text = Text::new();
static CHECKSUMS_TEXT: Text = Text::new();

const SETTINGS_COUNT: usize = 5;
/// What is handed on where it is set.
static SETTINGS: [(&[u8], &Text); SETTINGS_COUNT] = [
    (KERNELS, &KERNELS_TEXT),
    (TRAP, &TRAP_TEXT),
    (CLAIMS, &CLAIMS_TEXT),
    (GUARD, &GUARD_TEXT),
    (CHECKSUMS, &CHECKSUMS_TEXT),
];

/// What the environment says.
pub enum Found {
    /// libc has not set it up yet.
    NotYet,
    /// No mount.
    Nothing,
    /// Region and mount.
    Mount,
}

/// Folder of the region.
pub fn region() -> &'static [u8] {
    REGION_TEXT.value(REGION)
}

/// Absolute path of the mount, without a slash at the end.
pub fn mount() -> &'static [u8] {
    MOUNT_TEXT.value(MOUNT)
}

/// Working directory below the mount that the program before us left.
pub fn inherited_directory() -> Option<&'static [u8]> {
    Some(DIRECTORY_TEXT.value(DIRECTORY)).filter(|path| !path.is_empty())
}

/// Whether system calls past libc are to be trapped.
pub fn traps() -> bool {
    TRAP_TEXT.is_set() && TRAP_TEXT.value(TRAP) != b"0"
}

/// Whether sealed data is to be closed to stores of the program.
pub fn guards() -> bool {
    GUARD_TEXT.is_set() && GUARD_TEXT.value(GUARD) != b"0"
}

/// Whether checksums are made when data is sealed, and not while it is written.
pub fn sums_at_seal() -> bool {
    CHECKSUMS_TEXT.value(CHECKSUMS) == b"seal"
}

/// Folder in which names are claimed, if this node is not the only one.
pub fn claims() -> Option<&'static [u8]> {
    Some(CLAIMS_TEXT.value(CLAIMS)).filter(|path| !path.is_empty() && *path != b"none")
}

unsafe extern "C" {
    #[link_name = "environ"]
    static mut ENVIRON: *const *const c_char;
}

/// The program's environment as libc has it.
pub fn current() -> *const *const c_char {
    // SAFETY: a plain read of a pointer; programs that change it in another thread at the same time race by themselves.
    unsafe { ENVIRON }
}

/// Reads `environment`, or libc's when that is null.
pub fn read(environment: *const *const c_char) -> Found {
    // SAFETY: `getauxval` only reads the vector that the kernel passed.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return Found::Nothing;
    }
    let environment = if environment.is_null() { current() } else { environment };
    if environment.is_null() {
        return Found::NotYet;
    }
    let mut complete = true;
    for_each(environment, |variable| {
        for (name, text) in [(REGION, &REGION_TEXT), (MOUNT, &MOUNT_TEXT), (DIRECTORY, &DIRECTORY_TEXT)] {
            if let Some(value) = value_of(variable, name) {
                complete &= text.set(name, value);
            }
        }
        for (name, text) in SETTINGS {
            if let Some(value) = value_of(variable, name) {
                let longest = if name == CLAIMS { TEXT_MAX } else { SETTING_LONGEST };
                complete &= text.set(name, &value[..value.len().min(longest)]);
            }
        }
    });
    complete &= own_path().is_some_and(|path| PRELOAD_TEXT.set(PRELOAD, path));
    if region().is_empty() && mount().is_empty() {
        return Found::Nothing;
    }
    // A slash at the end would keep the comparison of whole components from ever succeeding.
    let trimmed = mount().len() - mount().iter().rev().take_while(|&&byte| byte == b'/').count();
    // A mount without a region is kept: every path below it is then refused.
    if !complete || mount().first() != Some(&b'/') || trimmed == 0 {
        message::say(format_args!(
            "LIFEBOAT_MOUNT, LIFEBOAT_REGION or LIFEBOAT_CLAIMS is not a usable path; nothing is intercepted: use 'lifeboat exec'"
        ));
        return Found::Nothing;
    }
    MOUNT_TEXT.length.store(MOUNT.len() + trimmed, Ordering::Release);
    let kernels = KERNELS_TEXT.value(KERNELS);
    if KERNELS_TEXT.is_set()
        && let Err(error) = tuning::limit_level_to(kernels)
    {
        message::say(format_args!("{error}, not '{}'; there is no limit", message::Shown(kernels)));
    }
    let checksums = CHECKSUMS_TEXT.value(CHECKSUMS);
    if !matches!(checksums, b"" | b"write" | b"seal") {
        message::say(format_args!(
            "LIFEBOAT_CHECKSUMS is 'write' or 'seal', not '{}'; checksums are made while data is written",
            message::Shown(checksums)
        ));
    }
    Found::Mount
}

fn for_each(environment: *const *const c_char, mut use_it: impl FnMut(&'static core::ffi::CStr)) {
    let mut at = environment;
    loop {
        // SAFETY: an environment is an array of C strings that ends with a null pointer.
        let variable = unsafe { *at };
        if variable.is_null() {
            return;
        }
        // SAFETY: as above; the strings outlive the start of the program.
        use_it(unsafe { core::ffi::CStr::from_ptr(variable) });
        at = at.wrapping_add(1);
    }
}

fn value_of(variable: &'static core::ffi::CStr, name: &[u8]) -> Option<&'static [u8]> {
    variable.to_bytes().strip_prefix(name)
}

/// The path under which the linker loaded this library.
fn own_path() -> Option<&'static [u8]> {
    // SAFETY: a C structure of pointers, for which zeros are valid.
    let mut found: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: the address is of this library; `found` is ours. `dladdr` is not hooked.
    let known = unsafe { libc::dladdr(own_path as *const c_void, &mut found) } != 0 && !found.dli_fname.is_null();
    // SAFETY: the linker's name of a library that is never unloaded.
    known.then(|| unsafe { core::ffi::CStr::from_ptr(found.dli_fname) }.to_bytes())
}

/// Whether a value of LD_PRELOAD loads this library.
fn names_own(value: &[u8]) -> bool {
    let own = PRELOAD_TEXT.value(PRELOAD);
    value.split(|&byte| byte == b':' || byte == b' ').any(|entry| entry == own)
}

const POINTERS_MAX: usize = 1024;

/// An environment for the next program: the one that was asked for, and ours where it was left out.
pub struct Environment {
    pointers: [*const c_char; POINTERS_MAX],
    preload: [u8; TEXT_MAX],
    directory: [u8; TEXT_MAX],
}

/// What a given environment has of ours.
#[derive(Default)]
struct Present {
    count: usize,
    region: bool,
    mount: bool,
    directory: bool,
    /// Which of `SETTINGS`.
    settings: [bool; SETTINGS_COUNT],
    /// Index of LD_PRELOAD.
    preload: Option<usize>,
    /// And it names this library.
    own: bool,
}

impl Environment {
    /// Room on the stack: there may be no heap between `vfork` and `exec`.
    pub const fn new() -> Environment {
        Environment { pointers: [core::ptr::null(); POINTERS_MAX], preload: [0; TEXT_MAX], directory: [0; TEXT_MAX] }
    }

    /// The environment to execute with: `given` itself when nothing is missing, or when it is too large to be copied.
    pub fn complete(&mut self, given: *const *const c_char) -> *const *const c_char {
        self.complete_in(given, working_directory::current())
    }

    /// As [`Environment::complete`], for a program that starts in `directory`, if that is one of ours.
    pub fn complete_in(
        &mut self,
        given: *const *const c_char,
        directory: Option<lifeboat_fs::InodeId>,
    ) -> *const *const c_char {
        if !crate::state::configured() {
            return given;
        }
        let present = examine(given);
        let directory = working_directory::to_hand_on(directory, &mut self.directory, DIRECTORY);
        let missing = SETTINGS.iter().zip(present.settings).filter(|((_, text), given)| text.is_set() && !given);
        let changes = missing.clone().next().is_some() || present.directory || directory;
        let complete = present.region && present.mount && present.own && !changes;
        if complete || present.count + 5 + SETTINGS_COUNT > POINTERS_MAX {
            return given;
        }
        let mut used = 0;
        for index in 0..present.count {
            let variable = given.wrapping_add(index);
            // SAFETY: `examine` counted the pointers of this array.
            let variable = unsafe { *variable };
            let replaced = (Some(index) == present.preload && !present.own) || begins(variable, DIRECTORY);
            if !replaced {
                self.pointers[used] = variable;
                used += 1;
            }
        }
        let preload = (!present.own).then(|| self.preload_text(given, present.preload)).flatten();
        let ours = [
            (!present.region).then(|| REGION_TEXT.pointer()),
            (!present.mount).then(|| MOUNT_TEXT.pointer()),
            preload,
            directory.then(|| self.directory.as_ptr().cast()),
        ];
        for pointer in ours.into_iter().flatten().chain(missing.map(|((_, text), _)| text.pointer())) {
            self.pointers[used] = pointer;
            used += 1;
        }
        self.pointers[used] = core::ptr::null();
        self.pointers.as_ptr()
    }

    /// This library in front of what the program wants preloaded.
    fn preload_text(&mut self, given: *const *const c_char, index: Option<usize>) -> Option<*const c_char> {
        let own = PRELOAD_TEXT.value(PRELOAD);
        if own.is_empty() {
            return None;
        }
        let Some(index) = index else { return Some(PRELOAD_TEXT.pointer()) };
        // SAFETY: `examine` saw this string.
        let theirs = unsafe { core::ffi::CStr::from_ptr(*given.wrapping_add(index)) }.to_bytes();
        let theirs = theirs.strip_prefix(PRELOAD)?;
        let mut used = 0;
        for part in [PRELOAD, own, b":", theirs, b"\0"] {
            self.preload.get_mut(used..used + part.len())?.copy_from_slice(part);
            used += part.len();
        }
        Some(self.preload.as_ptr().cast())
    }
}

/// Runs `start`, which makes libc execute something by itself with the environment as it is, with one that leads to the
/// mount. A program that starts a shell while another thread changes the environment races by itself.
pub fn with_complete<R>(start: impl FnOnce() -> R) -> R {
    if !crate::state::configured() {
        return start();
    }
    let before = current();
    let mut environment = Environment::new();
    // SAFETY: libc's variable; the array lives until it is put back, and libc only reads it.
    unsafe { ENVIRON = environment.complete(before) };
    let result = start();
    // SAFETY: as above.
    unsafe { ENVIRON = before };
    result
}

fn examine(given: *const *const c_char) -> Present {
    let mut present = Present::default();
    if given.is_null() {
        return present;
    }
    loop {
        // SAFETY: an environment is an array of C strings that ends with a null pointer.
        let variable = unsafe { *given.wrapping_add(present.count) };
        if variable.is_null() {
            return present;
        }
        present.region |= begins(variable, REGION);
        present.mount |= begins(variable, MOUNT);
        present.directory |= begins(variable, DIRECTORY);
        for ((name, _), given) in SETTINGS.iter().zip(&mut present.settings) {
            *given |= begins(variable, name);
        }
        if begins(variable, PRELOAD) {
            present.preload = Some(present.count);
            // SAFETY: a C string, as above.
            let value = unsafe { core::ffi::CStr::from_ptr(variable) }.to_bytes();
            present.own = value.strip_prefix(PRELOAD).is_some_and(names_own);
        }
        present.count += 1;
    }
}

fn begins(variable: *const c_char, name: &[u8]) -> bool {
    name.iter().enumerate().all(|(index, &byte)| {
        // SAFETY: the bytes before this one were equal to those of a name without NUL, so the string reaches here.
        (unsafe { *variable.wrapping_add(index) }) as u8 == byte
    })
}
