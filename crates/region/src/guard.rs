//! Runs of 2 MiB that this process maps read-only, so that a stray store of the program cannot reach them.
//!
//! Nothing is remembered about it: a store that faults asks the region whether the run is still one to be closed, and
//! opens it if not. So other processes need not be told when a run becomes one or ceases to be.

use crate::layout::{CHUNK, EXTENT};
use crate::owner::{Kind, Owner, State};
use crate::region::Region;
use crate::space::{self, Class};
use crate::{DAMAGED, Errno, Result};
use rustix::mm::MprotectFlags;

impl Region {
    /// The chunk at this address of this process, if it is one of the region's.
    pub fn chunk_at(&self, address: usize) -> Option<u32> {
        space::chunk_of(self, self.offset_of(address)?)
    }

    /// Lets this process store into a chunk, or not.
    pub fn set_writable(&self, chunk: u32, writable: bool) -> Result<()> {
        if chunk as u64 >= self.geometry().chunks {
            return Err(DAMAGED);
        }
        let at = self.base() as u64 + self.geometry().data_at + chunk as u64 * CHUNK;
        let rights = if writable { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::READ };
        // SAFETY: the pages are the region's own mapping (the chunk's number was checked), of which no references exist;
        // a store of this library that finds them closed opens them again (`FileSystem::open_guarded`).
        unsafe { rustix::mm::mprotect(at as *mut core::ffi::c_void, CHUNK as usize, rights) }
    }

    /// Whether every extent of a chunk is file data for whose inode `is_closed` says so. Asks nothing but the region's
    /// words, so it may be called by handlers of faults.
    pub fn is_wholly(&self, chunk: u32, mut is_closed: impl FnMut(u32) -> Result<bool>) -> Result<bool> {
        let mut closed = 0;
        let each = space::each_unit_of_chunk(self, chunk, |unit, owner| {
            if unit.class == Class::Extent && is_data(&owner) && is_closed(owner.holder)? {
                closed += 1;
                return Ok(());
            }
            Err(NO)
        });
        match each {
            // Clean extents, and those whose owner word is damaged, were not met.
            Ok(()) => Ok(closed == CHUNK / EXTENT),
            Err(NO) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Ends a look through a chunk early.
const NO: Errno = Errno::AGAIN;

fn is_data(owner: &Owner) -> bool {
    owner.state == State::Live && owner.kind == Kind::Data
}
