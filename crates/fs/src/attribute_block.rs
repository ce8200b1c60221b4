//! Where the extended attributes of an inode lie: one block of bytes, never changed once it is linked. A change builds
//! another block aside and exchanges one word for it.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..8 | length of the whole in 0..32; CRC-32C of the length and of what follows in 32..64 |
//! | then, for each attribute, by falling name: | |
//! | 8 | length of the name 0..32, of the value 32..64 |
//! | | the name, the value |
//!
//! The block is a cell, a 4 KiB block, an extent, or up to 32 extents behind a node, by its length.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::map_word::{INDEX_WORDS, Target};
use crate::{Errno, Result, UserSource, UserTarget};
use lifeboat_region::lane::{Lane, Transaction};
use lifeboat_region::layout::{BLOCK, CELL, EXTENT};
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::space::{self, Class, Unit};
use lifeboat_region::{DAMAGED, MustFence, Region};

/// Longest name of an extended attribute, with its namespace.
pub const NAME_LONGEST: usize = 255;
/// Longest value.
pub(crate) const VALUE_LONGEST: usize = 65536;
/// Bytes of all attributes of an inode.
const LONGEST: u64 = INDEX_WORDS * EXTENT;
/// Bytes before the first attribute.
const HEADER: u64 = 8;
/// Bytes before a name.
const ENTRY_HEADER: u64 = 8;
/// Units of the longest block, with its node.
const UNITS: usize = INDEX_WORDS as usize + 1;
/// Largest block of which all bits are tried.
const SEARCHED: usize = BLOCK as usize;
/// Bytes that travel from an old block to a new one at a time.
const PIECE: usize = 512;

/// Where the pieces of a block are.
#[derive(Clone, Copy)]
struct Places {
    /// Class of the units that hold bytes.
    class: Class,
    at: [u64; INDEX_WORDS as usize],
    count: usize,
    /// The node that points to them.
    node: Option<u64>,
}

impl Places {
    /// Of the word in the inode; `None` when it has no attributes.
    fn of_word(region: &Region, word: u64) -> Result<Option<Places>> {
        let one = |class, at| Places { class, at: [at; INDEX_WORDS as usize], count: 1, node: None };
        Ok(Some(match Target::decode(word)? {
            Target::Hole => return Ok(None),
            Target::Cell(at) => one(Class::Cell, at),
            Target::Block(at) => one(Class::Block, at),
            Target::Extent(at) => one(Class::Extent, at),
            Target::Index(node, 1) => {
                space::find_owner(region, Class::Cell, node)?;
                let mut places = Places { count: 0, node: Some(node), ..one(Class::Extent, 0) };
                for index in 0..INDEX_WORDS {
                    match Target::decode(region.load(node + index * 8)?)? {
                        Target::Extent(at) => places.at[places.count] = at,
                        Target::Hole => break,
                        _ => return Err(DAMAGED),
                    }
                    places.count += 1;
                }
                places
            }
            _ => return Err(DAMAGED),
        }))
    }

    fn room(&self) -> u64 {
        self.count as u64 * self.class.size()
    }

    /// Every unit: class and offset.
    fn units(&self) -> impl Iterator<Item = (Class, u64)> + '_ {
        let node = self.node.map(|node| (Class::Cell, node));
        self.at.iter().take(self.count).map(|&at| (self.class, at)).chain(node)
    }

    /// Calls `each` with {offset in the region, bytes done before, bytes} for every piece of `length` bytes at `from`.
    fn runs(&self, from: u64, length: u64, mut each: impl FnMut(u64, u64, usize) -> Result<()>) -> Result<()> {
        let size = self.class.size();
        let mut done = 0;
        while done < length {
            let at = from + done;
            let index = usize::try_from(at / size).map_err(|_| DAMAGED)?;
            let unit = *self.at[..self.count].get(index).ok_or(DAMAGED)?;
            let here = (length - done).min(size - at % size);
            each(unit + at % size, done, here as usize)?;
            done += here;
        }
        Ok(())
    }
}

/// One attribute in a block.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Where it begins.
    start: u64,
    name_length: usize,
    /// Bytes of its value.
    pub(crate) value_length: usize,
}

impl Entry {
    fn name_at(&self) -> u64 {
        self.start + ENTRY_HEADER
    }

    fn value_at(&self) -> u64 {
        self.name_at() + self.name_length as u64
    }

    fn end(&self) -> u64 {
        self.value_at() + self.value_length as u64
    }
}

