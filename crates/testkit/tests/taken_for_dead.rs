//! The fear: a living process is taken for dead and robbed, or a dead one for living and waited for: because of its
//! children, of descriptors that a program closed, of a number that another process has by now, of pid namespaces, or
//! because it is stopped.

use lifeboat_fs::{FileSystem, OpenFile};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::CELL;
use lifeboat_region::{image, process};
use lifeboat_testkit::child::{self, Process, Role, number, report, setting};
use lifeboat_testkit::report::{full, note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check, is_root};
use lifeboat_testkit::volume::Volume;
use lifeboat_testkit::workers::volume;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A process must be seen to be dead within this time.
const SOON: Duration = Duration::from_secs(1);
/// Somebody who is not taken for dead in this time never is: waiters look every 50 ms.
const LONG: Duration = Duration::from_millis(300);
/// For processes to start on a busy machine.
const START: Duration = Duration::from_secs(20);

#[test]
fn entry_of_child_processes() {
    child::enter(&[("holder", holder), ("taker", taker), ("bystander", bystander), ("namesake", namesake)]);
}

/// A region with the files that the tests lock.
fn region(label: &str) -> ScratchRegion {
    let region = ScratchRegion::new(label, 16 << 20);
    let files = region.attach();
    let volume = volume(&files);
    for name in ["parents", "childs", "busy"] {
        let file = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
        volume.close(file).expect("close");
    }
    region
}

/// Where the lock word of an open file's inode lies.
fn lock_at(files: &FileSystem, file: OpenFile) -> u64 {
    files.inode_of(file).expect("an open file").number() * CELL
}

/// Takes the inner lock of a file and gives what it has of it.
fn take<'f>(files: &'f FileSystem, name: &str) -> (Lane<'f>, u64) {
    let file = volume(files).open(None, name.as_bytes(), libc::O_RDWR, 0).expect("open");
    let lane = Lane::claim(files.region()).expect("a lane");
    let at = lock_at(files, file);
    lane.lock(at, files).expect("the lock");
    (lane, at)
}

fn pause() -> ! {
    // SAFETY: ends this process when nobody has, long after the test.
    unsafe { libc::alarm(100) };
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Holds a lock as in the middle of an operation: `CLOSES` all descriptors then, `FORKS` a child that holds another, or
/// gives it back after `HOLD_MS`.
fn holder() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let (lane, at) = take(&files, "parents");
    if number("FORKS") == 1 {
        // SAFETY: the child uses what it inherited; it never leaves this function.
        let child = unsafe { libc::fork() };
        if child == 0 {
            files.after_fork().expect("a slot for the child");
            let _held = take(&files, "childs");
            report(&format!("child {}", std::process::id()));
            // Who waits for the end of the parent's output does not wait for us.
            // SAFETY: nothing is written from here on.
            unsafe { libc::close_range(1, 2, 0) };
            pause();
        }
    }
    if number("CLOSES") == 1 {
        // SAFETY: what a program may do that knows nothing of our descriptors; ours are not used below but for reports.
        assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0);
    }
    let held = files.region().load(at).expect("the lock word") as u32;
    report("ready");
    let limit = number("HOLD_MS");
    if limit == 0 {
        pause();
    }
    std::thread::sleep(Duration::from_millis(limit));
    assert_eq!(files.region().load(at).expect("the lock word") as u32, held, "the lock was stolen");
    drop(lane);
    report("released");
}

fn start_holder(region: &ScratchRegion, launcher: Option<Command>, settings: &[(&str, u64)]) -> Process {
    let mut role = match launcher {
        Some(launcher) => Role::below(launcher, "holder"),
        None => Role::new("holder"),
    };
    for name in ["FORKS", "CLOSES", "HOLD_MS"] {
        let value = settings.iter().find(|(set, _)| *set == name).map_or(0, |(_, value)| *value);
        role = role.with(name, value);
    }
    role.with("REGION", region.path().display()).spawn()
}

