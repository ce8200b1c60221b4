//! The fear: an extended attribute is half of an old value and half of a new one, its space is lost, or a damaged one
//! leads a reader astray.

use lifeboat_fs::{Caller, FileSystem, InodeId, LastLink, UserSource, UserTarget};
use lifeboat_region::Errno;
use lifeboat_testkit::child::{self, Progress, Role, number, report, setting};
use lifeboat_testkit::command::{Mounted, limited};
use lifeboat_testkit::programs::is_installed;
use lifeboat_testkit::random::{Random, bytes, seed};
use lifeboat_testkit::report::{full, note, skipped};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchDirectory, ScratchRegion, attach, check};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const ROOT: Caller<'static> = Caller { uid: 0, gid: 0, groups: &[], umask: 0o022, checked: false };
const SMALL: &[u8] = b"user.small";
const LARGE: &[u8] = b"user.large";

#[test]
fn entry_of_child_processes() {
    child::enter(&[("setter", setter), ("reader", reader)]);
}

fn make(files: &FileSystem, name: &[u8]) -> InodeId {
    let _ = files.mknod(&ROOT, files.root(), name, 0o644, 0);
    find(files, name)
}

fn find(files: &FileSystem, name: &[u8]) -> InodeId {
    files.resolve(&ROOT, files.root(), name, LastLink::Keep).expect("the test's file")
}

fn set(files: &FileSystem, inode: InodeId, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    files.set_attribute(&ROOT, inode, name, &UserSource::from_slice(value), 0)
}

fn get(files: &FileSystem, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65536];
    let length = files.get_attribute(&ROOT, inode, name, &UserTarget::from_slice(&mut value))?;
    value.truncate(length);
    Ok(value)
}

/// The value of one step: its number, then bytes that follow from it, in every size class.
fn value_of(step: u64) -> Vec<u8> {
    let lengths = [0, 20, 200, 3000, 20_000, 60_000, 65_528, 8];
    let mut value = step.to_le_bytes().to_vec();
    value.extend(bytes(step, lengths[(step % 8) as usize]));
    value
}

/// The step whose value this is.
fn step_of(value: &[u8]) -> u64 {
    let step = u64::from_le_bytes(value[..8].try_into().expect("the number of a step"));
    assert!(value == value_of(step), "{} bytes that begin as the value of step {step}", value.len());
    step
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(setting(name))
}

/// Sets both attributes by turns, and removes one now and then.
fn setter() {
    let files = attach(&path("REGION")).expect("attach");
    let inode = find(&files, b"file");
    let count = Progress::open(&path("COUNT")).expect("the count");
    report("begins");
    for step in number("FIRST")..number("FIRST") + number("STEPS") {
        if step % 7 == 3 {
            files.remove_attribute(&ROOT, inode, LARGE).expect("an attribute to remove");
        }
        set(&files, inode, LARGE, &value_of(step)).expect("set an attribute");
        set(&files, inode, SMALL, &step.to_le_bytes()).expect("set an attribute");
        count.set(step + 1);
    }
}

fn reader() {
    let files = attach(&path("REGION")).expect("attach");
    let inode = find(&files, b"file");
    let mut seen = 0;
    report("begins");
    for _ in 0..number("STEPS") {
        match get(&files, inode, LARGE) {
            Ok(value) => {
                step_of(&value);
                seen += 1;
            }
            Err(Errno::NODATA) => {}
            Err(error) => panic!("reading while others write: {error}"),
        }
        let mut names = vec![0; 200];
        let length = files.list_attributes(&ROOT, inode, &UserTarget::from_slice(&mut names)).expect("a list");
        let of_setter = names[..length].split(|byte| *byte == 0).filter(|name| !name.starts_with(b"user.of another"));
        let listed: Vec<&[u8]> = of_setter.filter(|name| !name.is_empty()).collect();
        let right = [&[SMALL, LARGE][..], &[SMALL], &[LARGE], &[]].contains(&&listed[..]);
        assert!(right, "{:?}", String::from_utf8_lossy(&names[..length]));
    }
    report(&seen.to_string());
}

#[test]
fn a_killed_setter_leaves_the_old_value_or_the_new_one() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("attributes", 32 << 20);
    let folder = ScratchDirectory::on_tmpfs("counts");
    let count = folder.path().join("count");
    let mut random = Random::new(seed(5));
    let (rounds, mut first, mut in_flight) = (if full() { 300 } else { 25 }, 0, 0);
    let inode = make(&region.attach(), b"file");
    for _ in 0..rounds {
        let role = Role::new("setter").with("REGION", region.path().display()).with("COUNT", count.display());
        let mut setter = role.with("FIRST", first).with("STEPS", 1_000_000_u64).spawn();
        assert_eq!(setter.next_report(LIMIT), "begins");
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        let ended = setter.kill();
        assert!(!ended.noise.contains("panicked"), "{}", ended.describe());
        let done = Progress::open(&count).expect("the count").get().max(first);
        let files = region.attach();
        let found = match get(&files, inode, LARGE) {
            Ok(value) => Some(step_of(&value)),
            Err(Errno::NODATA) => None,
            Err(error) => panic!("after a kill in step {done}: {error}"),
        };
        let may_be_absent = done == 0 || done % 7 == 3;
        let right = match found {
            None => may_be_absent,
            Some(step) => step == done || step + 1 == done,
        };
        assert!(right, "killed in step {done}, found {found:?}");
        in_flight += u64::from(found == Some(done));
        let checked = check(&files);
        assert!(checked.is_clean(), "after a kill in step {done}: {checked}");
        set(&files, inode, LARGE, &value_of(done)).expect("go on after a kill");
        first = done;
    }
    note("killed setter", &format!("{rounds} kills in {first} steps, {in_flight} times the value in flight was there"));
    assert!(first > rounds, "the setters were killed before they did anything");
}

