//! Holding the log against the region.

use super::board::{Common, Entry, Field, Slot, WRITERS};
use super::seen::Seen;
use super::{Storm, stalled};
use crate::model::remove_all;
use crate::scratch::check;
use crate::stepping::judge::{Fault, FaultKind, PATIENCE, nothing_is_left};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn loss(text: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Loss, text)
}

impl Storm<'_> {
    /// Takes what all writers have logged.
    pub(super) fn take_logs(&mut self) -> Result<(), Fault> {
        for writer in 0..WRITERS {
            let slot = self.board.slot(writer);
            while let Some(entry) = slot.take() {
                self.note(writer, slot, &entry)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, writer: usize, slot: Slot, entry: &Entry) -> Result<(), Fault> {
        self.outcome.actions += 1;
        let action = &entry.action;
        if action.is_private() {
            if entry.answer != 0 {
                return Err(loss(format!("writer {writer}: {action:?} answered errno {}", entry.answer)));
            }
            self.trees[writer].apply(action);
            return Ok(());
        }
        self.commons.note(writer, slot.get(Field::Incarnation), entry, true).map_err(loss)
    }

    /// A writer is dead and was recovered: all that it logged is there, and its last action is whole or not there.
    pub(super) fn hold_dead(&mut self, writer: usize) -> Result<(), Fault> {
        self.take_logs()?;
        let slot = self.board.slot(writer);
        self.outcome.stall = self.outcome.stall.max(Duration::from_nanos(slot.get(Field::Longest)));
        let interrupted = slot.in_flight();
        if let Some(entry) = &interrupted {
            self.outcome.in_flight += 1;
            let noted = self.commons.note(writer, slot.get(Field::Incarnation), entry, false);
            noted.map_err(loss)?;
        }
        let action = interrupted.map(|entry| entry.action);
        let whose = |text: String| loss(format!("writer {writer} died in {action:?}: {text}"));
        if let Some(action) = action.filter(|action| action.is_private()) {
            self.trees[writer].note_death(&action);
        }
        let past = &self.trees[writer];
        let seen = Seen::of(&self.volume, writer)
            .map_err(|text| whose(format!("{text}; its past:{}", past.past_of(writer, &text))))?;
        match action.filter(|action| action.is_private()) {
            Some(own) => self.trees[writer] = seen.after_death(&self.trees[writer], &own).map_err(whose)?,
            None => seen.equals(&self.trees[writer]).map_err(whose)?,
        }
        self.commons.after_death(&self.volume, writer, action.as_ref()).map_err(whose)
    }

    /// Nobody who lives has waited for too long.
    pub(super) fn look_after_the_living(&mut self) -> Result<(), Fault> {
        for writer in (0..WRITERS).filter(|&writer| self.writers[writer].is_some()) {
            let slot = self.board.slot(writer);
            let longest = stalled(
                &format!("an action of writer {writer}, who lives,"),
                Duration::from_nanos(slot.get(Field::Longest)),
            )?;
            self.outcome.stall = self.outcome.stall.max(longest);
        }
        Ok(())
    }

    /// Stops all writers between two actions.
    fn pause(&mut self) -> Result<(), Fault> {
        self.board.common(Common::Pause).store(1, Ordering::SeqCst);
        let start = Instant::now();
        loop {
            self.take_logs()?;
            let busy = (0..WRITERS)
                .find(|&writer| self.writers[writer].is_some() && self.board.slot(writer).get(Field::Paused) == 0);
            let Some(writer) = busy else { return Ok(()) };
            let slot = self.board.slot(writer);
            // A process that is being started, or has no processor, is late without waiting for anybody.
            if start.elapsed() > 10 * PATIENCE {
                return Err(Fault::new(FaultKind::Stall, format!("writer {writer} hangs in {:?}", slot.in_flight())));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// The dear part: all rest, and everything is looked at.
    pub(super) fn rest(&mut self) -> Result<(), Fault> {
        self.pause()?;
        self.take_logs()?;
        self.files.sweep().map_err(|error| Fault::new(FaultKind::Damage, format!("a sweep: {error}")))?;
        for writer in 0..WRITERS {
            let whose = |text: String| loss(format!("writer {writer}, at rest: {text}"));
            let seen = Seen::of(&self.volume, writer).map_err(whose)?;
            seen.equals(&self.trees[writer]).map_err(whose)?;
        }
        self.commons.at_rest(&self.volume).map_err(loss)?;
        self.is_whole()?;
        self.outcome.checks += 1;
        self.look_after_the_living()?;
        self.board.common(Common::Pause).store(0, Ordering::SeqCst);
        Ok(())
    }

    fn is_whole(&self) -> Result<(), Fault> {
        let checked = check(self.files);
        if checked.is_clean() {
            return Ok(());
        }
        let text = checked.to_string();
        let kind = if text.contains("nothing refers to it") { FaultKind::Leak } else { FaultKind::Damage };
        Err(Fault::new(kind, text))
    }

    /// Everybody dies, everything is removed: then nothing is taken any more.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        self.rest()?;
        // Whoever died last was held against the log then, and nobody has taken the place.
        let living: Vec<usize> = (0..WRITERS).filter(|&writer| self.writers[writer].is_some()).collect();
        self.kill_all();
        self.recover_all()?;
        for writer in living {
            self.hold_dead(writer)?;
        }
        remove_all(&self.volume, b"")
            .map_err(|error| Fault::new(FaultKind::Damage, format!("removing: errno {error}")))?;
        self.recover_all()?;
        self.is_whole()?;
        nothing_is_left(self.files)?;
        let usage = self.files.usage();
        if usage.inodes_used > 1 {
            let text = format!("{} inodes are taken when everything is removed", usage.inodes_used - 1);
            return Err(Fault::new(FaultKind::Leak, text));
        }
        Ok(())
    }

    fn recover_all(&self) -> Result<(), Fault> {
        let swept = self.files.sweep();
        swept.map(drop).map_err(|error| Fault::new(FaultKind::Damage, format!("recovering: {error}")))
    }
}
