//! Scenarios about which check comes first when several things are wrong, and about what set-id bits survive.

use super::scenario::{Transcript, shown};
use crate::volume::{User, Volume};

/// A name one byte too long.
const TOO_LONG: [u8; 256] = [b'n'; 256];
/// Symbolic links behind each other, more than may be followed.
const CHAIN: usize = 45;

/// Makes the tree that the odd paths are about, as far as it is not there.
fn set_up<V: Volume>(volume: &V) {
    for name in ["f", "g", "d/f"] {
        let _ = volume.mkdir(None, b"d", 0o755);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let _ = volume.open(None, name.as_bytes(), flags, 0o644).map(|file| volume.close(file));
    }
    let _ = (volume.mkdir(None, b"e", 0o755), volume.mkdir(None, b"d/sub", 0o755));
    for (target, name) in
        [("nowhere", "dangling"), ("loop", "loop"), ("loop/", "slash"), ("d", "to-dir"), ("f/", "bad")]
    {
        let _ = volume.symlink(target.as_bytes(), None, name.as_bytes());
    }
    let _ = volume.symlink(&[b"deep/aaa/".as_slice(), &TOO_LONG].concat(), None, b"deep");
}

fn odd_paths() -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<u8>> = [
        "f",
        "f/",
        "f/x",
        "f/..",
        "f/.",
        "d",
        "d/",
        "d/.",
        "d/..",
        "d/sub",
        "d/sub/..",
        "e",
        "absent",
        "absent/",
        "absent/x",
        "absent/..",
        ".",
        "..",
        "dangling",
        "dangling/",
        "dangling/x",
        "loop",
        "loop/x",
        "slash",
        "slash/",
        "to-dir",
        "to-dir/",
        "to-dir/f",
        "to-dir/..",
        "bad",
        "bad/x",
        "deep",
        "",
    ]
    .map(|path| path.as_bytes().to_vec())
    .to_vec();
    for around in [("", ""), ("", "/"), ("", "/x"), ("", "/.."), ("d/", ""), ("absent/", ""), ("f/", ""), ("loop/", "")]
    {
        paths.push([around.0.as_bytes(), &TOO_LONG, around.1.as_bytes()].concat());
    }
    paths
}

/// Those of them that differ as the second path of a call.
fn odd_goals() -> Vec<Vec<u8>> {
    let goals = [
        "f", "f/", "f/x", "f/..", "d", "d/", "d/.", "d/sub", "absent", "absent/", "absent/x", "..", "dangling",
        "loop/x", "slash", "to-dir", "",
    ];
    let short = goals.map(|path| path.as_bytes().to_vec());
    let long = [TOO_LONG.to_vec(), [&TOO_LONG, b"/x".as_slice()].concat(), [b"absent/", TOO_LONG.as_slice()].concat()];
    [short.as_slice(), long.as_slice()].concat()
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).replace(&"n".repeat(TOO_LONG.len()), "<too long>")
}

/// Every call with every odd path, in an ordinary directory and in one that was removed while open.
pub fn order_of_checks<V: Volume>(volume: &V, said: &mut Transcript) {
    let (paths, goals) = (odd_paths(), odd_goals());
    for path in &paths {
        set_up(volume);
        calls(volume, None, path, said);
        for other in &goals {
            for flags in 0..4 {
                let moved = volume.rename(None, path, other, flags);
                said.say(format!("rename {} to {}, flags {flags}", text(path), text(other)), moved);
                if moved.is_ok() {
                    clear(volume);
                    set_up(volume);
                }
            }
            let linked = volume.link(None, path, other, false);
            said.say(format!("link {} to {}", text(path), text(other)), linked);
            if linked.is_ok() {
                let _ = volume.unlink(None, other);
            }
        }
    }
    clear(volume);
    let _ = volume.mkdir(None, b"gone", 0o755);
    let gone = volume.open(None, b"gone", libc::O_RDONLY | libc::O_DIRECTORY, 0).expect("a new directory");
    let _ = volume.rmdir(None, b"gone");
    for path in &paths {
        said.say("in a removed directory", text(path));
        calls(volume, Some(gone), path, said);
        said.say("rename", volume.rename(Some(gone), path, b"x", 0));
        said.say("rename onto", volume.rename(Some(gone), b"x", path, libc::RENAME_NOREPLACE));
    }
    let _ = volume.close(gone);
    chain_of_links(volume, said);
}

