//! The exported symbols, by what they are about.

mod asynchronous;
mod attributes;
mod copying;
mod credentials;
mod data;
mod descriptor;
mod directories;
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
mod whereabouts;
mod xattr;

pub(crate) use stat::stat_open;
