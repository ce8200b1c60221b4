//! One suite that every carrier passes, those of keepers among them.
//!
//! What cannot run here (no permission to mount, no huge pages) says so and why.

mod support;

use std::ffi::CString;
use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lifeboat_region::budget;
use lifeboat_region::carrier::{
    self, CARRIERS, Carrier, CreateError, Created, Crew, Hugetlbfs, KEPT, Keeper, KeeperHugetlb, Memfd, OpenError,
    SIZE_STEP, Shm, Survives, Tmpfs,
};
use lifeboat_region::layout::{CHUNK, memory_part};
use lifeboat_region::place::{Base, Place, PlaceError, Refusal, RegionDirectory, RegionName, RemoveError, RemoveMode};
use lifeboat_testkit::huge_pages::{self, HugePages, NoHugePages};
use lifeboat_testkit::report::{line, skipped};
use lifeboat_testkit::scratch::is_root;
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};
use support::{ForkedKeeper, Refused};

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

    /// Keepers that other tests fork have, until they end, what this process has open, also the lock on a region's directory.
    fn remove(&self, name: &RegionName) -> Result<(), RemoveError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.place.remove(name, RemoveMode::Force, &mut |_| false) {
                Err(RemoveError::Place(PlaceError::Busy { .. })) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                done => return done,
            }
        }
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
        let left: Vec<_> = names.iter().filter_map(|name| self.remove(name).err()).collect();
        let gone = match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let clean = left.is_empty() && gone.is_ok();
        assert!(clean || std::thread::panicking(), "{} stays: {left:?}, {gone:?}", self.path.display());
    }
}

/// `carrier NAME`, or who did not get it.
fn label(carrier: &dyn Carrier) -> String {
    format!("carrier {}", carrier.name())
}

fn skip(carrier: &dyn Carrier, why: impl Display) {
    let user = if is_root() { "" } else { ", as an ordinary user" };
    skipped(&format!("{}{user}", label(carrier)), &why.to_string());
}

fn every_carrier() -> impl Iterator<Item = &'static dyn Carrier> {
    CARRIERS.into_iter().chain(KEPT)
}

fn is_kept(carrier: &dyn Carrier) -> bool {
    carrier.survives() == Survives::WhileKept
}

/// The huge pages that a region of `size` bytes on `carrier` takes out of those that were set aside; two more, because
/// hugetlbfs takes a page for a symbolic link.
fn pages_for(carrier: &dyn Carrier, size: u64) -> Result<Option<HugePages>, NoHugePages> {
    let from_those_set_aside = [Hugetlbfs.name(), KeeperHugetlb.name()].contains(&carrier.name());
    from_those_set_aside.then(|| HugePages::of(size / SIZE_STEP + 2)).transpose()
}

/// Reserves, in a keeper process where the carrier needs one, which lives as long as the second value.
fn create(
    carrier: &'static dyn Carrier,
    region: &RegionDirectory,
    size: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Created, Option<ForkedKeeper>), Refused> {
    if is_kept(carrier) {
        return ForkedKeeper::start(carrier, region, size, progress).map(|(created, keeper)| (created, Some(keeper)));
    }
    carrier
        .create(region, size, &mut |done, total| progress(done, total))
        .map(|created| (created, None))
        .map_err(Refused::of)
}

