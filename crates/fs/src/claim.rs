//! Claims: which region has a file, where several nodes with a region each run one job.
//!
//! Each node sees only its own region. Two nodes that write one name would make two half files of it, so a name below
//! which somebody writes is claimed first, in a folder that all nodes see. A claim is a symbolic link, because making one is
//! atomic, exclusive and complete on every file system, also over the network: its name is the hash of the path, its
//! target says who claims what. It belongs to a region (not to a process: a restarted program goes on with its files)
//! and goes with the name. Whoever gives the folder gives each run of a job a fresh one: a claim of a node that was lost
//! binds nobody in the next run.

use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::open_file::may_change;
use crate::walk::{Ending, Place};
use crate::{Errno, NAME_LONGEST, PATH_LONGEST, Result};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, Ordering};
use rustix::fs::{CWD, OFlags, readlinkat_raw, symlinkat, unlinkat};

/// Longest path of the folder, in bytes.
pub const CLAIMS_LONGEST: usize = 512;
/// Longest name of a node that a claim keeps, in bytes.
const NODE_LONGEST: usize = 64;
/// "/" and a hash in hexadecimal digits.
const FILE_LENGTH: usize = 1 + 32;
/// What a symbolic link can hold.
const TEXT_LONGEST: usize = PATH_LONGEST;
/// Directories below a renamed one into which claims follow.
const DEPTH_LARGEST: u32 = 24;
/// How often trouble is told of; programs that are refused often would fill their standard error.
const TOLD_LARGEST: u32 = 8;

/// With its NUL.
type FileBuffer = [u8; CLAIMS_LONGEST + FILE_LENGTH + 1];

/// What a front tells the user.
pub enum ClaimTrouble<'a> {
    /// The name (path below the mount) is written by this node, too.
    TakenBy(&'a [u8]),
    /// The folder answers this: names are used unclaimed.
    Folder(Errno),
}

/// Where claims are made, and in whose name.
pub struct Claims {
    folder: [u8; CLAIMS_LONGEST],
    folder_length: usize,
    node: [u8; NODE_LONGEST],
    node_length: usize,
    tell: fn(path: &[u8], trouble: &ClaimTrouble<'_>),
    told: AtomicU32,
}

impl Claims {
    /// Claims in `folder` (an absolute path) for `node`, whose name is for people. `tell` is called with a path below the
    /// mount when one is refused, and when the folder fails. `NAMETOOLONG` when the folder's path is too long.
    pub fn new(folder: &[u8], node: &[u8], tell: fn(&[u8], &ClaimTrouble<'_>)) -> Result<Claims> {
        let mut claims = Claims {
            folder: [0; CLAIMS_LONGEST],
            folder_length: folder.len(),
            node: [0; NODE_LONGEST],
            node_length: node.len().min(NODE_LONGEST),
            tell,
            told: AtomicU32::new(0),
        };
        claims.folder.get_mut(..folder.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(folder);
        for (to, &from) in claims.node.iter_mut().zip(node) {
            // The text is split at blanks.
            *to = if from.is_ascii_graphic() { from } else { b'_' };
        }
        Ok(claims)
    }

    fn tell(&self, path: &[u8], trouble: &ClaimTrouble<'_>) {
        if self.told.fetch_add(1, Ordering::Relaxed) < TOLD_LARGEST {
            (self.tell)(path, trouble);
        }
    }

    /// The claim's own path. (Paths are C strings here: rustix would need room elsewhere for long ones that are not.)
    fn file<'a>(&self, path: &[u8], out: &'a mut FileBuffer) -> &'a CStr {
        out[..self.folder_length].copy_from_slice(&self.folder[..self.folder_length]);
        out[self.folder_length] = b'/';
        let mut at = self.folder_length + 1;
        for seed in [0, 1] {
            let hash = twox_hash::XxHash3_64::oneshot_with_seed(seed, path);
            hexadecimal(hash, &mut out[at..at + 16]);
            at += 16;
        }
        CStr::from_bytes_until_nul(&out[..=at]).unwrap_or_default()
    }
}

fn hexadecimal(value: u64, out: &mut [u8]) {
    for (index, digit) in out.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (60 - 4 * index)) as usize & 15];
    }
}

/// A path below the mount.
struct FullPath {
    bytes: [u8; PATH_LONGEST + 1],
    length: usize,
}

impl FullPath {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Goes down to `name`; the length to go back to, or `None` where no path is that long.
    fn push(&mut self, name: &[u8]) -> Option<usize> {
        let before = self.length;
        // The root ends in a slash, and no other directory does.
        let at = if before == 1 { 1 } else { before + 1 };
        self.bytes.get_mut(at..at + name.len())?.copy_from_slice(name);
        self.bytes[at - 1] = b'/';
        self.length = at + name.len();
        Some(before)
    }
}

/// A claim for the time of a call: given up again unless the call is a success.
pub(crate) struct Claim<'a> {
    /// `None` when there is nothing to give up.
    made: Option<(&'a FileSystem, InodeId, &'a [u8])>,
}

