//! What a check can find, in words and for programs, and what a repair would do about it.

use core::fmt;
use lifeboat_region::superblock::SuperblockError;

/// Something that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A superblock copy does not count; the other does.
    Superblock(u8, SuperblockError),
    /// A lock word that no lock can have, or one held by nobody.
    Lock(u64),
    /// A word that says how much of a table was used; its offset.
    HighWater(u64),
    /// A slot for a process that no process can have, or has; its offset.
    Image(u64),
    /// A lane that no operation can have, or has; its offset.
    Lane(u64),
    /// An open-file slot whose words do not agree, or that nobody holds; its offset.
    OpenFile(u64),
    /// A pin that nobody holds; its offset.
    Pin(u64),
    /// A record of a file lock that no lock can have, or that nobody holds; its offset.
    FileLock(u64),
    /// A chunk word that no chunk can have; its offset.
    Chunk(u64),
    /// An owner word that no unit can have, or not this one; number of the inode that refers to the unit (0: nobody does),
    /// offset of the word.
    Owner(u64, u64),
    /// A word of an inode's map or index that points to nothing possible; inode number, offset of the word.
    Pointer(u64, u64),
    /// A unit is live, but nothing refers to it; number of the inode that it says it belongs to, its offset.
    Leak(u64, u64),
    /// A unit is referred to, but is not live; inode number, offset of the unit.
    Dangling(u64, u64),
    /// A unit is referred to that belongs to another, or twice; inode number, offset of the unit.
    Shared(u64, u64),
    /// An entry of a directory whose words or name do not agree; number of the directory, offset of the entry.
    Entry(u64, u64),
    /// An inode has another number of names than it says: inode number, says, has.
    Links(u64, u64, u64),
    /// An inode that has links, but no name; its number.
    Nameless(u64),
    /// A directory has another number of entries than it says: inode number, says, has.
    Names(u64, u64, u64),
    /// A file says that it has other space than it has: inode number, says, has (units of 512 bytes).
    Blocks(u64, u64, u64),
    /// A name refers to an inode that does not exist; number of the directory, of the inode.
    Nowhere(u64, u64),
    /// An inode's type or flags are none that there are, or not what its name says; its number.
    Mode(u64),
    /// A directory names another parent than the one that it is in; its number, that of the right one.
    Parent(u64, u64),
    /// A directory is not below the root; its number.
    Detached(u64),
    /// An inode at rest says that it is being changed; its number.
    Sequence(u64),
    /// The locks on an inode cannot be followed; its number.
    FileLocks(u64),
    /// A link's target, or a socket's address, has a length that does not fit its place; inode number.
    Text(u64),
    /// A checksum word that none can have; inode number, offset of the word.
    Checksum(u64, u64),
    /// A sealed file has a checksum that is not final; inode number, offset of the word.
    Seal(u64, u64),
    /// The extended attributes of an inode are not what was written; its number, offset of the word that points to them.
    Attributes(u64, u64),
    /// Something could not be examined; offset, error number.
    Unreadable(u64, i32),
}

/// What a repair does about a fault. There is one only where there is exactly one right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: there is no answer, or more than one.
    None,
    /// The copy is written again from the other one.
    Rewrite,
    /// The one flipped bit is flipped back.
    FlipBack,
    /// The right value follows from everything else.
    Recompute,
    /// Freed: nobody has it.
    Free,
    /// The name is removed: what it named is gone for good.
    RemoveName,
    /// The checksum is called unknown; the bytes stay.
    CallUnknown,
    /// It gets its name back, or one in `lost+found`.
    GiveName,
}

