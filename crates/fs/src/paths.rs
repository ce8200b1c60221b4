//! From an inode back to its path.

use crate::directory::CHILD;
use crate::file_system::FileSystem;
use crate::inode::{InodeId, gone};
use crate::types::{Caller, LastLink};
use crate::{Errno, NAME_LONGEST, PATH_LONGEST, Result};

/// Directories above each other before a path is given up: more cannot fit a path.
const DEPTH_LARGEST: usize = PATH_LONGEST / 2 + 1;

/// How often a path is put together while others move its directories.
const TRIES: u32 = 100;

impl FileSystem {
    /// Path of a directory below the mount: `/` for the root, without the prefix. `NOENT` when it was removed.
    pub fn path_of(&self, dir: InodeId, out: &mut [u8; 4096]) -> Result<usize> {
        let kind = if self.is_directory(dir)? { Ok(()) } else { Err(Errno::NOTDIR) };
        self.while_there(dir, kind).map_err(gone)?;
        for _ in 1..TRIES {
            match self.path_now(dir, out) {
                // One of the directories was moved between the look at it and at its parent.
                Err(Errno::NOENT) if self.has_name(dir)? => {}
                other => return other,
            }
        }
        self.path_now(dir, out)
    }

    fn path_now(&self, dir: InodeId, out: &mut [u8; 4096]) -> Result<usize> {
        let mut start = out.len();
        let mut child = dir;
        for _ in 0..DEPTH_LARGEST {
            if child == self.root() {
                if start == out.len() {
                    start -= 1;
                    out[start] = b'/';
                }
                let length = out.len() - start;
                out.copy_within(start.., 0);
                return Ok(length);
            }
            let parent = self.parent(child)?;
            self.exists(parent)?;
            let mut name = [0; NAME_LONGEST];
            let length = self.name_of(parent, child, &mut name)?;
            start = start.checked_sub(length + 1).ok_or(Errno::NAMETOOLONG)?;
            out[start] = b'/';
            out[start + 1..start + 1 + length].copy_from_slice(&name[..length]);
            child = parent;
        }
        Err(Errno::NAMETOOLONG)
    }

    fn name_of(&self, parent: InodeId, child: InodeId, name: &mut [u8; NAME_LONGEST]) -> Result<usize> {
        let found = self.undisturbed(parent, |_| {
            let mut key = 0;
            while let Some((at, next)) = self.entry_after(parent, key)? {
                if self.region().load(at + CHILD)? == child.to_word() {
                    let mut name = [0; NAME_LONGEST];
                    let (length, _, _) = self.entry(parent, at, &mut name)?;
                    return Ok(Some((name, length as usize)));
                }
                key = next;
            }
            Ok(None)
        })?;
        let (whole, length) = found.ok_or(Errno::NOENT)?;
        *name = whole;
        Ok(length)
    }

    /// The path with every link, `.` and `..` resolved, below the mount, without the prefix.
    pub fn canonical_path(&self, who: &Caller<'_>, dir: InodeId, path: &[u8], out: &mut [u8; 4096]) -> Result<usize> {
        let follow = LastLink::Follow;
        self.at_place(who, dir, path, follow, |place| {
            let found = place.found.ok_or(Errno::NOENT)?;
            if self.is_directory(found)? {
                return self.path_of(found, out);
            }
            if place.slash {
                return Err(Errno::NOTDIR);
            }
            let mut length = self.path_of(place.dir, out)?;
            if length > 1 {
                out[length] = b'/';
                length += 1;
            }
            let end = length + place.name.len();
            out.get_mut(length..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(place.name);
            Ok(end)
        })
    }
}