impl Claim<'_> {
    pub(crate) const NONE: Claim<'static> = Claim { made: None };

    /// The name is ours from now on.
    pub(crate) fn keep(mut self) {
        self.made = None;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some((files, dir, name)) = self.made {
            files.give_up_claim(dir, name);
        }
    }
}

impl FileSystem {
    /// From now on every name of a regular file is claimed before it is made or written. `EREMOTE` then means that the
    /// region of another node has it.
    #[must_use]
    pub fn with_claims(mut self, claims: Claims) -> FileSystem {
        self.claims = Some(claims);
        self
    }

    /// Claims the name at `place` for a regular file. No lock may be held: other nodes' file systems are slow.
    #[inline]
    pub(crate) fn claim<'a>(&'a self, place: &Place<'a>) -> Result<Claim<'a>> {
        match &self.claims {
            None => Ok(Claim::NONE),
            Some(claims) if place.ending == Ending::Name => self.claim_name(claims, place.dir, place.name),
            Some(_) => Ok(Claim::NONE),
        }
    }

    #[inline(never)]
    fn claim_name<'a>(&'a self, claims: &Claims, dir: InodeId, name: &'a [u8]) -> Result<Claim<'a>> {
        let Some(path) = self.full_path(dir, name) else { return Ok(Claim::NONE) };
        let made = self.claim_path(claims, path.bytes())?;
        Ok(Claim { made: made.then_some((self, dir, name)) })
    }

    /// Whether names are claimed.
    #[must_use]
    pub fn has_claims(&self) -> bool {
        self.claims.is_some()
    }

    /// As [`FileSystem::claim_known`], before the inode is opened with these `O_*` bits, if that may change it.
    pub fn claim_to_open(&self, inode: InodeId, flags: i32, guess: Option<(InodeId, &[u8])>) -> Result<()> {
        if may_change(OFlags::from_bits_retain(flags as u32)) { self.claim_known(inode, guess) } else { Ok(()) }
    }

    /// Claims the name of a regular file that is about to be written by a caller who knows only the inode. `guess` is where
    /// it was seen last; if it is there no longer, it is looked for everywhere. What has no name is nobody else's.
    pub fn claim_known(&self, inode: InodeId, guess: Option<(InodeId, &[u8])>) -> Result<()> {
        let Some(claims) = &self.claims else { return Ok(()) };
        if self.mode(inode)? & inode::TYPE_MASK != inode::REGULAR || !self.has_name(inode)? {
            return Ok(());
        }
        if let Some((dir, name)) = guess
            && self.leads_to(dir, name, inode)
            && let Some(path) = self.full_path(dir, name)
        {
            return self.claim_path(claims, path.bytes()).map(|_| ());
        }
        let mut path = FullPath { bytes: [0; PATH_LONGEST + 1], length: 1 };
        path.bytes[0] = b'/';
        if self.search(self.root(), inode, &mut path, DEPTH_LARGEST)? {
            self.claim_path(claims, path.bytes())?;
        }
        Ok(())
    }

    fn leads_to(&self, dir: InodeId, name: &[u8], inode: InodeId) -> bool {
        let found = self.name(name).and_then(|name| self.find(dir, &name));
        found.ok().flatten().is_some_and(|found| found.child == inode)
    }

    /// Extends `path` to a name of `inode` below `dir`, if there is one.
    fn search(&self, dir: InodeId, inode: InodeId, path: &mut FullPath, depth: u32) -> Result<bool> {
        let mut cookie = 0;
        while let Some(entry) = self.read_directory(dir, cookie)? {
            cookie = entry.next;
            if matches!(entry.name(), b"." | b"..") {
                continue;
            }
            let Some(before) = path.push(entry.name()) else { continue };
            let child = self.find(dir, &self.name(entry.name())?)?.map(|found| found.child);
            let found = match child {
                Some(child) if child == inode => true,
                Some(child) if depth > 0 && self.is_directory(child).unwrap_or(false) => {
                    self.search(child, inode, path, depth - 1)?
                }
                _ => false,
            };
            if found {
                return Ok(true);
            }
            path.length = before;
        }
        Ok(false)
    }

    /// Claims what stands at `from` for its new place, a directory with all files below it. `to` means nothing yet, or
    /// something that is replaced.
    pub(crate) fn claim_move<'a>(&'a self, from: InodeId, to: &Place<'a>) -> Result<Claim<'a>> {
        let Some(claims) = &self.claims else { return Ok(Claim::NONE) };
        match self.mode(from)? & inode::TYPE_MASK {
            inode::REGULAR => self.claim(to),
            inode::DIRECTORY => {
                let Some(mut path) = self.full_path(to.dir, to.name) else { return Ok(Claim::NONE) };
                self.claim_tree(claims, from, &mut path, DEPTH_LARGEST, true)?;
                Ok(Claim::NONE)
            }
            _ => Ok(Claim::NONE),
        }
    }

