//! The file actions of `posix_spawn`. libc carries them out inside the new process, where no hook is reached, so those
//! that concern the mount are put in another form before: a file of ours is opened here and handed over, a working
//! directory of ours becomes the covered directory and a line in the environment.

use crate::opening::open_at;
use crate::path::{self, Buffer, Place};
use crate::{call, covered, descriptors, environment, state, user, working_directory};
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicU8, Ordering};
use lifeboat_fs::{Caller, Errno, FileSystem, InodeId, LastLink, OUTSIDE, OpenFile, Result};

/// What libc keeps of one action, as glibc has it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Action {
    kind: c_int,
    padding: c_int,
    /// Of `open`: number, path, flags, mode. Of the others: what is in the first two words.
    first: [c_int; 2],
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
}

const CLOSE: c_int = 0;
const DUPLICATE: c_int = 1;
const OPEN: c_int = 2;
const CHANGE: c_int = 3;
const CHANGE_BY_DESCRIPTOR: c_int = 4;
const CLOSE_FROM: c_int = 5;
const TERMINAL: c_int = 6;

impl Action {
    fn descriptor(&self) -> c_int {
        self.first[0]
    }

    /// The path of `CHANGE`.
    fn directory(&self) -> *const c_char {
        let [low, high] = self.first.map(|word| word as u32 as u64);
        (low | high << 32) as usize as *const c_char
    }
}

/// `posix_spawn_file_actions_t`, as glibc has it.
#[repr(C)]
struct Actions {
    room: c_int,
    count: c_int,
    list: *const Action,
    reserved: [c_int; 16],
}

impl Actions {
    const fn new() -> Actions {
        Actions { room: 0, count: 0, list: core::ptr::null(), reserved: [0; 16] }
    }

    fn list(&self) -> &[Action] {
        if self.list.is_null() || self.count <= 0 {
            return &[];
        }
        // SAFETY: libc's own list of this many actions; its form was compared by `known_layout`.
        unsafe { core::slice::from_raw_parts(self.list, self.count as usize) }
    }
}

macro_rules! add {
    ($name:literal ( $($kind:ty),* ) ( $($value:expr),* )) => {
        match libc_function!($name, fn(*mut Actions $(, $kind)*) -> c_int)($($value),*) {
            0 => Ok(()),
            error => Err(Errno::from_raw_os_error(error)),
        }
    };
}

fn add_close(to: &mut Actions, descriptor: c_int) -> Result<()> {
    add!(c"posix_spawn_file_actions_addclose"(c_int)(to, descriptor))
}

fn add_duplicate(to: &mut Actions, old: c_int, new: c_int) -> Result<()> {
    add!(c"posix_spawn_file_actions_adddup2"(c_int, c_int)(to, old, new))
}

fn add_open(to: &mut Actions, number: c_int, name: *const c_char, flags: c_int, mode: libc::mode_t) -> Result<()> {
    add!(c"posix_spawn_file_actions_addopen"(c_int, *const c_char, c_int, libc::mode_t)(to, number, name, flags, mode))
}

fn add_change(to: &mut Actions, name: *const c_char) -> Result<()> {
    add!(c"posix_spawn_file_actions_addchdir_np"(*const c_char)(to, name))
}

fn add_change_by_descriptor(to: &mut Actions, descriptor: c_int) -> Result<()> {
    add!(c"posix_spawn_file_actions_addfchdir_np"(c_int)(to, descriptor))
}

fn destroy(actions: &mut Actions) {
    libc_function!(c"posix_spawn_file_actions_destroy", fn(*mut Actions) -> c_int)(actions);
}

const UNTRIED: u8 = 0;
const KNOWN: u8 = 1;
const UNKNOWN: u8 = 2;

static LAYOUT: AtomicU8 = AtomicU8::new(UNTRIED);

/// Whether libc keeps actions in the form described above: some are made through its own functions and looked at.
fn known_layout() -> bool {
    if LAYOUT.load(Ordering::Acquire) == UNTRIED {
        let mut sample = Actions::new();
        let same = libc_function!(c"posix_spawn_file_actions_init", fn(*mut Actions) -> c_int)(&mut sample) == 0
            && sample_matches(&mut sample).unwrap_or(false);
        destroy(&mut sample);
        LAYOUT.store(if same { KNOWN } else { UNKNOWN }, Ordering::Release);
    }
    LAYOUT.load(Ordering::Acquire) == KNOWN
}

