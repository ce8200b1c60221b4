//! A region with something of everything in it, and what must be read from it.

use crate::child::{self, Role};
use crate::random::bytes;
use crate::scratch::{ScratchRegion, attach};
use crate::volume::{RegionVolume, Subject, Volume};
use lifeboat_fs::{FileSystem, LOCK_TO_END, LockClass, LockRequest};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::{CELL, LANE_HEADER, RUN_WORDS};
use lifeboat_region::space::{self, Class};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Bytes of the region: tables, and chunks for every class of unit.
pub const SIZE: u64 = 16 << 20;
const PAGE: usize = 4096;
/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;
/// The role of the process that dies with something of everything in its hands.
pub const HOLDER: &str = "holder";
const EXTENT: usize = 65536;

/// What a name must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file: runs of bytes at offsets, and its size.
    File(Vec<(u64, Vec<u8>)>, u64),
    /// A symbolic link.
    Link(Vec<u8>),
}

/// A populated region, its bytes, and what they mean.
pub struct Population {
    /// The region, to be damaged and made whole again.
    pub region: ScratchRegion,
    /// Every name in it.
    pub names: BTreeMap<String, Node>,
    /// Where the inode of each name lies, and its owner word.
    inodes: BTreeMap<String, [Range<u64>; 2]>,
    file: File,
    /// Pages that are not all zero.
    pages: Vec<(u64, Vec<u8>)>,
}

fn long_name(index: usize) -> String {
    format!("a name that is longer than an entry can hold, number {index}, {}", "x".repeat(100))
}

/// Every name that a populated region has.
pub fn names() -> BTreeMap<String, Node> {
    let mut names = BTreeMap::new();
    let mut add = |path: String, node: Node| {
        names.insert(path, node);
    };
    let whole = |tag: u64, length: usize| Node::File(vec![(0, bytes(tag, length))], length as u64);
    for directory in ["many", "deep", "deep/er", "deep/er/est", "empty"] {
        add(directory.to_string(), Node::Directory);
    }
    for index in 0..40 {
        add(format!("many/file-{index}"), whole(1000 + index, [0, 17, 900, 5000][index as usize % 4]));
    }
    for index in 0..3 {
        add(format!("many/{}", long_name(index)), whole(2000 + index as u64, 300));
    }
    add("small".into(), whole(1, 100));
    add("extent".into(), whole(2, EXTENT));
    add("large".into(), whole(3, 6 * EXTENT + 12_345));
    add("sealed".into(), whole(4, EXTENT + 777));
    add("first".into(), whole(5, 4000));
    add("deep/er/est/second".into(), whole(5, 4000));
    let runs = vec![(0, bytes(6, 10)), (9_000, bytes(7, 100)), (40 << 20, bytes(8, 5_000))];
    add("sparse".into(), Node::File(runs, (40 << 20) + 5_000));
    add("deep/link".into(), Node::Link(b"../small".to_vec()));
    add("deep/long-link".into(), Node::Link([b"er/".as_slice(); 60].concat()));
    names
}

/// Extended attributes of these files: name and length of the value.
const ATTRIBUTES: [(&str, &str, usize); 3] =
    [("small", "user.short", 20), ("large", "user.medium", 2000), ("deep", "user.large", 30_000)];

