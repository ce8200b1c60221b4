//! The processes that we started: all of them stay our descendants, so that none is left behind and none of others' is touched.

use crate::failure::{Context, Outcome};
use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Makes orphans our children, and Ctrl-C a flag that every waiting loop looks at.
pub fn prepare() -> Outcome {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become the reaper of orphans")?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = note_interrupt;
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler, and lives for ever.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    Ok(())
}

/// Whether the developer asked us to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A process as /proc shows it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's number.
    pub parent: i32,
    /// First 15 bytes of the program's name.
    pub name: String,
    /// Ended, but not yet waited for.
    pub zombie: bool,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (before, after) = stat.rsplit_once(") ")?;
        let name = before.split_once('(')?.1.to_owned();
        let mut fields = after.split(' ');
        let zombie = fields.next()? == "Z";
        Some(Self { pid, parent: fields.next()?.parse().ok()?, name, zombie })
    }

    /// Sends a signal; a process that has ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(Process::read).collect()
}

/// The descendants of a process, itself not among them, parents first.
pub fn descendants_of(ancestor: i32) -> Vec<Process> {
    let all = all();
    let (mut found, mut parents) = (Vec::new(), HashSet::from([ancestor]));
    loop {
        let new: Vec<_> =
            all.iter().filter(|p| parents.contains(&p.parent) && !parents.contains(&p.pid)).cloned().collect();
        if new.is_empty() {
            return found;
        }
        parents.extend(new.iter().map(|process| process.pid));
        found.extend(new);
    }
}

/// Everything that we started and that still runs.
pub fn descendants() -> Vec<Process> {
    descendants_of(own_pid()).into_iter().filter(|process| !process.zombie).collect()
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Kills a process and all its descendants, and those that they started meanwhile.
pub fn end_tree(root: i32) {
    let end = Instant::now() + Duration::from_secs(5);
    // The tree first: when the root has ended, its children are ours and can no longer be told apart.
    loop {
        let living: Vec<_> = descendants_of(root).into_iter().filter(|process| !process.zombie).collect();
        if living.is_empty() || Instant::now() > end {
            break;
        }
        living.iter().for_each(|process| process.signal(Signal::STOP));
        living.iter().for_each(|process| process.signal(Signal::KILL));
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Some(process) = Process::read(root).filter(|process| process.parent == own_pid()) {
        process.signal(Signal::KILL);
    }
}

/// Kills what we started and what still runs; answers what that was. Orphans that have ended are waited for.
pub fn end_all() -> Vec<Process> {
    let left = descendants();
    for process in descendants_of(own_pid()).iter().filter(|process| process.parent == own_pid()) {
        end_tree(process.pid);
    }
    for process in descendants_of(own_pid()).iter().filter(|process| process.zombie) {
        let _ = rustix::process::waitpid(Pid::from_raw(process.pid), WaitOptions::NOHANG);
    }
    left
}