fn sample_matches(sample: &mut Actions) -> Result<bool> {
    add_close(sample, 11)?;
    add_duplicate(sample, 12, 13)?;
    add_open(sample, 14, c"/sample".as_ptr(), libc::O_APPEND, 0o641)?;
    add_change(sample, c"/directory".as_ptr())?;
    add_change_by_descriptor(sample, 15)?;
    if sample.count != 5 || sample.room < 5 || sample.list.is_null() {
        return Ok(false);
    }
    let [close, duplicate, open, change, by_descriptor] = sample.list() else { return Ok(false) };
    Ok((close.kind, close.descriptor()) == (CLOSE, 11)
        && (duplicate.kind, duplicate.first) == (DUPLICATE, [12, 13])
        && (open.kind, open.descriptor(), open.flags, open.mode) == (OPEN, 14, libc::O_APPEND, 0o641)
        && user::begins(open.path, b"/sample\0")
        && change.kind == CHANGE
        && user::begins(change.directory(), b"/directory\0")
        && (by_descriptor.kind, by_descriptor.descriptor()) == (CHANGE_BY_DESCRIPTOR, 15))
}

/// Most descriptors that are opened here for one new process, and that actions give another meaning.
const CHANGED_MAX: usize = 64;

/// Where the new process stands after some of its actions.
enum Standing {
    /// Where this process stands.
    Here,
    /// In a directory of ours.
    Ours(InodeId),
    /// In a directory of the kernel's: a descriptor of it, open here only.
    Kernels(c_int),
}

/// File actions in a form that libc can carry out.
pub struct Plan {
    actions: Actions,
    rewritten: bool,
    standing: Standing,
    /// What is open here until the process has started.
    opened: [c_int; CHANGED_MAX],
    opened_count: usize,
    /// Numbers of the new process that no longer mean what they mean here.
    changed: [(c_int, Option<OpenFile>); CHANGED_MAX],
    changed_count: usize,
}

impl Plan {
    /// Takes the program's actions apart and opens what lies in the mount.
    ///
    /// # Errors
    /// What opening or going there answers; as if the new process had met it.
    pub fn new(given: *const c_void) -> Result<Plan> {
        let mut plan = Plan {
            actions: Actions::new(),
            rewritten: false,
            standing: Standing::Here,
            opened: [-1; CHANGED_MAX],
            opened_count: 0,
            changed: [(-1, None); CHANGED_MAX],
            changed_count: 0,
        };
        if given.is_null() || !state::configured() || !known_layout() {
            return Ok(plan);
        }
        // SAFETY: the program passed an object that libc initialised, whose form was compared.
        let given = unsafe { &*given.cast::<Actions>() };
        if given.list().iter().any(|action| matches!(action.kind, OPEN | CHANGE | CHANGE_BY_DESCRIPTOR)) {
            libc_function!(c"posix_spawn_file_actions_init", fn(*mut Actions) -> c_int)(&mut plan.actions);
            plan.rewritten = true;
            for (index, action) in given.list().iter().enumerate() {
                let floor = floor_above(given.list());
                plan.add(action, given.list().get(index + 1..).unwrap_or_default(), floor)?;
            }
        }
        Ok(plan)
    }

    /// What to pass to libc in place of `given`.
    pub fn actions(&self, given: *const c_void) -> *const c_void {
        if self.rewritten { (&raw const self.actions).cast() } else { given }
    }

    /// The directory of ours in which the new program starts.
    pub fn directory(&self) -> Option<InodeId> {
        match self.standing {
            Standing::Here => working_directory::current(),
            Standing::Ours(directory) => Some(directory),
            Standing::Kernels(_) => None,
        }
    }

    /// Where the program's path starts from, when it is relative and the actions go elsewhere.
    pub fn goes_elsewhere(&self) -> bool {
        !matches!(self.standing, Standing::Here)
    }

