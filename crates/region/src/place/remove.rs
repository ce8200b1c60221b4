//! Removing a region and everything that was made for it.

use core::ffi::CStr;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::carrier::keeper::{self, KeeperNote};

use super::covers::{Cover, CoverKind};
use super::directory::RegionDirectory;
use super::error::{PlaceError, RemoveError, ShownPath, failed};
use super::make::change_own_directory;
use super::mount::unmount;
use super::name::RegionName;
use super::text::PathText;
use super::{Place, for_each_entry, open_private_directory};

/// How a region in use is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveMode {
    /// Refused.
    KeepUsed,
    /// Pulled away: processes that have it mapped keep their memory, which is freed when the last of them ends.
    Force,
}

impl Place {
    /// Removes the region `name`: undoes its covers and mounts in reverse order, then deletes its files.
    ///
    /// `in_use` says whether a living process has the region attached. A removal that was killed half way is completed
    /// by the next one.
    pub fn remove(
        &self,
        name: &RegionName,
        mode: RemoveMode,
        in_use: &mut dyn FnMut(&RegionDirectory) -> bool,
    ) -> Result<(), RemoveError> {
        let region = {
            let _short = self.lock()?;
            let region = self.open_region(name)?;
            region.claim()?;
            region
        };
        if mode == RemoveMode::KeepUsed {
            if in_use(&region) {
                return Err(RemoveError::InUse { path: ShownPath::of(region.path()) });
            }
            // Removing a directory takes away what is mounted over it in other namespaces.
            if region.is_marked_ready()? && !region.is_published()? {
                return Err(RemoveError::NotVisible { path: ShownPath::of(region.path()) });
            }
        }
        end_keeper(&region, mode)?;
        // The memory first: when the kernel says that it is in use, nothing else has been touched.
        self.remove_inner(&region, c"memory", mode)?;
        delete(region.directory(), c"ready", region.path())?;
        for name in [keeper::SOCKET, keeper::SOCKET_NEW, keeper::NOTE] {
            delete(region.directory(), name, region.path())?;
        }
        self.undo_covers(&region, mode)?;
        self.remove_inner(&region, c"tags", mode)?;
        self.remove_inner(&region, c"images", mode)?;
        delete(region.directory(), c"covers", region.path())?;
        delete(region.directory(), c"mounts", region.path())?;
        match rustix::fs::unlinkat(self.directory()?, name.as_c_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                drop(region);
                self.remove_if_empty();
                Ok(())
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(foreign_entry(&region)),
            Err(errno) => Err(failed("remove", region.path(), errno).into()),
        }
    }

