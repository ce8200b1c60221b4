//! Memory that cannot be touched is an error of the call, at every level and place, and never the end of the process.
#![cfg(target_arch = "x86_64")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{BEHIND_EDGE, CHAINED, Mapping, PAGE, at_every_level, install_handler, pattern};
use lifeboat_kernels::{
    Fault, checksum, copy_in, copy_in_checksum, copy_out, copy_out_streamed, copy_string, fault, first_two, level,
    tuning, zero,
};

/// Lengths on both sides of every change of method.
const LENGTHS: [usize; 30] = [
    1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 511, 1024, 3071, 4095, 4096, 4160, 16384,
    16447, 32768, 40_000, 65_600,
];

const PAGES: usize = 20;
const _: () = assert!(LENGTHS[LENGTHS.len() - 1] <= BEHIND_EDGE * PAGE);

/// Copies and gives up the token: what was or was not written is not looked at by others.
fn copy_in_only(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the tests pass mappings and buffers of their own, apart from each other, and have a handler.
    unsafe { copy_in(dst, src, len) }.map(|token| token.fence())
}

fn copy_in_checksum_only(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: as above.
    unsafe { copy_in_checksum(dst, src, len, 0) }.map(|(token, _)| token.fence())
}

fn copy_out_only(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: as above.
    unsafe { copy_out(dst, src, len) }
}

fn copy_out_streamed_only(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: as above.
    unsafe { copy_out_streamed(dst, src, len) }
}

fn checksum_only(_dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: as above.
    unsafe { checksum(0, src, len) }.map(|_| ())
}

fn zero_only(dst: *mut u8, _src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: as above.
    unsafe { zero(dst, len) }.map(|token| token.fence())
}

type Operation = fn(*mut u8, *const u8, usize) -> Result<(), Fault>;

const READERS: [(&str, Operation); 5] = [
    ("copy_in", copy_in_only),
    ("copy_in_checksum", copy_in_checksum_only),
    ("copy_out", copy_out_only),
    ("copy_out_streamed", copy_out_streamed_only),
    ("checksum", checksum_only),
];
const WRITERS: [(&str, Operation); 5] = [
    ("copy_in", copy_in_only),
    ("copy_in_checksum", copy_in_checksum_only),
    ("copy_out", copy_out_only),
    ("copy_out_streamed", copy_out_streamed_only),
    ("zero", zero_only),
];

/// How many bytes of a range of `len` lie behind the edge.
fn overruns(len: usize) -> impl Iterator<Item = usize> {
    [1, 2, 8, 31, 64, 100, len / 2, len - 1, len].into_iter().filter(move |&over| over >= 1 && over <= len)
}

/// The fault must name a byte that was asked for and cannot be touched.
fn assert_fault(answer: Result<(), Fault>, bad: std::ops::Range<usize>, what: &str) {
    match answer {
        Err(fault) => assert!(bad.contains(&fault.address), "{what}: address {:#x} not in {bad:x?}", fault.address),
        Ok(()) => panic!("{what}: no fault"),
    }
}

#[test]
fn a_source_that_ends_too_early_is_an_error_and_nothing_before_the_edge_is_refused() {
    install_handler();
    let source = Mapping::with_edge(PAGES);
    let edge = source.at(PAGES * PAGE) as usize;
    at_every_level(|level| {
        let mut destination = vec![0u8; PAGES * PAGE];
        for (name, operation) in READERS {
            for len in LENGTHS {
                for shift in [0, 1, 63] {
                    let to = destination[shift..].as_mut_ptr();
                    let what = format!("{name}, {level:?}, length {len}, to {shift}");
                    let fitting = source.at(PAGES * PAGE - len);
                    assert_eq!(operation(to, fitting, len), Ok(()), "{what}, all there");
                    for over in overruns(len) {
                        let from = source.at(PAGES * PAGE - len + over);
                        assert_fault(operation(to, from, len), edge..edge + over, &format!("{what}, {over} missing"));
                    }
                }
            }
        }
    });
}

#[test]
fn a_destination_that_ends_too_early_is_an_error_and_nothing_before_the_edge_is_refused() {
    install_handler();
    let destination = Mapping::with_edge(PAGES);
    let edge = destination.at(PAGES * PAGE) as usize;
    let source = pattern(PAGES * PAGE);
    at_every_level(|level| {
        for (name, operation) in WRITERS {
            for len in LENGTHS {
                for shift in [0, 1, 63] {
                    let from = source[shift..].as_ptr();
                    let what = format!("{name}, {level:?}, length {len}, from {shift}");
                    assert_eq!(operation(destination.at(PAGES * PAGE - len), from, len), Ok(()), "{what}, all there");
                    for over in overruns(len) {
                        let to = destination.at(PAGES * PAGE - len + over);
                        assert_fault(operation(to, from, len), edge..edge + over, &format!("{what}, {over} missing"));
                    }
                }
            }
        }
    });
}

