//! Which processors this thread may use, and binding it to one.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Numbers of the processors that the calling thread may use; none when the kernel does not say.
pub fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect()
}

/// Two processors that the calling thread may use; `None` when there is only one.
pub fn two() -> Option<[usize; 2]> {
    allowed().first_chunk().copied()
}

/// Binds the calling thread and its future children to one processor.
pub fn pin_to(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap_or_else(|error| panic!("pinning to processor {processor}: {error}"));
}
