//! The creation of a region, killed at every system call: between two calls nothing changes that others could see, for
//! the memory counts only once it is published.

use super::judge::{Fault, FaultKind, nothing_is_left};
use super::trace::{Event, Marks, Tracee};
use super::{Outcome, WAIT, label};
use crate::scratch::{ScratchDirectory, attach, check, is_root, this_user};
use lifeboat_fs::FileSystem;
use lifeboat_region::carrier;
use lifeboat_region::place::{Base, Place, RegionName, RemoveMode, Standing};
use lifeboat_region::{FormatOptions, Region};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

const SIZE: u64 = 8 << 20;

/// What the command does, too: claim the name, reserve the memory, format it, publish it.
fn create(place: &Place, name: &RegionName, carrier: &str) -> Result<(), String> {
    let directory = place.create_region(name).map_err(|error| error.to_string())?;
    let carrier = carrier::by_name(carrier.as_bytes()).expect("a carrier of this name");
    let created = carrier.create(&directory, SIZE, &mut |_, _| {}).map_err(|error| error.to_string())?;
    directory.make_images().map_err(|error| error.to_string())?;
    directory.make_tags().map_err(|error| error.to_string())?;
    let options = FormatOptions { name: name.as_bytes(), uid: this_user().uid, identity: 77, memory_nodes: 1 };
    let memory = rustix::fd::AsFd::as_fd(&created.file);
    lifeboat_region::format(memory, &options).map_err(|error| error.to_string())?;
    let own = directory.directory().try_clone_to_owned().map_err(|error| error.to_string())?;
    let region = Region::attach_file(own, created.file).map_err(|error| error.to_string())?;
    FileSystem::format(&region).map_err(|error| error.to_string())?;
    directory.publish().map_err(|error| error.to_string())
}

/// Whether the name is free or leads to a whole region, and can be used again.
fn hold(place: &Place, name: &RegionName, carrier: &str, returned: bool) -> Result<(), Fault> {
    let failed = |text: String| Fault::new(FaultKind::Damage, text);
    let standing = place.standing(name).map_err(|error| failed(error.to_string()))?;
    match standing {
        Standing::Ready => {
            let path = place.region_path(name);
            let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())).to_path_buf();
            let files = attach(&path).map_err(failed)?;
            files.sweep().map_err(|error| failed(format!("recovering: {error}")))?;
            nothing_is_left(&files)?;
            let checked = check(&files);
            if !checked.is_clean() {
                return Err(failed(checked.to_string()));
            }
        }
        Standing::HalfMade | Standing::Absent if !returned => {}
        _ if returned => return Err(Fault::new(FaultKind::Loss, "it had returned, and yet there is no region")),
        other => return Err(failed(format!("what is left is {other:?}"))),
    }
    if standing != Standing::Absent {
        place.remove(name, RemoveMode::KeepUsed, &mut |_| false).map_err(|error| failed(error.to_string()))?;
        create(place, name, carrier).map_err(failed)?;
        place.remove(name, RemoveMode::KeepUsed, &mut |_| false).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

/// Kills creators of a region before and after every system call, or at every `step`th of these stops, on each carrier
/// that this user can have without a keeper.
pub fn creations(marks: &'static Marks, step: u64, outcome: &mut Outcome) -> Result<(), String> {
    for carrier in if is_root() { &["shm", "tmpfs"][..] } else { &["shm"] } {
        let mut calls = 0;
        while kill_creator(marks, carrier, calls, outcome)? {
            calls += step;
        }
    }
    Ok(())
}

/// Kills one after so many stops at system calls; false when it had returned.
fn kill_creator(marks: &'static Marks, carrier: &str, calls: u64, outcome: &mut Outcome) -> Result<bool, String> {
    let scratch = ScratchDirectory::on_tmpfs(&label("creation"));
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o700)).map_err(|e| e.to_string())?;
    let base = scratch.path().join("regions");
    let place = Place::open_or_create(Base::At(base.as_os_str().as_bytes())).map_err(|error| error.to_string())?;
    let name = RegionName::new(b"created").expect("a good name");
    let tracee = Tracee::start(marks, || {
        marks.begin();
        let made = create(&place, &name, carrier);
        marks.end(u64::from(made.is_err()));
    })?;
    let mut returned = false;
    for _ in 0..calls {
        if tracee.next_call(WAIT)? == Event::Done {
            returned = true;
            break;
        }
    }
    if returned && marks.outcome() != 0 {
        return Err(format!("a region on carrier {carrier} cannot be made"));
    }
    tracee.kill();
    outcome.kills += 1;
    outcome.states += 1;
    if let Err(fault) = hold(&place, &name, carrier, returned) {
        let text = format!("creation on {carrier}, killed at stop {calls}: {}", fault.text);
        outcome.faults.push(Fault { text, ..fault });
        let _ = place.remove(&name, RemoveMode::Force, &mut |_| false);
    } else if place.standing(&name).is_ok_and(|standing| standing != Standing::Absent) {
        let _ = place.remove(&name, RemoveMode::Force, &mut |_| false);
    }
    Ok(!returned)
}
