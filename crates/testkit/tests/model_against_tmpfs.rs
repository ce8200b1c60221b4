//! The fear: some call answers otherwise than a kernel file system would, and a program goes wrong on it.
//!
//! Random and directed sequences run on a region and on a directory of `/dev/shm`; every answer and every tree must be
//! equal. `LIFEBOAT_SEED` chooses the random ones, `LIFEBOAT_FULL=1` makes them many.
//!
//! Compared: return values, errno, content, type, mode, owner, links, size, explicit times, which names are one file.
//! Not compared: sizes of directories, allocated blocks (except that holes read as zeros and that `SEEK_DATA` and
//! `SEEK_HOLE` say nothing false), access times, opening of FIFOs and devices, and hard links that only the kernel's
//! `protected_hardlinks` forbids.

use lifeboat_testkit::child::{self, Role, number, setting};
use lifeboat_testkit::command::{Mounted, lifeboat};
use lifeboat_testkit::fuse_mount::FuseMounted;
use lifeboat_testkit::model::checks;
use lifeboat_testkit::model::scenario::{self, Transcript};
use lifeboat_testkit::model::{Difference, Op, Pair, Taste, compare, operations, remove_all, smallest, walk};
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, ScratchRegion, attach, check, is_root};
use lifeboat_testkit::volume::{KernelVolume, RegionVolume, Volume};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// A place below the top, so that `..` in a random path stays inside.
const DEEP: &str = "1/2/3/4";
const SCENARIOS: [&str; 6] = ["times", "limits", "places", "nameless", "order of checks", SET_ID_BITS];
/// Takes root on the kernel's side.
const SET_ID_BITS: &str = "set-id bits";
const COMPARE_EVERY: usize = 40;
const TIME_TO_SHRINK: Duration = Duration::from_secs(10);
/// Once something differs, the run goes on for so long to find what else does.
const TIME_FOR_FAILURES: Duration = Duration::from_secs(60);

#[test]
fn entry_of_child_processes() {
    child::enter(&[
        ("sequences in the region", sequences_in_the_region),
        ("sequences in the mount", sequences_in_the_mount),
        ("sequences in the kernel's mount", sequences_in_the_kernels_mount),
        ("sequences on tmpfs itself", sequences_on_tmpfs_itself),
        ("scenarios", scenarios),
        ("scenarios in the mount", scenarios_in_the_mount),
        ("scenarios in the kernel's mount", scenarios_in_the_kernels_mount),
    ]);
}

#[test]
fn random_operations_answer_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let (sequences, limit) = if report::full() { (1500, 1500) } else { (50, 150) };
    let region = ScratchRegion::new("model", 96 * MIB);
    let kernel = ScratchDirectory::on_tmpfs("model");
    let first = seed(2024);
    let reports = Role::new("sequences in the region")
        .with("REGION", region.path().display())
        .with("KERNEL", kernel.path().display())
        .with("SEED", first)
        .with("SEQUENCES", sequences)
        .run(Duration::from_secs(limit));
    report::note("model", &format!("seed {first}: {}", reports.join("; ")));
}

#[test]
fn random_operations_of_an_unmodified_program_answer_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let (sequences, limit) = if report::full() { (300, 1200) } else { (16, 120) };
    let mounted = Mounted::new("model-mount", "96MiB");
    let kernel = ScratchDirectory::on_tmpfs("model-mount");
    let first = seed(77);
    let reports = Role::below(mounted.exec(), "sequences in the mount")
        .with("MOUNT", mounted.prefix().display())
        .with("KERNEL", kernel.path().display())
        .with("SEED", first)
        .with("SEQUENCES", sequences)
        .run(Duration::from_secs(limit));
    report::note("model through the mount", &format!("seed {first}: {}", reports.join("; ")));
}

#[test]
fn random_operations_of_four_processes_through_the_kernel_answer_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let (sequences, limit) = if report::full() { (100, 1200) } else { (8, 150) };
    let Some(mounted) = FuseMounted::new("model-fuse", "96MiB") else { return };
    let kernel = ScratchDirectory::on_tmpfs("model-fuse");
    let first = seed(4711);
    let processes: Vec<_> = (0..4)
        .map(|number| {
            // Each in directories of its own: only so is there one right answer.
            let name = format!("process {number}");
            let (ours, theirs) = (mounted.make(&name), kernel.make(&name));
            Role::new("sequences in the kernel's mount")
                .with("MOUNT", ours.display())
                .with("KERNEL", theirs.display())
                .with("SEED", first.wrapping_add(number << 32))
                .with("SEQUENCES", sequences)
                .spawn()
        })
        .collect();
    for process in processes {
        let ended = process.wait(Duration::from_secs(limit));
        assert!(ended.status.is_some_and(|status| status.success()), "{}", ended.describe());
        report::note("model through the kernel's mount", &format!("seed {first}: {}", ended.reports.join("; ")));
    }
    let output = mounted.unmount(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked = lifeboat(["region", "check", mounted.region().name()]).output().expect("start lifeboat");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn directed_sequences_answer_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("scenario", 64 * MIB);
    let kernel = ScratchDirectory::on_tmpfs("scenario");
    Role::new("scenarios")
        .with("REGION", region.path().display())
        .with("KERNEL", kernel.path().display())
        .run(Duration::from_secs(60));
}

