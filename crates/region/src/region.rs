//! The region as one value: the mapping, its tables, and this process's private notes about it.

use crate::carrier::keeper::{self, KeeperError};
use crate::commit::{Volatile, commit};
use crate::layout::{CHUNK, Geometry, SUPERBLOCK};
use crate::mapping::Mapping;
use crate::place_cache::Places;
use crate::private_cache::CacheLine;
use crate::search::FreedLately;
use crate::superblock::{ENCODED, NAME_LONGEST, Superblock, SuperblockError};
use crate::walk_cache::{self, Walk, WalkEnd, WalkLine, WalkWitness};
use crate::witness::Words;
use crate::{Errno, Result, process, system_call};
use core::ffi::CStr;
use core::fmt;
use core::ops::{Deref, Range};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Descriptors of ours live here and above, out of the way of programs and `select`.
const HIGH_DESCRIPTOR: i32 = 1000;
/// Where those live for a moment that take the place of others, which somebody closed behind us.
pub const DESCRIPTORS_ASIDE: i32 = HIGH_DESCRIPTOR + 4;
/// Lock files of images: when somebody closed the first ones behind us, they must not get their numbers, where others look for them.
pub(crate) const LOCK_DESCRIPTOR: i32 = HIGH_DESCRIPTOR + 16;

/// Words that a forked child must not inherit: the kernel hands it zeros (`MADV_WIPEONFORK`).
#[repr(C)]
pub(crate) struct Private {
    /// This process image's slot: 0 = none yet, else slot + 1 in bits 0..32, generation in 32..48.
    pub(crate) image: AtomicU64,
    /// Held while a slot is being taken.
    pub(crate) taking: AtomicU32,
    /// Descriptor of the slot's lock file, plus one.
    pub(crate) lock_file: AtomicU32,
    /// Where the slot's witness is mapped; 0 = none.
    pub(crate) witness: AtomicUsize,
    /// Kept lanes, as `kept_lane` notes them; 0 = none.
    pub(crate) kept: [AtomicU64; crate::kept_lane::KEPT],
    /// Where data was found lately, for each kept lane.
    pub(crate) places: [Places; crate::kept_lane::KEPT],
    /// What was looked up lately. Pages that nothing is kept in cost nothing.
    cache: [CacheLine; CACHE_LINES],
    /// Directories that were walked to lately.
    walks: [WalkLine; walk_cache::LINES],
}

/// So many names of a process are found without a walk: 512 KiB of memory, where as many are in use.
const CACHE_LINES: usize = 8192;

/// Bytes of the private pages.
const PRIVATE: usize = size_of::<Private>().next_multiple_of(4096);

/// A region attached by this process.
pub struct Region {
    mapping: Mapping,
    superblock: Superblock,
    directory: OwnedFd,
    /// Kept open: after a program has given up its user id, the way there is closed to it.
    images: OwnedFd,
    /// As `images`; none in a region that no program under interception has used.
    tags: Option<OwnedFd>,
    file: OwnedFd,
    device: u64,
    inode: u64,
    pub(crate) private: &'static Private,
    pub(crate) lane_cursor: AtomicU32,
    /// Per class of unit: chunk in bits 32.., unit in bits ..32.
    pub(crate) cursors: [AtomicU64; 5],
    pub(crate) chunk_cursor: AtomicU32,
    /// Per class of unit.
    pub(crate) freed: [FreedLately; 5],
}

/// Why a region could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The directory or the file in it cannot be opened: not created, removed, or not ours.
    Open(Errno),
    /// The directory or file belongs to another user, is open to others, has several names, or is no regular file.
    NotOurs,
    /// The file's length cannot be a region's: truncated, or not a region.
    Length(u64),
    /// Neither superblock counts; the reason of the first.
    Superblock(SuperblockError),
    /// The kernel refused the mapping (address space limit, memory).
    Map(Errno),
    /// The region's keeper handed out no descriptor of its file.
    Keeper(KeeperError),
    /// A file under `/proc` that proof of death needs is missing.
    Proc(Errno),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(Errno::NOENT) => write!(f, "no such region; make it with `lifeboat region create`"),
            Self::Open(error) => write!(f, "cannot open the region: {error}"),
            Self::NotOurs => write!(
                f,
                "the region's file or directory is not owned by this user alone (owner, mode 0600/0700, one name); remove it and create it again"
            ),
            Self::Length(length) => {
                write!(
                    f,
                    "the region's file has {length} bytes, which no region has: truncated? remove it and create it again"
                )
            }
            Self::Superblock(error) => write!(f, "the region's superblock is refused: {error}"),
            Self::Map(error) => write!(f, "cannot map the region: {error}; is the address space limited (ulimit -v)?"),
            Self::Keeper(error) => error.fmt(f),
            Self::Proc(error) => write!(f, "cannot read /proc: {error}; mount it"),
        }
    }
}