    /// What was at `place` (and below it) is there no longer.
    pub(crate) fn give_up_moved(&self, moved: InodeId, place: &Place<'_>) {
        let Some(claims) = &self.claims else { return };
        if self.is_directory(moved).unwrap_or(false) {
            if let Some(mut path) = self.full_path(place.dir, place.name) {
                let _ = self.claim_tree(claims, moved, &mut path, DEPTH_LARGEST, false);
            }
        } else {
            self.give_up_claim(place.dir, place.name);
        }
    }

    /// Gives up this region's claim of the name, if it has one.
    pub(crate) fn give_up_claim(&self, dir: InodeId, name: &[u8]) {
        if let Some(claims) = &self.claims
            && let Some(path) = self.full_path(dir, name)
        {
            self.give_up_path(claims, path.bytes());
        }
    }

    /// Claims the paths of all regular files below `dir` as if it was at `path`, or gives them up. One that is taken gives
    /// up those before it.
    fn claim_tree(&self, claims: &Claims, dir: InodeId, path: &mut FullPath, depth: u32, take: bool) -> Result<()> {
        let mut cookie = 0;
        while let Some(entry) = self.read_directory(dir, cookie)? {
            cookie = entry.next;
            if matches!(entry.name(), b"." | b"..") {
                continue;
            }
            let Some(before) = path.push(entry.name()) else { continue };
            let child = self.find(dir, &self.name(entry.name())?)?.map(|found| found.child);
            let result = match child.map(|child| (child, self.mode(child).map(|mode| mode & inode::TYPE_MASK))) {
                Some((child, Ok(inode::DIRECTORY))) if depth > 0 => {
                    self.claim_tree(claims, child, path, depth - 1, take)
                }
                Some((_, Ok(inode::REGULAR))) if take => self.claim_path(claims, path.bytes()).map(|_| ()),
                Some((_, Ok(inode::REGULAR))) => {
                    self.give_up_path(claims, path.bytes());
                    Ok(())
                }
                _ => Ok(()),
            };
            path.length = before;
            if let Err(error) = result {
                if take {
                    let _ = self.claim_tree(claims, dir, path, depth, false);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn full_path(&self, dir: InodeId, name: &[u8]) -> Option<FullPath> {
        if name.len() > NAME_LONGEST {
            return None;
        }
        let mut path = FullPath { bytes: [0; PATH_LONGEST + 1], length: 0 };
        // A directory that was removed has no names; who asks is told so by the call itself.
        path.length = self.path_of(dir, &mut path.bytes).ok()?;
        path.push(name).map(|_| path)
    }

    /// Whether the claim is new.
    fn claim_path(&self, claims: &Claims, path: &[u8]) -> Result<bool> {
        let mut file: FileBuffer = [0; _];
        let file = claims.file(path, &mut file);
        let mut text = [0; TEXT_LONGEST + 1];
        let text = self.claim_text(claims, path, &mut text);
        for _ in 0..crate::TRIES {
            match symlinkat(text, CWD, file) {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST) => {}
                Err(error) => {
                    claims.tell(path, &ClaimTrouble::Folder(error));
                    return Ok(false);
                }
            }
            let mut found = [0; TEXT_LONGEST];
            match read_claim(file, &mut found) {
                Ok(found) if self.is_ours(found) => return Ok(false),
                Ok(found) => {
                    let node = found.split(|&byte| byte == b' ').nth(1).unwrap_or(b"unknown");
                    claims.tell(path, &ClaimTrouble::TakenBy(node));
                    return Err(Errno::REMOTE);
                }
                // Given up since.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    claims.tell(path, &ClaimTrouble::Folder(error));
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    fn give_up_path(&self, claims: &Claims, path: &[u8]) {
        let mut file: FileBuffer = [0; _];
        let file = claims.file(path, &mut file);
        let mut found = [0; TEXT_LONGEST];
        if read_claim(file, &mut found).is_ok_and(|found| self.is_ours(found)) {
            let _ = unlinkat(CWD, file, rustix::fs::AtFlags::empty());
        }
    }

    fn is_ours(&self, claim: &[u8]) -> bool {
        let mut identity = [0; 16];
        hexadecimal(self.region().superblock().identity, &mut identity);
        claim.split(|&byte| byte == b' ').next() == Some(&identity)
    }

    /// `IDENTITY NODE PATH`, the path cut to what a link can hold.
    fn claim_text<'a>(&self, claims: &Claims, path: &[u8], out: &'a mut [u8; TEXT_LONGEST + 1]) -> &'a CStr {
        hexadecimal(self.region().superblock().identity, &mut out[..16]);
        let mut length = 16;
        for part in [b" ".as_slice(), &claims.node[..claims.node_length], b" ", path] {
            let count = part.len().min(TEXT_LONGEST - length);
            out[length..length + count].copy_from_slice(&part[..count]);
            length += count;
        }
        // A path of any bytes but NUL.
        CStr::from_bytes_until_nul(out).unwrap_or_default()
    }
}

fn read_claim<'a>(file: &CStr, out: &'a mut [u8; TEXT_LONGEST]) -> Result<&'a [u8]> {
    let length = readlinkat_raw(CWD, file, &mut out[..])?;
    Ok(&out[..length])
}
