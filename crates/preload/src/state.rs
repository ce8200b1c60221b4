//! What this process is attached to, and when that happens: the environment is read once, before other constructors
//! where the linker allows it; the region is attached at the first call that needs it.

use crate::{
    covered, descriptors, environment, faults, identity, kept_tags, keys, limits, mappings, message, sharing, signals,
    streams, tags, trap, working_directory,
};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};
use lifeboat_fs::{CLAIMS_LONGEST, ClaimTrouble, Claims, Errno, FileSystem, Result};
use lifeboat_region::Region;

/// The environment has not been read.
const UNKNOWN: u8 = 0;
/// There is no mount for this process: every call passes on.
const ABSENT: u8 = 1;
/// Region and mount are known.
const CONFIGURED: u8 = 2;
/// A thread is attaching.
const ATTACHING: u8 = 3;
/// The file system can be used.
const READY: u8 = 4;
/// The region could not be attached, which was said once.
const FAILED: u8 = 5;

/// What every call below the mount answers when the region could not be attached.
const NOT_ATTACHED: Errno = Errno::NXIO;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

struct Slot(UnsafeCell<MaybeUninit<FileSystem>>);

// SAFETY: written once, by the thread that moved STATE to ATTACHING, before it is published as READY.
unsafe impl Sync for Slot {}

static FILE_SYSTEM: Slot = Slot(UnsafeCell::new(MaybeUninit::uninit()));

/// The process that owns this memory: zero after a fork (the kernel wipes the page), someone else's in a `vfork` child.
static OWNER: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// For kernels that cannot wipe a page at fork: the fork hook resets it.
static OWNER_WITHOUT_PAGE: AtomicU32 = AtomicU32::new(0);

/// Whether this process has a mount at all.
#[inline(always)]
pub fn configured() -> bool {
    match STATE.load(Ordering::Acquire) {
        UNKNOWN => initialise(core::ptr::null()),
        state => state != ABSENT,
    }
}

/// Whether the region is attached now.
#[inline(always)]
pub fn attached() -> bool {
    STATE.load(Ordering::Acquire) == READY
}

/// Reads the environment. False when there is no mount, or when libc has no environment yet.
#[cold]
pub fn initialise(environment: *const *const libc::c_char) -> bool {
    let held = signals::hold();
    if STATE.load(Ordering::Acquire) != UNKNOWN {
        return STATE.load(Ordering::Acquire) != ABSENT;
    }
    let found = match environment::read(environment) {
        environment::Found::NotYet => return false,
        environment::Found::Nothing => false,
        environment::Found::Mount => true,
    };
    // Several threads may come here, all with the same result.
    let _ =
        STATE.compare_exchange(UNKNOWN, if found { CONFIGURED } else { ABSENT }, Ordering::AcqRel, Ordering::Acquire);
    drop(held);
    if found {
        // Paths of the program are looked at from now on, good or bad.
        faults::install();
        covered::note();
        working_directory::note_kernel_directory();
        descriptors::rediscover();
        if environment::inherited_directory().is_some() {
            working_directory::inherit();
        }
        if environment::traps() {
            trap::begin();
        }
    }
    descriptors::begin();
    found
}

/// The file system; this thread may use the region as long as it lives.
pub struct Attached(#[expect(dead_code, reason = "held until it is dropped")] keys::Opened);

impl core::ops::Deref for Attached {
    type Target = FileSystem;

    #[inline(always)]
    fn deref(&self) -> &FileSystem {
        // SAFETY: values of this type are made in state READY, which is entered after the value was written and never left.
        unsafe { (*FILE_SYSTEM.0.get()).assume_init_ref() }
    }
}

/// The file system, attached if need be.
///
/// # Errors
/// ENXIO when the region cannot be attached; what keeps a forked child from registering itself.
#[inline(always)]
pub fn file_system() -> Result<Attached> {
    if STATE.load(Ordering::Acquire) == READY {
        if owner().load(Ordering::Relaxed) == 0 {
            register_forked_child()?;
        }
        return Ok(published());
    }
    attach()
}

/// Where in the region an address lies. For handlers: attaches nothing.
pub fn offset_in_region(address: usize) -> Option<u64> {
    if attached() { published().region().offset_of(address) } else { None }
}

/// Only to be called in state READY.
#[inline(always)]
fn published() -> Attached {
    Attached(keys::Opened::begin())
}

fn owner() -> &'static AtomicU32 {
    let page = OWNER.load(Ordering::Relaxed);
    if page.is_null() {
        return &OWNER_WITHOUT_PAGE;
    }
    // SAFETY: a pointer in OWNER is that of a page which is never unmapped.
    unsafe { &*page }
}

/// This process's number.
pub fn own_pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

/// Whether this process ever had a child that borrows its memory; before that there is nothing to ask the kernel.
static LENT: AtomicBool = AtomicBool::new(false);

/// A child that borrows our memory is about to be made.
pub fn lend_memory() {
    LENT.store(true, Ordering::SeqCst);
}

/// Whether this is a child that borrows the memory of its parent: it must change nothing in it.
pub fn borrows_memory() -> bool {
    if !LENT.load(Ordering::Relaxed) {
        return false;
    }
    let owner = owner().load(Ordering::Relaxed);
    attached() && owner != 0 && owner != own_pid()
}

/// To be called in the child of a fork.
pub fn after_fork() {
    trap::arm();
    sharing::after_fork();
    // The thread that was attaching does not exist here.
    let _ = STATE.compare_exchange(ATTACHING, CONFIGURED, Ordering::AcqRel, Ordering::Acquire);
    if attached() {
        owner().store(0, Ordering::Relaxed);
        let _ = register_forked_child();
        crate::descriptors::forget_unsure();
    }
}