/// What a new region is to be.
pub struct FormatOptions<'a> {
    /// Name; at most [`NAME_LONGEST`] bytes.
    pub name: &'a [u8],
    /// Owner.
    pub uid: u32,
    /// Drawn at random.
    pub identity: u64,
    /// Over how many memory nodes the file was spread; 1 where that does not matter.
    pub memory_nodes: u32,
}

/// Why a file could not be made into a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The length is not a multiple of 2 MiB, or too small or large.
    Length(u64),
    /// The name is too long.
    Name,
    /// The kernel refused.
    System(Errno),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => {
                write!(
                    f,
                    "a region cannot have {length} bytes: take a multiple of 2 MiB, at least 8 MiB, at most 1 TiB"
                )
            }
            Self::Name => write!(f, "the region's name is longer than {NAME_LONGEST} bytes"),
            Self::System(error) => write!(f, "cannot initialise the region: {error}"),
        }
    }
}

/// Writes the superblocks of a new region into `file`, all of whose bytes are zero. The file system in it is made by
/// `fs`.
pub fn format(file: BorrowedFd<'_>, options: &FormatOptions<'_>) -> core::result::Result<(), FormatError> {
    let length = rustix::fs::fstat(file).map_err(FormatError::System)?.st_size as u64;
    let geometry = Geometry::of(length).ok_or(FormatError::Length(length))?;
    let mut name = [0; NAME_LONGEST];
    name.get_mut(..options.name.len()).ok_or(FormatError::Name)?.copy_from_slice(options.name);
    let superblock = Superblock {
        sequence: 1,
        geometry,
        uid: options.uid,
        run: 1,
        boot: process::boot(),
        identity: options.identity,
        created: process::now(),
        node: 0,
        job: 0,
        epoch: 0,
        name,
        memory_nodes: options.memory_nodes,
        features: [crate::superblock::COMPATIBLE, crate::superblock::READ_COMPATIBLE, crate::superblock::INCOMPATIBLE],
    };
    let mapping = map(file, length).map_err(FormatError::System)?;
    write_superblocks(&mapping, &superblock).map_err(FormatError::System)?;
    // SAFETY: `map` made exactly this mapping a moment ago and nothing refers to it any more.
    let _ = unsafe { rustix::mm::munmap(mapping.base() as *mut _, length as usize) };
    Ok(())
}

/// Second copy first, so that a kill between the two leaves a whole one in either order of sequence.
fn write_superblocks(mapping: &Mapping, superblock: &Superblock) -> Result<()> {
    let bytes = superblock.encode();
    for at in [SUPERBLOCK, 0] {
        let copied = mapping.write_bytes(at + 8, &bytes[8..])?;
        let mut magic = [0; 8];
        magic.copy_from_slice(&bytes[..8]);
        commit::<Volatile>(mapping.word(at)?, u64::from_le_bytes(magic), copied);
    }
    Ok(())
}

/// Maps at a multiple of 2 MiB: elsewhere the kernel maps huge pages in small pieces, at a fault each.
fn map(file: BorrowedFd<'_>, length: u64) -> Result<Mapping> {
    let length = usize::try_from(length).map_err(|_| Errno::NOMEM)?;
    let align = CHUNK as usize;
    let reserved = length.checked_add(align).ok_or(Errno::NOMEM)?;
    let nothing = ProtFlags::empty();
    // SAFETY: a new reservation at an address that the kernel chooses overlaps nothing.
    let start = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        rustix::mm::mmap_anonymous(core::ptr::null_mut(), reserved, nothing, flags)
    }?;
    let before = (start as usize).next_multiple_of(align) - start as usize;
    let wanted = start.wrapping_byte_add(before);
    // SAFETY: `wanted` and `length` lie inside the reservation made just now, which nobody else uses.
    let mapped = unsafe {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        rustix::mm::mmap(wanted, length, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0)
    };
    let unmap = |at: *mut core::ffi::c_void, length: usize| {
        if length > 0 {
            // SAFETY: a part of the reservation that nothing was mapped over, or all of it when mapping failed.
            let _ = unsafe { rustix::mm::munmap(at, length) };
        }
    };
    match mapped {
        Ok(base) => {
            unmap(start, before);
            unmap(wanted.wrapping_byte_add(length), align - before);
            // SAFETY: mapped just now; whoever unmaps it (only `format` and `Drop`) has no reference left.
            Ok(unsafe { Mapping::new(base.cast(), length as u64) })
        }
        Err(error) => {
            unmap(start, reserved);
            Err(error)
        }
    }
}

