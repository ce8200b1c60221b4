//! Extended attributes through the kernel, which has checked permissions; it does not hide those of `trusted.` in lists.

use crate::service::{CHECKED_ROOT, Service};
use fuser::Request;
use lifeboat_fs::{Caller, InodeId, Result, UserSource, UserTarget};

/// Longest list or value that the kernel asks for.
const LONGEST: usize = 65536;

impl Service {
    /// Hands the value of an attribute, or its length when nothing fits, to `reply`.
    pub(crate) fn attribute(&self, number: u64, name: &[u8], size: u32) -> Result<Found> {
        let id = self.nodes.find(number)?;
        read(size, |target| self.files.get_attribute(&CHECKED_ROOT, id, name, target))
    }

    /// The same for the list of names.
    pub(crate) fn attributes(&self, request: &Request, number: u64, size: u32) -> Result<Found> {
        let id = self.nodes.find(number)?;
        let who = Caller { uid: request.uid(), ..CHECKED_ROOT };
        read(size, |target| self.files.list_attributes(&who, id, target))
    }

    pub(crate) fn set_attribute(&self, number: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let id = self.nodes.find(number)?;
        let value = UserSource::from_slice(value);
        self.with_patience(|| self.files.set_attribute(&CHECKED_ROOT, id, name, &value, flags))
    }

    pub(crate) fn remove_attribute(&self, number: u64, name: &[u8]) -> Result<()> {
        let id: InodeId = self.nodes.find(number)?;
        self.with_patience(|| self.files.remove_attribute(&CHECKED_ROOT, id, name))
    }
}

/// What the kernel is told of a value or list.
pub(crate) enum Found {
    Length(usize),
    Bytes(Vec<u8>),
}

fn read(size: u32, fill: impl FnOnce(&UserTarget<'_>) -> Result<usize>) -> Result<Found> {
    let mut bytes = vec![0; (size as usize).min(LONGEST)];
    let length = fill(&UserTarget::from_slice(&mut bytes))?;
    if size == 0 {
        return Ok(Found::Length(length));
    }
    bytes.truncate(length);
    Ok(Found::Bytes(bytes))
}
