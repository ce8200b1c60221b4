//! What a damaged region answers: read, used, checked, repaired.

use super::population::Node;
use crate::volume::{RegionVolume, Volume};
use lifeboat_fs::FileSystem;
use std::collections::{BTreeMap, BTreeSet};

/// How much of a file is read at a time.
const PIECE: usize = 100_000;
const EUCLEAN: i32 = 117;

/// What reading everything gave.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Names that lead to what they must.
    pub right: BTreeSet<String>,
    /// Names that answered an error, with its number.
    pub errors: BTreeMap<String, i32>,
    /// Names that lead to something else: shorter or longer, another type, another target.
    pub other: BTreeSet<String>,
    /// Bytes that are neither the file's own nor zero: never allowed.
    pub foreign: Vec<String>,
    /// Whole blocks of the file's own, in another place of it: allowed only as long as the check names something.
    pub displaced: Vec<String>,
}

/// Reads every name that there must be, and lists every directory.
pub fn read_all(files: &FileSystem, names: &BTreeMap<String, Node>) -> Reading {
    let mut reading = Reading::default();
    let Ok(volume) = RegionVolume::for_everything(files) else {
        reading.errors.insert(".".into(), EUCLEAN);
        return reading;
    };
    for (path, node) in names {
        let found = match node {
            Node::Directory => read_directory(&volume, path, names),
            Node::Link(target) => volume.readlink(None, path.as_bytes()).map(|found| found == *target),
            Node::File(runs, size) => read_file(&volume, path, runs, *size, &mut reading),
        };
        match found {
            Ok(true) => {
                reading.right.insert(path.clone());
            }
            Ok(false) => {
                reading.other.insert(path.clone());
            }
            Err(error) => {
                reading.errors.insert(path.clone(), error);
            }
        }
        let _ = volume.list_attributes(crate::volume::Subject::Path(None, path.as_bytes(), false));
    }
    reading
}

/// Whether a file or link that has lost its name, and all that said what it was called, is there by its number.
pub fn is_found_by_number(files: &FileSystem, node: &Node) -> bool {
    const PLACE: &str = "lost+found";
    let Ok(volume) = RegionVolume::for_everything(files) else { return false };
    let Ok(open) = volume.open(None, PLACE.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0) else { return false };
    let listed = volume.list(open).unwrap_or_default();
    let _ = volume.close(open);
    listed.iter().any(|(name, _)| {
        let path = format!("{PLACE}/{}", String::from_utf8_lossy(name));
        let found = match node {
            Node::Directory => Ok(false),
            Node::Link(target) => volume.readlink(None, path.as_bytes()).map(|found| found == *target),
            Node::File(runs, size) => read_file(&volume, &path, runs, *size, &mut Reading::default()),
        };
        found == Ok(true)
    })
}