/// Runs `test` on every carrier that can be had here, in a new region each.
fn on_every_carrier(size: u64, test: &dyn Fn(&dyn Carrier, &TestPlace, &RegionDirectory, Created)) {
    for carrier in every_carrier() {
        let _pages = match pages_for(carrier, size) {
            Ok(pages) => pages,
            Err(none) => {
                none.skip(&label(carrier));
                continue;
            }
        };
        let here = TestPlace::new();
        let region = here.claim("r");
        match create(carrier, &region, size, &mut |_, _| {}) {
            Ok((created, _keeper)) => test(carrier, &here, &region, created),
            Err(Refused::NotHere(why)) => skip(carrier, why),
            Err(Refused::Failed(error)) => panic!("{}: {error}", carrier.name()),
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
        // Huge pages that were set aside are not counted as blocks.
        if carrier.maps_files() {
            assert!(stat.st_blocks as u64 * 512 >= SIZE, "{}: only {} blocks", carrier.name(), stat.st_blocks);
        }
        assert!(Mapped::new(&created.file, SIZE).bytes().iter().all(|&byte| byte == 0), "{}", carrier.name());
    });
    let created = Memfd.create_anywhere(SIZE, &mut |_: u64, _: u64| {}).unwrap();
    assert!(Mapped::new(&created.file, SIZE).bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn progress_only_grows_and_ends_with_everything() {
    for carrier in every_carrier() {
        // Few pages are set aside: they are reserved in one step.
        let (size, steps) = if carrier.maps_files() { (130 << 20, 4) } else { (SIZE, 2) };
        let _pages = match pages_for(carrier, size) {
            Ok(pages) => pages,
            Err(none) => {
                none.skip(&label(carrier));
                continue;
            }
        };
        // A machine or a group too small for this test.
        if carrier.maps_files() && budget::available().check(size).is_err() {
            skip(carrier, "little memory is left");
            continue;
        }
        let here = TestPlace::new();
        let region = here.claim("r");
        let mut seen = Vec::new();
        match create(carrier, &region, size, &mut |done, total| seen.push((done, total))) {
            Ok(_) => {}
            Err(Refused::NotHere(why)) => {
                skip(carrier, why);
                continue;
            }
            Err(Refused::Failed(error)) => panic!("{}: {error}", carrier.name()),
        }
        assert!(seen.len() >= steps, "{}: {seen:?}", carrier.name());
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{}: {seen:?}", carrier.name());
        assert_eq!(seen.last(), Some(&(size, size)), "{}", carrier.name());
    }
}

/// Two workers on each of several memory nodes, as the command has them, but wherever they run.
struct Everywhere {
    nodes: u32,
    begun: AtomicU32,
    told: u64,
}

impl Crew for Everywhere {
    fn nodes(&self) -> u32 {
        self.nodes
    }

    fn workers(&self) -> u32 {
        2 * self.nodes
    }

    fn tell(&mut self, done: u64, _: u64) {
        assert!(done >= self.told);
        self.told = done;
    }

    fn all_at_once(
        &mut self,
        work: &(dyn Fn(u32) -> Result<(), CreateError> + Sync),
        _: &dyn Fn() -> u64,
        _: u64,
    ) -> Result<(), CreateError> {
        thread::scope(|scope| {
            let begin = |node| {
                self.begun.fetch_add(1, Ordering::Relaxed);
                work(node)
            };
            let workers: Vec<_> = (0..2 * self.nodes).map(|n| scope.spawn(move || begin(n / 2))).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a worker"))
        })
    }
}

#[test]
fn no_page_is_left_out_where_workers_fill_parts_of_their_own() {
    // With plenty beside it workers fill the file; in a small group one process does, part by part.
    let size = if budget::available().check(3 << 30).is_ok() { 390 << 20 } else { 70 << 20 };
    for nodes in [1, 3, 64] {
        let mut crew = Everywhere { nodes, begun: AtomicU32::new(0), told: 0 };
        let created = Memfd.create_anywhere(size, &mut crew).expect("memory");
        assert_eq!(crew.begun.into_inner(), 2 * nodes);
        assert_eq!(created.pages.total, size, "{nodes} nodes");
        let stat = rustix::fs::fstat(&created.file).unwrap();
        assert_eq!((stat.st_size as u64, stat.st_blocks as u64 * 512), (size, size), "{nodes} nodes");
    }
}

#[test]
fn parts_of_memory_nodes_are_all_of_it_and_do_not_overlap() {
    for length in [SIZE, 8 << 20, 390 << 20, 1 << 40] {
        for nodes in [1, 2, 3, 7, 64] {
            let parts: Vec<_> = (0..nodes).map(|node| memory_part(length, nodes, node)).collect();
            assert_eq!((parts[0].start, parts[nodes as usize - 1].end), (0, length));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].start <= pair[0].end));
            assert!(parts.iter().all(|part| part.start % CHUNK == 0 && part.end % CHUNK == 0), "{parts:?}");
            assert!(memory_part(length, nodes, nodes).is_empty());
        }
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
        let kept = KEPT.iter().any(|kept| kept.name() == carrier.name());
        assert_eq!(carrier.survives(), if kept { Survives::WhileKept } else { Survives::JobStep });
        assert_eq!(created.pages.total, SIZE);
        assert!(created.pages.huge <= SIZE);
        if !carrier.maps_files() {
            assert_eq!(created.pages.page_size(), 2 << 20);
        }
        let found = carrier::examine_pages(created.file.as_fd(), SIZE).expect("the kernel tells page sizes");
        assert_eq!(found, created.pages, "{}", carrier.name());
        assert_eq!(carrier.maps_files(), maps_a_small_piece(&created.file), "{}", carrier.name());
        let (name, pages) = (carrier.name(), created.pages);
        line(&format!("note: carrier {name}: {} of {} bytes in huge pages", pages.huge, pages.total));
    });
}

/// Whether 4 KiB in the middle can be mapped, as every mapping of a file in the region needs.
fn maps_a_small_piece(file: &OwnedFd) -> bool {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped = unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, file, 4096) };
    match mapped {
        // SAFETY: mapped just now, and nobody looks at it.
        Ok(start) => unsafe { rustix::mm::munmap(start, 4096) }.is_ok(),
        Err(_) => false,
    }
}

