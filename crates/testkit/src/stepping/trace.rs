//! One process under `ptrace`: stepped instruction by instruction, or from store to store.
//!
//! While the tracee is between its marks, it has the region mapped read-only. So each store into the region is a fault
//! that stops it *before* the instruction; the tracer makes the page writable, steps the one instruction, and protects
//! the page again. No instruction is decoded, and none that writes the region can be missed.

use crate::processors;
use std::io::Error;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Stores of one instruction can touch two pages, and a vector that is scattered a few more.
const MOST_PAGES: usize = 16;
const PAGE: u64 = 4096;
/// How a stop at a system call is told from others.
const AT_CALL: i32 = libc::SIGTRAP | 0x80;

core::arch::global_asm!(
    ".pushsection .text",
    ".globl lifeboat_stepping_call",
    "lifeboat_stepping_call:",
    "syscall",
    "int3",
    ".popsection",
);

unsafe extern "C" {
    /// A `syscall` instruction that the tracer sends the tracee to. Never called.
    fn lifeboat_stepping_call();
}

/// What tracer and tracee say to each other without a system call: a page that both have mapped.
#[repr(C)]
pub struct Marks {
    phase: AtomicU64,
    base: AtomicU64,
    length: AtomicU64,
    outcome: AtomicU64,
}

const BEGUN: u64 = 1;
const DONE: u64 = 2;
const PAUSED: u64 = 3;

impl Marks {
    /// A page for one tracee after the other.
    pub fn new() -> &'static Self {
        // SAFETY: a new shared mapping where the kernel finds room; all zeros are valid atomics; it is never unmapped.
        unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert!(page != libc::MAP_FAILED, "a shared page: {}", Error::last_os_error());
            &*page.cast()
        }
    }

    /// In the tracee: says where it has the region, which is from now on read-only for it.
    pub fn protect(&self, base: usize, length: u64) {
        self.base.store(base as u64, Ordering::SeqCst);
        self.length.store(length, Ordering::SeqCst);
        // SAFETY: the region's own mapping; the tracer lets each store through.
        let done = unsafe { libc::mprotect(base as *mut _, length as usize, libc::PROT_READ) };
        assert_eq!(done, 0, "mprotect: {}", Error::last_os_error());
    }

    /// In the tracee: the region can be written again.
    pub fn unprotect(&self) {
        let (base, length) = (self.base.load(Ordering::SeqCst), self.length.load(Ordering::SeqCst));
        // SAFETY: as in `protect`.
        let done = unsafe { libc::mprotect(base as *mut _, length as usize, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(done, 0, "mprotect: {}", Error::last_os_error());
    }

    /// In the tracee: has nothing attached and waits for the next region.
    #[inline(always)]
    pub fn pause(&self) {
        self.phase.store(PAUSED, Ordering::SeqCst);
        breakpoint();
    }

    /// In the tracee: the operation begins behind this call.
    #[inline(always)]
    pub fn begin(&self) {
        self.phase.store(BEGUN, Ordering::SeqCst);
        breakpoint();
    }

    /// In the tracee: the operation is over, with this outcome (0, or an errno).
    #[inline(always)]
    pub fn end(&self, outcome: u64) {
        self.outcome.store(outcome, Ordering::SeqCst);
        self.phase.store(DONE, Ordering::SeqCst);
        breakpoint();
    }

    /// What the operation came to.
    pub fn outcome(&self) -> u64 {
        self.outcome.load(Ordering::SeqCst)
    }
}

#[inline(always)]
fn breakpoint() {
    // SAFETY: stops for the tracer, which goes on behind it.
    unsafe { core::arch::asm!("int3") };
}

/// Forks; `child` runs in the new process, which ends with it, and with this process at the latest.
pub fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: callers have one thread, so the child may do anything.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", Error::last_os_error());
    if pid > 0 {
        return pid;
    }
    // SAFETY: plain calls; nothing of this process's is dropped in the child, which `_exit` ends.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        libc::_exit(if ended.is_ok() { 0 } else { 101 })
    }
}

/// Kills a child of this process and waits for it.
pub fn kill(pid: i32) {
    // SAFETY: a child of ours that was not waited for, so its number is its own.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
    }
}

/// The timer of the thread that traces.
static TIMER: AtomicUsize = AtomicUsize::new(0);

/// A wait of this thread that outlasts its limit ends with `EINTR` instead of being taken up again.
pub fn prepare_timer() {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: a handler that does nothing; a timer that signals this very thread, since a test has others, too.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = std::ptr::null_mut();
        let made = libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer);
        assert_eq!(made, 0, "a timer: {}", Error::last_os_error());
        let before = TIMER.swap(timer as usize + 1, Ordering::SeqCst);
        if before != 0 {
            libc::timer_delete((before - 1) as libc::timer_t);
        }
    }
}

