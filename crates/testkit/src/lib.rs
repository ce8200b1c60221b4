//! Harness pieces for the tests that hold Lifeboat against a kernel file system, kill its users and damage its bytes.
//!
//! | module | what it gives |
//! |---|---|
//! | [`volume`] | one set of file-system calls with two implementations: the kernel's and the region's |
//! | [`model`] | random operations, their comparison on two volumes, and the shrinking of what differs |
//! | [`child`] | the test binary run again as another process, with a deadline |
//! | [`residue`] | the proof that a test left nothing behind |
//! | [`scratch`] | directories and regions that go away with the test |
//! | [`command`] | the `lifeboat` command as users run it |
//! | [`fuse_mount`] | a region mounted for the kernel |
//! | [`hostile`] | regions full of hostile bytes |
//! | [`stepping`] | every operation stopped at every instruction |
//! | [`storm`] | writers killed at random moments, and their log held against the region |
//! | [`workers`] | processes that use one directory at once, and the check of what they leave |
//! | [`processors`] | which processors there are, and binding a thread to one |
//! | [`observed`] | the system calls of a program, and what each of them names |
//! | [`programs`] | test programs compiled on the spot |
//! | [`python`] | Python's own tests, and how they end |
//! | [`cgroup`] | small memory limits |
//! | [`huge_pages`] | huge pages set aside for the time of a test |
//! | [`random`] | numbers that a seed repeats |
//! | [`report`] | lines that are shown even when a test passes |

pub mod cgroup;
pub mod child;
pub mod command;
pub mod fuse_mount;
pub mod hostile;
pub mod huge_pages;
pub mod model;
#[cfg(target_arch = "x86_64")]
pub mod observed;
pub mod processors;
pub mod programs;
pub mod python;
pub mod random;
pub mod report;
pub mod residue;
pub mod scratch;
#[cfg(target_arch = "x86_64")]
pub mod stepping;
#[cfg(target_arch = "x86_64")]
pub mod storm;
pub mod volume;
pub mod workers;
