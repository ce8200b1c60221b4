//! Plain values that calls take and give.

/// On whose behalf a call is made: effective ids, as the kernel checks permissions by them.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Effective user id. 0 passes every check but execution.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// Mode bits removed from new files.
    pub umask: u32,
    /// Whether a kernel has checked the permissions already, which then are not checked again: the ids only say to
    /// whom a new file belongs.
    pub checked: bool,
}

impl Caller<'_> {
    /// Whether nothing that only an owner may do is denied.
    pub(crate) fn is_privileged(&self) -> bool {
        self.uid == 0 || self.checked
    }

    pub(crate) fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether a file of this group may carry the set-group-id bit by this caller's doing.
    pub(crate) fn may_set_group_id(&self, gid: u32) -> bool {
        self.is_privileged() || self.in_group(gid)
    }
}

/// What becomes of a symbolic link in the last place of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    /// The path means what the link points to.
    Follow,
    /// The path means the link itself.
    Keep,
}

/// Where a read or write takes place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// At the open file's own offset, which moves.
    Current,
    /// At this byte; the offset stays.
    At(u64),
}

/// Attributes of an inode, as `stat` has them. Times are nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Inode number.
    pub number: u64,
    /// Type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as `st_rdev`.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub accessed: i64,
    /// Last change of contents.
    pub modified: i64,
    /// Last change of the inode.
    pub changed: i64,
    /// Creation.
    pub born: i64,
    /// Whether the file is sealed.
    pub sealed: bool,
}

/// Space and inodes of the region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that file data and names can take altogether.
    pub bytes_total: u64,
    /// Bytes of that which are free.
    pub bytes_free: u64,
    /// Files, directories and links.
    pub inodes_used: u64,
    /// How many more would fit if the free space held nothing else.
    pub inodes_free: u64,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry {
    /// Inode number.
    pub inode: u64,
    /// `DT_*` value.
    pub kind: u8,
    /// Bytes of `name` that count.
    pub name_len: u8,
    /// The name.
    pub name: [u8; 255],
    /// Cookie at which reading goes on after this entry.
    pub next: u64,
}

impl DirEntry {
    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.name[..self.name_len as usize]
    }
}

/// A piece of a file that lies in one run of the region, for mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Byte in the file, a multiple of 4096.
    pub file_offset: u64,
    /// Byte in the region, a multiple of 4096.
    pub region_offset: u64,
    /// Bytes, a multiple of 4096.
    pub length: u64,
}

impl Piece {
    /// Whether `next` goes on where this ends, in the file and in the region.
    pub(crate) fn is_followed_by(&self, next: &Piece) -> bool {
        self.region_offset + self.length == next.region_offset && self.file_offset + self.length == next.file_offset
    }
}

/// A new time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// As it is.
    Keep,
    /// The present.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}
