//! The fear: a program reaches a file by a function that nobody thought of.
//!
//! `crates/preload/symbols.txt` says of every function of the C library by which a file is reached what becomes of it.
//! The interception library must define exactly those that the table calls hooks, and whatever real programs import
//! must be in the table.

use lifeboat_testkit::command;
use lifeboat_testkit::programs::is_installed;
use lifeboat_testkit::report::{note, skipped};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Functions that are not libc's, so no program asks libc for them.
const NOT_LIBC: [&str; 4] =
    ["io_uring_queue_init", "io_uring_queue_init_params", "io_uring_queue_init_mem", "io_uring_setup"];

/// Pieces of names by which functions that reach files are known.
const PIECES: &str = "open stat chmod chown link rename mkdir rmdir dir trunc seek read writ sync xattr allocate temp \
    tmp utime access exec spawn fork dup fcntl lockf flock aio lio_ splice sendfile copy_file glob ftw fts path cwd \
    getwd umask chroot mount mremap mmap munmap mknod mkfifo bind connect ioctl close isatty ttyname syscall clone \
    daemon system handle fadvise dlopen dlmopen wordexp remove getdents acct quota madvise rlimit sigaction rewind \
    tell printf scanf gets puts getc putc getline getdelim fflush setvbuf setbuf fileno feof ferror mprotect poll \
    select";

/// Beginnings of names that only look like them.
const HARMLESS: [&str; 13] = [
    "pthread_",
    "__pthread_",
    "_obstack",
    "posix_spawnattr",
    "_nss",
    "__nss",
    "_dl_",
    "sem_",
    "wcs",
    "if_",
    "getaddrinfo",
    "__libc_alloca",
    "__libc_single_threaded",
];

fn table() -> BTreeMap<String, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../preload/symbols.txt");
    let text = std::fs::read_to_string(file).expect("the table of symbols");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut table = BTreeMap::new();
    for line in lines {
        let (name, fate) = line.split_once(' ').expect("a name and what becomes of it");
        assert!(table.insert(name.to_string(), fate.to_string()).is_none(), "{name} is there twice");
    }
    table
}

/// Names of dynamic symbols: what a file defines, or what it wants of others.
fn symbols(file: &Path, which: &str) -> BTreeSet<String> {
    let output = Command::new("nm").args(["-D", which]).arg(file).output().expect("start nm");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().last());
    names.filter_map(|name| name.split('@').next()).map(str::to_string).collect()
}

#[test]
fn the_library_defines_what_the_table_calls_hooks() {
    if !is_installed("nm") {
        return;
    }
    let library = command::path().with_file_name("liblifeboat_preload.so");
    // What the library says of itself takes nothing's place.
    let mut defined = symbols(&library, "--defined-only");
    defined.retain(|name| !name.starts_with("lifeboat_"));
    let hooks: BTreeSet<String> =
        table().into_iter().filter(|(_, fate)| fate == "hook").map(|(name, _)| name).collect();
    let missing: Vec<_> = hooks.difference(&defined).collect();
    let unknown: Vec<_> = defined.difference(&hooks).collect();
    assert!(missing.is_empty(), "the table says hook, the library has none: {missing:?}");
    assert!(unknown.is_empty(), "the library defines what the table does not know: {unknown:?}");
    note("call surface", &format!("{} functions are hooked", hooks.len()));
}

/// Programs and libraries that do much with files, as far as they are here.
fn real_programs() -> Vec<PathBuf> {
    const PROGRAMS: &str = "cp dd cat ls mv rm ln mkdir touch stat df du sort split install tail truncate chmod chown \
        shred tee find xargs grep sed awk tar gzip xz git rsync bash dash python3 sqlite3 fio make gcc ld cpio patch \
        diff cmp less vim perl ssh curl h5dump ior mdtest";
    const LIBRARIES: &str = "libgfortran.so.5 libstdc++.so.6 libhdf5_serial.so.103 libhdf5.so.310 libmpich.so.12 \
        libmpi.so.40 libopen-pal.so.40 libsqlite3.so.0 libnetcdf.so.19 libpnetcdf.so.4 libz.so.1 libcrypto.so.3 \
        libaio.so.1 libucs.so.0 libucm.so.0 libacl.so.1 libselinux.so.1 libpmix.so.2";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = PROGRAMS
        .split_whitespace()
        .filter_map(|name| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file()))
        .collect();
    let folders = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];
    for name in LIBRARIES.split_whitespace() {
        found.extend(folders.iter().map(|folder| Path::new(folder).join(name)).find(|file| file.is_file()));
    }
    for folder in ["/usr/lib/python3.11/lib-dynload", "/usr/lib/x86_64-linux-gnu/openmpi/lib/openmpi3"] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(entries.filter(|file| file.extension().is_some_and(|extension| extension == "so")));
    }
    found
}

fn libc() -> Option<PathBuf> {
    let folders = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib"];
    folders.iter().map(|folder| Path::new(folder).join("libc.so.6")).find(|file| file.is_file())
}

#[test]
fn what_real_programs_call_is_in_the_table() {
    if !is_installed("nm") {
        return;
    }
    let Some(libc) = libc() else { return skipped("call surface", "no libc.so.6 in the usual folders") };
    let exported = symbols(&libc, "--defined-only");
    let table = table();
    let programs = real_programs();
    let mut absent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for program in &programs {
        for name in symbols(program, "--undefined-only").intersection(&exported) {
            let suspect = PIECES.split_whitespace().any(|piece| name.contains(piece))
                && !HARMLESS.iter().any(|beginning| name.starts_with(beginning));
            if suspect && !table.contains_key(name) {
                absent.entry(name.clone()).or_default().push(program.display().to_string());
            }
        }
    }
    note("call surface", &format!("{} programs and libraries looked at", programs.len()));
    assert!(absent.is_empty(), "not in crates/preload/symbols.txt: {absent:#?}");
    let strange: Vec<_> = table
        .iter()
        .filter(|(name, _)| !exported.contains(*name) && !NOT_LIBC.contains(&name.as_str()))
        .map(|(name, _)| name)
        .collect();
    note("call surface", &format!("of the table this libc lacks {strange:?}"));
}
