//! Workers that fill a new region's memory: some on each memory node, so that each node has its part of the region.

use std::fs::read_to_string;
use std::thread;
use std::time::Duration;

use lifeboat_region::carrier::{CreateError, Crew};
use lifeboat_region::layout::MEMORY_NODES_LARGEST;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Workers of a node: more do not fill its memory faster.
const OF_A_NODE: usize = 8;
/// Between two looks at how far they are.
const WATCHED_EACH: Duration = Duration::from_millis(10);

/// The workers, and who is told how far they are.
pub struct Workers<'p> {
    /// Processors of each memory node that this process may use.
    nodes: Vec<Vec<usize>>,
    progress: &'p mut dyn FnMut(u64, u64),
}

impl<'p> Workers<'p> {
    /// All that this process may have.
    pub fn new(progress: &'p mut dyn FnMut(u64, u64)) -> Workers<'p> {
        Workers { nodes: nodes(), progress }
    }
}

/// On how many memory nodes [`Workers`] fill memory.
pub fn memory_nodes() -> u32 {
    nodes().len() as u32
}

impl Crew for Workers<'_> {
    fn nodes(&self) -> u32 {
        self.nodes.len() as u32
    }

    fn workers(&self) -> u32 {
        self.nodes.iter().map(|processors| processors.len().min(OF_A_NODE)).sum::<usize>() as u32
    }

    fn tell(&mut self, done: u64, total: u64) {
        (self.progress)(done, total);
    }

    fn all_at_once(
        &mut self,
        work: &(dyn Fn(u32) -> Result<(), CreateError> + Sync),
        done: &dyn Fn() -> u64,
        total: u64,
    ) -> Result<(), CreateError> {
        let several = self.nodes.len() > 1;
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for (node, processors) in self.nodes.iter().enumerate() {
                for _ in 0..processors.len().min(OF_A_NODE) {
                    let begin = move || {
                        if several {
                            stay_on(processors);
                        }
                        work(node as u32)
                    };
                    // Without threads for all, those that there are do the work, or the caller by himself.
                    workers.extend(thread::Builder::new().spawn_scoped(scope, begin).ok());
                }
            }
            while workers.iter().any(|worker| !worker.is_finished()) {
                thread::sleep(WATCHED_EACH);
                (self.progress)(done(), total);
            }
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }
}

fn stay_on(processors: &[usize]) {
    let mut set = CpuSet::new();
    processors.iter().for_each(|&processor| set.set(processor));
    // Elsewhere it is a matter of speed, not of right and wrong.
    let _ = sched_setaffinity(None, &set);
}

/// The processors that this process may use, by memory node; one list of all where nodes are not told apart: there is one, they have
/// gaps in their numbers, or one of them has no processor for us, whose part of the region nobody would be near.
fn nodes() -> Vec<Vec<usize>> {
    let ours = sched_getaffinity(None).ok();
    let may_use = |processor: &usize| match &ours {
        Some(set) => *processor < CpuSet::MAX_CPU && set.is_set(*processor),
        None => *processor == 0,
    };
    let of_node = |node: usize| -> Option<Vec<usize>> {
        let list = read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()?;
        Some(numbers(&list)?.into_iter().filter(may_use).collect())
    };
    let told_apart = || -> Option<Vec<Vec<usize>>> {
        let online = numbers(&read_to_string("/sys/devices/system/node/has_memory").ok()?)?;
        let has_gaps = online.iter().enumerate().any(|(index, &node)| index != node);
        let nodes: Vec<_> = online.into_iter().map(of_node).collect::<Option<_>>()?;
        let is_usable = (2..=MEMORY_NODES_LARGEST as usize).contains(&nodes.len());
        (is_usable && !has_gaps && nodes.iter().all(|processors| !processors.is_empty())).then_some(nodes)
    };
    told_apart().unwrap_or_else(|| vec![(0..CpuSet::MAX_CPU).filter(may_use).collect()])
}

/// The numbers of a list as the kernel writes it: `0-3,8`.
fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last > CpuSet::MAX_CPU {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(numbers("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(numbers("5"), Some(vec![5]));
        assert_eq!(numbers("\n"), Some(vec![]));
        for wrong in ["a", "1-", "-1", "0-99999999", "1,,x"] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_processor_of_ours_works_on_one_node() {
        let mut all: Vec<usize> = nodes().concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert!(count > 0 && all.len() == count, "{:?}", nodes());
    }

    #[test]
    fn an_error_of_one_worker_is_the_answer() {
        let mut told = Vec::new();
        let mut progress = |done, total| told.push((done, total));
        let mut workers = Workers { nodes: vec![vec![0, 0], vec![0]], progress: &mut progress };
        let begun = std::sync::atomic::AtomicU32::new(0);
        let work = |node| {
            begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            thread::sleep(Duration::from_millis(30));
            if node == 1 { Err(CreateError::Size(node as u64)) } else { Ok(()) }
        };
        let ended = workers.all_at_once(&work, &|| 5, 9);
        assert!(matches!(ended, Err(CreateError::Size(1))), "{ended:?}");
        assert_eq!(begun.into_inner(), 3);
        assert!(!told.is_empty() && told.iter().all(|&each| each == (5, 9)), "{told:?}");
    }
}
