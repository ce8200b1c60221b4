//! Bytes become what people and other processes write: names, notes of keepers and mounts, superblocks, limits.

use super::Target;
use crate::scratch::ScratchDirectory;
use lifeboat_kernels::tuning;
use lifeboat_region::carrier::keeper::KeeperNote;
use lifeboat_region::layout::Geometry;
use lifeboat_region::place::{RegionDirectory, RegionName};
use lifeboat_region::superblock::{ENCODED, Superblock};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub struct Configuration {
    /// Removed with everything in it.
    _place: ScratchDirectory,
    /// The directory of a region.
    region: PathBuf,
}

impl Configuration {
    pub fn new() -> Self {
        let place = ScratchDirectory::on_tmpfs("fuzz-text");
        let region = place.make("region");
        for directory in [place.path(), &region] {
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(directory, private).expect("rights of our directory");
        }
        Self { _place: place, region }
    }

    fn note(&self, name: &str, text: &[u8]) -> Result<RegionDirectory, String> {
        let path = self.region.join(name);
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(|error| error.to_string())?;
        RegionDirectory::open(self.region.as_os_str().as_bytes()).map_err(|error| error.to_string())
    }
}

/// A name that is accepted can be part of a path and of a message.
fn name(text: &[u8]) -> Result<(), String> {
    match RegionName::new(text) {
        Ok(name) if name.as_bytes() != text || text.contains(&b'/') || text.contains(&0) || text.is_empty() => {
            Err(format!("a region may be called {:?}", name.as_str()))
        }
        Ok(_) if text == b"." || text == b".." => Err("a region may be called `..`".into()),
        _ => Ok(()),
    }
}

fn superblock(text: &[u8]) -> Result<(), String> {
    let mut bytes = [0; ENCODED];
    let length = text.len().min(ENCODED);
    bytes[..length].copy_from_slice(&text[..length]);
    match Superblock::decode(&bytes, 16 << 20) {
        Ok(found) if Some(found.geometry) != Geometry::of(16 << 20) => Err("tables in other places".into()),
        Ok(_) if length < ENCODED => Err("half a superblock counts".into()),
        _ => Ok(()),
    }
}

impl Target for Configuration {
    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let Some((kind, text)) = input.split_first() else { return Ok(()) };
        match kind % 6 {
            0 => name(text),
            1 => {
                let directory = self.note("keeper", text)?;
                let seen = KeeperNote::read(&directory);
                // Somebody who is not there, or is not a keeper, is never believed to keep.
                if seen.is_some_and(|note| note.is_alive() && note.is_visible()) && !text.starts_with(b"1 ") {
                    let own = std::process::id().to_string();
                    return match text.starts_with(own.as_bytes()) {
                        true => Ok(()),
                        false => Err("a process that is no keeper counts as one".into()),
                    };
                }
                Ok(())
            }
            2 => {
                let directory = self.note("mounts", text)?;
                let mut count = 0_usize;
                let listed = directory.for_each_mount(&mut |note| {
                    let _ = note.is_alive();
                    count += 1;
                    true
                });
                let _ = listed.map_err(|error| error.to_string());
                if count > text.len() { Err("more mounts than lines".into()) } else { Ok(()) }
            }
            3 => {
                let directory = self.note("covers", text)?;
                let mut count = 0_usize;
                let listed = directory.for_each_cover(&mut |_| {
                    count += 1;
                    true
                });
                let _ = listed.map_err(|error| error.to_string());
                if count > text.len() { Err("more covers than lines".into()) } else { Ok(()) }
            }
            4 => superblock(text),
            _ => {
                let known = [b"scalar".as_slice(), b"avx2", b"avx512"];
                match tuning::limit_level_to(text) {
                    Ok(()) => {
                        tuning::limit_level(None);
                        if known.contains(&text) || text.is_empty() { Ok(()) } else { Err(format!("level {text:?}")) }
                    }
                    Err(_) => Ok(()),
                }
            }
        }
    }
}
