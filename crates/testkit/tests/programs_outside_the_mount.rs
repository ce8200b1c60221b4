//! The fear: a program that has nothing to do with the mount behaves otherwise because the library is loaded; or the
//! library and another one that is loaded first (a sanitizer) undo each other's work.
//!
//! What is built, printed and tested outside the mount with the library must be what comes out without it.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::{self, is_installed};
use lifeboat_testkit::python;
use lifeboat_testkit::report::{note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

type Tree = BTreeMap<PathBuf, (usize, u64)>;

/// How a program is started.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// As it is.
    Bare,
    /// With the library, below `lifeboat exec`.
    Loaded,
}

/// A region, a mount, and a place outside both on disk.
struct Place {
    mounted: Mounted,
    outside: ScratchDirectory,
}

impl Place {
    fn new(label: &str) -> Self {
        let mounted = Mounted::new(label, "64MiB");
        // Creating a region says so; the programs' own words are to be compared.
        let created = mounted.shell("true");
        assert!(created.status.success(), "lifeboat exec cannot start: {created:?}");
        Self { mounted, outside: ScratchDirectory::new("/tmp", label) }
    }

    /// A program, to which arguments are added.
    fn command(&self, way: Way, program: &str) -> Command {
        match way {
            Way::Bare => Command::new(program),
            Way::Loaded => {
                let mut command = self.mounted.exec();
                command.arg(program);
                command
            }
        }
    }

    /// Runs it for at most `seconds` in `folder`.
    fn run(&self, command: &Command, folder: &Path, seconds: u32) -> Output {
        let mut command = limited(command, seconds);
        command.current_dir(folder).env_remove("LIFEBOAT_TESTKIT_ROLE").env("LC_ALL", "C.UTF-8");
        let output = command.output().expect("start a program");
        assert_ne!(output.status.code(), Some(124), "{command:?} takes too long");
        output
    }

    /// The path of the interception library.
    fn library(&self) -> PathBuf {
        let preload = self.mounted.shell("echo $LD_PRELOAD");
        PathBuf::from(String::from_utf8_lossy(&preload.stdout).trim())
    }

    /// The region is whole and nothing was written past the mount.
    fn finish(self) {
        assert_eq!(self.mounted.escaped(), [""; 0].map(PathBuf::from), "written past the mount");
        let files = attach(&self.mounted.directory()).expect("attach");
        let checked = check(&files);
        assert!(checked.is_clean(), "{checked}");
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Length and hash of every file below a folder; of a symbolic link those of its target.
fn tree(folder: &Path) -> Tree {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("read a folder").flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("kind of a file");
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = match kind.is_symlink() {
                true => std::fs::read_link(&path).expect("read a link").into_os_string().into_encoded_bytes(),
                false => std::fs::read(&path).expect("read a file"),
            };
            let mut hash = DefaultHasher::new();
            bytes.hash(&mut hash);
            let name = path.strip_prefix(folder).expect("below the folder").to_path_buf();
            all.insert(name, (bytes.len(), hash.finish()));
        }
    }
    all
}

/// Builds twice at the same place, without and with the library, and compares all bytes but those of files whose names
/// `varies` knows.
fn build(place: &Place, script: &str, seconds: u32, varies: fn(&Path) -> bool) -> usize {
    let [bare, loaded] = [Way::Bare, Way::Loaded].map(|way| {
        let folder = place.outside.make("work");
        let mut command = place.command(way, "bash");
        command.args(["-c", script]);
        let output = place.run(&command, &folder, seconds);
        assert!(output.status.success(), "{way:?}: the build fails:\n{}", text(&output));
        let files = tree(&folder);
        std::fs::remove_dir_all(&folder).expect("remove what was built");
        (output.stdout, files)
    });
    assert_eq!(bare.0, loaded.0, "the builds print different things");
    let names = |files: &Tree| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&bare.1), names(&loaded.1), "the builds leave different files");
    let different: Vec<_> = bare.1.iter().filter(|(name, found)| !varies(name) && loaded.1[*name] != **found).collect();
    let different: Vec<_> = different.iter().map(|(name, _)| name.display().to_string()).collect();
    assert!(different.is_empty(), "different bytes in {}", different.join(", "));
    bare.1.len()
}

#[test]
fn a_build_outside_the_mount_gives_the_same_bytes() {
    let _nothing_left = NoResidue::begin();
    if !["gcc", "ar", "ld"].iter().all(|program| is_installed(program)) {
        return;
    }
    let place = Place::new("build");
    let files = build(&place, include_str!("../programs/outside/build.sh"), 120, |_| false);
    note("build outside the mount", &format!("{files} files equal"));
    place.finish();
}

/// The sources of binutils as Debian packs them.
const BINUTILS: &str = "/usr/src/binutils";

