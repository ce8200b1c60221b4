//! When another process comes to hold what this one has open.
//!
//! An open file that only one descriptor stands for is closed at once; one that others may hold is closed when the kernel says that
//! nobody does. So whatever is open at the moment of a fork has to be marked as shared, also what another thread, or a handler
//! of `pthread_atfork`, opens between our look at the table and the kernel's copy of it: a fork is announced before the look
//! until it is over, and who opens looks for announcements after it has entered its descriptor. One of the two sees the other.
//!
//! The kernel copies descriptors first and memory later, so a child may find in its table what was opened, or closed and opened
//! again, in between. What is entered while a fork is announced says so, and the child asks the kernel what it has there.

use crate::{descriptors, kept_tags, state};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering, fence};

/// Forks that were begun, in the upper half; those under way, in the lower.
static FORKS: AtomicU64 = AtomicU64::new(0);
const BEGUN: u64 = 1 << 32;

/// The thread whose `vfork` is counted as under way: nobody is told when it is over. 0: none.
static IN_VFORK: AtomicI32 = AtomicI32::new(0);

/// A fork is under way as long as this lives.
pub struct Fork(());

impl Fork {
    /// Announces it, and marks what is open here as shared.
    pub fn begin() -> Fork {
        FORKS.fetch_add(BEGUN + 1, Ordering::SeqCst);
        descriptors::mark_all_shared();
        Fork(())
    }

    /// Of a `vfork`: over when its thread opens a file in this process again.
    pub fn ends_unseen(self) {
        let thread = own_thread();
        if IN_VFORK.compare_exchange(0, thread, Ordering::SeqCst, Ordering::Relaxed) != Err(thread) {
            // Beside that of another thread it is under way for ever, which costs time and nothing else.
            core::mem::forget(self);
        }
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        end();
    }
}

fn end() {
    let one_less = |forks: u64| (forks as u32 != 0).then(|| forks - 1);
    let _ = FORKS.fetch_update(Ordering::SeqCst, Ordering::Relaxed, one_less);
}

fn own_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Whether a fork is announced.
#[inline]
pub fn is_forking() -> bool {
    FORKS.load(Ordering::SeqCst) as u32 != 0
}

/// In the child of a fork: the threads that were forking beside it do not exist here, and its descriptors are its parent's, too.
pub fn after_fork() {
    FORKS.store(0, Ordering::SeqCst);
    IN_VFORK.store(0, Ordering::Relaxed);
    kept_tags::after_fork();
    descriptors::mark_all_shared();
}

/// A moment before a descriptor was made.
#[derive(Clone, Copy)]
pub struct Moment(u64);

impl Moment {
    /// This one.
    pub fn now() -> Moment {
        let forks = FORKS.load(Ordering::SeqCst);
        if forks as u32 == 0 {
            return Moment(forks);
        }
        Moment(without_own_vfork())
    }

    /// Whether a fork that was under way then, or begun since, may have copied the descriptor, which has been entered into the
    /// table.
    pub fn may_be_before_a_fork(self) -> bool {
        fence(Ordering::SeqCst);
        self.0 as u32 != 0 || FORKS.load(Ordering::SeqCst) / BEGUN != self.0 / BEGUN
    }
}

/// This thread is in no `vfork` of its own: it calls.
#[cold]
fn without_own_vfork() -> u64 {
    let thread = own_thread();
    if !state::borrows_memory() && IN_VFORK.compare_exchange(thread, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
        end();
    }
    FORKS.load(Ordering::SeqCst)
}