/// Wants a lock, and says how long that took.
fn taker() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    files.after_fork().expect("a slot");
    report("ready");
    let start = Instant::now();
    drop(take(&files, &setting("FILE")));
    report(&start.elapsed().as_millis().to_string());
}

fn start_taker(region: &ScratchRegion, launcher: Option<Command>, file: &str) -> Process {
    let role = match launcher {
        Some(launcher) => Role::below(launcher, "taker"),
        None => Role::new("taker"),
    };
    let mut taker = role.with("REGION", region.path().display()).with("FILE", file).spawn();
    assert_eq!(taker.next_report(START), "ready");
    taker
}

/// The lock is had soon, because its holder is dead.
fn assert_taken(region: &ScratchRegion, launcher: Option<Command>, file: &str, what: &str) {
    let waited = start_taker(region, launcher, file).next_report(START);
    let waited = Duration::from_millis(waited.parse().expect("milliseconds"));
    note("taken for dead", &format!("{what}: recovered after {} ms", waited.as_millis()));
    assert!(waited < SOON, "{what}: waited for the dead for {waited:?}");
}

/// The lock is not had, because its holder lives.
fn assert_kept(region: &ScratchRegion, launcher: Option<Command>, file: &str, what: &str) {
    let taken = start_taker(region, launcher, file).report_within(LONG);
    assert_eq!(taken, None, "{what}: a lock was taken from somebody who lives");
}