    fn add(&mut self, action: &Action, later: &[Action], floor: c_int) -> Result<()> {
        let number = action.descriptor();
        match action.kind {
            OPEN => self.add_open(action, floor),
            CHANGE => self.add_change(action.directory(), floor),
            CHANGE_BY_DESCRIPTOR => match self.file_of(number) {
                Some(file) => self.enter(call::call_once(|file_system, who| {
                    let inode = file_system.inode_of(file)?;
                    check_directory(file_system, who, inode).map(|()| inode)
                })?),
                None => {
                    self.stand_at(number, floor)?;
                    add_change_by_descriptor(&mut self.actions, number)
                }
            },
            CLOSE => {
                self.change(number, None)?;
                add_close(&mut self.actions, number)
            }
            DUPLICATE => {
                let file = self.file_of(number);
                self.change(action.first[1], file)?;
                add_duplicate(&mut self.actions, number, action.first[1])
            }
            CLOSE_FROM => self.add_close_from(number, later),
            TERMINAL => add!(c"posix_spawn_file_actions_addtcsetpgrp_np"(c_int)(&mut self.actions, number)),
            _ => Err(Errno::INVAL),
        }
    }

    /// The open file of ours that a number means in the new process by now.
    fn file_of(&self, number: c_int) -> Option<OpenFile> {
        let changed = self.changed.get(..self.changed_count).unwrap_or_default();
        match changed.iter().rev().find(|(changed, _)| *changed == number) {
            Some((_, file)) => *file,
            None => descriptors::find(number),
        }
    }

    fn change(&mut self, number: c_int, file: Option<OpenFile>) -> Result<()> {
        *self.changed.get_mut(self.changed_count).ok_or(Errno::NOMEM)? = (number, file);
        self.changed_count += 1;
        Ok(())
    }

    /// Keeps a descriptor open until the process has started, under a number that no action touches.
    fn keep(&mut self, descriptor: c_int, floor: c_int) -> Result<c_int> {
        let place = self.opened.get_mut(self.opened_count).ok_or(Errno::NOMEM)?;
        let duplicate = libc_function!(c"fcntl", fn(c_int, c_int, usize) -> c_int);
        let kept = duplicate(descriptor, libc::F_DUPFD_CLOEXEC, floor as usize);
        if kept < 0 {
            return Err(Errno::from_raw_os_error(crate::answer::errno()));
        }
        descriptors::duplicated(descriptor, kept);
        *place = kept;
        self.opened_count += 1;
        Ok(kept)
    }

    fn add_open(&mut self, action: &Action, floor: c_int) -> Result<()> {
        let number = action.descriptor();
        let mut buffer = [0; user::PATH_MAX];
        let last = if action.flags & libc::O_NOFOLLOW != 0 { LastLink::Keep } else { LastLink::Follow };
        let opened = match self.locate(action.path, last, &mut buffer)? {
            Some((start, rest)) => open_at(start, rest, action.flags | libc::O_CLOEXEC, action.mode),
            None => Err(OUTSIDE),
        };
        match opened {
            Err(OUTSIDE) => {
                self.change(number, None)?;
                add_open(&mut self.actions, number, action.path, action.flags, action.mode)
            }
            Err(error) => Err(error),
            Ok(opened) => {
                let kept = self.keep(opened, floor);
                let file = descriptors::find(opened);
                crate::hooks::close_any_descriptor(opened);
                self.change(number, file)?;
                // libc moves what it opened in the same way, by which `O_CLOEXEC` is lost too.
                add_duplicate(&mut self.actions, kept?, number)
            }
        }
    }

    fn add_change(&mut self, name: *const c_char, floor: c_int) -> Result<()> {
        let mut buffer = [0; user::PATH_MAX];
        if let Some((start, rest)) = self.locate(name, LastLink::Follow, &mut buffer)? {
            let found = call::call_once(|file_system, who| {
                let inode = file_system.resolve(who, start, rest, LastLink::Follow)?;
                check_directory(file_system, who, inode).map(|()| inode)
            });
            match found {
                Err(OUTSIDE) => {}
                found => return self.enter(found?),
            }
        }
        let open = libc_function!(c"openat", fn(c_int, *const c_char, c_int, c_int) -> c_int);
        let directory = open(self.kernels(), name, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC, 0);
        if directory >= 0 {
            let result = self.stand_at(directory, floor);
            libc_function!(c"close", fn(c_int) -> c_int)(directory);
            result?;
        }
        add_change(&mut self.actions, name)
    }