#[test]
fn directed_sequences_of_an_unmodified_program_answer_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let mounted = Mounted::new("scenario-mount", "64MiB");
    let kernel = ScratchDirectory::on_tmpfs("scenario-mount");
    Role::below(mounted.exec(), "scenarios in the mount")
        .with("MOUNT", mounted.prefix().display())
        .with("KERNEL", kernel.path().display())
        .run(Duration::from_secs(60));
}

#[test]
fn directed_sequences_through_the_kernel_answer_as_on_tmpfs() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("scenario-fuse", "64MiB") else { return };
    let kernel = ScratchDirectory::on_tmpfs("scenario-fuse");
    Role::new("scenarios in the kernel's mount")
        .with("MOUNT", mounted.at().display())
        .with("KERNEL", kernel.path().display())
        .run(Duration::from_secs(60));
}

#[test]
fn the_comparison_itself_finds_nothing_between_tmpfs_and_tmpfs_and_finds_a_planted_fault() {
    let _nothing_left = NoResidue::begin();
    let (one, other) = (ScratchDirectory::on_tmpfs("one"), ScratchDirectory::on_tmpfs("other"));
    Role::new("sequences on tmpfs itself")
        .with("ONE", one.path().display())
        .with("OTHER", other.path().display())
        .run(Duration::from_secs(60));
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(setting(name))
}

fn taste(several_users: bool) -> Taste {
    // Beyond POSIX, a kernel may refuse users each other's links and files in open sticky directories.
    let refused = |setting: &&str| {
        std::fs::read_to_string(format!("/proc/sys/fs/{setting}")).is_ok_and(|value| value.trim() != "0")
    };
    let sticky = !["protected_symlinks", "protected_regular"].iter().any(refused);
    Taste { several_users, sticky: sticky || !several_users, ..Taste::default() }
}

/// What the kernel's mount can do: nobody tells it of `O_TMPFILE`, nor of a `chown` that changes no owner but can be
/// refused all the same (docs/compatibility.md).
fn taste_of_the_kernels_mount() -> Taste {
    Taste { nameless: false, chown_to_nobody_else: false, ..taste(is_root()) }
}

/// Runs `SEQUENCES` random sequences, each with `once`, and fails with the shortest lists that still differ: one for
/// each kind of difference, so that one run tells much.
fn sequences(taste: Taste, mut once: impl FnMut(&[Op]) -> Result<usize, Difference>) {
    let (first, count) = (number("SEED"), number("SEQUENCES"));
    let (mut executed, mut failures) = (0, BTreeMap::new());
    let end = Instant::now() + TIME_FOR_FAILURES;
    for seed in (0..count).map(|sequence| first.wrapping_add(sequence)) {
        let list = operations(&mut Random::new(seed), taste, 600);
        match once(&list) {
            Ok(done) => executed += done,
            Err(difference) => {
                let short = smallest(&list[..=difference.after], TIME_TO_SHRINK, |list| {
                    once(list).err().map(|error| error.after)
                });
                let text = once(&short).err().map_or(format!("only once: {}", difference.text), |again| again.text);
                let kind = kind_of(&text, short.last());
                failures.entry(kind).or_insert_with(|| format!("seed {seed}: {text}\nafter\n{}", show(&short)));
            }
        }
        if !failures.is_empty() && Instant::now() > end {
            break;
        }
    }
    child::report(&format!("{executed} operations on both sides"));
    let failures: Vec<String> = failures.into_values().collect();
    assert!(failures.is_empty(), "{} kinds of differences\n{}", failures.len(), failures.join("\n"));
    assert!(executed as u64 > count * 200, "too few operations took place: {executed}");
}

/// Equal for differences that are probably one fault: the words, without names and numbers, and the last operation.
fn kind_of(text: &str, last: Option<&Op>) -> String {
    let unquoted: String = text.split('"').step_by(2).collect();
    let words: String = unquoted.chars().filter(|letter| !letter.is_ascii_digit()).take(40).collect();
    let operation = format!("{last:?}");
    format!("{words} {}", operation.split('{').next().unwrap_or_default())
}

fn show(list: &[Op]) -> String {
    list.iter().map(|op| format!("  {op:?}\n")).collect()
}

