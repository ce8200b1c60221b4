//! Directories: a trie over the hash of the name, five bits a level, whose leaves are short chains of entries.
//!
//! Order of the keys is the order of reading, and a key is the cookie, so cookies stay good whatever else changes.
//! Readers take no lock: a directory's sequence word is odd while it is changed, and a look-up between two equal even
//! values saw one state.
//!
//! An entry, 64 bytes: {next map word, key, inode id, length 0..8 | kind 8..16 | check sum 16..24 | offset of a long name / 64 in
//! 24..64, 32 bytes of name}. Names longer than 32 bytes lie wholly in a cell of their own. The check sum speaks for key, inode id
//! and the rest of its word, the key for the name; so a flipped bit is an error, never the file of another name.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::map_word::{INDEX_WORDS, Target};
use crate::name_cache::few_bytes;
use crate::{Errno, NAME_LONGEST, Result};
use core::sync::atomic::{Ordering, fence};
use lifeboat_region::lane::{Lane, Transaction};
use lifeboat_region::layout::CELL;
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space::{self, Class, Unit};
use lifeboat_region::{DAMAGED, MustFence};

pub(crate) const NEXT: u64 = 0;
pub(crate) const KEY: u64 = 8;
pub(crate) const CHILD: u64 = 16;
pub(crate) const INFO: u64 = 24;
pub(crate) const NAME: u64 = 32;
pub(crate) const NAME_INLINE: usize = 32;

/// Chains longer than this are split.
const CHAIN_LONGEST: usize = 8;
/// Levels of five bits in a key of 63.
pub(crate) const DEPTH_LARGEST: u32 = 12;
/// No honest chain is longer: it would need this many equal keys.
const CHAIN_LIMIT: usize = 4096;
/// Low bits of a key that tell names of one hash apart.
pub(crate) const ORDINALS: u64 = 16;
/// Keys below are the cookies of `.` and `..`.
const KEY_SMALLEST: u64 = 16;
/// Spins before a reader takes the lock of a directory whose writer may have died.
const SPINS: u32 = 2000;

/// An entry found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Offset of the entry.
    pub(crate) at: u64,
    /// Offset of the map word that points to it.
    pub(crate) link_at: u64,
    /// The inode it names.
    pub(crate) child: InodeId,
}

/// Where a name that is not in its directory belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// Offset of the word that leads to the chain.
    head_at: u64,
    depth: u32,
    /// Entries in the chain.
    length: usize,
    /// Which key is free among those of one hash.
    ordinal: u64,
}

/// An entry, or where it would be.
type FoundOrSpot = core::result::Result<Found, Spot>;

/// The words of an entry before its name.
struct EntryHead {
    next: u64,
    key: u64,
    child: u64,
    info: u64,
}

/// What a name meant while its directory had a sequence: an entry, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    hash: u64,
    sequence: u64,
    met: FoundOrSpot,
}

impl Looked {
    pub(crate) fn found(&self) -> Option<Found> {
        self.met.ok()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// A name and its hash.
#[derive(Clone, Copy)]
pub(crate) struct Name<'n> {
    pub(crate) bytes: &'n [u8],
    pub(crate) hash: u64,
}

pub(crate) fn digit(key: u64, depth: u32) -> u64 {
    key >> (58 - 5 * depth) & (INDEX_WORDS - 1)
}

fn info(length: usize, kind: u8, long_at: u64) -> u64 {
    length as u64 | (kind as u64) << 8 | (long_at >> 6) << 24
}

/// The word with the check sum of an entry. Every single flipped bit of the three words changes the sum: the multiplier
/// has no eight equal bits in a row.
pub(crate) const fn sealed_info(key: u64, child: u64, info: u64) -> u64 {
    const SUM: u64 = 0xff << 16;
    let mixed = (key ^ child.rotate_left(17) ^ (info & !SUM).rotate_left(41)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    info & !SUM | (mixed >> 56) << 16
}

/// Whether these words begin with the bytes of `name`, of which there are no more than that.
#[inline(always)]
fn has_name(words: [u64; NAME_INLINE / 8], name: &[u8]) -> bool {
    let (whole, rest) = name.as_chunks::<8>();
    let mut words = words.into_iter();
    let are_equal = whole.iter().zip(&mut words).all(|(&bytes, word)| u64::from_le_bytes(bytes) == word);
    let mask = (1u64 << (8 * rest.len())) - 1;
    are_equal && (rest.is_empty() || words.next().is_some_and(|word| word & mask == few_bytes(rest)))
}

impl FileSystem {
    pub(crate) fn name<'n>(&self, bytes: &'n [u8]) -> Result<Name<'n>> {
        if bytes.len() > NAME_LONGEST {
            return Err(Errno::NAMETOOLONG);
        }
        let seed = self.region().superblock().identity;
        let hash = twox_hash::XxHash3_64::oneshot_with_seed(seed, bytes);
        Ok(Name { bytes, hash: ((hash >> 1) & !(ORDINALS - 1)).max(KEY_SMALLEST) })
    }