#[test]
fn readers_and_setters_at_once_see_whole_values_and_lose_none() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("attributes", 32 << 20);
    let folder = ScratchDirectory::on_tmpfs("counts");
    make(&region.attach(), b"file");
    let role = |name: &str, number: u32| {
        let count = folder.path().join(format!("count-{number}"));
        let role = Role::new(name).with("REGION", region.path().display()).with("COUNT", count.display());
        role.with("STEPS", if full() { 20_000 } else { 1500 })
    };
    let setter = role("setter", 0).with("FIRST", 4).spawn();
    let mut readers = vec![role("reader", 1).spawn(), role("reader", 2).spawn()];
    let files = region.attach();
    let inode = find(&files, b"file");
    // A second setter, of other names: neither may undo what the other does.
    for step in 0..500_u64 {
        let name = format!("user.of another {}", step % 3);
        set(&files, inode, name.as_bytes(), &step.to_le_bytes()).expect("set an attribute");
        assert_eq!(get(&files, inode, name.as_bytes()).as_deref(), Ok(&step.to_le_bytes()[..]));
    }
    for step in 0..3 {
        files.remove_attribute(&ROOT, inode, format!("user.of another {step}").as_bytes()).expect("an attribute");
    }
    let ended = setter.wait(LIMIT);
    assert!(ended.status.is_some_and(|status| status.success()), "{}", ended.describe());
    for reader in readers.drain(..) {
        let ended = reader.wait(LIMIT);
        assert!(ended.status.is_some_and(|status| status.success()), "{}", ended.describe());
    }
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn attributes_give_all_of_their_space_back() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("attributes", 16 << 20);
    let files = region.attach();
    let inode = make(&files, b"file");
    let large = bytes(1, 65536);
    // As much as an inode may have, then no more; what was there stays.
    let mut count = 0;
    let ended = loop {
        match set(&files, inode, format!("user.{count}").as_bytes(), &large) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((ended, count), (Errno::NOSPC, 31), "2 MiB for all attributes of an inode");
    assert!(get(&files, inode, b"user.30").is_ok_and(|value| value == large));
    assert_eq!(get(&files, inode, b"user.31"), Err(Errno::NODATA));
    let mut short = [0; 100];
    let asked = files.get_attribute(&ROOT, inode, b"user.0", &UserTarget::from_slice(&mut short));
    assert_eq!(asked, Err(Errno::RANGE));
    assert_eq!(files.get_attribute(&ROOT, inode, b"user.0", &UserTarget::from_slice(&mut [])), Ok(65536));
    for number in (0..count).rev().step_by(2) {
        files.remove_attribute(&ROOT, inode, format!("user.{number}").as_bytes()).expect("an attribute");
        let checked = check(&files);
        assert!(checked.is_clean(), "{checked}");
    }
    // A region without room for a longer value keeps the one that it has.
    let file = files.open(&ROOT, files.root(), b"filler", libc::O_WRONLY | libc::O_CREAT, 0o600).expect("a file");
    while files.write(file, &[UserSource::from_slice(&large)], lifeboat_fs::Position::Current).is_ok() {}
    files.close(file).expect("close");
    let mut kept = 0;
    while set(&files, inode, b"user.filled", &value_of(kept * 8 + 6)).is_ok() && kept < 100 {
        kept += 1;
        if kept < 100 {
            let other = format!("user.other {kept}");
            let _ = set(&files, inode, other.as_bytes(), &large);
        }
    }
    assert!(get(&files, inode, b"user.1").is_ok_and(|value| value == large));
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
    files.unlink(&ROOT, files.root(), b"filler").expect("remove a file");
    files.unlink(&ROOT, files.root(), b"file").expect("remove a file");
    let before = files.usage().bytes_free;
    let again = make(&files, b"file");
    set(&files, again, LARGE, &large).expect("set an attribute");
    files.unlink(&ROOT, files.root(), b"file").expect("remove a file");
    assert_eq!(files.usage().bytes_free, before, "the space of a removed file's attributes");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}

