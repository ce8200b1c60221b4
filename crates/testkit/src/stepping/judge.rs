//! Is a region whole after its users died? Asked of a process of its own, so that a judge that hangs or falls is a
//! verdict, too.

use super::operations::{Actor, Attached, Operation};
use super::picture::Picture;
use super::trace::{fork, kill};
use crate::scratch::{attach, check, this_user};
use crate::volume::{RegionVolume, Volume};
use lifeboat_fs::{Caller, FileSystem, LOCK_TO_END, LastLink, LockClass, LockRequest};
use lifeboat_region::layout::{CELL, FILE_LOCK_WAITS, RENAME_LOCK, SWEEP_LOCK};
use lifeboat_region::layout::{FILE_LOCK, FILE_LOCK_HIGH_WATER, LANE_HIGH_WATER, OPEN_FILE, PIN};
use lifeboat_region::owner::{Kind, State};
use lifeboat_region::space::{self, Class};
use lifeboat_region::{Errno, image, lane, lock};
use std::fmt::Display;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A survivor goes on within this time.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// A process that says nothing for this long hangs.
const SILENCE: Duration = Duration::from_secs(15);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Something completed is gone, something interrupted is half there, or bytes show that nobody wrote.
    Loss,
    /// Something is taken that nobody has.
    Leak,
    /// A survivor waited longer than [`PATIENCE`], or for ever.
    Stall,
    /// A call failed that must not, or the check found the region damaged.
    Damage,
}

/// A fault that the harness found.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// One line.
    pub text: String,
}

impl Fault {
    /// A fault in words.
    pub fn new(kind: FaultKind, text: impl Display) -> Self {
        Self { kind, text: text.to_string() }
    }

    /// As text that [`Fault::decode`] takes back.
    pub fn encode(&self) -> String {
        let letter = match self.kind {
            FaultKind::Loss => 'L',
            FaultKind::Leak => 'K',
            FaultKind::Stall => 'S',
            FaultKind::Damage => 'D',
        };
        format!("{letter}{}", self.text)
    }

    /// A fault in what a child answered.
    pub fn decode(text: &str) -> Option<Self> {
        let kind = match text.chars().next()? {
            'L' => FaultKind::Loss,
            'K' => FaultKind::Leak,
            'S' => FaultKind::Stall,
            'D' => FaultKind::Damage,
            _ => return None,
        };
        Some(Self { kind, text: text[1..].to_string() })
    }
}

/// Pictures that may be found.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// When an operation was interrupted.
    pub interrupted: Vec<Picture>,
    /// When it had returned.
    pub done: Vec<Picture>,
}

/// Which of the pictures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any: it was interrupted.
    Any,
    /// Those after the operation: it had returned.
    Done,
}

impl Choices {
    /// Checks a file system against them; gives what it is.
    pub fn hold(&self, files: &FileSystem, operation: &Operation, wanted: Wanted) -> Result<Picture, Fault> {
        let picture = Picture::of(files).map_err(|text| Fault::new(FaultKind::Damage, text))?;
        let allowed = if wanted == Wanted::Done { &self.done } else { &self.interrupted };
        let held = picture.is_allowed(allowed, operation.rule);
        held.map(|()| picture).map_err(|text| Fault::new(FaultKind::Loss, text))
    }
}

/// A call that must not fail did.
pub fn damage(what: &str) -> impl Fn(Errno) -> Fault + '_ {
    move |error| Fault::new(FaultKind::Damage, format!("{what}: errno {}", error.raw_os_error()))
}