#[test]
fn a_destination_that_may_not_be_written_is_an_error_and_stays_as_it_is() {
    install_handler();
    let destination = Mapping::private(PAGES);
    // SAFETY: the whole of a mapping of our own.
    unsafe { destination.at(0).write_bytes(0x77, PAGES * PAGE) };
    destination.make_read_only();
    let source = pattern(PAGES * PAGE);
    at_every_level(|level| {
        for (name, operation) in WRITERS {
            for len in LENGTHS {
                for to in [0, 1, 40] {
                    let start = destination.at(to) as usize;
                    let what = format!("{name}, {level:?}, length {len}, to {to}");
                    assert_fault(operation(destination.at(to), source.as_ptr(), len), start..start + len, &what);
                }
            }
        }
    });
    // SAFETY: still mapped, and readable.
    let bytes = unsafe { std::slice::from_raw_parts(destination.at(0), PAGES * PAGE) };
    assert!(bytes.iter().all(|&byte| byte == 0x77));
}

#[test]
fn a_file_that_became_shorter_under_its_mapping_is_an_error() {
    install_handler();
    let kept = PAGES - 1;
    let mapping = Mapping::of_truncated_file(PAGES + 30, kept);
    let edge = mapping.at(kept * PAGE) as usize;
    let source = pattern(PAGES * PAGE);
    at_every_level(|level| {
        let mut destination = vec![0u8; PAGES * PAGE];
        for len in LENGTHS {
            for over in overruns(len) {
                let place = mapping.at(kept * PAGE - len + over);
                for (name, operation) in READERS {
                    let what = format!("{name} from it, {level:?}, length {len}, {over} missing");
                    assert_fault(operation(destination.as_mut_ptr(), place, len), edge..edge + over, &what);
                }
                for (name, operation) in WRITERS {
                    let what = format!("{name} into it, {level:?}, length {len}, {over} missing");
                    assert_fault(operation(place, source.as_ptr(), len), edge..edge + over, &what);
                }
            }
        }
    });
}

#[test]
fn an_address_that_is_none_is_an_error() {
    install_handler();
    // The zero page, an address without meaning to the processor, one of the kernel, the very last.
    for address in [0, 0x8000_0000_0000_0000, 0xffff_8000_0000_0000, usize::MAX] {
        let (to, from) = (address as *mut u8, address as *const u8);
        at_every_level(|level| {
            let mut memory = vec![0u8; PAGES * PAGE];
            for len in LENGTHS {
                for (name, operation) in READERS {
                    assert!(operation(memory.as_mut_ptr(), from, len).is_err(), "{name}, {level:?}, from {address:#x}");
                }
                for (name, operation) in WRITERS {
                    assert!(operation(to, memory.as_ptr(), len).is_err(), "{name}, {level:?}, to {address:#x}");
                }
            }
            // SAFETY: `memory` has 100 bytes; the other side is what is tested.
            unsafe {
                assert!(copy_string(memory.as_mut_ptr(), from, 100).is_err());
                assert!(copy_string(to, c"name".as_ptr().cast(), 100).is_err());
            }
        });
    }
}

#[test]
fn nothing_is_touched_when_the_length_is_zero() {
    install_handler();
    at_every_level(|_| {
        for (_, operation) in READERS.into_iter().chain(WRITERS) {
            assert_eq!(operation(std::ptr::null_mut(), std::ptr::null(), 0), Ok(()));
        }
    });
}

#[test]
fn a_string_is_read_to_its_end_and_not_one_byte_further() {
    install_handler();
    let memory = Mapping::with_edge(2);
    let edge = 2 * PAGE;
    at_every_level(|level| {
        let mut copy = vec![0u8; 400];
        for len in 0..300 {
            // The NUL is the last byte that can be read.
            let start = memory.at(edge - len - 1);
            // SAFETY: within the mapping; `copy` has room for `max` and a guard.
            unsafe {
                start.write_bytes(b'a' + (len % 26) as u8, len);
                start.add(len).write(0);
                for max in [len, len + 1, len + 15, len + 16, len + 64] {
                    copy.fill(0xa5);
                    assert_eq!(copy_string(copy.as_mut_ptr(), start, max), Ok(Some(len)), "{level:?}, {len} of {max}");
                    assert!(copy[..len].iter().all(|&byte| byte == b'a' + (len % 26) as u8));
                    assert!(copy[max..].iter().all(|&byte| byte == 0xa5), "{level:?}: wrote behind {max}");
                }
                for max in [len.wrapping_sub(1), len / 2, 0].into_iter().filter(|&max| max < len) {
                    copy.fill(0xa5);
                    assert_eq!(copy_string(copy.as_mut_ptr(), start, max), Ok(None), "{level:?}, {len} of {max}");
                    assert!(copy[max..].iter().all(|&byte| byte == 0xa5), "{level:?}: wrote behind {max}");
                }
                // Without its NUL it runs over the edge.
                start.add(len).write(b'x');
                let fault = copy_string(copy.as_mut_ptr(), start, 399).expect_err("no NUL before the edge");
                assert_eq!(fault.address, memory.at(edge) as usize);
            }
        }
    });
}

