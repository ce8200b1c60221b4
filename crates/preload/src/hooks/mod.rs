//! The exported symbols, by what they are about.

mod asynchronous;
mod attributes;
mod copying;
mod credentials;
mod data;
mod descriptor;
mod directories;
mod execution;
mod handlers;
mod locks;
mod memory;
mod names;
mod opening;
mod process;
mod space;
mod stat;
mod stdio;
mod temporary;
mod trees;
mod whereabouts;
mod xattr;

pub(crate) use data::write_one;
pub(crate) use descriptor::close_any_descriptor;
pub(crate) use stat::stat_open;