fn read_directory(volume: &RegionVolume<'_>, path: &str, names: &BTreeMap<String, Node>) -> Result<bool, i32> {
    let open = volume.open(None, path.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let listed = volume.list(open);
    let _ = volume.close(open);
    let listed: BTreeSet<Vec<u8>> = listed?.into_iter().map(|(name, _)| name).collect();
    let below = |name: &&String| {
        let rest = name.strip_prefix(path).and_then(|rest| rest.strip_prefix('/'));
        rest.filter(|rest| !rest.contains('/')).map(|rest| rest.as_bytes().to_vec())
    };
    let wanted: BTreeSet<Vec<u8>> = names.keys().filter_map(|name| below(&name)).collect();
    Ok(wanted.is_subset(&listed))
}

fn read_file(
    volume: &RegionVolume<'_>,
    path: &str,
    runs: &[(u64, Vec<u8>)],
    size: u64,
    reading: &mut Reading,
) -> Result<bool, i32> {
    let open = volume.open(None, path.as_bytes(), libc::O_RDONLY, 0)?;
    let mut same = volume.stat_open(open).map(|found| found.size == size);
    for (start, data) in runs {
        let mut at = 0;
        while at < data.len() {
            let here = (data.len() - at).min(PIECE);
            let found = match volume.read(open, here, Some(start + at as u64)) {
                Ok(found) => found,
                Err(error) => {
                    same = Err(error);
                    break;
                }
            };
            if found != data[at..at + here] {
                let wrong = found.iter().zip(&data[at..]).position(|(is, must)| is != must && *is != 0);
                if let Some(wrong) = wrong {
                    let at = start + (at + wrong) as u64;
                    match shows_own_block(volume, open, runs, at) {
                        true => reading.displaced.push(format!("{path}: byte {at} is of another place of the file")),
                        false => reading.foreign.push(format!("{path}: byte {at} is nobody's to show")),
                    }
                }
                same = same.map(|_| false);
                break;
            }
            at += here;
        }
    }
    // Beyond the end, and in a hole, is nothing.
    for at in [size, size + 70_000, 20 << 20] {
        let covered = runs.iter().any(|(start, data)| (*start..start + data.len() as u64 + 1).contains(&(at + 1)));
        if !covered
            && let Ok(found) = volume.read(open, 5000, Some(at))
            && found.iter().any(|byte| *byte != 0)
        {
            reading.foreign.push(format!("{path}: bytes at {at} are nobody's to show"));
        }
    }
    let _ = volume.close(open);
    same
}

/// Whether the block that byte `at` lies in shows a whole block of the file, though not its own: a damaged map word led to
/// another place of the same file. (Reading compares no checksums.)
fn shows_own_block(volume: &RegionVolume<'_>, open: lifeboat_fs::OpenFile, runs: &[(u64, Vec<u8>)], at: u64) -> bool {
    const BLOCK: u64 = 4096;
    let Ok(found) = volume.read(open, BLOCK as usize, Some(at / BLOCK * BLOCK)) else { return false };
    let blocks = runs.iter().flat_map(|(start, data)| start / BLOCK..(start + data.len() as u64).div_ceil(BLOCK));
    !found.is_empty() && blocks.into_iter().any(|block| own_block(runs, block * BLOCK, BLOCK).starts_with(&found))
}

/// What the file has in the block at `from`.
fn own_block(runs: &[(u64, Vec<u8>)], from: u64, length: u64) -> Vec<u8> {
    let mut block = vec![0; length as usize];
    for (start, data) in runs {
        let (first, end) = (from.max(*start), (from + length).min(start + data.len() as u64));
        if first < end {
            let piece = &data[(first - start) as usize..(end - start) as usize];
            block[(first - from) as usize..(end - from) as usize].copy_from_slice(piece);
        }
    }
    block
}

/// Uses the region in many ways; answers may be anything, ends must come.
pub fn use_it(files: &FileSystem) -> u32 {
    let Ok(volume) = RegionVolume::for_everything(files) else { return 0 };
    let mut done = 0;
    let mut count = |result: Result<(), i32>| done += u32::from(result.is_ok());
    for name in ["new", "many/new", "deep/er/new"] {
        let path = name.as_bytes();
        if let Ok(file) = volume.open(None, path, libc::O_CREAT | libc::O_RDWR, 0o644) {
            count(volume.write(file, &[7; 70_000], Some(3000)).map(drop));
            count(volume.truncate_open(file, 5000));
            count(volume.close(file));
        }
        count(volume.rename(None, path, b"deep/newer", 0));
        count(volume.unlink(None, b"deep/newer"));
        let _ = volume.unlink(None, path);
    }
    count(volume.mkdir(None, b"many/dir", 0o755));
    count(volume.rename(None, b"many/dir", b"deep/dir", 0));
    count(volume.rmdir(None, b"deep/dir"));
    let _ = volume.rmdir(None, b"many/dir");
    count(volume.symlink(b"x", None, b"empty/link"));
    count(volume.unlink(None, b"empty/link"));
    if let Ok(file) = volume.open(None, b"scratch", libc::O_CREAT | libc::O_RDWR | libc::O_APPEND, 0o644) {
        count(volume.write(file, &[9; 10_000], None).map(drop));
        count(volume.allocate(file, 3, 0, 4096));
        count(volume.close(file));
    }
    count(volume.unlink(None, b"scratch"));
    count(files.sweep().map(drop).map_err(|error| error.raw_os_error()));
    done
}
