//! x86-64: the routines in assembly, and which of them to call.
//!
//! They are in assembly so that every instruction that touches foreign memory lies at a known address and all registers
//! and the stack are as the fix-up expects them; `frame.s` has the rules.

mod checksum;
mod detect;
mod trap;

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering;

pub(crate) use checksum::checksum;
use checksum::copy_pages;
pub(crate) use detect::detected;
pub(crate) use trap::{fixup, handle};

use crate::{Fault, Level, MustFence, level, tuning};

global_asm!(
    include_str!("frame.s"),
    include_str!("plain.s"),
    include_str!("wide.s"),
    include_str!("checksum.s"),
    include_str!("close.s"),
    options(raw)
);

/// How every routine answers, in rax and rdx.
#[repr(C)]
struct Answer {
    failed: u64,
    /// The value asked for, or the address that could not be touched.
    value: u64,
}

impl Answer {
    #[inline]
    fn value(self) -> Result<u64, Fault> {
        if self.failed == 0 { Ok(self.value) } else { Err(Fault { address: self.value as usize }) }
    }

    #[inline]
    fn done(self) -> Result<(), Fault> {
        self.value().map(|_| ())
    }
}

unsafe extern "sysv64" {
    fn lifeboat_kernels_copy_plain(dst: *mut u8, src: *const u8, len: usize) -> Answer;
    fn lifeboat_kernels_copy_avx2(dst: *mut u8, src: *const u8, len: usize) -> Answer;
    fn lifeboat_kernels_stream_avx2(dst: *mut u8, src: *const u8, len: usize, step: isize) -> Answer;
    fn lifeboat_kernels_stream_avx512(dst: *mut u8, src: *const u8, len: usize, step: isize) -> Answer;
    fn lifeboat_kernels_stream_pages_avx2(dst: *mut u8, src: *const u8, groups: usize, step: isize) -> Answer;
    fn lifeboat_kernels_stream_pages_avx512(dst: *mut u8, src: *const u8, groups: usize, step: isize) -> Answer;
    fn lifeboat_kernels_zero_plain(dst: *mut u8, len: usize) -> Answer;
    fn lifeboat_kernels_zero_avx2(dst: *mut u8, len: usize) -> Answer;
    fn lifeboat_kernels_stream_zero_avx2(dst: *mut u8, len: usize) -> Answer;
    fn lifeboat_kernels_stream_zero_avx512(dst: *mut u8, len: usize) -> Answer;
    fn lifeboat_kernels_string_plain(dst: *mut u8, src: *const u8, max: usize) -> Answer;
    fn lifeboat_kernels_two_plain(src: *const u8) -> Answer;
}

/// Bytes in a cache line.
const LINE: usize = 64;

/// Bytes of the smallest page.
const PAGE: usize = 4096;

/// Bytes that one turn of the interleaved streams takes.
const GROUP: usize = 4 * PAGE;

/// Waits until all earlier stores of this thread, non-temporal ones included, can be seen by every processor.
pub(crate) fn store_fence() {
    // SAFETY: SFENCE belongs to every x86-64 and changes nothing; as it may touch memory, the compiler moves nothing across.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) };
}

/// # Safety
/// `dst` and `src` do not overlap, and `dst` is this process's to change where it can be touched.
#[inline]
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    match level() {
        // SAFETY: the caller's promise; a fault in the routine is answered by the fix-up.
        Level::Scalar => unsafe { lifeboat_kernels_copy_plain(dst, src, len) },
        // SAFETY: as above, and the level says that AVX2 is there.
        Level::Avx2 | Level::Avx512 => unsafe { lifeboat_kernels_copy_avx2(dst, src, len) },
    }
    .done()
}

/// How a long range is cut, in order: up to the first whole line, groups of four pages, single lines, what is left.
struct Cut {
    head: usize,
    interleaved: usize,
    lines: usize,
}

/// `None` where nothing of it is streamed.
fn cut(dst: *mut u8, len: usize, level: Level) -> Option<Cut> {
    let head = (dst as usize).wrapping_neg() % LINE;
    if level == Level::Scalar || len < head + LINE {
        return None;
    }
    let lines = (len - head) / LINE * LINE;
    let interleaved = if lines < tuning::INTERLEAVE_FROM.load(Ordering::Relaxed) { 0 } else { lines / GROUP * GROUP };
    Some(Cut { head, interleaved, lines: lines - interleaved })
}

