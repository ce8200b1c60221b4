//! How a writer reaches the files: in its own process, or as a program does whose calls are intercepted.

use super::writer::WRONG;
use crate::volume::{Answer, KernelVolume, RegionVolume, Volume};
use lifeboat_fs::{FileSystem, LOCK_TO_END, LockClass, LockRequest, OpenFile};
use std::os::fd::RawFd;
use std::path::Path;

/// What writers do that not every [`Volume`] can.
pub trait Way {
    /// Where everything else is done.
    type Files: Volume;

    /// Where everything else is done.
    fn volume(&self) -> &Self::Files;

    /// The file system, for what no program asks for by a call: seals, sweeps.
    fn file_system(&self) -> &FileSystem;

    /// Stores as a program does that has the file mapped.
    fn store(&self, file: <Self::Files as Volume>::File, offset: u64, data: &[u8]) -> Answer<()>;

    /// Waits until it has all of the file locked.
    fn lock(&self, file: <Self::Files as Volume>::File, class: LockClass) -> Answer<()>;

    /// Gives that back.
    fn unlock(&self, file: <Self::Files as Volume>::File, class: LockClass) -> Answer<()>;
}

/// Calls of this process on its own attachment.
pub struct InProcess<'f>(RegionVolume<'f>);

impl<'f> InProcess<'f> {
    /// Through this attachment.
    pub fn over(files: &'f FileSystem) -> Self {
        Self(RegionVolume::over(files, b"").expect("the root"))
    }
}

impl<'f> Way for InProcess<'f> {
    type Files = RegionVolume<'f>;

    fn volume(&self) -> &Self::Files {
        &self.0
    }

    fn file_system(&self) -> &FileSystem {
        self.0.files()
    }

    fn store(&self, file: OpenFile, offset: u64, data: &[u8]) -> Answer<()> {
        let files = self.file_system();
        let (start, end) = (offset / 4096 * 4096, offset + data.len() as u64);
        let mut pieces = Vec::new();
        let pin = files.map(file, start, end - start, true, &mut |piece| pieces.push(piece));
        let pin = pin.map_err(|error| error.raw_os_error())?;
        for piece in pieces {
            let (from, to) = (offset.max(piece.file_offset), end.min(piece.file_offset + piece.length));
            if from < to {
                let part = &data[(from - offset) as usize..(to - offset) as usize];
                let place = piece.region_offset + (from - piece.file_offset);
                files.region().write_bytes(place, part).map_err(|error| error.raw_os_error())?.fence();
            }
        }
        files.unmap(pin).map_err(|error| error.raw_os_error())
    }

    fn lock(&self, file: OpenFile, class: LockClass) -> Answer<()> {
        let request = LockRequest { class, exclusive: true, start: 0, end: LOCK_TO_END };
        self.file_system().lock_file(file, &request, true).map_err(|error| error.raw_os_error())
    }

    fn unlock(&self, file: OpenFile, class: LockClass) -> Answer<()> {
        self.file_system().unlock_file(file, class, 0, LOCK_TO_END).map_err(|error| error.raw_os_error())
    }
}

/// Calls of libc below a mount whose library is loaded.
pub struct Intercepted<'f> {
    mount: KernelVolume,
    files: &'f FileSystem,
}

impl<'f> Intercepted<'f> {
    /// Below this mount; seals and sweeps through this attachment.
    pub fn over(mount: &Path, files: &'f FileSystem) -> Self {
        Self { mount: KernelVolume::over(mount, false).expect("the mount"), files }
    }
}

fn done(returned: i32) -> Answer<()> {
    match returned {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(WRONG)),
        _ => Ok(()),
    }
}

fn lock_call(file: RawFd, class: LockClass, kind: i32) -> Answer<()> {
    let command = match class {
        LockClass::Process => libc::F_SETLKW,
        _ => libc::F_OFD_SETLKW,
    };
    let whole = libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the lock is described by a structure of ours, which the call only reads.
    done(unsafe { libc::fcntl(file, command, &whole) })
}

impl Way for Intercepted<'_> {
    type Files = KernelVolume;

    fn volume(&self) -> &KernelVolume {
        &self.mount
    }

    fn file_system(&self) -> &FileSystem {
        self.files
    }

    fn store(&self, file: RawFd, offset: u64, data: &[u8]) -> Answer<()> {
        let start = offset / 4096 * 4096;
        let length = (offset - start) as usize + data.len();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let place =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file, start as libc::off_t) };
        if place == libc::MAP_FAILED {
            return done(-1);
        }
        // SAFETY: the mapping holds the bytes from `start` to the end of `data`, and the file is as long: only this writer
        // changes it.
        unsafe {
            let to = place.cast::<u8>().add((offset - start) as usize);
            std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
            done(libc::munmap(place, length))
        }
    }

    fn lock(&self, file: RawFd, class: LockClass) -> Answer<()> {
        lock_call(file, class, libc::F_WRLCK)
    }

    fn unlock(&self, file: RawFd, class: LockClass) -> Answer<()> {
        lock_call(file, class, libc::F_UNLCK)
    }
}
