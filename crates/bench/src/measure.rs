//! The questions that are asked, and what the answer ought to be.

use serde::Serialize;

/// Where work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Below the mount of `lifeboat exec`, with the interception library.
    Mount,
    /// The same with `--checksums-at-seal`.
    AtSeal,
    /// As `Mount`, in a region all of whose pages have 4 KiB.
    SmallPages,
    /// As `Mount`, in a region that is as small as regions are.
    SmallRegion,
    /// In the region, by the calls of the file system itself.
    Inner,
    /// The same in a region that is as small as regions are.
    InnerSmall,
    /// A tmpfs with pages of 4 KiB.
    Tmpfs,
    /// A tmpfs with `huge=always`.
    TmpfsHuge,
    /// A folder on a disk.
    Disk,
    /// No files at all, and no library.
    Bare,
}

impl Place {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Place::Mount => "Lifeboat",
            Place::AtSeal => "Lifeboat, checksums at seal",
            Place::SmallPages => "Lifeboat, pages of 4 KiB",
            Place::SmallRegion => "Lifeboat, smallest region",
            Place::Inner => "Lifeboat, linked in",
            Place::InnerSmall => "Lifeboat, linked in, smallest region",
            Place::Tmpfs => "tmpfs",
            Place::TmpfsHuge => "tmpfs huge=always",
            Place::Disk => "disk",
            Place::Bare => "bare",
        }
    }
}

/// Which process does a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// The one that did the round before.
    Kept,
    /// A new one, to which every page is new.
    New,
}

/// Work in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arm {
    /// Where.
    pub place: Place,
    /// What, by name.
    pub task: &'static str,
    /// By whom.
    pub life: Life,
}

const fn arm(place: Place, task: &'static str) -> Arm {
    Arm { place, task, life: Life::Kept }
}

const fn first(place: Place, task: &'static str) -> Arm {
    Arm { place, task, life: Life::New }
}

/// What an answer is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At least so many times as fast as this (and the stretch).
    Times(Arm, f64, Option<f64>),
    /// At most so many nanoseconds for each operation more than this takes.
    More(Arm, f64),
    /// At most so much for each unit (and the stretch).
    AtMost(f64, Option<f64>),
    /// Told, without a goal.
    Beside(Arm),
}

impl Goal {
    /// What it is compared with.
    pub fn peer(&self) -> Option<Arm> {
        match *self {
            Goal::Times(arm, ..) | Goal::More(arm, _) | Goal::Beside(arm) => Some(arm),
            Goal::AtMost(..) => None,
        }
    }
}

/// What the units of work are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes: figures are GB/s.
    Bytes,
    /// Operations: figures are nanoseconds for each.
    Operations,
    /// Bytes of files: figures are what else they take, as a part of them.
    Share,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Short name.
    pub name: &'static str,
    /// In words.
    pub what: &'static str,
    /// What is counted.
    pub unit: Unit,
    /// Our work.
    pub ours: Arm,
    /// What it is held against.
    pub goals: &'static [Goal],
}

use Goal::{AtMost, Beside, More, Times};
use Place::{AtSeal, Bare, Disk, Inner, Mount, SmallPages, SmallRegion, Tmpfs, TmpfsHuge};
use Unit::{Bytes, Operations, Share};