    /// Whether a unit belongs to this directory, as `read` sees the owner words.
    #[inline(always)]
    fn belongs(
        &self,
        read: &impl Fn(u64) -> Result<u64>,
        dir: InodeId,
        class: Class,
        at: u64,
        kind: Kind,
    ) -> Result<()> {
        let word = read(space::find_owner(self.region(), class, at)?)?;
        if Owner::is_linked(word, kind, dir.number()) { Ok(()) } else { Err(DAMAGED) }
    }

    #[inline(always)]
    fn belongs_now(&self, dir: InodeId, class: Class, at: u64, kind: Kind) -> Result<()> {
        self.belongs(&|at| self.region().load(at), dir, class, at, kind)
    }

    /// The words of an entry of this directory, checked.
    #[inline(always)]
    fn entry_head(&self, dir: InodeId, at: u64) -> Result<EntryHead> {
        self.belongs_now(dir, Class::Entry, at, Kind::Entry)?;
        let [next, key, child, info] = self.region().load_all(at, [NEXT, KEY, CHILD, INFO])?;
        if sealed_info(key, child, info) == info { Ok(EntryHead { next, key, child, info }) } else { Err(DAMAGED) }
    }

    /// Whether the entry, which has the hash of `name`, is that name's.
    fn is_stored_name(&self, dir: InodeId, at: u64, info: u64, name: &Name<'_>) -> Result<bool> {
        if info as u8 as usize != name.bytes.len() {
            return Ok(false);
        }
        // Most names are short: they are compared where they lie.
        let is_inline = name.bytes.len() <= NAME_INLINE && info >> 24 == 0;
        if is_inline && has_name(self.region().load_all(at + NAME, [0, 8, 16, 24])?, name.bytes) {
            return Ok(true);
        }
        self.is_stored(dir, at, info, name)
    }

    /// Whether the entry, which has the hash and the length of `name`, has its bytes, too.
    #[cold]
    #[inline(never)]
    fn is_stored(&self, dir: InodeId, at: u64, info: u64, name: &Name<'_>) -> Result<bool> {
        let mut room = [0; NAME_LONGEST];
        let stored = room.get_mut(..name.bytes.len()).ok_or(DAMAGED)?;
        self.read_name(dir, at, info, stored)?;
        if stored == name.bytes {
            return Ok(true);
        }
        // Another name of the same hash, or a damaged one.
        if self.name(stored)?.hash == name.hash { Ok(false) } else { Err(DAMAGED) }
    }

    fn read_name(&self, dir: InodeId, at: u64, info: u64, into: &mut [u8]) -> Result<()> {
        let place = match (info >> 24) << 6 {
            0 if into.len() <= NAME_INLINE => at + NAME,
            0 => return Err(DAMAGED),
            long_at => {
                self.belongs_now(dir, Class::Cell, long_at, Kind::Name)?;
                long_at
            }
        };
        self.region().read_bytes(place, into)
    }

    /// Walks to the leaf word for `key`; answers its offset and depth.
    #[inline(always)]
    pub(crate) fn leaf(&self, dir: InodeId, key: u64, read: &impl Fn(u64) -> Result<u64>) -> Result<(u64, u32)> {
        let mut at = dir.at() + inode::ROOT;
        let mut depth = 0;
        while let Target::Index(node, height) = Target::decode(read(at)?)? {
            // The height is the depth below the root: words that lead in a circle cannot all be right.
            if depth == DEPTH_LARGEST || height as u32 != depth + 1 {
                return Err(DAMAGED);
            }
            self.belongs(read, dir, Class::Cell, node, Kind::Index)?;
            at = node + digit(key, depth) * 8;
            depth += 1;
        }
        Ok((at, depth))
    }

