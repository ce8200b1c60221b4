//! What one writer has of its own, as it must be: every name, byte and attribute, kept by those who watch.

use super::action::{Action, Deed, LONGEST, some_length};
use crate::random::{Random, bytes};
use std::collections::BTreeMap;

/// Paths that are directories when they are there.
const DIRECTORIES: usize = 3;
/// The first path below a directory; each has two.
const BELOW: usize = 9;
/// The first path in the directory that all writers share.
const SHARED: usize = 7;
/// Paths that a writer uses.
pub const PATHS: usize = BELOW + 2 * DIRECTORIES;
/// The directory in which all writers have files.
pub const ALL: &str = "all";

const NAMES: [&str; SHARED] = ["d0", "d1", "d2", "a", "b", "c", "a name that is too long to lie in its entry"];

/// A path of a writer as the file system knows it.
pub fn path(writer: usize, index: usize) -> String {
    match index {
        0..SHARED => format!("w{writer}/{}", NAMES[index]),
        SHARED..BELOW => format!("{ALL}/w{writer}-{index}"),
        _ => format!("w{writer}/{}/{}", NAMES[(index - BELOW) / 2], (index - BELOW) % 2),
    }
}

fn parent(index: usize) -> Option<usize> {
    (index >= BELOW).then(|| (index - BELOW) / 2)
}

/// What a name refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link, and what gives its target.
    Link(u64),
    /// A file, by a number that only this tree knows.
    File(u32),
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Its extended attribute.
    pub attribute: Option<Vec<u8>>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// By index of the path.
    pub names: [Option<Node>; PATHS],
    /// The files that the names refer to.
    pub files: BTreeMap<u32, Content>,
    next: u32,
    /// What was done to each file since it was created, for people who look for what went wrong.
    past: BTreeMap<u32, Vec<String>>,
}

/// The target of a symbolic link: sometimes longer than an inode has room for.
pub fn target(tag: u64) -> String {
    format!("{tag}/{}", "x".repeat(if tag.is_multiple_of(3) { 200 } else { 5 }))
}

impl Tree {
    /// The file behind a path.
    pub fn file(&self, index: usize) -> Option<(u32, &Content)> {
        match self.names[index] {
            Some(Node::File(id)) => self.files.get(&id).map(|content| (id, content)),
            _ => None,
        }
    }

    fn content(&mut self, index: usize) -> &mut Content {
        match self.names[index] {
            Some(Node::File(id)) => self.files.entry(id).or_default(),
            _ => panic!("the log has an action on a file that is not there: path {index}"),
        }
    }

    /// What was done to the files whose paths are in `text`.
    pub fn past_of(&self, writer: usize, text: &str) -> String {
        let named = (0..PATHS).filter(|&index| text.contains(&path(writer, index)));
        let mut ids: Vec<u32> = named.filter_map(|index| self.file(index).map(|(id, _)| id)).collect();
        ids.dedup();
        ids.iter().filter_map(|id| self.past.get(id)).map(|past| format!("\n   {}", past.join("\n   "))).collect()
    }

    /// Notes that a death interrupted the action.
    pub fn note_death(&mut self, action: &Action) {
        self.note(usize::from(action.path), format!("death in {action:?}"));
    }

    fn note(&mut self, path: usize, what: String) {
        if let Some(Node::File(id)) = self.names[path] {
            self.past.entry(id).or_default().push(what);
        }
    }

    /// Does what the action does.
    pub fn apply(&mut self, action: &Action) {
        let (path, other) = (usize::from(action.path), usize::from(action.other));
        let length = action.length as usize;
        if action.deed != Deed::Create {
            let size = self.file(path).map_or(0, |(_, content)| content.data.len());
            self.note(path, format!("{:?} at {} of {length}, size {size}", action.deed, action.offset));
        }
        if action.opens_for_writing() {
            self.content(path).sealed = false;
        }
        match action.deed {
            Deed::Create => {
                self.next += 1;
                self.names[path] = Some(Node::File(self.next));
                self.files.insert(self.next, Content { mode: 0o644, ..Content::default() });
            }
            Deed::Write | Deed::Map => {
                let data = &mut self.content(path).data;
                put(data, action.offset as usize, &bytes(action.tag, length));
            }
            Deed::Append => {
                let data = &mut self.content(path).data;
                data.extend_from_slice(&bytes(action.tag, length));
            }
            Deed::Truncate => self.content(path).data.resize(length, 0),
            Deed::Empty => self.content(path).data.clear(),
            Deed::Punch => {
                let data = &mut self.content(path).data;
                let end = data.len().min(action.offset as usize + length);
                data[action.offset as usize..end].fill(0);
            }
            Deed::Rename => self.rename(path, other),
            Deed::Exchange => self.names.swap(path, other),
            Deed::Link => self.names[other] = self.names[path],
            Deed::Symlink => self.names[path] = Some(Node::Link(action.tag)),
            Deed::Unlink | Deed::UnlinkOpen | Deed::Rmdir => self.names[path] = None,
            Deed::Mkdir => self.names[path] = Some(Node::Directory),
            Deed::Chmod => self.content(path).mode = action.offset,
            Deed::Seal => self.content(path).sealed = true,
            Deed::SetAttribute => self.content(path).attribute = Some(bytes(action.tag, length)),
            Deed::RemoveAttribute => self.content(path).attribute = None,
            _ => {}
        }
        let names = self.names;
        self.files.retain(|id, _| names.contains(&Some(Node::File(*id))));
        self.past.retain(|id, _| names.contains(&Some(Node::File(*id))));
    }

