//! Open files: the kernel's handle is the number of the region's slot.

use crate::attributes::kind;
use crate::service::{CHECKED_ROOT, Service, errno};
use fuser::{INodeNo, ReplyDirectory, Request, WriteFlags};
use lifeboat_fs::{OpenFile, Position, Result, UserSource, UserTarget};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

/// Bytes moved at a time by `copy_file_range`.
const COPY_STEP: usize = 1 << 20;
/// The most that one call of `copy_file_range` moves: a request must not take long.
const COPY_LARGEST: u64 = 64 << 20;

thread_local! {
    /// Where a thread puts together what it answers.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `use_it` on `length` bytes of this thread's buffer, which keeps its size.
fn with_buffer<T>(length: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        use_it(&mut buffer[..length])
    })
}

/// What is known of open files beyond their slots.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    /// Second slots, for files that are appended to. A slot that appends cannot also take what was written through a
    /// mapping, which belongs to its place.
    appending: Mutex<HashMap<u32, OpenFile>>,
}

impl Service {
    pub(crate) fn close(&self, file: OpenFile) -> Result<()> {
        let appending = self.open.appending.lock().unwrap_or_else(PoisonError::into_inner).remove(&file.0);
        let appending_closed = appending.map_or(Ok(()), |file| self.files.close(file));
        self.files.close(file).and(appending_closed)
    }

    fn appending(&self, file: OpenFile) -> Result<OpenFile> {
        let mut appending = self.open.appending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = appending.get(&file.0) {
            return Ok(known);
        }
        let id = self.files.inode_of(file)?;
        let opened = self.files.open_inode(&CHECKED_ROOT, id, libc::O_WRONLY | libc::O_APPEND)?;
        appending.insert(file.0, opened);
        Ok(opened)
    }

    /// Reads and hands what was read to `answer`.
    pub(crate) fn read_into(&self, file: OpenFile, offset: u64, size: usize, answer: impl FnOnce(Result<&[u8]>)) {
        with_buffer(size, |buffer| {
            let read = self.files.read(file, &[UserTarget::from_slice(buffer)], Position::At(offset));
            answer(read.map(|count| &buffer[..count]));
        });
    }

    pub(crate) fn write_from(
        &self,
        request: &Request,
        number: u64,
        file: OpenFile,
        offset: u64,
        data: &[u8],
        how: (WriteFlags, i32),
    ) -> Result<usize> {
        let (how, flags) = how;
        // What comes from the page cache was written through a mapping and belongs to its place.
        let appends = flags & libc::O_APPEND != 0 && !how.contains(WriteFlags::FUSE_WRITE_CACHE);
        let to = if appends { self.appending(file)? } else { file };
        let source = [UserSource::from_slice(data)];
        let count = self.with_patience(|| self.files.write(to, &source, Position::At(offset)))?;
        if how.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            self.drop_set_ids_of_writer(request, self.nodes.find(number)?)?;
        }
        Ok(count)
    }

    /// Fills a listing from the entry at cookie `from` on.
    pub(crate) fn list(&self, file: OpenFile, from: u64, mut reply: ReplyDirectory) {
        let mut cookie = from;
        loop {
            match self.files.read_dir(file, cookie) {
                Ok(None) => break,
                Ok(Some(entry)) => {
                    let name = OsStr::from_bytes(entry.name());
                    if reply.add(INodeNo(entry.inode), entry.next, kind(entry.kind), name) {
                        break;
                    }
                    cookie = entry.next;
                }
                Err(error) => return reply.error(errno(error)),
            }
        }
        reply.ok();
    }

    /// Copies bytes from {file, offset} to {inode, file, offset}; how many.
    pub(crate) fn copy(&self, from: (OpenFile, u64), to: (u64, OpenFile, u64), length: u64) -> Result<usize> {
        let length = length.min(COPY_LARGEST) as usize;
        with_buffer(COPY_STEP.min(length), |buffer| {
            let mut done = 0;
            while done < length {
                let here = buffer.len().min(length - done);
                let at = Position::At(from.1 + done as u64);
                let read = self.files.read(from.0, &[UserTarget::from_slice(&mut buffer[..here])], at);
                let outcome = read.and_then(|count| {
                    let at = Position::At(to.2 + done as u64);
                    let source = [UserSource::from_slice(&buffer[..count])];
                    self.with_patience(|| self.files.write(to.1, &source, at))
                });
                match outcome {
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        })
    }
}
