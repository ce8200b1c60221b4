//! A whole directory tree of a volume, to compare with another's.

use crate::volume::{Answer, Attributes, Subject, Volume};
use std::collections::BTreeMap;

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its attributes.
    pub attributes: Attributes,
    /// Content of a regular file, target of a symbolic link, nothing for others; or the errno of looking.
    pub content: Answer<Vec<u8>>,
    /// Extended attributes that programs gave it.
    pub extended: Answer<Extended>,
    /// The first path at which this inode was met: names of one file have it in common.
    pub first_name: Vec<u8>,
}

/// Names and values of extended attributes.
pub type Extended = Vec<(Vec<u8>, Vec<u8>)>;

/// Deepest directory that is walked; runs of random renames make deep chains.
const DEEPEST: usize = 60;

/// All files below `top` (empty: the volume's top), by path.
pub fn walk<V: Volume>(volume: &V, top: &[u8]) -> Answer<BTreeMap<Vec<u8>, Node>> {
    let mut nodes = BTreeMap::new();
    let mut known = BTreeMap::new();
    walk_into(volume, top, 0, &mut nodes, &mut known)?;
    Ok(nodes)
}

fn directory<V: Volume>(volume: &V, path: &[u8]) -> Answer<V::File> {
    let path = if path.is_empty() { b"." } else { path };
    volume.open(None, path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn walk_into<V: Volume>(
    volume: &V,
    path: &[u8],
    depth: usize,
    nodes: &mut BTreeMap<Vec<u8>, Node>,
    known: &mut BTreeMap<u64, Vec<u8>>,
) -> Answer<()> {
    let opened = directory(volume, path)?;
    let names = volume.list(opened);
    volume.close(opened)?;
    for (name, kind) in names? {
        let below = join(path, &name);
        let attributes = volume.stat(None, &below, false)?;
        if u32::from(kind) << 12 != attributes.kind() {
            return Err(libc::EUCLEAN);
        }
        let first_name = known.entry(attributes.number).or_insert_with(|| below.clone()).clone();
        let content = content(volume, &below, &attributes);
        let is_directory = attributes.kind() == libc::S_IFDIR;
        let extended = extended(volume, &below);
        nodes.insert(below.clone(), Node { attributes, content, extended, first_name });
        if is_directory && depth < DEEPEST {
            match walk_into(volume, &below, depth + 1, nodes, known) {
                Err(libc::EACCES) | Ok(()) => {}
                Err(other) => return Err(other),
            }
        }
    }
    Ok(())
}

fn content<V: Volume>(volume: &V, path: &[u8], attributes: &Attributes) -> Answer<Vec<u8>> {
    match attributes.kind() {
        libc::S_IFLNK => volume.readlink(None, path),
        libc::S_IFREG => {
            let file = volume.open(None, path, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
            let content = read_all(volume, file);
            volume.close(file)?;
            content
        }
        _ => Ok(Vec::new()),
    }
}

/// Those that programs set; security modules set others by themselves.
pub(crate) fn extended<V: Volume>(volume: &V, path: &[u8]) -> Answer<Extended> {
    let of = Subject::Path(None, path, false);
    let names = match volume.list_attributes(of) {
        Err(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let given = names.into_iter().filter(|name| name.starts_with(b"user.") || name.starts_with(b"trusted."));
    given.map(|name| volume.get_attribute(of, &name, 65536).map(|value| (name, value))).collect()
}

/// The whole content of an open file, wherever its offset is.
pub(super) fn read_all<V: Volume>(volume: &V, file: V::File) -> Answer<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let piece = volume.read(file, 1 << 20, Some(content.len() as u64))?;
        if piece.is_empty() {
            return Ok(content);
        }
        content.extend_from_slice(&piece);
    }
}

/// Removes everything below `path` (empty: the volume's top), but not itself.
pub fn remove_all<V: Volume>(volume: &V, path: &[u8]) -> Answer<()> {
    // As an ordinary user a directory without rights can be emptied only after it has some.
    let _ = volume.chmod(None, if path.is_empty() { b"." } else { path }, 0o700);
    let opened = directory(volume, path)?;
    let names = volume.list(opened);
    volume.close(opened)?;
    for (name, _) in names? {
        let below = join(path, &name);
        if volume.stat(None, &below, false)?.kind() == libc::S_IFDIR {
            remove_all(volume, &below)?;
            volume.rmdir(None, &below)?;
        } else {
            volume.unlink(None, &below)?;
        }
    }
    Ok(())
}

/// Nanoseconds of the year 2001: earlier times were set by a run, later ones came from the clock.
const CLOCK_TIMES: i64 = 978_307_200 * 1_000_000_000;

/// The first thing in which two attributes differ: type, mode, links, owner, device, size (not of directories, whose
/// sizes are each file system's own), and the time of change, exactly when it was set, else by kind.
pub(super) fn attributes_differ(ours: &Attributes, theirs: &Attributes) -> Option<String> {
    let say = |what: &str, ours: u64, theirs: u64| Some(format!("{what}: region {ours}, kernel {theirs}"));
    if ours.mode != theirs.mode {
        return Some(format!("mode: region {:o}, kernel {:o}", ours.mode, theirs.mode));
    }
    if ours.links != theirs.links {
        return say("links", ours.links, theirs.links);
    }
    if (ours.uid, ours.gid) != (theirs.uid, theirs.gid) {
        return Some(format!("owner: region {}:{}, kernel {}:{}", ours.uid, ours.gid, theirs.uid, theirs.gid));
    }
    if matches!(ours.kind(), libc::S_IFCHR | libc::S_IFBLK) && ours.device != theirs.device {
        return say("device", ours.device, theirs.device);
    }
    if ours.kind() != libc::S_IFDIR && ours.size != theirs.size {
        return say("size", ours.size, theirs.size);
    }
    let set = theirs.modified < CLOCK_TIMES;
    if (set && ours.modified != theirs.modified) || (!set && ours.modified < CLOCK_TIMES) {
        return Some(format!("time of change: region {}, kernel {}", ours.modified, theirs.modified));
    }
    None
}

fn first_difference(ours: &[u8], theirs: &[u8]) -> String {
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    let show = |bytes: &[u8]| bytes.get(at).map_or("end".to_string(), |byte| format!("{byte:#04x}"));
    format!(
        "content: {} and {} bytes, first difference at {at}: region {}, kernel {}",
        ours.len(),
        theirs.len(),
        show(ours),
        show(theirs)
    )
}

fn nodes_differ(ours: &Node, theirs: &Node) -> Option<String> {
    if let Some(text) = attributes_differ(&ours.attributes, &theirs.attributes) {
        return Some(text);
    }
    if ours.first_name != theirs.first_name && ours.attributes.kind() != libc::S_IFDIR {
        return Some(format!(
            "names of one file: region with {:?}, kernel with {:?}",
            String::from_utf8_lossy(&ours.first_name),
            String::from_utf8_lossy(&theirs.first_name)
        ));
    }
    if ours.extended != theirs.extended {
        let names = |extended: &Answer<Extended>| match extended {
            Ok(given) => format!("{:?}", given.iter().map(|(name, value)| (name, value.len())).collect::<Vec<_>>()),
            Err(error) => format!("error {error}"),
        };
        return Some(format!(
            "extended attributes: region {}, kernel {}",
            names(&ours.extended),
            names(&theirs.extended)
        ));
    }
    match (&ours.content, &theirs.content) {
        (Ok(ours), Ok(theirs)) if ours != theirs => Some(first_difference(ours, theirs)),
        (Ok(_), Ok(_)) => None,
        (ours, theirs) if ours.as_ref().err() == theirs.as_ref().err() => None,
        (ours, theirs) => {
            Some(format!("reading: region {:?}, kernel {:?}", ours.as_ref().err(), theirs.as_ref().err()))
        }
    }
}

/// What differs between two trees, the region's first; `None` when nothing does.
pub fn compare(ours: &BTreeMap<Vec<u8>, Node>, theirs: &BTreeMap<Vec<u8>, Node>) -> Option<String> {
    for (path, node) in ours {
        let path_text = String::from_utf8_lossy(path);
        match theirs.get(path) {
            None => return Some(format!("{path_text:?} is only in the region")),
            Some(other) => {
                if let Some(text) = nodes_differ(node, other) {
                    return Some(format!("{path_text:?}: {text}"));
                }
            }
        }
    }
    let missing = theirs.keys().find(|path| !ours.contains_key(*path))?;
    Some(format!("{:?} is missing in the region", String::from_utf8_lossy(missing)))
}
