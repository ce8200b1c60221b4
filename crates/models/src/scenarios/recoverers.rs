//! Two processes that recover the same dead one: one of them does it, and a process that took the slot afterwards is
//! left alone. And locks of the dead, for which others wait.

use crate::harness::{Bounds, Explored, World, explore, spawn};
use crate::image::{self, Image};
use crate::lane::{Lane, Task};
use crate::layout::SWEEP_LOCK;
use crate::lock;
use crate::recovery::{self, Finish};
use crate::region::Region;
use crate::support::{Initial, attached, unless_dead};
use crate::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const CHUNKS: u64 = 1;

/// Sees who is recovered by how many at once, and how often in all. (No words of the model: only looked at.)
#[derive(Clone, Default)]
struct Counting {
    inside: Arc<AtomicU32>,
    finished: Arc<AtomicU32>,
}

impl Finish for Counting {
    fn finish(&self, _lane: &Lane<'_>, _task: Task) -> Result<bool> {
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "two recover one at the same time");
        loom::thread::yield_now();
        self.inside.fetch_sub(1, Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
    fn clean_up(&self, _lane: &Lane<'_>, _task: Task) -> Result<bool> {
        Ok(true)
    }
    fn image_gone(&self, _image: Image) -> Result<bool> {
        Ok(true)
    }
}

/// Leaves a task behind.
fn leave_a_task(region: &Region) -> Result<()> {
    let lane = Lane::claim(region)?;
    lane.set_task(1, 7)?;
    std::mem::forget(lane);
    Ok(())
}

/// Two recover at once; the second may die over it at `step`, and then the observer goes on.
pub fn a_dead_process_is_recovered_once(bounds: Bounds, step: Option<u32>) -> Explored {
    explore(bounds, &Initial::new(), move |world: &World| {
        let counting = Counting::default();
        let observer = attached(world, 3, CHUNKS, None);
        let victim = attached(world, 0, CHUNKS, None);
        let (first, second) = (attached(world, 1, CHUNKS, None), attached(world, 2, CHUNKS, step));
        let left = leave_a_task(&victim);
        victim.process.die();
        world.start();
        let others = counting.clone();
        let second = spawn(move || {
            let answer = unless_dead(recovery::recover_all(&second, &others));
            second.process.die();
            answer
        });
        let answer = recovery::recover_all(&first, &counting);
        let others_answer = second.join().expect("the second");
        world.end();
        world.died(others_answer.is_none());
        counting.inside.store(0, Ordering::Relaxed);
        let rest = recovery::recover_all(&observer, &counting);
        if world.counts() {
            left.expect("a task");
            answer.expect("the first");
            rest.expect("the observer");
            let finished = counting.finished.load(Ordering::Relaxed);
            assert!(finished >= 1, "the task was forgotten");
            if step.is_none() {
                assert_eq!(finished, 1, "the task was done twice");
            }
            let mut there = [false; 4];
            image::attached(&observer, |image, _| there[image.slot as usize] = true).expect("the slots");
            assert_eq!(there.iter().filter(|&&there| there).count(), 2, "slots stay taken: {there:?}");
        }
    })
}

/// The task of the dead needs their lock, as those of the file system do.
struct NeedsTheLock;

impl Finish for NeedsTheLock {
    fn finish(&self, lane: &Lane<'_>, _task: Task) -> Result<bool> {
        Ok(lane.holds(SWEEP_LOCK)? || lane.try_lock(SWEEP_LOCK)?)
    }
    fn clean_up(&self, _lane: &Lane<'_>, _task: Task) -> Result<bool> {
        Ok(true)
    }
    fn image_gone(&self, _image: Image) -> Result<bool> {
        Ok(true)
    }
}

fn die_with_a_lock_and_a_task(region: &Region) -> Result<()> {
    let lane = Lane::claim(region)?;
    lane.set_task(1, 7)?;
    lane.lock(SWEEP_LOCK, &NeedsTheLock)?;
    std::mem::forget(lane);
    Ok(())
}

/// Somebody begins to wait for a lock of the dead while that is taken over, and may die over it at `step`: when all is
/// recovered, nobody has the lock.
pub fn a_lock_of_the_dead_comes_free_beside_who_waits(bounds: Bounds, step: Option<u32>) -> Explored {
    explore(bounds, &Initial::from([(SWEEP_LOCK, 0)]), move |world: &World| {
        let observer = attached(world, 3, CHUNKS, None);
        let victim = attached(world, 0, CHUNKS, None);
        let (recoverer, waiter) = (attached(world, 1, CHUNKS, None), attached(world, 2, CHUNKS, step));
        let left = die_with_a_lock_and_a_task(&victim);
        victim.process.die();
        world.start();
        let waiter = spawn(move || {
            let answer = unless_dead(Lane::claim(&waiter).and_then(|lane| lane.lock(SWEEP_LOCK, &NeedsTheLock)));
            waiter.process.die();
            answer
        });
        let answer = recovery::recover_all(&recoverer, &NeedsTheLock);
        let waited = waiter.join().expect("the waiter");
        world.end();
        world.died(waited.is_none());
        let rest = recovery::recover_all(&observer, &NeedsTheLock);
        let word = observer.load(SWEEP_LOCK);
        if world.counts() {
            left.expect("a lock");
            answer.expect("the recoverer");
            rest.expect("the observer");
            let owner = lock::decode(&observer, word.expect("the lock's word"));
            assert_eq!(owner, Ok(None), "a lock stays the dead's");
            let mut there = 0;
            image::attached(&observer, |_, _| there += 1).expect("the slots");
            assert_eq!(there, 2, "a task that is never done");
        }
    })
}
