//! `lifeboat cp`: into, out of and within a region.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use lifeboat_fs::{Errno, InodeId, LastLink, Stat};
use rustix::fs::OFlags;

use super::read::{read_at, write_at};
use super::{DIRECTORY, Failures, Files, LINK, O_RDONLY, PIECE, REGULAR, TYPE, is_directory, join};
use crate::arguments::CpArguments;
use crate::failure::{Failure, io_reason, shown};

/// Creating a file for writing, emptied.
const O_REPLACE: i32 = (OFlags::WRONLY.bits() | OFlags::CREATE.bits() | OFlags::TRUNC.bits()) as i32;

/// An end of a copy.
enum End {
    /// A path in the region, beginning with a slash.
    Inside(Vec<u8>),
    /// A path of the machine's file system.
    Outside(PathBuf),
}

/// Runs `lifeboat cp`.
pub fn cp(arguments: &CpArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.files)?;
    let end = |argument: &OsStr| {
        let bytes = argument.as_bytes();
        if bytes.starts_with(b":") || files.prefix.strip(bytes).is_some() {
            End::Inside(files.inner(argument))
        } else {
            End::Outside(PathBuf::from(argument))
        }
    };
    let mut copy =
        Copy { files: &files, recursive: arguments.recursive, buffer: vec![0; PIECE], failures: Failures::default() };
    match (end(&arguments.source), end(&arguments.destination)) {
        (End::Outside(_), End::Outside(_)) => {
            let prefix = shown(files.prefix.as_bytes());
            return Err(Failure::usage(format_args!(
                "neither path is in the region: write {prefix}/PATH or :PATH for the one that is"
            )));
        }
        (End::Outside(from), End::Inside(to)) => copy.bring_in(&from, &to)?,
        (End::Inside(from), End::Outside(to)) => copy.take_out(&from, &to)?,
        (End::Inside(from), End::Inside(to)) => copy.move_within(&from, &to)?,
    }
    copy.failures.end()
}

struct Copy<'a> {
    files: &'a Files,
    recursive: bool,
    buffer: Vec<u8>,
    failures: Failures,
}

fn needs_recursive(path: &[u8]) -> Failure {
    Failure::operation(format_args!("cannot copy {}: it is a directory; add -r", shown(path)))
}

fn on_outside(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let path = shown(path.as_os_str().as_bytes());
    Failure::operation(format_args!("cannot {doing} {path}: {}", io_reason(error)))
}

fn not_copied(path: &[u8]) -> Failure {
    Failure::operation(format_args!("cannot copy {}: it is neither file, directory nor symbolic link", shown(path)))
}