/// A fresh directory on a kernel's side, at [`DEEP`] below `parent`.
fn kernel_top(parent: &Path, number: usize) -> PathBuf {
    let top = parent.join(number.to_string()).join(DEEP);
    std::fs::create_dir_all(&top).expect("a directory on tmpfs");
    allow_all(&parent.join(number.to_string()));
    top
}

fn allow_all(top: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for level in top.join(DEEP).ancestors().take(5) {
        std::fs::set_permissions(level, std::fs::Permissions::from_mode(0o777)).expect("our directory's rights");
    }
}

fn region_top(volume: &RegionVolume<'_>, number: usize) -> String {
    let mut top = number.to_string();
    for level in [""].into_iter().chain(DEEP.split('/')) {
        if !level.is_empty() {
            top = format!("{top}/{level}");
        }
        volume.mkdir(None, top.as_bytes(), 0o777).expect("a directory in the region");
        volume.chmod(None, top.as_bytes(), 0o777).expect("our directory's rights");
    }
    top
}

fn sequences_in_the_region() {
    let (region, kernel) = (path("REGION"), path("KERNEL"));
    let files = attach(&region).expect("attach");
    let whole = RegionVolume::over(&files, b"").expect("the root");
    whole.chmod(None, b".", 0o777).expect("our directory's rights");
    let used = files.usage().inodes_used;
    let mut next = 0;
    sequences(taste(is_root()), |list| {
        next += 1;
        let top = region_top(&whole, next);
        let mut ours = RegionVolume::over(&files, top.as_bytes()).expect("our directory");
        let mut theirs = KernelVolume::over(&kernel_top(&kernel, next), is_root()).expect("their directory");
        let mut pair = Pair::new(&mut ours, &mut theirs, Taste::default().slots, is_root());
        let result = pair.run(list, COMPARE_EVERY);
        let executed = pair.executed;
        drop(theirs);
        result?;
        remove_all(&whole, b"").expect("remove all in the region");
        std::fs::remove_dir_all(kernel.join(next.to_string())).or_else(|_| empty(&kernel)).expect("remove all");
        let now = files.usage().inodes_used;
        if now != used {
            let text = format!("{used} inodes before, {now} after everything was closed and removed");
            return Err(Difference { after: list.len() - 1, text });
        }
        Ok(executed)
    });
    let report = check(&files);
    assert!(report.is_clean(), "after all sequences: {report}");
}

/// Removes what an ordinary user has taken away his own rights to.
fn empty(directory: &Path) -> std::io::Result<()> {
    let volume = KernelVolume::over(directory, false)?;
    remove_all(&volume, b"").map_err(std::io::Error::from_raw_os_error)
}

fn sequences_of_kernels(ours: &Path, theirs: &Path, taste: Taste) {
    let (mut next, several_users) = (0, taste.several_users);
    sequences(taste, |list| {
        next += 1;
        let mut one = KernelVolume::over(&kernel_top(ours, next), several_users).expect("a directory");
        let mut other = KernelVolume::over(&kernel_top(theirs, next), several_users).expect("a directory");
        let mut pair = Pair::new(&mut one, &mut other, Taste::default().slots, several_users);
        pair.run(list, COMPARE_EVERY)?;
        let executed = pair.executed;
        empty(ours).and_then(|()| empty(theirs)).expect("remove all");
        Ok(executed)
    });
}

fn sequences_in_the_mount() {
    sequences_of_kernels(&path("MOUNT"), &path("KERNEL"), taste(false));
}

fn sequences_in_the_kernels_mount() {
    sequences_of_kernels(&path("MOUNT"), &path("KERNEL"), taste_of_the_kernels_mount());
}

fn sequences_on_tmpfs_itself() {
    let (one, other) = (path("ONE"), path("OTHER"));
    for (number, change) in [(0, false), (1, true)] {
        let (top, other_top) = (kernel_top(&one, number), kernel_top(&other, number));
        let mut random = Random::new(5);
        let list = operations(&mut random, taste(is_root()), 400);
        let mut ours = KernelVolume::over(&top, is_root()).expect("a directory");
        let mut theirs = KernelVolume::over(&other_top, is_root()).expect("a directory");
        let mut pair = Pair::new(&mut ours, &mut theirs, Taste::default().slots, is_root());
        pair.run(&list, COMPARE_EVERY).expect("tmpfs is equal to itself");
        assert!(pair.executed > 100, "only {} operations took place", pair.executed);
        std::fs::write(other_top.join("planted"), [7; 5000]).expect("a file");
        std::fs::write(top.join("planted"), [if change { 8 } else { 7 }; 5000]).expect("a file");
        let trees = (walk(&ours, b"").expect("a tree"), walk(&theirs, b"").expect("a tree"));
        assert_eq!(compare(&trees.0, &trees.1).is_some(), change, "the comparison of trees");
        let mut mode = Pair::new(&mut ours, &mut theirs, 1, false);
        std::os::unix::fs::symlink("x", other_top.join("also planted")).expect("a link");
        assert!(mode.run(&list[..1], 1).is_err(), "a name that one side lacks was not noticed");
    }
    for (number, name) in SCENARIOS.iter().enumerate() {
        let mut ours = KernelVolume::over(&kernel_top(&one, number + 10), is_root()).expect("a directory");
        let mut theirs = KernelVolume::over(&kernel_top(&other, number + 10), is_root()).expect("a directory");
        let difference = play(name, &mut ours).difference(&play(name, &mut theirs));
        assert_eq!(difference, None, "tmpfs is equal to itself");
    }
}

