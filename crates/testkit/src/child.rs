//! The test binary run again as another process.
//!
//! A test file that needs other processes has one test that calls [`enter`] with its roles; [`Role::spawn`] starts the
//! binary with only that test, which then plays the role. What a role [`report`]s arrives line by line, also when it is
//! killed right after. Everything else that it prints is shown when it fails.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const ROLE: &str = "LIFEBOAT_TESTKIT_ROLE";
/// Marks every process that a test run started; its value is the run's tag.
pub(crate) const RUN: &str = "LIFEBOAT_TESTKIT_RUN";
/// The test that plays the roles: `cargo test` shows it as one that does nothing.
pub const ENTRY: &str = "entry_of_child_processes";
const MARK: char = '@';

/// Plays the role that this process was started for; returns at once when it was started for none.
pub fn enter(roles: &[(&str, fn())]) {
    let Ok(wanted) = std::env::var(ROLE) else { return };
    let (_, play) = roles.iter().find(|(name, _)| *name == wanted).expect("a role of this test file");
    play();
}

/// A setting given with [`Role::with`].
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the role was started without {name}"))
}

/// A setting that is a number.
pub fn number(name: &str) -> u64 {
    setting(name).parse().expect("a number")
}

/// Sends one line to the process that started this one. It has arrived when this returns, whatever happens next.
pub fn report(line: &str) {
    let text = format!("{MARK}{line}\n");
    let mut stdout = std::io::stdout().lock();
    // Who started us may be gone; then nobody wants the report.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// A number in a file that one process counts up and another reads, also after the first was killed: so cheap that kills
/// fall into the counted calls and not into the reporting.
#[derive(Debug)]
pub struct Progress(*mut AtomicU64);

impl Progress {
    /// The number in this file, which is made with 0 when absent.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(4096)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file of this length, where the kernel finds room for it.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(Self(page.cast())) }
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        // SAFETY: the page is mapped until the drop, aligned, and only used as this one atomic.
        unsafe { &*self.0 }.load(Ordering::Acquire)
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        // SAFETY: as in `get`.
        unsafe { &*self.0 }.store(value, Ordering::Release);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // SAFETY: our own page, which nobody uses any more.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

/// A process to start.
#[derive(Debug)]
pub struct Role {
    command: Command,
    name: String,
}

impl Role {
    /// This test binary in the role `name`.
    pub fn new(name: &str) -> Self {
        let binary = std::env::current_exe().expect("path of the test binary");
        let mut command = Command::new(binary);
        Self::complete(&mut command, name);
        Self { command, name: name.to_string() }
    }

    /// This test binary in the role `name`, started by another program (`lifeboat exec .. --`).
    pub fn below(mut launcher: Command, name: &str) -> Self {
        launcher.arg(std::env::current_exe().expect("path of the test binary"));
        Self::complete(&mut launcher, name);
        Self { command: launcher, name: name.to_string() }
    }

    fn complete(command: &mut Command, name: &str) {
        command.args([ENTRY, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, name);
    }

    /// Adds a setting that the role reads with [`setting`].
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.command.env(name, value.to_string());
        self
    }

    /// Takes a variable away that this process has.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Starts it.
    pub fn spawn(self) -> Process {
        Process::start(self.command, &self.name)
    }

    /// Starts it and waits for a good end, at most `limit`; gives its reports.
    pub fn run(self, limit: Duration) -> Vec<String> {
        let name = self.name.clone();
        let ended = self.spawn().wait(limit);
        assert!(ended.status.is_some_and(|status| status.success()), "{name} {}", ended.describe());
        ended.reports
    }
}

/// A started process; killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    reports: Receiver<String>,
    noise: Option<[JoinHandle<String>; 2]>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it had to be killed because its time was over.
    pub status: Option<ExitStatus>,
    /// What it reported.
    pub reports: Vec<String>,
    /// Everything else that it printed.
    pub noise: String,
}

impl Ended {
    /// One text for messages.
    pub fn describe(&self) -> String {
        let how = match self.status {
            None => "did not end in time and was killed".to_string(),
            Some(status) => match status.signal() {
                Some(signal) => format!("died of signal {signal}"),
                None => format!("ended with exit code {}", status.code().unwrap_or(-1)),
            },
        };
        format!("{how}; last report {:?}; it printed:\n{}", self.reports.last(), self.noise)
    }
}

impl Process {
    /// Starts any command with its output taken as a role's.
    pub fn start(mut command: Command, name: &str) -> Self {
        command.env(RUN, crate::scratch::tag()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (sender, reports) = channel();
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        let out = std::thread::spawn(move || {
            let mut rest = String::new();
            for line in lines(stdout) {
                match line.find(MARK) {
                    // The test harness prints the test's name without a newline first.
                    Some(at) if line[..at].is_empty() || line[..at].starts_with("test ") => {
                        let _ = sender.send(line[at + MARK.len_utf8()..].to_string());
                    }
                    _ => rest.extend([&line, "\n"]),
                }
            }
            rest
        });
        let err = std::thread::spawn(move || lines(stderr).fold(String::new(), |all, line| all + &line + "\n"));
        Self { child, name: name.to_string(), reports, noise: Some([out, err]) }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its next report; fails the test when it ends or is silent for longer than `limit`.
    pub fn next_report(&mut self, limit: Duration) -> String {
        match self.reports.recv_timeout(limit) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{} reported nothing for {limit:?}", self.name),
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.end(Instant::now() + Duration::from_secs(5));
                panic!("{} {}", self.name, ended.describe())
            }
        }
    }

    /// Its next report, if there is one within `limit`.
    pub fn report_within(&mut self, limit: Duration) -> Option<String> {
        self.reports.recv_timeout(limit).ok()
    }

    /// Kills it with SIGKILL and gives what it had reported.
    pub fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        self.end(Instant::now() + Duration::from_secs(10))
    }

    /// Waits for its end, at most `limit`, then kills it.
    pub fn wait(mut self, limit: Duration) -> Ended {
        self.end(Instant::now() + limit)
    }

    fn end(&mut self, deadline: Instant) -> Ended {
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                _ => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    break None;
                }
            }
        };
        let mut noise = String::new();
        for reader in self.noise.take().into_iter().flatten() {
            noise += &reader.join().unwrap_or_default();
        }
        Ended { status, reports: self.reports.try_iter().collect(), noise }
    }
}

fn lines(stream: impl std::io::Read) -> impl Iterator<Item = String> {
    BufReader::new(stream).split(b'\n').map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
