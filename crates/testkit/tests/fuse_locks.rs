//! The fear: a program through the kernel's mount and an intercepted one hold the same lock, or a wait for a lock cannot be
//! ended.

use lifeboat_testkit::command::limited;
use lifeboat_testkit::fuse_mount::FuseMounted;
use lifeboat_testkit::programs::is_installed;
use lifeboat_testkit::residue::NoResidue;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

/// `fcntl` on `length` bytes from `start`; the errno when it fails.
fn lock(file: &File, command: i32, kind: i32, start: i64, length: i64) -> Result<libc::flock, i32> {
    // SAFETY: all zeros is a valid `flock`.
    let mut asked: libc::flock = unsafe { std::mem::zeroed() };
    asked.l_type = kind as i16;
    asked.l_start = start;
    asked.l_len = length;
    // SAFETY: the structure lives over the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &mut asked) } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => Ok(asked),
    }
}

/// A Python program that does what it is told, line by line, and answers each line.
struct Player {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

const PLAYER: &str = r#"
import fcntl, os, struct, sys
file = os.open(sys.argv[1], os.O_RDWR)
for line in sys.stdin:
    what, start, length = line.split()
    kind = {"lock": fcntl.LOCK_EX | fcntl.LOCK_NB, "share": fcntl.LOCK_SH | fcntl.LOCK_NB, "unlock": fcntl.LOCK_UN, "wait": fcntl.LOCK_EX}[what]
    try:
        fcntl.lockf(file, kind, int(length), int(start))
        print("done", flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"#;

impl Player {
    fn start(mut command: Command, path: &Path) -> Player {
        command.args(["-c", PLAYER]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start python");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Player { child, to, from: BufReader::new(from) }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("tell");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn outside() -> Command {
    let mut python = Command::new("python3");
    python.env("LIFEBOAT_TESTKIT_RUN", lifeboat_testkit::scratch::tag());
    python
}

fn below(mounted: &FuseMounted) -> Command {
    let mut command = mounted.region().exec();
    command.arg("python3");
    command
}

const BUSY: &str = "errno 11";

#[test]
fn locks_of_programs_on_both_sides_exclude_each_other() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("python3") {
        return;
    }
    let Some(mounted) = FuseMounted::new("locks", "64MiB") else { return };
    let path = mounted.at().join("locked");
    let file = open(&path);
    let mut intercepted = Player::start(below(&mounted), &path);
    let mut other = Player::start(outside(), &path);
    assert!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 0, 10).is_ok());
    for player in [&mut intercepted, &mut other] {
        assert_eq!(player.ask("lock 0 10"), BUSY);
        assert_eq!(player.ask("share 9 1"), BUSY);
        assert_eq!(player.ask("lock 10 10"), "done");
        assert_eq!(player.ask("unlock 10 10"), "done");
    }
    assert!(lock(&file, libc::F_SETLK, libc::F_RDLCK, 0, 10).is_ok(), "made a shared one");
    assert_eq!(intercepted.ask("share 0 10"), "done");
    assert_eq!(other.ask("share 0 10"), "done");
    assert_eq!(intercepted.ask("lock 0 10"), BUSY);
    assert_eq!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 0, 10).err(), Some(libc::EAGAIN));
    assert_eq!(intercepted.ask("unlock 0 10"), "done");
    let found = lock(&file, libc::F_GETLK, libc::F_WRLCK, 0, 10).expect("F_GETLK");
    assert_eq!((i32::from(found.l_type), found.l_pid as u32), (libc::F_RDLCK, other.child.id()));
    drop(other);
    let found = lock(&file, libc::F_GETLK, libc::F_WRLCK, 0, 10).expect("F_GETLK");
    assert_eq!(i32::from(found.l_type), libc::F_UNLCK, "the lock of a process that has ended");
    // Closing any descriptor of the file gives up a process's locks; those of an open file stay until it is closed.
    assert!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 0, 0).is_ok());
    drop(open(&path));
    assert_eq!(intercepted.ask("lock 0 10"), "done");
    assert_eq!(intercepted.ask("unlock 0 10"), "done");
    assert!(lock(&file, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 0).is_ok());
    drop(open(&path));
    assert_eq!(intercepted.ask("lock 0 10"), BUSY);
    drop(file);
    let end = Instant::now() + Duration::from_secs(5);
    while intercepted.ask("lock 0 10") != "done" {
        assert!(Instant::now() < end, "the lock outlives its open file");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whoever_waits_for_a_lock_gets_it_in_the_end_and_can_be_killed_before() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("python3") {
        return;
    }
    let Some(mounted) = FuseMounted::new("waits", "64MiB") else { return };
    let path = mounted.at().join("locked");
    let file = open(&path);
    for round in 0..3 {
        // Held on one side, waited for on the other.
        let (holder, waiter) = if round % 2 == 0 { (below(&mounted), outside()) } else { (outside(), below(&mounted)) };
        let (mut holder, mut waiter) = (Player::start(holder, &path), Player::start(waiter, &path));
        assert_eq!(holder.ask("lock 0 100"), "done");
        assert_eq!(waiter.ask("lock 50 1"), BUSY);
        waiter.tell("wait 50 1");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 99, 1).err(), Some(libc::EAGAIN), "still held");
        if round == 2 {
            holder.child.kill().expect("kill");
        } else {
            assert_eq!(holder.ask("unlock 50 1"), "done");
        }
        assert_eq!(waiter.answer(), "done");
        assert_eq!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 50, 1).err(), Some(libc::EAGAIN), "it has the lock");
    }
    assert!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 0, 0).is_ok());
    let mut waiter = Player::start(outside(), &path);
    assert_eq!(waiter.ask("lock 0 1"), BUSY);
    waiter.tell("wait 0 1");
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    waiter.child.kill().expect("kill");
    let status = waiter.child.wait().expect("wait");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    assert!(start.elapsed() < Duration::from_secs(5), "killed after {:?}", start.elapsed());
    // An alarm ends a wait, as programs with a time limit have it.
    let script = "import fcntl,os,signal,sys\n\
                  def late(*_): raise TimeoutError\n\
                  signal.signal(signal.SIGALRM, late); signal.alarm(1)\n\
                  try: fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX)\n\
                  except TimeoutError: print('in time')\n";
    let mut python = Command::new("python3");
    let output = limited(python.args(["-c", script]).arg(&path), 20).output().expect("start python");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "in time\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn whoever_closes_a_ring_of_waiting_programs_is_told() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("python3") {
        return;
    }
    let Some(mounted) = FuseMounted::new("rings", "64MiB") else { return };
    let path = mounted.at().join("locked");
    open(&path);
    for _ in 0..5 {
        let mut players: Vec<Player> = (0..3).map(|_| Player::start(outside(), &path)).collect();
        for (number, player) in players.iter_mut().enumerate() {
            assert_eq!(player.ask(&format!("lock {number} 1")), "done");
        }
        players[0].tell("wait 1 1");
        players[1].tell("wait 2 1");
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(players[2].ask("wait 0 1"), format!("errno {}", libc::EDEADLK));
        // The others wait on, and get what they wait for.
        assert_eq!(players[2].ask("unlock 2 1"), "done");
        assert_eq!(players[1].answer(), "done");
        assert_eq!(players[1].ask("unlock 0 0"), "done");
        assert_eq!(players[0].answer(), "done");
    }
}