fn scenarios() {
    let (region, kernel) = (path("REGION"), path("KERNEL"));
    let files = attach(&region).expect("attach");
    let whole = RegionVolume::over(&files, b"").expect("the root");
    whole.chmod(None, b".", 0o777).expect("our directory's rights");
    let differences: Vec<String> = (SCENARIOS.iter().enumerate())
        .filter_map(|(number, name)| {
            let top = region_top(&whole, number);
            let mut ours = RegionVolume::over(&files, top.as_bytes()).expect("our directory");
            let mut theirs = KernelVolume::over(&kernel_top(&kernel, number), is_root()).expect("their directory");
            scenario::far_places(&ours);
            scenario::far_places(&theirs);
            let (ours, theirs) = (play(name, &mut ours), play(name, &mut theirs));
            ours.difference(&theirs).map(|text| format!("{name}:\n {text}"))
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Without those that change the user in the middle.
fn scenarios_in_the_mount() {
    let (mount, kernel) = (path("MOUNT"), path("KERNEL"));
    let names = SCENARIOS.iter().filter(|name| **name != SET_ID_BITS).enumerate();
    let differences: Vec<String> = names
        .filter_map(|(number, name)| {
            let mut ours = KernelVolume::over(&kernel_top(&mount, number), false).expect("our directory");
            let mut theirs = KernelVolume::over(&kernel_top(&kernel, number), false).expect("their directory");
            let (ours, theirs) = (play(name, &mut ours), play(name, &mut theirs));
            ours.difference(&theirs).map(|text| format!("{name}:\n {text}"))
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn scenarios_in_the_kernels_mount() {
    let (mount, kernel) = (path("MOUNT"), path("KERNEL"));
    let possible = SCENARIOS.iter().filter(|name| **name != "nameless" || taste_of_the_kernels_mount().nameless);
    let differences: Vec<String> = (possible.enumerate())
        .filter_map(|(number, name)| {
            let mut ours = KernelVolume::over(&kernel_top(&mount, number), is_root()).expect("our directory");
            let mut theirs = KernelVolume::over(&kernel_top(&kernel, number), is_root()).expect("their directory");
            scenario::far_places(&ours);
            scenario::far_places(&theirs);
            let (mut ours, mut theirs) = (play(name, &mut ours), play(name, &mut theirs));
            leave_out_what_is_known(&mut ours, &mut theirs);
            ours.difference(&theirs).map(|text| format!("{name}:\n {text}"))
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Differences that docs/compatibility.md names: the kernel's mount is not told of `O_TMPFILE`; and a stranger's `chown`
/// to nobody else, which would cost a file its set-group-id bit, does nothing instead of failing.
fn leave_out_what_is_known(ours: &mut Transcript, theirs: &mut Transcript) {
    let nameless = format!("open {:#o} ", libc::O_TMPFILE | libc::O_RDWR);
    let unsupported = format!(": Err({})", libc::EOPNOTSUPP);
    let is_nameless = |line: &str| line.starts_with("without a name: ") || line.starts_with(&nameless);
    for (ours, theirs) in ours.0.iter_mut().zip(&mut theirs.0) {
        let is_strangers = ours.starts_with("stranger, ") && ours.ends_with("chown to nobody else: Ok(())");
        let is_refused = is_strangers && theirs.ends_with(&format!(": Err({})", libc::EPERM));
        if is_refused || is_nameless(ours) && ours.ends_with(&unsupported) {
            theirs.clone_from(ours);
        }
    }
}

fn play<V: Volume>(name: &str, volume: &mut V) -> Transcript {
    let mut said = Transcript::default();
    match name {
        "order of checks" => checks::order_of_checks(volume, &mut said),
        SET_ID_BITS if is_root() => checks::set_id_bits(volume, &mut said),
        SET_ID_BITS => {}
        "times" => scenario::times(volume, &mut said),
        "limits" => scenario::limits(volume, &mut said),
        "nameless" => scenario::nameless(volume, &mut said),
        _ => scenario::places(volume, &mut said),
    }
    said
}
