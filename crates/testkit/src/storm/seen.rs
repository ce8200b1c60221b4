//! What is there of one writer's own, and whether it may be: everything that returned, and of the one action that a death
//! interrupted what `docs/reliability.md` allows.

use super::action::{Action, Deed};
use super::tree::{ALL, Content, Node, PATHS, Tree, path, target};
use crate::random::bytes;
use crate::volume::{Answer, RegionVolume, Subject, Volume};
use std::collections::BTreeMap;

/// The extended attribute that writers set.
pub const ATTRIBUTE: &[u8] = b"user.storm";

/// What a path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Directory,
    Link(Vec<u8>),
    /// Inode number, links, content.
    File(u64, u64, Content),
}

/// What is there.
#[derive(Clone, Debug)]
pub struct Seen([Option<Shown>; PATHS]);

fn absent<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(libc::ENOENT | libc::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All bytes of a file, which must be as many as its size says.
pub fn read_all(volume: &impl Volume, name: &[u8]) -> Answer<Vec<u8>> {
    let file = volume.open(None, name, libc::O_RDONLY, 0)?;
    let mut data = Vec::new();
    let read = loop {
        match volume.read(file, 256 << 10, Some(data.len() as u64)) {
            Ok(piece) if piece.is_empty() => break Ok(()),
            Ok(piece) => data.extend_from_slice(&piece),
            Err(error) => break Err(error),
        }
    };
    volume.close(file)?;
    read.map(|()| data)
}

fn look(volume: &RegionVolume<'_>, name: &str) -> Result<Option<Shown>, String> {
    let failed = |what: &str, error: i32| format!("{what} {name}: errno {error}");
    let bytes = name.as_bytes();
    let Some(stat) = absent(volume.stat(None, bytes, false)).map_err(|error| failed("stat", error))? else {
        return Ok(None);
    };
    match stat.kind() {
        libc::S_IFDIR => return Ok(Some(Shown::Directory)),
        libc::S_IFLNK => {
            let text = volume.readlink(None, bytes).map_err(|error| failed("readlink", error))?;
            return Ok(Some(Shown::Link(text)));
        }
        _ => {}
    }
    let data = read_all(volume, bytes).map_err(|error| failed("read", error))?;
    if data.len() as u64 != stat.size {
        return Err(format!("{name} has {} bytes to read, but says {}", data.len(), stat.size));
    }
    let of = Subject::Path(None, bytes, false);
    let attribute = match volume.get_attribute(of, ATTRIBUTE, 65_536) {
        Ok(value) => Some(value),
        Err(libc::ENODATA) => None,
        Err(error) => return Err(failed("attribute of", error)),
    };
    let file = volume.open(None, bytes, libc::O_RDONLY, 0).map_err(|error| failed("open", error))?;
    let report = volume.files().inode_of(file).and_then(|inode| volume.files().verify(inode));
    let _ = volume.close(file);
    let report = report.map_err(|error| failed("verify", error.raw_os_error()))?;
    if report.bad != 0 {
        return Err(format!("{name} has {} blocks with a wrong checksum: {report:?}", report.bad));
    }
    let content = Content { data, mode: stat.mode & 0o7777, sealed: report.sealed, attribute };
    Ok(Some(Shown::File(stat.number, stat.links, content)))
}

impl Seen {
    /// Everything of this writer's.
    pub fn of(volume: &RegionVolume<'_>, writer: usize) -> Result<Self, String> {
        let mut shown = [const { None }; PATHS];
        for (index, place) in shown.iter_mut().enumerate() {
            *place = look(volume, &path(writer, index))?;
        }
        let seen = Self(shown);
        seen.nothing_else(volume, writer)?;
        Ok(seen)
    }

    /// No name is there that the writer never made.
    fn nothing_else(&self, volume: &RegionVolume<'_>, writer: usize) -> Result<(), String> {
        let known: Vec<String> = (0..PATHS).map(|index| path(writer, index)).collect();
        let mut directories = vec![format!("w{writer}"), ALL.to_string()];
        directories.extend((0..3).filter(|&index| self.0[index].is_some()).map(|index| path(writer, index)));
        for directory in directories {
            let failed = |error: i32| format!("list {directory}: errno {error}");
            let open =
                volume.open(None, directory.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0).map_err(failed)?;
            let names = volume.list(open).map_err(failed)?;
            volume.close(open).map_err(failed)?;
            for (name, _) in names {
                let name = format!("{directory}/{}", String::from_utf8_lossy(&name));
                let ours = directory != ALL || name.starts_with(&format!("{ALL}/w{writer}-"));
                if ours && !known.contains(&name) {
                    return Err(format!("{name} is there, which nobody made"));
                }
            }
        }
        Ok(())
    }

    /// Compares with a tree. For the file whose bytes may differ, `bends` says whether they may be as they are.
    fn is(&self, tree: &Tree, bends: &dyn Fn(u32, &Content, &Content) -> bool) -> Result<(), String> {
        let mut numbers = BTreeMap::new();
        for (index, shown) in self.0.iter().enumerate() {
            let fits = match (shown, tree.names[index]) {
                (None, None) | (Some(Shown::Directory), Some(Node::Directory)) => true,
                (Some(Shown::Link(text)), Some(Node::Link(tag))) => *text == target(tag).into_bytes(),
                (Some(Shown::File(number, links, content)), Some(Node::File(id))) => {
                    let names = tree.names.iter().filter(|node| **node == Some(Node::File(id))).count();
                    let same_file = *numbers.entry(id).or_insert(*number) == *number;
                    let wanted = &tree.files[&id];
                    if *links != names as u64 || !same_file {
                        return Err(format!("path {index}: {links} links for {names} names, one file: {same_file}"));
                    }
                    content == wanted || bends(id, wanted, content)
                }
                _ => false,
            };
            if !fits {
                return Err(format!("path {index}: {}, wanted {}", brief(shown), brief_node(tree, index)));
            }
        }
        Ok(())
    }

    /// Whether it is exactly this.
    pub fn equals(&self, tree: &Tree) -> Result<(), String> {
        self.is(tree, &|_, _, _| false)
    }

    /// After a death in the middle of `action`: what the tree is then. An error when that is nothing that a death may leave.
    pub fn after_death(&self, before: &Tree, action: &Action) -> Result<Tree, String> {
        let mut done = before.clone();
        done.apply(action);
        let mut candidates = vec![done, before.clone()];
        let touched = before.file(usize::from(action.path)).map(|(id, _)| id);
        if let Some(id) = touched.filter(|_| action.opens_for_writing()) {
            let mut unsealed = before.clone();
            if let Some(content) = unsealed.files.get_mut(&id) {
                content.sealed = false;
            }
            candidates.push(unsealed);
        }
        let mut first = String::new();
        for mut tree in candidates {
            let bends =
                |id: u32, wanted: &Content, found: &Content| Some(id) == touched && mixes(action, wanted, found);
            match self.is(&tree, &bends) {
                Ok(()) => {
                    self.adopt(&mut tree);
                    return Ok(tree);
                }
                Err(text) if first.is_empty() => first = text,
                Err(_) => {}
            }
        }
        Err(format!("{action:?} was interrupted and left something else than before or after: {first}"))
    }

    /// Bytes that may be one or the other are from now on what they are.
    fn adopt(&self, tree: &mut Tree) {
        for (index, shown) in self.0.iter().enumerate() {
            if let (Some(Shown::File(_, _, content)), Some(Node::File(id))) = (shown, tree.names[index]) {
                tree.files.insert(id, content.clone());
            }
        }
    }
}

/// Whether `found` is what an interrupted write may leave of `old`: a mixture within its range, and behind the old end
/// only what was written, as far as the size says.
fn mixes(action: &Action, old: &Content, found: &Content) -> bool {
    let same = (old.mode, old.sealed, &old.attribute) == (found.mode, found.sealed, &found.attribute);
    let start = action.offset as usize;
    let end = start + action.length as usize;
    let new = match action.deed {
        Deed::Write | Deed::Map => bytes(action.tag, action.length as usize),
        Deed::Punch => vec![0; action.length as usize],
        _ => return false,
    };
    let longest = if action.deed == Deed::Write { end.max(old.data.len()) } else { old.data.len() };
    let fits = |(index, byte): (usize, &u8)| {
        let written = (start..end).contains(&index).then(|| new[index - start]);
        match old.data.get(index) {
            Some(before) => byte == before || Some(*byte) == written,
            None => *byte == written.unwrap_or(0),
        }
    };
    same && (old.data.len()..=longest).contains(&found.data.len()) && found.data.iter().enumerate().all(fits)
}

fn brief(shown: &Option<Shown>) -> String {
    match shown {
        None => "nothing".to_string(),
        Some(Shown::Directory) => "a directory".to_string(),
        Some(Shown::Link(text)) => format!("a link of {} bytes", text.len()),
        Some(Shown::File(_, links, content)) => format!("a file with {links} links, {}", brief_content(content)),
    }
}

fn brief_content(content: &Content) -> String {
    let sum = content.data.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let attribute = content.attribute.as_ref().map(Vec::len);
    format!(
        "{} bytes (sum {sum:x}), mode {:o}, sealed {}, attribute {attribute:?}",
        content.data.len(),
        content.mode,
        content.sealed
    )
}

fn brief_node(tree: &Tree, index: usize) -> String {
    match tree.names[index] {
        None => "nothing".to_string(),
        Some(Node::Directory) => "a directory".to_string(),
        Some(Node::Link(tag)) => format!("a link of {} bytes", target(tag).len()),
        Some(Node::File(id)) => format!("a file with {}", brief_content(&tree.files[&id])),
    }
}
