//! Checking a region: walks everything and says in words what is wrong; and repairing what has exactly one right answer.
//!
//! A walk looks twice at everything that is linked: first it only notes what is referred to, and how often, then it
//! judges. The words that refer and the owner words of what they refer to say the same thing twice, so one flipped bit in
//! either is found, and can be flipped back if exactly one word that differs in one bit fits. What names an inode must also be
//! the name that the inode lacks: the check sum of an entry is short. Counts are compared last, and only where nothing is
//! missing; what nobody refers to is freed only if whoever it belonged to is whole, or gone for good.
//!
//! A check never destroys what a name leads to. So it believes no count of links that says "none" before it has looked where
//! all names lead: the inode is freed only if none leads to it; else its count is wrong, and is counted again.

mod chains;
mod contents;
mod counts;
mod entries;
mod finding;
mod tables;

use crate::file_system::FileSystem;
use crate::inode::InodeId;
use crate::sweep::unless_damaged;
use crate::types::Caller;
use crate::{Errno, Result};
use chains::LostName;
use core::sync::atomic::Ordering;
pub use finding::{Fault, Finding, Remedy};
use lifeboat_region::image;
use lifeboat_region::layout::{CELL, CHUNK, ENTRY};
use lifeboat_region::mapping::Scratch;
use lifeboat_region::owner::{Kind, State};
use lifeboat_region::space::{self, Class};
use lifeboat_region::{MustFence, Region, process};

/// Walks that a repair makes at most: what one of them mends may show what another has to mend.
const ROUNDS: u32 = 24;
/// Inodes that lack a name and get one in one round.
const ADOPTED: usize = 64;

/// What a check saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// Inodes.
    pub inodes: u64,
    /// Names.
    pub names: u64,
    /// Units of space in use.
    pub units: u64,
    /// Findings reported.
    pub findings: u64,
    /// Units that an earlier death had left and that were freed first.
    pub reclaimed: u64,
}

/// What the walk does with what it meets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Notes what is referred to.
    Mark,
    /// Judges, and mends.
    Judge,
}

struct Walk<'w> {
    fs: &'w FileSystem,
    phase: Phase,
    /// Whether to mend, and not only to report.
    mends: bool,
    /// Whether no other process is attached.
    alone: bool,
    /// One bit for every 64 bytes: referred to; referred to more than once; met while judging.
    marks: Scratch,
    twice: Scratch,
    /// Whose contents were noted; noted by two words of the inode that it belongs to.
    entered: Scratch,
    contested: Scratch,
    met: Scratch,
    /// Names found of the inode in each cell: while judging; while marking, in whatever whole entries there are.
    names: Scratch,
    noted_names: Scratch,
    /// One bit for each cell: an inode that an entry names; of which something cannot be reached; that something without a
    /// reference belongs to.
    named: Scratch,
    broken: Scratch,
    leaky: Scratch,
    /// One bit for each cell: a directory below the root; one that is not.
    below: Scratch,
    detached: Scratch,
    /// How often something of each class was looked for in a damaged chunk: eight counters a chunk.
    votes: Scratch,
    /// Whether every name there is was met.
    names_whole: bool,
    any_broken: bool,
    /// Names that nothing leads to any more, of the inode in each cell.
    lost: Scratch,
    /// One bit for each cell: a directory that may have more names than were met.
    forgetful: Scratch,
    lacking: [Option<Lacking>; ADOPTED],
    mended: u64,
    report: &'w mut dyn FnMut(Finding),
    summary: CheckSummary,
}

/// An inode that has fewer names than it says.
#[derive(Clone, Copy)]
struct Lacking {
    inode: InodeId,
    /// It has others.
    has_names: bool,
    /// It lacks as many as there are lost entries that name it, so each of them is right.
    lacks_all: bool,
}

/// While it lives, this process takes nothing apart for its count of links alone.
struct Sparing<'f>(&'f FileSystem);