fn build(files: &FileSystem, names: &BTreeMap<String, Node>) -> Result<(), i32> {
    let volume = RegionVolume::over(files, b"")?;
    for (path, node) in names {
        let path = path.as_bytes();
        match node {
            Node::Directory => volume.mkdir(None, path, 0o755)?,
            Node::Link(target) => volume.symlink(target, None, path)?,
            Node::File(..) if path == b"deep/er/est/second" => {}
            Node::File(runs, size) => {
                let file = volume.open(None, path, libc::O_CREAT | libc::O_RDWR, 0o644)?;
                for (offset, data) in runs {
                    let mut done = 0;
                    while done < data.len() {
                        done += volume.write(file, &data[done..], Some(offset + done as u64))?;
                    }
                }
                volume.truncate_open(file, *size)?;
                volume.close(file)?;
            }
        }
    }
    volume.link(None, b"first", b"deep/er/est/second", false)?;
    for (path, name, length) in ATTRIBUTES {
        let of = Subject::Path(None, path.as_bytes(), true);
        volume.set_attribute(of, name.as_bytes(), &bytes(length as u64, length), 0)?;
    }
    let who = lifeboat_fs::Caller { uid: 0, gid: 0, groups: &[], umask: 0, checked: true };
    let sealed = files.resolve(&who, files.root(), b"sealed", lifeboat_fs::LastLink::Follow);
    sealed.and_then(|inode| files.seal(&who, inode)).map(|_| ()).map_err(|error| error.raw_os_error())
}

