//! What a seed makes: a list of operations over a few names, so that they meet each other often.

use super::op::{Op, Owner, Path, USERS};
use crate::random::Random;
use crate::volume::Time;

/// What a run may contain.
#[derive(Clone, Copy, Debug)]
pub struct Taste {
    /// Calls on behalf of several users, `chown`, device nodes: takes root on the kernel's side.
    pub several_users: bool,
    /// Largest file offset that is used.
    pub largest: u64,
    /// Open files at a time.
    pub slots: usize,
    /// Directories in which everyone may write but only owners remove.
    pub sticky: bool,
    /// Files that are opened without ever having a name (`O_TMPFILE`).
    pub nameless: bool,
    /// `chown` that changes neither owner.
    pub chown_to_nobody_else: bool,
}

impl Default for Taste {
    fn default() -> Self {
        Self {
            several_users: false,
            largest: 400 << 10,
            slots: 6,
            sticky: true,
            nameless: true,
            chown_to_nobody_else: true,
        }
    }
}

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "name with space", "\u{e4}\n"];
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4095;

/// `count` operations.
pub fn operations(random: &mut Random, taste: Taste, count: usize) -> Vec<Op> {
    let mut maker = Maker { random, taste };
    (0..count).map(|_| maker.op()).collect()
}

struct Maker<'r> {
    random: &'r mut Random,
    taste: Taste,
}