/// What is taken in the region though nobody but this process lives: each thing in words.
pub fn leftovers(files: &FileSystem) -> Result<Vec<String>, Errno> {
    let region = files.region();
    let g = region.geometry();
    let own = image::own(region)?;
    let mut found = Vec::new();
    image::attached(region, |image, _| {
        if image != own {
            found.push(format!("image slot {} is still taken", image.slot));
        }
    })?;
    for lane in 0..region.load(LANE_HIGH_WATER)?.min(g.lanes) as u32 {
        let claim = region.load(region.lane_at(lane)?)?;
        if claim & 1 != 0 && ((claim >> 32) as u16 as u32, (claim >> 48) as u16) != (own.slot, own.generation) {
            found.push(format!("lane {lane} is still claimed"));
        }
    }
    for index in 0..g.open_files {
        let word = region.load(g.open_files_at + index * OPEN_FILE)?;
        let holder = ((word >> 16) as u16 as u32, (word >> 32) as u16);
        if word & 3 != 0 && holder != (own.slot, own.generation) {
            found.push(format!("open file {index} is still taken"));
        }
    }
    for index in 0..g.pins {
        let word = region.load(g.pins_at + index * PIN)?;
        if word & 1 != 0 && ((word >> 16) as u16 as u32, (word >> 32) as u16) != (own.slot, own.generation) {
            found.push(format!("pin {index} is still held"));
        }
    }
    for index in 0..region.load(FILE_LOCK_HIGH_WATER)?.min(g.file_locks) {
        let word = region.load(g.file_locks_at + index * FILE_LOCK)?;
        // One that was only taken is free again with the lane that took it.
        let taken = match word & 3 {
            0 => false,
            1 => lane::is_current(region, (word >> 16) as u16 as u32, (word >> 32) as u16)?,
            _ => !is_own_lock(files, own, word)?,
        };
        if taken {
            found.push(format!("record {index} of file locks is still taken"));
        }
    }
    for chunk in 0..g.chunks {
        if region.load(g.chunk_words_at + chunk * 8)? & 15 == 1 {
            found.push(format!("chunk {chunk} is still claimed"));
        }
    }
    let held = |at: u64| -> Result<bool, Errno> { Ok(lock::decode(region, region.load(at)?)?.is_some()) };
    for at in [RENAME_LOCK, SWEEP_LOCK, FILE_LOCK_WAITS] {
        if held(at)? {
            found.push(format!("the lock at {at:#x} is still held"));
        }
    }
    space::each_unit(region, |unit, owner| {
        if matches!(owner.state, State::Owned | State::Limbo) {
            found.push(format!("the unit at {:#x} is still {:?}", unit.at, owner.state));
        }
        let is_inode = unit.class == Class::Cell && owner.state == State::Live && owner.kind == Kind::Inode;
        if is_inode && held(unit.at)? {
            found.push(format!("inode {} is still locked", unit.at / CELL));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Whether the record of a file lock with this first word is held by this process.
fn is_own_lock(files: &FileSystem, own: image::Image, word: u64) -> Result<bool, Errno> {
    const PROCESS: u64 = 1;
    let holder = ((word >> 16) as u16 as u32, (word >> 32) as u16);
    let own = (own.slot, own.generation);
    if word >> 2 & 3 == PROCESS {
        return Ok(holder == own);
    }
    let region = files.region();
    let opener = region.load(region.geometry().open_files_at + u64::from(holder.0) * OPEN_FILE)?;
    Ok(((opener >> 16) as u16 as u32, (opener >> 32) as u16) == own)
}

/// Whether nothing is left that nobody has.
pub fn nothing_is_left(files: &FileSystem) -> Result<(), Fault> {
    let left = leftovers(files).map_err(damage("looking for what is left"))?;
    if left.is_empty() { Ok(()) } else { Err(Fault::new(FaultKind::Leak, left.join(", "))) }
}

/// Whether the check finds nothing.
pub fn is_clean(files: &FileSystem) -> Result<(), Fault> {
    let checked = check(files);
    if checked.is_clean() {
        return Ok(());
    }
    let text = checked.to_string();
    let kind = if text.contains("nothing refers to it") { FaultKind::Leak } else { FaultKind::Damage };
    Err(Fault::new(kind, text))
}

/// Locks that only the dead could hold can be taken.
fn take_locks(files: &FileSystem) -> Result<(), Fault> {
    let failed = |error: i32| Fault::new(FaultKind::Stall, format!("a lock of the dead is still held: errno {error}"));
    let volume = RegionVolume::over(files, b"").map_err(failed)?;
    let file = volume.open(None, b"data", libc::O_RDWR, 0).map_err(failed)?;
    for class in [LockClass::Whole, LockClass::OpenFile] {
        let request = LockRequest { class, exclusive: true, start: 0, end: LOCK_TO_END };
        files.lock_file(file, &request, false).map_err(|error| failed(error.raw_os_error()))?;
    }
    volume.close(file).map_err(failed)
}

/// Every file can be sealed, and the check finds nothing wrong with the seals.
pub fn seal_all(files: &FileSystem, picture: &Picture) -> Result<(), Fault> {
    let user = this_user();
    let caller = Caller { uid: user.uid, gid: user.gid, groups: &user.groups, umask: 0, checked: false };
    for (path, _) in picture.unsealed_files() {
        let failed =
            |error: Errno| Fault::new(FaultKind::Damage, format!("sealing {path}: errno {}", error.raw_os_error()));
        let inode = files.resolve(&caller, files.root(), path.as_bytes(), LastLink::Keep).map_err(failed)?;
        files.seal(&caller, inode).map_err(failed)?;
        let report = files.verify(inode).map_err(failed)?;
        if report.bad + report.unknown > 0 {
            return Err(Fault::new(FaultKind::Damage, format!("{path} was sealed, and then {report:?}")));
        }
    }
    is_clean(files)
}

/// Bytes that nobody wrote do not show when a file grows.
pub fn grow_all(files: &FileSystem, picture: &Picture) -> Result<(), Fault> {
    let volume = RegionVolume::over(files, b"").map_err(grown("."))?;
    for (path, size) in picture.unsealed_files() {
        let file = volume.open(None, path.as_bytes(), libc::O_RDWR, 0).map_err(grown(path))?;
        let end = (size as u64 + 1).next_multiple_of(65_536) + 5_000;
        volume.truncate_open(file, end).map_err(grown(path))?;
        let tail = volume.read(file, end as usize - size, Some(size as u64)).map_err(grown(path))?;
        volume.truncate_open(file, size as u64).map_err(grown(path))?;
        volume.close(file).map_err(grown(path))?;
        if let Some(at) = tail.iter().position(|byte| *byte != 0) {
            let text =
                format!("{path} shows byte {} beyond its end of {size} when it grows: {:#x}", size + at, tail[at]);
            return Err(Fault::new(FaultKind::Loss, text));
        }
    }
    Ok(())
}

fn grown(path: &str) -> impl Fn(i32) -> Fault + '_ {
    move |error| Fault::new(FaultKind::Damage, format!("growing {path}: errno {error}"))
}

/// A region all of whose users died: recovers it, holds it against the pictures, uses it, checks it.
fn judge(
    region: &Path,
    operation: &Operation,
    choices: &Choices,
    wanted: Wanted,
    peer_acts: bool,
) -> Result<(), Fault> {
    let files = attach(region).map_err(|text| Fault::new(FaultKind::Damage, text))?;
    let start = Instant::now();
    files.sweep().map_err(damage("recovering"))?;
    if start.elapsed() > PATIENCE {
        return Err(Fault::new(FaultKind::Stall, format!("recovering took {:?}", start.elapsed())));
    }
    nothing_is_left(&files)?;
    let picture = choices.hold(&files, operation, wanted)?;
    seal_all(&files, &picture)?;
    grow_all(&files, &picture)?;
    let files = if peer_acts { act_as_peer(files, operation, start)? } else { files };
    take_locks(&files)?;
    is_clean(&files)
}

fn act_as_peer(files: FileSystem, operation: &Operation, start: Instant) -> Result<FileSystem, Fault> {
    let failed = |what: &str, error: i32| Fault::new(FaultKind::Damage, format!("{what} afterwards: errno {error}"));
    let mut attached: Attached =
        operation.prepare(files, Actor::Peer).map_err(|error| failed("getting ready for the operation", error))?;
    operation.run(&mut attached, Actor::Peer).map_err(|error| failed("the operation", error))?;
    if start.elapsed() > PATIENCE {
        return Err(Fault::new(FaultKind::Stall, format!("the operation afterwards took {:?}", start.elapsed())));
    }
    Ok(attached.release())
}

/// A child that answers one question after the other.
pub struct Asked {
    pid: i32,
    stream: UnixStream,
}

impl Asked {
    /// Starts a child that answers each question (one byte) with a line.
    pub fn start(mut answer: impl FnMut(u8) -> String) -> Self {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_read_timeout(Some(SILENCE)).expect("a limit");
        let mine = ours.as_raw_fd();
        let pid = fork(|| {
            // SAFETY: the parent's end, which the child must not keep open.
            unsafe { libc::close(mine) };
            let mut question = [0];
            while theirs.read_exact(&mut question).is_ok() {
                let text = answer(question[0]).replace('\n', " ");
                if theirs.write_all(format!("{text}\n").as_bytes()).is_err() {
                    break;
                }
            }
        });
        Self { pid, stream: ours }
    }

    /// Asks without waiting for the answer.
    pub fn begin(&mut self, question: u8) -> Result<(), String> {
        self.stream.write_all(&[question]).map_err(|error| format!("it is gone: {error}"))
    }

    /// The answer to the question asked last. The error says how it fell silent.
    pub fn answer(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return Err("it died".to_string()),
                Ok(_) if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(format!("it said nothing for {SILENCE:?}")),
            }
        }
    }

    /// Asks and waits.
    pub fn ask(&mut self, question: u8) -> Result<String, String> {
        self.begin(question)?;
        self.answer()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        kill(self.pid);
    }
}

/// The judge of one operation.
pub struct Judge {
    asked: Asked,
    region: PathBuf,
    operation: Operation,
    choices: Choices,
    peer_acts: bool,
}

impl Judge {
    /// A judge who looks at the region in this directory.
    pub fn start(region: &Path, operation: &Operation, choices: &Choices) -> Self {
        let (region, operation, choices) = (region.to_path_buf(), *operation, choices.clone());
        let asked = Self::process(&region, &operation, &choices, true);
        Self { asked, region, operation, choices, peer_acts: true }
    }

    /// The peer has begun the operation already: nobody does it afterwards.
    pub fn as_last_survivor(&mut self) {
        self.peer_acts = false;
        self.asked = Self::process(&self.region, &self.operation, &self.choices, false);
    }

    fn process(region: &Path, operation: &Operation, choices: &Choices, peer_acts: bool) -> Asked {
        let (region, operation, choices) = (region.to_path_buf(), *operation, choices.clone());
        Asked::start(move |question| {
            let wanted = if question == b'd' { Wanted::Done } else { Wanted::Any };
            match judge(&region, &operation, &choices, wanted, peer_acts) {
                Ok(()) => String::new(),
                Err(fault) => fault.encode(),
            }
        })
    }

    /// The verdict on the region as it is now.
    pub fn ask(&mut self, wanted: Wanted) -> Result<(), Fault> {
        match self.asked.ask(if wanted == Wanted::Done { b'd' } else { b'a' }) {
            Ok(text) => Fault::decode(&text).map_or(Ok(()), Err),
            Err(text) => {
                self.asked = Self::process(&self.region, &self.operation, &self.choices, self.peer_acts);
                Err(Fault::new(FaultKind::Stall, format!("the process that recovers: {text}")))
            }
        }
    }
}
