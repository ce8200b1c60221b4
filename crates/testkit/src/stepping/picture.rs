//! What a file system says of itself through its calls, and which pictures a death may leave.

use crate::model::tree::{Extended, extended};
use crate::volume::{RegionVolume, Volume};
use lifeboat_fs::{FileSystem, LastLink};
use std::collections::BTreeMap;

/// Everything that names, attributes and contents say, but for times and allocated space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture(BTreeMap<String, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    links: u64,
    ids: (u32, u32),
    sealed: bool,
    /// The first of all names that the same inode has.
    same_as: String,
    /// Of a file its bytes, of a symbolic link its target, of a socket its address.
    content: Vec<u8>,
    /// Names and values of extended attributes.
    extended: Extended,
}

/// What may be found after a death, given the pictures before and after the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One of the pictures.
    AllOrNothing,
    /// Names and attributes of one of the pictures. Contents: each byte as in one of them; the length between theirs.
    AnyMixture,
}

impl Picture {
    /// Reads the whole tree. Errors say where it could not be read, or which block has not the checksum it should have.
    pub fn of(files: &FileSystem) -> Result<Self, String> {
        let volume = RegionVolume::over(files, b"").map_err(|error| format!("no root: errno {error}"))?;
        let mut picture = Self::default();
        let mut first_names = BTreeMap::new();
        picture.directory(files, &volume, "", &mut first_names)?;
        Ok(picture)
    }

    fn directory(
        &mut self,
        files: &FileSystem,
        volume: &RegionVolume<'_>,
        path: &str,
        first_names: &mut BTreeMap<u64, String>,
    ) -> Result<(), String> {
        let shown = if path.is_empty() { "." } else { path };
        let failed = |what: &str, error: i32| format!("{shown}: cannot {what}: errno {error}");
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let opened = volume.open(None, shown.as_bytes(), flags, 0).map_err(|error| failed("open", error))?;
        let names = volume.list(opened).map_err(|error| failed("list", error))?;
        volume.close(opened).map_err(|error| failed("close", error))?;
        for (name, _) in names {
            let name = String::from_utf8_lossy(&name).into_owned();
            let below = if path.is_empty() { name } else { format!("{path}/{name}") };
            let node = node(files, volume, &below, first_names)?;
            let is_directory = node.mode & libc::S_IFMT == libc::S_IFDIR;
            self.0.insert(below.clone(), node);
            if is_directory {
                self.directory(files, volume, &below, first_names)?;
            }
        }
        Ok(())
    }

    /// Path and size of each regular file that may be changed.
    pub fn unsealed_files(&self) -> impl Iterator<Item = (&str, usize)> {
        let plain = self.0.iter().filter(|(_, node)| node.mode & libc::S_IFMT == libc::S_IFREG && !node.sealed);
        plain.map(|(path, node)| (path.as_str(), node.content.len()))
    }

    /// Whether a death may leave this, when the interrupted operations would have led from one of `choices` to another.
    pub fn is_allowed(&self, choices: &[Self], rule: Rule) -> Result<(), String> {
        let fits = |choice: &Self| match rule {
            Rule::AllOrNothing => self.difference(choice),
            Rule::AnyMixture => self.mixture(choice, choices),
        };
        let mut reasons = Vec::new();
        for choice in choices {
            match fits(choice) {
                None => return Ok(()),
                Some(reason) => reasons.push(reason),
            }
        }
        Err(format!("neither of {} allowed pictures: {}", choices.len(), reasons.join("; or ")))
    }

    /// The first thing in which this is not `other`.
    fn difference(&self, other: &Self) -> Option<String> {
        self.compare(other, |path, mine, theirs| {
            (mine != theirs).then(|| match first_difference(&mine.content, &theirs.content) {
                Some(at) => format!(
                    "{path} has {} instead of {} bytes, and differs at byte {at}",
                    mine.content.len(),
                    theirs.content.len()
                ),
                None => format!("{path} is {} instead of {}", mine.attributes(), theirs.attributes()),
            })
        })
    }

