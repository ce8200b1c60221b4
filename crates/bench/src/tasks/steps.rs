//! What operations that outlive a kill cannot do without: their memory operations, with nothing around them. No look at who asks, where that
//! may be, and whether the memory is there.

use super::small::RECORD;
use super::{Sample, Site, Work, timed};
use std::io::Result;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of the memory that records are written into: as much as the file that others write them into.
const WORDS: usize = (1 << 20) / 8;

/// Words that a look-up compares.
const LOOKED_UP: usize = 8;

/// Which write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Inside the size, where no checksum goes on.
    Inside,
    /// At the end, with the checksum that goes on.
    Appending,
}

/// The words of one write, apart as they are in a region.
#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; 8]);

/// The operations again and again.
pub struct Steps {
    /// Open file, announcement, inode, checksum, and what is looked up.
    lines: Box<[Line]>,
    bytes: Box<[AtomicU64]>,
    kind: Kind,
    operations: usize,
}

impl Steps {
    /// As many as other small work.
    pub fn begin(site: &Site, kind: Kind) -> Result<Box<dyn Work>> {
        Ok(Box::new(Steps::new(site.operations, kind)))
    }

    fn new(operations: usize, kind: Kind) -> Steps {
        let lines = (0..4 + LOOKED_UP).map(|_| Line::default()).collect();
        let bytes = (0..WORDS).map(|_| AtomicU64::new(1)).collect();
        Steps { lines, bytes, kind, operations }
    }

    fn write(&self, record: usize) {
        let [file, announcement, inode, checksum, looked_up @ ..] = &*self.lines else { return };
        let start = match self.kind {
            Kind::Inside => record * RECORD.len(),
            Kind::Appending => file.0[0].fetch_add(RECORD.len() as u64, Ordering::AcqRel) as usize,
        };
        let [hazard, from, to, ..] = &announcement.0;
        let _ = hazard.compare_exchange(0, 1, Ordering::SeqCst, Ordering::Relaxed);
        from.store(start as u64, Ordering::Release);
        to.store((start + RECORD.len()) as u64, Ordering::Release);
        let differs = looked_up.iter().fold(0, |differs, line| differs | line.0[0].load(Ordering::Acquire));
        let [size, sequence, modified, changed, ..] = &inode.0;
        let before = size.load(Ordering::Acquire);
        let sum = checksum.0[0].load(Ordering::Acquire);
        if self.kind == Kind::Appending {
            let _ = checksum.0[0].compare_exchange(sum, sum | 1, Ordering::SeqCst, Ordering::SeqCst);
        }
        std::hint::black_box(differs | sequence.load(Ordering::SeqCst));
        for (word, bytes) in self.bytes[start / 8 % WORDS..].iter().zip(RECORD.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        if self.kind == Kind::Appending {
            let crc = lifeboat_kernels::checksum_slice((sum >> 32) as u32, &RECORD);
            let _ = checksum.0[0].compare_exchange(sum | 1, (crc as u64) << 32, Ordering::SeqCst, Ordering::SeqCst);
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_nsec as u64;
        modified.store(now, Ordering::Release);
        changed.store(now, Ordering::Release);
        if self.kind == Kind::Appending {
            let _ = size.compare_exchange(before, start as u64, Ordering::SeqCst, Ordering::SeqCst);
        }
        for word in [to, from, hazard] {
            word.store(0, Ordering::Release);
        }
    }
}

impl Work for Steps {
    fn round(&mut self) -> Result<Sample> {
        self.lines.iter().flat_map(|line| &line.0).for_each(|word| word.store(0, Ordering::Relaxed));
        timed(self.operations, || {
            let mut record = 0;
            for _ in 0..self.operations {
                self.write(record);
                record = (record + 37) % (WORDS * 8 / RECORD.len());
            }
            Ok(())
        })
    }
}

/// What changing a name cannot do without: so many exchanges, with stores between them, a sum over what is to be redone after a kill, and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Locked operations: announcements, claims, locks, units of space, the commit of a transaction, counts of open files.
    exchanges: usize,
    /// Stores into lines that every such change uses: the lane, the directory, the open file.
    stores: usize,
    /// Stores into lines of the file itself: its inode and its entry.
    own_stores: usize,
    /// Words of the transaction, three for each that it changes.
    logged: usize,
}

impl Change {
    /// To make a file, open it and close it: 83 stores, as `cargo xtask steps` counts for the product's own, with the locked ones.
    pub const CREATE: Change = Change { exchanges: 11, stores: 48, own_stores: 24, logged: 24 };
    /// To remove one: 111, counted likewise.
    pub const UNLINK: Change = Change { exchanges: 12, stores: 91, own_stores: 8, logged: 24 };
}

/// Words of an inode and an entry.
const FILE_WORDS: usize = 5 * 8;

/// Changes, each of another file.
pub struct Changes {
    change: Change,
    lines: Box<[Line]>,
    files: Box<[AtomicU64]>,
    operations: usize,
}

impl Changes {
    /// As many as other work with names.
    pub fn begin(site: &Site, change: Change) -> Result<Box<dyn Work>> {
        Ok(Box::new(Changes::new(site.operations, change)))
    }

