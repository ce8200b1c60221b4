//! Everything that can be wrong with the command line or with what is found in memory: one line, a documented exit code,
//! and nothing lost.

mod support;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use lifeboat_testkit::cgroup::MemoryCgroup;
use lifeboat_testkit::random;
use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use support::{Here, end, lifeboat};

const OPERATION: i32 = 1;
const USAGE: i32 = 2;
const REGION: i32 = 3;

#[test]
fn a_wrong_command_line_makes_nothing() {
    let _clean = NoResidue::begin();
    let here = Here::new("usage");
    for (arguments, expected) in [
        (&["region", "create", "--carrier", "floppy"][..], "unknown carrier"),
        (&["region", "create", "--size", "10GGB"], "unknown unit"),
        (&["region", "create", "--size", "-1"], "negative"),
        (&["region", "create", "--size", "0"], "no bytes"),
        (&["region", "create", "--size", ""], "empty"),
        (&["region", "create", "--size", "1000000000TiB"], "larger than any memory"),
        (&["region", "create", "--size", "500TiB"], "memory"),
        (&["region", "create", "--size", "4KiB"], "at least 8 MiB"),
        (&["region", "create", "a/b"], "slash"),
        (&["region", "create", "/etc"], "slash"),
        (&["region", "create", "../up"], "slash"),
        (&["region", "create", ".."], "dot"),
        (&["region", "create", ""], "empty"),
        (&["region", "create", "with space"], "contains ' '"),
        (&["exec", "--mount", "relative", "true"], "absolute"),
        (&["exec", "--mount", "/", "true"], "whole file system"),
        (&["exec", "--mount", "", "true"], "empty"),
        (&["exec", "--mount", "/a/../b", "true"], ".."),
        (&["exec", "--name", "a/b", "true"], "slash"),
        (&["exec"], "CMD"),
        (&["ls", "--name", "a/b"], "slash"),
        (&["frobnicate"], "frobnicate"),
        (&["cp", "/etc/hostname", "/tmp/x"], "no region"),
    ] {
        let code = if expected == "no region" { REGION } else { USAGE };
        here.run(arguments).refused(code, expected);
    }
    assert_eq!(fs::read_dir(here.place()).unwrap().count(), 0);
}

#[test]
fn a_place_that_is_not_ours_is_refused() {
    let _clean = NoResidue::begin();
    for (place, code) in [("relative", USAGE), ("/", USAGE), ("/dev/shm/", USAGE), ("/dev", REGION)] {
        let ended = end(lifeboat().args(["region", "create", "--size", "8MiB", "--place", place]));
        assert_eq!(ended.code, Some(code), "{place}: {ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
    if is_root() {
        let here = Here::new("owner");
        chown(here.place(), Some(65534), None).unwrap();
        here.run(&["region", "create", "--size", "8MiB"]).refused(REGION, "belongs to user 65534");
        here.run(&["region", "list"]).refused(REGION, "belongs to user 65534");
        chown(here.place(), Some(0), None).unwrap();
    } else {
        let ended = end(lifeboat().args(["ls", "--place", "/root"]));
        ended.refused(REGION, "closed to this user");
    }
}

#[test]
fn limits_of_the_process_are_named_and_kill_nobody() {
    let _clean = NoResidue::begin();
    let here = Here::new("limits");
    let limited = |limit: &str, arguments: &[&str]| {
        let command = here.command(arguments);
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("ulimit {limit}; exec \"$@\""), "bash"]);
        end(shell.arg(command.get_program()).args(command.get_args()))
    };
    let create = ["region", "create", "a", "--size", "64MiB", "--carrier", "shm"];
    limited("-f 1024", &create).refused(OPERATION, "ulimit -f");
    assert!(!here.place().join("a").exists());
    here.must(&create);
    limited("-v 60000", &["ls", "--name", "a"]).refused(REGION, "ulimit -v");
    let ended = limited("-n 4", &["ls", "--name", "a"]);
    assert!(ended.code != Some(0) && ended.err.lines().count() == 1, "{ended:?}");
    here.must(&["ls", "--name", "a"]);
}

#[test]
fn a_region_that_is_not_there_is_named() {
    let _clean = NoResidue::begin();
    let here = Here::new("absent");
    for arguments in [
        &["ls"][..],
        &["cat", "/x"],
        &["df"],
        &["region", "info"],
        &["region", "info", "nobody"],
        &["region", "check"],
        &["region", "remove", "nobody"],
    ] {
        let name = if arguments.contains(&"nobody") { "`nobody`" } else { "`default`" };
        here.run(arguments).refused(REGION, name);
    }
}

