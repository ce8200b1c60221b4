//! Finding the libraries that a program needs, as the dynamic linker of glibc does.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::elf::{self, Image};

/// Where the list of known libraries lies.
const CACHE: &str = "/etc/ld.so.cache";
/// What the newer of its two formats begins with.
const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Folders that are looked into last; those that are not there cost nothing.
#[cfg(target_arch = "x86_64")]
const DEFAULT: &[&str] =
    &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Folders that are looked into last; those that are not there cost nothing.
#[cfg(not(target_arch = "x86_64"))]
const DEFAULT: &[&str] =
    &["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// A program with all libraries that are loaded with it.
#[derive(Debug)]
pub struct Loaded {
    /// The program, then its libraries in the order of loading.
    pub images: Vec<Image>,
    /// Names of libraries that were not found, and who needs them.
    pub missing: BTreeMap<String, String>,
}

/// Who asked for a file: the index of its image, and of that one's, up to the program.
type Askers = Vec<Option<usize>>;

/// Finds everything that the dynamic linker would load with `program`.
pub fn load(program: Image) -> Loaded {
    let cache = Cache::read();
    let environment = env::var_os("LD_LIBRARY_PATH").unwrap_or_default().into_vec();
    let mut loaded = Loaded { images: vec![program], missing: BTreeMap::new() };
    let mut askers: Askers = vec![None];
    let mut names = BTreeSet::new();
    let mut files = BTreeSet::new();
    let mut next = 0;
    // Breadth first: what a library needs comes behind what its own asker needs.
    while let Some(image) = loaded.images.get(next) {
        let mut found = Vec::new();
        for name in image.needed.iter().filter(|name| names.insert(name.to_vec())) {
            let folders = folders(&loaded.images, &askers, next, &environment);
            match find(name, image, &folders, &cache) {
                Some(library) => found.push(library),
                None => {
                    loaded.missing.insert(crate::failure::shown(name), image.file_name());
                }
            }
        }
        for library in found {
            let real = library.path.canonicalize().unwrap_or_else(|_| library.path.clone());
            if files.insert(real) {
                loaded.images.push(library);
                askers.push(Some(next));
            }
        }
        next += 1;
    }
    loaded
}

/// The folders that are looked into before the cache, for the libraries that image `asker` needs.
fn folders(images: &[Image], askers: &Askers, asker: usize, environment: &[u8]) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let own_runpath = images.get(asker).and_then(|image| image.runpath.as_ref());
    if own_runpath.is_none() {
        let mut next = Some(asker);
        while let Some(index) = next {
            if let Some(image) = images.get(index).filter(|image| image.runpath.is_none()) {
                folders.extend(split(&image.rpath, &image.origin));
            }
            next = askers.get(index).copied().flatten();
        }
    }
    let program = images.first().map(|image| image.origin.as_path()).unwrap_or(Path::new("/"));
    folders.extend(split_at(environment, b":;", program));
    if let (Some(runpath), Some(image)) = (own_runpath, images.get(asker)) {
        folders.extend(split(runpath, &image.origin));
    }
    folders
}

fn split(list: &[u8], origin: &Path) -> Vec<PathBuf> {
    split_at(list, b":", origin)
}

fn split_at(list: &[u8], separators: &[u8], origin: &Path) -> Vec<PathBuf> {
    if list.is_empty() {
        return Vec::new();
    }
    // An empty part is the working directory, as in every search path.
    let parts = list.split(|byte| separators.contains(byte));
    parts.flat_map(|part| if part.is_empty() { vec![PathBuf::from(".")] } else { expand(part, origin) }).collect()
}

/// The folders that a part of a search path may mean.
fn expand(part: &[u8], origin: &Path) -> Vec<PathBuf> {
    let text = replace(part, "ORIGIN", origin.as_os_str().as_bytes());
    let text = replace(&text, "PLATFORM", env::consts::ARCH.as_bytes());
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    let all = if replace(&text, "LIB", b"") == text {
        vec![text]
    } else {
        ["lib64", "lib", &multiarch].iter().map(|lib| replace(&text, "LIB", lib.as_bytes())).collect()
    };
    all.into_iter().map(|text| PathBuf::from(OsStr::from_bytes(&text))).collect()
}

