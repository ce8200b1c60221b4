//! Ways to have a descriptor stand for an open file: what each costs, and which guarantees it keeps.
//!
//! All of them, and `open` with `close` on tmpfs, take turns in one run.

use crate::measure::{Arm, Life, Place};
use crate::report::Figure;
use crate::statistics::Middle;
use serde::Serialize;

/// The name of the run.
pub const NAME: &str = "descriptors";

/// What a descriptor of an open file owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Guarantee {
    /// `dup`, `fork`, `exec`, `poll`, mappings and limits are the kernel's.
    Kernels,
    /// The kernel says which open file it is, or that it is none.
    Known,
    /// Others learn when nobody holds the open file any more.
    Released,
    /// What is done to it past the library fails, or is seen.
    Guarded,
}

impl Guarantee {
    /// All of them.
    pub const ALL: [Guarantee; 4] = [Guarantee::Kernels, Guarantee::Known, Guarantee::Released, Guarantee::Guarded];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Guarantee::Kernels => "kernel's",
            Guarantee::Known => "known",
            Guarantee::Released => "released",
            Guarantee::Guarded => "guarded",
        }
    }
}

/// A way.
#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    /// In words.
    pub name: &'static str,
    /// The system calls of an `open` and its `close`.
    pub calls: &'static str,
    /// The work, by name.
    pub task: &'static str,
    /// What it does not keep, in the order of [`Guarantee::ALL`].
    pub breaks: &'static [Guarantee],
    /// How it keeps the rest, or why it breaks these.
    pub why: &'static str,
}

use Guarantee::{Guarded, Kernels, Known, Released};

/// All of them.
pub const SCHEMES: &[Scheme] = &[
    Scheme {
        name: "a tag, opened each time",
        calls: "openat, lseek, F_OFD_SETLK, close",
        task: "placeholder-tag",
        breaks: &[],
        why: "what Lifeboat does when nothing is kept",
    },
    Scheme {
        name: "a kept tag, looked at",
        calls: "dup, fstat, close",
        task: "placeholder-kept",
        breaks: &[],
        why: "for one file at a time, and given up before it may be shared; what Lifeboat does",
    },
    Scheme {
        name: "a memfd each time",
        calls: "memfd_create, lseek, F_OFD_SETLK, close",
        task: "placeholder-memfd",
        breaks: &[Released, Guarded],
        why: "locked, but without a name by which others could ask; can be written whatever the program asked for",
    },
    Scheme {
        name: "a tag, opened as a place",
        calls: "openat(O_PATH), close",
        task: "placeholder-path",
        breaks: &[Kernels, Released],
        why: "cannot be locked, polled or mapped",
    },
    Scheme {
        name: "one common tag, not looked at",
        calls: "dup, close",
        task: "placeholder-common",
        breaks: &[Known, Released],
        why: "after a close behind the library its number is another file's; one lock for all files",
    },
    Scheme {
        name: "no descriptor, a number of a table",
        calls: "none",
        task: "placeholder-number",
        breaks: &[Kernels, Known, Released],
        why: "the kernel, and with it children and limits, knows nothing of it",
    },
];

/// What they are held against.
pub const TMPFS: Arm = Arm { place: Place::Tmpfs, task: "open-close", life: Life::Kept };

impl Scheme {
    /// Who does it: tags are files on a tmpfs.
    pub fn arm(&self) -> Arm {
        Arm { place: Place::Tmpfs, task: self.task, life: Life::Kept }
    }
}

/// What a way costs here.
#[derive(Clone, Debug, Serialize)]
pub struct SchemeRow {
    /// In words.
    pub name: String,
    /// The system calls of an `open` and its `close`.
    pub calls: String,
    /// What these take.
    pub cost: Figure,
    /// What `open` and `close` on tmpfs take.
    pub tmpfs: Figure,
    /// How many times as fast as tmpfs: the middle of the rounds' own.
    pub times: Option<Middle>,
    /// What it does not keep.
    pub breaks: Vec<Guarantee>,
    /// The same in words.
    pub says: String,
}

impl SchemeRow {
    /// With the figures of a run.
    pub fn new(scheme: &Scheme, cost: Figure, tmpfs: Figure, times: Option<Middle>) -> SchemeRow {
        let broken: Vec<_> = scheme.breaks.iter().map(|guarantee| guarantee.name()).collect();
        let head = if broken.is_empty() { "keeps all".to_owned() } else { format!("breaks {}", broken.join(", ")) };
        SchemeRow {
            name: scheme.name.to_owned(),
            calls: scheme.calls.to_owned(),
            cost,
            tmpfs,
            times,
            breaks: scheme.breaks.to_vec(),
            says: format!("{head}: {}", scheme.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_can_be_measured_and_says_what_it_breaks() {
        for (index, scheme) in SCHEMES.iter().enumerate() {
            assert!(SCHEMES[..index].iter().all(|other| other.name != scheme.name && other.task != scheme.task));
            assert!(crate::tasks::find(scheme.task).is_some(), "{}", scheme.task);
            assert!(Guarantee::ALL.iter().filter(|guarantee| scheme.breaks.contains(guarantee)).eq(scheme.breaks));
            assert!(!scheme.calls.is_empty() && !scheme.why.is_empty(), "{}", scheme.name);
        }
        assert!(crate::tasks::find(TMPFS.task).is_some());
    }

    #[test]
    fn a_row_says_which_guarantees_are_broken() {
        let none = || Figure { own: None, wall: None };
        let says = |index: usize| SchemeRow::new(&SCHEMES[index], none(), none(), None).says;
        assert!(says(1).starts_with("keeps all: "), "{}", says(1));
        assert!(says(3).starts_with("breaks kernel's, released: "), "{}", says(3));
    }
}
