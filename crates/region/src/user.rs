//! Memory of the program on whose behalf a call is made. It may vanish, be read-only or be a truncated mapping: it is
//! touched only inside the copy routines of `kernels`, whose faults become `EFAULT`.

use core::marker::PhantomData;

/// The smallest unit in which memory is there or not.
const PAGE: usize = 4096;

/// Bytes to take from. Same layout as `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UserSource<'a> {
    pointer: *const u8,
    length: usize,
    lifetime: PhantomData<&'a [u8]>,
}

/// Bytes to fill. Same layout as `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UserTarget<'a> {
    pointer: *mut u8,
    length: usize,
    lifetime: PhantomData<&'a mut [u8]>,
}

impl<'a> UserSource<'a> {
    /// Bytes of this process.
    pub const fn from_slice(bytes: &'a [u8]) -> Self {
        Self { pointer: bytes.as_ptr(), length: bytes.len(), lifetime: PhantomData }
    }

    /// Bytes that a foreign caller named.
    ///
    /// # Safety
    /// Nobody in this process may hold a `&mut` reference to the bytes. The range need not be readable: a fault inside
    /// the copy routines becomes `EFAULT` once their handler is installed.
    pub const unsafe fn new(pointer: *const u8, length: usize) -> Self {
        Self { pointer, length, lifetime: PhantomData }
    }

    /// Bytes in this piece.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing to take.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many bytes from the front can be read, looking at one byte of each page.
    pub fn readable(&self) -> usize {
        let mut at = 0;
        while at < self.length && self.read(at, &mut [0]).is_ok() {
            at += PAGE - (self.pointer as usize).wrapping_add(at) % PAGE;
        }
        at.min(self.length)
    }

    /// Copies bytes after the first `skip` into private memory. `FAULT` when they cannot be read.
    pub fn read(&self, skip: usize, into: &mut [u8]) -> crate::Result<()> {
        let from = self.at(skip, into.len()).ok_or(crate::Errno::INVAL)?;
        // SAFETY: `into` is ours; `from` is the caller's memory, whose faults are reported.
        unsafe { lifeboat_kernels::copy_out(into.as_mut_ptr(), from, into.len()) }.map_err(|_| crate::Errno::FAULT)
    }

    #[inline]
    pub(crate) fn at(&self, skip: usize, length: usize) -> Option<*const u8> {
        (skip.checked_add(length)? <= self.length).then(|| self.pointer.wrapping_add(skip))
    }
}

impl<'a> UserTarget<'a> {
    /// Bytes of this process.
    pub const fn from_slice(bytes: &'a mut [u8]) -> Self {
        Self { pointer: bytes.as_mut_ptr(), length: bytes.len(), lifetime: PhantomData }
    }

    /// Bytes that a foreign caller named.
    ///
    /// # Safety
    /// Nobody in this process may hold a reference to the bytes. The range need not be writable: a fault inside the
    /// copy routines becomes `EFAULT` once their handler is installed.
    pub const unsafe fn new(pointer: *mut u8, length: usize) -> Self {
        Self { pointer, length, lifetime: PhantomData }
    }

    /// Bytes in this piece.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Where it is in this process.
    pub fn address(&self) -> usize {
        self.pointer as usize
    }

    /// Copies private bytes behind the first `skip`. `FAULT` when they cannot be written.
    pub fn write(&self, skip: usize, from: &[u8]) -> crate::Result<()> {
        let to = self.at(skip, from.len()).ok_or(crate::Errno::INVAL)?;
        // SAFETY: `from` is ours; `to` is the caller's memory, whose faults are reported.
        unsafe { lifeboat_kernels::copy_out(to, from.as_ptr(), from.len()) }.map_err(|_| crate::Errno::FAULT)
    }

    /// Whether there is nothing to fill.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn at(&self, skip: usize, length: usize) -> Option<*mut u8> {
        (skip.checked_add(length)? <= self.length).then(|| self.pointer.wrapping_add(skip))
    }
}
