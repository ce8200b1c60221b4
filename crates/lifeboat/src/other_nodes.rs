//! Word for other nodes: that a command runs here, for the same command started by hand on another node.
//!
//! Each node has a region of its own, and nothing passes between two nodes but what lies in a folder that both see. Where
//! no launcher says how many nodes there are, a command leaves a small file in such a folder and looks for those of other
//! regions. First the own word, then the look: of two that start at once, at least one sees the other. A process in the
//! background touches the word as long as something runs and takes it away afterwards; a word that nobody has touched for
//! two minutes is of a node that died. Ages are differences of two times that the folder's own server has given.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use lifeboat_region::carrier::keeper::keep_descriptors_from_children;
use lifeboat_region::image;
use lifeboat_region::place::RegionDirectory;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::arguments::KeepWordArguments;
use crate::background::{be_called, leave_terminal, own_command};
use crate::claims::NONE;
use crate::failure::{Failure, io_reason, shown};
use crate::mount::Prefix;
use crate::output::{say, time};
use crate::target::attach;

/// The variable that names the folder, or says that there is none.
const VARIABLE: &str = "LIFEBOAT_NODES";
/// How often a word is touched.
const BEAT: Duration = Duration::from_secs(20);
/// A word not touched for so long is of a node that died.
const SILENCE: Duration = Duration::from_secs(120);
/// How often is looked whether something that the first process left behind still runs.
const LOOK: Duration = Duration::from_secs(1);
/// Longest word in bytes, and most words that are read.
const WORD_LONGEST: u64 = 4096;
const WORDS_MOST: usize = 65_536;

/// Types of file systems (`f_type`) that lie on a disk or in the memory of one machine. All others may be shared.
const OF_ONE_MACHINE: &[u32] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlay
    0x2fc1_2fc1, // zfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x3153_464a, // jfs
    0xf15f,      // ecryptfs
    0x4d44,      // vfat
    0x2011_bab0, // exfat
    0x7366_746e, // ntfs3
];

/// What lies in the folder.
#[derive(Deserialize, Serialize)]
struct Word {
    /// Name of the node, for people.
    node: String,
    /// Name of the region.
    region: String,
    /// What tells the region from all others, in hexadecimal digits.
    identity: String,
    /// What tells its directory from all others, on this machine and elsewhere, also when the region has been removed.
    place: String,
    mount: String,
    /// Nanoseconds since 1970.
    since: i64,
}

/// Leaves word of what runs here with this region as process `pid`, and refuses it where another node has left the same.
/// Nothing is done where no folder is shared. A folder that fails is told of and stops nobody.
pub fn leave_word(directory: &RegionDirectory, identity: u64, prefix: &Prefix, pid: u32) -> Result<(), Failure> {
    let Some(folder) = folder() else { return Ok(()) };
    let word = Word {
        node: String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned(),
        region: directory.name().to_string(),
        identity: identity_text(identity),
        place: place(directory),
        mount: shown(prefix.as_bytes()),
        since: lifeboat_region::process::now(),
    };
    let file = folder.join(format!("{}-{pid}.json", word.identity));
    let told =
        make(&folder).and_then(|()| write(&file, &word)).and_then(|()| match find_other(&folder, &file, &word)? {
            None => keep(directory, &file, pid).map(|()| None),
            other => Ok(other),
        });
    match told {
        Ok(None) => Ok(()),
        Ok(Some(other)) => {
            let _ = fs::remove_file(&file);
            Err(Failure::usage(format_args!(
                "node {} runs with region `{}` under {}, too, since {} UTC: a file that both write would end in pieces. Name a folder \
                 that all nodes see with `--claims DIR`, which refuses such files, or say `--claims none` if the two have \
                 nothing to do with each other",
                shown(other.node.as_bytes()),
                other.region,
                other.mount,
                time(other.since)
            )))
        }
        Err(error) => {
            let _ = fs::remove_file(&file);
            say(format_args!(
                "whether other nodes run this, too, cannot be said: {} answers {} ({VARIABLE} names another folder, or `none`)",
                shown(folder.as_os_str().as_bytes()),
                io_reason(&error)
            ));
            Ok(())
        }
    }
}

fn identity_text(identity: u64) -> String {
    format!("{identity:016x}")
}

/// Machine, file system and path: containers on one machine have file systems of their own.
fn place(directory: &RegionDirectory) -> String {
    let device = rustix::fs::fstat(directory.directory()).map_or(0, |status| status.st_dev);
    format!("{:x} {device:x} {}", lifeboat_region::process::boot(), directory.path())
}

