//! Two deaths at once: a peer is stopped in the middle of the same operation on the same objects, then the victim is
//! followed as far as it comes, and each state is recovered with both dead.

use super::judge::{Choices, Fault, Judge, Wanted};
use super::operations::Actor;
use super::states::{Recorder, Seen, State};
use super::trace::{Event, Marks, Tracee};
use super::{Moment, Outcome, Pace, Stage, WAIT, describe};
use std::time::Duration;

/// Who does not come to a store for so long waits for the peer that is stopped.
const BLOCKED: Duration = Duration::from_millis(120);

impl Stage {
    /// Stops the peer at `points` of his stores, spread evenly, and judges at most `states` of the victim's at each.
    pub fn beside_the_frozen(&self, points: usize, states: usize, outcome: &mut Outcome) -> Result<(), String> {
        use Actor::{Peer, Victim};
        if points == 0 {
            return Ok(());
        }
        let orders: &[&[Actor]] = &[&[], &[Victim], &[Peer], &[Victim, Peer], &[Peer, Victim]];
        let interrupted = self.pictures(&self.base, orders).map_err(|fault| fault.text)?;
        // The victim's operation had returned: in all but the first and the third.
        let done = [1, 3, 4].map(|order: usize| interrupted[order].clone()).to_vec();
        let mut judge = Judge::start(self.copies.path(), &self.operation, &Choices { interrupted, done });
        judge.as_last_survivor();
        let peers_marks = Marks::new();
        let stores = self.stores_of_peer(peers_marks)?;
        let mut seen = Seen::default();
        for point in 1..=points.min(stores as usize) {
            let frozen = (stores as usize * point / (points.min(stores as usize) + 1)).max(1) as u64;
            let found = self.with_frozen_peer(peers_marks, frozen, &mut seen)?;
            let every = found.len().div_ceil(states).max(1);
            for (state, moment, returned) in found.iter().step_by(every) {
                outcome.states_beside += 1;
                let wanted = if *returned { Wanted::Done } else { Wanted::Any };
                if let Err(fault) = self.judge(&mut judge, state, wanted) {
                    let text = format!(
                        "{}, peer stopped at store {frozen}, victim {}: {}",
                        self.operation.name,
                        describe(Pace::Stores, moment),
                        fault.text
                    );
                    outcome.faults.push(Fault { text, ..fault });
                }
            }
        }
        Ok(())
    }

    fn start_peer(&self, marks: &'static Marks) -> Result<Tracee, String> {
        let (operation, region) = (self.operation_of(Actor::Peer), self.live.path());
        Tracee::start(marks, || operation.play(marks, region, Actor::Peer))
    }

    fn stores_of_peer(&self, marks: &'static Marks) -> Result<u64, String> {
        self.image.write(&self.base, &State::default());
        let peer = self.start_peer(marks)?;
        let mut stores = 0;
        while let Event::Store { .. } = peer.next_store(WAIT)? {
            stores += 1;
        }
        Ok(stores)
    }

    /// The states of the victim beside a peer stopped after so many stores, until it is done or waits for the peer.
    fn with_frozen_peer(
        &self,
        marks: &'static Marks,
        frozen: u64,
        seen: &mut Seen,
    ) -> Result<Vec<(State, Moment, bool)>, String> {
        self.image.write(&self.base, &State::default());
        // Ready first: getting ready may need what the peer will have locked.
        let victim = self.start_victim(self.live.path())?;
        let peer = self.start_peer(marks)?;
        for _ in 0..frozen {
            peer.next_store(WAIT)?;
        }
        let mut recorder = Recorder::new(&self.image, &self.base, &State::default());
        let mut moment = Moment::default();
        let mut found = Vec::new();
        recorder.note_all(seen);
        found.push((recorder.state(), moment, false));
        loop {
            match victim.next_store(BLOCKED)? {
                Event::Store { at, offset, pages } => {
                    moment.store += 1;
                    (moment.address, moment.offset) = (at, offset);
                    if recorder.note(&pages, seen) {
                        found.push((recorder.state(), moment, false));
                    }
                }
                Event::Done => {
                    found.push((recorder.state(), moment, true));
                    return Ok(found);
                }
                _ => return Ok(found),
            }
        }
    }
}