    /// Finds a name, or where it belongs, while nothing changes the directory.
    fn meet(&self, dir: InodeId, name: &Name<'_>) -> Result<FoundOrSpot> {
        let read = |at| self.region().load(at);
        let (head_at, depth) = self.leaf(dir, name.hash, &read)?;
        let mut spot = Spot { head_at, depth, length: 0, ordinal: 0 };
        let (mut link_at, mut link) = (head_at, read(head_at)?);
        for length in 0..CHAIN_LIMIT {
            let at = match Target::decode(link)? {
                Target::Entry(at) => at,
                Target::Hole => return Ok(Err(Spot { length, ..spot })),
                _ => return Err(DAMAGED),
            };
            let head = self.entry_head(dir, at)?;
            if head.key & !(ORDINALS - 1) == name.hash {
                if self.is_stored_name(dir, at, head.info, name)? {
                    return Ok(Ok(Found { at, link_at, child: InodeId::from_word(head.child) }));
                }
                spot.ordinal = spot.ordinal.max((head.key & (ORDINALS - 1)) + 1);
            }
            (link_at, link) = (at + NEXT, head.next);
        }
        Err(DAMAGED)
    }

    /// Runs `read` until it saw one state of the directory, which has the sequence that it is given; `NOENT` when that is gone. No
    /// lock is held.
    pub(crate) fn undisturbed<T>(&self, dir: InodeId, read: impl Fn(u64) -> Result<T>) -> Result<T> {
        let sequence = self.region().word(dir.at() + inode::SEQUENCE)?;
        for _ in 0..SPINS {
            let before = sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let result = read(before);
                fence(Ordering::Acquire);
                if sequence.load(Ordering::Relaxed) == before {
                    return self.unless_removed(dir, result);
                }
            }
            core::hint::spin_loop();
        }
        // Its writer is slow, or dead: its lock tells, and recovers it.
        let lane = self.lane()?;
        self.lock_inode(&lane, dir).map_err(inode::gone)?;
        read(sequence.load(Ordering::Acquire))
    }

    /// Finds a name without a lock, and remembers it.
    pub(crate) fn find(&self, dir: InodeId, name: &Name<'_>) -> Result<Option<Found>> {
        let looked = self.look_for(dir, name)?;
        if let Ok(found) = &looked.met {
            self.note_child(dir, looked.sequence, name.bytes, found.child);
        }
        Ok(looked.found())
    }

    /// Finds a name without a lock, with what makes it known under the lock, too, if nothing happened meanwhile. For who is about to
    /// change the directory, which ends all that is remembered of its names.
    pub(crate) fn look_for(&self, dir: InodeId, name: &Name<'_>) -> Result<Looked> {
        let (met, sequence) = self.undisturbed(dir, |sequence| Ok((self.meet(dir, name)?, sequence)))?;
        Ok(Looked { hash: name.hash, sequence, met })
    }

    /// What a name means while the directory's lock is held: what it meant before, if the directory has the same sequence
    /// still, which every change of its names changes.
    pub(crate) fn look_locked<'n>(
        &self,
        dir: InodeId,
        name: &'n [u8],
        before: Option<Looked>,
    ) -> Result<(Name<'n>, FoundOrSpot)> {
        if let Some(looked) = before
            && self.field(dir, inode::SEQUENCE)? == looked.sequence
        {
            return Ok((Name { bytes: name, hash: looked.hash }, looked.met));
        }
        let name = self.name(name)?;
        let met = self.meet(dir, &name)?;
        Ok((name, met))
    }

    /// Where a name belongs in the directory as the transaction will leave it, which does not have it.
    pub(crate) fn spot(&self, transaction: &Transaction<'_, '_>, dir: InodeId, name: &Name<'_>) -> Result<Spot> {
        let (head_at, depth) = self.leaf(dir, name.hash, &|at| transaction.get(at))?;
        let mut spot = Spot { head_at, depth, length: 0, ordinal: 0 };
        let mut at = transaction.get(head_at)?;
        while let Target::Entry(entry) = Target::decode(at)? {
            self.belongs(&|at| transaction.get(at), dir, Class::Entry, entry, Kind::Entry)?;
            let key = self.region().load(entry + KEY)?;
            if key & !(ORDINALS - 1) == name.hash {
                spot.ordinal = spot.ordinal.max((key & (ORDINALS - 1)) + 1);
            }
            spot.length += 1;
            if spot.length == CHAIN_LIMIT {
                return Err(DAMAGED);
            }
            at = transaction.get(entry + NEXT)?;
        }
        Ok(spot)
    }

    /// Stages a new entry. The directory is locked; the name is not in it, and belongs there.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn insert(
        &self,
        transaction: &mut Transaction<'_, '_>,
        lane: &Lane<'_>,
        dir: InodeId,
        name: &Name<'_>,
        spot: Spot,
        child: InodeId,
        kind: u8,
    ) -> Result<()> {
        transaction.guard(dir.at() + inode::SEQUENCE)?;
        let Spot { mut head_at, depth, length, ordinal } = spot;
        if ordinal == ORDINALS {
            return Err(Errno::NOSPC);
        }
        let key = name.hash | ordinal;
        if (CHAIN_LONGEST..2 * CHAIN_LONGEST).contains(&length) && depth < DEPTH_LARGEST {
            head_at = self.split(transaction, lane, dir, head_at, depth, key)?;
        }
        let entry = self.new_entry(transaction, lane, dir, name, key, child, kind)?;
        let head = transaction.get(head_at)?;
        self.region().commit(entry.at + NEXT, head, MustFence::nothing())?;
        transaction.set(head_at, Target::Entry(entry.at).encode())
    }

    /// Replaces a long chain by an index node; answers where `key` belongs now.
    fn split(
        &self,
        transaction: &mut Transaction<'_, '_>,
        lane: &Lane<'_>,
        dir: InodeId,
        head_at: u64,
        depth: u32,
        key: u64,
    ) -> Result<u64> {
        let region = self.region();
        let node = lane.allocate(Class::Cell, None)?;
        region.zero(node.at, CELL as usize)?.fence();
        let mut chain = transaction.get(head_at)?;
        while let Target::Entry(entry) = Target::decode(chain)? {
            let next = transaction.get(entry + NEXT)?;
            let slot = node.at + digit(region.load(entry + KEY)?, depth) * 8;
            transaction.set(entry + NEXT, region.load(slot)?)?;
            // The node is ours alone until the transaction links it.
            region.commit(slot, Target::Entry(entry).encode(), MustFence::nothing())?;
            chain = next;
        }
        self.link_unit(transaction, &node, Kind::Index, dir)?;
        transaction.set(head_at, Target::Index(node.at, depth as u8 + 1).encode())?;
        Ok(node.at + digit(key, depth) * 8)
    }

    /// Stages the owner word of a unit that becomes part of `inode`.
    pub(crate) fn link_unit(
        &self,
        transaction: &mut Transaction<'_, '_>,
        unit: &Unit,
        kind: Kind,
        inode: InodeId,
    ) -> Result<()> {
        let owner = Owner::decode(self.region().load(unit.owner_at)?).ok_or(DAMAGED)?;
        transaction.set(unit.owner_at, owner.linked(kind, inode.number() as u32).encode())
    }

    #[allow(clippy::too_many_arguments)]
    fn new_entry(
        &self,
        transaction: &mut Transaction<'_, '_>,
        lane: &Lane<'_>,
        dir: InodeId,
        name: &Name<'_>,
        key: u64,
        child: InodeId,
        kind: u8,
    ) -> Result<Unit> {
        let region = self.region();
        let entry = lane.allocate(Class::Entry, None)?;
        let mut name_at = entry.at + NAME;
        let mut long_at = 0;
        if name.bytes.len() > NAME_INLINE {
            let cell = lane.allocate(Class::Cell, None)?;
            self.link_unit(transaction, &cell, Kind::Name, dir)?;
            long_at = cell.at;
            name_at = cell.at;
        }
        region.write_bytes(name_at, name.bytes)?.fence();
        let info = sealed_info(key, child.to_word(), info(name.bytes.len(), kind, long_at));
        region.store_all(entry.at, [(KEY, key), (CHILD, child.to_word()), (INFO, info)])?;
        self.link_unit(transaction, &entry, Kind::Entry, dir)?;
        Ok(entry)
    }

    /// Stages the removal of an entry found under the directory's lock.
    pub(crate) fn remove(&self, transaction: &mut Transaction<'_, '_>, dir: InodeId, found: &Found) -> Result<()> {
        transaction.guard(dir.at() + inode::SEQUENCE)?;
        let next = transaction.get(found.at + NEXT)?;
        transaction.set(found.link_at, next)?;
        let owner_at = space::expect(self.region(), Class::Entry, found.at, Kind::Entry, dir.number())?;
        self.free_word(transaction, owner_at)?;
        let long_at = (self.region().load(found.at + INFO)? >> 24) << 6;
        if long_at != 0 {
            let owner_at = space::expect(self.region(), Class::Cell, long_at, Kind::Name, dir.number())?;
            self.free_word(transaction, owner_at)?;
        }
        Ok(())
    }

    /// Stages that an existing entry names another inode.
    pub(crate) fn redirect(
        &self,
        transaction: &mut Transaction<'_, '_>,
        dir: InodeId,
        found: &Found,
        child: InodeId,
        kind: u8,
    ) -> Result<()> {
        transaction.guard(dir.at() + inode::SEQUENCE)?;
        transaction.set(found.at + CHILD, child.to_word())?;
        let info = self.region().load(found.at + INFO)? & !0xff00 | (kind as u64) << 8;
        let key = self.region().load(found.at + KEY)?;
        transaction.set(found.at + INFO, sealed_info(key, child.to_word(), info))
    }

    fn free_word(&self, transaction: &mut Transaction<'_, '_>, owner_at: u64) -> Result<()> {
        let owner = Owner::decode(self.region().load(owner_at)?).ok_or(DAMAGED)?;
        transaction.set_free(owner_at, owner.freed().encode())
    }

    /// Whether a directory has no names. Its lock is held.
    pub(crate) fn is_empty_directory(&self, dir: InodeId) -> Result<bool> {
        Ok(self.entry_after(dir, 0)?.is_none())
    }

    /// The entry with the smallest key above `key`: its offset and key.
    pub(crate) fn entry_after(&self, dir: InodeId, key: u64) -> Result<Option<(u64, u64)>> {
        self.entry_below(dir, self.field(dir, inode::ROOT)?, key, 0, true)
    }

    /// As [`FileSystem::entry_after`] at some depth; `edge`: on the way down to `key`, not right of it.
    fn entry_below(&self, dir: InodeId, word: u64, key: u64, depth: u32, edge: bool) -> Result<Option<(u64, u64)>> {
        match Target::decode(word)? {
            Target::Hole => Ok(None),
            Target::Entry(_) => self.smallest_in_chain(dir, word, key),
            Target::Index(node, height) if depth < DEPTH_LARGEST && height as u32 == depth + 1 => {
                self.belongs_now(dir, Class::Cell, node, Kind::Index)?;
                let first = if edge { digit(key, depth) } else { 0 };
                for child in first..INDEX_WORDS {
                    let below = self.region().load(node + child * 8)?;
                    // Left of the first child everything is smaller. Right of it everything should be larger, and is
                    // compared all the same: a cookie that went back would make a reader read for ever.
                    if let Some(found) = self.entry_below(dir, below, key, depth + 1, edge && child == first)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
            _ => Err(DAMAGED),
        }
    }

    fn smallest_in_chain(&self, dir: InodeId, head: u64, key: u64) -> Result<Option<(u64, u64)>> {
        let mut best: Option<(u64, u64)> = None;
        let mut word = head;
        for _ in 0..CHAIN_LIMIT {
            let Target::Entry(at) = Target::decode(word)? else { return Ok(best) };
            let head = self.entry_head(dir, at)?;
            if head.key > key && best.is_none_or(|(_, smallest)| head.key < smallest) {
                best = Some((at, head.key));
            }
            word = head.next;
        }
        Err(DAMAGED)
    }

    /// Reads an entry's name into `into`; answers its length, its kind and its child.
    pub(crate) fn entry(&self, dir: InodeId, at: u64, into: &mut [u8; NAME_LONGEST]) -> Result<(u8, u8, InodeId)> {
        let EntryHead { key, child, info, .. } = self.entry_head(dir, at)?;
        let length = info as u8;
        let name = &mut into[..length as usize];
        self.read_name(dir, at, info, name)?;
        if self.name(name)?.hash != key & !(ORDINALS - 1) {
            return Err(DAMAGED);
        }
        Ok((length, (info >> 8) as u8, InodeId::from_word(child)))
    }
}
