//! Bytes become calls on a file system; a plain model in memory says what each must answer.

use super::Target;
use crate::scratch::{ScratchRegion, check};
use crate::volume::{RegionVolume, Volume};
use lifeboat_fs::FileSystem;
use std::collections::BTreeMap;

const NAMES: [&str; 8] = ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e", "d"];
const LARGEST: u64 = 1 << 20;

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    /// Number of the file among the model's.
    File(usize),
}

/// What there must be.
#[derive(Default)]
struct Model {
    names: BTreeMap<&'static str, Kind>,
    files: Vec<Vec<u8>>,
}

impl Model {
    /// The directory above a name, as an errno if there is none.
    fn above(&self, name: &str) -> Result<(), i32> {
        let Some((above, _)) = name.rsplit_once('/') else { return Ok(()) };
        self.above(above)?;
        match self.names.get(above) {
            None => Err(libc::ENOENT),
            Some(Kind::File(_)) => Err(libc::ENOTDIR),
            Some(Kind::Directory) => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Result<Kind, i32> {
        self.above(name)?;
        self.names.get(name).cloned().ok_or(libc::ENOENT)
    }

    fn has_below(&self, name: &str) -> bool {
        self.names.keys().any(|other| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
    }

    fn file(&self, name: &str) -> Result<usize, i32> {
        match self.find(name)? {
            Kind::File(index) => Ok(index),
            Kind::Directory => Err(libc::EISDIR),
        }
    }

    fn create(&mut self, name: &'static str) -> Result<usize, i32> {
        match self.find(name) {
            Ok(Kind::File(index)) => Ok(index),
            Ok(Kind::Directory) => Err(libc::EISDIR),
            Err(libc::ENOENT) => {
                self.above(name)?;
                self.files.push(Vec::new());
                self.names.insert(name, Kind::File(self.files.len() - 1));
                Ok(self.files.len() - 1)
            }
            Err(error) => Err(error),
        }
    }
}

pub struct Operations {
    region: ScratchRegion,
    files: Option<FileSystem>,
    runs: u64,
}

impl Operations {
    pub fn new() -> Self {
        let region = ScratchRegion::new("fuzz-calls", 32 << 20);
        let files = Some(region.attach());
        Self { region, files, runs: 0 }
    }
}

fn expect<T: std::fmt::Debug + PartialEq>(
    what: &str,
    found: Result<T, i32>,
    must: Result<T, i32>,
) -> Result<(), String> {
    if found == must { Ok(()) } else { Err(format!("{what} answers {found:?}, must {must:?}")) }
}

/// Offsets that lie around the edges of pieces.
fn offset(byte: u8) -> u64 {
    let edge = [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 131_072, 300_000][usize::from(byte >> 4) % 10];
    (edge + u64::from(byte & 15) * 3).min(LARGEST)
}

fn one(volume: &RegionVolume<'_>, model: &mut Model, [call, first, second, third]: [u8; 4]) -> Result<(), String> {
    let (name, other) = (NAMES[usize::from(first & 7)], NAMES[usize::from(second & 7)]);
    let (path, at) = (name.as_bytes(), offset(third));
    match call % 10 {
        0 | 1 => {
            let flags = libc::O_CREAT | libc::O_RDWR;
            let file = volume.open(None, path, flags, 0o644);
            let must = model.create(name);
            expect("open", file.map(drop), must.map(drop))?;
            if let (Ok(file), Ok(index)) = (file, must) {
                let data: Vec<u8> = (0..=second).flat_map(|byte| [byte, call, third]).collect();
                expect("write", volume.write(file, &data, Some(at)), Ok(data.len()))?;
                let content = &mut model.files[index];
                let end = at as usize + data.len();
                content.resize(content.len().max(end), 0);
                content[at as usize..end].copy_from_slice(&data);
                volume.close(file).map_err(|error| format!("close: {error}"))?;
            }
            Ok(())
        }
        2 | 3 => {
            let must = model.file(name);
            let found = volume.open(None, path, libc::O_RDONLY, 0);
            match (found, must) {
                (Ok(file), Ok(index)) => {
                    let length = usize::from(second) * 700;
                    let content = &model.files[index];
                    let must = content.get(at as usize..).unwrap_or_default();
                    let must = must[..must.len().min(length)].to_vec();
                    let read = volume.read(file, length, Some(at));
                    let _ = volume.close(file);
                    if read.as_ref() == Ok(&must) { Ok(()) } else { Err(format!("{name}: other bytes at {at}")) }
                }
                (Ok(file), Err(libc::EISDIR)) => volume.close(file).map_err(|error| format!("close: {error}")),
                (found, must) => expect("open to read", found.map(drop), must.map(drop)),
            }
        }
        4 => {
            let must = model.file(name);
            expect("truncate", volume.truncate(None, path, at), must.map(drop))?;
            if let Ok(index) = must {
                model.files[index].resize(at as usize, 0);
            }
            Ok(())
        }
        5 => {
            let must = match (model.above(name), model.names.contains_key(name)) {
                (Err(error), _) => Err(error),
                (_, true) => Err(libc::EEXIST),
                _ => Ok(()),
            };
            expect("mkdir", volume.mkdir(None, path, 0o755), must)?;
            if must.is_ok() {
                model.names.insert(name, Kind::Directory);
            }
            Ok(())
        }
        6 => {
            let must = model.file(name);
            expect("unlink", volume.unlink(None, path), must.map(drop))?;
            if must.is_ok() {
                model.names.remove(name);
            }
            Ok(())
        }
        7 => {
            let must = match model.find(name) {
                Err(error) => Err(error),
                Ok(Kind::File(_)) => Err(libc::ENOTDIR),
                Ok(_) if model.has_below(name) => Err(libc::ENOTEMPTY),
                Ok(_) => Ok(()),
            };
            expect("rmdir", volume.rmdir(None, path), must)?;
            if must.is_ok() {
                model.names.remove(name);
            }
            Ok(())
        }
        8 => {
            // Errors have an order of their own, which other harnesses compare: here only files are renamed and linked.
            let (Ok(index), Ok(())) = (model.file(name), model.above(other)) else { return Ok(()) };
            if matches!(model.names.get(other), Some(Kind::Directory)) {
                return Ok(());
            }
            expect("rename", volume.rename(None, path, other.as_bytes(), 0), Ok(()))?;
            let same = matches!(model.names.get(other), Some(Kind::File(there)) if *there == index);
            if !same {
                model.names.remove(name);
                model.names.insert(other, Kind::File(index));
            }
            Ok(())
        }
        _ => {
            let (Ok(index), Ok(())) = (model.file(name), model.above(other)) else { return Ok(()) };
            let must = if model.names.contains_key(other) { Err(libc::EEXIST) } else { Ok(()) };
            expect("link", volume.link(None, path, other.as_bytes(), false), must)?;
            if must.is_ok() {
                model.names.insert(other, Kind::File(index));
            }
            Ok(())
        }
    }
}

impl Target for Operations {
    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let Some(files) = &self.files else { return Err("no region".into()) };
        let mut model = Model::default();
        {
            let volume = RegionVolume::over(files, b"").map_err(|error| error.to_string())?;
            for (number, bytes) in input.chunks_exact(4).take(200).enumerate() {
                one(&volume, &mut model, [bytes[0], bytes[1], bytes[2], bytes[3]])
                    .map_err(|text| format!("call {number}: {text}"))?;
            }
            // All away again, the deepest first.
            for (name, kind) in model.names.iter().rev() {
                let removed = match kind {
                    Kind::Directory => volume.rmdir(None, name.as_bytes()),
                    Kind::File(_) => volume.unlink(None, name.as_bytes()),
                };
                removed.map_err(|error| format!("removing {name}: {error}"))?;
            }
        }
        self.runs += 1;
        if self.runs.is_multiple_of(64) {
            let checked = check(files);
            if !checked.is_clean() {
                return Err(checked.to_string());
            }
            self.files = None;
            self.files = Some(self.region.attach());
        }
        Ok(())
    }
}