/// Dies holding an open file without a name, locks, a mapping, a lane, and a transaction that is only half done.
pub fn hold() {
    let files = attach(Path::new(&child::setting("REGION"))).expect("attach");
    let volume = RegionVolume::over(&files, b"").expect("the root");
    let nameless = volume.open(None, b"unlinked", libc::O_CREAT | libc::O_RDWR, 0o600).expect("open");
    volume.write(nameless, &bytes(77, 70_000), None).expect("write");
    volume.unlink(None, b"unlinked").expect("unlink");
    let file = volume.open(None, b"large", libc::O_RDWR, 0).expect("open");
    for (class, start, end) in
        [(LockClass::Process, 5, 10), (LockClass::OpenFile, 20, 30), (LockClass::Whole, 0, LOCK_TO_END)]
    {
        files.lock_file(file, &LockRequest { class, exclusive: true, start, end }, false).expect("lock");
    }
    files.map(file, 0, 8192, false, &mut |_| ()).expect("map");
    let lane = Lane::claim(files.region()).expect("a lane");
    let small = volume.stat(None, b"small", true).expect("stat").number * 256;
    lane.lock(small, &files).expect("lock");
    lane.announce(files.inode_of(file).expect("inode").to_word(), 1 << 20, 1 << 21).expect("announce");
    half_done(&files, files.region().lane_at(lane.index()).expect("lane"), small);
    child::report("ready");
    // SAFETY: ends this process at once, as a kill does.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

/// Writes a committed transaction into the lane: two words of an inode, of which the first was applied.
fn half_done(files: &FileSystem, lane: u64, inode: u64) {
    let region = files.region();
    let put = |at: u64, value: u64| {
        region.write_bytes(at, &value.to_le_bytes()).expect("inside").fence();
    };
    let (accessed, modified) = (inode + 64, inode + 72);
    let entries = [
        (accessed, region.load(accessed).expect("a word"), 1_000_000_000),
        (modified, region.load(modified).expect("a word"), 2_000_000_000),
    ];
    let mut sum = 2 ^ 0x9e37_79b9_7f4a_7c15_u64;
    for (index, (at, old, new)) in entries.into_iter().enumerate() {
        for (field, value) in [at, old, new].into_iter().enumerate() {
            put(lane + LANE_HEADER + index as u64 * 24 + field as u64 * 8, value);
            sum = (sum.rotate_left(23) ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd);
        }
    }
    put(lane + 8, 1 << 63 | 2 | (sum >> 32) << 16);
    put(accessed, 1_000_000_000);
}

fn inode_of(files: &FileSystem, name: &str) -> [Range<u64>; 2] {
    let volume = RegionVolume::over(files, b"").expect("the root");
    let at = volume.stat(None, name.as_bytes(), false).expect("stat").number * CELL;
    let owner_at = space::find_owner(files.region(), Class::Cell, at).expect("an inode's cell");
    [at..at + CELL, owner_at..owner_at + 8]
}

impl Population {
    /// A new populated region, one of whose users was killed.
    pub fn new(label: &str) -> Self {
        let region = ScratchRegion::new(&format!("{label}-{}-", std::process::id()), SIZE);
        let names = names();
        let files = region.attach();
        build(&files, &names).unwrap_or_else(|error| panic!("populating a region: errno {error}"));
        let inodes = names.keys().map(|name| (name.clone(), inode_of(&files, name))).collect();
        drop(files);
        let ended = Role::new(HOLDER).with("REGION", region.path().display()).spawn().wait(Duration::from_secs(20));
        assert_eq!(ended.reports, ["ready"], "the holder {}", ended.describe());
        let (file, pages) = read(&region.file());
        Self { region, names, inodes, file, pages }
    }

    /// Removes what the process `pid`, which died, had populated under this label.
    pub fn clear_after(label: &str, pid: u32) {
        let prefix = format!("{}-{label}-{pid}-", crate::scratch::tag());
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Makes the region whole again.
    pub fn restore(&self) {
        if self.file.metadata().expect("the region's file").len() != SIZE {
            self.file.set_len(0).and_then(|()| self.file.set_len(SIZE)).expect("the region's length");
            for (at, page) in &self.pages {
                self.file.write_all_at(page, *at).expect("the region's bytes");
            }
            return;
        }
        // Only what differs: new pages cost more than looking at old ones. Nothing but the above makes holes.
        let mut found = vec![0; PIECE];
        let mut at = self.seek(0, libc::SEEK_DATA);
        while let Some(start) = at {
            let end = self.seek(start, libc::SEEK_HOLE).unwrap_or(SIZE).min(start + PIECE as u64);
            let found = &mut found[..(end - start) as usize];
            self.file.read_exact_at(found, start).expect("the region's bytes");
            for (index, page) in found.chunks(PAGE).enumerate() {
                let page_at = start + (index * PAGE) as u64;
                let whole = self.page(page_at);
                if page != whole {
                    self.file.write_all_at(whole, page_at).expect("the region's bytes");
                }
            }
            at = self.seek(end, libc::SEEK_DATA);
        }
    }

    /// The next data or hole of the file from `at` on.
    fn seek(&self, at: u64, whence: i32) -> Option<u64> {
        // SAFETY: moves the offset of our own descriptor, which nothing else uses.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), at as i64, whence) };
        u64::try_from(found).ok()
    }

    /// The page as it is in the whole region.
    fn page(&self, at: u64) -> &[u8] {
        const ZEROS: [u8; PAGE] = [0; PAGE];
        let found = self.pages.binary_search_by_key(&at, |(at, _)| *at);
        found.map_or(&ZEROS, |index| &self.pages[index].1)
    }

    /// The byte as it is in the whole region.
    pub fn byte(&self, at: u64) -> u8 {
        self.page(at - at % PAGE as u64)[(at % PAGE as u64) as usize]
    }

    /// The region's file, to be damaged.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Changes bytes.
    pub fn put(&self, at: u64, data: &[u8]) {
        self.file.write_all_at(data, at).expect("the region's bytes");
    }

    /// Whether one of these writes touches the inode of this name, or the word that says whose its cell is.
    pub fn is_hit(&self, name: &str, writes: &[(u64, Vec<u8>)]) -> bool {
        let meets = |range: &Range<u64>| {
            writes.iter().any(|(at, data)| *at < range.end && at + data.len() as u64 > range.start)
        };
        self.inodes.get(name).is_some_and(|ranges| ranges.iter().any(meets))
    }

    /// Where the tables begin.
    pub const fn tables_at() -> u64 {
        RUN_WORDS
    }
}

fn read(path: &Path) -> (File, Vec<(u64, Vec<u8>)>) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the region's file");
    let whole = std::fs::read(path).expect("the region's bytes");
    let pages = whole.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let pages = pages.map(|(index, page)| ((index * PAGE) as u64, page.to_vec())).collect();
    (file, pages)
}