    /// Unmounts what is over an inner directory, empties it and removes it.
    fn remove_inner(&self, region: &RegionDirectory, name: &CStr, mode: RemoveMode) -> Result<(), RemoveError> {
        let path = region.path().joined(name.to_bytes());
        loop {
            match region.is_mounted(name) {
                Ok(false) => break,
                Ok(true) => {}
                Err(PlaceError::Failed { errno: Errno::NOENT, .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            match unmount(&path, mode == RemoveMode::Force) {
                Ok(()) => {}
                Err(Errno::BUSY) => return Err(RemoveError::InUse { path: ShownPath::of(region.path()) }),
                Err(errno) => return Err(failed("unmount", &path, errno).into()),
            }
        }
        let directory = region.open_any(name)?;
        empty(&directory, &path)?;
        match rustix::fs::unlinkat(region.directory(), name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(RemoveError::Foreign { path: ShownPath::of(&path) }),
            Err(errno) => Err(failed("remove", &path, errno).into()),
        }
    }

    fn undo_covers(&self, region: &RegionDirectory, mode: RemoveMode) -> Result<(), RemoveError> {
        let mut first_error = None;
        region.for_each_cover(&mut |cover| {
            let undone = match self.is_covered_for_another(region.name(), cover.prefix) {
                Ok(true) => Ok(()),
                Ok(false) => undo(cover, mode),
                Err(error) => Err(error),
            };
            first_error = first_error.or(undone.err());
            true
        })?;
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Whether another region of this base directory still needs `prefix` covered.
    fn is_covered_for_another(&self, name: &RegionName, prefix: &[u8]) -> Result<bool, PlaceError> {
        let mut found = false;
        self.list(&mut |other| {
            if other != name
                && let Ok(directory) = self.open_region(other)
            {
                // An unreadable list of another region must not keep this one from being removed.
                let _ = directory.for_each_cover(&mut |cover| {
                    found |= cover.prefix == prefix;
                    !found
                });
            }
            !found
        })?;
        Ok(found)
    }

    /// How `prefix` was covered for some region of this base directory, if it was.
    pub fn cover_of(&self, prefix: &[u8]) -> Result<Option<CoverKind>, PlaceError> {
        let mut kind = None;
        self.list(&mut |name| {
            if let Ok(directory) = self.open_region(name) {
                let _ = directory.for_each_cover(&mut |cover| {
                    if cover.prefix == prefix {
                        kind = Some(cover.kind);
                    }
                    kind.is_none()
                });
            }
            kind.is_none()
        })?;
        Ok(kind)
    }
}

/// Ends the process that keeps the region's memory. One in another pid namespace ends by itself when its files go.
fn end_keeper(region: &RegionDirectory, mode: RemoveMode) -> Result<(), RemoveError> {
    let Some(note) = KeeperNote::read(region) else { return Ok(()) };
    let path = ShownPath::of(region.path());
    match mode {
        RemoveMode::KeepUsed if !note.is_visible() => Err(RemoveError::NotVisible { path }),
        RemoveMode::KeepUsed if !note.end() => Err(RemoveError::KeeperStays { path, pid: note.pid }),
        RemoveMode::KeepUsed => Ok(()),
        RemoveMode::Force => {
            note.end();
            Ok(())
        }
    }
}

/// Undoes one cover as far as it is still as it was made; what is not there any more is undone already.
fn undo(cover: Cover<'_>, mode: RemoveMode) -> Result<(), PlaceError> {
    let path = PathText::from_bytes(cover.prefix);
    if path.is_cut() {
        return Err(failed("unmount", &path, Errno::NAMETOOLONG));
    }
    if cover.kind.is_mounted() && is_own_cover(&path) {
        match unmount(&path, mode == RemoveMode::Force) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            // Somebody's working directory: the cover goes when that one leaves.
            Err(Errno::BUSY) => unmount(&path, true).map_err(|errno| failed("unmount", &path, errno))?,
            Err(errno) => return Err(failed("unmount", &path, errno)),
        }
    }
    if cover.kind == CoverKind::Closed {
        match change_own_directory(path.as_c_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::NOENT | Errno::PERM | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(failed("open up", &path, errno)),
        }
    }
    if cover.kind.is_made() {
        match rustix::fs::rmdir(path.as_c_str()) {
            // What somebody has put there since is theirs.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY) => {}
            Err(errno) => return Err(failed("remove", &path, errno)),
        }
    }
    Ok(())
}

/// Whether the topmost mount at `path` is an empty read-only memory file system as `exec` makes them.
pub(super) fn is_own_cover(path: &PathText) -> bool {
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    let Ok(found) = rustix::fs::statfs(path.as_c_str()) else { return false };
    let Ok(flags) = rustix::fs::statvfs(path.as_c_str()) else { return false };
    found.f_type as u32 == TMPFS_MAGIC && flags.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
}

/// Deletes every file in `directory`; what is not a file stays.
fn empty(directory: &OwnedFd, path: &PathText) -> Result<(), RemoveError> {
    loop {
        let mut deleted = 0u32;
        let mut stubborn = None;
        for_each_entry(directory, path, &mut |name, kind| {
            match kind {
                FileType::Directory => stubborn = Some(ShownPath::of(&path.joined(name.to_bytes()))),
                _ => match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                    Ok(()) => deleted += 1,
                    Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR) => stubborn = Some(ShownPath::of(&path.joined(name.to_bytes()))),
                    Err(errno) => return Err(failed("delete", &path.joined(name.to_bytes()), errno)),
                },
            }
            Ok(true)
        })?;
        // Deleting while listing may pass entries over: once more until a pass finds nothing.
        if deleted == 0 {
            return stubborn.map_or(Ok(()), |path| Err(RemoveError::Foreign { path }));
        }
    }
}

fn delete(directory: rustix::fd::BorrowedFd<'_>, name: &CStr, parent: &PathText) -> Result<(), RemoveError> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("delete", &parent.joined(name.to_bytes()), errno).into()),
    }
}

/// Names an entry that keeps the region's directory from being removed.
fn foreign_entry(region: &RegionDirectory) -> RemoveError {
    let mut found = ShownPath::of(region.path());
    if let Ok(listing) = open_private_directory(region.directory(), c".", region.path()) {
        let _ = for_each_entry(&listing, region.path(), &mut |name, _| {
            found = ShownPath::of(&region.path().joined(name.to_bytes()));
            Ok(false)
        });
    }
    RemoveError::Foreign { path: found }
}
