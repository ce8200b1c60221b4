//! Sealed data, closed to stores of this process.

use crate::Result;
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId, SEALED};
use lifeboat_region::layout::CELL;
use lifeboat_region::owner::{Kind, Owner, State};
use lifeboat_region::space::{self, Class};

impl FileSystem {
    /// Maps every run of 2 MiB that belongs wholly to sealed files read-only in this process, which must hand faulting
    /// stores to [`FileSystem::open_guarded`]. Answers how many runs there are.
    pub fn guard_sealed(&self) -> Result<u64> {
        let mut count = 0;
        for chunk in 0..self.region().geometry().chunks as u32 {
            if self.is_sealed_run(chunk)? {
                self.region().set_writable(chunk, false)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// For handlers of faults: a store to `address` was refused. True when the run is not (or no longer) wholly sealed
    /// data: then it is open now, and the instruction is to be run again.
    pub fn open_guarded(&self, address: usize) -> bool {
        let Some(chunk) = self.region().chunk_at(address) else { return false };
        // What cannot be read is not sealed data.
        !self.is_sealed_run(chunk).unwrap_or(false) && self.region().set_writable(chunk, true).is_ok()
    }

    fn is_sealed_run(&self, chunk: u32) -> Result<bool> {
        let mut last = None;
        self.region().is_wholly(chunk, |holder| {
            if last.is_none_or(|(known, _)| known != holder) {
                last = Some((holder, self.is_sealed_number(holder)?));
            }
            Ok(last.is_some_and(|(_, sealed)| sealed))
        })
    }

    fn is_sealed_number(&self, number: u32) -> Result<bool> {
        let Ok(at) = space::find_owner(self.region(), Class::Cell, number as u64 * CELL) else { return Ok(false) };
        let Some(owner) = Owner::decode(self.region().load(at)?) else { return Ok(false) };
        let id = InodeId::new(number as u64, owner.generation);
        let exists = owner.state == State::Live && owner.kind == Kind::Inode;
        Ok(exists && self.field(id, inode::MODE)? & SEALED != 0)
    }
}