/// The attributes of an inode, at the moment when they were looked up. Whoever holds one has announced the inode, so its
/// units are not reused.
pub(crate) struct AttributeBlock<'f> {
    region: &'f Region,
    places: Places,
    length: u64,
}

impl<'f> AttributeBlock<'f> {
    /// Of the word in the inode. The bytes are checked as a whole here, so that later steps meet what was written.
    pub(crate) fn load(fs: &'f FileSystem, inode: InodeId, word: u64) -> Result<Option<AttributeBlock<'f>>> {
        let region = fs.region();
        let Some(places) = Places::of_word(region, word)? else { return Ok(None) };
        for (class, at) in places.units() {
            let owner = Owner::decode(region.load(space::find_owner(region, class, at)?)?).ok_or(DAMAGED)?;
            // Somebody may be exchanging the block.
            let linked = matches!(owner.state, State::Live | State::Limbo);
            if !linked || owner.kind != Kind::Attributes || owner.holder as u64 != inode.number() {
                return Err(DAMAGED);
            }
        }
        if places.count == 0 {
            return Err(DAMAGED);
        }
        let header = region.load(places.at[0])?;
        let length = header & 0xffff_ffff;
        if length <= HEADER || length > places.room() {
            return Err(DAMAGED);
        }
        let block = AttributeBlock { region, places, length };
        let mut sum = checksum_of_length(length);
        block.places.runs(HEADER, length - HEADER, |at, _, part| {
            sum = region.checksum(at, part, sum)?;
            Ok(())
        })?;
        if sum as u64 != header >> 32 { Err(DAMAGED) } else { Ok(Some(block)) }
    }

    fn read(&self, from: u64, into: &mut [u8]) -> Result<()> {
        self.places.runs(from, into.len() as u64, |at, done, part| {
            let place = into.get_mut(done as usize..done as usize + part).ok_or(DAMAGED)?;
            self.region.read_bytes(at, place)
        })
    }

    /// The attribute that begins at `start`; `None` at the end.
    fn entry(&self, start: u64) -> Result<Option<Entry>> {
        if start == self.length {
            return Ok(None);
        }
        if self.length - start < ENTRY_HEADER {
            return Err(DAMAGED);
        }
        let mut header = [0; ENTRY_HEADER as usize];
        self.read(start, &mut header)?;
        let header = u64::from_le_bytes(header);
        let entry = Entry { start, name_length: header as u32 as usize, value_length: (header >> 32) as usize };
        let fits = entry.name_length <= NAME_LONGEST && entry.value_length <= VALUE_LONGEST;
        if entry.name_length == 0 || !fits || entry.end() > self.length {
            return Err(DAMAGED);
        }
        Ok(Some(entry))
    }

    /// Calls `each` with every attribute and its name, until it answers false.
    pub(crate) fn each(&self, mut each: impl FnMut(&Entry, &[u8]) -> Result<bool>) -> Result<()> {
        let mut at = HEADER;
        while let Some(entry) = self.entry(at)? {
            let mut name = [0; NAME_LONGEST];
            let name = name.get_mut(..entry.name_length).ok_or(DAMAGED)?;
            self.read(entry.name_at(), name)?;
            if !each(&entry, name)? {
                break;
            }
            at = entry.end();
        }
        Ok(())
    }

    /// The attribute of that name.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Option<Entry>> {
        let mut found = None;
        self.each(|entry, here| {
            if here == name {
                found = Some(*entry);
            }
            Ok(here > name)
        })?;
        Ok(found)
    }

    /// Copies a value to the caller, whose room is large enough.
    pub(crate) fn copy_value(&self, entry: &Entry, into: &UserTarget<'_>) -> Result<()> {
        self.places.runs(entry.value_at(), entry.value_length as u64, |at, done, part| {
            self.region.copy_out(at, into, done as usize, part)
        })
    }
}

fn checksum_of_length(length: u64) -> u32 {
    lifeboat_region::checksum_slice(0, &length.to_le_bytes())
}

/// A block that is being written, in units that belong to the lane alone.
pub(crate) struct NewBlock<'r> {
    region: &'r Region,
    places: Places,
    units: [Option<Unit>; UNITS],
    position: u64,
    sum: u32,
}