#[test]
fn planted_files_are_refused_and_left_alone() {
    on_every_carrier(SIZE, &|carrier, here, region, created| {
        // What a keeper holds has no place to plant anything in; what it hands out is tested with its socket.
        if is_kept(carrier) {
            return;
        }
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
    for carrier in every_carrier().chain([&Memfd as &dyn Carrier]) {
        for size in [0, 1, SIZE_STEP - 1, SIZE_STEP + 4096] {
            let here = TestPlace::new();
            let region = here.claim("r");
            let error = carrier.create(&region, size, &mut |_: u64, _: u64| panic!("a page was made")).unwrap_err();
            assert_eq!(error, CreateError::Size(size), "{}", carrier.name());
        }
    }
}

#[test]
fn more_than_memory_has_is_refused_before_the_first_page() {
    let size = carrier::round_size(budget::machine_total().unwrap() * 2).unwrap();
    for carrier in [&Shm as &dyn Carrier, &Tmpfs, &Keeper, &Memfd] {
        let here = TestPlace::new();
        let region = here.claim("r");
        let error = carrier.create(&region, size, &mut |_: u64, _: u64| panic!("a page was made")).unwrap_err();
        assert!(matches!(error, CreateError::Budget(_)), "{}: {error}", carrier.name());
        assert!(!error.to_string().contains('\n'));
        assert_eq!(std::fs::read_dir(here.path.join("r")).unwrap().count(), 0, "{}", carrier.name());
    }
}

#[test]
fn huge_pages_that_nobody_set_aside_are_not_taken() {
    let Ok(_alone) = HugePages::of(0) else { panic!("no pages are always to be had") };
    let before = huge_pages::set_aside();
    for carrier in [&Hugetlbfs as &dyn Carrier, &KeeperHugetlb] {
        let here = TestPlace::new();
        let region = here.claim("r");
        let error = carrier.create(&region, 1 << 50, &mut |_: u64, _: u64| panic!("a page was made")).unwrap_err();
        match error {
            CreateError::HugePages { free, needed, set_aside } => {
                assert_eq!((free, needed), (huge_pages::free(), 1 << 29), "{}", carrier.name());
                assert_eq!(set_aside, before + needed - free, "{}", carrier.name());
            }
            error => panic!("{}: {error}", carrier.name()),
        }
        let line = error.to_string();
        assert!(line.contains("are free") && line.contains("echo ") && !line.contains('\n'), "{line}");
        assert_eq!(std::fs::read_dir(here.path.join("r")).unwrap().count(), 0, "{}", carrier.name());
    }
    assert_eq!(huge_pages::set_aside(), before);
}

#[test]
fn all_pages_are_taken_before_they_are_promised_and_come_back() {
    let carriers: [&'static dyn Carrier; 2] = [&Hugetlbfs, &KeeperHugetlb];
    for carrier in carriers {
        let _pages = match pages_for(carrier, SIZE) {
            Ok(pages) => pages,
            Err(none) => {
                none.skip(&label(carrier));
                continue;
            }
        };
        let here = TestPlace::new();
        let region = here.claim("r");
        let free = huge_pages::free();
        let made = match create(carrier, &region, SIZE, &mut |_, _| {}) {
            Ok(made) => made,
            Err(Refused::NotHere(why)) => {
                skip(carrier, why);
                continue;
            }
            Err(Refused::Failed(error)) => panic!("{}: {error}", carrier.name()),
        };
        assert_eq!(huge_pages::free(), free - SIZE / SIZE_STEP, "{}: not all pages are there", carrier.name());
        drop(made);
        drop(region);
        here.place.remove(&RegionName::new(b"r").unwrap(), RemoveMode::Force, &mut |_| false).unwrap();
        assert_eq!(huge_pages::free(), free, "{}: pages did not come back", carrier.name());
    }
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
        let memory = if is_kept(carrier) { "r/keeper.sock" } else { "r/memory/region" };
        assert!(here.path.join(memory).exists(), "{}", carrier.name());
    });
}

#[test]
fn removal_leaves_no_file_and_no_mount() {
    on_every_carrier(SIZE, &|carrier, here, region, created| {
        drop(created);
        region.make_images().unwrap();
        region.make_tags().unwrap();
        region.publish().unwrap();
        let name = *region.name();
        // The creator's claim ends with its directory.
        release(region);
        here.place.remove(&name, RemoveMode::KeepUsed, &mut |_| false).unwrap();
        assert_eq!(std::fs::read_dir(&here.path).unwrap().count(), 0, "{}", carrier.name());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(here.path.to_str().unwrap()), "{}: {mounts}", carrier.name());
    });
}

fn release(region: &RegionDirectory) {
    rustix::fs::flock(region.directory(), rustix::fs::FlockOperation::Unlock).unwrap();
}

#[test]
fn the_best_carrier_is_had_by_everybody() {
    let here = TestPlace::new();
    let region = here.claim("r");
    let (created, fell_back) = carrier::create_best(&region, SIZE, &mut |_: u64, _: u64| {}).unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(created.carrier == Tmpfs.name(), fell_back.is_none());
    } else {
        assert_eq!(created.carrier, Shm.name());
    }
}

#[test]
fn memory_without_a_name_cannot_shrink_under_its_mappings() {
    let created = Memfd.create_anywhere(SIZE, &mut |_: u64, _: u64| {}).unwrap();
    assert_eq!(Memfd.survives(), Survives::Nothing);
    assert!(rustix::fs::ftruncate(&created.file, 4096).is_err());
    assert!(rustix::fs::ftruncate(&created.file, SIZE * 2).is_err());
}
