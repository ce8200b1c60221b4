//! Finishing what dead processes began, and finding room.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, size_of};
use crate::room::{Awaited, Room};
use crate::truncate::{TASK_RELEASE, TASK_TRIM};
use crate::{Errno, Result};
use lifeboat_region::MustFence;
use lifeboat_region::announcements::{Announced, announced_number};
use lifeboat_region::image::Image;
use lifeboat_region::lane::{Lane, Task};
use lifeboat_region::layout::{CELL, SWEEP_LOCK};
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::recovery::{self, Finish};
use lifeboat_region::space::{self, Class};

/// What a sweep did.
pub(crate) struct Swept {
    /// Units and inodes freed.
    freed: u64,
    /// Units that stay in limbo only as long as operations that are under way.
    pub(crate) awaited: Awaited,
}

/// What becomes of a unit in limbo.
#[derive(PartialEq, Eq)]
pub(crate) enum Limbo {
    /// It is free.
    Freed,
    /// An operation under way may touch it.
    Awaited,
    /// A mapping shows it, or somebody else was faster.
    Stays,
}

impl Finish for FileSystem {
    fn finish(&self, lane: &Lane<'_>, task: Task) -> Result<bool> {
        let inode = InodeId::from_word(task.inode);
        if !matches!(task.kind, TASK_TRIM | TASK_RELEASE) || self.validate(inode).is_err() {
            return Ok(true);
        }
        // The dead held the lock over the whole task, so it is ours by now; or it came free when who was recovering them
        // was recovered. If it was never theirs, the task is damage: what is done under the lock is right for any inode.
        let was_theirs = lane.holds(inode.at() + inode::LOCK)?;
        if !was_theirs && !lane.try_lock(inode.at() + inode::LOCK)? {
            return Ok(false);
        }
        let result = self.finish_locked(lane, task.kind, inode, was_theirs);
        self.unlock_inode_unless(lane, inode, was_theirs)?;
        result.map(|()| true)
    }

    fn clean_up(&self, lane: &Lane<'_>, task: Task) -> Result<bool> {
        let (start, end) = task.range;
        let written = InodeId::from_word(task.hazard);
        let end = end.min(inode::SIZE_LARGEST + 1);
        if end <= start || self.validate(written).is_err() {
            return Ok(true);
        }
        self.scrub_after_death(lane, written, start, end)
    }

    fn image_gone(&self, image: Image) -> Result<bool> {
        let settled = self.settle_file_locks(image)?;
        self.reap_image(image)?;
        Ok(settled)
    }
}

impl FileSystem {
    fn finish_locked(&self, lane: &Lane<'_>, kind: u64, inode: InodeId, was_theirs: bool) -> Result<()> {
        match kind {
            TASK_TRIM => self.trim(lane, inode),
            TASK_RELEASE if self.links(inode)? == 0 && (was_theirs || !self.is_open(inode)?) => {
                self.take_apart(lane, inode)
            }
            _ => Ok(()),
        }
    }

    fn unlock_inode_unless(&self, lane: &Lane<'_>, inode: InodeId, keep: bool) -> Result<()> {
        if keep { Ok(()) } else { self.unlock_inode(lane, inode) }
    }

    /// Bytes beyond the size that a dead writer left are zeroed, so that they never show. False when somebody has the
    /// inode locked.
    fn scrub_after_death(&self, lane: &Lane<'_>, inode: InodeId, start: u64, end: u64) -> Result<bool> {
        if end <= size_of(self.field(inode, inode::SIZE)?) {
            return Ok(true);
        }
        // The dead write may have held this lock already: then it is ours by now.
        let locked = match lane.try_lock(inode.at() + inode::LOCK) {
            Ok(true) => true,
            Ok(false) => return Ok(false),
            Err(Errno::DEADLK) => false,
            Err(error) => return Err(error),
        };
        let result = self.validate(inode).and_then(|()| self.zero_beyond_size(lane, inode, start, end));
        if locked {
            self.unlock_inode(lane, inode)?;
        }
        result
    }

