//! The fear: what people really run - databases, version control, copying, compilers, file formats, other people's
//! test suites - behaves otherwise on the mount than on tmpfs.
//!
//! Each script of `programs/debian/` runs twice: with `$D` on tmpfs and with `$D` in the mount, below `lifeboat exec`. `$T`, on another
//! file system, is outside both times. What is printed and the exit code must be equal, and nothing may have been written past the mount.
//! They take minutes together: `cargo xtask test --full` runs them and installs what they need.

use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::is_installed;
use lifeboat_testkit::python;
use lifeboat_testkit::report::{note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, attach, check};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// For one script on one side; a machine that is busy otherwise takes long.
const LIMIT: u32 = 400;

/// The same place twice: on tmpfs and in a mount.
struct Sides {
    mounted: Mounted,
    plain: ScratchDirectory,
    outputs: ScratchDirectory,
}

impl Sides {
    fn new(label: &str, size: &str) -> Self {
        let sides = Self {
            mounted: Mounted::new(label, size),
            plain: ScratchDirectory::on_tmpfs(label),
            outputs: ScratchDirectory::new("/tmp", label),
        };
        // Creating a region says so; the programs' own words are to be compared.
        let created = sides.mounted.shell("true");
        assert!(created.status.success(), "lifeboat exec cannot start: {created:?}");
        sides
    }

    /// Folder for output of the plain and of the mounted run.
    fn output(&self, side: &str) -> PathBuf {
        self.outputs.path().join(side)
    }

    /// Runs `program` with `$D` on tmpfs.
    fn run_plain(&self, program: &[&str]) -> Output {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]);
        self.start(command, &self.plain.make("d"), "plain")
    }

    /// Runs `program` with `$D` in the mount.
    fn run_mounted(&self, program: &[&str]) -> Output {
        let folder = self.mounted.prefix().join("d");
        let made = self.mounted.exec().args(["mkdir", "-p"]).arg(&folder).status().expect("start lifeboat");
        assert!(made.success(), "cannot make a directory in the mount");
        let mut command = self.mounted.exec();
        command.args(program);
        self.start(command, &folder, "mounted")
    }

    fn start(&self, command: Command, d: &Path, side: &str) -> Output {
        let t = self.outputs.make(side);
        let mut command = limited(&command, LIMIT);
        command.env("D", d).env("T", &t).env("TMPDIR", d).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").current_dir(&t);
        command.env_remove("LIFEBOAT_TESTKIT_ROLE");
        let mut output = command.output().expect("start a program");
        for stream in [&mut output.stdout, &mut output.stderr] {
            let text = String::from_utf8_lossy(stream);
            let text = text.replace(&d.display().to_string(), "$D").replace(&t.display().to_string(), "$T");
            *stream = text.into_bytes();
        }
        output
    }

    /// The region is whole and nothing was written past the mount.
    fn finish(self) {
        assert_eq!(self.mounted.escaped(), [""; 0].map(PathBuf::from), "written past the mount");
        let files = attach(&self.mounted.directory()).expect("attach");
        let checked = check(&files);
        assert!(checked.is_clean(), "{checked}");
    }
}

/// One script on both sides; `programs` are what it cannot do without. Gives what it printed; nothing where one is not installed.
fn same(label: &str, programs: &[&str], script: &str) -> String {
    let _nothing_left = NoResidue::begin();
    if !programs.iter().all(|program| is_installed(program)) {
        return String::new();
    }
    let sides = Sides::new(label, "256MiB");
    let expected = sides.run_plain(&["bash", "-c", script]);
    let found = sides.run_mounted(&["bash", "-c", script]);
    let differences = differences(&expected, &found);
    assert!(differences.is_empty(), "mount (+) and tmpfs (-) differ:\n{}", differences.join("\n"));
    note(label, &format!("{} lines of output equal", expected.stdout.split(|byte| *byte == b'\n').count()));
    sides.finish();
    String::from_utf8_lossy(&expected.stdout).into_owned()
}