/// Replaces `$NAME` and `${NAME}`.
fn replace(text: &[u8], name: &str, value: &[u8]) -> Vec<u8> {
    let (plain, braced) = (format!("${name}"), format!("${{{name}}}"));
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(plain.as_bytes()).or_else(|| rest.strip_prefix(braced.as_bytes())) {
            out.extend_from_slice(value);
            rest = after;
        } else {
            out.push(*first);
            rest = &rest[1..];
        }
    }
    out
}

/// The first candidate that is a library for the same machine, as the dynamic linker passes over others.
fn find(name: &[u8], asker: &Image, folders: &[PathBuf], cache: &Cache) -> Option<Image> {
    let fits = |path: &Path| {
        let image = elf::read(path).ok()?;
        (image.machine == asker.machine).then_some(image)
    };
    if name.contains(&b'/') {
        return expand(name, &asker.origin).iter().find_map(|path| fits(path));
    }
    let file = OsStr::from_bytes(name);
    let first = folders.iter().find_map(|folder| fits(&folder.join(file)));
    first
        .or_else(|| cache.paths(name).iter().find_map(|path| fits(path)))
        .or_else(|| DEFAULT.iter().find_map(|folder| fits(&Path::new(folder).join(file))))
}

/// The cache of `ldconfig`: paths by library name.
#[derive(Debug, Default)]
struct Cache {
    paths: BTreeMap<Vec<u8>, Vec<PathBuf>>,
}

impl Cache {
    fn read() -> Self {
        fs::read(CACHE).ok().and_then(|bytes| Self::parse(&bytes)).unwrap_or_default()
    }

    /// Reads the newer format, which may stand behind the older; `None` when it is not understood.
    fn parse(bytes: &[u8]) -> Option<Self> {
        const HEADER: usize = 48;
        const ENTRY: usize = 24;
        let start = bytes.windows(CACHE_MAGIC.len()).position(|window| window == CACHE_MAGIC)?;
        // Strings are counted from here.
        let bytes = bytes.get(start..)?;
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
        let text = |at: usize| bytes.get(at..)?.split(|byte| *byte == 0).next();
        let count = word(20)?;
        let mut cache = Self::default();
        for index in 0..count {
            let entry = HEADER.checked_add(index.checked_mul(ENTRY)?)?;
            let (name, path) = (text(word(entry + 4)?)?, text(word(entry + 8)?)?);
            let paths = cache.paths.entry(name.to_vec()).or_default();
            paths.push(PathBuf::from(OsStr::from_bytes(path)));
        }
        Some(cache)
    }

    fn paths(&self, name: &[u8]) -> &[PathBuf] {
        self.paths.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_search_paths_are_replaced() {
        let origin = Path::new("/opt/x/bin");
        let paths = |text: &[u8]| split(text, origin).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths(b"$ORIGIN/../lib:/a"), ["/opt/x/bin/../lib", "/a"]);
        assert_eq!(paths(b"${ORIGIN}"), ["/opt/x/bin"]);
        assert_eq!(paths(b""), [""; 0]);
        assert_eq!(paths(b"/a:"), ["/a", "."]);
        assert!(paths(b"/opt/$LIB").contains(&"/opt/lib64".to_string()));
    }

    #[test]
    fn a_damaged_cache_is_no_cache_and_a_whole_one_names_libc() {
        let whole = fs::read(CACHE).unwrap_or_default();
        if whole.is_empty() {
            return;
        }
        let cache = Cache::parse(&whole).unwrap();
        assert!(!cache.paths(b"libc.so.6").is_empty());
        for length in (0..whole.len()).step_by(97) {
            let _ = Cache::parse(&whole[..length]);
        }
        let mut counted = whole.clone();
        let start = whole.windows(CACHE_MAGIC.len()).position(|window| window == CACHE_MAGIC).unwrap();
        counted[start + 20..start + 24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Cache::parse(&counted).is_none());
    }
}