fn clear<V: Volume>(volume: &V) {
    super::remove_all(volume, b"").expect("remove what the scenario made");
}

fn calls<V: Volume>(volume: &V, base: Option<V::File>, path: &[u8], said: &mut Transcript) {
    let name = text(path);
    let mut say = |what: &str, answer: Result<(), i32>| said.say(format!("{what} {name}"), answer);
    say("stat", volume.stat(base, path, true).map(drop));
    say("lstat", volume.stat(base, path, false).map(drop));
    say("readlink", volume.readlink(base, path).map(drop));
    say("truncate", volume.truncate(base, path, 0));
    let create = libc::O_RDWR | libc::O_CREAT;
    for flags in [
        libc::O_RDONLY,
        libc::O_RDONLY | libc::O_NOFOLLOW,
        libc::O_RDONLY | libc::O_DIRECTORY,
        libc::O_PATH,
        libc::O_PATH | libc::O_NOFOLLOW,
        create,
        create | libc::O_NOFOLLOW,
        create | libc::O_EXCL,
        libc::O_TMPFILE | libc::O_RDWR,
    ] {
        say(&format!("open {flags:#o}"), volume.open(base, path, flags, 0o644).and_then(|file| volume.close(file)));
        // What was created behind a link or under its own name.
        let _ = (volume.unlink(base, b"absent"), volume.unlink(base, b"nowhere"));
    }
    for (what, kind) in [("fifo", libc::S_IFIFO), ("directory as a node", libc::S_IFDIR), ("no kind", 0o110_000)] {
        say(what, volume.mknod(base, path, kind | 0o600, 0));
        let _ = volume.unlink(base, b"absent");
    }
    say("symlink", volume.symlink(b"target", base, path));
    let _ = volume.unlink(base, b"absent");
    say("mkdir", volume.mkdir(base, path, 0o700));
    let _ = volume.rmdir(base, b"absent");
    say("unlink", volume.unlink(base, path));
    say("rmdir", volume.rmdir(base, path));
    set_up(volume);
}

/// As many links behind each other as may be followed, and one more.
fn chain_of_links<V: Volume>(volume: &V, said: &mut Transcript) {
    let _ = volume.mkdir(None, b"chain0", 0o755);
    for number in 1..=CHAIN {
        let _ = volume.symlink(format!("chain{}", number - 1).as_bytes(), None, format!("chain{number}").as_bytes());
    }
    for number in 1..=CHAIN {
        let path = format!("chain{number}");
        said.say(format!("through {number} links"), volume.stat(None, path.as_bytes(), true).map(drop));
        said.say("and on", volume.stat(None, format!("{path}/.").as_bytes(), false).map(drop));
        said.say("and one more", volume.stat(None, format!("{path}/../{path}").as_bytes(), false).map(drop));
    }
    clear(volume);
}

