//! The system calls of a program between its marks, and what each of them names.
//!
//! The program says where an operation begins and ends by a `prctl` that the kernel refuses ([`MARK`]; see
//! `programs/on_its_node.c`). It waits until it is traced, so nothing is missed. Threads and processes that it starts are not followed:
//! to start one is a call that is seen.

mod names;

pub use names::{Call, Where};

use std::io::Error;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

/// First argument of the `prctl` that is a mark; its second is the address of the operation's name, or 0 at the end.
pub const MARK: u64 = 0x6d61_726b;

/// How a stop at a system call is told from others.
const AT_CALL: i32 = libc::SIGTRAP | 0x80;

/// What was done between two marks.
#[derive(Debug)]
pub struct Operation {
    /// As the program calls it.
    pub name: String,
    /// Its system calls, in order.
    pub calls: Vec<Call>,
    /// What it had mapped, to be shared with others, from elsewhere than the region: stores there are no calls.
    pub mapped: Vec<PathBuf>,
}

impl Operation {
    /// Why it might leave the node: each reason once.
    pub fn leaves(&self) -> Vec<String> {
        let mapped = self.mapped.iter().map(|path| format!("a mapping of {}", path.display()));
        let mut all: Vec<String> = self.calls.iter().filter_map(Call::leaves).chain(mapped).collect();
        all.dedup();
        all
    }

    /// How often each call was made: `3: 2 fcntl, 1 close`.
    pub fn counts(&self) -> String {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for call in &self.calls {
            match kinds.iter_mut().find(|(name, _)| *name == call.name) {
                Some((_, count)) => *count += 1,
                None => kinds.push((&call.name, 1)),
            }
        }
        let kinds: Vec<String> = kinds.iter().map(|(name, count)| format!("{count} {name}")).collect();
        match self.calls.len() {
            0 => "0".to_owned(),
            all => format!("{all}: {}", kinds.join(", ")),
        }
    }
}

/// Traces a thread that waits for that, until it ends; gives what it did between its marks. `region` is the directory of
/// the region that it may use. The error is one line.
pub fn observe(thread: i32, region: &Path) -> Result<Vec<Operation>, String> {
    let tracee = Tracee { thread };
    let options =
        libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACEEXEC;
    tracee.request(libc::PTRACE_SEIZE, 0, options as u64)?;
    tracee.request(libc::PTRACE_INTERRUPT, 0, 0)?;
    let mut seen = Vec::new();
    let mut open: Option<Operation> = None;
    loop {
        let pass_on = match tracee.wait()? {
            Stop::AtCall => {
                if let Some(entry) = tracee.entry()? {
                    note(&tracee, &entry, region, &mut open, &mut seen)?;
                }
                0
            }
            Stop::Event(libc::PTRACE_EVENT_EXIT) => {
                tracee.request(libc::PTRACE_DETACH, 0, 0)?;
                seen.extend(open);
                return Ok(seen);
            }
            Stop::Event(_) => 0,
            Stop::Signal(signal) => signal,
        };
        tracee.request(libc::PTRACE_SYSCALL, 0, pass_on as u64)?;
    }
}

fn note(
    tracee: &Tracee,
    entry: &Entry,
    region: &Path,
    open: &mut Option<Operation>,
    seen: &mut Vec<Operation>,
) -> Result<(), String> {
    if entry.number == libc::SYS_prctl && entry.arguments[0] == MARK {
        seen.extend(open.take());
        if entry.arguments[1] != 0 {
            let name = names::text_at(tracee.thread, entry.arguments[1])?;
            let mapped = names::shared_from_elsewhere(tracee.thread, region)?;
            *open = Some(Operation { name, calls: Vec::new(), mapped });
        }
    } else if let Some(operation) = open {
        operation.calls.push(names::call(tracee.thread, entry, region)?);
    }
    Ok(())
}

/// A call that is about to be made.
struct Entry {
    number: i64,
    arguments: [u64; 6],
}

enum Stop {
    AtCall,
    Event(i32),
    Signal(i32),
}

struct Tracee {
    thread: i32,
}

impl Tracee {
    /// `None` when the call is over.
    fn entry(&self) -> Result<Option<Entry>, String> {
        // SAFETY: all zeros is a valid value, filled by the call below, which is told its size.
        let mut information: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::ptrace_syscall_info>() as u64;
        self.request(libc::PTRACE_GET_SYSCALL_INFO, size, &raw mut information as u64)?;
        if information.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(None);
        }
        // SAFETY: the kernel said that it filled this member; all its bytes are numbers.
        let entry = unsafe { information.u.entry };
        Ok(Some(Entry { number: entry.nr as i64, arguments: entry.args }))
    }

    fn wait(&self) -> Result<Stop, String> {
        let mut status = 0;
        // SAFETY: waits for the thread that this one traces.
        let seen = unsafe { libc::waitpid(self.thread, &mut status, libc::__WALL) };
        if seen != self.thread || !libc::WIFSTOPPED(status) {
            return Err(format!("the traced thread is gone: {seen}, status {status:#x}, {}", Error::last_os_error()));
        }
        Ok(match (libc::WSTOPSIG(status), status >> 16) {
            (AT_CALL, _) => Stop::AtCall,
            (_, event) if event != 0 => Stop::Event(event),
            (signal, _) => Stop::Signal(signal),
        })
    }

    fn request(&self, request: u32, address: u64, data: u64) -> Result<(), String> {
        // SAFETY: a thread of a child of ours; `data` is a number or points to what the request fills.
        match unsafe { libc::ptrace(request, self.thread, address, data) } {
            -1 => Err(format!("ptrace request {request:#x}: {}", Error::last_os_error())),
            _ => Ok(()),
        }
    }
}

/// In a program of ours: an operation of this name begins.
pub fn begin(name: &std::ffi::CStr) {
    // SAFETY: the kernel knows no such option and does nothing; the tracer reads the name, which outlives the call.
    unsafe { libc::prctl(MARK as i32, name.as_ptr(), 0, 0, 0) };
}

/// In a program of ours: it is over.
pub fn end() {
    // SAFETY: as in `begin`.
    unsafe { libc::prctl(MARK as i32, null_mut::<u8>(), 0, 0, 0) };
}

/// In a program of ours: gives this thread's number to whoever started it (see [`crate::child::report`]), and waits until it is traced.
pub fn wait_for_the_tracer() {
    // SAFETY: the call cannot fail.
    let thread = unsafe { libc::gettid() };
    crate::child::report(&thread.to_string());
    let is_traced = || {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    };
    while !is_traced() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
