//! The fear: a file that is mapped through the kernel's mount shows bytes that were never there, or loses what was stored.

use lifeboat_testkit::command::limited;
use lifeboat_testkit::fuse_mount::FuseMounted;
use lifeboat_testkit::report;
use lifeboat_testkit::residue::NoResidue;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const PAGE: usize = 4096;

/// A mapping of a whole file, undone when dropped.
struct Map {
    at: *mut u8,
    length: usize,
}

impl Map {
    /// `None` where the kernel cannot map such files.
    fn new(file: &File, length: usize, flags: i32) -> Option<Map> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping where the kernel finds room for it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "mmap: {error}");
            report::skipped("shared mappings through the mount", "the kernel is older than 6.6");
            return None;
        }
        Some(Map { at: at.cast(), length })
    }

    fn read(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= self.length);
        // SAFETY: within the mapping; byte by byte, since others may change them.
        (at..at + length).map(|at| unsafe { self.at.add(at).read_volatile() }).collect()
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.length);
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: as above.
            unsafe { self.at.add(at + index).write_volatile(*byte) };
        }
    }

    fn sync(&self) {
        // SAFETY: the mapping is ours.
        assert_eq!(unsafe { libc::msync(self.at.cast(), self.length, libc::MS_SYNC) }, 0);
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing of it is used any more.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

fn intercepted(mounted: &FuseMounted, script: &str) -> String {
    let output = limited(mounted.region().exec().args(["sh", "-c", script]), 60).output().expect("start lifeboat");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_stored_in_a_shared_mapping_reaches_the_region_and_comes_back() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("mapping", "64MiB") else { return };
    let path = mounted.at().join("mapped");
    let shown = path.display();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("create");
    file.set_len(16 * PAGE as u64).expect("a size");
    for round in 0..10 {
        let Some(map) = Map::new(&file, 16 * PAGE, libc::MAP_SHARED) else { return };
        let place = round * PAGE + 17;
        map.write(place, b"stored");
        // Read and write through the mount see it at once, and it sees them.
        let mut read = [0; 6];
        file.read_exact_at(&mut read, place as u64).expect("read");
        assert_eq!(&read, b"stored");
        file.write_all_at(b"written", place as u64 + 100).expect("write");
        assert_eq!(map.read(place + 100, 7), b"written");
        if round % 2 == 0 {
            map.sync();
        } else {
            drop(map);
        }
        let script = format!("tail -c +{} {shown} | head -c 6", place + 1);
        assert_eq!(intercepted(&mounted, &script), "stored", "round {round}");
        // What an intercepted program writes is there in a mapping made afterwards.
        intercepted(
            &mounted,
            &format!("printf 'from the other side {round}' | dd of={shown} bs=1 seek=200 conv=notrunc status=none"),
        );
        let map = Map::new(&file, 16 * PAGE, libc::MAP_SHARED).expect("as before");
        assert_eq!(map.read(200, 21), format!("from the other side {round}").as_bytes());
        let private = Map::new(&file, 16 * PAGE, libc::MAP_PRIVATE).expect("as before");
        assert_eq!(private.read(200, 21), format!("from the other side {round}").as_bytes());
        assert_eq!(private.read(place, 6), b"stored");
    }
    drop(file);
    let script = format!("for at in 0 1 2 3 4 5 6 7 8 9; do tail -c +$((at * 4096 + 18)) {shown} | head -c 6; done");
    assert_eq!(intercepted(&mounted, &script), "stored".repeat(10), "nothing was lost");
}

#[test]
fn appending_and_mapping_the_same_file_keep_to_their_places() {
    let _nothing_left = NoResidue::begin();
    let Some(mounted) = FuseMounted::new("append", "64MiB") else { return };
    let path = mounted.at().join("log");
    let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path).expect("create");
    file.set_len(PAGE as u64).expect("a size");
    for round in 0..20_usize {
        // The only writable descriptor appends: pages written back must not be appended with it.
        let Some(map) = Map::new(&file, PAGE, libc::MAP_SHARED) else { return };
        map.write(round * 8, b"in place");
        map.sync();
        std::io::Write::write_all(&mut &file, b"at the end").expect("append");
        drop(map);
        intercepted(&mounted, &format!("printf ' and more ' >> {}", path.display()));
        let all = std::fs::read(&path).expect("read");
        assert_eq!(all.len(), PAGE + (round + 1) * 20);
        assert_eq!(&all[..(round + 1) * 8], "in place".repeat(round + 1).as_bytes());
        assert_eq!(&all[PAGE..], "at the end and more ".repeat(round + 1).as_bytes());
    }
}