fn differences(expected: &Output, found: &Output) -> Vec<String> {
    let mut all = Vec::new();
    if expected.status != found.status {
        all.push(format!("-{}\n+{}", expected.status, found.status));
    }
    for (expected, found) in [(&expected.stdout, &found.stdout), (&expected.stderr, &found.stderr)] {
        let (expected, found) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(found));
        let lines = expected.lines().count().max(found.lines().count());
        let pairs = (0..lines).map(|line| (expected.lines().nth(line), found.lines().nth(line)));
        let different = pairs.filter(|(expected, found)| expected != found).take(10);
        all.extend(different.map(|(e, f)| format!("-{}\n+{}", e.unwrap_or("(end)"), f.unwrap_or("(end)"))));
    }
    all
}

#[test]
#[ignore = "takes a minute; `cargo xtask test --full`"]
fn fio_reads_back_what_every_way_of_writing_wrote() {
    same("fio", &["fio"], include_str!("../programs/debian/fio.sh"));
}

/// The jobs of `bench/fio`.
const JOBS: [(&str, &str); 11] = [
    ("append-64", include_str!("../../../bench/fio/append-64.fio")),
    ("create", include_str!("../../../bench/fio/create.fio")),
    ("create-write-64k", include_str!("../../../bench/fio/create-write-64k.fio")),
    ("pwrite-64", include_str!("../../../bench/fio/pwrite-64.fio")),
    ("read", include_str!("../../../bench/fio/read.fio")),
    ("stat", include_str!("../../../bench/fio/stat.fio")),
    ("unlink", include_str!("../../../bench/fio/unlink.fio")),
    ("write-4k-new", include_str!("../../../bench/fio/write-4k-new.fio")),
    ("write-4k-over", include_str!("../../../bench/fio/write-4k-over.fio")),
    ("write-first", include_str!("../../../bench/fio/write-first.fio")),
    ("write-over", include_str!("../../../bench/fio/write-over.fio")),
];

/// Runs each, small, and prints the name, errors, and KiB read and written of its parts, and what it leaves.
#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn the_jobs_for_fio_move_as_many_bytes_as_on_tmpfs() {
    let mut script = String::from("export DIRECTORY=\"$D\" SIZE=1m LOOPS=2 FILES=20; cd \"$T\" || exit 99\n");
    for (name, job) in JOBS {
        script += &format!("cat > {name}.fio <<'END OF JOB'\n{job}END OF JOB\n");
        script += &format!("fio --minimal {name}.fio > said 2> complained; echo {name} $?\n");
        script += "cut -d';' -f3,5,6,47 said; head -n 3 complained; ls -A \"$D\"\n";
    }
    let printed = same("fio-jobs", &["fio"], &script);
    let failed = JOBS.iter().find(|(name, _)| !printed.contains(&format!("{name} 0\n")));
    assert!(printed.is_empty() || failed.is_none(), "{failed:?} fails on tmpfs, too: {printed}");
}

