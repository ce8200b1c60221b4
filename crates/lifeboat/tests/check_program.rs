//! The fear: `check-program` promises what interception does not do, or looks at other libraries than the dynamic linker.

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_testkit::programs::is_installed;
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report::{line, sized, skipped};
use lifeboat_testkit::scratch::{ScratchDirectory, is_root};
use support::{Ended, end, lifeboat};

const SERVED: i32 = 0;
const OPERATION: i32 = 1;
const MISSED: i32 = 4;
const NEEDS_FUSE: i32 = 5;

/// A program that opens a file, walks a tree and takes an extended attribute.
const WALKER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
static int visit(const char *p, const struct stat *s, int f, struct FTW *w) { return 0; }
int main(int n, char **v) { return open(v[0], O_RDONLY) + nftw(v[0], visit, 5, 0); }
"#;

/// Compiled test programs and a library that is taken for the interception library.
struct Bench {
    folder: ScratchDirectory,
}

impl Bench {
    /// None, with a counted line, without the compiler.
    fn new(label: &str) -> Option<Self> {
        is_installed("gcc").then(|| Self { folder: ScratchDirectory::new("/tmp", label) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, name: &str, source: &str, options: &[&str]) -> PathBuf {
        self.try_build(name, source, options).unwrap_or_else(|text| panic!("gcc refuses {name}: {text}"))
    }

    fn try_build(&self, name: &str, source: &str, options: &[&str]) -> Result<PathBuf, String> {
        let file = self.path(&format!("{}.c", name.replace('/', "-")));
        fs::write(&file, source).unwrap();
        let program = self.path(name);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let output = Command::new("gcc").arg(&file).arg("-o").arg(&program).args(options).output().unwrap();
        match output.status.success() {
            true => Ok(program),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A library that defines these functions, as the interception library does.
    fn hooks(&self, functions: &[&str]) -> PathBuf {
        let source: String = functions.iter().map(|name| format!("int {name}() {{ return 0; }}\n")).collect();
        self.build(
            &format!("hooks-{}.so", functions.len()),
            &source,
            &["-shared", "-fPIC", "-fno-builtin", "-nostdlib"],
        )
    }

    fn check(&self, hooks: &Path, arguments: &[&OsStr]) -> Ended {
        end(lifeboat().arg("check-program").args(arguments).env("LIFEBOAT_PRELOAD", hooks))
    }

    fn report(&self, hooks: &Path, program: &Path) -> (i32, serde_json::Value) {
        let ended = self.check(hooks, &[program.as_os_str(), OsStr::new("--json")]);
        let report = serde_json::from_slice(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        (ended.code.expect("an exit code"), report)
    }
}

/// All calls that are listed as missed with one weight.
fn missed(report: &serde_json::Value, weight: &str) -> BTreeSet<String> {
    let groups = report["missed"].as_array().unwrap().iter().filter(|group| group["weight"] == weight);
    groups.flat_map(|group| group["calls"].as_object().unwrap().keys().cloned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn a_call_that_the_library_lacks_is_not_said_to_be_served() {
    let Some(bench) = Bench::new("check-served") else { return };
    let program = bench.build("walker", WALKER, &[]);
    let (code, report) = bench.report(&bench.hooks(&["open"]), &program);
    assert_eq!((code, missed(&report, "missed")), (MISSED, set(&["nftw"])), "{report}");
    assert_eq!((&report["verdict"], &report["served"]), (&"partly".into(), &serde_json::json!(["open"])), "{report}");
    // The same program, once the library has the function.
    let both = bench.hooks(&["open", "nftw"]);
    let (code, report) = bench.report(&both, &program);
    assert_eq!((code, missed(&report, "missed")), (SERVED, set(&[])), "{report}");
    let text = String::from_utf8(bench.check(&both, &[program.as_os_str(), OsStr::new("-v")]).out).unwrap();
    assert!(text.contains("every file call would be served") && text.contains("nftw, open"), "{text}");
    // Without any, nothing is served.
    let (_, report) = bench.report(&bench.hooks(&[]), &program);
    assert_eq!(report["served"], serde_json::json!([]));
}

#[test]
fn a_call_of_a_library_deep_down_is_found_and_named() {
    let Some(bench) = Bench::new("check-deep") else { return };
    let hooks = bench.hooks(&["open"]);
    let inner = "#include <unistd.h>\n#include <sys/syscall.h>\nlong inner(void) { return syscall(SYS_getpid); }";
    let folder = bench.folder.path().to_str().unwrap().to_string();
    bench.build("libinner.so", inner, &["-shared", "-fPIC"]);
    let outer = "long inner(void);\nlong outer(void) { return inner(); }";
    let here = format!("-L{folder}");
    bench.build("libouter.so", outer, &["-shared", "-fPIC", &here, "-linner", "-Wl,-rpath,$ORIGIN"]);
    let main = "long outer(void);\nint main(void) { return outer(); }";
    let link = format!("-Wl,-rpath-link,{folder}");
    let program = bench.build("deep", main, &[&here, "-louter", &link, "-Wl,-rpath,$ORIGIN"]);
    let (code, report) = bench.report(&hooks, &program);
    assert_eq!(code, MISSED, "{report}");
    assert_eq!(report["missed"][0]["calls"]["syscall"], serde_json::json!(["libinner.so"]), "{report}");
    fs::remove_file(bench.path("libinner.so")).unwrap();
    let (code, report) = bench.report(&hooks, &program);
    assert_eq!(code, MISSED, "{report}");
    assert_eq!(report["libraries_not_found"]["libinner.so"], "libouter.so", "{report}");
}

/// The libraries that the dynamic linker itself would load.
fn as_the_linker_finds(program: &Path, environment: &[(&str, &Path)]) -> BTreeSet<PathBuf> {
    let mut command = Command::new(program);
    command.env_remove("LD_PRELOAD").env("LD_TRACE_LOADED_OBJECTS", "1").envs(environment.iter().copied());
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let words = text.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    words.map(|path| fs::canonicalize(path).unwrap()).collect()
}

fn as_we_find(hooks: &Path, program: &Path, environment: &[(&str, &Path)]) -> BTreeSet<PathBuf> {
    let mut command = lifeboat();
    command.arg("check-program").arg(program).arg("--json").env("LIFEBOAT_PRELOAD", hooks);
    let ended = end(command.envs(environment.iter().copied()));
    let report: serde_json::Value = serde_json::from_slice(&ended.out).unwrap();
    let libraries = report["libraries"].as_array().unwrap().iter();
    libraries.map(|path| fs::canonicalize(path.as_str().unwrap()).unwrap()).collect()
}

#[test]
fn libraries_are_those_that_the_dynamic_linker_loads() {
    let Some(bench) = Bench::new("check-linker") else { return };
    let hooks = bench.hooks(&["open"]);
    let same = |program: &Path, environment: &[(&str, &Path)]| {
        let (ours, theirs) = (as_we_find(&hooks, program, environment), as_the_linker_finds(program, environment));
        assert!(!theirs.is_empty(), "{}", program.display());
        assert_eq!(ours, theirs, "{} {environment:?}", program.display());
    };
    for name in ["bash", "cp", "tar", "ls", "git", "python3", "perl", "rsync", "sqlite3"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
        // A wrapper script has no libraries.
        if let Some(program) = found.filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))) {
            same(&program, &[]);
        }
    }
    // The same name in four folders: which one is taken is a matter of the rules.
    let library = "int which(void) { return 0; }";
    for folder in ["a", "b", "c", "sub/lib"] {
        bench.build(&format!("{folder}/libwhich.so"), library, &["-shared", "-fPIC", "-Wl,-soname,libwhich.so"]);
    }
    let main = "int which(void);\nint main(void) { return which(); }";
    let [a, b, c] = ["a", "b", "c"].map(|folder| bench.path(folder));
    let search = format!("-L{}", a.display());
    let path = |folder: &Path| format!("-Wl,-rpath,{}", folder.display());
    let build =
        |name: &str, options: &[&str]| bench.build(name, main, &[&[search.as_str(), "-lwhich"][..], options].concat());
    let runpath = build("runpath", &[&path(&a), "-Wl,--enable-new-dtags"]);
    let rpath = build("rpath", &[&path(&b), "-Wl,--disable-new-dtags"]);
    let origin = build("sub/origin", &["-Wl,-rpath,$ORIGIN/lib", "-Wl,--enable-new-dtags"]);
    let neither = build("neither", &[]);
    for program in [&runpath, &rpath, &origin] {
        same(program, &[]);
        same(program, &[("LD_LIBRARY_PATH", &c)]);
    }
    same(&neither, &[("LD_LIBRARY_PATH", &c)]);
    // A file of the name that is no library is passed over.
    fs::write(a.join("libwhich.so"), b"text").unwrap();
    assert!(as_we_find(&hooks, &runpath, &[("LD_LIBRARY_PATH", &b)]).contains(&b.join("libwhich.so")));
}

#[test]
fn a_program_that_interception_does_not_reach_is_told() {
    let Some(bench) = Bench::new("check-blind") else { return };
    let hooks = bench.hooks(&["open"]);
    let told = |program: &Path, expected: &str| {
        let ended = bench.check(&hooks, &[program.as_os_str()]);
        let text = String::from_utf8_lossy(&ended.out).into_owned();
        assert_eq!(ended.code, Some(NEEDS_FUSE), "{text}{}", ended.err);
        assert!(text.contains(expected) && text.contains("needs FUSE"), "{expected} is not in {text}");
    };
    let plain = "#include <fcntl.h>\nint main(int n, char **v) { return open(v[0], 0); }";
    for (name, options) in [("static", &["-static"][..]), ("static-pie", &["-static-pie"])] {
        match bench.try_build(name, plain, options) {
            Ok(program) => told(&program, "statically"),
            Err(_) => skipped(name, "no static libc is installed"),
        }
    }
    let musl = bench.build("musl", plain, &["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"]);
    told(&musl, "musl");
    let other = bench.build("other", plain, &["-Wl,--dynamic-linker=/system/bin/linker64"]);
    told(&other, "/system/bin/linker64");
    let go = "__attribute__((section(\".go.buildinfo\"))) char info[16] = \"Go\";\nint main(void) { return info[0]; }";
    told(&bench.build("go", go, &[]), "Go");
    let program = bench.build("usual", plain, &[]);
    let usual = fs::read(&program).unwrap();
    for (mode, expected) in [(0o4755, "set-uid"), (0o2755, "set-gid"), (0o6755, "set-uid, set-gid")] {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        told(&program, expected);
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    // 32 bits, and another processor: the header says so.
    let changed = |name: &str, at: usize, byte: u8| {
        let mut bytes = usual.clone();
        bytes[at] = byte;
        let path = bench.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    told(&changed("bits", 4, 1), "32-bit");
    told(&changed("processor", 18, 0xf3), "another kind of processor");
    if is_root() && is_installed("setcap") {
        let set = Command::new("setcap").arg("cap_net_raw+ep").arg(&program).status().unwrap();
        match set.success() {
            true => told(&program, "file capabilities"),
            false => skipped("file capabilities", "the file system takes none"),
        }
    }
}

#[test]
fn calls_that_go_past_libc_are_found() {
    let Some(bench) = Bench::new("check-past") else { return };
    let hooks = bench.hooks(&["open", "read"]);
    let own = "#include <unistd.h>\nlong read(int d, void *p, unsigned long n) { return -1; }\n\
               int main(void) { char c; return read(0, &c, 1); }";
    let program = bench.build("own", own, &["-rdynamic", "-w"]);
    let (code, report) = bench.report(&hooks, &program);
    assert_eq!((code, missed(&report, "missed")), (MISSED, set(&["read"])), "{report}");
    // The names alone count: the libraries for asynchronous calls need not be installed.
    let stubs = "int io_submit(void) { return 0; }\nint io_uring_queue_init(void) { return 0; }";
    let stubs = bench.build("libstubs.so", stubs, &["-shared", "-fPIC"]);
    let names = "int io_submit(void); int io_uring_queue_init(void);\n\
                 int main(void) { return io_submit() + io_uring_queue_init(); }";
    let program = bench.build("asynchronous", names, &[stubs.to_str().unwrap()]);
    let (code, report) = bench.report(&hooks, &program);
    let expected = set(&["io_submit", "io_uring_queue_init"]);
    assert_eq!((code, missed(&report, "needs_fuse")), (MISSED, expected.clone()), "{report}");
    // A library that defines them does so to refuse them.
    let (code, report) = bench.report(&bench.hooks(&["open", "io_submit", "io_uring_queue_init"]), &program);
    assert_eq!((code, missed(&report, "needs_fuse")), (MISSED, expected), "{report}");
    assert_eq!(report["served"], serde_json::json!([]), "{report}");
    let loader = "#include <dlfcn.h>\nint main(int n, char **v) { return !dlopen(v[0], RTLD_NOW); }";
    let (code, report) = bench.report(&hooks, &bench.build("loader", loader, &[]));
    assert_eq!(code, SERVED, "{report}");
    assert!(report["cannot_be_seen"][0].as_str().unwrap().contains("dlopen in loader"), "{report}");
    if cfg!(target_arch = "x86_64") {
        let inline = "int main(void) { long r; __asm__ volatile(\"mov $257, %%eax\\n\\tsyscall\" : \"=a\"(r) :: \"rcx\", \"r11\"); return r; }";
        let (code, report) = bench.report(&hooks, &bench.build("inline", inline, &[]));
        assert_eq!((code, missed(&report, "needs_fuse")), (MISSED, set(&["openat"])), "{report}");
    }
}

#[test]
fn what_is_no_program_gets_one_clear_line() {
    let Some(bench) = Bench::new("check-bad") else { return };
    let hooks = bench.hooks(&["open"]);
    let program = bench.build("whole", WALKER, &[]);
    let whole = fs::read(&program).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = bench.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let kind = |name: &str, kind: u8| {
        let mut bytes = whole.clone();
        bytes[16] = kind;
        file(name, &bytes)
    };
    let fifo = bench.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for (path, expected) in [
        (bench.path("none"), "no such file"),
        (bench.folder.path().to_path_buf(), "directory"),
        (fifo, "fifo"),
        (PathBuf::from("/dev/null"), "character device"),
        (file("empty", b""), "empty"),
        (file("text", b"hello\n"), "no ELF file"),
        (file("script", b"#! /bin/sh -e\n\x1b[2J"), "/bin/sh -e"),
        (file("magic", b"\x7fELF"), "cut short or damaged"),
        (file("class", b"\x7fELF\x09\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0"), "cut short or damaged"),
        (kind("core", 4), "core dump"),
        (kind("object", 1), "not linked"),
        (kind("unknown", 77), "unknown kind"),
        (file("half", &whole[..whole.len() / 2]), "cut short or damaged"),
        (file("header", &whole[..100]), "cut short or damaged"),
    ] {
        bench.check(&hooks, &[path.as_os_str()]).refused(OPERATION, expected);
    }
    bench.check(&bench.path("none"), &[program.as_os_str()]).refused(OPERATION, "LIFEBOAT_PRELOAD");
    bench.check(&file("no-library", b"text"), &[program.as_os_str()]).refused(OPERATION, "interception library");
    end(lifeboat().arg("check-program")).refused(2, "BINARY");
}

#[test]
fn no_damaged_program_stops_the_command_or_takes_it_long() {
    let Some(bench) = Bench::new("check-damaged") else { return };
    let hooks = bench.hooks(&["open"]);
    let whole = fs::read(bench.build("whole", WALKER, &[])).unwrap();
    let damaged = bench.path("damaged");
    let (seed, rounds) = (seed(7), sized(150, 3000, 50_000));
    let (mut random, mut refused) = (Random::new(seed), 0);
    for round in 0..rounds {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(random.below(whole.len() as u64) as usize),
            // The header and the tables behind it, then anywhere.
            1 => (0..4).for_each(|_| bytes[random.below(1024) as usize] = random.word() as u8),
            _ => (0..64).for_each(|_| bytes[random.below(whole.len() as u64) as usize] = random.word() as u8),
        }
        fs::write(&damaged, bytes).unwrap();
        let mut command = Command::new("timeout");
        command.args(["20", env!("CARGO_BIN_EXE_lifeboat"), "check-program"]).arg(&damaged);
        let ended = end(command.env("LIFEBOAT_PRELOAD", &hooks));
        let is_answer = matches!(ended.code, Some(SERVED | MISSED | NEEDS_FUSE)) && ended.err.is_empty();
        let is_refusal = ended.code == Some(OPERATION) && ended.err.lines().count() == 1;
        assert!(is_answer || is_refusal, "seed {seed}, round {round}: {ended:?}");
        refused += u64::from(is_refusal);
    }
    assert!((1..rounds).contains(&refused), "{refused} of {rounds} refused");
    line(&format!("fuzz: target=programs executions={rounds} refused={refused} crashes=0 seed={seed}"));
}
