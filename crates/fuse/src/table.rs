//! The kernel's table of mounts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type of our mounts in the kernel's table.
pub(crate) const TYPE: &str = "fuse.lifeboat";

/// A mounted region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedRegion {
    /// Where.
    pub at: PathBuf,
    /// Absolute path of the region's directory.
    pub region: PathBuf,
}

/// The region that is mounted at `path` in this mount namespace, alive or not.
pub fn mounted_at(path: &Path) -> Option<MountedRegion> {
    let path = real_path(path);
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    // The last one is on top of the others.
    let topmost =
        table.split(|&byte| byte == b'\n').rev().find_map(|line| parse(line).filter(|(at, ..)| *at == path))?;
    let (at, kind, source) = topmost;
    (kind == TYPE.as_bytes()).then_some(MountedRegion { at, region: source })
}

/// The path as the kernel's table has it. The last component is not looked at: what served it may be dead.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_path_buf(),
    }
}

/// `id parent device root PLACE options [more ...] - TYPE SOURCE options`
fn parse(line: &[u8]) -> Option<(PathBuf, Vec<u8>, PathBuf)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let place = fields.nth(4)?;
    fields.find(|field| *field == b"-")?;
    let (kind, source) = (fields.next()?, fields.next()?);
    Some((path(place), kind.to_vec(), path(source)))
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read_whatever_its_path_holds() {
        let line = br"97 61 0:52 / /mnt/a\040b\134 rw,nosuid - fuse.lifeboat /dev/shm/lifeboat-0/x rw,user_id=0";
        let (at, kind, region) = parse(line).unwrap();
        assert_eq!((at.as_path(), kind.as_slice()), (Path::new("/mnt/a b\\"), TYPE.as_bytes()));
        assert_eq!(region, Path::new("/dev/shm/lifeboat-0/x"));
        let with_tags = b"97 61 0:52 / /m rw shared:3 master:1 - tmpfs none rw";
        assert_eq!(parse(with_tags).unwrap().1, b"tmpfs");
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 2 3"), None);
        assert_eq!(unescape(br"\04"), br"\04");
    }
}
