//! One suite that every carrier passes.
//!
//! What cannot run here (no permission to mount, no free huge pages) says so and why.

use std::ffi::CString;
use std::fmt::Display;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lifeboat_region::budget;
use lifeboat_region::carrier::{
    self, CARRIERS, Carrier, CreateError, Created, Hugetlbfs, Memfd, OpenError, SIZE_STEP, Shm, Survives, Tmpfs,
};
use lifeboat_region::place::{Base, Place, Refusal, RegionDirectory, RegionName, RemoveMode};
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};

const SIZE: u64 = 12 << 20;

/// A base directory of this test's own; goes with everything in it, also when the test fails.
struct TestPlace {
    place: Place,
    path: PathBuf,
}

impl TestPlace {
    fn new() -> TestPlace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/dev/shm/lifeboat-test-carrier-{}-{number}", std::process::id()));
        let place = Place::open_or_create(Base::At(path.to_str().unwrap().as_bytes())).unwrap();
        TestPlace { place, path }
    }

    fn claim(&self, name: &str) -> RegionDirectory {
        self.place.create_region(&RegionName::new(name.as_bytes()).unwrap()).unwrap()
    }
}

impl Drop for TestPlace {
    fn drop(&mut self) {
        let mut names = Vec::new();
        let _ = self.place.list(&mut |name| {
            names.push(*name);
            true
        });
        for name in names {
            let _ = self.place.remove(&name, RemoveMode::Force, &mut |_| false);
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Past the harness, which swallows what a passing test prints.
fn line(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn skip(carrier: &dyn Carrier, why: impl Display) {
    line(&format!("skipped: carrier {}: {why}", carrier.name()));
}

/// Runs `test` on every carrier that can be had here, in a new region each.
fn on_every_carrier(size: u64, test: &dyn Fn(&dyn Carrier, &TestPlace, &RegionDirectory, Created)) {
    for carrier in CARRIERS {
        let here = TestPlace::new();
        let region = here.claim("r");
        match carrier.create(&region, size, &mut |_, _| {}) {
            Ok(created) => test(carrier, &here, &region, created),
            Err(why @ (CreateError::CannotMount { .. } | CreateError::HugePages { .. })) => skip(carrier, why),
            Err(error) => panic!("{}: {error}", carrier.name()),
        }
    }
}

/// The whole file, mapped; unmapped when dropped.
struct Mapped {
    start: *mut u8,
    length: usize,
}

impl Mapped {
    fn new(file: &OwnedFd, size: u64) -> Mapped {
        let length = size as usize;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0) };
        Mapped { start: start.unwrap().cast(), length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped readable and writable for this length, and each test maps a file of its own.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no slice of it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.length) };
    }
}

#[test]
fn every_page_is_there_and_zero_before_anybody_writes() {
    on_every_carrier(SIZE, &|carrier, _, _, created| {
        let stat = rustix::fs::fstat(&created.file).unwrap();
        assert_eq!(stat.st_size as u64, SIZE, "{}", carrier.name());
        // hugetlbfs counts no blocks.
        if carrier.name() != Hugetlbfs.name() {
            assert!(stat.st_blocks as u64 * 512 >= SIZE, "{}: only {} blocks", carrier.name(), stat.st_blocks);
        }
        assert!(Mapped::new(&created.file, SIZE).bytes().iter().all(|&byte| byte == 0), "{}", carrier.name());
    });
    let created = Memfd.create_anywhere(SIZE, &mut |_, _| {}).unwrap();
    assert!(Mapped::new(&created.file, SIZE).bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn progress_only_grows_and_ends_with_everything() {
    for carrier in CARRIERS {
        let here = TestPlace::new();
        let region = here.claim("r");
        let mut seen = Vec::new();
        let size = 130 << 20;
        match carrier.create(&region, size, &mut |done, total| seen.push((done, total))) {
            Ok(_) => {}
            Err(why @ (CreateError::CannotMount { .. } | CreateError::HugePages { .. })) => {
                skip(carrier, why);
                continue;
            }
            // A machine or a group too small for this test.
            Err(why @ CreateError::Budget(_)) => {
                skip(carrier, why);
                continue;
            }
            Err(error) => panic!("{}: {error}", carrier.name()),
        }
        assert!(seen.len() >= 4, "{}: {seen:?}", carrier.name());
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{}: {seen:?}", carrier.name());
        assert_eq!(seen.last(), Some(&(size, size)), "{}", carrier.name());
    }
}

#[test]
fn a_half_made_region_cannot_be_opened() {
    on_every_carrier(SIZE, &|carrier, _, region, created| {
        assert!(matches!(carrier.open(region), Err(OpenError::Missing { .. })), "{}", carrier.name());
        drop(created);
        assert!(matches!(carrier::open(region), Err(OpenError::Missing { .. })), "{}", carrier.name());
        region.publish().unwrap();
        carrier.open(region).unwrap();
    });
}

#[test]
fn what_was_written_is_found_by_the_next_opener() {
    on_every_carrier(SIZE, &|carrier, here, region, created| {
        let pattern = |index: usize| (index / 7 + index) as u8;
        for (index, byte) in Mapped::new(&created.file, SIZE).bytes().iter_mut().enumerate() {
            *byte = pattern(index);
        }
        region.publish().unwrap();
        drop(created);
        let path = here.path.join("r");
        let again = RegionDirectory::open(path.to_str().unwrap().as_bytes()).unwrap();
        let file = carrier.open(&again).unwrap();
        let mut mapped = Mapped::new(&file, SIZE);
        let wrong = mapped.bytes().iter().enumerate().find(|&(index, &byte)| byte != pattern(index));
        assert_eq!(wrong, None, "{}", carrier.name());
    });
}

#[test]
fn a_region_says_which_carrier_and_pages_it_has() {
    on_every_carrier(SIZE, &|carrier, _, region, created| {
        region.publish().unwrap();
        assert_eq!(created.carrier, carrier.name());
        assert_eq!(carrier::identify(region).unwrap().name(), carrier.name());
        assert_eq!(carrier::by_name(carrier.name().as_bytes()).unwrap().name(), carrier.name());
        assert_eq!(carrier.survives(), Survives::JobStep);
        assert_eq!(created.pages.total, SIZE);
        assert!(created.pages.huge <= SIZE);
        if carrier.name() == Hugetlbfs.name() {
            assert_eq!(created.pages.page_size(), 2 << 20);
        } else {
            let found = carrier::examine_pages(created.file.as_fd(), SIZE).expect("the kernel tells page sizes");
            assert_eq!(found, created.pages, "{}", carrier.name());
        }
        let (name, pages) = (carrier.name(), created.pages);
        line(&format!("note: carrier {name}: {} of {} bytes in huge pages", pages.huge, pages.total));
    });
}

#[test]
fn planted_files_are_refused_and_left_alone() {
    on_every_carrier(SIZE, &|carrier, here, region, created| {
        region.publish().unwrap();
        drop(created);
        let memory = here.path.join("r/memory");
        let file = memory.join("region");
        let refused = |expected: Refusal| match carrier.open(region) {
            Err(OpenError::Refused { why, .. }) => assert_eq!(why, expected, "{}", carrier.name()),
            other => panic!("{}: {other:?} instead of {expected:?}", carrier.name()),
        };

        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
        refused(Refusal::Mode(0o666));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();

        std::fs::hard_link(&file, memory.join("second")).unwrap();
        refused(Refusal::Links(2));
        std::fs::remove_file(memory.join("second")).unwrap();

        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
            refused(Refusal::Owner { found: 65534, expected: 0 });
            std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        }

        std::fs::rename(&file, memory.join("aside")).unwrap();
        // On a full hugetlbfs there is no page for a symbolic link.
        if std::os::unix::fs::symlink("aside", &file).is_ok() {
            refused(Refusal::NotAFile);
            std::fs::remove_file(&file).unwrap();
        } else {
            assert_eq!(carrier.name(), Hugetlbfs.name());
        }
        plant_fifo(&file);
        refused(Refusal::NotAFile);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        refused(Refusal::NotAFile);
        std::fs::remove_dir(&file).unwrap();

        std::fs::rename(memory.join("aside"), &file).unwrap();
        carrier.open(region).unwrap();
    });
}

fn plant_fifo(path: &Path) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path.as_c_str(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn sizes_that_no_region_has_are_refused_before_anything_is_made() {
    for carrier in CARRIERS.into_iter().chain([&Memfd as &dyn Carrier]) {
        for size in [0, 1, SIZE_STEP - 1, SIZE_STEP + 4096] {
            let here = TestPlace::new();
            let region = here.claim("r");
            let error = carrier.create(&region, size, &mut |_, _| panic!("a page was made")).unwrap_err();
            assert_eq!(error, CreateError::Size(size), "{}", carrier.name());
        }
    }
}

#[test]
fn more_than_memory_has_is_refused_before_the_first_page() {
    let size = carrier::round_size(budget::machine_total().unwrap() * 2).unwrap();
    for carrier in [&Shm as &dyn Carrier, &Tmpfs, &Memfd] {
        let here = TestPlace::new();
        let region = here.claim("r");
        let error = carrier.create(&region, size, &mut |_, _| panic!("a page was made")).unwrap_err();
        assert!(matches!(error, CreateError::Budget(_)), "{}: {error}", carrier.name());
        assert!(!error.to_string().contains('\n'));
        assert_eq!(std::fs::read_dir(here.path.join("r")).unwrap().count(), 0, "{}", carrier.name());
    }
}

#[test]
fn huge_pages_that_nobody_set_aside_are_not_taken() {
    let pages = || std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap();
    let before = pages();
    let here = TestPlace::new();
    let region = here.claim("r");
    let error = Hugetlbfs.create(&region, 1 << 50, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, CreateError::HugePages { needed, .. } if needed == 1 << 50), "{error}");
    assert_eq!(pages(), before);
}

#[test]
fn removal_waits_for_the_creator() {
    on_every_carrier(SIZE, &|carrier, here, region, created| {
        region.publish().unwrap();
        region.make_images().unwrap();
        region.make_tags().unwrap();
        drop(created);
        let name = *region.name();
        let error = here.place.remove(&name, RemoveMode::KeepUsed, &mut |_| false).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        assert!(here.path.join("r/memory/region").exists(), "{}", carrier.name());
    });
}

#[test]
fn removal_leaves_no_file_and_no_mount() {
    for carrier in CARRIERS {
        let here = TestPlace::new();
        let name = RegionName::new(b"r").unwrap();
        {
            let region = here.claim("r");
            match carrier.create(&region, SIZE, &mut |_, _| {}) {
                Ok(_) => {}
                Err(why) => {
                    skip(carrier, why);
                    continue;
                }
            }
            region.make_images().unwrap();
            region.make_tags().unwrap();
            region.publish().unwrap();
        }
        here.place.remove(&name, RemoveMode::KeepUsed, &mut |_| false).unwrap();
        assert_eq!(std::fs::read_dir(&here.path).unwrap().count(), 0, "{}", carrier.name());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(here.path.to_str().unwrap()), "{}: {mounts}", carrier.name());
    }
}

#[test]
fn the_best_carrier_is_had_by_everybody() {
    let here = TestPlace::new();
    let region = here.claim("r");
    let (created, fell_back) = carrier::create_best(&region, SIZE, &mut |_, _| {}).unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(created.carrier == Tmpfs.name(), fell_back.is_none());
    } else {
        assert_eq!(created.carrier, Shm.name());
    }
}

#[test]
fn memory_without_a_name_cannot_shrink_under_its_mappings() {
    let created = Memfd.create_anywhere(SIZE, &mut |_, _| {}).unwrap();
    assert_eq!(Memfd.survives(), Survives::Nothing);
    assert!(rustix::fs::ftruncate(&created.file, 4096).is_err());
    assert!(rustix::fs::ftruncate(&created.file, SIZE * 2).is_err());
}