/// All others are gone. A process whose launcher was ended may itself live a moment longer, and is waited for.
fn assert_clean(region: &ScratchRegion) {
    let files = region.attach();
    let own = image::own(files.region()).expect("a slot");
    let start = Instant::now();
    loop {
        files.sweep().expect("recover everybody");
        let mut others = 0;
        image::attached(files.region(), |image, _| others += u32::from(image != own)).expect("the table");
        if others == 0 {
            break;
        }
        assert!(start.elapsed() < START, "{others} processes are still taken for living");
        std::thread::sleep(Duration::from_millis(5));
    }
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

/// Ends a process that is not a child of this one.
struct Grandchild(i32);

impl Drop for Grandchild {
    fn drop(&mut self) {
        // SAFETY: a process that our own child started and that ends only in this way; its number is nobody else's yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

#[test]
fn a_dead_process_with_a_living_child_is_recovered_and_the_child_keeps_what_it_has() {
    let _nothing_left = NoResidue::begin();
    let region = region("orphan");
    let mut parent = start_holder(&region, None, &[("FORKS", 1)]);
    let mut said = [parent.next_report(START), parent.next_report(START)];
    said.sort();
    let child = said[0].strip_prefix("child ").and_then(|id| id.parse().ok()).map(Grandchild).expect("a child");
    assert_kept(&region, None, "parents", "a parent");
    parent.kill();
    assert_taken(&region, None, "parents", "a dead parent");
    assert_kept(&region, None, "childs", "an orphan");
    drop(child);
    assert_taken(&region, None, "childs", "a dead orphan");
    assert_clean(&region);
}

#[test]
fn a_process_that_closed_all_descriptors_is_not_robbed() {
    let _nothing_left = NoResidue::begin();
    let region = region("closed");
    let mut holder = start_holder(&region, None, &[("CLOSES", 1)]);
    assert_eq!(holder.next_report(START), "ready");
    assert_kept(&region, None, "parents", "without descriptors");
    holder.kill();
    assert_taken(&region, None, "parents", "dead without descriptors");
    assert_clean(&region);
}

/// Works on a file of its own in the same directory, and says how long its longest call took.
fn bystander() {
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let volume = volume(&files);
    let end = Instant::now() + Duration::from_millis(number("FOR_MS"));
    report("ready");
    let mut longest = Duration::ZERO;
    while Instant::now() < end {
        let start = Instant::now();
        let file = volume.open(None, b"another", libc::O_CREAT | libc::O_WRONLY, 0o644).expect("open");
        volume.write(file, &[7; 5000], Some(0)).expect("write");
        volume.close(file).expect("close");
        volume.rename(None, b"another", b"renamed", 0).expect("rename");
        volume.unlink(None, b"renamed").expect("unlink");
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    report(&longest.as_millis().to_string());
}

#[test]
fn a_stopped_process_is_waited_for_and_nobody_else_waits() {
    let _nothing_left = NoResidue::begin();
    let region = region("stopped");
    let stopped_for = Duration::from_secs(if full() { 60 } else { 3 });
    let mut holder = start_holder(&region, None, &[("HOLD_MS", 100)]);
    assert_eq!(holder.next_report(START), "ready");
    let signal = |number: i32| {
        // SAFETY: our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(holder.id() as i32, number) }, 0);
    };
    signal(libc::SIGSTOP);
    let mut taker = start_taker(&region, None, "parents");
    let mut bystander = Role::new("bystander")
        .with("REGION", region.path().display())
        .with("FOR_MS", stopped_for.as_millis() - 500)
        .spawn();
    assert_eq!(bystander.next_report(START), "ready");
    assert_eq!(taker.report_within(stopped_for), None, "a lock was taken from a stopped process");
    let longest: u64 = bystander.next_report(START).parse().expect("milliseconds");
    assert!(u128::from(longest) < SOON.as_millis(), "a bystander waited {longest} ms for a stopped process");
    signal(libc::SIGCONT);
    assert_eq!(holder.next_report(START), "released", "it does not go on");
    let waited = taker.next_report(START);
    note(
        "stopped",
        &format!("for {stopped_for:?}; a bystander's longest call {longest} ms; the lock after {waited} ms"),
    );
    drop((holder, taker, bystander));
    assert_clean(&region);
}

/// A command that runs another as the first process of a new pid namespace; `None`, with a counted line, where that is not
/// allowed.
fn other_namespace(test: &str, with_proc: bool) -> Option<Command> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    if !is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    if with_proc {
        command.arg("--mount-proc");
    }
    let mut attempt = Command::new("unshare");
    attempt.args(command.get_args()).arg("true").stdin(Stdio::null()).stderr(Stdio::null());
    if attempt.status().is_ok_and(|status| status.success()) {
        return Some(command);
    }
    skipped(test, "no pid namespaces for this user");
    None
}

fn of_other_namespace(what: &str, with_proc: bool) {
    let _nothing_left = NoResidue::begin();
    let test = "pid namespaces";
    let region = region("namespaces");
    for (closes, name) in [(0, "living"), (1, "living without descriptors")] {
        let (Some(one), Some(other)) = (other_namespace(test, with_proc), other_namespace(test, with_proc)) else {
            return;
        };
        let mut holder = start_holder(&region, Some(one), &[("CLOSES", closes)]);
        assert_eq!(holder.next_report(START), "ready");
        assert_kept(&region, None, "parents", &format!("{name} in {what}, seen from outside"));
        assert_kept(&region, Some(other), "parents", &format!("{name} in {what}, seen from another"));
        holder.kill();
        let viewer = if closes == 0 { None } else { other_namespace(test, with_proc) };
        assert_taken(&region, viewer, "parents", &format!("dead in {what}"));
    }
    // And the other way round.
    let mut holder = start_holder(&region, None, &[]);
    assert_eq!(holder.next_report(START), "ready");
    assert_kept(&region, other_namespace(test, with_proc), "parents", "living outside");
    holder.kill();
    assert_taken(&region, other_namespace(test, with_proc), "parents", "dead outside");
    assert_clean(&region);
}

#[test]
fn processes_of_other_pid_namespaces_are_not_robbed_and_recovered_when_dead() {
    of_other_namespace("a pid namespace", true);
}

#[test]
fn processes_of_pid_namespaces_without_a_proc_of_their_own_are_not_robbed_either() {
    of_other_namespace("a pid namespace without /proc", false);
}

#[test]
fn one_of_two_attachments_of_a_process_is_not_taken_for_a_program_that_ran_before() {
    let _nothing_left = NoResidue::begin();
    let region = region("twice");
    let (first, second) = (region.attach(), region.attach());
    let (lane, at) = take(&first, "parents");
    let held = first.region().load(at).expect("the lock word");
    drop(take(&second, "childs"));
    second.sweep().expect("look after the dead");
    assert_eq!(second.region().load(at), Ok(held), "the lock was stolen");
    drop(lane);
    let word = first.region().load(at).expect("the lock word");
    assert_ne!(word, held, "the lock was not given back");
    drop((first, second));
    assert_clean(&region);
}

/// As the first process of a pid namespace: a process dies in the middle of an operation, another with its number begins.
fn namesake() {
    let region = setting("REGION");
    let fork = |play: &dyn Fn()| {
        // SAFETY: the child uses what it inherited and never leaves.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "cannot fork");
        if child == 0 {
            play();
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        child
    };
    let (first, ready) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    let tell = || std::io::Write::write_all(&mut &ready, b"r").expect("tell");
    let hear = || std::io::Read::read_exact(&mut &first, &mut [0]).expect("hear");
    let dies = fork(&|| {
        let files = attach(Path::new(&region)).expect("attach");
        let _held = take(&files, "parents");
        tell();
        pause();
    });
    hear();
    let mut status = 0;
    // SAFETY: our own child.
    unsafe {
        libc::kill(dies, libc::SIGKILL);
        libc::waitpid(dies, &mut status, 0);
    }
    let files = attach(Path::new(&region)).expect("attach");
    let childs = volume(&files).open(None, b"childs", libc::O_RDWR, 0).expect("open");
    // Start times are counted in hundredths of a second.
    std::thread::sleep(Duration::from_millis(50));
    if let Err(error) = std::fs::write("/proc/sys/kernel/ns_last_pid", (dies - 1).to_string()) {
        return report(&format!("skip {error}"));
    }
    let lives = fork(&|| {
        let files = attach(Path::new(&region)).expect("attach");
        let held = take(&files, "childs");
        tell();
        let _kept = held;
        pause();
    });
    hear();
    let mut holders = Vec::new();
    image::attached(files.region(), |_, holder| holders.push(holder.pid)).expect("the table");
    let same = holders.iter().filter(|pid| **pid as i32 == dies).count();
    report(&format!("{} {same} {}", u8::from(lives == dies), process::own_start_time().expect("a start time")));
    let start = Instant::now();
    drop(take(&files, "parents"));
    report(&start.elapsed().as_millis().to_string());
    // Who has the number now is not taken for the dead one.
    let lane = Lane::claim(files.region()).expect("a lane");
    files.sweep().expect("look after the dead");
    let stolen = lane.try_lock(lock_at(&files, childs)).expect("a lock word");
    report(if stolen { "stolen" } else { "kept" });
}

#[test]
fn a_process_with_the_number_of_a_dead_one_is_not_taken_for_it() {
    let _nothing_left = NoResidue::begin();
    let region = region("namesake");
    let Some(launcher) = other_namespace("pid reuse", true) else { return };
    let mut namesake = Role::below(launcher, "namesake").with("REGION", region.path().display()).spawn();
    let said = namesake.next_report(START);
    if let Some(why) = said.strip_prefix("skip ") {
        return skipped("pid reuse", why);
    }
    assert!(said.starts_with("1 2 "), "the number was not given again, or no image was left: {said}");
    let waited: u64 = namesake.next_report(START).parse().expect("milliseconds");
    assert!(u128::from(waited) < SOON.as_millis(), "waited {waited} ms for a process whose number another has");
    assert_eq!(namesake.next_report(START), "kept", "a living process was taken for the dead one with its number");
    note("pid reuse", &format!("recovered after {waited} ms"));
    drop(namesake);
    assert_clean(&region);
}