/// Set-user-id and set-group-id bits: who may set them, what takes them away. Takes root on the kernel's side.
pub fn set_id_bits<V: Volume>(volume: &mut V, said: &mut Transcript) {
    let root = User { uid: 0, gid: 0, groups: Vec::new() };
    let owner = User { uid: 61001, gid: 61001, groups: vec![62000] };
    let member = User { uid: 61003, gid: 61003, groups: vec![62000] };
    let stranger = User { uid: 61002, gid: 61002, groups: Vec::new() };
    let modes = [0o4755, 0o2755, 0o2775, 0o2777, 0o2666, 0o6777, 0o6666, 0o4666];
    for (name, caller) in [("root", &root), ("owner", &owner), ("member", &member), ("stranger", &stranger)] {
        for mode in modes {
            for (what, act) in steps() {
                volume.become_user(&root);
                let file = volume.open(None, b"f", libc::O_RDWR | libc::O_CREAT, 0o666).expect("a file");
                let _ = volume.truncate_open(file, 10_000);
                let _ = volume.chown(None, b"f", Some(owner.uid), Some(62000), true);
                let _ = volume.chmod(None, b"f", mode);
                volume.become_user(caller);
                said.say(format!("{name}, {mode:#o}, {what}"), act(volume, file));
                volume.become_user(&root);
                said.say("then", shown(volume.stat(None, b"f", true)));
                let _ = (volume.close(file), volume.unlink(None, b"f"));
            }
            made_in_a_directory_with_a_group(volume, said, caller, mode);
        }
    }
    volume.become_user(&root);
}

type Step<V> = (&'static str, fn(&V, <V as Volume>::File) -> Result<(), i32>);

fn steps<V: Volume>() -> [Step<V>; 12] {
    [
        ("write", |v, f| v.write(f, b"x", Some(0)).map(drop)),
        ("write of nothing", |v, f| v.write(f, b"", Some(0)).map(drop)),
        ("ftruncate", |v, f| v.truncate_open(f, 5000)),
        ("truncate", |v, _| v.truncate(None, b"f", 5000)),
        ("truncate to the same", |v, _| v.truncate(None, b"f", 10_000)),
        ("allocate", |v, f| v.allocate(f, libc::FALLOC_FL_KEEP_SIZE, 0, 4096)),
        ("open for truncation", |v, _| {
            v.open(None, b"f", libc::O_WRONLY | libc::O_TRUNC, 0).and_then(|file| v.close(file))
        }),
        ("chown to nobody else", |v, _| v.chown(None, b"f", None, None, true)),
        ("chown to the same user", |v, _| v.chown(None, b"f", Some(61001), None, true)),
        ("chown to a group", |v, _| v.chown(None, b"f", None, Some(61003), true)),
        ("chown to the same group", |v, _| v.chown(None, b"f", None, Some(62000), true)),
        ("chmod", |v, _| v.chmod(None, b"f", 0o6770)),
    ]
}

fn made_in_a_directory_with_a_group<V: Volume>(volume: &mut V, said: &mut Transcript, caller: &User, mode: u32) {
    volume.become_user(&User { uid: 0, gid: 0, groups: Vec::new() });
    let _ = volume.mkdir(None, b"shared", 0o777);
    let _ = volume.chown(None, b"shared", Some(0), Some(62000), true);
    let _ = volume.chmod(None, b"shared", 0o2777);
    volume.become_user(caller);
    let create = libc::O_RDWR | libc::O_CREAT;
    said.say("create", volume.open(None, b"shared/f", create, mode).and_then(|file| volume.close(file)));
    said.say("mknod", volume.mknod(None, b"shared/n", libc::S_IFIFO | mode, 0));
    said.say("mkdir", volume.mkdir(None, b"shared/d", mode));
    said.say("symlink", volume.symlink(b"x", None, b"shared/l"));
    let nameless = volume.open(None, b"shared", libc::O_TMPFILE | libc::O_RDWR, mode);
    said.say("without a name", shown(nameless.and_then(|file| volume.stat_open(file))));
    let _ = nameless.map(|file| volume.close(file));
    volume.become_user(&User { uid: 0, gid: 0, groups: Vec::new() });
    for name in ["f", "n", "d", "l"] {
        said.say(name, shown(volume.stat(None, format!("shared/{name}").as_bytes(), false)));
    }
    super::remove_all(volume, b"shared").expect("remove what the scenario made");
    let _ = volume.rmdir(None, b"shared");
}