#[test]
fn a_second_region_of_the_same_name_leaves_the_first_alone() {
    let _clean = NoResidue::begin();
    let here = Here::new("second");
    here.must(&["region", "create", "a", "--size", "8MiB"]);
    fs::write(here.file("data"), b"precious").unwrap();
    here.must(&["cp", "--name", "a", here.file("data").to_str().unwrap(), ":data"]);
    here.run(&["region", "create", "a", "--size", "16MiB"]).refused(OPERATION, "region `a` exists already");
    assert_eq!(here.must(&["cat", "--name", "a", "data"]), "precious");
    here.must(&["region", "remove", "a"]);
}

/// What each damage does to the file of a region's memory.
type Damage = (&'static str, &'static dyn Fn(&Path));

const LENGTH: u64 = 8 << 20;

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

fn cut(path: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn memory_that_is_not_a_region_is_refused_untouched() {
    let _clean = NoResidue::begin();
    let damages: [Damage; 10] = [
        ("empty", &|path| cut(path, 0)),
        ("one byte", &|path| cut(path, 1)),
        ("less than a superblock", &|path| cut(path, 4095)),
        ("half", &|path| cut(path, LENGTH / 2)),
        ("without its last page", &|path| cut(path, LENGTH - 4096)),
        ("all zeros", &|path| overwrite(path, 0, &vec![0; LENGTH as usize])),
        ("all ones", &|path| overwrite(path, 0, &vec![0xff; LENGTH as usize])),
        ("random bytes", &|path| overwrite(path, 0, &random::bytes(7, LENGTH as usize))),
        ("another version", &|path| {
            overwrite(path, 8, &[9]);
            overwrite(path, 4096 + 8, &[9]);
        }),
        ("no magic", &|path| {
            overwrite(path, 0, b"LIFEBOA7");
            overwrite(path, 4096, b"LIFEBOA7");
        }),
    ];
    for (what, damage) in damages {
        let here = Here::new("damage");
        // shm: its file can be written with ordinary calls by every user.
        here.must(&["region", "create", "a", "--size", "8MiB", "--carrier", "shm"]);
        let memory = here.memory("a");
        damage(&memory);
        let before = fs::read(&memory).unwrap();
        for arguments in [&["ls", "--name", "a"][..], &["region", "info", "a"], &["df", "--name", "a"]] {
            let ended = here.run(arguments);
            assert_eq!((what, ended.code), (what, Some(REGION)), "{ended:?}");
            assert_eq!(ended.err.lines().count(), 1, "{what}: {ended:?}");
        }
        let ended = end(&mut here.exec(&["--name", "a", "--mount", here.file("m").to_str().unwrap()], &["true"]));
        assert_eq!((what, ended.code), (what, Some(REGION)), "{ended:?}");
        assert!(fs::read(&memory).unwrap() == before, "{what}: the memory was changed");
        // It is listed with its problem, and it can be removed.
        assert!(here.must(&["region", "list"]).contains("a "), "{what}");
        here.must(&["region", "remove", "a"]);
        assert!(!here.place().join("a").exists(), "{what}");
    }
}

#[test]
fn one_damaged_superblock_copy_costs_nothing() {
    let _clean = NoResidue::begin();
    for copy in [0, 4096u64] {
        for byte in [0, 8, 100, 319] {
            let here = Here::new("flip");
            here.must(&["region", "create", "a", "--size", "8MiB", "--carrier", "shm"]);
            fs::write(here.file("data"), b"precious").unwrap();
            here.must(&["cp", "--name", "a", here.file("data").to_str().unwrap(), ":data"]);
            let mut old = [0];
            let mut file = fs::File::open(here.memory("a")).unwrap();
            file.seek(SeekFrom::Start(copy + byte)).unwrap();
            file.read_exact(&mut old).unwrap();
            overwrite(&here.memory("a"), copy + byte, &[old[0] ^ 0x10]);
            assert_eq!(here.must(&["cat", "--name", "a", "data"]), "precious");
            let ended = here.run(&["region", "check", "a"]);
            assert_eq!(ended.code, Some(OPERATION), "{ended:?}");
            assert!(String::from_utf8_lossy(&ended.out).contains("superblock"), "{ended:?}");
            assert!(ended.err.contains("--repair"), "{ended:?}");
            let mended = here.run(&["region", "check", "--repair", "a"]);
            assert_eq!(mended.code, Some(0), "{mended:?}");
            assert!(here.must(&["region", "check", "a"]).contains("clean"));
            assert_eq!(here.must(&["cat", "--name", "a", "data"]), "precious");
        }
    }
}

#[test]
fn a_damaged_lock_word_is_found_and_freed() {
    use lifeboat_region::layout::RENAME_LOCK;
    let _clean = NoResidue::begin();
    let here = Here::new("lock");
    here.must(&["region", "create", "a", "--size", "8MiB", "--carrier", "shm"]);
    overwrite(&here.memory("a"), RENAME_LOCK, &[0xff; 8]);
    let ended = here.run(&["region", "check", "a"]);
    ended.refused(OPERATION, "--repair");
    assert!(String::from_utf8_lossy(&ended.out).contains("lock"), "{ended:?}");
    let mended = here.run(&["region", "check", "--repair", "a"]);
    assert_eq!(mended.code, Some(0), "{mended:?}");
    assert!(here.must(&["region", "check", "a"]).contains("clean"));
}

#[test]
fn memory_that_others_could_have_planted_is_refused_untouched() {
    let _clean = NoResidue::begin();
    let here = Here::new("planted");
    here.must(&["region", "create", "a", "--size", "8MiB", "--carrier", "shm"]);
    let memory = here.memory("a");
    let refused = |expected: &str| here.run(&["ls", "--name", "a"]).refused(REGION, expected);

    fs::set_permissions(&memory, PermissionsExt::from_mode(0o666)).unwrap();
    refused("open to other users");
    fs::set_permissions(&memory, PermissionsExt::from_mode(0o600)).unwrap();

    fs::hard_link(&memory, here.place().join("a/memory/other")).unwrap();
    refused("hard links");
    fs::remove_file(here.place().join("a/memory/other")).unwrap();

    fs::rename(&memory, here.place().join("a/memory/aside")).unwrap();
    std::os::unix::fs::symlink("aside", &memory).unwrap();
    refused("not a regular file");
    fs::remove_file(&memory).unwrap();
    refused("holds no memory");
    fs::rename(here.place().join("a/memory/aside"), &memory).unwrap();

    fs::set_permissions(here.place().join("a"), PermissionsExt::from_mode(0o755)).unwrap();
    refused("open to other users");
    fs::set_permissions(here.place().join("a"), PermissionsExt::from_mode(0o700)).unwrap();
    if is_root() {
        chown(&memory, Some(65534), None).unwrap();
        refused("belongs to user 65534");
        chown(&memory, Some(0), None).unwrap();
        chown(here.place().join("a"), Some(65534), None).unwrap();
        refused("belongs to user 65534");
        chown(here.place().join("a"), Some(0), None).unwrap();
    }
    here.must(&["ls", "--name", "a"]);
}

#[test]
fn without_permission_to_mount_there_still_is_a_region_and_a_word_about_it() {
    let _clean = NoResidue::begin();
    let here = Here::new("mount");
    if !is_root() {
        here.run(&["region", "create", "a", "--size", "8MiB", "--carrier", "tmpfs"])
            .refused(OPERATION, "may not mount");
        here.must(&["region", "create", "a", "--size", "8MiB"]);
        assert!(here.must(&["region", "list"]).contains("shm"));
        return;
    }
    // Root without the capability, as in most containers.
    let confined = |arguments: &[&str]| {
        let command = here.command(arguments);
        let mut confined = Command::new("setpriv");
        confined.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
        confined.arg(command.get_program()).args(command.get_args());
        end(&mut confined)
    };
    confined(&["region", "create", "a", "--size", "8MiB", "--carrier", "tmpfs"]).refused(OPERATION, "may not mount");
    assert!(!here.place().join("a").exists(), "a failed creation left something behind");
    let ended = confined(&["region", "create", "a", "--size", "8MiB"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("no permission to mount a tmpfs"), "{ended:?}");
    assert!(ended.err.contains("using carrier shm"), "{ended:?}");
    here.must(&["ls", "--name", "a"]);
}

#[test]
fn a_region_larger_than_the_group_may_have_kills_nobody() {
    let _clean = NoResidue::begin();
    let group = match MemoryCgroup::new(160 << 20) {
        Ok(group) => group,
        Err(why) => return skipped("region larger than the control group", &why),
    };
    let here = Here::new("group");
    for (size, carrier) in [("256MiB", "shm"), ("1GiB", "auto"), ("120MiB", "shm"), ("150MiB", "auto")] {
        let arguments = ["region", "create", "a", "--size", size, "--carrier", carrier];
        let command = here.command(&arguments);
        let mut limited = group.command(Path::new(command.get_program()));
        limited.args(command.get_args());
        end(&mut limited).refused(OPERATION, "the memory cgroup");
        assert!(!here.place().join("a").exists(), "{size}");
    }
    assert_eq!(group.kills(), 0);
    // What fits is made, and the group lives.
    let command = here.command(&["region", "create", "a", "--size", "64MiB", "--carrier", "shm"]);
    let mut limited = group.command(Path::new(command.get_program()));
    let ended = end(limited.args(command.get_args()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(group.kills(), 0);
    here.must(&["region", "remove", "a"]);
}
