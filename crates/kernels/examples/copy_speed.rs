//! How fast data goes into a region on this machine: `cargo run --release -p lifeboat-kernels --example copy_speed`.
//!
//! Gigabytes (10^9 bytes) per second of CPU time of the thread; median of several passes over a source of 256 MiB that
//! no cache holds, all ways in turn within each pass. Options, in this order: MiB of the source (256), KiB per call (1024),
//! at which byte of a page the source starts (0).

use std::hint::black_box;

use lifeboat_kernels::{Level, checksum, copy_in, copy_in_checksum, copy_out, level, tuning, zero};

const PASSES: usize = 9;

/// One way: its name and what it does to a piece of the destination from a piece of the source.
struct Way {
    name: &'static str,
    level: Level,
    run: fn(*mut u8, *const u8, usize),
}

fn standard(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: pieces of two buffers of the same length.
    unsafe { std::ptr::copy_nonoverlapping(src, dst, len) };
}

fn into(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe { copy_in(dst, src, len) }.expect("our own memory").fence();
}

fn into_checksum(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as above.
    let (token, crc) = unsafe { copy_in_checksum(dst, src, len, 0) }.expect("our own memory");
    token.fence();
    black_box(crc);
}

fn out(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe { copy_out(dst, src, len) }.expect("our own memory");
}

fn zeros(dst: *mut u8, _: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe { zero(dst, len) }.expect("our own memory").fence();
}

fn checksum_only(_: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as above.
    black_box(unsafe { checksum(0, src, len) }.expect("our own memory"));
}

fn ways() -> Vec<Way> {
    let mut ways = vec![Way { name: "copy_nonoverlapping", level: level(), run: standard }];
    for level in Level::ALL.into_iter().rev().filter(|&wanted| wanted <= level()) {
        for (name, run) in [
            ("copy_in", into as fn(*mut u8, *const u8, usize)),
            ("copy_in_checksum", into_checksum),
            ("copy_out", out),
            ("zero", zeros),
            ("checksum", checksum_only),
        ] {
            ways.push(Way { name, level, run });
        }
    }
    ways
}

/// CPU time of this thread in seconds.
fn thread_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a structure of our own.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Memory on huge pages where there are such, all of it touched.
fn memory(length: usize) -> &'static mut [u8] {
    // SAFETY: a new private mapping that lives as long as the program.
    unsafe {
        let start = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        libc::madvise(start, length, libc::MADV_HUGEPAGE);
        std::slice::from_raw_parts_mut(start.cast(), length)
    }
}

fn main() {
    let mut options = std::env::args().skip(1).map(|word| word.parse::<usize>().expect("a number"));
    let length = options.next().unwrap_or(256) << 20;
    let call = (options.next().unwrap_or(1024) << 10).clamp(1, length);
    let offset = options.next().unwrap_or(0) % 4096;
    let (source, destination) = (&mut memory(length + 4096)[offset..][..length], memory(length));
    source.iter_mut().enumerate().for_each(|(place, byte)| *byte = (place * 7 + place / 4096) as u8);
    destination.fill(1);

    let ways = ways();
    let mut times = vec![Vec::with_capacity(PASSES); ways.len()];
    // The first pass warms up and is not counted.
    for pass in 0..=PASSES {
        for (way, times) in ways.iter().zip(&mut times) {
            tuning::limit_level(Some(way.level));
            let start = thread_time();
            for (to, from) in destination.chunks_exact_mut(call).zip(source.chunks_exact(call)) {
                (way.run)(to.as_mut_ptr(), from.as_ptr(), call);
            }
            if pass > 0 {
                times.push(thread_time() - start);
            }
        }
    }

    println!(
        "source {} MiB, calls of {} KiB, offset {offset}, median of {PASSES} [worst..best], GB/s of CPU time",
        length >> 20,
        call >> 10
    );
    for (way, times) in ways.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let speed = |place: usize| (length / call * call) as f64 / times[place] / 1e9;
        let median = speed(PASSES / 2);
        println!("{:>20} {:7} {median:6.2} [{:.2}..{:.2}]", way.name, way.level.name(), speed(PASSES - 1), speed(0));
    }
}