#[test]
fn damaged_attributes_answer_euclean_and_the_check_names_them() {
    let _nothing_left = NoResidue::begin();
    let mut random = Random::new(seed(6));
    let rounds = if full() { 300 } else { 20 };
    let (mut damaged, mut harmless) = (0, 0);
    for round in 0..rounds {
        let region = ScratchRegion::new("damage", 8 << 20);
        let files = region.attach();
        let inode = make(&files, b"file");
        let value = bytes(round, [30, 1000, 30_000, 65_536][(round % 4) as usize]);
        set(&files, inode, b"user.first", b"value").expect("set an attribute");
        set(&files, inode, LARGE, &value).expect("set an attribute");
        // The value's bytes and the word that leads to them are found by what they hold.
        let file = std::fs::OpenOptions::new().read(true).write(true).open(region.file()).expect("the region's file");
        let mut all = std::fs::read(region.file()).expect("the region's bytes");
        let at = all.windows(LARGE.len()).position(|window| window == LARGE).expect("the attribute's name") as u64;
        let word_at = inode.number() * 256 + 144;
        let target = match round % 5 {
            0 => word_at + random.below(8),
            1 => at - 8 + random.below(8),
            2 => at + LARGE.len() as u64 + random.below(20),
            3 => (at & !255) + random.below(8),
            _ => at + random.below(LARGE.len() as u64),
        };
        let byte = &mut all[target as usize];
        *byte ^= 1 << random.below(8);
        file.write_all_at(&[*byte], target).expect("write a byte");
        let found = get(&files, inode, LARGE);
        match &found {
            Ok(bytes) => assert!(*bytes == value, "another value passed for the right one"),
            Err(error) => assert_eq!(*error, Errno::UCLEAN, "byte {target}"),
        }
        let listed = files.list_attributes(&ROOT, inode, &UserTarget::from_slice(&mut [0; 200]));
        assert!(matches!(listed, Ok(_) | Err(Errno::UCLEAN)), "{listed:?}");
        let changed = set(&files, inode, SMALL, b"x");
        assert!(matches!(changed, Ok(()) | Err(Errno::UCLEAN)), "{changed:?}");
        if found.is_err() {
            damaged += 1;
            let text = check(&files).to_string();
            // Of the word that leads to them the check knows what it was.
            let known = if target / 8 == word_at / 8 { "flips the one wrong bit back" } else { "extended attributes" };
            assert!(text.contains(known), "{text}");
            // Taking the file apart may be impossible; it must end all the same.
            let _ = files.unlink(&ROOT, files.root(), b"file");
        } else {
            harmless += 1;
        }
    }
    note("damaged attributes", &format!("{damaged} of {rounds} refused, {harmless} harmless"));
    assert!(damaged * 10 >= rounds * 9);
}

/// Sets an attribute; or prints a sum of all attributes of each file.
const ATTRIBUTES: &str = r#"
import hashlib, os, sys
words = sys.argv[1:]
if words[0] == "set":
    os.setxattr(words[1], words[2], words[3].encode())
elif words[0] == "remove":
    os.removexattr(words[1], words[2])
else:
    for name in words[1:]:
        found = sorted((key, os.getxattr(name, key)) for key in os.listxattr(name) if key.startswith("user."))
        print(len(found), hashlib.md5(repr(found).encode()).hexdigest())
"#;

#[test]
fn tools_carry_attributes_into_the_mount_and_out() {
    let _nothing_left = NoResidue::begin();
    if !is_installed("python3") {
        return skipped("tools and attributes", "python3 is not installed");
    }
    let outside = ScratchDirectory::on_tmpfs("tools");
    let helper = outside.path().join("attributes.py");
    std::fs::write(&helper, ATTRIBUTES).expect("a script");
    let probe = outside.path().join("probe");
    std::fs::write(&probe, "content").expect("a file");
    let can = Command::new("python3").arg(&helper).arg("set").arg(&probe).args(["user.one", "1"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        return skipped("tools and attributes", "this kernel's tmpfs keeps none");
    }
    let mounted = Mounted::new("tools", "32MiB");
    let script = format!(
        "set -e; T={}; cd {}; x() {{ python3 -B $T/attributes.py \"$@\"; }}; x set $T/probe user.long $(seq -s, 2000)\n\
         cp -a $T/probe a; mv a b; cp -a b $T/back; python3 -c 'import shutil; shutil.copy2(\"b\", \"c\")'\n\
         mv b $T/b; mv $T/b b; tar --xattrs -cf t.tar b; mkdir x; tar --xattrs --xattrs-include='*' -xf t.tar -C x\n\
         if command -v rsync > /dev/null; then rsync -aX b r; rsync -aX b $T/r; else cp -a b r; cp -a b $T/r; fi\n\
         x show $T/probe b c $T/back r $T/r x/b | uniq | cut -c1-2\n\
         mkdir d; x set d user.d dir; cp -a d e; x show d e | uniq | cut -c1-2\n\
         x remove b user.one; x show b | cut -c1-2; x remove b user.one 2> /dev/null || echo gone",
        outside.path().display(),
        mounted.prefix().display()
    );
    let created = mounted.shell("true");
    assert!(created.status.success(), "{created:?}");
    let output = limited(mounted.exec().args(["bash", "-c", &script]), 60).output().expect("start lifeboat");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "2 \n1 \n1 \ngone\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