impl Copy<'_> {
    /// Where in the region the copy goes: a directory that exists takes it under its own name.
    fn inside_destination(&self, to: &[u8], name: Option<&[u8]>) -> Vec<u8> {
        let is_directory = self
            .files
            .resolve(to, LastLink::Follow)
            .and_then(|inode| self.files.fs.stat(inode))
            .is_ok_and(|stat| is_directory(&stat));
        match name {
            Some(name) if is_directory => join(to, name),
            _ => to.to_vec(),
        }
    }

    fn bring_in(&mut self, from: &Path, to: &[u8]) -> Result<(), Failure> {
        let metadata = fs::metadata(from).map_err(|error| on_outside("examine", from, &error))?;
        if metadata.is_dir() && !self.recursive {
            return Err(needs_recursive(from.as_os_str().as_bytes()));
        }
        let to = self.inside_destination(to, from.file_name().map(OsStr::as_bytes));
        self.bring_in_one(from, &metadata, &to)
    }

    fn bring_in_one(&mut self, from: &Path, metadata: &fs::Metadata, to: &[u8]) -> Result<(), Failure> {
        let (who, root, fs) = (self.files.who(), self.files.fs.root(), &self.files.fs);
        let failed = |errno| Failure::on_path("write", to, errno);
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(from).map_err(|error| on_outside("read", from, &error))?;
            return fs.symlink(&who, target.as_os_str().as_bytes(), root, to).map_err(failed);
        }
        if kind.is_dir() {
            match fs.mkdir(&who, root, to, metadata.mode() & 0o7777 | 0o700) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            for entry in fs::read_dir(from).map_err(|error| on_outside("list", from, &error))? {
                let entry = entry.map_err(|error| on_outside("list", from, &error))?;
                let path = entry.path();
                let step = entry
                    .metadata()
                    .map_err(|error| on_outside("examine", &path, &error))
                    .and_then(|metadata| self.bring_in_one(&path, &metadata, &join(to, entry.file_name().as_bytes())));
                self.failures.check(step)?;
            }
            return Ok(());
        }
        if kind.is_file() || kind.is_fifo() || kind.is_char_device() {
            return self.bring_in_file(from, metadata, to);
        }
        Err(not_copied(from.as_os_str().as_bytes()))
    }

    fn bring_in_file(&mut self, from: &Path, metadata: &fs::Metadata, to: &[u8]) -> Result<(), Failure> {
        let failed = |errno| Failure::on_path("write", to, errno);
        let mut source = File::open(from).map_err(|error| on_outside("read", from, &error))?;
        let opened = self.files.open_path(to, O_REPLACE, metadata.mode() & 0o777).map_err(failed)?;
        let mut offset = 0;
        loop {
            let length = match source.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(on_outside("read", from, &error)),
            };
            write_at(&self.files.fs, opened.file, &self.buffer[..length], offset).map_err(failed)?;
            offset += length as u64;
        }
    }

    fn take_out(&mut self, from: &[u8], to: &Path) -> Result<(), Failure> {
        let (inode, stat) = self.files.find(from, LastLink::Follow, "read")?;
        if is_directory(&stat) && !self.recursive {
            return Err(needs_recursive(from));
        }
        let name = from.rsplit(|&byte| byte == b'/').find(|name| !name.is_empty());
        let to = match name {
            Some(name) if to.is_dir() => to.join(OsStr::from_bytes(name)),
            _ => to.to_path_buf(),
        };
        self.take_out_one(from, inode, &stat, &to)
    }

    fn take_out_one(&mut self, from: &[u8], inode: InodeId, stat: &Stat, to: &Path) -> Result<(), Failure> {
        let failed = |errno| Failure::on_path("read", from, errno);
        match stat.mode & TYPE {
            LINK => {
                let target = self.files.link_target(inode).map_err(failed)?;
                symlink(OsStr::from_bytes(&target), to).map_err(|error| on_outside("write", to, &error))
            }
            DIRECTORY => {
                match fs::DirBuilder::new().mode(stat.mode & 0o777 | 0o700).create(to) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && to.is_dir() => {}
                    Err(error) => return Err(on_outside("make the directory", to, &error)),
                }
                for entry in self.files.entries(inode).map_err(failed)? {
                    let path = join(from, &entry.name);
                    let step =
                        self.take_out_one(&path, entry.inode, &entry.stat, &to.join(OsStr::from_bytes(&entry.name)));
                    self.failures.check(step)?;
                }
                Ok(())
            }
            REGULAR => self.take_out_file(from, inode, stat, to),
            _ => Err(not_copied(from)),
        }
    }

    fn take_out_file(&mut self, from: &[u8], inode: InodeId, stat: &Stat, to: &Path) -> Result<(), Failure> {
        let failed = |errno| Failure::on_path("read", from, errno);
        let outside = |error: io::Error| on_outside("write", to, &error);
        let opened = self.files.open_inode(inode, O_RDONLY).map_err(failed)?;
        let mode = stat.mode & 0o777 & !self.files.identity.umask();
        let mut target =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(to).map_err(outside)?;
        let mut offset = 0;
        loop {
            let length = read_at(&self.files.fs, opened.file, &mut self.buffer, offset).map_err(failed)?;
            target.write_all(&self.buffer[..length]).map_err(outside)?;
            if length < self.buffer.len() {
                return Ok(());
            }
            offset += length as u64;
        }
    }

    fn move_within(&mut self, from: &[u8], to: &[u8]) -> Result<(), Failure> {
        let (inode, stat) = self.files.find(from, LastLink::Follow, "read")?;
        if is_directory(&stat) && !self.recursive {
            return Err(needs_recursive(from));
        }
        let to = self.inside_destination(to, from.rsplit(|&byte| byte == b'/').find(|name| !name.is_empty()));
        let below = to.strip_prefix(from).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        if below || self.files.resolve(&to, LastLink::Follow) == Ok(inode) {
            return Err(Failure::operation(format_args!("cannot copy {} into itself", shown(from))));
        }
        self.copy_within(from, inode, &stat, &to)
    }

    fn copy_within(&mut self, from: &[u8], inode: InodeId, stat: &Stat, to: &[u8]) -> Result<(), Failure> {
        let (who, root, fs) = (self.files.who(), self.files.fs.root(), &self.files.fs);
        let failed = |errno| Failure::on_path("write", to, errno);
        match stat.mode & TYPE {
            LINK => {
                let target = self.files.link_target(inode).map_err(failed)?;
                fs.symlink(&who, &target, root, to).map_err(failed)
            }
            DIRECTORY => {
                match fs.mkdir(&who, root, to, stat.mode & 0o7777 | 0o700) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
                for entry in self.files.entries(inode).map_err(failed)? {
                    let path = join(from, &entry.name);
                    let step = self.copy_within(&path, entry.inode, &entry.stat, &join(to, &entry.name));
                    self.failures.check(step)?;
                }
                Ok(())
            }
            REGULAR => {
                let source = self.files.open_inode(inode, O_RDONLY).map_err(failed)?;
                let target = self.files.open_path(to, O_REPLACE, stat.mode & 0o777).map_err(failed)?;
                let mut offset = 0;
                loop {
                    let length = read_at(fs, source.file, &mut self.buffer, offset).map_err(failed)?;
                    write_at(fs, target.file, &self.buffer[..length], offset).map_err(failed)?;
                    if length < self.buffer.len() {
                        return Ok(());
                    }
                    offset += length as u64;
                }
            }
            _ => Err(not_copied(from)),
        }
    }
}