impl<'r> NewBlock<'r> {
    /// Takes units for `length` bytes. `NOSPC` when an inode cannot have so many, or the region has no room.
    fn allocate(lane: &Lane<'r>, length: u64) -> Result<NewBlock<'r>> {
        let class = match length {
            _ if length <= CELL => Class::Cell,
            _ if length <= BLOCK => Class::Block,
            _ if length <= LONGEST => Class::Extent,
            _ => return Err(Errno::NOSPC),
        };
        let count = length.div_ceil(class.size()) as usize;
        let mut places = Places { class, at: [0; INDEX_WORDS as usize], count, node: None };
        let mut units = [None; UNITS];
        for (at, place) in places.at.iter_mut().zip(&mut units).take(count) {
            let unit = lane.allocate(class, None)?;
            *at = unit.at;
            *place = Some(unit);
        }
        if count > 1 {
            let unit = lane.allocate(Class::Cell, None)?;
            lane.region().zero(unit.at, CELL as usize)?.fence();
            for (index, &at) in places.at.iter().enumerate().take(count) {
                let word = Target::Extent(at).encode();
                lane.region().commit(unit.at + index as u64 * 8, word, MustFence::nothing())?;
            }
            places.node = Some(unit.at);
            units[count] = Some(unit);
        }
        let sum = checksum_of_length(length);
        Ok(NewBlock { region: lane.region(), places, units, position: HEADER, sum })
    }

    fn push(&mut self, source: &UserSource<'_>, length: usize) -> Result<()> {
        let (region, mut sum) = (self.region, self.sum);
        self.places.runs(self.position, length as u64, |at, done, part| {
            region.copy_in(at, source, done as usize, part)?.fence();
            // Of what was copied, whatever the program does to its bytes meanwhile.
            sum = region.checksum(at, part, sum)?;
            Ok(())
        })?;
        self.sum = sum;
        self.position += length as u64;
        Ok(())
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.push(&UserSource::from_slice(bytes), bytes.len())
    }

    /// Takes over bytes of the block before.
    fn push_old(&mut self, old: &AttributeBlock<'_>, from: u64, to: u64) -> Result<()> {
        let mut at = from;
        let mut piece = [0; PIECE];
        while at < to {
            let here = ((to - at) as usize).min(PIECE);
            old.read(at, &mut piece[..here])?;
            self.push_bytes(&piece[..here])?;
            at += here as u64;
        }
        Ok(())
    }

    fn push_entry(&mut self, name: &[u8], value: &UserSource<'_>) -> Result<()> {
        let header = name.len() as u64 | (value.len() as u64) << 32;
        self.push_bytes(&header.to_le_bytes())?;
        self.push_bytes(name)?;
        self.push(value, value.len())
    }

    /// Writes the header, which makes the block whole.
    fn finish(self) -> Result<NewBlock<'r>> {
        let header = self.position | (self.sum as u64) << 32;
        self.region.commit(self.places.at[0], header, MustFence::nothing())?;
        Ok(self)
    }

    fn word(&self) -> u64 {
        match (self.places.node, self.places.class, self.places.at[0]) {
            (Some(node), _, _) => Target::Index(node, 1),
            (None, Class::Cell, at) => Target::Cell(at),
            (None, Class::Block, at) => Target::Block(at),
            (None, _, at) => Target::Extent(at),
        }
        .encode()
    }
}