/// All questions, in the order of the report.
pub const MEASURES: &[Measure] = &[
    Measure {
        name: "write-first",
        what: "write() of 1 MiB with checksums, first pass of a new process over a new file",
        unit: Bytes,
        ours: first(Mount, "write-new-1m"),
        goals: &[
            Times(arm(Tmpfs, "write-new-1m"), 3.4, Some(3.8)),
            Times(arm(TmpfsHuge, "write-new-1m"), 1.7, None),
            Beside(arm(Disk, "write-new-1m")),
        ],
    },
    Measure {
        name: "write-over",
        what: "write() of 1 MiB with checksums over a file that is there",
        unit: Bytes,
        ours: arm(Mount, "write-over-1m"),
        goals: &[
            Times(arm(Tmpfs, "write-over-1m"), 2.6, Some(3.1)),
            Times(arm(TmpfsHuge, "write-over-1m"), 1.4, None),
            Times(arm(Bare, "copy"), 0.85, None),
            Beside(arm(Bare, "copy-checksum")),
        ],
    },
    Measure {
        name: "write-first-at-seal",
        what: "the first of these without checksums, which are made at seal",
        unit: Bytes,
        ours: first(AtSeal, "write-new-1m"),
        goals: &[Times(arm(Tmpfs, "write-new-1m"), 4.0, None)],
    },
    Measure {
        name: "write-over-at-seal",
        what: "the second without checksums, which are made at seal",
        unit: Bytes,
        ours: arm(AtSeal, "write-over-1m"),
        goals: &[Times(arm(Tmpfs, "write-over-1m"), 3.0, None), Times(arm(Bare, "copy"), 0.95, None)],
    },
    Measure {
        name: "write-first-small-pages",
        what: "write() of 1 MiB with checksums, first pass of a new process over a new file, where all pages have 4 KiB",
        unit: Bytes,
        ours: first(SmallPages, "write-new-1m"),
        goals: &[Times(arm(Tmpfs, "write-new-1m"), 0.8, None)],
    },
    Measure {
        name: "write-over-small-pages",
        what: "the same over a file that is there, by a process that wrote it before",
        unit: Bytes,
        ours: arm(SmallPages, "write-over-1m"),
        goals: &[Times(arm(Tmpfs, "write-over-1m"), 2.5, None)],
    },
    Measure {
        name: "write-4k-new",
        what: "write() of 4 KiB with checksums, a new file",
        unit: Bytes,
        ours: arm(Mount, "write-new-4k"),
        goals: &[Times(arm(Tmpfs, "write-new-4k"), 2.4, None)],
    },
    Measure {
        name: "write-4k-over",
        what: "write() of 4 KiB with checksums over a file that is there",
        unit: Bytes,
        ours: arm(Mount, "write-over-4k"),
        goals: &[Times(arm(Tmpfs, "write-over-4k"), 1.9, None)],
    },
    Measure {
        name: "pwrite-64",
        what: "pwrite() of 64 bytes inside the size",
        unit: Operations,
        ours: arm(Mount, "pwrite-64"),
        goals: &[AtMost(30.0, Some(20.0)), Beside(arm(Tmpfs, "pwrite-64")), Beside(arm(Bare, "steps-64"))],
    },
    Measure {
        name: "append-64",
        what: "write() of 64 bytes at the end, whole or absent",
        unit: Operations,
        ours: arm(Mount, "append-64"),
        goals: &[AtMost(45.0, Some(25.0)), Beside(arm(Tmpfs, "append-64")), Beside(arm(Bare, "steps-append-64"))],
    },
    Measure {
        name: "append-64-o-append",
        what: "the same with O_APPEND, for many writers",
        unit: Operations,
        ours: arm(Mount, "append-64-o-append"),
        goals: &[Beside(arm(Tmpfs, "append-64-o-append"))],
    },
    Measure {
        name: "read",
        what: "read() of 1 MiB into memory that is cold",
        unit: Bytes,
        ours: arm(Mount, "read-1m"),
        goals: &[Times(arm(Tmpfs, "read-1m"), 2.0, None)],
    },
    Measure {
        name: "read-again",
        what: "the same into one buffer again and again",
        unit: Bytes,
        ours: arm(Mount, "read-again-1m"),
        goals: &[Beside(arm(Tmpfs, "read-again-1m"))],
    },
    Measure {
        name: "inner-create",
        what: "creating a file in process, three path components",
        unit: Operations,
        ours: arm(Inner, "inner-create"),
        goals: &[Times(arm(Tmpfs, "create"), 10.0, Some(20.0)), Beside(arm(Bare, "steps-create"))],
    },
    Measure {
        name: "inner-stat",
        what: "finding a file's attributes in process, three path components",
        unit: Operations,
        ours: arm(Inner, "inner-stat"),
        goals: &[Times(arm(Tmpfs, "stat"), 8.0, Some(20.0))],
    },
    Measure {
        name: "inner-unlink",
        what: "removing a file in process, three path components",
        unit: Operations,
        ours: arm(Inner, "inner-unlink"),
        goals: &[Times(arm(Tmpfs, "unlink"), 6.0, None), Beside(arm(Bare, "steps-unlink"))],
    },
    Measure {
        name: "create",
        what: "open() of a new file and close()",
        unit: Operations,
        ours: arm(Mount, "create"),
        goals: &[Beside(arm(Tmpfs, "create"))],
    },
    Measure {
        name: "unlink",
        what: "unlink()",
        unit: Operations,
        ours: arm(Mount, "unlink"),
        goals: &[Beside(arm(Tmpfs, "unlink"))],
    },
    Measure {
        name: "open-close",
        what: "open() and close()",
        unit: Operations,
        ours: arm(Mount, "open-close"),
        goals: &[Times(arm(Tmpfs, "open-close"), 1.5, None)],
    },
    Measure {
        name: "stat",
        what: "stat()",
        unit: Operations,
        ours: arm(Mount, "stat"),
        goals: &[Times(arm(Tmpfs, "stat"), 6.0, None)],
    },
    Measure {
        name: "create-write-64k",
        what: "open() of a new file, write() of 64 KiB, close()",
        unit: Operations,
        ours: arm(Mount, "create-write-64k"),
        goals: &[Times(arm(Tmpfs, "create-write-64k"), 2.5, None)],
    },
    Measure {
        name: "share-1m",
        what: "space beside the bytes, of files of 1 MiB",
        unit: Share,
        ours: arm(Inner, "inner-share-1m"),
        goals: &[AtMost(0.01, None)],
    },
    Measure {
        name: "share-4k",
        what: "space beside the bytes, of files of 4 KiB",
        unit: Share,
        ours: arm(Inner, "inner-share-4k"),
        goals: &[AtMost(0.1, None)],
    },
    Measure {
        name: "foreign",
        what: "a call on a descriptor that is not ours, through the library",
        unit: Operations,
        ours: arm(Mount, "foreign"),
        goals: &[More(arm(Bare, "foreign"), 3.0)],
    },
    Measure {
        name: "start",
        what: "starting a program with the library",
        unit: Operations,
        ours: arm(Mount, "start"),
        goals: &[More(arm(Bare, "start"), 300_000.0)],
    },
    Measure {
        name: "start-small-region",
        what: "the same in the smallest region that there can be",
        unit: Operations,
        ours: arm(SmallRegion, "start"),
        goals: &[More(arm(Bare, "start"), 300_000.0), Beside(arm(Mount, "start"))],
    },
];

