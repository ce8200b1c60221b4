//! In a model a process has one thread.

/// As the product's.
pub fn thread_hint() -> usize {
    0
}