fn set_timer(limit: Duration) {
    let time = |time: Duration| libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos() as i64 };
    // It goes on ringing: the first ring may come just before the wait.
    let again = if limit.is_zero() { Duration::ZERO } else { Duration::from_millis(20) };
    let value = libc::itimerspec { it_interval: time(again), it_value: time(limit) };
    let timer = TIMER.load(Ordering::SeqCst);
    assert_ne!(timer, 0, "`prepare_timer` was not called");
    // SAFETY: the timer made above, and a valid structure.
    unsafe { libc::timer_settime((timer - 1) as libc::timer_t, 0, &value, std::ptr::null_mut()) };
}

/// Why the tracee does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Signal(i32),
    Ended(i32),
    /// It still runs.
    TimedOut,
}

/// What became of the tracee when it was let go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It did one instruction that wrote to these pages of the region (which may have the same bytes as before).
    Store {
        /// Address of the instruction.
        at: u64,
        /// First byte that was written, from the start of the region.
        offset: u64,
        /// Pages of the region.
        pages: Vec<u32>,
    },
    /// It did one instruction that wrote nothing to the region.
    Instruction,
    /// It is at its end mark.
    Done,
    /// It came to no stop in time: it waits, or runs in a circle.
    Waits,
}

/// A stopped child.
pub struct Tracee {
    pid: i32,
    marks: &'static Marks,
}

type Registers = libc::user_regs_struct;

impl Tracee {
    /// Forks a process that does `work`, which calls [`Marks::protect`], [`Marks::begin`], the operation and
    /// [`Marks::end`]. It is let go on to its begin mark. The error is one line.
    pub fn start(marks: &'static Marks, work: impl FnOnce()) -> Result<Self, String> {
        let tracee = Self::fork(marks, work)?;
        tracee.run_to_mark(BEGUN)?;
        Ok(tracee)
    }

    /// As [`Tracee::start`], for one that does an operation after each [`Marks::pause`]; it is let go on to the first.
    pub fn start_paused(marks: &'static Marks, work: impl FnOnce()) -> Result<Self, String> {
        let tracee = Self::fork(marks, work)?;
        tracee.run_to_mark(PAUSED)?;
        Ok(tracee)
    }