#[test]
#[ignore = "takes minutes; `cargo xtask test --full`"]
fn a_large_package_built_outside_the_mount_gives_the_same_bytes() {
    let _nothing_left = NoResidue::begin();
    if !["gcc", "make", "xz", "flex"].iter().all(|program| is_installed(program)) {
        return;
    }
    let archives = std::fs::read_dir(BINUTILS).into_iter().flatten().flatten();
    let Some(archive) = archives.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(".tar.xz"))
    else {
        return skipped("build of a large package", "the package binutils-source is not installed");
    };
    let place = Place::new("large");
    let script = format!(
        "set -e; export CFLAGS='-O0 -g' SOURCE_DATE_EPOCH=1; tar xf {}; mkdir build; cd build; \
         {{ ../binutils-*/configure --disable-nls --disable-gdb --disable-gprofng --disable-ld --disable-gold MAKEINFO=true && \
         make -j2 all-binutils MAKEINFO=true; }} > ../said 2>&1 || {{ tail -n 40 ../said; exit 1; }}; \
         cd ..; rm -r said binutils-*; build/binutils/readelf -h build/binutils/nm-new",
        archive.display()
    );
    // Configure notes its environment, and lists processes' numbers in the names of its temporary files.
    let files = build(&place, &script, 580, |name| name.file_name().is_some_and(|name| name == "config.log"));
    note("binutils built outside the mount", &format!("{files} files equal"));
    place.finish();
}

#[test]
#[ignore = "takes minutes; `cargo xtask test --full`"]
fn python_tests_of_processes_end_as_without_the_library() {
    let _nothing_left = NoResidue::begin();
    let Some(python) = python::with_tests() else {
        return skipped("tests of Python", "no python3 with its package `test` is installed");
    };
    let place = Place::new("python");
    for module in
        ["test_subprocess", "test_posix", "test_fcntl", "test_signal", "test_pty", "test_select", "test_tempfile"]
    {
        let [bare, loaded] = [Way::Bare, Way::Loaded].map(|way| {
            let folder = place.outside.make("work");
            let mut command = place.command(way, &python);
            command.args(["-m", "test", "--tempdir"]).arg(&folder).args(["--junit-xml", "report.xml", module]);
            place.run(&command, &folder, 300);
            let results = python::results(&folder.join("report.xml"));
            std::fs::remove_dir_all(&folder).expect("remove a folder of tests");
            results
        });
        assert!(bare.len() > 5, "{module} ran only {} tests", bare.len());
        let different: Vec<_> = bare.iter().filter(|(name, end)| loaded.get(*name) != Some(*end)).collect();
        assert!(different.is_empty(), "{module} ends otherwise with the library: {different:?}");
        note(module, &format!("{} tests end as without the library", bare.len()));
    }
    place.finish();
}

/// How a program gets its sanitizer, and what must be loaded before it starts.
struct Sanitizer {
    name: &'static str,
    options: &'static [&'static str],
    /// The library that is loaded first, before ours or after it.
    runtime: Option<(&'static str, Side)>,
    /// What the program does wrong when asked to, and what the sanitizer must say.
    wrong: (&'static str, &'static str),
    environment: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Before,
    After,
}

const ADDRESS: &[&str] = &["-fsanitize=address"];
const THREAD: &[&str] = &["-fsanitize=thread"];
const UNDEFINED: &[&str] = &["-fsanitize=undefined"];
const OVERFLOWN: (&str, &str) = ("block", "heap-buffer-overflow");
const RACE: (&str, &str) = ("race", "data race");
const SIGNED: (&str, &str) = ("overflow", "signed integer overflow");
/// With our library before it the sanitizer does not see what is read from files of the mount.
const UNSEEN: (&str, &str) = ("block", "");
const UNORDERED: Option<(&str, &str)> = Some(("ASAN_OPTIONS", "verify_asan_link_order=0"));

const fn sanitizer(
    name: &'static str,
    options: &'static [&'static str],
    runtime: Option<(&'static str, Side)>,
    wrong: (&'static str, &'static str),
) -> Sanitizer {
    Sanitizer { name, options, runtime, wrong, environment: None }
}

