//! The exported symbols, by what they are about.

mod asynchronous;
mod attributes;
mod copying;
mod credentials;
mod data;
mod descriptor;
mod directories;
mod execution;
mod fts;
mod handlers;
mod loading;
mod locks;
mod memory;
mod names;
mod opening;
mod process;
pub(crate) mod raw;
mod socket_names;
mod sockets;
mod space;
mod stat;
mod stdio;
mod temporary;
mod threads;
mod trees;
mod whereabouts;
mod xattr;

pub(crate) use data::write_one;
pub(crate) use descriptor::close_any_descriptor;
pub(crate) use stat::stat_open;

/// Whether a path lies in the mount, as far as its text says.
pub(crate) fn path_is_ours(directory: core::ffi::c_int, name: *const core::ffi::c_char) -> bool {
    let mut room = crate::user::Room::new();
    !crate::path::surely_foreign(directory, name)
        && !matches!(crate::path::locate(directory, name, &mut room), crate::path::Place::Foreign)
}