/// Reads both superblock copies; the newest whole one, and what is wrong with each.
pub fn read_superblocks(mapping: &Mapping) -> Result<[core::result::Result<Superblock, SuperblockError>; 2]> {
    let mut bytes = [[0u8; ENCODED]; 2];
    mapping.read_bytes(0, &mut bytes[0])?;
    mapping.read_bytes(SUPERBLOCK, &mut bytes[1])?;
    Ok([Superblock::decode(&bytes[0], mapping.length()), Superblock::decode(&bytes[1], mapping.length())])
}

fn newest(
    copies: [core::result::Result<Superblock, SuperblockError>; 2],
) -> core::result::Result<Superblock, SuperblockError> {
    match copies {
        [Ok(a), Ok(b)] => Ok(if b.sequence > a.sequence { b } else { a }),
        [Ok(one), Err(_)] | [Err(_), Ok(one)] => Ok(one),
        // A whole copy of another version says more than a damaged one.
        [Err(_), Err(other @ SuperblockError::OtherVersion(_))] => Err(other),
        [Err(first), Err(_)] => Err(first),
    }
}

/// Moves a descriptor out of the program's way, to the lowest free number from `lowest` on; it stays where it is when the limit
/// does not allow that.
pub fn out_of_the_way(file: OwnedFd, lowest: i32) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(&file, lowest).unwrap_or(file)
}

fn is_private(stat: &rustix::fs::Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0
}

