//! Base directories, names, claims, covers and removal, against what others may have put there.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lifeboat_region::place::{
    Base, CoverError, CoverKind, Place, PlaceError, Refusal, RegionDirectory, RegionName, RemoveError, RemoveMode,
    Standing, Tags,
};

/// A directory of this test's own; everything mounted or made below it goes when it is dropped.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/dev/shm/lifeboat-test-place-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch { path }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn base(&self) -> PathBuf {
        self.join("base")
    }

    fn place(&self) -> Place {
        Place::open_or_create(Base::At(bytes(&self.base()))).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = |line: &str| {
            line.split(' ').nth(4).filter(|point| Path::new(point).starts_with(&self.path)).map(String::from)
        };
        for point in mounts.lines().rev().filter_map(below) {
            let _ = std::process::Command::new("umount").arg("-l").arg(point).status();
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Past the harness, which swallows what a passing test prints.
fn skipped(what: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("skipped: {what}: {why}\n").as_bytes());
}

fn bytes(path: &Path) -> &[u8] {
    path.to_str().unwrap().as_bytes()
}

fn name(text: &str) -> RegionName {
    RegionName::new(text.as_bytes()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_base_that_others_can_reach_is_refused_untouched() {
    let scratch = Scratch::new();
    let base = scratch.base();
    std::fs::create_dir(&base).unwrap();
    for mode in [0o777, 0o750, 0o701] {
        std::fs::set_permissions(&base, PermissionsExt::from_mode(mode)).unwrap();
        match Place::open_or_create(Base::At(bytes(&base))) {
            Err(PlaceError::Refused { why: Refusal::Mode(found), .. }) => assert_eq!(found, mode),
            other => panic!("{other:?}"),
        }
        assert_eq!(base.metadata().unwrap().mode() & 0o777, mode);
    }
}

#[test]
fn a_base_of_another_user_is_refused() {
    if !is_root() {
        // A directory of root's that exists everywhere.
        let refused = Place::open(Base::At(b"/root")).unwrap_err();
        assert!(!matches!(refused, PlaceError::Missing { .. }), "{refused}");
        return;
    }
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.base()).unwrap();
    std::fs::set_permissions(scratch.base(), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(scratch.base(), Some(65534), None).unwrap();
    match Place::open_or_create(Base::At(bytes(&scratch.base()))) {
        Err(PlaceError::Refused { why: Refusal::Owner { found: 65534, expected: 0 }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_symbolic_link_planted_as_base_or_region_is_not_followed() {
    let scratch = Scratch::new();
    let target = scratch.join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(&target, scratch.base()).unwrap();
    let refused = Place::open_or_create(Base::At(bytes(&scratch.base()))).unwrap_err();
    assert!(matches!(refused, PlaceError::Refused { why: Refusal::NotADirectory, .. }), "{refused}");
    std::fs::remove_file(scratch.base()).unwrap();

    let place = scratch.place();
    std::os::unix::fs::symlink(&target, scratch.base().join("planted")).unwrap();
    let refused = place.open_region(&name("planted")).unwrap_err();
    assert!(matches!(refused, PlaceError::Refused { why: Refusal::NotADirectory, .. }), "{refused}");
    assert!(matches!(place.create_region(&name("planted")), Err(PlaceError::Exists { .. })));
    assert!(place.remove(&name("planted"), RemoveMode::Force, &mut |_| false).is_err());
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_base_must_be_an_absolute_path() {
    for base in ["", "relative", "/", "/dev/shm/"] {
        let refused = Place::open_or_create(Base::At(base.as_bytes())).unwrap_err();
        assert!(matches!(refused, PlaceError::BadBase { .. }), "{base}: {refused}");
    }
}

#[test]
fn a_name_is_given_once() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let first = place.create_region(&name("a")).unwrap();
    let error = place.create_region(&name("a")).unwrap_err();
    assert!(matches!(error, PlaceError::Exists { .. }), "{error}");
    assert!(error.to_string().contains("`a`") && !error.to_string().contains('\n'), "{error}");
    drop(first);
    assert!(matches!(place.create_region(&name("a")), Err(PlaceError::Exists { .. })));
}

#[test]
fn one_of_many_creators_wins() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let winners = std::thread::scope(|scope| {
        let racers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| place.create_region(&name("raced")).is_ok() as u32)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum::<u32>()
    });
    assert_eq!(winners, 1);
}

#[test]
fn what_a_killed_creator_left_is_told_from_a_living_one() {
    let scratch = Scratch::new();
    let place = scratch.place();
    assert_eq!(place.standing(&name("a")).unwrap(), Standing::Absent);
    let region = place.create_region(&name("a")).unwrap();
    region.make_memory().unwrap();
    std::fs::write(scratch.base().join("a/memory/region.new"), b"half").unwrap();
    assert_eq!(place.standing(&name("a")).unwrap(), Standing::Busy);
    drop(region);
    assert_eq!(place.standing(&name("a")).unwrap(), Standing::HalfMade);
    place.remove(&name("a"), RemoveMode::KeepUsed, &mut |_| false).unwrap();
    let region = place.create_region(&name("a")).unwrap();
    region.make_memory().unwrap();
    std::fs::write(scratch.base().join("a/memory/region.new"), b"whole").unwrap();
    region.publish().unwrap();
    assert_eq!(place.standing(&name("a")).unwrap(), Standing::Ready);
    drop(region);
    assert_eq!(place.standing(&name("a")).unwrap(), Standing::Ready);
}

#[test]
fn a_region_mounted_elsewhere_is_not_taken_for_a_half_made_one() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let region = place.create_region(&name("a")).unwrap();
    region.make_memory().unwrap();
    let memory = scratch.base().join("a/memory");
    std::fs::write(memory.join("region.new"), b"whole").unwrap();
    region.publish().unwrap();
    drop(region);
    // As seen where its mount is not.
    std::fs::remove_file(memory.join("region")).unwrap();
    assert_eq!(place.standing(&name("a")).unwrap(), Standing::NotVisible);
    let error = place.remove(&name("a"), RemoveMode::KeepUsed, &mut |_| false).unwrap_err();
    assert!(matches!(error, RemoveError::NotVisible { .. }), "{error}");
    assert!(memory.exists());
    place.remove(&name("a"), RemoveMode::Force, &mut |_| false).unwrap();
    assert_eq!(place.standing(&name("a")).unwrap(), Standing::Absent);
}

#[test]
fn publishing_never_replaces_a_region() {
    let scratch = Scratch::new();
    let region = scratch.place().create_region(&name("a")).unwrap();
    region.make_memory().unwrap();
    let memory = scratch.base().join("a/memory");
    std::fs::write(memory.join("region"), b"old").unwrap();
    std::fs::write(memory.join("region.new"), b"new").unwrap();
    assert!(region.publish().is_err());
    assert_eq!(std::fs::read(memory.join("region")).unwrap(), b"old");
}

#[test]
fn listing_passes_over_what_is_not_a_region() {
    let scratch = Scratch::new();
    let place = scratch.place();
    for region in ["b", "a", "c.d"] {
        place.create_region(&name(region)).unwrap();
    }
    std::fs::write(scratch.base().join("file"), b"").unwrap();
    std::fs::create_dir(scratch.base().join(".hidden")).unwrap();
    std::fs::create_dir(scratch.base().join("with space")).unwrap();
    std::os::unix::fs::symlink("a", scratch.base().join("link")).unwrap();
    let mut found = Vec::new();
    let collect = |found: &mut Vec<String>| {
        place
            .list(&mut |name| {
                found.push(name.to_string());
                true
            })
            .unwrap();
        found.sort();
    };
    collect(&mut found);
    assert_eq!(found, ["a", "b", "c.d"]);
    // Again on the same descriptor.
    found.clear();
    collect(&mut found);
    assert_eq!(found.len(), 3);
}

#[test]
fn a_region_is_found_by_its_path_alone() {
    let scratch = Scratch::new();
    let region = scratch.place().create_region(&name("a")).unwrap();
    let again = RegionDirectory::open(region.path().as_bytes()).unwrap();
    assert_eq!(again.path(), region.path());
    assert_eq!(again.name(), region.name());
    for path in ["", "a", "/", "relative/a", "/dev/shm/x/", "/a"] {
        assert!(RegionDirectory::open(path.as_bytes()).is_err(), "{path}");
    }
    std::fs::set_permissions(scratch.base(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(matches!(RegionDirectory::open(region.path().as_bytes()), Err(PlaceError::Refused { .. })));
}

#[test]
fn a_region_in_use_is_not_removed_unless_forced() {
    let scratch = Scratch::new();
    let place = scratch.place();
    drop(place.create_region(&name("a")).unwrap());
    let error = place.remove(&name("a"), RemoveMode::KeepUsed, &mut |_| true).unwrap_err();
    assert!(matches!(error, RemoveError::InUse { .. }), "{error}");
    assert!(scratch.base().join("a").exists());
    place.remove(&name("a"), RemoveMode::Force, &mut |_| true).unwrap();
    assert!(!scratch.base().join("a").exists());
}

#[test]
fn removal_never_deletes_what_is_not_a_regions() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let region = place.create_region(&name("a")).unwrap();
    region.make_images().unwrap();
    drop(region);
    let foreign = scratch.base().join("a/thesis.txt");
    std::fs::write(&foreign, b"years of work").unwrap();
    let error = place.remove(&name("a"), RemoveMode::Force, &mut |_| false).unwrap_err();
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    assert!(foreign.exists());
    std::fs::remove_file(&foreign).unwrap();
    place.remove(&name("a"), RemoveMode::KeepUsed, &mut |_| false).unwrap();
    let region = place.create_region(&name("a")).unwrap();
    region.make_images().unwrap();
    drop(region);
    std::fs::create_dir_all(scratch.base().join("a/images/deep/er")).unwrap();
    let error = place.remove(&name("a"), RemoveMode::Force, &mut |_| false).unwrap_err();
    assert!(error.to_string().contains("images/deep"), "{error}");
    std::fs::remove_dir_all(scratch.base().join("a/images/deep")).unwrap();
    place.remove(&name("a"), RemoveMode::KeepUsed, &mut |_| false).unwrap();
}

#[test]
fn many_lock_files_are_all_removed() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let region = place.create_region(&name("a")).unwrap();
    region.make_images().unwrap();
    drop(region);
    for number in 0..2000 {
        std::fs::write(scratch.base().join(format!("a/images/{number}")), b"").unwrap();
    }
    place.remove(&name("a"), RemoveMode::KeepUsed, &mut |_| false).unwrap();
    assert!(!scratch.base().join("a").exists());
}

#[test]
fn a_write_that_reaches_a_placeholder_fails_where_mounting_is_permitted() {
    use std::os::unix::fs::FileExt;
    let scratch = Scratch::new();
    let place = scratch.place();
    let region = place.create_region(&name("a")).unwrap();
    match region.make_tags().unwrap() {
        Tags::Plain(errno) => skipped("full placeholder directory", &format!("no permission to mount ({errno:?})")),
        Tags::Full => {
            for number in 0..100 {
                let tag = std::fs::File::create(scratch.base().join(format!("a/tags/{number}"))).unwrap();
                for offset in [0, 5, 1 << 40] {
                    let error = tag.write_at(b"lost", offset).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                }
                assert_eq!(tag.metadata().unwrap().len(), 0);
            }
        }
    }
    drop(region);
    place.remove(&name("a"), RemoveMode::KeepUsed, &mut |_| false).unwrap();
}

#[test]
fn nothing_can_be_written_under_a_covered_prefix_and_removal_uncovers_it() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let there_before = scratch.join("there");
    std::fs::create_dir(&there_before).unwrap();
    let made = scratch.join("made");
    for region in ["first", "second"] {
        let region = place.create_region(&name(region)).unwrap();
        for prefix in [&there_before, &made] {
            // Twice: a second `exec` finds it done.
            for _ in 0..2 {
                let covered = place.cover(&region, bytes(prefix)).unwrap();
                if is_root() && covered.cannot_mount.is_some() {
                    skipped("covered prefix", "root may not mount here, so nothing keeps root from writing");
                } else {
                    assert!(std::fs::write(prefix.join("x"), b"lost").is_err(), "{covered:?}");
                    assert!(std::fs::create_dir(prefix.join("d")).is_err(), "{covered:?}");
                }
            }
        }
        let mut lines = 0;
        region
            .for_each_cover(&mut |_| {
                lines += 1;
                true
            })
            .unwrap();
        assert_eq!(lines, 2, "one line for each prefix however often it was asked for");
    }
    place.remove(&name("first"), RemoveMode::KeepUsed, &mut |_| false).unwrap();
    if !is_root() || place.cover_of(bytes(&made)).unwrap() == Some(CoverKind::MadeAndMounted) {
        assert!(std::fs::write(made.join("x"), b"lost").is_err(), "the second region still needs it");
    }
    place.remove(&name("second"), RemoveMode::KeepUsed, &mut |_| false).unwrap();
    assert!(!made.exists());
    std::fs::write(there_before.join("x"), b"mine again").unwrap();
}

#[test]
fn a_prefix_that_would_hide_something_is_refused() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let region = place.create_region(&name("a")).unwrap();
    let full = scratch.join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), b"precious").unwrap();
    assert!(matches!(place.cover(&region, bytes(&full)), Err(CoverError::NotEmpty { .. })));
    assert!(matches!(place.cover(&region, bytes(&full.join("file"))), Err(CoverError::Refused { .. })));
    std::os::unix::fs::symlink("full", scratch.join("link")).unwrap();
    assert!(matches!(place.cover(&region, bytes(&scratch.join("link"))), Err(CoverError::Refused { .. })));
    assert!(matches!(place.cover(&region, bytes(&scratch.join("no/parent"))), Err(CoverError::NoParent { .. })));
    let long = format!("/{}", "x".repeat(600));
    for prefix in ["", "/", "relative", "//", "/a//b", "/a/", "/a/../b", "/./a", "/a\nb", &long] {
        let error = place.cover(&region, prefix.as_bytes()).unwrap_err();
        assert!(matches!(error, CoverError::BadPrefix { .. }), "{prefix}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    if is_root() {
        let other = scratch.join("other");
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::chown(&other, Some(65534), None).unwrap();
        assert!(matches!(place.cover(&region, bytes(&other)), Err(CoverError::Refused { .. })));
    }
    let mut lines = 0;
    region
        .for_each_cover(&mut |_| {
            lines += 1;
            true
        })
        .unwrap();
    assert_eq!(lines, 0, "what was refused is not remembered");
    assert_eq!(std::fs::read(full.join("file")).unwrap(), b"precious");
}

#[test]
fn a_damaged_list_of_covers_is_an_error_and_not_obeyed() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let region = place.create_region(&name("a")).unwrap();
    let covers = scratch.base().join("a/covers");
    for damage in [&b"nonsense\n"[..], b"made relative\n", b"\n", &[b'x'; 9000]] {
        std::fs::write(&covers, damage).unwrap();
        let error = region.for_each_cover(&mut |cover| panic!("{cover:?}")).unwrap_err();
        assert!(matches!(error, PlaceError::DamagedCovers { .. }), "{error}");
        std::fs::remove_file(&covers).unwrap();
    }
    // The line of a writer killed before it did anything.
    let mut file = std::fs::File::create(&covers).unwrap();
    file.write_all(b"made /some/where\nmade /half").unwrap();
    let mut found = Vec::new();
    region
        .for_each_cover(&mut |cover| {
            found.push(cover.prefix.to_vec());
            true
        })
        .unwrap();
    assert_eq!(found, [b"/some/where".to_vec()]);
}
