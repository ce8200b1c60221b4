//! Wrong operations: what the harness must catch, or it shows nothing. They live here and nowhere else.
//!
//! A missing fence is not among them: stepping empties the write-combining buffers. For that there is the litmus test on
//! two processors (`crates/kernels/tests/litmus_publication.rs`), with a planted writer of its own.

use super::judge::FaultKind;
use super::operations::{Act, Operation, Ready, Scene, nothing, opened};
use super::picture::Rule;
use crate::volume::{Answer, Volume};
use lifeboat_region::lane::Lane;
use lifeboat_region::layout::CELL;
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space::Class;
use lifeboat_region::{Errno, MustFence};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Byte of an inode where its size word is.
const SIZE: u64 = 16;
/// Byte of an inode that is reserved: here a lock of which nobody knows.
const RESERVED: u64 = 144;
/// How long a process waits for that lock before it takes it: longer than a survivor may.
const OBSTINACY: Duration = Duration::from_millis(1500);

/// How a planted bug is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By copies of the region.
    Snapshots,
    /// By real kills beside a survivor.
    Kills,
}

/// Wrong operations, how each is found, and what it must be called.
pub const PLANTED: &[(Operation, Method, FaultKind)] = &[
    (
        Operation {
            name: "planted: the size is published before the bytes",
            rule: Rule::AnyMixture,
            ready: |scene| opened(scene, "tail", libc::O_WRONLY, 96),
            act: Act::Calls(publish_before_write),
        },
        Method::Snapshots,
        FaultKind::Loss,
    ),
    (
        Operation {
            name: "planted: a rename in two steps",
            rule: Rule::AllOrNothing,
            ready: nothing,
            act: Act::Calls(|scene, _| {
                let (old, new) = (scene.name("d/old"), scene.name("e/moved"));
                scene.volume.link(None, old.as_bytes(), new.as_bytes(), false)?;
                scene.volume.unlink(None, old.as_bytes())
            }),
        },
        Method::Snapshots,
        FaultKind::Loss,
    ),
    (
        Operation {
            name: "planted: space is linked before it has a place",
            rule: Rule::AllOrNothing,
            ready: nothing,
            act: Act::Calls(|scene, _| take_and_forget(scene).map_err(|error| error.raw_os_error())),
        },
        Method::Snapshots,
        FaultKind::Leak,
    ),
    (
        Operation {
            name: "planted: a lock that is not recovered",
            rule: Rule::AnyMixture,
            ready: |scene| opened(scene, "data", libc::O_WRONLY, 50),
            act: Act::Calls(write_under_a_spin_lock),
        },
        Method::Kills,
        FaultKind::Stall,
    ),
];

fn publish_before_write(scene: &Scene<'_>, ready: &mut Ready) -> Answer<()> {
    let at = scene.find("tail")?.number() * CELL + SIZE;
    let region = scene.files().region();
    let grow = |size: u64| -> Result<u64, Errno> {
        region.commit(at, region.load(at)? + size, MustFence::nothing())?;
        region.load(at)
    };
    let end = grow(ready.data.len() as u64).map_err(|error| error.raw_os_error())? & ((1 << 48) - 1);
    let start = end - ready.data.len() as u64;
    scene.volume.write(ready.file()?, &ready.data, Some(start)).map(drop)
}

fn take_and_forget(scene: &Scene<'_>) -> Result<(), Errno> {
    let region = scene.files().region();
    let lane = Lane::claim(region)?;
    let unit = lane.allocate(Class::Block, None)?;
    let owner = Owner::decode(region.load(unit.owner_at)?).ok_or(Errno::UCLEAN)?;
    let number = scene.files().root().number() as u32;
    region.commit(unit.owner_at, owner.linked(Kind::Data, number).encode(), MustFence::nothing())?;
    // Only now would it get its place; here it is given back, so that the complete operation leaves nothing.
    region.commit(unit.owner_at, owner.encode(), MustFence::nothing())?;
    lane.release(unit)
}

fn write_under_a_spin_lock(scene: &Scene<'_>, ready: &mut Ready) -> Answer<()> {
    let at = scene.find("data")?.number() * CELL + RESERVED;
    let word = scene.files().region().word(at).map_err(|error| error.raw_os_error())?;
    let start = Instant::now();
    while word.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_err() && start.elapsed() < OBSTINACY {
        std::thread::yield_now();
    }
    let written = scene.volume.write(ready.file()?, &ready.data, Some(scene.actor.pick(0, 100)));
    word.store(0, Ordering::SeqCst);
    written.map(drop)
}
