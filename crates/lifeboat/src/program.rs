//! Looking at the program that `exec` is to run.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

/// The file that the kernel would run for `program`, if there is one.
pub fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Why the interception library will not be loaded into a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// It is linked statically: there is no dynamic linker to load anything.
    Static,
    /// It runs with another user's or group's rights, and the dynamic linker refuses.
    Privileged,
}

/// Whether the mount is invisible to the program in `file`. What cannot be read or is a script counts as able to see it.
pub fn is_blind(file: &std::path::Path) -> Option<Blind> {
    let file = File::open(file).ok()?;
    let metadata = file.metadata().ok()?;
    if metadata.permissions().mode() & 0o6000 != 0 && !rustix::process::geteuid().is_root() {
        return Some(Blind::Privileged);
    }
    is_static(&file)?.then_some(Blind::Static)
}

/// Whether this is an ELF program without an interpreter.
fn is_static(mut file: &File) -> Option<bool> {
    const PROGRAM_HEADER: usize = 56;
    const PT_INTERP: u32 = 3;
    let mut header = [0; 64];
    file.read_exact(&mut header).ok()?;
    // 64 bits, little-endian: all that the library is built for.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64::from_le_bytes(header[32..40].try_into().ok()?);
    let size = usize::from(u16::from_le_bytes([header[54], header[55]]));
    let count = u16::from_le_bytes([header[56], header[57]]);
    if size < PROGRAM_HEADER {
        return None;
    }
    for index in 0..u64::from(count) {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, table.checked_add(index * size as u64)?).ok()?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_static_program_is_told_from_a_dynamic_one() {
        assert_eq!(is_blind(&std::fs::canonicalize("/bin/sh").unwrap()), None);
        assert_eq!(is_blind(&env::current_exe().unwrap()), None);
        // A library is no program, but has no interpreter either: the simplest file of that shape.
        let mut header = [0u8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[54] = 56;
        let path = env::temp_dir().join(format!("lifeboat-static-{}", std::process::id()));
        std::fs::write(&path, header).unwrap();
        let found = is_blind(&path);
        std::fs::write(&path, b"#!/bin/sh\n").unwrap();
        let script = is_blind(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!((found, script), (Some(Blind::Static), None));
        assert_eq!(is_blind(Path::new("/no/such/file")), None);
    }

    #[test]
    fn programs_are_found_as_the_kernel_finds_them() {
        assert!(find(OsStr::new("sh")).is_some_and(|path| path.is_absolute()));
        assert_eq!(find(OsStr::new("no-such-program")), None);
        assert_eq!(find(OsStr::new("/tmp")), None);
    }
}
