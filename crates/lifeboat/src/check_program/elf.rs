//! One program or library, as far as its calls are concerned.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use object::elf::{self, DT_FLAGS_1, DT_NEEDED, DT_RPATH, DT_RUNPATH, ET_CORE, ET_DYN, ET_EXEC, PF_X, PT_DYNAMIC};
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _};

use super::raw;
use crate::failure::{io_reason, shown};

/// A larger file is refused: it is read as a whole.
const LARGEST: u64 = 4 << 30;

/// What kind of machine code a file holds: class, byte order and machine of its header.
pub type Machine = [u8; 4];

/// What was found in a program or library.
#[derive(Debug)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// The folder in which it really lies, for `$ORIGIN`.
    pub origin: PathBuf,
    /// Bits and permissions, as `st_mode`.
    pub mode: u32,
    /// It has file capabilities.
    pub has_capabilities: bool,
    /// What machine it is for.
    pub machine: Machine,
    /// A program, not a library.
    pub is_program: bool,
    /// The dynamic linker that it asks for.
    pub interpreter: Option<String>,
    /// Names of the libraries that it needs.
    pub needed: Vec<Vec<u8>>,
    /// Folders in which its libraries and theirs are looked for first.
    pub rpath: Vec<u8>,
    /// Folders in which its own libraries are looked for; `rpath` is ignored then.
    pub runpath: Option<Vec<u8>>,
    /// Functions and data that it takes from others.
    pub undefined: BTreeSet<String>,
    /// Functions and data that others may take from it.
    pub defined: BTreeSet<String>,
    /// File calls that its machine code seems to make itself.
    pub raw_calls: BTreeSet<&'static str>,
    /// Compiled by Go, whose run-time makes system calls itself.
    pub is_go: bool,
}

/// Why a file cannot be examined.
#[derive(Debug)]
pub enum ReadError {
    /// The kernel refuses.
    Kernel(std::io::Error),
    /// No regular file.
    NotAFile(&'static str),
    /// A script, and what runs it.
    Script(String),
    /// A regular file, but no program.
    NotAProgram(&'static str),
    /// It ends early or contradicts itself; what is wrong.
    Damaged(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Kernel(error) => out.write_str(&io_reason(error)),
            ReadError::NotAFile(kind) => write!(out, "it is a {kind}; name a program"),
            ReadError::Script(interpreter) => write!(out, "it is a script; check what runs it: {interpreter}"),
            ReadError::NotAProgram(what) => write!(out, "it is {what}; name a program or a shared library"),
            ReadError::Damaged(why) => write!(out, "the program is cut short or damaged: {why}"),
        }
    }
}

/// Reads a program or library.
///
/// # Errors
/// What is neither, or cannot be read.
pub fn read(path: &Path) -> Result<Image, ReadError> {
    let (bytes, mode) = read_bytes(path)?;
    let machine = identify(&bytes)?;
    let has_capabilities =
        rustix::fs::getxattr(path.as_os_str().as_bytes(), "security.capability", &mut [0u8; 64][..]).is_ok();
    let real = path.canonicalize().map_err(ReadError::Kernel)?;
    let origin = real.parent().unwrap_or(Path::new("/")).to_path_buf();
    let mut image = Image {
        path: path.to_path_buf(),
        origin,
        mode,
        has_capabilities,
        machine,
        is_program: true,
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: None,
        undefined: BTreeSet::new(),
        defined: BTreeSet::new(),
        raw_calls: BTreeSet::new(),
        is_go: false,
    };
    // 32 bits: it is enough to know.
    if machine[0] == elf::ELFCLASS64.0 {
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).map_err(damaged)?;
        fill(&mut image, &file)?;
    }
    Ok(image)
}

fn damaged(error: object::Error) -> ReadError {
    ReadError::Damaged(error.to_string())
}

fn read_bytes(path: &Path) -> Result<(Vec<u8>, u32), ReadError> {
    // A FIFO without a writer must not stop us before it has been seen to be one.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(ReadError::Kernel)?;
    let metadata = file.metadata().map_err(ReadError::Kernel)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile(crate::output::kind(metadata.mode())));
    }
    if metadata.len() > LARGEST {
        return Err(ReadError::NotAProgram("larger than 4 GiB"));
    }
    // What is no program need not be read to its end.
    let mut bytes = Vec::new();
    (&mut file).take(4096).read_to_end(&mut bytes).map_err(ReadError::Kernel)?;
    identify(&bytes)?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(ReadError::Kernel)?;
    Ok((bytes, metadata.mode()))
}

