//! Files in a region by the command alone.

mod support;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use lifeboat_testkit::random;
use lifeboat_testkit::residue::NoResidue;
use support::Here;

fn here_with_region(label: &str) -> Here {
    let here = Here::new(label);
    here.must(&["region", "create", "--size", "32MiB"]);
    here
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn files_come_out_as_they_went_in() {
    let _clean = NoResidue::begin();
    let here = here_with_region("copy");
    let tree = here.file("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    for (name, length) in [("empty", 0), ("a/one", 1), ("a/page", 4096), ("a/b/odd", 70_001), ("large", 3 << 20)] {
        fs::write(tree.join(name), random::bytes(length as u64, length)).unwrap();
    }
    std::os::unix::fs::symlink("a/one", tree.join("link")).unwrap();
    let (tree, back) = (tree.to_str().unwrap(), here.file("back"));
    here.must(&["cp", "-r", tree, ":tree"]);
    here.must(&["cp", "-r", ":tree", ":again"]);
    here.must(&["cp", "-r", ":again", back.to_str().unwrap()]);
    let same = std::process::Command::new("diff").args(["-r", tree]).arg(&back).status().unwrap();
    assert!(same.success());
    assert_eq!(fs::read_link(back.join("link")).unwrap().to_str(), Some("a/one"));
    // Into an existing directory: under its own name.
    here.must(&["cp", back.join("large").to_str().unwrap(), ":/again/a"]);
    assert!(here.must(&["ls", "/again/a"]).contains("large"));
}

#[test]
fn the_prefix_may_be_written_or_left_out() {
    let _clean = NoResidue::begin();
    let here = here_with_region("prefix");
    fs::write(here.file("x"), b"hello").unwrap();
    let x = here.file("x");
    here.must(&["cp", "--mount", "/ckpt", x.to_str().unwrap(), "/ckpt/x"]);
    for path in ["/ckpt/x", "/x", "x", ":x", ":/x"] {
        assert_eq!(here.must(&["cat", "--mount", "/ckpt", path]), "hello", "{path}");
    }
    here.run(&["cat", "--mount", "/ckpt", "/ckptx"]).refused(1, "/ckptx");
    here.run(&["cp", x.to_str().unwrap(), "/tmp/nowhere"]).refused(2, "neither path is in the region");
}

#[test]
fn listings_show_what_is_there() {
    let _clean = NoResidue::begin();
    let here = here_with_region("list");
    fs::create_dir(here.file("d")).unwrap();
    for name in ["b", "a", "c"] {
        fs::write(here.file("d").join(name), name).unwrap();
    }
    here.must(&["cp", "-r", here.file("d").to_str().unwrap(), ":d"]);
    assert_eq!(here.must(&["ls"]), "d\n");
    assert_eq!(here.must(&["ls", "/d"]), "a\nb\nc\n");
    assert_eq!(here.must(&["ls", "-d", "/d"]), "/d\n");
    assert!(here.must(&["ls", "-l", "/d"]).lines().all(|line| line.starts_with("-rw")));
    let listed = json(&here.must(&["ls", "--json", "/d"]));
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert_eq!(listed[0]["path"], "/d/a");
    assert_eq!(listed[0]["size"], 1);
    let found = json(&here.must(&["stat", "--json", "/d"]));
    assert_eq!(found[0]["kind"], "directory");
    here.must(&["stat", "/d", "/d/a"]);
    here.run(&["ls", "/none"]).refused(1, "no such file");
    let du = json(&here.must(&["du", "--json", "/d"]));
    assert_eq!(du[0]["files"], 4);
    assert_eq!(du[0]["path"], "/d");
    let df = json(&here.must(&["df", "--json"]));
    assert_eq!(
        df["bytes_total"].as_u64().unwrap(),
        df["bytes_used"].as_u64().unwrap() + df["bytes_free"].as_u64().unwrap()
    );
    assert!(here.must(&["df"]).contains("default"));
}

#[test]
fn removing_takes_only_what_was_named() {
    let _clean = NoResidue::begin();
    let here = here_with_region("rm");
    fs::create_dir_all(here.file("d/e")).unwrap();
    fs::write(here.file("d/e/f"), b"x").unwrap();
    for name in [":d", ":keep"] {
        here.must(&["cp", "-r", here.file("d").to_str().unwrap(), name]);
    }
    here.run(&["rm", "/d"]).refused(1, "add -r");
    here.run(&["rm", "-r", "/"]).refused(1, "region remove");
    here.run(&["rm", "-r", "/lifeboat", "--mount", "/lifeboat"]).refused(1, "region remove");
    here.run(&["rm", "-rf", ""]).refused(1, "no such file");
    here.run(&["rm", "/none"]).refused(1, "no such file");
    here.must(&["rm", "-f", "/none"]);
    here.must(&["rm", "-r", "/d"]);
    assert_eq!(here.must(&["ls"]), "keep\n");
    let used = |here: &Here| json(&here.must(&["df", "--json"]))["inodes_used"].as_u64();
    assert_eq!(used(&here), Some(4));
    assert!(here.must(&["region", "check"]).contains("clean"));
}

#[test]
fn a_full_region_says_so_and_keeps_what_it_has() {
    let _clean = NoResidue::begin();
    let here = here_with_region("full");
    fs::write(here.file("small"), b"precious").unwrap();
    fs::write(here.file("large"), random::bytes(1, 40 << 20)).unwrap();
    here.must(&["cp", here.file("small").to_str().unwrap(), ":small"]);
    here.run(&["cp", here.file("large").to_str().unwrap(), ":large"]).refused(1, "region is full");
    assert_eq!(here.must(&["cat", "small"]), "precious");
    here.must(&["rm", "large"]);
    here.must(&["cp", here.file("small").to_str().unwrap(), ":again"]);
    assert!(here.must(&["region", "check"]).contains("clean"));
}

#[test]
fn seals_say_how_the_blocks_are_protected_and_damage_is_found() {
    let _clean = NoResidue::begin();
    let here = Here::new("seal");
    here.must(&["region", "create", "--size", "16MiB", "--carrier", "shm"]);
    let contents = random::bytes(3, 200_000);
    fs::write(here.file("x"), &contents).unwrap();
    here.must(&["cp", here.file("x").to_str().unwrap(), ":x"]);
    assert!(here.must(&["verify"]).contains("not sealed"));
    let sealed = here.must(&["seal", "/x"]);
    assert!(sealed.contains("4 blocks end to end, 0 as of seal"), "{sealed}");
    let verified = json(&here.must(&["verify", "--json", "/"]));
    assert_eq!((&verified[0]["sealed"], &verified[0]["bad"]), (&true.into(), &0.into()));
    // A new version is not sealed.
    here.must(&["cp", here.file("x").to_str().unwrap(), ":x"]);
    assert!(here.must(&["verify", "/x"]).contains("not sealed"));
    here.must(&["seal", "/x"]);
    here.run(&["seal", "/"]).refused(1, "not a regular file");

    // One bit of the contents, wherever they lie in the memory.
    let mut memory = fs::read(here.memory("default")).unwrap();
    let at = memory.windows(64).position(|window| window == &contents[100_000..100_064]).unwrap();
    memory[at] ^= 1;
    fs::write(here.memory("default"), &memory).unwrap();
    let ended = here.run(&["verify", "/x"]);
    ended.refused(1, "do not match");
    assert!(
        String::from_utf8_lossy(&ended.out).contains("DAMAGED /x: 1 blocks do not match, the first at byte 65536"),
        "{ended:?}"
    );
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let _clean = NoResidue::begin();
    let here = here_with_region("pipe");
    fs::write(here.file("large"), vec![b'x'; 4 << 20]).unwrap();
    here.must(&["cp", here.file("large").to_str().unwrap(), ":large"]);
    let mut child = here.command(&["cat", "/large"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(141));
    assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}