#[test]
fn of_a_string_no_byte_behind_its_end_is_looked_at() {
    install_handler();
    let memory = Mapping::with_edge(2);
    let edge = 2 * PAGE;
    // SAFETY: within the mapping; what lies at its edge is answered by the handler.
    unsafe {
        memory.at(edge - 3).copy_from_nonoverlapping(c"ab".as_ptr().cast(), 3);
        for (start, expected) in [(3, [b'a', b'b']), (2, [b'b', 0]), (1, [0, 0])] {
            assert_eq!(first_two(memory.at(edge - start)), Ok(expected));
        }
        assert_eq!(first_two(memory.at(edge)), Err(Fault { address: memory.at(edge) as usize }));
        memory.at(edge - 1).write(b'c');
        assert_eq!(first_two(memory.at(edge - 1)), Err(Fault { address: memory.at(edge) as usize }));
    }
}

#[test]
fn a_string_that_crosses_a_page_is_whole() {
    let memory = Mapping::private(2);
    let text = pattern(200).iter().map(|byte| byte | 1).collect::<Vec<u8>>();
    for before in 0..=200 {
        let start = memory.at(PAGE - before);
        let mut copy = [0u8; 256];
        // SAFETY: within the mapping of two pages, and `copy` has 256 bytes.
        unsafe {
            start.copy_from_nonoverlapping(text.as_ptr(), text.len());
            start.add(text.len()).write(0);
            assert_eq!(copy_string(copy.as_mut_ptr(), start, 256), Ok(Some(200)));
        }
        assert_eq!(copy[..200], text[..]);
    }
}

#[test]
fn many_threads_may_fault_at_the_same_time() {
    install_handler();
    let source = Mapping::with_edge(PAGES);
    let edge = source.at(PAGES * PAGE) as usize;
    at_every_level(|_| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let source = &source;
                scope.spawn(move || {
                    let mut destination = vec![0u8; PAGES * PAGE];
                    for round in 0..2000 {
                        let len = LENGTHS[(round + thread) % LENGTHS.len()];
                        let over = 1 + round % len;
                        let from = source.at(PAGES * PAGE - len + over);
                        let answer = copy_in_checksum_only(destination.as_mut_ptr(), from, len);
                        assert_fault(answer, edge..edge + over, "in a thread");
                    }
                });
            }
        });
    });
}

/// What a child process of this test ended with.
fn status_of_child(child: impl FnOnce()) -> i32 {
    // SAFETY: the child runs code that allocates nothing and takes no lock, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        child();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: a child of our own.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

#[test]
fn a_fault_of_somebody_else_goes_to_the_handler_before_ours() {
    install_handler();
    static BEFORE_OURS: AtomicUsize = AtomicUsize::new(0);
    // Rust's own handler of stack overflows, or the default, ends the child by the signal.
    let status = status_of_child(|| {
        BEFORE_OURS.store(CHAINED.load(Ordering::Relaxed), Ordering::Relaxed);
        // SAFETY: meant to fault, in a process made for it.
        unsafe { std::ptr::with_exposed_provenance::<u8>(8).read_volatile() };
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "status {status:#x}");
    // And a signal that was sent, not caused: to ours, to Rust's, to the default.
    let status = status_of_child(|| {
        for _ in 0..3 {
            // SAFETY: to the child itself.
            unsafe { libc::raise(libc::SIGSEGV) };
        }
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "status {status:#x}");
}

/// A handler that sets the instruction pointer alone, as one in another language may.
extern "C" fn by_fixup_alone(_signal: i32, _info: *mut libc::siginfo_t, context: *mut std::ffi::c_void) {
    // SAFETY: what the kernel passed; the handler owns it.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let instruction = &mut registers[libc::REG_RIP as usize];
    match fault::fixup(*instruction as usize) {
        Some(next) => *instruction = next as i64,
        // SAFETY: ends the process.
        None => unsafe { libc::_exit(3) },
    }
}

#[test]
fn a_handler_may_use_the_address_of_the_fixup_alone() {
    assert_eq!(fault::fixup(0), None);
    assert_eq!(fault::fixup(by_fixup_alone as *const () as usize), None);
    let _turn = common::Turn::take();
    for limit in lifeboat_kernels::Level::ALL {
        tuning::limit_level(Some(limit));
        println!("at {:?}", level());
        let mut destination = [0u8; 5000];
        let status = status_of_child(|| {
            // SAFETY: all zeros is a valid sigaction; a process of its own.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = by_fixup_alone as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
            }
            for len in [1, 100, 5000] {
                for (_, operation) in READERS {
                    if operation(destination.as_mut_ptr(), 64 as *const u8, len) != Err(Fault { address: 0 }) {
                        // SAFETY: ends the child.
                        unsafe { libc::_exit(4) };
                    }
                }
            }
        });
        assert_eq!(status, 0, "the child says {}", libc::WEXITSTATUS(status));
    }
}