    /// Runs `work`; when the region is full, makes room and runs it again. No lock may be held, and nothing announced.
    pub(crate) fn with_room<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        let mut room = Room::new();
        loop {
            match work() {
                Err(Errno::NOSPC) if room.make(self)? => {}
                other => return other,
            }
        }
    }

    /// Recovers dead processes, closes what nobody holds open, and frees what nobody can reach. Answers the number of
    /// units and inodes freed.
    pub fn sweep(&self) -> Result<u64> {
        self.sweep_all().map(|swept| swept.freed)
    }

    pub(crate) fn sweep_all(&self) -> Result<Swept> {
        self.sweep_with(&mut |_| true)
    }

    /// As [`FileSystem::sweep`], but of the inodes that say they have no links only those are freed that `is_nameless`
    /// says are.
    pub(crate) fn sweep_where(&self, is_nameless: &mut dyn FnMut(InodeId) -> bool) -> Result<u64> {
        self.sweep_with(is_nameless).map(|swept| swept.freed)
    }

    fn sweep_with(&self, is_nameless: &mut dyn FnMut(InodeId) -> bool) -> Result<Swept> {
        recovery::recover_all(self.region(), self)?;
        let lane = self.lane()?;
        lane.lock(SWEEP_LOCK, self)?;
        self.reap(None);
        self.drop_dead_pins()?;
        self.sweep_kernel_nodes()?;
        let mut swept = Swept { freed: 0, awaited: Awaited::new() };
        space::each_unit(self.region(), |unit, owner| {
            match (owner.state, owner.kind) {
                (State::Limbo, _) => match self.leave_limbo(unit.owner_at, owner, false) {
                    Ok(Limbo::Awaited) => swept.awaited.note(unit.owner_at, owner),
                    left => swept.freed += u64::from(unless_damaged(left.map(|left| left == Limbo::Freed))?),
                },
                (State::Live, Kind::Inode) if unit.class == Class::Cell => {
                    let inode = InodeId::new(unit.at / CELL, owner.generation);
                    if self.links(inode) == Ok(0) {
                        swept.freed += unless_damaged(self.release_orphan(inode, is_nameless))? as u64;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(swept)
    }

    /// Frees a unit in limbo if no writer and no mapping can touch it; `outlived`: no writer can, that is known. Under the lock
    /// of the inode that it belonged to, so that no transaction about it is half applied.
    pub(crate) fn leave_limbo(&self, owner_at: u64, owner: Owner, outlived: bool) -> Result<Limbo> {
        let number = owner.holder as u64;
        let cell_owner_at = space::find_owner(self.region(), Class::Cell, number * CELL);
        let lane = self.lane()?;
        if let Ok(at) = cell_owner_at
            && let Some(cell) = Owner::decode(self.region().load(at)?)
            && cell.state == State::Live
            && cell.kind == Kind::Inode
        {
            match self.lock_inode(&lane, InodeId::new(number, cell.generation)) {
                Ok(()) | Err(Errno::STALE) => {}
                Err(error) => return Err(error),
            }
        }
        if !outlived && may_be_touched(owner.kind, announced_number(self.region(), number, lane.index())?) {
            return Ok(Limbo::Awaited);
        }
        if owner.mapped && self.is_pinned_number(number)? {
            return Ok(Limbo::Stays);
        }
        let (old, new) = (owner.encode(), owner.freed().encode());
        let freed = self.region().commit_exchange(owner_at, old, new, MustFence::nothing())?;
        Ok(if freed { Limbo::Freed } else { Limbo::Stays })
    }

    fn release_orphan(&self, inode: InodeId, is_nameless: &mut dyn FnMut(InodeId) -> bool) -> Result<bool> {
        let lane = self.lane()?;
        match self.lock_inode(&lane, inode) {
            Err(Errno::STALE) => return Ok(false),
            other => other?,
        }
        if self.links(inode)? != 0 || self.is_open(inode)? || !is_nameless(inode) {
            return Ok(false);
        }
        self.take_apart(&lane, inode).map(|()| true)
    }
}

/// What is damaged stays as it is, for a check to name: it keeps nobody from sweeping what is whole.
pub(crate) fn unless_damaged<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(Errno::UCLEAN | Errno::DEADLK | Errno::STALE) => Ok(T::default()),
        other => other,
    }
}

/// Whether what others announced about an inode keeps a unit that it lost from being reused.
pub(crate) fn may_be_touched(unit: Kind, announced: Announced) -> bool {
    match announced {
        Announced::Nothing => false,
        Announced::Waiting => unit == Kind::Inode,
        Announced::Touching => true,
    }
}