    /// The new process goes to a directory of ours: for the kernel, to the covered one.
    fn enter(&mut self, directory: InodeId) -> Result<()> {
        self.standing = Standing::Ours(directory);
        let mut name = [0; user::PATH_MAX];
        let mount = environment::mount();
        name.get_mut(..mount.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(mount);
        add_change(&mut self.actions, name.as_ptr().cast())
    }

    fn stand_at(&mut self, directory: c_int, floor: c_int) -> Result<()> {
        self.standing = Standing::Kernels(self.keep(directory, floor)?);
        Ok(())
    }

    /// The kernel's directory in which the new process stands.
    fn kernels(&self) -> c_int {
        match self.standing {
            Standing::Kernels(directory) => directory,
            _ => libc::AT_FDCWD,
        }
    }

    /// A path as the new process would understand it by now; `None` when it is the kernel's.
    fn locate<'a>(
        &self,
        name: *const c_char,
        last: LastLink,
        buffer: &'a mut Buffer,
    ) -> Result<Option<(InodeId, &'a [u8])>> {
        let relative = user::peek(name) != Some(b'/');
        let directory = self.kernels();
        let mut room = user::Room::new();
        let (start, rest) = match &self.standing {
            Standing::Ours(start) if relative => (*start, user::path(name, &mut room)?),
            _ => match path::locate(directory, name, &mut room) {
                Place::Refused(error) => return Err(error),
                Place::Ours(start, rest) => (start, rest),
                Place::Descriptor(_) => return Ok(None),
                Place::Foreign => return Ok(covered::entered(directory, name, last, buffer)),
            },
        };
        let place = buffer.get_mut(..rest.len()).ok_or(Errno::NAMETOOLONG)?;
        place.copy_from_slice(rest);
        Ok(Some((start, place)))
    }

    /// `closefrom`, which must leave what later actions hand over.
    fn add_close_from(&mut self, from: c_int, later: &[Action]) -> Result<()> {
        if !later.iter().any(|action| matches!(action.kind, OPEN | CHANGE | CHANGE_BY_DESCRIPTOR)) {
            return add!(c"posix_spawn_file_actions_addclosefrom_np"(c_int)(&mut self.actions, from));
        }
        let mut result = Ok(());
        let actions = &mut self.actions;
        let kept = self.opened.get(..self.opened_count).unwrap_or_default();
        descriptors::for_each_open(|descriptor| {
            if descriptor >= from && result.is_ok() && !kept.contains(&descriptor) {
                result = add_close(actions, descriptor);
            }
        });
        let changed = self.changed;
        for (number, _) in changed.get(..self.changed_count).unwrap_or_default() {
            if *number >= from {
                add_close(&mut self.actions, *number)?;
            }
        }
        result
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if self.rewritten {
            destroy(&mut self.actions);
        }
        for &descriptor in self.opened.get(..self.opened_count).unwrap_or_default() {
            super::hooks::close_any_descriptor(descriptor);
        }
    }
}

/// A number above all that the actions mention, for what is only handed over.
fn floor_above(actions: &[Action]) -> c_int {
    let mentioned = actions.iter().map(|action| match action.kind {
        DUPLICATE => action.first[0].max(action.first[1]),
        CHANGE => 0,
        _ => action.descriptor(),
    });
    mentioned.max().unwrap_or(0).saturating_add(1).max(3)
}

/// Whether the caller may stand in this inode.
pub fn check_directory(file_system: &FileSystem, who: &Caller<'_>, inode: InodeId) -> Result<()> {
    const MAY_SEARCH: u32 = 1;
    if file_system.stat(inode)?.mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(Errno::NOTDIR);
    }
    file_system.access(who, inode, MAY_SEARCH)
}
