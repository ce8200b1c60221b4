//! Checksum words: one per 64 KiB of a file.
//!
//! | bits | field |
//! |---|---|
//! | 0..3 | state |
//! | 8..25 | valid length: bytes that the CRC covers, from the extent's start |
//! | 32..64 | CRC-32C; while claimed, the lane of the claimer |
//!
//! A writer that extends an extent exactly at its valid length claims the word before it copies and publishes the longer
//! CRC after. Any other write makes the word stale before the first byte changes. A claim that never ends (its writer was
//! killed) counts as stale.

use crate::Result;
use lifeboat_region::{DAMAGED, MustFence, Region};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing was written yet.
    None,
    /// The CRC covers every byte written.
    Running,
    /// Some writer is extending the CRC.
    Claimed,
    /// Written at random: computed at seal.
    Stale,
    /// Sealed.
    Final,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Checksum {
    pub(crate) state: State,
    pub(crate) valid: u32,
    pub(crate) crc: u32,
    /// In a final word: whether the CRC was made while the bytes were copied, not at seal.
    pub(crate) end_to_end: bool,
}

const END_TO_END: u64 = 1 << 3;
const RESERVED: u64 = 0xf0 | 0x7f << 25;

impl Checksum {
    pub(crate) const NONE: Checksum = Checksum { state: State::None, valid: 0, crc: 0, end_to_end: false };
    pub(crate) const STALE: Checksum = Checksum { state: State::Stale, valid: 0, crc: 0, end_to_end: false };

    pub(crate) fn decode(word: u64) -> Result<Checksum> {
        let state = match word & 7 {
            0 => State::None,
            1 => State::Running,
            2 => State::Claimed,
            3 => State::Stale,
            4 => State::Final,
            _ => return Err(DAMAGED),
        };
        let valid = (word >> 8) as u32 & 0x1_ffff;
        let reserved = if state == State::Final { RESERVED } else { RESERVED | END_TO_END };
        if valid > 65536 || word & reserved != 0 || (state == State::None && word != 0) {
            return Err(DAMAGED);
        }
        Ok(Checksum { state, valid, crc: (word >> 32) as u32, end_to_end: word & END_TO_END != 0 })
    }

    pub(crate) const fn encode(self) -> u64 {
        let state = match self.state {
            State::None => return 0,
            State::Running => 1,
            State::Claimed => 2,
            State::Stale => 3,
            State::Final => 4,
        };
        let source = if self.end_to_end { END_TO_END } else { 0 };
        state | source | (self.valid as u64) << 8 | (self.crc as u64) << 32
    }
}

/// A claim on a checksum word while bytes are copied.
pub(crate) struct ChecksumClaim {
    at: u64,
    claimed: u64,
    valid: u32,
    /// CRC to continue from.
    pub(crate) crc: u32,
}

/// The word of what was written here and there: it stays so until the file is sealed, whatever is written.
pub(crate) const STALE: u64 = Checksum::STALE.encode();

/// Whether the word's checksum is that of the first `from` bytes, and a write there goes on with it.
#[inline(always)]
pub(crate) const fn ends_at(word: u64, from: u32) -> bool {
    const RUNNING: Checksum = Checksum { state: State::Running, valid: 0, crc: 0, end_to_end: false };
    word as u32 == RUNNING.encode() as u32 | from << 8 || (word == 0 && from == 0)
}

/// Prepares for a write of `length` bytes at `from` of an extent: a claim for this lane if it extends the extent's checksum, else,
/// and without a lane, the word is stale when this returns.
pub(crate) fn before_write(
    region: &Region,
    at: u64,
    lane: Option<u32>,
    from: u32,
    length: u32,
) -> Result<Option<ChecksumClaim>> {
    loop {
        let word = region.load(at)?;
        let now = Checksum::decode(word)?;
        let continues = match now.state {
            State::None => from == 0,
            // A rewrite from the start that covers everything is a new beginning.
            State::Running | State::Final => now.valid == from || (from == 0 && length >= now.valid),
            State::Claimed | State::Stale => false,
        };
        if now.state == State::Stale {
            return Ok(None);
        }
        let claim = lane.filter(|_| continues).map(|lane| Checksum {
            state: State::Claimed,
            valid: from,
            crc: lane,
            end_to_end: false,
        });
        let next = claim.unwrap_or(Checksum::STALE).encode();
        if region.commit_exchange(at, word, next, MustFence::nothing())? {
            let crc = if from == 0 { 0 } else { now.crc };
            return Ok(claim.map(|_| ChecksumClaim { at, claimed: next, valid: from, crc }));
        }
    }
}

impl ChecksumClaim {
    /// Claims the word, which is this one and [`ends_at`] `from`, for the lane of this number; `None` when it is another by now.
    #[inline(always)]
    pub(crate) fn go_on(region: &Region, at: u64, word: u64, lane: u32, from: u32) -> Result<Option<ChecksumClaim>> {
        let claimed = Checksum { state: State::Claimed, valid: from, crc: lane, end_to_end: false }.encode();
        let claim = ChecksumClaim { at, claimed, valid: from, crc: (word >> 32) as u32 };
        Ok(region.commit_exchange(at, word, claimed, MustFence::nothing())?.then_some(claim))
    }

    /// No byte was touched: the word is what it was, unless somebody made it stale meanwhile.
    #[cold]
    pub(crate) fn take_back(self, region: &Region, before: u64) -> Result<()> {
        region.commit_exchange(self.at, self.claimed, before, MustFence::nothing())?;
        Ok(())
    }

    /// Publishes the CRC over `length` more bytes, unless somebody made the word stale meanwhile.
    #[inline(always)]
    pub(crate) fn publish(self, region: &Region, crc: u32, length: u32, data: MustFence) -> Result<()> {
        let done = Checksum { state: State::Running, valid: self.valid + length, crc, end_to_end: false };
        region.commit_exchange(self.at, self.claimed, done.encode(), data)?;
        Ok(())
    }

    /// The copy failed half-way: what the extent holds now is unknown.
    pub(crate) fn give_up(self, region: &Region) -> Result<()> {
        region.commit_exchange(self.at, self.claimed, Checksum::STALE.encode(), MustFence::nothing())?;
        Ok(())
    }
}

/// The word of a hole that is about to be filled: one that claims nothing. The inode is locked.
pub(crate) fn before_linking(region: &Region, at: u64) -> Result<u64> {
    if Checksum::decode(region.load(at)?)?.state != State::None {
        make_stale(region, at)?;
    }
    region.load(at)
}

/// Makes a word stale, whatever it is.
pub(crate) fn make_stale(region: &Region, at: u64) -> Result<()> {
    loop {
        let word = region.load(at)?;
        if Checksum::decode(word)?.state == State::Stale
            || region.commit_exchange(at, word, Checksum::STALE.encode(), MustFence::nothing())?
        {
            return Ok(());
        }
    }
}
