//! The operations that are killed at every instruction, each done by a victim and, at the same time or afterwards, by a
//! peer, on the same objects.

use super::picture::Rule;
use super::trace::Marks;
use crate::random::bytes;
use crate::scratch::attach;
use crate::volume::{Answer, RegionVolume, Subject, Volume};
use lifeboat_fs::{Caller, FileSystem, InodeId, LOCK_TO_END, LastLink, LockClass, LockRequest, OpenFile, Pin};
use lifeboat_region::image;
use std::path::Path;

/// Who does the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Who is killed.
    Victim,
    /// Who does the same to the same objects, and lives.
    Peer,
}

impl Actor {
    /// A name of his own.
    fn name(self, base: &str) -> String {
        match self {
            Self::Victim => format!("{base}-v"),
            Self::Peer => format!("{base}-p"),
        }
    }

    pub(super) fn pick<T>(self, victim: T, peer: T) -> T {
        match self {
            Self::Victim => victim,
            Self::Peer => peer,
        }
    }

    /// Bytes of his own, none of which is zero.
    fn data(self, length: usize) -> Vec<u8> {
        let odd = self.pick(0, 1);
        bytes(self.pick(71, 72), length).into_iter().map(|byte| (byte & 0xfe | odd).max(2 + odd)).collect()
    }
}

/// What an actor has before he begins.
#[derive(Clone, Default)]
pub struct Ready {
    file: Option<OpenFile>,
    pin: Option<Pin>,
    pub(super) data: Vec<u8>,
}

impl Ready {
    pub(super) fn file(&self) -> Answer<OpenFile> {
        self.file.ok_or(libc::EBADF)
    }
}

/// A process's view of the region during an operation.
pub struct Scene<'a> {
    /// The calls.
    pub volume: &'a RegionVolume<'a>,
    /// Who acts.
    pub actor: Actor,
}

impl Scene<'_> {
    pub(super) fn files(&self) -> &FileSystem {
        self.volume.files()
    }

    pub(super) fn name(&self, base: &str) -> String {
        self.actor.name(base)
    }

    pub(super) fn find(&self, path: &str) -> Answer<InodeId> {
        let files = self.files();
        let found = files.resolve(&caller(), files.root(), path.as_bytes(), LastLink::Keep);
        found.map_err(|error| error.raw_os_error())
    }

    fn open(&self, path: &str, flags: i32) -> Answer<OpenFile> {
        self.volume.open(None, path.as_bytes(), flags, 0o644)
    }
}

/// On whose behalf calls are made that the volume does not have.
fn caller() -> Caller<'static> {
    // SAFETY: these calls cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Caller { uid, gid, groups: &[], umask: 0o022, checked: false }
}