/// # Safety
/// As [`copy`].
pub(crate) unsafe fn copy_streamed(dst: *mut u8, src: *const u8, len: usize) -> Result<MustFence, Fault> {
    let level = level();
    let Some(cut) = cut(dst, len, level) else {
        // SAFETY: the caller's promise.
        return unsafe { copy(dst, src, len) }.map(|()| MustFence::nothing());
    };
    // From here on a fault drops the token, which fences what was streamed before it.
    let token = MustFence::streamed();
    // SAFETY: `head` is not above `len`.
    unsafe { copy(dst, src, cut.head) }?;
    // SAFETY: the groups lie within `len`, and their destination is at the start of a line.
    unsafe { stream_pages(level, dst.wrapping_add(cut.head), src.wrapping_add(cut.head), cut.interleaved) }?;
    // SAFETY: what comes behind the groups, which ended at the end of a line.
    unsafe { copy_rest(dst, src, len, &cut, level) }?;
    Ok(token)
}

/// As [`copy_streamed`], continuing the unfinished remainder `state` over the bytes.
///
/// # Safety
/// As [`copy`].
pub(crate) unsafe fn copy_streamed_checksum(
    dst: *mut u8,
    src: *const u8,
    len: usize,
    state: u32,
) -> Result<(MustFence, u32), Fault> {
    let level = level();
    match cut(dst, len, level) {
        Some(cut) if cut.interleaved != 0 => {
            // From here on a fault drops the token, which fences what was streamed before it.
            let token = MustFence::streamed();
            // SAFETY: the parts of `len` in order; `head` leads to the start of a line.
            unsafe {
                copy(dst, src, cut.head)?;
                let mut state = checksum(state, src, cut.head)?;
                let (to, from) = (dst.wrapping_add(cut.head), src.wrapping_add(cut.head));
                // The stores are fewer here, as the checksum keeps their pace down.
                if !loads_meet_stores(to, from, 192) {
                    state = copy_pages(level, to, from, cut.interleaved / GROUP, state)?;
                } else {
                    for place in (0..cut.interleaved).step_by(GROUP) {
                        stream_pages(level, to.wrapping_add(place), from.wrapping_add(place), GROUP)?;
                        state = checksum(state, from.wrapping_add(place), GROUP)?;
                    }
                }
                copy_rest(dst, src, len, &cut, level)?;
                let done = cut.head + cut.interleaved;
                Ok((token, checksum(state, src.wrapping_add(done), len - done)?))
            }
        }
        _ => {
            // SAFETY: the caller's promise.
            let token = unsafe { copy_streamed(dst, src, len) }?;
            // SAFETY: as above.
            Ok((token, unsafe { checksum(state, src, len) }?))
        }
    }
}

/// Whether going on from one line to the next would be slow, so that it is better done backwards.
///
/// Processors compare addresses of loads with those of stores on their way by the lowest twelve bits first. Where a
/// source lies just before its destination in that sense, every load would wait for the non-temporal stores of the
/// lines before it (a seventh of the speed was measured); on the way back there is no such store near. `reach` is how
/// many bytes of stores may be on their way.
fn loads_meet_stores(dst: *mut u8, src: *const u8, reach: usize) -> bool {
    (src as usize).wrapping_sub(dst as usize) % PAGE > PAGE - reach
}

/// From one line to the next.
fn step(dst: *mut u8, src: *const u8) -> isize {
    if loads_meet_stores(dst, src, 512) { -(LINE as isize) } else { LINE as isize }
}

/// Copies whole lines past the caches, one after the other.
///
/// # Safety
/// As [`copy`]; `dst` is at the start of a line, `len` is whole lines, and the machine has `level`, not scalar.
unsafe fn stream(level: Level, dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    if len == 0 {
        return Ok(());
    }
    let step = step(dst, src);
    let first = if step > 0 { 0 } else { len - LINE };
    let (to, from) = (dst.wrapping_add(first), src.wrapping_add(first));
    // SAFETY: the caller's promise; a fault in the routine is answered by the fix-up.
    let answer = unsafe {
        match level {
            Level::Avx512 => lifeboat_kernels_stream_avx512(to, from, len, step),
            _ => lifeboat_kernels_stream_avx2(to, from, len, step),
        }
    };
    answer.done()
}