impl FileSystem {
    /// Builds a block like `old`, but with this value of `name`, or without it. `None` when nothing is left.
    pub(crate) fn build_attributes<'r>(
        &self,
        lane: &Lane<'r>,
        old: Option<&AttributeBlock<'_>>,
        name: &[u8],
        value: Option<&UserSource<'_>>,
    ) -> Result<Option<NewBlock<'r>>> {
        // Where the attribute is, or belongs: behind those with greater names.
        let (mut gone_from, mut gone_to) = (HEADER, HEADER);
        if let Some(old) = old {
            old.each(|entry, here| {
                if here > name {
                    (gone_from, gone_to) = (entry.end(), entry.end());
                } else if here == name {
                    gone_to = entry.end();
                }
                Ok(here > name)
            })?;
        }
        let before = old.map_or(HEADER, |old| old.length);
        let new = value.map_or(0, |value| ENTRY_HEADER + (name.len() + value.len()) as u64);
        let length = before - (gone_to - gone_from) + new;
        if length == HEADER {
            return Ok(None);
        }
        let mut block = NewBlock::allocate(lane, length)?;
        if let Some(old) = old {
            block.push_old(old, HEADER, gone_from)?;
        }
        if let Some(value) = value {
            block.push_entry(name, value)?;
        }
        if let Some(old) = old {
            block.push_old(old, gone_to, old.length)?;
        }
        block.finish().map(Some)
    }

    /// Exchanges the block of a locked inode, whose word still is `before`, in one transaction.
    pub(crate) fn exchange_attributes(
        &self,
        lane: &Lane<'_>,
        inode: InodeId,
        before: u64,
        new: Option<&NewBlock<'_>>,
    ) -> Result<()> {
        let mut transaction = lane.begin();
        if let Some(new) = new {
            for unit in new.units.iter().flatten() {
                self.link_unit(&mut transaction, unit, Kind::Attributes, inode)?;
            }
        }
        let mut unlinked = [0; UNITS];
        let count = self.unlink_attributes(&mut transaction, inode, before, &mut unlinked)?;
        // Last, so that a reader without a lock who finds the new block finds its units linked.
        transaction.set(inode.at() + inode::ATTRIBUTES, new.map_or(0, NewBlock::word))?;
        // No part of the transaction: writers of the file set it without a lock.
        self.set(inode, inode::CHANGED, lifeboat_region::process::now() as u64)?;
        transaction.commit(MustFence::nothing())?;
        lane.withdraw()?;
        self.unlock_inode(lane, inode)?;
        self.settle(lane, inode, &unlinked[..count])
    }

    /// Stages that the units of a block are in limbo; their owner words.
    fn unlink_attributes(
        &self,
        transaction: &mut Transaction<'_, '_>,
        inode: InodeId,
        word: u64,
        owners: &mut [u64; UNITS],
    ) -> Result<usize> {
        let mut count = 0;
        let Some(places) = Places::of_word(self.region(), word)? else { return Ok(0) };
        for (class, at) in places.units() {
            let owner_at = space::expect(self.region(), class, at, Kind::Attributes, inode.number())?;
            let owner = Owner::decode(self.region().load(owner_at)?).ok_or(DAMAGED)?;
            transaction.set(owner_at, owner.in_limbo().encode())?;
            *owners.get_mut(count).ok_or(DAMAGED)? = owner_at;
            count += 1;
        }
        Ok(count)
    }

    /// Frees the attributes of an inode that comes to its end. It is locked.
    pub(crate) fn release_attributes(&self, lane: &Lane<'_>, inode: InodeId) -> Result<()> {
        let word = self.field(inode, inode::ATTRIBUTES)?;
        if word == 0 {
            return Ok(());
        }
        let mut owners = [0; UNITS];
        let mut transaction = lane.begin();
        let count = self.unlink_attributes(&mut transaction, inode, word, &mut owners)?;
        transaction.set(inode.at() + inode::ATTRIBUTES, 0)?;
        transaction.commit(MustFence::nothing())?;
        self.settle(lane, inode, &owners[..count])
    }

    /// For a check: the word of a damaged block in which one bit is wrong, and what it was. Only of blocks up to
    /// [`SEARCHED`] bytes, because all their bits are tried; `None` also when none or several fit.
    pub(crate) fn attributes_flipped_back(&self, word: u64) -> Result<Option<(u64, u64)>> {
        let region = self.region();
        let Some(places) = Places::of_word(region, word)? else { return Ok(None) };
        let (at, room) = (places.at[0], places.room());
        if places.count != 1 || room > SEARCHED as u64 {
            return Ok(None);
        }
        let mut bytes = [0; SEARCHED];
        let bytes = &mut bytes[..room as usize];
        region.read_bytes(at, bytes)?;
        let mut found = None;
        // Beyond the length no bit matters; a wrong length may be any.
        for bit in 0..room * 8 {
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            let whole = is_whole(bytes);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            match (whole, found) {
                (true, Some(_)) => return Ok(None),
                (true, None) => found = Some(bit),
                _ => {}
            }
        }
        let Some(bit) = found else { return Ok(None) };
        let word_at = at + bit / 64 * 8;
        Ok(Some((word_at, region.load(word_at)? ^ 1 << (bit % 64))))
    }
}

/// Whether these bytes are a block with the right checksum.
fn is_whole(bytes: &[u8]) -> bool {
    let mut header = [0; HEADER as usize];
    header.copy_from_slice(&bytes[..HEADER as usize]);
    let header = u64::from_le_bytes(header);
    let length = header & 0xffff_ffff;
    if length <= HEADER || length > bytes.len() as u64 {
        return false;
    }
    let sum = lifeboat_region::checksum_slice(checksum_of_length(length), &bytes[HEADER as usize..length as usize]);
    sum as u64 == header >> 32
}