/// The folder for words: the named one, else one in the user's home if other nodes may see that.
fn folder() -> Option<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return std::path::absolute(&named).ok().filter(|_| named != NONE);
    }
    let home = env::var_os("HOME").map(PathBuf::from)?;
    let state = env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from);
    let there = state.ancestors().find(|path| path.is_absolute() && path.is_dir())?;
    // `sudo` may keep the home directory of somebody else.
    if there.metadata().ok()?.uid() != geteuid().as_raw() {
        return None;
    }
    let kind = rustix::fs::statfs(there.as_os_str().as_bytes()).ok()?.f_type as u32;
    (!OF_ONE_MACHINE.contains(&kind)).then(|| state.join("lifeboat/nodes"))
}

/// Makes the folder; it must be closed to others, who could take words away.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = folder.metadata()?;
    if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("that others may write there"));
    }
    Ok(())
}

/// Whole or not at all.
fn write(file: &Path, word: &Word) -> io::Result<()> {
    let draft = file.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(&serde_json::to_vec(word)?)?;
    drop(out);
    fs::rename(&draft, file)
}

/// The word of another region with this name and mount; takes those of dead nodes away.
fn find_other(folder: &Path, own: &Path, word: &Word) -> io::Result<Option<Word>> {
    let now = own.metadata()?.modified()?;
    for entry in fs::read_dir(folder)?.take(WORDS_MOST) {
        let path = entry?.path();
        let Some((other, touched)) = read(&path) else { continue };
        let is_dead = now.duration_since(touched).is_ok_and(|age| age > SILENCE);
        let is_own = other.identity == word.identity;
        // A region that was here before and is removed.
        let is_former = !is_own && other.place == word.place;
        if is_dead || is_former {
            let _ = fs::remove_file(&path);
        } else if !is_own && other.region == word.region && other.mount == word.mount {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// A word, and when it was touched. What is no word, or goes away at this moment, is nobody's.
fn read(path: &Path) -> Option<(Word, SystemTime)> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok().filter(|metadata| metadata.is_file() && metadata.len() <= WORD_LONGEST)?;
    let mut text = Vec::new();
    file.take(WORD_LONGEST).read_to_end(&mut text).ok()?;
    Some((serde_json::from_slice(&text).ok()?, metadata.modified().ok()?))
}

/// Starts the process that keeps the word true; it is nobody's child.
fn keep(directory: &RegionDirectory, word: &Path, pid: u32) -> io::Result<()> {
    let region = OsString::from_vec(directory.path().as_bytes().to_vec());
    let mut command = own_command("keep-word");
    command.arg("--word").arg(word).arg("--region").arg(region).args(["--pid", &pid.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().map(drop)
}

/// `lifeboat keep-word`.
pub fn keep_word(arguments: &KeepWordArguments) -> Result<(), Failure> {
    if !arguments.stay {
        keep_descriptors_from_children();
        leave_terminal();
        let mut command = own_command("keep-word");
        command.args(env::args_os().skip(2)).arg("--stay");
        let wrong =
            |error: io::Error| Failure::operation(format_args!("cannot start a process: {}", io_reason(&error)));
        return command.spawn().map(drop).map_err(wrong);
    }
    be_called("lifeboat-word");
    let word = &arguments.word;
    let Some((text, _)) = read(word) else { return Ok(()) };
    let runner = Pid::from_raw(arguments.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut beaten = Instant::now();
    while is_alive(runner.as_ref(), beaten + BEAT) || is_used(&arguments.region, &text.identity) {
        if beaten.elapsed() >= BEAT {
            // Made anew, it has a time by the clock of whoever has the file, also if somebody took it for a dead node's.
            // If that fails, there is nobody to tell; the next beat tries again.
            let _ = write(word, &text);
            beaten = Instant::now();
        }
    }
    let _ = fs::remove_file(word);
    Ok(())
}

/// Whether the process runs, after waiting until `end` for its end.
fn is_alive(runner: Option<&OwnedFd>, end: Instant) -> bool {
    let Some(runner) = runner else { return false };
    let left = end.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    // An interruption is not an end.
    !matches!(poll(&mut [PollFd::new(runner, PollFlags::IN)], Some(&timeout)), Ok(1..))
}

/// Whether something else has the region, a little later. It is attached for a moment only, so that it can be removed.
fn is_used(region: &Path, identity: &str) -> bool {
    std::thread::sleep(LOOK);
    let Ok(region) =
        RegionDirectory::open(region.as_os_str().as_bytes()).map_err(Failure::from).and_then(|it| attach(&it))
    else {
        return false;
    };
    if identity_text(region.superblock().identity) != identity {
        return false;
    }
    let mut used = false;
    // A damaged table tells nothing.
    let _ = image::attached(&region, |image, _| used |= image::is_alive(&region, image).unwrap_or(false));
    used
}
