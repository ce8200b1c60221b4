//! The fear: two processes both believe that they have a file locked; or one waits for ever for a lock of the dead.
//!
//! Workers are a C program that calls libc's `fcntl`, `flock` and `lockf`: some below the mount, as many on tmpfs. The
//! same commands must get the same answers.

use lifeboat_testkit::command::Mounted;
use lifeboat_testkit::programs::compile;
use lifeboat_testkit::random::{Random, seed};
use lifeboat_testkit::report::note;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::ScratchDirectory;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
/// How long a worker must stay silent to count as waiting.
const SILENCE: Duration = Duration::from_millis(150);

/// Commands of `fcntl` as the worker numbers them.
const PROCESS: u32 = 0;
const OPEN_FILE: u32 = 1;
const PROCESS_WAIT: u32 = 2;
const OPEN_FILE_WAIT: u32 = 3;

struct Worker {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    pid: String,
}

impl Worker {
    fn start(mut command: Command) -> Worker {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a worker");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, answers) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let commands = child.stdin.take().expect("a pipe");
        let mut worker = Worker { child, commands, answers, pid: String::new() };
        worker.note_start();
        worker
    }

    fn note_start(&mut self) {
        let ready = self.answer();
        self.pid = ready.strip_prefix("ready ").expect("the worker says when it is ready").to_owned();
    }

    fn send(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the worker reads");
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(LIMIT).expect("the worker answers in time")
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    #[track_caller]
    fn works(&mut self, command: &str) {
        assert_eq!(self.ask(command), "0 0", "{command}");
    }

    #[track_caller]
    fn waits(&mut self, command: &str) {
        self.send(command);
        assert_eq!(self.answers.recv_timeout(SILENCE), Err(RecvTimeoutError::Timeout), "{command} did not wait");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where workers work: below the mount, or on tmpfs.
struct Place<'m> {
    mount: Option<&'m Mounted>,
    folder: PathBuf,
    program: &'m Path,
}

impl Place<'_> {
    fn worker(&self) -> Worker {
        match self.mount {
            Some(mount) => {
                let mut command = mount.exec();
                command.arg(self.program);
                Worker::start(command)
            }
            None => Worker::start(Command::new(self.program)),
        }
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder.display())
    }
}

