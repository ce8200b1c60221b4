//! The fear: the region is deleted or cut short behind programs that use it, and they lose what they have open, or die
//! without a word.

use lifeboat_testkit::command::{Mounted, lifeboat, limited};
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::is_root;
use std::os::unix::ffi::OsStrExt;

/// What a shell in the mount says and prints; `REGION` is the region's directory.
fn shell(node: &Mounted, text: &str) -> (Option<i32>, String, String) {
    let mut command = node.exec();
    command.args(["sh", "-c", text]).env("REGION", node.directory()).env("DIR", node.prefix());
    let output = limited(&command, 60).output().expect("the shell runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stderr);
    let said = said.lines().filter(|line| !line.contains("created region")).collect::<Vec<_>>().join("\n");
    (output.status.code(), text(&output.stdout), said)
}

/// A region of which tests destroy what its removal needs.
struct Victim(Mounted);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = limited(&lifeboat(["region", "remove", self.0.name()]), 60).output();
        // What covers the prefix was written down in the region's directory.
        let _ = rustix::mount::unmount(self.0.prefix().as_os_str().as_bytes(), rustix::mount::UnmountFlags::DETACH);
        // What was deleted by hand leaves the user's directory.
        let _ = self.0.directory().parent().map(std::fs::remove_dir);
    }
}

/// Creates the region on the carrier that is a plain file in /dev/shm.
fn region(label: &str) -> Victim {
    let victim = Victim(Mounted::new(label, "16MiB"));
    let created = lifeboat(["region", "create", victim.0.name(), "--size", "16MiB", "--carrier", "shm"]);
    let output = limited(&created, 60).output().expect("lifeboat runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    victim
}

#[test]
fn a_region_that_is_deleted_behind_its_programs_keeps_their_open_files() {
    let _nothing_left = NoResidue::begin();
    let victim = region("deleted");
    let node = &victim.0;
    let (code, out, said) = shell(
        node,
        "echo one > $DIR/file; exec 5>>$DIR/file 6<$DIR/file
         env -u LD_PRELOAD rm -rf $REGION 2>/dev/null
         echo two >&5 && echo written; (echo three >&5) || echo child refused
         read first <&6 && read second <&6 && echo $first $second
         echo more > $DIR/other || echo refused
         sh -c ': > $DIR/another' || echo refused too",
    );
    // Root has the placeholders of open files on a mount, which stays.
    let own = if is_root() { "" } else { "refused\n" };
    assert_eq!((code, out), (Some(0), format!("written\nchild refused\none two\n{own}refused too\n")), "{said}");
    let told = said.lines().filter(|line| line.contains("deleted behind the programs")).count();
    assert_eq!(told, if is_root() { 1 } else { 2 }, "{said}");
    assert!(said.contains("no such region"), "the next program is not told: {said}");
}

#[test]
fn what_is_kept_of_closed_files_opens_nothing_in_a_region_that_was_deleted() {
    let _nothing_left = NoResidue::begin();
    let victim = region("kept");
    let node = &victim.0;
    let program = "
import errno, os, shutil
path = os.environ['DIR'] + '/file'
for i in range(5): os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
shutil.rmtree(os.environ['REGION'], ignore_errors=True)
try:
    os.open(path, os.O_RDWR)
    print('opened')
except OSError as error:
    print(errno.errorcode[error.errno])
";
    let mut command = node.exec();
    command.args(["python3", "-c", program]).env("REGION", node.directory()).env("DIR", node.prefix());
    let output = limited(&command, 60).output().expect("python runs");
    // As above.
    let wanted = if is_root() { "opened\n" } else { "ENXIO\n" };
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_region_that_is_cut_short_ends_its_programs_with_one_line() {
    let _nothing_left = NoResidue::begin();
    for (size, what) in [("0", "echo two >&5"), ("4096", ": > $DIR/new"), ("9000", "cat $DIR/file")] {
        let victim = region("cut");
        let node = &victim.0;
        let cut = format!("env -u LD_PRELOAD truncate -s {size} $REGION/memory/region");
        let (code, out, said) =
            shell(node, &format!("echo one > $DIR/file; exec 5>>$DIR/file; {cut}; {what}; echo on"));
        // A builtin touches the memory that is gone; a program that starts is refused.
        let told = said.contains("is gone: its file was cut short") || said.contains("truncated?");
        assert!(told, "cut to {size}: {code:?} {out} {said}");
        assert!(said.lines().filter(|line| line.starts_with("lifeboat: ")).count() <= 2, "{said}");
        let list = limited(&lifeboat(["region", "list"]), 60).output().expect("lifeboat runs");
        assert!(String::from_utf8_lossy(&list.stdout).contains("truncated?"), "the list does not say it");
        let removed = limited(&lifeboat(["region", "remove", node.name()]), 60).output().expect("lifeboat runs");
        assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    }
}

#[test]
fn data_that_is_cut_off_under_a_program_is_an_error_of_its_reads_and_writes() {
    let _nothing_left = NoResidue::begin();
    let victim = region("holed");
    let node = &victim.0;
    let program = "
import os
d = os.environ['DIR']
f = os.open(d + '/file', os.O_RDWR | os.O_CREAT, 0o600)
for i in range(9): os.pwrite(f, bytes([65 + i]) * 1000000, i * 1000000)
os.truncate(os.environ['REGION'] + '/memory/region', 8 << 20)
whole = gone = 0
for i in range(9):
    try:
        whole += os.pread(f, 1000000, i * 1000000) == bytes([65 + i]) * 1000000
    except OSError as error:
        gone += 1
        print(error.strerror)
    try:
        os.pwrite(f, b'x' * 1000000, i * 1000000)
    except OSError as error:
        print(error.strerror)
print(whole + gone, whole > 0, gone > 0)
";
    let mut command = node.exec();
    command.args(["python3", "-c", program]).env("REGION", node.directory()).env("DIR", node.prefix());
    let output = limited(&command, 60).output().expect("python runs");
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out.lines().last(), Some("9 True True"), "{out}\n{said}");
    let others = out.lines().filter(|line| !line.contains("True") && *line != "Input/output error");
    assert_eq!(others.count(), 0, "{out}\n{said}");
}
