//! Reading directories, in the order of the keys, which are the cookies.

use crate::file_system::FileSystem;
use crate::inode::InodeId;
use crate::open_file::OpenFile;
use crate::types::DirEntry;
use crate::{NAME_LONGEST, Result};

const AFTER_DOT: u64 = 1;
const AFTER_DOT_DOT: u64 = 2;
const DIRECTORY_KIND: u8 = 4;

impl FileSystem {
    /// The entry at `cookie` (0 starts); `None` at the end. `.` and `..` come first. Cookies stay good whatever else
    /// changes in the directory.
    pub fn read_dir(&self, file: OpenFile, cookie: u64) -> Result<Option<DirEntry>> {
        self.read_directory(self.directory_of(file)?, cookie)
    }

    /// As [`FileSystem::read_dir`], for a directory that is not open.
    pub fn read_directory(&self, dir: InodeId, cookie: u64) -> Result<Option<DirEntry>> {
        if cookie < AFTER_DOT_DOT {
            let (inode, name): (InodeId, &[u8]) = if cookie == 0 { (dir, b".") } else { (self.parent(dir)?, b"..") };
            return Ok(Some(special(inode, name, cookie + AFTER_DOT)));
        }
        self.undisturbed(dir, |_| {
            let Some((at, key)) = self.entry_after(dir, cookie)? else { return Ok(None) };
            let mut name = [0; NAME_LONGEST];
            let (name_len, kind, child) = self.entry(dir, at, &mut name)?;
            Ok(Some(DirEntry { inode: child.number(), kind, name_len, name, next: key }))
        })
    }
}

fn special(inode: InodeId, bytes: &[u8], next: u64) -> DirEntry {
    let mut name = [0; NAME_LONGEST];
    name[..bytes.len()].copy_from_slice(bytes);
    DirEntry { inode: inode.number(), kind: DIRECTORY_KIND, name_len: bytes.len() as u8, name, next }
}