/// Copies whole groups of four pages past the caches, the pages of a group side by side.
///
/// # Safety
/// As [`stream`], and `len` is whole groups.
unsafe fn stream_pages(level: Level, dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    if len == 0 {
        return Ok(());
    }
    let step = step(dst, src);
    let first = if step > 0 { 0 } else { PAGE - LINE };
    let (to, from, groups) = (dst.wrapping_add(first), src.wrapping_add(first), len / GROUP);
    // SAFETY: as in `stream`.
    let answer = unsafe {
        match level {
            Level::Avx512 => lifeboat_kernels_stream_pages_avx512(to, from, groups, step),
            _ => lifeboat_kernels_stream_pages_avx2(to, from, groups, step),
        }
    };
    answer.done()
}

/// Copies what is left behind the interleaved part: lines past the caches, then less than a line the ordinary way.
///
/// # Safety
/// As [`copy`]; `cut` is that of `dst`, `len` and `level`.
unsafe fn copy_rest(dst: *mut u8, src: *const u8, len: usize, cut: &Cut, level: Level) -> Result<(), Fault> {
    let done = cut.head + cut.interleaved;
    let (to, from) = (dst.wrapping_add(done), src.wrapping_add(done));
    // SAFETY: the lines lie within `len`, and their destination is at the start of one.
    unsafe { stream(level, to, from, cut.lines) }?;
    // SAFETY: what is left of `len`.
    unsafe { copy(to.wrapping_add(cut.lines), from.wrapping_add(cut.lines), len - done - cut.lines) }
}

/// # Safety
/// `dst` is this process's to change where it can be touched.
pub(crate) unsafe fn zero(dst: *mut u8, len: usize) -> Result<(), Fault> {
    match level() {
        // SAFETY: the caller's promise; a fault in the routine is answered by the fix-up.
        Level::Scalar => unsafe { lifeboat_kernels_zero_plain(dst, len) },
        // SAFETY: as above, and the level says that AVX2 is there.
        Level::Avx2 | Level::Avx512 => unsafe { lifeboat_kernels_zero_avx2(dst, len) },
    }
    .done()
}

/// # Safety
/// As [`zero`].
pub(crate) unsafe fn zero_streamed(dst: *mut u8, len: usize) -> Result<MustFence, Fault> {
    let level = level();
    let Some(cut) = cut(dst, len, level) else {
        // SAFETY: the caller's promise.
        return unsafe { zero(dst, len) }.map(|()| MustFence::nothing());
    };
    // From here on a fault drops the token, which fences what was streamed before it.
    let token = MustFence::streamed();
    // SAFETY: `head` is not above `len`.
    unsafe { zero(dst, cut.head) }?;
    let dst = dst.wrapping_add(cut.head);
    let lines = cut.interleaved + cut.lines;
    // SAFETY: `dst` is at the start of a line, `lines` is at least one line and within `len`, and the level is there.
    let answer = unsafe {
        match level {
            Level::Avx512 => lifeboat_kernels_stream_zero_avx512(dst, lines),
            _ => lifeboat_kernels_stream_zero_avx2(dst, lines),
        }
    };
    answer.done()?;
    // SAFETY: what is left of `len`.
    unsafe { zero(dst.wrapping_add(lines), len - cut.head - lines) }?;
    Ok(token)
}

/// # Safety
/// As [`copy`], with `max` bytes of `dst`.
pub(crate) unsafe fn copy_string(dst: *mut u8, src: *const u8, max: usize) -> Result<Option<usize>, Fault> {
    // SAFETY: the caller's promise; a fault in the routine is answered by the fix-up.
    let length = unsafe { lifeboat_kernels_string_plain(dst, src, max) }.value()?;
    Ok(if length == u64::MAX { None } else { Some(length as usize) })
}

/// # Safety
/// `src` may be any address.
#[inline]
pub(crate) unsafe fn first_two(src: *const u8) -> Result<[u8; 2], Fault> {
    // SAFETY: a fault in the routine is answered by the fix-up.
    let both = unsafe { lifeboat_kernels_two_plain(src) }.value()?;
    Ok([both as u8, (both >> 8) as u8])
}

/// Has the processor fetch the bytes into its caches, while it does something else.
#[inline(always)]
pub(crate) fn prefetch(src: *const u8, len: usize) {
    for line in (0..len).step_by(LINE) {
        // SAFETY: a hint: any address will do, and nothing faults.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(src.wrapping_add(line).cast())
        };
    }
}
