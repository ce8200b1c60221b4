//! Extended attributes: names with values that programs tie to a file. `user.` for whoever may read and write the file,
//! `trusted.` for root, `security.` for all to read and root to write, as on tmpfs.

use crate::attribute_block::{AttributeBlock, Entry, NAME_LONGEST, VALUE_LONGEST};
use crate::file_system::FileSystem;
use crate::inode::{self, InodeId};
use crate::types::Caller;
use crate::walk::{READ, WRITE};
use crate::{Errno, Result, UserSource, UserTarget};

/// `setxattr`: there must be none of this name yet.
const CREATE: i32 = 1;
/// `setxattr`: there must be one.
const REPLACE: i32 = 2;

/// Longest list that is given out.
const LIST_LONGEST: usize = 65536;

/// Names of other namespaces would have a meaning that nothing here gives them: capabilities of programs, access lists.
const CAPABILITY: &[u8] = b"security.capability";

/// Sticky bit of a directory.
const STICKY: u32 = 0o1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    System,
    Other,
}

/// The namespace of a name, and the rest.
fn split(name: &[u8]) -> (Namespace, &[u8]) {
    let spaces: [(&[u8], Namespace); 4] = [
        (b"user.", Namespace::User),
        (b"trusted.", Namespace::Trusted),
        (b"security.", Namespace::Security),
        (b"system.", Namespace::System),
    ];
    let found = spaces.iter().find_map(|(prefix, space)| Some((*space, name.strip_prefix(*prefix)?)));
    found.unwrap_or((Namespace::Other, name))
}