    fn rename(&mut self, from: usize, to: usize) {
        self.names[to] = self.names[from].take();
        if from < DIRECTORIES {
            for below in 0..2 {
                self.names[BELOW + 2 * to + below] = self.names[BELOW + 2 * from + below].take();
            }
        }
    }

    fn is_empty_directory(&self, index: usize) -> bool {
        (0..2).all(|below| self.names[BELOW + 2 * index + below].is_none())
    }

    fn has_parent(&self, index: usize) -> bool {
        parent(index).is_none_or(|above| self.names[above].is_some())
    }

    fn some(&self, random: &mut Random, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..PATHS).filter(|&index| fits(index)).collect();
        (!all.is_empty()).then(|| all[random.below(all.len() as u64) as usize])
    }

    /// Something that can be done now.
    pub fn choose(&self, random: &mut Random) -> Option<Action> {
        let is_file = |index: usize| matches!(self.names[index], Some(Node::File(_)));
        let is_free = |index: usize| index >= DIRECTORIES && self.names[index].is_none() && self.has_parent(index);
        let mut action = Action { tag: random.word(), ..Action::bare(Deed::Look) };
        let path = match random.below(100) {
            0..14 => {
                action.deed = Deed::Create;
                self.some(random, is_free)?
            }
            14..50 => {
                let path = self.some(random, is_file)?;
                self.change(random, path, &mut action);
                path
            }
            50..66 => return self.choose_rename(random, action),
            66..70 => {
                action.deed = Deed::Link;
                action.other = self.some(random, is_free)? as u8;
                self.some(random, is_file)?
            }
            70..73 => {
                action.deed = Deed::Symlink;
                self.some(random, is_free)?
            }
            73..82 => {
                action.deed = Deed::Unlink;
                self.some(random, |index| index >= DIRECTORIES && self.names[index].is_some())?
            }
            82..85 => {
                action.deed = Deed::UnlinkOpen;
                let has_one_name =
                    |index: usize| self.names.iter().filter(|node| **node == self.names[index]).count() == 1;
                self.some(random, |index| is_file(index) && has_one_name(index))?
            }
            85..90 => {
                action.deed = Deed::Mkdir;
                self.some(random, |index| index < DIRECTORIES && self.names[index].is_none())?
            }
            90..93 => {
                action.deed = Deed::Rmdir;
                self.some(random, |index| {
                    index < DIRECTORIES && self.names[index].is_some() && self.is_empty_directory(index)
                })?
            }
            _ => self.some(random, is_file)?,
        };
        action.path = path as u8;
        Some(action)
    }

    /// A change of a file's content or attributes.
    fn change(&self, random: &mut Random, path: usize, action: &mut Action) {
        let size = self.file(path).map_or(0, |(_, content)| content.data.len() as u32);
        let has_attribute = self.file(path).is_some_and(|(_, content)| content.attribute.is_some());
        action.length = some_length(random);
        let inside = random.below(u64::from(size) + 1) as u32;
        action.offset = if random.chance(80) { inside } else { random.below(u64::from(LONGEST)) as u32 };
        action.offset = action.offset.min(LONGEST - action.length);
        action.deed = match random.below(100) {
            0..40 => Deed::Write,
            40..60 if size + action.length <= LONGEST => Deed::Append,
            60..70 => {
                // Never to the size that it has: a file that has no blocks keeps its seal then, because nothing changes.
                action.length = random.below(u64::from(LONGEST)) as u32;
                action.length += u32::from(action.length == size);
                Deed::Truncate
            }
            70..74 => Deed::Empty,
            74..78 => {
                action.offset = random.pick(&[0o600, 0o644, 0o640]);
                Deed::Chmod
            }
            78..84 => Deed::Seal,
            84..88 => {
                action.length = action.length.min(60_000);
                Deed::SetAttribute
            }
            88..91 if has_attribute => Deed::RemoveAttribute,
            91..94 => Deed::Reserve,
            94..97 => {
                action.offset = inside;
                Deed::Punch
            }
            _ if size > 0 => {
                action.offset = inside.min(size - 1);
                action.length = action.length.min(size - action.offset);
                Deed::Map
            }
            _ => Deed::Write,
        };
    }

    fn choose_rename(&self, random: &mut Random, mut action: Action) -> Option<Action> {
        action.deed = Deed::Rename;
        let from = self.some(random, |index| self.names[index].is_some())?;
        let same = |index: usize| self.names[index] == self.names[from];
        let to = if from < DIRECTORIES {
            self.some(random, |index| index < DIRECTORIES && index != from && self.is_empty_directory(index))?
        } else if random.chance(25) {
            action.deed = Deed::Exchange;
            self.some(random, |index| index >= DIRECTORIES && self.names[index].is_some() && !same(index))?
        } else {
            // Two names of one file: rename does nothing.
            self.some(random, |index| index >= DIRECTORIES && self.has_parent(index) && !same(index))?
        };
        (action.path, action.other) = (from as u8, to as u8);
        Some(action)
    }
}

/// Writes as `pwrite` does.
pub fn put(data: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if data.len() < offset + new.len() {
        data.resize(offset + new.len(), 0);
    }
    data[offset..offset + new.len()].copy_from_slice(new);
}