impl Measure {
    /// All that is done for it: our work, and what it is held against.
    pub fn arms(&self) -> impl Iterator<Item = Arm> {
        std::iter::once(self.ours).chain(self.goals.iter().filter_map(Goal::peer))
    }
}

/// The same work by several processes at once.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// Short name.
    pub name: &'static str,
    /// In words.
    pub what: &'static str,
    /// The work.
    pub task: &'static str,
    /// How many times as much two processes should do as one; `None`: not less than on tmpfs.
    pub of_two: Option<f64>,
}

/// All of these questions.
pub const SCALINGS: &[Scaling] = &[
    Scaling {
        name: "many-write",
        what: "write() of 1 MiB, a file for each process",
        task: "write-over-1m",
        of_two: Some(1.8),
    },
    Scaling {
        name: "many-names",
        what: "creating and removing files, a directory for each process",
        task: "create-unlink",
        of_two: Some(1.5),
    },
    Scaling {
        name: "many-names-shared",
        what: "creating and removing files in one directory",
        task: "create-unlink-shared",
        of_two: None,
    },
];

/// The same operation among few files and among many.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Short name.
    pub name: &'static str,
    /// In words.
    pub what: &'static str,
    /// The work, among as many files as it is given operations.
    pub task: &'static str,
}

/// By how much the slowest may be slower than the fastest.
pub const FLAT: f64 = 1.5;

/// All of these questions.
pub const GROWTHS: &[Growth] = &[
    Growth { name: "among-create", what: "creating a file in process among so many", task: "inner-among-create" },
    Growth {
        name: "among-stat",
        what: "finding a file's attributes in process among so many",
        task: "inner-among-stat",
    },
    Growth { name: "among-unlink", what: "removing a file in process among so many", task: "inner-among-unlink" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_can_be_asked() {
        for (index, measure) in MEASURES.iter().enumerate() {
            assert!(MEASURES[..index].iter().all(|other| other.name != measure.name), "{}", measure.name);
            for arm in measure.arms() {
                assert!(crate::tasks::find(arm.task).is_some(), "{}", arm.task);
            }
        }
        for task in SCALINGS.iter().map(|scaling| scaling.task).chain(GROWTHS.iter().map(|growth| growth.task)) {
            assert!(crate::tasks::find(task).is_some(), "{task}");
        }
    }
}