impl<'f> Sparing<'f> {
    fn begin(fs: &'f FileSystem) -> Sparing<'f> {
        fs.checks.fetch_add(1, Ordering::Relaxed);
        Sparing(fs)
    }
}

impl Drop for Sparing<'_> {
    fn drop(&mut self) {
        self.0.checks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Walks the whole region and changes nothing but what a sweep reclaims. Other processes should be at rest: what they are
/// changing may look wrong.
pub fn check(fs: &FileSystem, report: &mut dyn FnMut(Finding)) -> Result<CheckSummary> {
    let _sparing = Sparing::begin(fs);
    let reclaimed = sweep(fs)?;
    let mut walk = Walk::new(fs, false, report)?;
    walk.summary.reclaimed = reclaimed;
    walk.round()?;
    Ok(walk.summary)
}

/// Repairs what has exactly one right answer; reports what it repaired, and answers how often. While another process is
/// attached only superblock copies are repaired: anything else may be what that process is about to change.
pub fn repair(fs: &FileSystem, report: &mut dyn FnMut(Finding)) -> Result<u64> {
    let _sparing = Sparing::begin(fs);
    let mut repaired = 0;
    for _ in 0..ROUNDS {
        sweep(fs)?;
        let mut mended = |finding: Finding| {
            if finding.is_repairable() {
                report(finding);
            }
        };
        let mut walk = Walk::new(fs, true, &mut mended)?;
        walk.round()?;
        let (lacking, done) = (walk.lacking, walk.mended);
        let lost = walk.lost_names(&lacking)?;
        drop(walk);
        let adopted = adopt(fs, &lacking, &lost)?;
        if done + adopted == 0 {
            break;
        }
        repaired += done + adopted;
    }
    Ok(repaired)
}

/// Sweeps, and frees inodes that say they have no links after looking whether names lead to them. What cannot be swept because
/// of damage, the walk says.
fn sweep(fs: &FileSystem) -> Result<u64> {
    let mut any = false;
    let swept = fs.sweep_where(&mut |_| {
        any = true;
        false
    });
    // Without a lane nothing can be swept; who has them all the walk says, too.
    let mut freed = unless_damaged(if swept == Err(Errno::NOLCK) { Ok(0) } else { swept })?;
    if any {
        let mut unheard = |_| ();
        let mut walk = Walk::new(fs, false, &mut unheard)?;
        if walk.sees_all_names()? {
            freed += unless_damaged(fs.sweep_where(&mut |inode| !walk.named.has_bit(inode.number())))?;
        }
    }
    Ok(freed)
}

/// Names inodes that lack a name: as they were called, if an entry is left that says so; those without any else by their numbers
/// in `lost+found`.
fn adopt(fs: &FileSystem, lacking: &[Option<Lacking>], lost: &[Option<LostName>]) -> Result<u64> {
    const PLACE: &[u8] = b"lost+found";
    let uid = rustix::process::geteuid().as_raw();
    let who = Caller { uid, gid: rustix::process::getegid().as_raw(), groups: &[], umask: 0o077, checked: true };
    let mut count = 0;
    for (lacking, lost) in lacking.iter().zip(lost) {
        let Some(Lacking { inode, has_names, .. }) = *lacking else { continue };
        if let Some(lost) = lost
            && lost.give_back(fs, &who, inode).is_ok()
        {
            count += 1;
            continue;
        }
        if has_names {
            continue;
        }
        match fs.mkdir(&who, fs.root(), PLACE, 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::NOSPC) => return Ok(count),
            Err(error) => return Err(error),
        }
        let mut path = [0; 64];
        let length = process::decimal(b"lost+found/", inode.number(), b"", &mut path);
        match fs.link(&who, inode, fs.root(), &path[..length]) {
            Ok(()) => count += 1,
            Err(Errno::EXIST | Errno::NOSPC | Errno::UCLEAN) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn others_are_attached(region: &Region) -> Result<bool> {
    let own = image::own(region)?;
    let mut others = false;
    image::attached(region, |image, _| {
        others |= image != own && image::is_alive(region, image).unwrap_or(true);
    })?;
    Ok(others)
}

impl<'w> Walk<'w> {
    fn new(fs: &'w FileSystem, mends: bool, report: &'w mut dyn FnMut(Finding)) -> Result<Walk<'w>> {
        let region = fs.region();
        let length = region.length();
        let units = || Scratch::new(length / ENTRY / 64 + 1);
        let cells = || Scratch::new(length / CELL / 64 + 1);
        let alone = !others_are_attached(region)?;
        Ok(Walk {
            fs,
            phase: Phase::Mark,
            mends,
            alone,
            marks: units()?,
            twice: units()?,
            entered: units()?,
            contested: units()?,
            met: units()?,
            names: Scratch::new(length / CELL / 2 + 1)?,
            noted_names: Scratch::new(length / CELL / 2 + 1)?,
            named: cells()?,
            broken: cells()?,
            leaky: cells()?,
            below: cells()?,
            detached: cells()?,
            votes: Scratch::new(length / CHUNK * 4 + 1)?,
            names_whole: true,
            any_broken: false,
            lost: Scratch::new(length / CELL / 2 + 1)?,
            forgetful: cells()?,
            lacking: [None; ADOPTED],
            mended: 0,
            report,
            summary: CheckSummary::default(),
        })
    }

    fn region(&self) -> &'w Region {
        self.fs.region()
    }

    fn round(&mut self) -> Result<()> {
        self.superblocks()?;
        if self.mends && !self.alone {
            return Ok(());
        }
        self.tables()?;
        self.root()?;
        self.each_live_inode(Walk::contents)?;
        self.owners()?;
        self.chunks()?;
        self.phase = Phase::Judge;
        self.each_live_inode(Walk::contents)?;
        // What was mended has to be seen in its place before anything is counted or freed.
        if self.mends && self.mended > 0 {
            return Ok(());
        }
        self.each_live_inode(Walk::links)?;
        if self.mends && self.mended > 0 {
            return Ok(());
        }
        self.unreferenced()
    }

    /// Notes which inodes names lead to. False when something is damaged that may hide a name.
    fn sees_all_names(&mut self) -> Result<bool> {
        self.root()?;
        self.each_live_inode(Walk::names_in)?;
        self.chunks()?;
        self.phase = Phase::Judge;
        self.each_live_inode(Walk::names_in)?;
        Ok(self.names_whole && !self.any_broken)
    }

    /// Reports a fault; while mending, does something about it if there is one right answer.
    fn find(&mut self, fault: Fault, remedy: Remedy, mend: impl FnOnce(&FileSystem) -> Result<()>) -> Result<()> {
        self.summary.findings += 1;
        (self.report)(Finding { fault, remedy });
        if self.mends && remedy != Remedy::None {
            mend(self.fs)?;
            self.mended += 1;
        }
        Ok(())
    }

    /// Reports a fault that has no right answer.
    fn name(&mut self, fault: Fault) -> Result<()> {
        self.find(fault, Remedy::None, |_| Ok(()))
    }

    /// Reports a fault that one word mends.
    fn find_word(&mut self, fault: Fault, remedy: Remedy, at: u64, word: u64) -> Result<()> {
        self.find(fault, remedy, |fs| fs.region().commit(at, word, MustFence::nothing()))
    }

    /// Something of the inode with this number cannot be reached: nothing of it is freed, no count of it believed.
    fn break_inode(&mut self, number: u64) {
        self.broken.set_bit(number);
        self.any_broken = true;
    }

    fn each_live_inode(&mut self, mut each: impl FnMut(&mut Self, InodeId) -> Result<()>) -> Result<()> {
        let fs = self.fs;
        space::each_unit(fs.region(), |unit, owner| {
            if owner.state == State::Live && owner.kind == Kind::Inode && unit.class == Class::Cell {
                let number = unit.at / CELL;
                if owner.holder as u64 != number {
                    self.marks.set_bit(unit.at / ENTRY);
                    self.break_inode(number);
                    return Ok(());
                }
                let inode = InodeId::new(number, owner.generation);
                if let Err(error) = each(self, inode) {
                    self.break_inode(number);
                    self.names_whole = false;
                    if self.phase == Phase::Judge {
                        self.name(Fault::Unreadable(unit.at, error.raw_os_error()))?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// The only word that differs from `word` in one bit and that `fits`, if there is exactly one.
fn flipped_back(word: u64, mut fits: impl FnMut(u64) -> Result<bool>) -> Result<Option<u64>> {
    let mut found = None;
    for bit in 0..64 {
        let candidate = word ^ 1 << bit;
        if fits(candidate)? {
            if found.is_some() {
                return Ok(None);
            }
            found = Some(candidate);
        }
    }
    Ok(found)
}