/// Whether a name can be one of an attribute here at all.
fn check_supported(name: &[u8]) -> Result<()> {
    match split(name) {
        (Namespace::System | Namespace::Other, _) => Err(Errno::OPNOTSUPP),
        (_, b"") => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

/// What is wrong with the arguments of `setxattr` whatever the file is: the kernel says so before it looks for the file.
pub fn check_attribute(name: &[u8], value_length: usize, flags: i32) -> Result<()> {
    if flags & !(CREATE | REPLACE) != 0 {
        return Err(Errno::INVAL);
    }
    check_length(name)?;
    if value_length > VALUE_LONGEST { Err(Errno::TOOBIG) } else { Ok(()) }
}

fn check_length(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > NAME_LONGEST { Err(Errno::RANGE) } else { Ok(()) }
}

impl FileSystem {
    /// Value of an attribute; its length. An empty target only asks for that. `NODATA` when there is no such attribute,
    /// `RANGE` when the target is too small, `OPNOTSUPP` for names that are not kept here.
    pub fn get_attribute(&self, who: &Caller<'_>, inode: InodeId, name: &[u8], into: &UserTarget<'_>) -> Result<usize> {
        check_length(name)?;
        self.permit_attribute(who, inode, name, READ)?;
        check_supported(name)?;
        let copied = self.with_attributes(inode, |block| {
            let Some(entry) = block.find(name)? else { return Ok(None) };
            if into.is_empty() {
                return Ok(Some(entry.value_length));
            }
            if into.len() < entry.value_length {
                return Err(Errno::RANGE);
            }
            block.copy_value(&entry, into)?;
            Ok(Some(entry.value_length))
        })?;
        copied.flatten().ok_or(Errno::NODATA)
    }

    /// Names of the attributes, each followed by a zero byte; the length of all. An empty target only asks for that.
    /// `RANGE` when the target is too small, `TOOBIG` when no list can be so long.
    pub fn list_attributes(&self, who: &Caller<'_>, inode: InodeId, into: &UserTarget<'_>) -> Result<usize> {
        let room = into.len().min(LIST_LONGEST);
        let listed = self.with_attributes(inode, |block| {
            let mut length = 0;
            block.each(|_, name| {
                if split(name).0 == Namespace::Trusted && who.uid != 0 {
                    return Ok(true);
                }
                if room > 0 {
                    if length + name.len() + 1 > room {
                        return Err(if room == LIST_LONGEST { Errno::TOOBIG } else { Errno::RANGE });
                    }
                    let mut text = [0; NAME_LONGEST + 1];
                    text.get_mut(..name.len()).ok_or(Errno::UCLEAN)?.copy_from_slice(name);
                    into.write(length, &text[..name.len() + 1])?;
                }
                length += name.len() + 1;
                Ok(true)
            })?;
            Ok(length)
        })?;
        Ok(listed.unwrap_or(0))
    }

    /// Sets an attribute. `flags`: 0, 1 (`XATTR_CREATE`: `EXIST` when there is one), 2 (`XATTR_REPLACE`: `NODATA` when
    /// there is none). All of it or nothing, whatever dies when.
    pub fn set_attribute(
        &self,
        who: &Caller<'_>,
        inode: InodeId,
        name: &[u8],
        value: &UserSource<'_>,
        flags: i32,
    ) -> Result<()> {
        check_attribute(name, value.len(), flags)?;
        self.permit_attribute(who, inode, name, WRITE)?;
        check_supported(name)?;
        if name == CAPABILITY {
            return Err(Errno::OPNOTSUPP);
        }
        let allowed = |found: Option<&Entry>| match found {
            Some(_) if flags & CREATE != 0 => Err(Errno::EXIST),
            None if flags & REPLACE != 0 => Err(Errno::NODATA),
            _ => Ok(()),
        };
        self.with_room(|| self.change_attribute(inode, name, Some(value), &allowed))
    }

    /// Removes an attribute. `NODATA` when there is none.
    pub fn remove_attribute(&self, who: &Caller<'_>, inode: InodeId, name: &[u8]) -> Result<()> {
        check_length(name)?;
        self.permit_attribute(who, inode, name, WRITE)?;
        check_supported(name)?;
        let allowed = |found: Option<&Entry>| if found.is_some() { Ok(()) } else { Err(Errno::NODATA) };
        self.with_room(|| self.change_attribute(inode, name, None, &allowed))
    }

    /// Runs `work` on the attributes of an inode; `None` when it has none. They stay while it runs.
    fn with_attributes<T>(
        &self,
        inode: InodeId,
        work: impl FnOnce(&AttributeBlock<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.exists(inode)?;
        if self.field(inode, inode::ATTRIBUTES)? == 0 {
            return self.exists(inode).map(|()| None);
        }
        let lane = self.lane()?;
        lane.announce(inode.to_word(), 0, 0)?;
        self.exists(inode)?;
        match AttributeBlock::load(self, inode, self.field(inode, inode::ATTRIBUTES)?)? {
            Some(block) => work(&block).map(Some),
            None => Ok(None),
        }
    }

    /// For a check: whether the attributes of an inode can be read.
    pub(crate) fn attributes_are_whole(&self, inode: InodeId) -> Result<bool> {
        match self.with_attributes(inode, |block| block.each(|_, _| Ok(true))) {
            Ok(_) => Ok(true),
            Err(Errno::UCLEAN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Builds the new block without a lock, because that copies from the program's memory, and links it if nobody has
    /// changed the attributes meanwhile. As long as the inode is announced no block of it is reused: the same word is
    /// the same block.
    fn change_attribute(
        &self,
        inode: InodeId,
        name: &[u8],
        value: Option<&UserSource<'_>>,
        allowed: &dyn Fn(Option<&Entry>) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..crate::TRIES {
            let lane = self.lane()?;
            lane.announce(inode.to_word(), 0, 0)?;
            self.exists(inode)?;
            let before = self.field(inode, inode::ATTRIBUTES)?;
            let old = AttributeBlock::load(self, inode, before)?;
            let found = match &old {
                Some(old) => old.find(name)?,
                None => None,
            };
            allowed(found.as_ref())?;
            let new = self.build_attributes(&lane, old.as_ref(), name, value)?;
            lane.lock(inode.at() + inode::LOCK, self)?;
            self.exists(inode)?;
            if self.field(inode, inode::ATTRIBUTES)? == before {
                return self.exchange_attributes(&lane, inode, before, new.as_ref());
            }
        }
        Err(Errno::AGAIN)
    }

    /// Whether attributes of this namespace may be read or written, as the kernel's `xattr_permission` and capability
    /// checks say.
    fn permit_attribute(&self, who: &Caller<'_>, inode: InodeId, name: &[u8], wanted: u32) -> Result<()> {
        self.while_there(inode, self.permit_namespace(who, inode, name, wanted)).map_err(inode::gone)
    }

    fn permit_namespace(&self, who: &Caller<'_>, inode: InodeId, name: &[u8], wanted: u32) -> Result<()> {
        let refused = if wanted == WRITE { Errno::PERM } else { Errno::NODATA };
        match split(name).0 {
            Namespace::System => return Ok(()),
            Namespace::Security if wanted == READ || who.is_privileged() => return Ok(()),
            Namespace::Security => return Err(Errno::PERM),
            Namespace::Trusted if who.is_privileged() => {}
            Namespace::Trusted => return Err(refused),
            Namespace::User => {
                let mode = self.mode(inode)?;
                let is_directory = mode & inode::TYPE_MASK == inode::DIRECTORY;
                if mode & inode::TYPE_MASK != inode::REGULAR && !is_directory {
                    return Err(refused);
                }
                let owns = who.is_privileged() || self.field(inode, inode::IDS)? as u32 == who.uid;
                if is_directory && mode & STICKY != 0 && wanted == WRITE && !owns {
                    return Err(Errno::PERM);
                }
            }
            Namespace::Other => {}
        }
        self.permit(who, inode, wanted)
    }
}