impl Maker<'_> {
    fn op(&mut self) -> Op {
        match self.random.below(100) {
            0..51 => self.by_path(),
            51..90 => self.by_slot(),
            90..97 => self.by_attribute(),
            _ if self.taste.several_users => Op::Become { user: self.random.below(USERS.len() as u64) as usize },
            _ => self.by_path(),
        }
    }

    fn slot(&mut self) -> usize {
        self.random.below(self.taste.slots as u64) as usize
    }

    fn base(&mut self) -> Option<usize> {
        self.random.chance(12).then(|| self.slot())
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.below(200) {
            0 => vec![b'n'; LONGEST_NAME],
            1 => vec![b'n'; LONGEST_NAME + 1],
            2 => vec![b'm'; LONGEST_NAME - 1],
            3..6 => b"..".to_vec(),
            6..9 => b".".to_vec(),
            _ => self.random.pick(&NAMES).as_bytes().to_vec(),
        }
    }

    fn path(&mut self) -> Path {
        if self.random.below(400) == 0 {
            return self.long_path();
        }
        if self.random.below(300) == 0 {
            return Path(Vec::new());
        }
        let depth = self.random.pick(&[1, 1, 1, 1, 2, 2, 3]);
        let mut path = self.name();
        for _ in 1..depth {
            path.extend_from_slice(if self.random.chance(3) { b"//" } else { b"/" });
            path.extend_from_slice(&self.name());
        }
        if self.random.chance(4) {
            path.push(b'/');
        }
        Path(path)
    }

    /// A path of exactly the longest length, or one byte more.
    fn long_path(&mut self) -> Path {
        let length = LONGEST_PATH + self.random.below(2) as usize;
        let mut path = b"./".repeat(length / 2);
        let name = self.random.pick(&["a", "b", "c"]).as_bytes();
        path.truncate(length - length % 2 - 2);
        while path.len() + name.len() < length {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Path(path)
    }

    fn mode(&mut self) -> u32 {
        let common = [0o777, 0o755, 0o700, 0o644, 0o666, 0o600, 0o000, 0o444, 0o711, 0o070, 0o007];
        let sticky = if self.taste.sticky { 0o1777 } else { 0o1755 };
        let special = [0o4755, 0o2755, 0o2775, 0o2777, 0o6711, sticky, 0o2644, 0o4644];
        if self.random.chance(20) { self.random.pick(&special) } else { self.random.pick(&common) }
    }

    /// A place in a file: often at the edges of blocks and extents.
    fn offset(&mut self) -> u64 {
        let edge = self.random.pick(&[0_u64, 0, 64, 4096, 8192, 65536, 131_072, 200_000]);
        let near = self.random.pick(&[0_i64, 0, 1, -1, 7, -100]);
        let offset = if self.random.chance(70) {
            edge.saturating_add_signed(near)
        } else {
            self.random.below(self.taste.largest)
        };
        offset.min(self.taste.largest)
    }

    fn length(&mut self) -> usize {
        let length = match self.random.below(10) {
            0 => 0,
            1..4 => self.random.below(100),
            4..7 => self.random.pick(&[1, 4095, 4096, 4097, 8192, 12_288]),
            7..9 => self.random.below(20_000),
            _ => self.random.pick(&[65_535, 65_536, 65_537, 100_000]),
        };
        length.min(self.taste.largest) as usize
    }

    fn position(&mut self) -> Option<u64> {
        self.random.chance(50).then(|| self.offset())
    }

    fn time(&mut self) -> Time {
        match self.random.below(4) {
            0 => Time::Keep,
            1 => Time::Now,
            // Before 2001, so that it is told from the clock's.
            _ => Time::At(self.random.below(900_000_000_000_000_000) as i64),
        }
    }

    fn owner(&mut self) -> (Option<u32>, Option<u32>) {
        let uids = [None, Some(0), Some(61001), Some(61002), Some(61003)];
        let gids = [None, Some(0), Some(61001), Some(62000), Some(61003)];
        match (self.random.pick(&uids), self.random.pick(&gids)) {
            (None, None) if !self.taste.chown_to_nobody_else => (None, Some(62000)),
            owner => owner,
        }
    }

    fn open(&mut self) -> Op {
        let mut flags = self.random.pick(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR]);
        flags |= libc::O_NONBLOCK;
        let likely = [
            (50, libc::O_CREAT),
            (12, libc::O_EXCL),
            (12, libc::O_TRUNC),
            (15, libc::O_APPEND),
            (10, libc::O_NOFOLLOW),
            (10, libc::O_DIRECTORY),
            (5, libc::O_PATH),
        ];
        for (percent, flag) in likely {
            if self.random.chance(percent) {
                flags |= flag;
            }
        }
        // What this pair means was changed by Linux 6.4; O_EXCL alone is undefined.
        if flags & libc::O_CREAT != 0 {
            flags &= !libc::O_DIRECTORY;
        } else {
            flags &= !libc::O_EXCL;
        }
        let mut path = self.path();
        if self.random.chance(4) && self.taste.nameless {
            flags = self.random.pick(&[libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR, libc::O_RDONLY])
                | libc::O_TMPFILE
                | self.random.pick(&[0, 0, libc::O_EXCL]);
            path = self.random.pick(&["a", "b", ".", "c"]).as_bytes().to_vec().into();
        } else if self.random.chance(8) {
            flags = libc::O_RDONLY | libc::O_DIRECTORY;
        }
        Op::Open { slot: self.slot(), base: self.base(), path, flags, mode: self.mode() }
    }

    fn by_slot(&mut self) -> Op {
        let slot = self.slot();
        match self.random.below(100) {
            0..22 => Op::Write { slot, tag: self.random.word(), length: self.length(), at: self.position() },
            22..42 => Op::Read { slot, length: self.length(), at: self.position() },
            42..52 => self.seek(slot),
            52..59 => Op::TruncateOpen { slot, length: self.offset() },
            59..66 => self.allocate(slot),
            66..69 => Op::Sync { slot },
            69..75 => Op::List { slot },
            75..78 => Op::Flags { slot },
            78..81 => Op::SetFlags { slot, flags: self.random.pick(&[0, libc::O_APPEND, libc::O_NONBLOCK]) },
            81..87 => Op::StatOpen { slot },
            87..89 => Op::ChmodOpen { slot, mode: self.mode() },
            89..91 => {
                let (uid, gid) = self.owner();
                Op::ChownOpen { slot, uid, gid }
            }
            91..93 => Op::TimesOpen { slot, times: (self.time(), self.time()) },
            93..95 => Op::LinkOpen { slot, base: self.base(), path: self.path() },
            _ => Op::Close { slot },
        }
    }

    fn seek(&mut self, slot: usize) -> Op {
        let whence = self.random.pick(&[libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END, 9]);
        let offset = self.offset() as i64;
        if self.random.chance(40) {
            let whence = self.random.pick(&[libc::SEEK_DATA, libc::SEEK_HOLE]);
            return Op::SeekHole { slot, offset: if self.random.chance(5) { -offset - 1 } else { offset }, whence };
        }
        Op::Seek { slot, offset: if self.random.chance(20) { -offset } else { offset }, whence }
    }

    fn allocate(&mut self, slot: usize) -> Op {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let punch = libc::FALLOC_FL_PUNCH_HOLE;
        let zero = libc::FALLOC_FL_ZERO_RANGE;
        let mode = self.random.pick(&[0, 0, keep, punch | keep, punch | keep, zero, zero | keep, punch, 1 << 15]);
        Op::Allocate { slot, mode, offset: self.offset(), length: self.length() as u64 }
    }

    fn by_path(&mut self) -> Op {
        let (base, path) = (self.base(), self.path());
        match self.random.below(100) {
            0..28 => self.open(),
            28..38 => Op::Mkdir { base, path, mode: self.mode() },
            38..43 => Op::Rmdir { base, path },
            43..50 => Op::Unlink { base, path },
            50..60 => {
                let flags = self.random.pick(&[0, 0, 0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 8]);
                Op::Rename { base, old: path, new: self.path(), flags }
            }
            60..66 => Op::Link { base, old: path, new: self.path(), follow: self.random.chance(30) },
            66..71 => Op::Symlink { target: self.target(), base, path },
            71..73 => Op::Readlink { base, path },
            73..75 => self.mknod(base, path),
            75..81 => Op::Stat { base, path, follow: self.random.chance(50) },
            81..84 => Op::Access { base, path, mode: self.random.below(8) as i32 },
            84..90 => Op::Chmod { base, path, mode: self.mode() },
            90..93 => {
                let (uid, gid) = self.owner();
                Op::Chown { base, path, uid, gid, follow: self.random.chance(50) }
            }
            93..96 => Op::Times { base, path, times: (self.time(), self.time()), follow: self.random.chance(50) },
            _ => Op::Truncate { base, path, length: self.offset() },
        }
    }

    fn by_attribute(&mut self) -> Op {
        let of = if self.random.chance(50) {
            Owner::Open { slot: self.slot() }
        } else {
            Owner::Path { base: self.base(), path: self.path(), follow: self.random.chance(60) }
        };
        match self.random.below(10) {
            0..5 => Op::SetAttribute {
                of,
                name: self.attribute(),
                tag: self.random.word(),
                length: self.value_length(),
                flags: self.random.pick(&[0, 0, 0, 0, 1, 2, 2, 3, 4]),
            },
            5..7 => {
                let room = self.random.pick(&[0, 0, 1, 100, 65_536, 65_536, 100_000]);
                Op::GetAttribute { of, name: self.attribute(), room }
            }
            7..8 => Op::ListAttributes { of },
            _ => Op::RemoveAttribute { of, name: self.attribute() },
        }
    }

    fn attribute(&mut self) -> Path {
        let name = match self.random.below(60) {
            0 => format!("user.{}", "n".repeat(250)),
            1 => format!("user.{}", "n".repeat(251)),
            2 => "user.".to_string(),
            3 => String::new(),
            4 => "name".to_string(),
            5..9 => "trusted.t".to_string(),
            9..12 => "other.o".to_string(),
            _ => self.random.pick(&["user.a", "user.b", "user.c", "user.a.b"]).to_string(),
        };
        Path(name.into_bytes())
    }

    fn value_length(&mut self) -> usize {
        match self.random.below(10) {
            0 => 0,
            1..5 => self.random.below(50) as usize,
            5..7 => self.random.below(400) as usize,
            7..8 => self.random.pick(&[4000, 4096, 10_000]),
            8..9 => self.random.pick(&[65_000, 65_535, 65_536, 65_537]),
            _ => 1,
        }
    }

    fn target(&mut self) -> Path {
        match self.random.below(60) {
            0 => Path(vec![b't'; LONGEST_PATH]),
            1 => Path(vec![b't'; LONGEST_PATH + 1]),
            2 => Path(Vec::new()),
            _ => self.path(),
        }
    }

    fn mknod(&mut self, base: Option<usize>, path: Path) -> Op {
        let regular = libc::S_IFREG;
        let mut kinds = vec![libc::S_IFIFO, libc::S_IFIFO, regular, 0, libc::S_IFDIR, 0o110_000];
        if self.taste.several_users {
            kinds.extend([libc::S_IFCHR, libc::S_IFBLK]);
        }
        let kind = self.random.pick(&kinds);
        let device = if kind == libc::S_IFCHR || kind == libc::S_IFBLK { libc::makedev(240, 7) } else { 0 };
        Op::Mknod { base, path, mode: kind | self.mode(), device }
    }
}

impl From<Vec<u8>> for Path {
    fn from(bytes: Vec<u8>) -> Self {
        Path(bytes)
    }
}
