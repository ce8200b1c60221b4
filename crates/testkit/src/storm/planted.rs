//! Wrong ways of doing things: what a storm must find, or it shows nothing. They live here and nowhere else.

use super::action::{Action, Deed};
use super::way::{InProcess, Way};
use super::writer::Wrong;
use crate::stepping::judge::FaultKind;
use crate::volume::{Answer, Volume};
use crate::workers::LOG;
use lifeboat_region::lane::Lane;
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space::Class;
use lifeboat_region::{Errno, MustFence};
use std::time::Duration;

type Writer<'f> = super::writer::Writer<InProcess<'f>>;

/// What each is called, what it does, and what must be found.
pub const PLANTED: &[(&str, Wrong, FaultKind)] = &[
    ("a chmod that returns and was never done", forget, FaultKind::Loss),
    ("a record that is written in two calls", tear, FaultKind::Loss),
    ("a rename in two steps", rename_in_two, FaultKind::Loss),
    ("a number counted up without a lock", count_unlocked, FaultKind::Loss),
    ("space that is taken and refers to nobody", leak, FaultKind::Leak),
    ("an action that waits", wait, FaultKind::Stall),
];

fn forget(_: &Writer<'_>, action: &Action) -> Option<Answer<()>> {
    (action.deed == Deed::Chmod && action.tag.is_multiple_of(8)).then_some(Ok(()))
}

fn tear(writer: &Writer<'_>, action: &Action) -> Option<Answer<()>> {
    if action.deed != Deed::Record {
        return None;
    }
    let volume = writer.volume();
    let data = writer.record(action);
    let torn = || {
        let file = volume.open(None, LOG, libc::O_WRONLY | libc::O_APPEND, 0)?;
        let (head, tail) = data.split_at(data.len() / 2);
        writer.write(file, head, None)?;
        writer.write(file, tail, None)?;
        volume.close(file)
    };
    Some(torn())
}

fn rename_in_two(writer: &Writer<'_>, action: &Action) -> Option<Answer<()>> {
    if action.deed != Deed::Rename {
        return None;
    }
    let (old, new) = (writer.name(action.path), writer.name(action.other));
    let volume = writer.volume();
    let is_file = volume.stat(None, &old, false).is_ok_and(|stat| stat.kind() == libc::S_IFREG);
    if !is_file || volume.stat(None, &new, false).is_ok() {
        return None;
    }
    let linked = volume.link(None, &old, &new, false);
    // So that a death finds it here sooner than after hundreds of kills.
    std::thread::sleep(Duration::from_micros(100));
    Some(linked.and_then(|()| volume.unlink(None, &old)))
}

fn count_unlocked(writer: &Writer<'_>, action: &Action) -> Option<Answer<()>> {
    (action.deed == Deed::Locked).then(|| writer.count_up_unlocked())
}

fn leak(writer: &Writer<'_>, action: &Action) -> Option<Answer<()>> {
    if action.deed == Deed::Stripe {
        let _ = take_and_forget(writer);
    }
    None
}

fn take_and_forget(writer: &Writer<'_>) -> Result<(), Errno> {
    let files = writer.way.file_system();
    let lane = Lane::claim(files.region())?;
    let unit = lane.allocate(Class::Block, None)?;
    let owner = Owner::decode(files.region().load(unit.owner_at)?).ok_or(Errno::UCLEAN)?;
    let number = files.root().number() as u32;
    files.region().commit(unit.owner_at, owner.linked(Kind::Data, number).encode(), MustFence::nothing())
}

fn wait(_: &Writer<'_>, action: &Action) -> Option<Answer<()>> {
    if action.deed == Deed::Mkdir {
        std::thread::sleep(Duration::from_millis(1100));
    }
    None
}
