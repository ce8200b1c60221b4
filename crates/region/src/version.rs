//! Words of this process that its threads share without ever waiting for each other.
//!
//! The version is odd while somebody writes them. Who cannot write at once does without, and who reads looks at the version before
//! and after. A writer that never comes back leaves it odd: then nobody reads or writes there any more.

use core::sync::atomic::fence;
use core::sync::atomic::{AtomicU64, Ordering};

/// The version of some words.
#[derive(Default)]
pub(crate) struct Version(AtomicU64);

impl Version {
    /// What `read` makes of the words, unless somebody wrote them meanwhile.
    #[inline(always)]
    pub(crate) fn read<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        let version = self.0.load(Ordering::Acquire);
        let found = read();
        fence(Ordering::Acquire);
        let undisturbed = version & 1 == 0 && self.0.load(Ordering::Relaxed) == version;
        undisturbed.then_some(found)
    }

    /// Begins to write; `None` while somebody else does. Ends with [`Version::end`].
    pub(crate) fn begin(&self) -> Option<u64> {
        let version = self.0.load(Ordering::Relaxed) & !1;
        self.0.compare_exchange(version, version | 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        // Who reads one of the words that are written now sees the odd version, too.
        fence(Ordering::Release);
        Some(version)
    }

    fn end(&self, version: u64) {
        self.0.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Has the words written, unless somebody else writes them now.
    pub(crate) fn write(&self, write: impl FnOnce()) {
        if let Some(version) = self.begin() {
            write();
            self.end(version);
        }
    }

    /// The version of now; odd while it is written.
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether nobody ever wrote the words.
    pub(crate) fn is_new(&self) -> bool {
        self.now() == 0
    }
}