    fn mixture(&self, choice: &Self, all: &[Self]) -> Option<String> {
        self.compare(choice, |path, mine, theirs| {
            if mine.attributes() != theirs.attributes() {
                return Some(format!("{path} is {} instead of {}", mine.attributes(), theirs.attributes()));
            }
            let contents: Vec<&[u8]> = all.iter().filter_map(|one| one.0.get(path)).map(|n| &n.content[..]).collect();
            let lengths = contents.iter().map(|content| content.len());
            let (least, most) = (lengths.clone().min().unwrap_or(0), lengths.max().unwrap_or(0));
            if mine.content.len() < least || mine.content.len() > most {
                return Some(format!("{path} has {} bytes, not {least} to {most}", mine.content.len()));
            }
            let known = |at: usize, byte: u8| contents.iter().any(|content| content.get(at) == Some(&byte));
            let strange = mine.content.iter().enumerate().find(|(at, byte)| !known(*at, **byte));
            strange.map(|(at, byte)| format!("byte {at} of {path} is {byte:#04x}, which nobody wrote there"))
        })
    }

    fn compare(&self, other: &Self, node: impl Fn(&str, &Node, &Node) -> Option<String>) -> Option<String> {
        if let Some(path) = other.0.keys().find(|path| !self.0.contains_key(*path)) {
            return Some(format!("{path} is missing"));
        }
        self.0.iter().find_map(|(path, mine)| match other.0.get(path) {
            None => Some(format!("{path} is there")),
            Some(theirs) => node(path, mine, theirs),
        })
    }
}

impl Node {
    fn attributes(&self) -> String {
        let seal = if self.sealed { ", sealed" } else { "" };
        let (user, group) = self.ids;
        let text =
            format!("mode {:o}, {} links, {user}:{group}, same as {}{seal}", self.mode, self.links, self.same_as);
        self.extended.iter().fold(text, |text, (name, value)| {
            let sum = lifeboat_region::checksum_slice(0, value);
            format!("{text}, {} of {} bytes ({sum:08x})", String::from_utf8_lossy(name), value.len())
        })
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    (same < one.len().max(other.len())).then_some(same)
}

fn node(
    files: &FileSystem,
    volume: &RegionVolume<'_>,
    path: &str,
    first_names: &mut BTreeMap<u64, String>,
) -> Result<Node, String> {
    let failed = |what: &str, error: i32| format!("{path}: cannot {what}: errno {error}");
    let attributes = volume.stat(None, path.as_bytes(), false).map_err(|error| failed("stat", error))?;
    let inode = files
        .resolve(&root_caller(), files.root(), path.as_bytes(), LastLink::Keep)
        .map_err(|error| failed("find", error.raw_os_error()))?;
    let sealed = files.stat(inode).map_err(|error| failed("stat", error.raw_os_error()))?.sealed;
    let content = match attributes.kind() {
        libc::S_IFREG => {
            let report = files.verify(inode).map_err(|error| failed("verify", error.raw_os_error()))?;
            if let Some(at) = report.first_bad {
                return Err(format!("{path}: the block at {at} has not its checksum"));
            }
            let file = volume.open(None, path.as_bytes(), libc::O_RDONLY | libc::O_NOATIME, 0);
            let file = file.map_err(|error| failed("open", error))?;
            let content = volume.read(file, attributes.size as usize + 1, Some(0));
            volume.close(file).map_err(|error| failed("close", error))?;
            content.map_err(|error| failed("read", error))?
        }
        libc::S_IFSOCK => {
            let mut address = vec![0; 108];
            let length = files.socket_address(inode, &mut address);
            address.truncate(length.map_err(|error| failed("find the address of", error.raw_os_error()))?);
            address
        }
        libc::S_IFLNK => volume.readlink(None, path.as_bytes()).map_err(|error| failed("readlink", error))?,
        _ => Vec::new(),
    };
    Ok(Node {
        mode: attributes.mode,
        links: attributes.links,
        ids: (attributes.uid, attributes.gid),
        sealed,
        same_as: first_names.entry(attributes.number).or_insert_with(|| path.to_string()).clone(),
        content,
        extended: extended(volume, path.as_bytes())
            .map_err(|error| failed("read the extended attributes of", error))?,
    })
}

fn root_caller() -> lifeboat_fs::Caller<'static> {
    lifeboat_fs::Caller { uid: 0, gid: 0, groups: &[], umask: 0o022, checked: false }
}