/// How the operation is reached.
#[derive(Clone, Copy)]
pub enum Act {
    /// Calls of an attached process.
    Calls(fn(&Scene<'_>, &mut Ready) -> Answer<()>),
    /// Attaching.
    Attach,
    /// Detaching.
    Detach,
}

/// One operation.
#[derive(Clone, Copy)]
pub struct Operation {
    /// What it is called.
    pub name: &'static str,
    /// What a death may leave.
    pub rule: Rule,
    /// What the actor does before: opens files.
    pub(super) ready: fn(&Scene<'_>) -> Answer<Ready>,
    /// The operation.
    pub(super) act: Act,
}

/// An attached actor who is ready.
pub struct Attached {
    files: FileSystem,
    ready: Ready,
}

impl Operation {
    /// Everything before the operation.
    pub fn prepare(&self, files: FileSystem, actor: Actor) -> Answer<Attached> {
        let ready = self.get_ready(&files, actor)?;
        Ok(Attached { files, ready })
    }

    /// What the actor does before.
    pub fn get_ready(&self, files: &FileSystem, actor: Actor) -> Answer<Ready> {
        (self.ready)(&Scene { volume: &RegionVolume::over(files, b"")?, actor })
    }

    /// What a peer does who lives: he cannot attach or detach and yet be there.
    pub fn of_a_survivor(&self) -> Self {
        match self.act {
            Act::Calls(_) => *self,
            Act::Attach | Act::Detach => OPERATIONS[0],
        }
    }

    /// The operation as if it had never been done before.
    pub fn run_again(&self, attached: &Attached, actor: Actor) -> Answer<()> {
        self.run_with(&attached.files, &mut attached.ready.clone(), actor)
    }

    /// The operation itself.
    pub fn run(&self, attached: &mut Attached, actor: Actor) -> Answer<()> {
        self.run_with(&attached.files, &mut attached.ready, actor)
    }

    /// The operation by an actor who is ready.
    pub fn run_with(&self, files: &FileSystem, ready: &mut Ready, actor: Actor) -> Answer<()> {
        let volume = RegionVolume::over(files, b"")?;
        match self.act {
            Act::Calls(act) => act(&Scene { volume: &volume, actor }, ready),
            Act::Attach => files.after_fork().map_err(|error| error.raw_os_error()),
            Act::Detach => {
                files.detach();
                Ok(())
            }
        }
    }

    /// The whole life of a tracee: attach, get ready, and between the marks the operation.
    pub fn play(&self, marks: &Marks, region: &Path, actor: Actor) {
        let files = attach(region).expect("attach");
        let protect = |files: &FileSystem| marks.protect(files.region().base(), files.region().length());
        if matches!(self.act, Act::Attach) {
            drop(files);
            marks.begin();
            let files = attach(region).expect("attach");
            protect(&files);
            let taken = image::own(files.region());
            marks.end(taken.err().map_or(0, |error| error.raw_os_error() as u64));
            std::mem::forget(files);
            return;
        }
        let mut attached = self.prepare(files, actor).unwrap_or_else(|error| panic!("getting ready: errno {error}"));
        protect(&attached.files);
        marks.begin();
        let outcome = self.run(&mut attached, actor);
        marks.end(outcome.err().unwrap_or(0) as u64);
        // As a death: nothing is given back.
        std::mem::forget(attached);
    }
}

impl Attached {
    /// The file system.
    pub fn files(&self) -> &FileSystem {
        &self.files
    }

    /// Gives back what getting ready took.
    pub fn release(self) -> FileSystem {
        if let Some(pin) = self.ready.pin {
            let _ = self.files.unmap(pin);
        }
        if let Some(file) = self.ready.file {
            let _ = self.files.inode_of(file).and_then(|inode| self.files.release_process_locks(inode));
            let _ = self.files.close(file);
        }
        self.files
    }
}

/// Name, mode and content of the files that are there before, so that much can be lost.
const FURNITURE: &[(&str, usize)] = &[
    ("data", 20_000),
    ("large", 200_000),
    ("tail", 4_000),
    ("d/kept", 300),
    ("d/old-v", 100),
    ("d/old-p", 150),
    ("e/target-v", 5_000),
    ("e/target-p", 70_000),
    ("d/gone-v", 9_000),
    ("d/gone-p", 80_000),
    ("d/a name that is too long to lie in its entry-v", 10),
    ("d/a name that is too long to lie in its entry-p", 11),
    ("seal-v", 70_000),
    ("seal-p", 150_000),
];

/// Makes what is there before.
pub fn furnish(volume: &RegionVolume<'_>) -> Answer<()> {
    for directory in ["d", "e", "d/sub-v", "d/sub-p", "e/empty-v", "e/empty-p"] {
        volume.mkdir(None, directory.as_bytes(), 0o755)?;
    }
    for (index, (name, length)) in FURNITURE.iter().enumerate() {
        let file = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_WRONLY, 0o644)?;
        volume.write(file, &bytes(1000 + index as u64, *length), None)?;
        volume.close(file)?;
    }
    for name in ["empty", "d/sub-v/inside", "d/sub-p/inside"] {
        let file = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_WRONLY, 0o644)?;
        volume.close(file)?;
    }
    // A file with a hole in its middle.
    let file = volume.open(None, b"hole", libc::O_CREAT | libc::O_WRONLY, 0o644)?;
    volume.write(file, &bytes(7, 5000), None)?;
    volume.write(file, &bytes(8, 5000), Some(140_000))?;
    volume.close(file)?;
    volume.link(None, b"d/kept", b"e/kept too", false)?;
    volume.symlink(b"../d/kept", None, b"e/link")
}

pub(super) fn nothing(_: &Scene<'_>) -> Answer<Ready> {
    Ok(Ready::default())
}

pub(super) fn opened(scene: &Scene<'_>, path: &str, flags: i32, length: usize) -> Answer<Ready> {
    let file = scene.open(path, flags)?;
    Ok(Ready { file: Some(file), data: scene.actor.data(length), ..Ready::default() })
}

/// A write of so many bytes at one place by the victim, at another by the peer.
macro_rules! write_at {
    ($name:literal, $rule:expr, $path:literal, $length:literal, $victim:literal, $peer:literal) => {
        Operation {
            name: $name,
            rule: $rule,
            ready: |scene| opened(scene, $path, libc::O_WRONLY, $length),
            act: Act::Calls(|scene, ready| {
                let at = scene.actor.pick($victim, $peer);
                scene.volume.write(ready.file()?, &ready.data, Some(at)).map(drop)
            }),
        }
    };
}

macro_rules! append {
    ($name:literal, $path:literal, $length:literal) => {
        Operation {
            name: $name,
            rule: Rule::AllOrNothing,
            ready: |scene| opened(scene, $path, libc::O_WRONLY | libc::O_APPEND, $length),
            act: Act::Calls(|scene, ready| scene.volume.write(ready.file()?, &ready.data, None).map(drop)),
        }
    };
}

/// An operation on names, which needs nothing open.
macro_rules! names {
    ($name:literal, $act:expr) => {
        Operation { name: $name, rule: Rule::AllOrNothing, ready: nothing, act: Act::Calls(|scene, _| $act(scene)) }
    };
}

/// An operation on an open file, which is all or nothing.
macro_rules! open_file {
    ($name:literal, $ready:expr, $act:expr) => {
        Operation { name: $name, rule: Rule::AllOrNothing, ready: $ready, act: Act::Calls($act) }
    };
}

const CREATE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;

fn rename(scene: &Scene<'_>, old: &str, new: &str, flags: u32) -> Answer<()> {
    scene.volume.rename(None, scene.name(old).as_bytes(), scene.name(new).as_bytes(), flags)
}

fn lock(scene: &Scene<'_>, file: OpenFile, class: LockClass, start: u64, end: u64) -> Answer<()> {
    let request = LockRequest { class, exclusive: true, start, end };
    scene.files().lock_file(file, &request, false).map_err(|error| error.raw_os_error())
}

fn map(scene: &Scene<'_>, ready: &mut Ready) -> Answer<()> {
    let pinned = scene.files().map(ready.file()?, 0, 1 << 20, true, &mut |_| ());
    ready.pin = Some(pinned.map_err(|error| error.raw_os_error())?);
    Ok(())
}

fn locked(scene: &Scene<'_>, path: &str) -> Answer<Ready> {
    let ready = opened(scene, path, libc::O_RDWR, 0)?;
    lock(scene, ready.file()?, LockClass::Process, scene.actor.pick(0, 1000), scene.actor.pick(999, 1999))?;
    Ok(ready)
}

/// The victim changes the names or attributes of a file, while the peer writes to it, without a lock.
macro_rules! beside_a_writer {
    ($name:literal, $paths:expr, $act:expr) => {
        Operation {
            name: $name,
            rule: Rule::AnyMixture,
            ready: |scene| match scene.actor {
                Actor::Victim => Ok(Ready::default()),
                Actor::Peer => open_any(scene, $paths),
            },
            act: Act::Calls(|scene, ready| match scene.actor {
                Actor::Victim => $act(scene),
                Actor::Peer => scene.volume.write(ready.file()?, &ready.data, Some(10)).map(drop),
            }),
        }
    };
}

/// The first of these files that is there; if none is, one that always is.
fn open_any(scene: &Scene<'_>, paths: &[&str]) -> Answer<Ready> {
    let found = paths.iter().find(|path| scene.find(path).is_ok());
    opened(scene, found.unwrap_or(&"data"), libc::O_WRONLY, 60)
}

const ATTRIBUTE: &[u8] = b"user.attribute";

/// Closes a file and opens another with the slot that it had.
fn open_in_its_place(scene: &Scene<'_>, ready: &mut Ready) -> Answer<()> {
    let files = scene.files();
    let closed = ready.file.take().ok_or(libc::EBADF)?;
    let opened = files.close_and_keep(closed).and_then(|kept| {
        let kept = kept.then_some(closed);
        files.open_with(&caller(), files.root(), b"large", libc::O_RDONLY, 0, kept)?.file()
    });
    ready.file = Some(opened.map_err(|error| error.raw_os_error())?);
    Ok(())
}

/// Sets an extended attribute of the file that both share.
fn set_attribute(scene: &Scene<'_>, path: &str, length: usize) -> Answer<()> {
    let name = scene.name("user.attribute");
    let of = Subject::Path(None, path.as_bytes(), false);
    scene.volume.set_attribute(of, name.as_bytes(), &scene.actor.data(length), 0)
}

/// With an extended attribute of this length on a file of his own.
fn attributed(scene: &Scene<'_>, length: usize) -> Answer<Ready> {
    let of = Subject::Path(None, &scene.name("d/gone").into_bytes(), false);
    scene.volume.set_attribute(of, ATTRIBUTE, &scene.actor.data(length), 0).map(|()| Ready::default())
}

/// All operations, in the order of the table.
pub const OPERATIONS: &[Operation] = &[
    names!("create", |scene: &Scene<'_>| scene.open(&scene.name("d/new"), CREATE).map(drop)),
    names!("create, long name", |scene: &Scene<'_>| {
        scene.open(&scene.name("d/another name that is too long to lie in its entry"), CREATE).map(drop)
    }),
    write_at!("write small", Rule::AnyMixture, "empty", 100, 0, 200),
    write_at!("write over a block edge", Rule::AnyMixture, "empty", 3_000, 3_000, 7_000),
    write_at!("write over an extent edge", Rule::AnyMixture, "data", 300, 65_400, 131_000),
    write_at!("write at the end", Rule::AnyMixture, "tail", 500, 4_000, 4_500),
    write_at!("write a whole extent", Rule::AnyMixture, "empty", 65_536, 0, 65_536),
    write_at!("overwrite", Rule::AnyMixture, "data", 5_000, 2_000, 9_000),
    append!("append small", "tail", 300),
    append!("append over an extent edge", "e/target-p", 6_000),
    names!("truncate down", |scene: &Scene<'_>| scene.volume.truncate(None, b"large", scene.actor.pick(5_000, 4_000))),
    names!("truncate up", |scene: &Scene<'_>| scene.volume.truncate(None, b"data", scene.actor.pick(90_000, 95_000))),
    names!("open with O_TRUNC", |scene: &Scene<'_>| {
        scene.open(&scene.name("d/gone"), libc::O_WRONLY | libc::O_TRUNC).map(drop)
    }),
    names!("rename", |scene: &Scene<'_>| rename(scene, "d/old", "e/moved", 0)),
    names!("rename over existing", |scene: &Scene<'_>| rename(scene, "d/old", "e/target", 0)),
    names!("rename a directory", |scene: &Scene<'_>| rename(scene, "d/sub", "e/empty", 0)),
    names!("exchange", |scene: &Scene<'_>| rename(scene, "d/sub", "e/target", libc::RENAME_EXCHANGE)),
    names!("unlink closed", |scene: &Scene<'_>| scene.volume.unlink(None, scene.name("d/gone").as_bytes())),
    names!("unlink, long name", |scene: &Scene<'_>| {
        let name = scene.name("d/a name that is too long to lie in its entry");
        scene.volume.unlink(None, name.as_bytes())
    }),
    open_file!("unlink open", |scene| opened(scene, &scene.name("d/gone"), libc::O_RDONLY, 0), |scene, _| scene
        .volume
        .unlink(None, scene.name("d/gone").as_bytes())),
    open_file!(
        "close what is unlinked",
        |scene| {
            let ready = opened(scene, &scene.name("d/gone"), libc::O_RDONLY, 0)?;
            scene.volume.unlink(None, scene.name("d/gone").as_bytes())?;
            Ok(ready)
        },
        |scene, ready| scene.volume.close(ready.file.take().ok_or(libc::EBADF)?)
    ),
    open_file!("open", nothing, |scene, ready| {
        ready.file = Some(scene.open("data", libc::O_RDWR)?);
        Ok(())
    }),
    open_file!("close", |scene| opened(scene, "data", libc::O_RDWR, 0), |scene, ready| scene
        .volume
        .close(ready.file.take().ok_or(libc::EBADF)?)),
    open_file!("open in place of another", |scene| opened(scene, "data", libc::O_RDWR, 0), open_in_its_place),
    names!("mkdir", |scene: &Scene<'_>| scene.volume.mkdir(None, scene.name("d/made").as_bytes(), 0o755)),
    names!("rmdir", |scene: &Scene<'_>| scene.volume.rmdir(None, scene.name("e/empty").as_bytes())),
    names!("link", |scene: &Scene<'_>| scene.volume.link(None, b"d/kept", scene.name("e/again").as_bytes(), false)),
    names!("symlink", |scene: &Scene<'_>| scene.volume.symlink(b"../data", None, scene.name("d/to").as_bytes())),
    names!("symlink, long target", |scene: &Scene<'_>| {
        scene.volume.symlink(&[b'x'; 300], None, scene.name("d/far").as_bytes())
    }),
    names!("extended attribute", |scene: &Scene<'_>| set_attribute(scene, "d/kept", 100)),
    names!("extended attribute, long", |scene: &Scene<'_>| set_attribute(scene, "d/kept", 9_000)),
    open_file!("extended attribute, exchanged", |scene| attributed(scene, 60_000), |scene, _| {
        let of = Subject::Path(None, &scene.name("d/gone").into_bytes(), false);
        scene.volume.set_attribute(of, ATTRIBUTE, b"another value", libc::XATTR_REPLACE)
    }),
    open_file!("extended attribute, removed", |scene| attributed(scene, 300), |scene, _| {
        scene.volume.remove_attribute(Subject::Path(None, &scene.name("d/gone").into_bytes(), false), ATTRIBUTE)
    }),
    open_file!("extended attribute, unlinked", |scene| attributed(scene, 60_000), |scene, _| {
        scene.volume.unlink(None, scene.name("d/gone").as_bytes())
    }),
    names!("whiteout", |scene: &Scene<'_>| rename(scene, "d/old", "e/moved", libc::RENAME_WHITEOUT)),
    names!("whiteout over existing", |scene: &Scene<'_>| rename(scene, "d/old", "e/target", libc::RENAME_WHITEOUT)),
    names!("socket", |scene: &Scene<'_>| {
        let (name, files) = (scene.name("d/socket"), scene.files());
        let made = files.make_socket(&caller(), files.root(), name.as_bytes(), 0o777, &[b'a'; 100]);
        made.map_err(|error| error.raw_os_error())
    }),
    names!("chmod", |scene: &Scene<'_>| scene.volume.chmod(None, scene.name("d/old").as_bytes(), 0o600)),
    Operation {
        name: "write a whole extent, peer writes into it",
        rule: Rule::AnyMixture,
        ready: |scene| opened(scene, "empty", libc::O_WRONLY, scene.actor.pick(65_536, 60)),
        act: Act::Calls(|scene, ready| {
            let at = scene.actor.pick(0, 1_000);
            scene.volume.write(ready.file()?, &ready.data, Some(at)).map(drop)
        }),
    },
    beside_a_writer!("chmod, peer writes", &["d/old-v"], |scene: &Scene<'_>| {
        scene.volume.chmod(None, b"d/old-v", 0o600)
    }),
    beside_a_writer!("rename, peer writes", &["d/old-v", "e/moved-v"], |scene: &Scene<'_>| {
        rename(scene, "d/old", "e/moved", 0)
    }),
    beside_a_writer!("replace, peer writes", &["e/target-v"], |scene: &Scene<'_>| rename(
        scene, "d/old", "e/target", 0
    )),
    beside_a_writer!("unlink, peer writes", &["d/gone-v"], |scene: &Scene<'_>| scene.volume.unlink(None, b"d/gone-v")),
    beside_a_writer!("link, peer writes", &["d/kept"], |scene: &Scene<'_>| {
        scene.volume.link(None, b"d/kept", b"e/again-v", false)
    }),
    open_file!("flock", |scene| opened(scene, &scene.name("d/old"), libc::O_RDWR, 0), |scene, ready| {
        lock(scene, ready.file()?, LockClass::Whole, 0, LOCK_TO_END)
    }),
    open_file!("record lock", |scene| opened(scene, "data", libc::O_RDWR, 0), |scene, ready| {
        lock(scene, ready.file()?, LockClass::Process, scene.actor.pick(0, 1000), scene.actor.pick(999, 1999))
    }),
    open_file!("unlock a part", |scene| locked(scene, "data"), |scene, ready| {
        let start = scene.actor.pick(100, 1100);
        let done = scene.files().unlock_file(ready.file()?, LockClass::Process, start, start + 99);
        done.map_err(|error| error.raw_os_error())
    }),
    open_file!("mmap pin", |scene| opened(scene, "hole", libc::O_RDWR, 0), map),
    open_file!(
        "munmap",
        |scene| {
            let mut ready = opened(scene, "hole", libc::O_RDWR, 0)?;
            map(scene, &mut ready).map(|()| ready)
        },
        |scene, ready| {
            let pin = ready.pin.take().ok_or(libc::EINVAL)?;
            scene.files().unmap(pin).map_err(|error| error.raw_os_error())
        }
    ),
    names!("fallocate", |scene: &Scene<'_>| {
        let file = scene.open("hole", libc::O_RDWR)?;
        scene.volume.allocate(file, 0, 0, 150_000)?;
        scene.volume.close(file)
    }),
    names!("seal", |scene: &Scene<'_>| {
        let sealed = scene.files().seal(&caller(), scene.find(&scene.name("seal"))?);
        sealed.map(drop).map_err(|error| error.raw_os_error())
    }),
    Operation { name: "attach", rule: Rule::AllOrNothing, ready: nothing, act: Act::Attach },
    Operation {
        name: "detach",
        rule: Rule::AllOrNothing,
        // The first call takes the slot.
        ready: |scene| {
            scene.open("data", libc::O_RDONLY).and_then(|file| scene.volume.close(file)).map(|()| Ready::default())
        },
        act: Act::Detach,
    },
];
