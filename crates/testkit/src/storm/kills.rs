//! Killing, and who looks after the dead.

use super::board::{Field, RECOVERER, WRITERS, now};
use super::{Storm, stalled};
use crate::stepping::judge::{Fault, FaultKind};
use lifeboat_region::{Errno, image};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Longest time that the killer waits after an announcement, in nanoseconds, as a power of two: most actions are shorter.
const SPIN: u64 = 17;
/// How often the killer looks for a moment in the middle of an action.
const TRIES: u32 = 20;
/// The shortest such time.
const SHORTEST_SPIN: u64 = 10;
/// The same for one that recovers others.
const RECOVERY_SPIN: u64 = 1_500_000;
/// Actions that a victim does first, at most.
const HEAD_START: u64 = 12;
/// A writer that announces nothing for this long hangs.
const SILENCE: Duration = Duration::from_secs(10);
/// Longer than a waiter waits before it looks whether the holder of a lock is dead.
const LEFT_ALONE: Duration = Duration::from_millis(60);

/// Kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    One,
    Two,
    Group,
    /// One, then one that recovers it.
    Recoverer,
}

impl Storm<'_> {
    /// One round: somebody dies, is recovered, and is held against the log.
    pub(super) fn strike(&mut self) -> Result<(), Fault> {
        let strike = match self.random.below(100) {
            0..80 => Strike::One,
            80..90 => Strike::Two,
            90..92 => Strike::Group,
            _ => Strike::Recoverer,
        };
        let first = self.random.below(WRITERS as u64) as usize;
        self.wait_for_moment(first)?;
        let dead: Vec<usize> = match strike {
            Strike::One | Strike::Recoverer => vec![first],
            Strike::Two => vec![first, (first + 1 + self.random.below(WRITERS as u64 - 1) as usize) % WRITERS],
            Strike::Group => (0..WRITERS).collect(),
        };
        self.outcome.pairs += u64::from(strike == Strike::Two);
        self.outcome.groups += u64::from(strike == Strike::Group);
        self.kill(&dead, strike == Strike::Group)?;
        if strike == Strike::Recoverer {
            self.kill_recoverers()?;
        }
        self.recover(&dead)?;
        for writer in dead {
            self.hold_dead(writer)?;
        }
        self.look_after_the_living()
    }

    /// Waits until the writer has done something, then for a random part of its next action.
    fn wait_for_moment(&mut self, writer: usize) -> Result<(), Fault> {
        let slot = self.board.slot(writer);
        let wanted = slot.get(Field::Announced) + 1 + self.random.below(HEAD_START);
        let start = Instant::now();
        while slot.get(Field::Announced) < wanted {
            if start.elapsed() > SILENCE {
                return Err(Fault::new(
                    FaultKind::Stall,
                    format!("writer {writer} does nothing: {:?}", slot.in_flight()),
                ));
            }
            if slot.is_full() {
                self.take_logs()?;
            }
            // Not asleep: the next action would be over when this process is awake.
            std::thread::yield_now();
        }
        // Sometimes between two actions.
        let anywhere = self.random.chance(10);
        for _ in 0..TRIES {
            let announced = slot.get(Field::Announced);
            while slot.get(Field::Announced) == announced && start.elapsed() < SILENCE {
                std::thread::yield_now();
            }
            let longest = 1 << (SHORTEST_SPIN + self.random.below(SPIN - SHORTEST_SPIN + 1));
            spin(self.random.below(longest));
            if anywhere || slot.get(Field::Busy) != 0 {
                break;
            }
        }
        Ok(())
    }

    /// Kills them, and waits until the kernel has.
    fn kill(&mut self, victims: &[usize], group: bool) -> Result<(), Fault> {
        for &writer in victims {
            let slot = self.board.slot(writer);
            slot.set(Field::Condemned, slot.get(Field::Incarnation));
        }
        if group {
            // SAFETY: a group of our own children, none of which has been waited for.
            unsafe { libc::kill(-self.group, libc::SIGKILL) };
        }
        for &writer in victims {
            if let Some(child) = self.writers[writer] {
                // SAFETY: our own child, which has not been waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
        }
        for &writer in victims {
            let Some(child) = self.writers[writer].take() else { continue };
            let mut status = 0;
            // SAFETY: our own child; the status goes to our own word.
            unsafe { libc::waitpid(child, &mut status, 0) };
            if !libc::WIFSIGNALED(status) || libc::WTERMSIG(status) != libc::SIGKILL {
                let text = format!("writer {writer} ended by itself, status {status:#x}");
                return Err(Fault::new(FaultKind::Damage, text));
            }
            self.outcome.kills += 1;
            self.gone.push(child as u32);
        }
        Ok(())
    }

    /// Lets a process recover what is there to recover, and kills it in the middle; perhaps also who recovers that one.
    fn kill_recoverers(&mut self) -> Result<(), Fault> {
        loop {
            self.start(RECOVERER, true);
            let slot = self.board.slot(RECOVERER);
            let start = Instant::now();
            while slot.get(Field::Announced) == 0 {
                if start.elapsed() > SILENCE {
                    return Err(Fault::new(FaultKind::Stall, "a process cannot attach beside a dead one"));
                }
                std::hint::spin_loop();
            }
            spin(self.random.below(RECOVERY_SPIN));
            self.outcome.recoverers += u64::from(slot.get(Field::Returned) == 0);
            self.kill(&[RECOVERER], false)?;
            if self.random.chance(60) {
                return Ok(());
            }
        }
    }

    /// Somebody recovers the dead: this process, one that lives, or whoever is held up by them.
    fn recover(&mut self, dead: &[usize]) -> Result<(), Fault> {
        let alive = (0..WRITERS).find(|&writer| self.writers[writer].is_some() && !dead.contains(&writer));
        match (self.random.below(100), alive) {
            (0..35, Some(writer)) => {
                let slot = self.board.slot(writer);
                let before = slot.get(Field::Sweeps);
                slot.set(Field::Request, 1);
                let start = Instant::now();
                while slot.get(Field::Sweeps) == before {
                    if start.elapsed() > SILENCE {
                        return Err(Fault::new(FaultKind::Stall, format!("writer {writer} does not recover the dead")));
                    }
                    self.take_logs()?;
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            (35..40, Some(_)) => std::thread::sleep(LEFT_ALONE),
            _ => {}
        }
        let start = now();
        while self.recovers_anybody()? {
            // Who reads `/proc/PID` of a dead process keeps its memory, and so its witness, for a moment.
            stalled("a proof of death", Duration::from_nanos(now() - start))
                .map_err(|fault| Fault { text: format!("{}; {}", fault.text, self.what_is_left()), ..fault })?;
            std::thread::sleep(Duration::from_millis(1));
        }
        self.gone.clear();
        stalled("a recovery", Duration::from_nanos(now() - start)).map(drop)
    }

    /// Sweeps; whether somebody who was killed still has a slot.
    fn recovers_anybody(&self) -> Result<bool, Fault> {
        let failed =
            |error: Errno| Fault::new(FaultKind::Damage, format!("recovering: errno {}", error.raw_os_error()));
        self.files.sweep().map_err(failed)?;
        let mut left = false;
        image::attached(self.files.region(), |_, holder| left |= self.gone.contains(&holder.pid)).map_err(failed)?;
        Ok(left)
    }

    /// What keeps those who were killed from being proved gone, as far as the kernel tells.
    fn what_is_left(&self) -> String {
        let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let mut found = format!("load {}", read("/proc/loadavg".into()).trim_end());
        let locks = read("/proc/locks".into());
        let _ = image::attached(self.files.region(), |image, holder| {
            if self.gone.contains(&holder.pid) {
                let file = std::fs::metadata(self.region.join(format!("images/{}", image.slot)));
                let number = file.map_or(0, |file| file.ino());
                let held: Vec<&str> = locks.lines().filter(|line| line.contains(&format!(":{number} "))).collect();
                let process = read(format!("/proc/{}/stat", holder.pid));
                found +=
                    &format!("; slot {}, process {}: `{}`, locks {held:?}", image.slot, holder.pid, process.trim_end());
            }
        });
        found
    }

    /// Kills whoever lives, at the end.
    pub(super) fn kill_all(&mut self) {
        for child in self.writers.iter_mut().filter_map(Option::take) {
            let mut status = 0;
            // SAFETY: our own children, not waited for yet.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, &mut status, 0);
            }
        }
    }
}

fn spin(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        std::hint::spin_loop();
    }
}