/// The machine in the header of a program or library.
fn identify(bytes: &[u8]) -> Result<Machine, ReadError> {
    if let Some(line) = bytes.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return Err(ReadError::Script(shown(line.trim_ascii())));
    }
    if bytes.is_empty() {
        return Err(ReadError::NotAProgram("empty"));
    }
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(ReadError::NotAProgram("neither a program nor a library (no ELF file)"));
    }
    let header = bytes.get(..20).ok_or_else(|| ReadError::Damaged("its header is not whole".into()))?;
    let (class, order) = (header[4], header[5]);
    let is_known = (class == elf::ELFCLASS32.0 || class == elf::ELFCLASS64.0) && (order == 1 || order == 2);
    if !is_known {
        return Err(ReadError::Damaged("class or byte order in its header is unknown".into()));
    }
    let word = |at: usize| match order {
        1 => u16::from_le_bytes([header[at], header[at + 1]]),
        _ => u16::from_be_bytes([header[at], header[at + 1]]),
    };
    match elf::FileType(word(16)) {
        ET_EXEC | ET_DYN => Ok([class, order, header[18], header[19]]),
        ET_CORE => Err(ReadError::NotAProgram("a core dump")),
        elf::ET_REL => Err(ReadError::NotAProgram("an object file that is not linked yet")),
        _ => Err(ReadError::NotAProgram("an ELF file of an unknown kind")),
    }
}

type File64<'a> = ElfFile64<'a, Endianness>;

fn fill(image: &mut Image, file: &File64<'_>) -> Result<(), ReadError> {
    let (order, data) = (file.endian(), file.data());
    let kind = file.elf_header().e_type(order);
    let mut has_dynamic_segment = false;
    for segment in file.elf_program_headers() {
        // A file that ends early has segments beyond its end.
        let bytes =
            segment.data(order, data).map_err(|()| ReadError::Damaged("a segment lies beyond its end".into()))?;
        if let Some(name) = segment.interpreter(order, data).map_err(damaged)? {
            image.interpreter = Some(shown(name));
        }
        if segment.p_type(order) == PT_DYNAMIC {
            has_dynamic_segment = true;
        }
        if segment.p_type(order) == elf::PT_LOAD && segment.p_flags(order).contains(PF_X) {
            image.raw_calls.extend(raw::file_calls(bytes));
        }
    }
    let is_pie = fill_dynamic(image, file)?;
    image.is_program = kind == ET_EXEC || image.interpreter.is_some() || is_pie;
    image.is_go = file.section_by_name(".go.buildinfo").is_some() || file.section_by_name(".note.go.buildid").is_some();
    if has_dynamic_segment && file.elf_dynamic_symbol_table().is_empty() {
        return Err(ReadError::Damaged("its table of sections was removed, so its calls cannot be listed".into()));
    }
    for symbol in file.dynamic_symbols() {
        let name = String::from_utf8_lossy(symbol.name_bytes().map_err(damaged)?).into_owned();
        if symbol.is_undefined() {
            image.undefined.insert(name);
        } else if symbol.is_global() {
            image.defined.insert(name);
        }
    }
    Ok(())
}

/// Reads what the dynamic linker is told; whether the file calls itself a program.
fn fill_dynamic(image: &mut Image, file: &File64<'_>) -> Result<bool, ReadError> {
    let table = file.elf_dynamic_table().map_err(damaged)?;
    let mut is_pie = false;
    for entry in table.iter() {
        match entry.tag {
            DT_NEEDED => image.needed.push(table.string(entry).map_err(damaged)?.to_vec()),
            DT_RPATH => image.rpath = table.string(entry).map_err(damaged)?.to_vec(),
            DT_RUNPATH => image.runpath = Some(table.string(entry).map_err(damaged)?.to_vec()),
            DT_FLAGS_1 => is_pie = entry.val & elf::DF_1_PIE.0 != 0,
            _ => {}
        }
    }
    Ok(is_pie)
}

impl Image {
    /// The name under which other files need this one, for lists.
    pub fn file_name(&self) -> String {
        shown(self.path.file_name().unwrap_or(self.path.as_os_str()).as_bytes())
    }
}