#[cold]
fn register_forked_child() -> Result<()> {
    let _held = signals::hold();
    match published().after_fork() {
        Err(Errno::BADF) if descriptors::restore(&published()) => published().after_fork()?,
        Err(Errno::NOENT) => return Err(tags::tell_that_region_is_gone()),
        result => result?,
    }
    mappings::adopt(&published());
    owner().store(own_pid(), Ordering::Relaxed);
    Ok(())
}

#[cold]
#[inline(never)]
fn attach() -> Result<Attached> {
    if !configured() {
        return Err(NOT_ATTACHED);
    }
    let _held = signals::hold();
    loop {
        match STATE.compare_exchange(CONFIGURED, ATTACHING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => break,
            Err(READY) => return Ok(published()),
            Err(ATTACHING) => rustix::thread::sched_yield(),
            Err(_) => return Err(NOT_ATTACHED),
        }
    }
    match attach_now() {
        Ok(()) => {
            STATE.store(READY, Ordering::Release);
            streams::prepare();
            descriptors::inherit_process_locks(&published());
            Ok(published())
        }
        Err(error) => {
            STATE.store(FAILED, Ordering::Release);
            Err(error)
        }
    }
}

fn attach_now() -> Result<()> {
    let directory = environment::region();
    let mount = message::Shown(environment::mount());
    let region = Region::attach(directory).map_err(|error| {
        let shown = message::Shown(directory);
        message::say(format_args!(
            "{shown}: {error}; until then everything below {mount} answers 'No such device or address'"
        ));
        NOT_ATTACHED
    })?;
    let file_system = FileSystem::attach(region, environment::mount()).map_err(|error| {
        let shown = message::Shown(directory);
        message::say(format_args!(
            "region {shown}: attaching its file system failed with error {}; run 'lifeboat check'",
            error.raw_os_error()
        ));
        NOT_ATTACHED
    })?;
    let mut file_system = claiming(file_system)?;
    if environment::sums_at_seal() {
        file_system = file_system.with_sums_at_seal();
    }
    tags::use_folder(file_system.region()).map_err(|error| {
        let shown = message::Shown(directory);
        message::say(format_args!(
            "region {shown}: its folder 'tags' cannot be opened (error {}); create the region anew",
            error.raw_os_error()
        ));
        NOT_ATTACHED
    })?;
    let _open = if environment::guards() { Some(guard(&file_system)) } else { None };
    identity::note_umask();
    limits::note();
    make_owner_page();
    owner().store(own_pid(), Ordering::Relaxed);
    // SAFETY: this thread alone is in state ATTACHING, and nobody reads the value before READY.
    unsafe { (*FILE_SYSTEM.0.get()).write(file_system) };
    Ok(())
}

/// Closes the region to the program, where the processor can, and sealed data to stores of any kind. The handlers of faults
/// were installed before.
fn guard(file_system: &FileSystem) -> keys::Opened {
    let open = keys::protect(file_system.region());
    if let Err(error) = file_system.guard_sealed() {
        message::say(format_args!(
            "LIFEBOAT_GUARD: sealed data cannot be guarded (error {}); it is served unguarded",
            error.raw_os_error()
        ));
    }
    open
}

/// Whether a store to `address` that was refused may be made now. For handlers: attaches nothing.
pub fn open_guarded(address: usize) -> bool {
    attached() && environment::guards() && published().open_guarded(address)
}

/// With names claimed for this node, where the environment says that there are others.
fn claiming(file_system: FileSystem) -> Result<FileSystem> {
    let Some(folder) = environment::claims() else { return Ok(file_system) };
    let node = rustix::system::uname();
    let claims = Claims::new(folder, node.nodename().to_bytes(), tell_of_claims).map_err(|_| {
        message::say(format_args!(
            "LIFEBOAT_CLAIMS is longer than {CLAIMS_LONGEST} bytes: name a shorter path with 'lifeboat exec --claims'"
        ));
        NOT_ATTACHED
    })?;
    Ok(file_system.with_claims(claims))
}

fn tell_of_claims(path: &[u8], trouble: &ClaimTrouble<'_>) {
    let (mount, path) = (message::Shown(environment::mount()), message::Shown(path));
    match trouble {
        ClaimTrouble::TakenBy(node) => message::say(format_args!(
            "{mount}{path} is refused: node {} writes a file of this name, too, and files written by several nodes are not \
             served yet; let each node write a name of its own, or write this file outside {mount}",
            message::Shown(node)
        )),
        ClaimTrouble::Folder(error) => message::say(format_args!(
            "{mount}{path}: whether another node writes it cannot be said: {} fails with error {}; it is written",
            message::Shown(environment::claims().unwrap_or_default()),
            error.raw_os_error()
        )),
    }
}

fn make_owner_page() {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    // SAFETY: a new private page, used only through OWNER and never unmapped; advice on that page alone.
    unsafe {
        let Ok(page) =
            mmap_anonymous(core::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        else {
            return;
        };
        if madvise(page, 4096, Advice::LinuxWipeOnFork).is_ok() {
            OWNER.store(page.cast(), Ordering::Relaxed);
        }
    }
}

extern "C" fn constructor(
    _count: libc::c_int,
    _arguments: *const *const libc::c_char,
    environment: *const *const libc::c_char,
) {
    initialise(environment);
}

/// The program ends in order: what it keeps of the region for its next call, others need not wait for.
extern "C" fn destructor() {
    if attached() && owner().load(Ordering::Relaxed) == own_pid() {
        kept_tags::forget_all();
        // What is damaged here is found by who recovers this process.
        let _ = published().region().give_up_kept();
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;

/// glibc calls constructors with the arguments of `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(libc::c_int, *const *const libc::c_char, *const *const libc::c_char) = constructor;