const SANITIZERS: &[Sanitizer] = &[
    sanitizer("none", &[], None, ("overflow", "")),
    sanitizer("address, before ours", ADDRESS, Some(("libasan.so", Side::Before)), OVERFLOWN),
    Sanitizer {
        environment: UNORDERED,
        ..sanitizer("address, after ours", ADDRESS, Some(("libasan.so", Side::After)), UNSEEN)
    },
    Sanitizer { environment: UNORDERED, ..sanitizer("address, not loaded first", ADDRESS, None, UNSEEN) },
    sanitizer("address, static", &["-fsanitize=address", "-static-libasan"], None, OVERFLOWN),
    sanitizer(
        "address and undefined",
        &["-fsanitize=address,undefined"],
        Some(("libasan.so", Side::Before)),
        OVERFLOWN,
    ),
    sanitizer("leak", &["-fsanitize=leak"], None, ("overflow", "")),
    sanitizer("undefined", UNDEFINED, None, SIGNED),
    sanitizer("undefined, before ours", UNDEFINED, Some(("libubsan.so", Side::Before)), SIGNED),
    sanitizer("undefined, after ours", UNDEFINED, Some(("libubsan.so", Side::After)), SIGNED),
    sanitizer("undefined, static", &["-fsanitize=undefined", "-static-libubsan"], None, SIGNED),
    sanitizer("thread", THREAD, None, RACE),
    sanitizer("thread, before ours", THREAD, Some(("libtsan.so", Side::Before)), RACE),
    sanitizer("thread, after ours", THREAD, Some(("libtsan.so", Side::After)), RACE),
    sanitizer("thread, static", &["-fsanitize=thread", "-static-libtsan"], None, RACE),
];

/// Where the compiler keeps a library; `None` when it has none of that name.
fn runtime(name: &str) -> Option<PathBuf> {
    let asked = Command::new("gcc").arg(format!("-print-file-name={name}")).output().expect("start gcc");
    PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim()).canonicalize().ok()
}

#[test]
fn programs_with_sanitizers_do_the_same_in_the_mount_and_outside() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("gcc") {
        return;
    }
    let place = Place::new("sanitizers");
    for sanitizer in SANITIZERS {
        one_sanitizer(&place, sanitizer);
    }
    place.finish();
}

fn one_sanitizer(place: &Place, sanitizer: &Sanitizer) {
    let programs = place.outside.make("programs");
    let mut options = sanitizer.options.to_vec();
    options.extend(["-g", "-O1", "-pthread"]);
    let what = format!("sanitizer {}", sanitizer.name);
    let first = match sanitizer.runtime {
        None => None,
        Some((name, side)) => match runtime(name) {
            Some(path) => Some((path.display().to_string(), side)),
            None => return skipped(&what, &format!("gcc has no {name}")),
        },
    };
    let Some(program) = programs::compile("gcc", "sanitized.c", &options, &programs) else { return };
    let library = place.library().display().to_string();
    let (without, with) = match &first {
        None => (String::new(), library),
        Some((runtime, Side::Before)) => (runtime.clone(), format!("{runtime}:{library}")),
        Some((runtime, Side::After)) => (runtime.clone(), format!("{library}:{runtime}")),
    };
    let outside = place.outside.path().join("d");
    let inside = place.mounted.prefix().join("d");
    let start = |way: Way, preload: &str, folder: &Path, wrong: Option<&str>| {
        let made = place.mounted.exec().args(["sh", "-c", "rm -rf $0; mkdir $0"]).arg(folder).status();
        assert!(made.is_ok_and(|status| status.success()), "cannot make {}", folder.display());
        let mut command = place.command(way, "env");
        command.args(sanitizer.environment.map(|(name, value)| format!("{name}={value}")));
        command.arg(format!("LD_PRELOAD={preload}")).arg(&program).arg(folder).args(wrong);
        let output = place.run(&command, place.outside.path(), 60);
        (output.status.code(), text(&output))
    };
    let expected = start(Way::Bare, &without, &outside, None);
    if !expected.1.contains("threads 150000 20000") {
        return skipped(&what, &format!("does not run here: {}", expected.1.lines().next().unwrap_or("")));
    }
    for folder in [&outside, &inside] {
        let found = start(Way::Loaded, &with, folder, None);
        assert_eq!(found, expected, "{what}: in {}, and without the library", folder.display());
        let (_, said) = start(Way::Loaded, &with, folder, Some(sanitizer.wrong.0));
        assert!(said.contains(sanitizer.wrong.1), "{what}: a mistake is not found in {}:\n{said}", folder.display());
    }
}

#[test]
fn a_program_with_a_sanitizer_runs_below_exec_when_that_is_loaded_first() {
    let _nothing_left = NoResidue::begin();
    let Some(runtime) = is_installed("gcc").then(|| runtime("libasan.so")).flatten() else {
        return skipped("sanitizer below exec", "gcc has no libasan.so");
    };
    let place = Place::new("first");
    let options = ["-fsanitize=address", "-g", "-pthread"];
    let Some(program) = programs::compile("gcc", "sanitized.c", &options, place.outside.path()) else { return };
    let mut command = place.mounted.exec();
    command.arg(&program).arg(place.mounted.prefix()).env("LD_PRELOAD", runtime);
    let output = place.run(&command, place.outside.path(), 60);
    assert!(output.status.success() && text(&output).contains("threads 150000 20000"), "{}", text(&output));
    place.finish();
}