    fn fork(marks: &'static Marks, work: impl FnOnce()) -> Result<Self, String> {
        marks.phase.store(0, Ordering::SeqCst);
        marks.base.store(0, Ordering::SeqCst);
        marks.length.store(0, Ordering::SeqCst);
        let pid = fork(|| {
            // SAFETY: asks to be traced by the parent, then stops.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
            }
            work();
        });
        let tracee = Self { pid, marks };
        let stop = tracee.wait(Some(Duration::from_secs(10)));
        if stop != Stop::Signal(libc::SIGSTOP) {
            return Err(format!("the victim did not come to its start: {stop:?}"));
        }
        tracee.request(libc::PTRACE_SETOPTIONS, 0, (libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD) as u64)?;
        Ok(tracee)
    }

    /// Its process number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets one that paused go on to its begin mark.
    pub fn run_to_begin(&self) -> Result<(), String> {
        self.run_to_mark(BEGUN)
    }

    /// Lets one that is done go on to its next pause.
    pub fn run_to_pause(&self) -> Result<(), String> {
        self.run_to_mark(PAUSED)
    }

    fn run_to_mark(&self, phase: u64) -> Result<(), String> {
        self.request(libc::PTRACE_CONT, 0, 0)?;
        match self.wait(Some(Duration::from_secs(20))) {
            Stop::Signal(libc::SIGTRAP) if self.marks.phase.load(Ordering::SeqCst) == phase => Ok(()),
            stop => Err(format!("the victim did not come to mark {phase}: {stop:?}")),
        }
    }

    /// One instruction.
    pub fn step(&self) -> Result<Event, String> {
        if self.marks.phase.load(Ordering::SeqCst) == DONE {
            return Ok(Event::Done);
        }
        self.request(libc::PTRACE_SINGLESTEP, 0, 0)?;
        match self.wait(None) {
            Stop::Signal(libc::SIGTRAP) => Ok(Event::Instruction),
            Stop::Signal(libc::SIGSEGV) => self.store(),
            stop => Err(self.unexpected(stop)),
        }
    }

    /// On to the next store, or to the end mark, or until `limit` is over.
    pub fn next_store(&self, limit: Duration) -> Result<Event, String> {
        if self.marks.phase.load(Ordering::SeqCst) == DONE {
            return Ok(Event::Done);
        }
        self.request(libc::PTRACE_CONT, 0, 0)?;
        self.after_run(limit)
    }

    /// On to the next begin or end of a system call, or to the end mark.
    pub fn next_call(&self, limit: Duration) -> Result<Event, String> {
        self.request(libc::PTRACE_SYSCALL, 0, 0)?;
        match self.wait(Some(limit)) {
            Stop::Signal(AT_CALL) => Ok(Event::Instruction),
            Stop::Signal(libc::SIGTRAP) if self.marks.phase.load(Ordering::SeqCst) == DONE => Ok(Event::Done),
            stop => Err(self.unexpected(stop)),
        }
    }

    fn after_run(&self, limit: Duration) -> Result<Event, String> {
        match self.wait(Some(limit)) {
            Stop::Signal(libc::SIGTRAP) if self.marks.phase.load(Ordering::SeqCst) == DONE => Ok(Event::Done),
            Stop::Signal(libc::SIGSEGV) => self.store(),
            Stop::TimedOut => Ok(Event::Waits),
            stop => Err(self.unexpected(stop)),
        }
    }

    fn unexpected(&self, stop: Stop) -> String {
        let at = self.registers().map_or(0, |registers| registers.rip);
        format!("the process itself came to a bad end: {stop:?} at instruction {at:#x}")
    }

    /// It was stopped by a fault: lets the store through, if it is one into the region.
    fn store(&self) -> Result<Event, String> {
        let at = self.registers()?.rip;
        let (first, mut pages) = (self.fault_address()?, Vec::with_capacity(2));
        let mut fault = first;
        loop {
            let page = self.page_of(fault).ok_or_else(|| format!("a fault at {fault:#x} (instruction {at:#x})"))?;
            if pages.contains(&page) || pages.len() == MOST_PAGES {
                return Err(format!("the page of {fault:#x} stays read-only (instruction {at:#x})"));
            }
            pages.push(page);
            self.protect(page, libc::PROT_READ | libc::PROT_WRITE)?;
            self.request(libc::PTRACE_SINGLESTEP, 0, 0)?;
            match self.wait(None) {
                Stop::Signal(libc::SIGTRAP) => break,
                Stop::Signal(libc::SIGSEGV) => fault = self.fault_address()?,
                stop => return Err(self.unexpected(stop)),
            }
        }
        for &page in &pages {
            self.protect(page, libc::PROT_READ)?;
        }
        let offset = first - self.marks.base.load(Ordering::SeqCst);
        Ok(Event::Store { at, offset, pages })
    }

    fn page_of(&self, address: u64) -> Option<u32> {
        let inside = address.checked_sub(self.marks.base.load(Ordering::SeqCst))?;
        (inside < self.marks.length.load(Ordering::SeqCst)).then_some((inside / PAGE) as u32)
    }

    /// Makes the tracee call `mprotect` for one page of the region.
    fn protect(&self, page: u32, protection: i32) -> Result<(), String> {
        let before = self.registers()?;
        let mut call = before;
        call.rip = lifeboat_stepping_call as *const () as u64;
        call.rax = libc::SYS_mprotect as u64;
        call.orig_rax = u64::MAX;
        call.rdi = self.marks.base.load(Ordering::SeqCst) + u64::from(page) * PAGE;
        call.rsi = PAGE;
        call.rdx = protection as u64;
        self.set_registers(&call)?;
        self.request(libc::PTRACE_SINGLESTEP, 0, 0)?;
        let stop = self.wait(None);
        let result = self.registers()?.rax as i64;
        self.set_registers(&before)?;
        match (stop, result) {
            (Stop::Signal(libc::SIGTRAP), 0) => Ok(()),
            _ => Err(format!("mprotect in the victim: {result}, {stop:?}")),
        }
    }

    fn fault_address(&self) -> Result<u64, String> {
        // SAFETY: all zeros is a valid value, filled by the call below.
        let mut information: libc::siginfo_t = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETSIGINFO, 0, &raw mut information as u64)?;
        // SAFETY: filled for a SIGSEGV, which has an address.
        Ok(unsafe { information.si_addr() } as u64)
    }

    fn registers(&self) -> Result<Registers, String> {
        // SAFETY: all zeros is a valid value, filled by the call below.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, &raw mut registers as u64)?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &Registers) -> Result<(), String> {
        self.request(libc::PTRACE_SETREGS, 0, registers as *const Registers as u64)
    }

    fn request(&self, request: u32, address: u64, data: u64) -> Result<(), String> {
        // SAFETY: a child of ours; `data` is a number or points to what the request asks for.
        match unsafe { libc::ptrace(request, self.pid, address, data) } {
            -1 => Err(format!("ptrace request {request}: {}", Error::last_os_error())),
            _ => Ok(()),
        }
    }

    fn wait(&self, limit: Option<Duration>) -> Stop {
        let mut status = 0;
        if let Some(limit) = limit {
            set_timer(limit);
        }
        // SAFETY: waits for our child.
        let seen = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
        if limit.is_some() {
            set_timer(Duration::ZERO);
        }
        match seen {
            pid if pid == self.pid && libc::WIFSTOPPED(status) => Stop::Signal(libc::WSTOPSIG(status)),
            pid if pid == self.pid => Stop::Ended(status),
            _ => Stop::TimedOut,
        }
    }

    /// Really kills it.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        kill(self.pid);
    }
}

/// Binds this process and its future children to one processor: a step is then a switch and no message between two.
pub fn pin(index: usize) {
    let allowed = processors::allowed();
    if let Some(&processor) = allowed.get(index % allowed.len().max(1)) {
        processors::pin_to(processor);
    }
}