#[test]
#[ignore = "takes a minute; `cargo xtask test --full`"]
fn two_writers_of_a_database_lose_nothing_in_any_journal_mode() {
    same("sqlite", &["sqlite3"], include_str!("../programs/debian/sqlite.sh"));
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn a_database_that_maps_more_than_there_is_memory_finds_what_it_wrote() {
    let has_lmdb = Command::new("/usr/bin/python3").args(["-c", "import lmdb"]).output();
    if !has_lmdb.is_ok_and(|output| output.status.success()) {
        return skipped("LMDB", "no python3-lmdb is installed");
    }
    same("lmdb", &[], include_str!("../programs/debian/lmdb.sh"));
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn a_repository_is_cloned_changed_and_collected_as_on_tmpfs() {
    same("git", &["git"], include_str!("../programs/debian/git.sh"));
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn rsync_copies_as_on_tmpfs() {
    same("rsync", &["rsync"], include_str!("../programs/debian/rsync.sh"));
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn archives_make_the_round_trip() {
    same("tar", &["tar", "gzip"], include_str!("../programs/debian/tar.sh"));
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn a_program_is_built_and_run_in_the_mount() {
    same("gcc", &["gcc", "g++", "make"], include_str!("../programs/debian/gcc.sh"));
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn tools_of_hdf5_find_no_difference() {
    same("hdf5", &["h5repack", "h5diff", "h5import"], include_str!("../programs/debian/hdf5.sh"));
}

#[test]
#[ignore = "takes long; `cargo xtask test --full`"]
fn input_and_output_by_the_kernel_itself_never_seem_to_succeed() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("fio") {
        return;
    }
    let sides = Sides::new("kernel-io", "64MiB");
    let script = "cd $T; for engine in libaio io_uring; do fio --name=v --directory=$D --ioengine=$engine --rw=write --bs=4k --size=1m \
                  --verify=crc32c --do_verify=1 --verify_state_save=0 --minimal > /dev/null 2> $T/said; echo \"$engine $?\"; done";
    let expected = sides.run_plain(&["bash", "-c", script]);
    let found = sides.run_mounted(&["bash", "-c", script]);
    for engine in ["libaio", "io_uring"] {
        let succeeded = |output: &Output| String::from_utf8_lossy(&output.stdout).contains(&format!("{engine} 0\n"));
        if !succeeded(&expected) {
            skipped(&format!("fio with {engine}"), "the kernel does not have it");
        }
        assert!(!succeeded(&found), "{engine} says that it wrote and read back what no kernel can see");
    }
    sides.finish();
}

/// Tests of Python that end otherwise in the mount, and why; see `docs/compatibility.md`.
const KNOWN: &[(&str, &str)] = &[
    ("ExtendedAttributeTests", "the mount has no extended attributes"),
    ("xattr", "the mount has no extended attributes"),
    ("LargeMmapTests", "a mapping takes space for the holes of its file"),
];

#[test]
#[ignore = "takes minutes; `cargo xtask test --full`"]
fn the_tests_of_python_end_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let Some(python) = python::with_tests() else {
        return skipped("tests of Python", "no python3 with its package `test` is installed");
    };
    let sides = Sides::new("python", "256MiB");
    let mut seen = BTreeSet::new();
    for module in ["test_os", "test_io", "test_shutil", "test_mmap"] {
        let script = format!("{python} -m test --tempdir \"$D\" --junit-xml \"$T/{module}.xml\" {module}");
        let plain = sides.run_plain(&["bash", "-c", &script]);
        let mounted = sides.run_mounted(&["bash", "-c", &script]);
        assert_ne!(plain.status.code(), Some(124), "{module} takes too long on tmpfs");
        assert_ne!(mounted.status.code(), Some(124), "{module} takes too long in the mount");
        let expected = python::results(&sides.output("plain").join(format!("{module}.xml")));
        let found = python::results(&sides.output("mounted").join(format!("{module}.xml")));
        assert!(expected.len() > 30, "{module} ran only {} tests", expected.len());
        let names: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let different = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
        let mut known = 0;
        let mut unknown = Vec::new();
        for name in different {
            match KNOWN.iter().find(|(part, _)| name.contains(part)) {
                Some(reason) => {
                    known += 1;
                    seen.insert(reason);
                }
                None => unknown.push(format!("{name}: tmpfs {:?}, mount {:?}", expected.get(name), found.get(name))),
            }
        }
        assert!(unknown.is_empty(), "{module} ends otherwise in the mount:\n{}", unknown.join("\n"));
        note(module, &format!("{} of {} tests end as on tmpfs", expected.len() - known, expected.len()));
    }
    for (part, why) in seen {
        note("tests of Python", &format!("end otherwise: {part}: {why}"));
    }
    sides.finish();
}