impl Remedy {
    /// Word for programs.
    pub const fn kind(self) -> &'static str {
        match self {
            Remedy::None => "none",
            Remedy::Rewrite => "rewrite",
            Remedy::FlipBack => "flip-back",
            Remedy::Recompute => "recompute",
            Remedy::Free => "free",
            Remedy::RemoveName => "remove-name",
            Remedy::CallUnknown => "call-unknown",
            Remedy::GiveName => "give-name",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Remedy::None => "no repair has exactly one right answer",
            Remedy::Rewrite => "repair writes it again from the other copy",
            Remedy::FlipBack => "repair flips the one wrong bit back",
            Remedy::Recompute => "repair sets what everything else says",
            Remedy::Free => "repair frees it",
            Remedy::RemoveName => "repair removes the name",
            Remedy::CallUnknown => "repair calls the checksum unknown",
            Remedy::GiveName => "repair gives it its name back, or one in lost+found",
        }
    }
}

/// One thing that is wrong, and what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub fault: Fault,
    /// What a repair does, when nobody else is attached.
    pub remedy: Remedy,
}

impl Finding {
    /// Whether a repair mends it.
    pub fn is_repairable(&self) -> bool {
        self.remedy != Remedy::None
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.fault, self.remedy.words())
    }
}

impl Fault {
    /// Word for programs: one for each kind, which stays the same.
    pub const fn kind(&self) -> &'static str {
        match self {
            Fault::Superblock(..) => "superblock",
            Fault::Lock(_) => "lock",
            Fault::HighWater(_) => "high-water",
            Fault::Image(_) => "image",
            Fault::Lane(_) => "lane",
            Fault::OpenFile(_) => "open-file",
            Fault::Pin(_) => "pin",
            Fault::FileLock(_) => "file-lock",
            Fault::Chunk(_) => "chunk",
            Fault::Owner(..) => "owner",
            Fault::Pointer(..) => "pointer",
            Fault::Leak(..) => "leak",
            Fault::Dangling(..) => "dangling",
            Fault::Shared(..) => "shared",
            Fault::Entry(..) => "entry",
            Fault::Links(..) => "links",
            Fault::Nameless(_) => "nameless",
            Fault::Names(..) => "names",
            Fault::Blocks(..) => "blocks",
            Fault::Nowhere(..) => "nowhere",
            Fault::Mode(_) => "mode",
            Fault::Parent(..) => "parent",
            Fault::Detached(_) => "detached",
            Fault::Sequence(_) => "sequence",
            Fault::FileLocks(_) => "file-locks",
            Fault::Text(_) => "text",
            Fault::Checksum(..) => "checksum",
            Fault::Seal(..) => "seal",
            Fault::Attributes(..) => "attributes",
            Fault::Unreadable(..) => "unreadable",
        }
    }

    /// Number of the inode that it is about, if it is about one.
    pub const fn inode(&self) -> Option<u64> {
        match *self {
            Fault::Owner(0, _) => None,
            Fault::Owner(inode, _)
            | Fault::Pointer(inode, _)
            | Fault::Leak(inode, _)
            | Fault::Dangling(inode, _)
            | Fault::Shared(inode, _)
            | Fault::Entry(inode, _)
            | Fault::Links(inode, ..)
            | Fault::Nameless(inode)
            | Fault::Names(inode, ..)
            | Fault::Blocks(inode, ..)
            | Fault::Nowhere(inode, _)
            | Fault::Mode(inode)
            | Fault::Parent(inode, _)
            | Fault::Detached(inode)
            | Fault::Sequence(inode)
            | Fault::FileLocks(inode)
            | Fault::Text(inode)
            | Fault::Checksum(inode, _)
            | Fault::Seal(inode, _)
            | Fault::Attributes(inode, _) => Some(inode),
            _ => None,
        }
    }

    /// Offset in the region where it is seen, if that is one place.
    pub const fn offset(&self) -> Option<u64> {
        match *self {
            Fault::Lock(at)
            | Fault::HighWater(at)
            | Fault::Image(at)
            | Fault::Lane(at)
            | Fault::OpenFile(at)
            | Fault::Pin(at)
            | Fault::FileLock(at)
            | Fault::Chunk(at)
            | Fault::Owner(_, at)
            | Fault::Pointer(_, at)
            | Fault::Leak(_, at)
            | Fault::Dangling(_, at)
            | Fault::Shared(_, at)
            | Fault::Entry(_, at)
            | Fault::Checksum(_, at)
            | Fault::Seal(_, at)
            | Fault::Attributes(_, at)
            | Fault::Unreadable(at, _) => Some(at),
            Fault::Superblock(copy, _) => Some(copy as u64 * lifeboat_region::layout::SUPERBLOCK),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::Superblock(copy, error) => write!(f, "superblock copy {copy}: {error}; the other copy is used"),
            Fault::Lock(at) => write!(f, "the lock word at offset {at:#x} is damaged, or held by nobody"),
            Fault::HighWater(at) => write!(f, "the count at offset {at:#x} of what was used is damaged"),
            Fault::Image(at) => write!(f, "the process slot at offset {at:#x} is damaged, or nobody's"),
            Fault::Lane(at) => write!(f, "the lane at offset {at:#x} is damaged, or nobody's"),
            Fault::OpenFile(at) => write!(f, "the open-file slot at offset {at:#x} is damaged, or nobody's"),
            Fault::Pin(at) => write!(f, "the pin at offset {at:#x} is nobody's"),
            Fault::FileLock(at) => write!(f, "the record of a file lock at offset {at:#x} is damaged, or nobody's"),
            Fault::Chunk(at) => write!(f, "the chunk word at offset {at:#x} is damaged"),
            Fault::Owner(0, at) => write!(f, "the owner word at offset {at:#x} is damaged; nothing refers to its unit"),
            Fault::Owner(inode, at) => {
                write!(f, "the owner word at offset {at:#x}, of space of inode {inode}, is damaged")
            }
            Fault::Pointer(inode, at) => write!(f, "inode {inode}: the map word at offset {at:#x} is damaged"),
            Fault::Leak(inode, at) => {
                write!(f, "space at offset {at:#x} is taken for inode {inode}, but nothing refers to it")
            }
            Fault::Dangling(inode, at) => write!(f, "inode {inode} refers to free space at offset {at:#x}"),
            Fault::Shared(inode, at) => {
                write!(f, "inode {inode} refers to space at offset {at:#x} that belongs elsewhere")
            }
            Fault::Entry(dir, at) => write!(f, "directory {dir}: the entry at offset {at:#x} is damaged"),
            Fault::Links(inode, says, has) => write!(f, "inode {inode} says it has {says} links, but has {has}"),
            Fault::Nameless(inode) => write!(f, "inode {inode} has links, but no name"),
            Fault::Names(inode, says, has) => write!(f, "directory {inode} says it has {says} names, but has {has}"),
            Fault::Blocks(inode, says, has) => {
                write!(f, "inode {inode} says it has {says} blocks of 512 bytes, but has {has}")
            }
            Fault::Nowhere(dir, inode) => {
                write!(f, "a name in directory {dir} refers to inode {inode}, which does not exist")
            }
            Fault::Mode(inode) => write!(f, "inode {inode}: its type or flags are damaged"),
            Fault::Parent(inode, parent) => {
                write!(f, "directory {inode} lies in directory {parent}, but names another")
            }
            Fault::Detached(inode) => write!(f, "directory {inode} is not below the root"),
            Fault::Sequence(inode) => write!(f, "inode {inode} says that it is being changed, which nobody does"),
            Fault::FileLocks(inode) => write!(f, "inode {inode}: its list of file locks is damaged"),
            Fault::Text(inode) => {
                write!(f, "inode {inode}: the target of the link, or the socket's address, has a damaged length")
            }
            Fault::Checksum(inode, at) => write!(f, "inode {inode}: the checksum word at offset {at:#x} is damaged"),
            Fault::Seal(inode, at) => {
                write!(f, "inode {inode} is sealed, but the checksum at offset {at:#x} is not final")
            }
            Fault::Attributes(inode, at) => {
                write!(f, "inode {inode}: the extended attributes behind the word at offset {at:#x} are damaged")
            }
            Fault::Unreadable(at, error) => {
                write!(f, "what is at offset {at:#x} could not be examined (error {error})")
            }
        }
    }
}
