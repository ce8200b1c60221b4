//! One writer: announces, acts, and says that it is done, until somebody kills it.

use super::action::{Action, Deed, some_length};
use super::board::{Board, Common, Field, RECOVERER, Slot, TOKENS, WRITERS, now};
use super::seen::{ATTRIBUTE, read_all};
use super::tree::{Tree, path, target};
use super::way::{InProcess, Way};
use crate::random::{Random, bytes};
use crate::volume::{Answer, Subject, Volume};
use crate::workers::{LOG, record};
use lifeboat_fs::LockClass;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The file that everybody replaces.
pub const CURRENT: &[u8] = b"current";
/// The file with the number that is counted up under a lock.
pub const COUNTER: &[u8] = b"counter";
/// The file in which each writer has a part.
pub const STRIPES: &[u8] = b"stripes";
/// Bytes of a part: its edges lie within blocks.
pub const STRIPE: usize = 5000;
/// In so many of 100 cases a writer rests a moment, so that the killer, who replays everything, keeps up.
const REST: u64 = 40;
/// An answer that no call gives: what was read is not what was written, or what must exclude each other did not.
pub const WRONG: i32 = 9999;

/// How a writer does an action that is planted wrong.
pub type Wrong = fn(&Writer<InProcess<'_>>, &Action) -> Option<Answer<()>>;

/// The same, of one kind of writer.
type Instead<W> = fn(&Writer<W>, &Action) -> Option<Answer<()>>;

/// An open file of a writer.
type FileOf<W> = <<W as Way>::Files as Volume>::File;

/// A writer.
pub struct Writer<W> {
    /// How it reaches the files.
    pub way: W,
    board: Board,
    slot: Slot,
    /// Which of the writers.
    pub index: usize,
    incarnation: u64,
    random: Random,
    tree: Tree,
    records: u64,
    places: u64,
    delays: Option<File>,
    wrong: Option<Instead<W>>,
}

/// Where the name of a token is when it is at this place.
pub fn token(token: usize, place: u64) -> String {
    format!("tokens/{token}-{place}")
}

/// A name that several try to create.
pub fn prize(number: u64) -> String {
    format!("prizes/{number}")
}

/// What a version of the file that everybody replaces holds: its number first.
pub fn version(number: u64) -> Vec<u8> {
    let mut data = number.to_le_bytes().to_vec();
    data.extend(bytes(number, 100 + (number % 7) as usize * 900));
    data
}

/// The number of a whole version; `None` when it is not whole.
pub fn version_number(data: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(data.get(..8)?.try_into().ok()?);
    (number == 0 && data.len() == 8 || version(number) == data).then_some(number)
}

impl<W: Way> Writer<W> {
    /// The writer `index`, which has this tree.
    pub fn new(way: W, board: Board, index: usize, seed: u64, tree: Tree) -> Self {
        let slot = board.slot(index);
        let incarnation = slot.get(Field::Incarnation);
        Self {
            way,
            board,
            slot,
            index,
            incarnation,
            random: Random::new(seed ^ incarnation.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            tree,
            records: 0,
            places: 0,
            delays: File::open("/proc/thread-self/schedstat").ok(),
            wrong: None,
        }
    }

    /// The same, but that it does something wrong.
    pub fn planted(mut self, wrong: Option<Instead<W>>) -> Self {
        self.wrong = wrong;
        self
    }

    /// Where its files are.
    pub fn volume(&self) -> &W::Files {
        self.way.volume()
    }

    /// Works for ever. `recovers`: begins with looking after the dead; the one who has nothing else to do then waits.
    pub fn work(&mut self, recovers: bool) -> ! {
        if recovers {
            self.perform(Action::bare(Deed::Sweep));
        }
        loop {
            if self.index == RECOVERER {
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            self.obey();
            if self.random.chance(REST) {
                std::thread::sleep(Duration::from_nanos(self.random.below(200_000)));
            }
            let action = self.choose();
            self.perform(action);
        }
    }

    fn obey(&self) {
        let sleep = || std::thread::sleep(Duration::from_micros(100));
        while self.board.common(Common::Pause).load(Ordering::SeqCst) != 0 {
            self.slot.set(Field::Paused, 1);
            sleep();
        }
        self.slot.set(Field::Paused, 0);
        while self.slot.is_full() {
            sleep();
        }
    }

    fn choose(&mut self) -> Action {
        if self.slot.get(Field::Request) != 0 {
            self.slot.set(Field::Request, 0);
            return Action::bare(Deed::Sweep);
        }
        let tag = self.random.word();
        let mut action = Action { tag, ..Action::bare(Deed::Record) };
        match self.random.below(100) {
            0..72 => {
                if let Some(own) = self.tree.choose(&mut self.random) {
                    return own;
                }
            }
            72..79 => {
                action.deed = Deed::Prize;
                action.tag = self.board.common(Common::Prizes).fetch_add(1, Ordering::SeqCst) / WRITERS as u64;
            }
            79..84 => {
                action.deed = Deed::Move;
                action.path = self.random.below(TOKENS as u64) as u8;
                action.tag = self.board.hint(usize::from(action.path)).load(Ordering::SeqCst);
            }
            84..87 => {
                action.deed = Deed::Publish;
                action.tag = self.unique();
            }
            87..90 => action.deed = Deed::Locked,
            90..93 => {
                action.deed = Deed::Stripe;
                action.length = some_length(&mut self.random).min(STRIPE as u32 - 1);
                action.offset = self.random.below(STRIPE as u64 - u64::from(action.length)) as u32;
            }
            _ => {}
        }
        if action.deed == Deed::Move {
            self.places += 1;
            // Where to: a place that nobody else ever uses.
            let to = self.unique();
            (action.offset, action.length) = ((to >> 32) as u32, to as u32);
        }
        if action.deed == Deed::Record {
            action.tag = self.records;
            action.length = self.random.pick(&[0, 40, 500, 1500]);
        }
        action
    }

    fn unique(&mut self) -> u64 {
        self.places += 1;
        self.incarnation << 32 | self.places
    }

    fn perform(&mut self, action: Action) {
        let waited = self.time_without_processor();
        self.slot.announce(action);
        let began = now();
        let answer = match self.wrong.and_then(|wrong| wrong(self, &action)) {
            Some(answer) => answer,
            None => self.act(&action),
        };
        let took = now() - began;
        self.slot.returned(answer.err().unwrap_or(0) as u64);
        let took = took.saturating_sub(self.time_without_processor().saturating_sub(waited));
        self.slot.set(Field::Longest, self.slot.get(Field::Longest).max(took));
        if answer.is_ok() && action.is_private() {
            self.tree.apply(&action);
        }
        self.records += u64::from(answer.is_ok() && action.deed == Deed::Record);
    }

    /// How long this thread has been ready, and others had the processor.
    fn time_without_processor(&self) -> u64 {
        let mut text = [0_u8; 64];
        let read = self.delays.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
    }

    /// Name of one of its own paths.
    pub fn name(&self, index: u8) -> Vec<u8> {
        path(self.index, usize::from(index)).into_bytes()
    }

    fn with_open(&self, name: &[u8], flags: i32, act: impl FnOnce(FileOf<W>) -> Answer<()>) -> Answer<()> {
        let file = self.volume().open(None, name, flags, 0o644)?;
        let done = act(file);
        self.volume().close(file)?;
        done
    }

    /// Writes all of it, also when a call takes a part.
    pub fn write(&self, file: FileOf<W>, data: &[u8], at: Option<u64>) -> Answer<()> {
        let count = self.volume().write(file, data, at)?;
        if count == data.len() { Ok(()) } else { Err(WRONG) }
    }

    fn act(&self, action: &Action) -> Answer<()> {
        if action.is_private() { self.act_on_own(action) } else { self.act_in_common(action) }
    }

    fn act_on_own(&self, action: &Action) -> Answer<()> {
        let (volume, name, other) = (self.volume(), self.name(action.path), self.name(action.other));
        let (offset, length) = (u64::from(action.offset), u64::from(action.length));
        let data = || bytes(action.tag, length as usize);
        let of = || Subject::Path(None, &name, false);
        match action.deed {
            Deed::Create => self.with_open(&name, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, |_| Ok(())),
            Deed::Write => self.with_open(&name, libc::O_WRONLY, |file| self.write(file, &data(), Some(offset))),
            Deed::Append => {
                let flags = libc::O_WRONLY | libc::O_APPEND;
                self.with_open(&name, flags, |file| self.write(file, &data(), None))
            }
            Deed::Truncate => volume.truncate(None, &name, length),
            Deed::Empty => self.with_open(&name, libc::O_WRONLY | libc::O_TRUNC, |_| Ok(())),
            Deed::Rename => volume.rename(None, &name, &other, 0),
            Deed::Exchange => volume.rename(None, &name, &other, libc::RENAME_EXCHANGE),
            Deed::Link => volume.link(None, &name, &other, false),
            Deed::Symlink => volume.symlink(target(action.tag).as_bytes(), None, &name),
            Deed::Unlink => volume.unlink(None, &name),
            Deed::UnlinkOpen => self.with_open(&name, libc::O_RDWR, |file| {
                volume.unlink(None, &name)?;
                self.write(file, &data(), Some(0))
            }),
            Deed::Mkdir => volume.mkdir(None, &name, 0o755),
            Deed::Rmdir => volume.rmdir(None, &name),
            Deed::Chmod => volume.chmod(None, &name, action.offset),
            Deed::Seal => self.seal(&name),
            Deed::SetAttribute => volume.set_attribute(of(), ATTRIBUTE, &data(), 0),
            Deed::RemoveAttribute => volume.remove_attribute(of(), ATTRIBUTE),
            Deed::Reserve => self.allocate(&name, libc::FALLOC_FL_KEEP_SIZE, offset, length),
            Deed::Punch => self.allocate(&name, libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE, offset, length),
            Deed::Map => self.with_open(&name, libc::O_RDWR, |file| self.way.store(file, offset, &data())),
            _ => Err(WRONG),
        }
    }

    fn allocate(&self, name: &[u8], mode: i32, offset: u64, length: u64) -> Answer<()> {
        self.with_open(name, libc::O_RDWR, |file| self.volume().allocate(file, mode, offset, length))
    }

    fn seal(&self, name: &[u8]) -> Answer<()> {
        let user = crate::scratch::this_user();
        let caller = lifeboat_fs::Caller { uid: user.uid, gid: user.gid, groups: &[], umask: 0, checked: false };
        let files = self.way.file_system();
        let done = files
            .resolve(&caller, files.root(), name, lifeboat_fs::LastLink::Keep)
            .and_then(|inode| files.seal(&caller, inode));
        done.map(drop).map_err(|error| error.raw_os_error())
    }

    fn act_in_common(&self, action: &Action) -> Answer<()> {
        match action.deed {
            Deed::Record => self
                .with_open(LOG, libc::O_WRONLY | libc::O_APPEND, |file| self.write(file, &self.record(action), None)),
            Deed::Look => self.look(action),
            Deed::Prize => {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
                self.with_open(prize(action.tag).as_bytes(), flags, |_| Ok(()))
            }
            Deed::Move => self.move_token(action),
            Deed::Publish => self.publish(action),
            Deed::Locked => self.count_up_locked(),
            Deed::Stripe => self.with_open(STRIPES, libc::O_WRONLY, |file| {
                let at = self.index * STRIPE + action.offset as usize;
                self.write(file, &bytes(action.tag, action.length as usize), Some(at as u64))
            }),
            Deed::Sweep => {
                let swept = self.way.file_system().sweep();
                self.slot.set(Field::Sweeps, self.slot.get(Field::Sweeps) + 1);
                swept.map(drop).map_err(|error| error.raw_os_error())
            }
            _ => Err(WRONG),
        }
    }

    fn look(&self, action: &Action) -> Answer<()> {
        let Some((_, content)) = self.tree.file(usize::from(action.path)) else { return Ok(()) };
        let data = read_all(self.volume(), &self.name(action.path))?;
        if data == content.data { Ok(()) } else { Err(WRONG) }
    }

    fn move_token(&self, action: &Action) -> Answer<()> {
        let number = usize::from(action.path);
        let to = u64::from(action.offset) << 32 | u64::from(action.length);
        let (old, new) = (token(number, action.tag), token(number, to));
        let done = self.volume().rename(None, old.as_bytes(), new.as_bytes(), 0);
        let place = match done {
            Ok(()) => Some(to),
            Err(libc::ENOENT) => self.find_token(number)?,
            Err(error) => return Err(error),
        };
        if let Some(place) = place {
            self.board.hint(number).store(place, Ordering::SeqCst);
        }
        done
    }

    fn find_token(&self, number: usize) -> Answer<Option<u64>> {
        let directory = self.volume().open(None, b"tokens", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        let names = self.volume().list(directory)?;
        self.volume().close(directory)?;
        let prefix = format!("{number}-");
        let places = names.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok()?.strip_prefix(&prefix));
        Ok(places.filter_map(|place| place.parse().ok()).next())
    }

    fn publish(&self, action: &Action) -> Answer<()> {
        let own = format!("w{}-next", self.index);
        let flags = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY;
        self.with_open(own.as_bytes(), flags, |file| self.write(file, &version(action.tag), None))?;
        self.volume().rename(None, own.as_bytes(), CURRENT, 0)?;
        version_number(&read_all(self.volume(), CURRENT)?).map(drop).ok_or(WRONG)
    }

    /// What it writes to the common log.
    pub fn record(&self, action: &Action) -> Vec<u8> {
        record(self.incarnation, action.tag, action.length as usize)
    }

    fn count_up_locked(&self) -> Answer<()> {
        self.with_open(COUNTER, libc::O_RDWR, |file| {
            let class = if self.incarnation.is_multiple_of(2) { LockClass::Process } else { LockClass::OpenFile };
            self.way.lock(file, class)?;
            self.count_up(file)?;
            self.way.unlock(file, class)
        })
    }

    /// As without the lock: for a storm that must find it.
    pub fn count_up_unlocked(&self) -> Answer<()> {
        self.with_open(COUNTER, libc::O_RDWR, |file| self.count_up(file))
    }

    /// Counts up, and looks whether anybody who lives does so at the same time.
    fn count_up(&self, file: FileOf<W>) -> Answer<()> {
        let before = self.board.common(Common::Holder).swap(self.incarnation, Ordering::SeqCst);
        let other_lives = before != 0
            && (0..WRITERS).any(|index| {
                let slot = self.board.slot(index);
                slot.get(Field::Incarnation) == before && slot.get(Field::Condemned) != before
            });
        let data = self.volume().read(file, 8, Some(0))?;
        let count = u64::from_le_bytes(data.try_into().map_err(|_| WRONG)?) + 1;
        self.write(file, &count.to_le_bytes(), Some(0))?;
        let alone = self.board.common(Common::Holder).swap(0, Ordering::SeqCst) == self.incarnation;
        if other_lives || !alone { Err(WRONG) } else { Ok(()) }
    }
}