    fn new(operations: usize, change: Change) -> Changes {
        let lines = (0..change.exchanges).map(|_| Line::default()).collect();
        let files = (0..operations * FILE_WORDS).map(|_| AtomicU64::new(u64::MAX)).collect();
        Changes { change, lines, files, operations }
    }

    fn change(&self, file: &[AtomicU64]) {
        let Change { exchanges, stores, own_stores, logged } = self.change;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_nsec as u64;
        // Each line of the file, whatever number of stores there is.
        let spread = |index: usize| &file[(index * FILE_WORDS / own_stores) % FILE_WORDS];
        for (number, Line(line)) in self.lines.iter().enumerate() {
            let before = line[0].load(Ordering::Acquire);
            let _ = line[0].compare_exchange(before, before + 1, Ordering::SeqCst, Ordering::SeqCst);
            let share = |all: usize| all * number / exchanges..all * (number + 1) / exchanges;
            for index in share(stores) {
                line[1 + index % 7].store(now, Ordering::Release);
            }
            for index in share(own_stores) {
                spread(index).store(now, Ordering::Release);
            }
        }
        let mut text = [0; 8 * 24];
        for (bytes, word) in text.as_chunks_mut::<8>().0.iter_mut().zip(&file[..logged.min(FILE_WORDS)]) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
        std::hint::black_box(lifeboat_kernels::checksum_slice(0, &text));
    }
}

impl Work for Changes {
    fn round(&mut self) -> Result<Sample> {
        timed(self.operations, || {
            self.files.chunks_exact(FILE_WORDS).for_each(|file| self.change(file));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_as_many_exchanges_as_it_says_and_touches_every_line_of_the_file() {
        for change in [Change::CREATE, Change::UNLINK] {
            let mut changes = Changes::new(3, change);
            changes.round().expect("a round");
            assert!(changes.lines.iter().all(|line| line.0[0].load(Ordering::Relaxed) == 3));
            let is_touched = |line: &[AtomicU64]| line.iter().any(|word| word.load(Ordering::Relaxed) != u64::MAX);
            assert!(changes.files.chunks_exact(8).all(is_touched), "{change:?}");
        }
    }

    #[test]
    fn every_record_is_there_and_nothing_stays_announced() {
        for kind in [Kind::Inside, Kind::Appending] {
            let mut steps = Steps::new(WORDS / 8, kind);
            steps.round().expect("a round");
            let words = RECORD.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).cycle();
            assert!(steps.bytes.iter().map(|word| word.load(Ordering::Relaxed)).eq(words.take(WORDS)), "{kind:?}");
            assert!(steps.lines[1].0.iter().all(|word| word.load(Ordering::Relaxed) == 0), "{kind:?}");
        }
    }
}