/// Runs `test` on tmpfs first (so that a wrong expectation is seen as such), then below the mount.
fn in_both_places(label: &str, test: impl Fn(&Place<'_>)) {
    let _no_residue = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs(label);
    let Some(program) = compile("gcc", "lock_worker.c", &["-O1", "-Wall"], scratch.path()) else { return };
    let mounted = Mounted::new(label, "32MiB");
    let tmpfs = Place { mount: None, folder: scratch.make("files"), program: &program };
    let region = Place { mount: Some(&mounted), folder: mounted.prefix().to_owned(), program: &program };
    test(&tmpfs);
    test(&region);
}

fn range(random: &mut Random) -> String {
    let whence = random.pick(&[0, 0, 0, 0, 1, 2, 9]);
    let start = random.pick(&[0, 0, 1, 5, 10, 10, 15, 20, 30, -3, i64::MAX - 2, i64::MAX]);
    let length = random.pick(&[0, 1, 5, 5, 10, 10, 20, -1, -5, -10, i64::MAX]);
    format!("{whence} {start} {length}")
}

/// `tells_own`: whether the kernel lets an open file ask for its own locks (since 6.6).
fn command(random: &mut Random, files: [&str; 2], tells_own: bool) -> [String; 2] {
    let slot = random.below(4);
    let same = |text: String| [text.clone(), text];
    match random.below(100) {
        0..=11 => {
            let (mode, file) = (random.pick(&[0, 1, 2, 2, 2, 3]), random.below(3));
            files.map(|folder| format!("open {slot} {mode} {folder}/f{file}"))
        }
        12..=17 => same(format!("close {slot}")),
        18..=23 => same(format!("dup {slot} {}", random.below(4))),
        24..=59 => {
            let (kind, lock) = (random.pick(&[0, 0, 1, 1, 1, 2, 2, 3]), random.pick(&[PROCESS, PROCESS, OPEN_FILE]));
            same(format!("set {slot} {lock} {kind} {}", range(random)))
        }
        60..=77 => {
            let lock = random.below(2) as u32;
            let kind = random.pick(if lock == PROCESS || tells_own { &[0, 1, 1, 2] } else { &[0, 1] });
            same(format!("get {slot} {lock} {kind} {}", range(random)))
        }
        78..=87 => same(format!("flock {slot} {}", random.pick(&[4 | 1, 4 | 2, 4 | 2, 8, 4 | 8, 3]))),
        88..=92 => same(format!("lockf {slot} {} {}", random.pick(&[0, 2, 3]), random.pick(&[0, 5, 10, -5]))),
        93..=95 => same(format!("seek {slot} {}", random.pick(&[0, 5, 12]))),
        96..=97 => same(format!("size {slot} {}", random.pick(&[0, 10, 40]))),
        _ => same("exec".to_owned()),
    }
}

/// Process numbers differ between the two sides: what counts is which worker is meant.
fn named(answer: String, workers: &[Worker]) -> String {
    let Some((rest, pid)) = answer.rsplit_once(" pid ") else { return answer };
    let who = workers.iter().position(|worker| worker.pid == pid);
    format!("{rest} by {}", who.map_or_else(|| pid.to_owned(), |index| format!("worker {index}")))
}

#[test]
fn any_sequence_of_locks_is_answered_as_on_tmpfs() {
    let _no_residue = NoResidue::begin();
    let scratch = ScratchDirectory::on_tmpfs("locks");
    let Some(program) = compile("gcc", "lock_worker.c", &["-O1", "-Wall"], scratch.path()) else { return };
    let mounted = Mounted::new("locks", "32MiB");
    let tmpfs = Place { mount: None, folder: scratch.make("files"), program: &program };
    let region = Place { mount: Some(&mounted), folder: mounted.prefix().to_owned(), program: &program };
    let first = seed(5);
    let steps = if std::env::var("LIFEBOAT_FULL").is_ok() { 100_000 } else { 6000 };
    let mut random = Random::new(first);
    let mut sides = [&tmpfs, &region].map(|place| (0..3).map(|_| place.worker()).collect::<Vec<_>>());
    let files = [tmpfs.file("."), region.file(".")];
    sides[0][0].works(&format!("open 0 2 {}", tmpfs.file("probe")));
    let tells_own = sides[0][0].ask("get 0 1 2 0 0 0") == "free";
    sides[0][0].works("close 0");
    let mut history = Vec::new();
    for step in 0..steps {
        let who = random.below(3) as usize;
        let texts = command(&mut random, [&files[0], &files[1]], tells_own);
        history.push(format!("{who}: {}", texts[0]));
        let answers = [0, 1].map(|side| {
            let workers = &mut sides[side];
            if texts[side] == "exec" {
                workers[who].send("exec");
                workers[who].note_start();
                return String::from("executed");
            }
            let answer = workers[who].ask(&texts[side]);
            named(answer, workers)
        });
        if answers[0] != answers[1] {
            let recent = history[history.len().saturating_sub(25)..].join("\n");
            panic!(
                "seed {first}, step {step}: tmpfs answers '{}', the region '{}' to the last of\n{recent}",
                answers[0], answers[1]
            );
        }
    }
    note("file locks", &format!("seed {first}: {steps} commands answered alike"));
}

#[test]
fn of_several_locks_in_the_way_the_first_is_told() {
    in_both_places("order", |place| {
        let (mut owner, mut asker) = (place.worker(), place.worker());
        for worker in [&mut owner, &mut asker] {
            worker.works(&format!("open 0 2 {}", place.file("shared")));
        }
        // The end of the longer lock stays behind the shorter one, which took its beginning.
        owner.works("set 0 0 0 0 0 0");
        owner.works("set 0 0 1 0 0 5");
        let answer = asker.ask("get 0 0 1 0 0 0");
        assert!(answer.starts_with("type 1 whence 0 start 0 length 5 "), "{answer}");
        owner.works("set 0 0 0 0 5 5");
        owner.works("set 0 0 1 0 7 1");
        let answer = asker.ask("get 0 0 1 0 5 0");
        assert!(answer.starts_with("type 0 whence 0 start 5 length 2 "), "{answer}");
    });
}

#[test]
fn a_waiter_gets_the_lock_when_its_owner_lets_go_whatever_the_way() {
    in_both_places("waiters", |place| {
        let file = place.file("shared");
        let ways = ["set 0 0 2 0 0 0", "close 0", "open 0 2 /dev/null", "exec-and-close", "kill"];
        for way in ways {
            for wait in [PROCESS_WAIT, OPEN_FILE_WAIT] {
                let (mut owner, mut waiter) = (place.worker(), place.worker());
                for worker in [&mut owner, &mut waiter] {
                    worker.works(&format!("open 0 2 {file}"));
                }
                owner.works("set 0 0 1 0 0 10");
                waiter.waits(&format!("set 0 {wait} 1 0 5 10"));
                let start = Instant::now();
                match way {
                    "kill" => drop(owner),
                    "exec-and-close" => {
                        owner.send("exec");
                        owner.note_start();
                        assert!(waiter.answers.recv_timeout(SILENCE).is_err(), "the lock did not survive the exec");
                        owner.works("close 0");
                    }
                    _ => owner.works(way),
                }
                assert_eq!(waiter.answer(), "0 0", "{way}");
                assert!(start.elapsed() < Duration::from_secs(2), "{way}: {:?}", start.elapsed());
            }
        }
    });
}

#[test]
fn a_lock_of_an_open_file_lives_as_long_as_its_last_descriptor() {
    in_both_places("descriptions", |place| {
        let file = place.file("shared");
        for (lock, wait) in [("flock 0 2", "flock 0 2"), ("set 0 1 1 0 0 0", "set 0 3 1 0 0 0")] {
            let (mut owner, mut waiter) = (place.worker(), place.worker());
            owner.works(&format!("open 0 2 {file}"));
            waiter.works(&format!("open 0 2 {file}"));
            assert_eq!(owner.ask("dup 0 1"), "0 0");
            owner.works(lock);
            owner.works("close 0");
            waiter.waits(wait);
            drop(owner);
            assert_eq!(waiter.answer(), "0 0", "{lock}");
        }
    });
}

#[test]
fn processes_that_wait_for_each_other_are_told() {
    in_both_places("rings", |place| {
        let file = place.file("shared");
        let mut workers = [place.worker(), place.worker(), place.worker()];
        for (index, worker) in workers.iter_mut().enumerate() {
            worker.works(&format!("open 0 2 {file}"));
            worker.works(&format!("set 0 0 1 0 {index} 1"));
        }
        workers[0].waits("set 0 2 1 0 1 1");
        workers[1].waits("set 0 2 1 0 2 1");
        assert_eq!(workers[2].ask("set 0 2 1 0 0 1"), format!("-1 {}", libc::EDEADLK));
        workers[2].works("close 0");
        assert_eq!(workers[1].answer(), "0 0");
        workers[1].works("close 0");
        assert_eq!(workers[0].answer(), "0 0");
    });
}

#[test]
fn a_signal_ends_the_wait_unless_its_handler_restarts_calls() {
    in_both_places("signals", |place| {
        let file = place.file("shared");
        let (mut owner, mut waiter) = (place.worker(), place.worker());
        for worker in [&mut owner, &mut waiter] {
            worker.works(&format!("open 0 2 {file}"));
        }
        owner.works("set 0 0 1 0 0 0");
        owner.works("flock 0 2");
        for wait in ["set 0 2 1 0 0 0", "set 0 3 1 0 0 0", "flock 0 2"] {
            waiter.works("alarm 300 0");
            assert_eq!(waiter.ask(wait), format!("-1 {}", libc::EINTR), "{wait}");
            waiter.works("alarm 0 0");
        }
        waiter.works("alarm 100 1");
        waiter.send("set 0 2 1 0 0 0");
        let early = waiter.answers.recv_timeout(Duration::from_millis(500));
        assert!(early.is_err(), "a handler with SA_RESTART ended the wait: {early:?}");
        owner.works("set 0 0 2 0 0 0");
        assert_eq!(waiter.answer(), "0 0");
    });
}

#[test]
fn no_update_under_a_lock_is_lost() {
    in_both_places("counters", |place| {
        for kind in 0..3 {
            let file = place.file(&format!("counter{kind}"));
            let mut workers: Vec<_> = (0..4).map(|_| place.worker()).collect();
            for worker in &mut workers {
                worker.works(&format!("open 0 2 {file}"));
                worker.send(&format!("count 0 {kind} 300"));
            }
            for worker in &workers {
                assert_eq!(worker.answer(), "0 0");
            }
            let mut reader = Command::new("od");
            if let Some(mount) = place.mount {
                reader = mount.exec();
                reader.arg("od");
            }
            let shown = reader.args(["-An", "-td8", &file]).output().expect("od runs");
            assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), "1200", "kind {kind}");
        }
    });
}