impl Region {
    /// Attaches the region in `directory` (see "Where a region lives" in ARCHITECTURE.md).
    pub fn attach(directory: &[u8]) -> core::result::Result<Region, AttachError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty()).map_err(AttachError::Open)?;
        let stat = rustix::fs::fstat(&directory).map_err(AttachError::Open)?;
        if !is_private(&stat) {
            return Err(AttachError::NotOurs);
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&directory, c"memory/region", flags, Mode::empty()) {
            Err(Errno::NOENT) => keeper::receive_file(directory.as_fd()).map_err(|why| match why {
                KeeperError::None => AttachError::Open(Errno::NOENT),
                why => AttachError::Keeper(why),
            }),
            file => file.map_err(AttachError::Open),
        }?;
        Region::attach_file(out_of_the_way(directory, HIGH_DESCRIPTOR), out_of_the_way(file, HIGH_DESCRIPTOR))
    }

    /// Attaches the region in `file`, whose lock files and tags are under `directory`.
    pub fn attach_file(directory: OwnedFd, file: OwnedFd) -> core::result::Result<Region, AttachError> {
        let stat = rustix::fs::fstat(&file).map_err(AttachError::Open)?;
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        if !regular || !is_private(&stat) || stat.st_nlink > 1 {
            return Err(AttachError::NotOurs);
        }
        let length = stat.st_size as u64;
        if Geometry::of(length).is_none() {
            return Err(AttachError::Length(length));
        }
        let mapping = map(file.as_fd(), length).map_err(AttachError::Map)?;
        // Parents of forked children must not pay for the region's pages in core dumps.
        // SAFETY: advice on our own mapping changes no contents.
        let _ = unsafe { rustix::mm::madvise(mapping.base() as *mut _, length as usize, Advice::LinuxDontDump) };
        match Region::with_mapping(directory, file, &mapping, stat.st_dev, stat.st_ino) {
            Ok(region) => Ok(region),
            Err(error) => {
                // SAFETY: nothing refers to the mapping: no region was made of it.
                let _ = unsafe { rustix::mm::munmap(mapping.base() as *mut _, length as usize) };
                Err(error)
            }
        }
    }

    fn with_mapping(
        directory: OwnedFd,
        file: OwnedFd,
        mapping: &Mapping,
        device: u64,
        inode: u64,
    ) -> core::result::Result<Region, AttachError> {
        let copies = read_superblocks(mapping).map_err(AttachError::Open)?;
        let superblock = newest(copies).map_err(AttachError::Superblock)?;
        if superblock.uid != rustix::process::geteuid().as_raw() {
            return Err(AttachError::NotOurs);
        }
        let private = private_pages().map_err(AttachError::Map)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |name: &CStr| rustix::fs::openat(&directory, name, flags, Mode::empty());
        let images = open(c"images").map_err(AttachError::Open)?;
        let tags = match open(c"tags") {
            Ok(tags) => Some(out_of_the_way(tags, HIGH_DESCRIPTOR)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(AttachError::Open(error)),
        };
        // SAFETY: the caller hands the mapping over; on success it lives as long as the region.
        let mapping = unsafe { Mapping::new(mapping.base() as *mut u8, mapping.length()) };
        Ok(Region {
            mapping,
            superblock,
            directory,
            images: out_of_the_way(images, HIGH_DESCRIPTOR),
            tags,
            file,
            device,
            inode,
            private,
            lane_cursor: AtomicU32::new(0),
            cursors: [const { AtomicU64::new(u64::MAX) }; 5],
            chunk_cursor: AtomicU32::new(u32::MAX),
            freed: [const { FreedLately::new() }; 5],
        })
    }

    /// The chunks in the memory nearest to this thread; all, unless the region was spread over several memory nodes.
    pub(crate) fn near_chunks(&self) -> Range<u32> {
        match self.superblock.memory_nodes {
            nodes @ 2.. if let Some(node) = system_call::memory_node() => self.geometry().chunks_near(nodes, node),
            _ => 0..self.geometry().chunks as u32,
        }
    }

    /// What the region is.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Where its tables are.
    pub fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    /// The region's directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The directory of the images' lock files.
    pub(crate) fn images(&self) -> BorrowedFd<'_> {
        self.images.as_fd()
    }

    /// The directory of the placeholders of open files, if there is one.
    pub fn tags(&self) -> Option<BorrowedFd<'_>> {
        self.tags.as_ref().map(|tags| tags.as_fd())
    }

    /// The carrier's file, for mapping pieces of it.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where this process keeps what it looked up.
    #[inline]
    pub fn private_cache(&self) -> &[CacheLine] {
        &self.private.cache
    }

    /// Where a walk ends, if this process remembers one that would end there now.
    #[inline]
    pub fn known_walk(&self, walk: &Walk<'_>) -> Option<WalkEnd> {
        // SAFETY: `remember_walk` takes what was loaded from this region.
        unsafe { walk_cache::find(&self.private.walks, self, walk) }
    }

    /// As [`walk_cache::is_missed_again`], of this process's walks.
    pub fn is_walk_missed_again(&self, walk: &Walk<'_>) -> bool {
        walk_cache::is_missed_again(&self.private.walks, walk)
    }

    /// As [`walk_cache::remember`], for [`Region::known_walk`].
    pub fn remember_walk(&self, walk: &Walk<'_>, end: u64, before_at: u64, witness: &WalkWitness<'_, Region>) {
        if core::ptr::eq(witness.region(), self) {
            walk_cache::remember(&self.private.walks, walk, end, before_at, witness);
        }
    }

    /// Forgets all walks.
    pub fn forget_walks(&self) {
        walk_cache::clear(&self.private.walks);
    }

    /// Numbers of the descriptors that belong to this library and that programs must not close.
    pub fn own_descriptors(&self) -> [i32; 5] {
        use core::sync::atomic::Ordering;
        use rustix::fd::AsRawFd;
        let lock_file = self.private.lock_file.load(Ordering::Acquire) as i32 - 1;
        let tags = self.tags.as_ref().map_or(-1, |tags| tags.as_raw_fd());
        [self.directory.as_raw_fd(), tags, self.images.as_raw_fd(), self.file.as_raw_fd(), lock_file]
    }

    /// Device and inode number of the carrier's file.
    pub fn file_identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// The two superblock copies as they are now.
    pub fn superblock_copies(&self) -> Result<[core::result::Result<Superblock, SuperblockError>; 2]> {
        read_superblocks(&self.mapping)
    }

    /// Rewrites both superblock copies from the one that counts (a damaged copy is whole again).
    pub fn rewrite_superblocks(&self) -> Result<()> {
        let newer = Superblock { sequence: self.superblock.sequence + 1, ..self.superblock };
        write_superblocks(&self.mapping, &newer)
    }
}

impl Deref for Region {
    type Target = Mapping;
    #[inline]
    fn deref(&self) -> &Mapping {
        &self.mapping
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        crate::image::give_up(self);
        // SAFETY: the region is gone, so no reference into its mapping is left; the private pages likewise.
        unsafe {
            let _ = rustix::mm::munmap(self.mapping.base() as *mut _, self.mapping.length() as usize);
            let _ = rustix::mm::munmap(self.private as *const Private as *mut _, PRIVATE);
        }
    }
}

fn private_pages() -> Result<&'static Private> {
    // SAFETY: a new private mapping at an address that the kernel chooses overlaps nothing.
    let pages = unsafe {
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        rustix::mm::mmap_anonymous(core::ptr::null_mut(), PRIVATE, writable, MapFlags::PRIVATE)
    }?;
    // SAFETY: our own pages; the advice takes effect in children only.
    unsafe { rustix::mm::madvise(pages, PRIVATE, Advice::LinuxWipeOnFork) }?;
    // SAFETY: so many zero bytes, aligned to a page, are a valid `Private` (atomics only), and stay mapped until the region
    // that holds the reference is dropped.
    Ok(unsafe { &*pages.cast::<Private>() })
}
