//! Huge pages for users who may not mount: a keeper process has them, on a tmpfs mounted in a user and mount namespace of
//! its own ([`Keeper`]) or as anonymous memory ([`KeeperHugetlb`]), and hands a descriptor of the region's file to every
//! process that attaches.
//!
//! ```text
//! NAME/keeper        pid, start time, pid namespace of the keeper; device and inode number of the region's file; carrier
//! NAME/keeper.sock   where it hands out descriptors; named keeper.new until the region is initialised
//! ```
//!
//! Nothing is said to the keeper: it sends one byte with the descriptor to whoever connects and belongs to its user, then
//! closes. So no connection can hold up another. The region's memory lives as long as the keeper or an attached process.

mod hugetlb;
mod peer;
mod process;

use core::ffi::CStr;
use core::fmt;
use core::mem::MaybeUninit;
use core::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::{ClockId, clock_gettime};

use self::peer::uid_of_peer;
use super::error::{CreateError, made_already};
use super::populate::{Finish, check_before, populate};
use super::{Carrier, Created, Crew, Survives, create_file, new_path, tmpfs};
use crate::budget;
use crate::place::{Reason, RegionDirectory, ShownPath, Text};
use crate::process::{has_exited, parse_decimal, pid_namespace, start_time};

pub use hugetlb::KeeperHugetlb;
pub use process::{Keeping, keep_descriptors_from_children};

/// What the keeper writes about itself.
pub(crate) const NOTE: &CStr = c"keeper";
/// Where a published region's keeper answers.
pub(crate) const SOCKET: &CStr = c"keeper.sock";
/// The same before the region is published.
pub(crate) const SOCKET_NEW: &CStr = c"keeper.new";

/// How long an answer of the keeper is waited for, in milliseconds.
const PATIENCE: u64 = 2000;
/// Between two attempts, in milliseconds.
const PAUSE: u64 = 10;
/// How long an ended keeper may take to give its memory back before it is killed, and after that, in milliseconds.
const GOODBYE: [(Signal, u64); 2] = [(Signal::TERM, 2000), (Signal::KILL, 60_000)];

/// The carrier `keeper`.
#[derive(Clone, Copy, Debug)]
pub struct Keeper;

impl Carrier for Keeper {
    fn name(&self) -> &'static str {
        "keeper"
    }

    fn survives(&self) -> Survives {
        Survives::WhileKept
    }

    /// For the keeper process alone, after it has entered its namespaces (see [`Keeping::prepare`]).
    fn create(&self, region: &RegionDirectory, size: u64, crew: &mut dyn Crew) -> Result<Created, CreateError> {
        check_before(size, None)?;
        region.make_memory().or_else(made_already)?;
        let no_swap = tmpfs::mount(region, size, self.name())?;
        let file = create_file(region)?;
        let pages = populate(file.as_fd(), &new_path(region), size, Finish::HugeAndFilled, None, crew)?;
        Ok(Created { file, carrier: self.name(), pages, swappable: !no_swap && budget::has_swap() })
    }
}

/// Why the keeper of a region handed out no descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeeperError {
    /// The region has no keeper.
    None,
    /// The keeper has ended, and the region's memory with it.
    Gone,
    /// It has not answered for two seconds.
    Silent,
    /// Who answers is another user's process.
    Foreign {
        /// That user.
        uid: u32,
    },
    /// A system call failed.
    Failed(Errno),
}

impl fmt::Display for KeeperError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeeperError::None => out.write_str("it has no keeper; make a region with `lifeboat region create`"),
            KeeperError::Gone => out.write_str(
                "its keeper process has ended and the region is lost with it; `lifeboat region remove` clears it away",
            ),
            KeeperError::Silent => out.write_str(
                "its keeper process does not answer within 2 s; is it stopped? let it go on (SIGCONT) and try again",
            ),
            KeeperError::Foreign { uid } => write!(
                out,
                "a process of user {uid} answers in place of its keeper: nothing was taken from it; remove the region"
            ),
            KeeperError::Failed(errno) => write!(out, "cannot reach its keeper process: {}", Reason(*errno)),
        }
    }
}

impl core::error::Error for KeeperError {}

/// Gets the region's file from the keeper of the region in `directory`, within two seconds.
pub fn receive_file(directory: BorrowedFd<'_>) -> Result<OwnedFd, KeeperError> {
    receive(directory, SOCKET)
}

/// As [`receive_file`], for the creator of a region that is not published yet.
pub fn receive_new_file(directory: BorrowedFd<'_>) -> Result<OwnedFd, KeeperError> {
    receive(directory, SOCKET_NEW)
}

fn receive(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, KeeperError> {
    let address = socket_address(directory, name).map_err(KeeperError::Failed)?;
    let deadline = milliseconds() + PATIENCE;
    loop {
        match receive_once(&address, deadline) {
            Ok(Some(file)) => return Ok(file),
            // The keeper was short of something, or ended under our connection: the next attempt tells.
            Ok(None) => {}
            Err(Attempt::Foreign { uid }) => return Err(KeeperError::Foreign { uid }),
            Err(Attempt::Failed(errno)) => match errno {
                Errno::CONNRESET | Errno::INTR | Errno::PIPE => {}
                Errno::NOENT => return Err(KeeperError::None),
                Errno::CONNREFUSED => return Err(KeeperError::Gone),
                Errno::AGAIN => return Err(KeeperError::Silent),
                errno => return Err(KeeperError::Failed(errno)),
            },
        }
        if milliseconds() > deadline {
            return Err(KeeperError::Silent);
        }
        pause(PAUSE);
    }
}

/// Why an attempt gave nothing; `AGAIN` when time ran out.
enum Attempt {
    Foreign { uid: u32 },
    Failed(Errno),
}

impl From<Errno> for Attempt {
    fn from(errno: Errno) -> Self {
        Attempt::Failed(errno)
    }
}

/// One connection: the descriptor, or nothing when the keeper closed it without one.
fn receive_once(address: &SocketAddrUnix, deadline: u64) -> Result<Option<OwnedFd>, Attempt> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Limits how long a full queue of connections is waited for.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(Duration::from_millis(PATIENCE)))?;
    rustix::net::connect(&socket, address)?;
    let uid = uid_of_peer(socket.as_fd())?;
    if uid != rustix::process::geteuid().as_raw() {
        return Err(Attempt::Foreign { uid });
    }
    if !wait_for(socket.as_fd(), PollFlags::IN, deadline)? {
        return Err(Attempt::Failed(Errno::AGAIN));
    }
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    }))
}

/// The address of a socket in `directory`, which may lie deeper than an address can say.
fn socket_address(directory: BorrowedFd<'_>, name: &CStr) -> Result<SocketAddrUnix, Errno> {
    let mut path = Text::<64>::from_bytes(b"/proc/self/fd/");
    path.push_number(directory.as_raw_fd() as u64);
    path.push(b"/");
    path.push(name.to_bytes());
    SocketAddrUnix::new(path.as_c_str())
}

/// Whether `file` became ready before the deadline.
fn wait_for(file: BorrowedFd<'_>, events: PollFlags, deadline: u64) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_sub(milliseconds());
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(file, events)], Some(&timespec(left))) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) if left > 0 => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn milliseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

fn timespec(milliseconds: u64) -> Timespec {
    Timespec { tv_sec: (milliseconds / 1000) as i64, tv_nsec: (milliseconds % 1000) as i64 * 1_000_000 }
}

fn pause(milliseconds: u64) {
    let _ = rustix::thread::nanosleep(&timespec(milliseconds));
}

/// What a keeper has written about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperNote {
    /// Its process.
    pub pid: u32,
    /// When that started, in clock ticks since boot.
    pub started: u64,
    /// The pid namespace that `pid` is a number in.
    pub namespace: u64,
    /// Device and inode number of the region's file, once it is made.
    pub file: Option<(u64, u64)>,
    /// Whether the carrier is [`KeeperHugetlb`].
    pub hugetlb: bool,
}

impl KeeperNote {
    /// Reads what the keeper of `region` wrote; `None` when there is none or it cannot be understood.
    pub fn read(region: &RegionDirectory) -> Option<KeeperNote> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(region.directory(), NOTE, flags, Mode::empty()).ok()?;
        let mut text = [0u8; 160];
        let have = rustix::io::read(&file, &mut text).ok()?;
        let mut fields = text[..have].split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
        let mut next = || parse_decimal(fields.next()?);
        let (pid, started, namespace) = (next()?, next()?, next()?);
        let file = next().and_then(|device| Some((device, next()?)));
        let hugetlb = fields.next() == Some(KeeperHugetlb.name().as_bytes());
        Some(KeeperNote { pid: u32::try_from(pid).ok()?, started, namespace, file, hugetlb })
    }

    /// Whether the process is in this pid namespace, so that its number means something here.
    pub fn is_visible(&self) -> bool {
        pid_namespace().is_ok_and(|own| own == self.namespace)
    }

    /// Whether that very process is there and has not ended.
    pub fn is_alive(&self) -> bool {
        let same = self.is_visible() && start_time(self.pid).is_ok_and(|started| started == self.started);
        same && !has_exited(self.pid)
    }

    /// Ends the keeper and waits until it has given the memory back; tells whether it is gone.
    pub(crate) fn end(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let (true, Some(pid)) = (self.is_alive(), pid) else { return true };
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        // The handle is of whoever has the number now: look once more before anything is sent.
        for (signal, patience) in GOODBYE {
            if !self.is_alive() {
                return true;
            }
            let sent = match &handle {
                Some(handle) => rustix::process::pidfd_send_signal(handle, signal),
                None => rustix::process::kill_process(pid, signal),
            };
            if sent == Err(Errno::SRCH) || (sent.is_ok() && self.has_ended_within(handle.as_ref(), patience)) {
                return true;
            }
        }
        false
    }

    fn has_ended_within(&self, handle: Option<&OwnedFd>, patience: u64) -> bool {
        let deadline = milliseconds() + patience;
        if let Some(handle) = handle {
            // Also ready when only its parent's attention is missing (a zombie).
            return wait_for(handle.as_fd(), PollFlags::IN, deadline).unwrap_or(false);
        }
        while self.is_alive() && milliseconds() < deadline {
            pause(PAUSE);
        }
        !self.is_alive()
    }
}

/// The carrier of a region that has, or had, a keeper.
pub(crate) fn carrier_of(region: &RegionDirectory) -> Option<&'static dyn Carrier> {
    if KeeperNote::read(region).is_some_and(|note| note.hugetlb) {
        return Some(&KeeperHugetlb);
    }
    let kept = [NOTE, SOCKET_NEW, SOCKET].into_iter().any(|name| exists(region.directory(), name));
    kept.then_some(&Keeper)
}

fn exists(directory: BorrowedFd<'_>, name: &CStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn failed(doing: &'static str, region: &RegionDirectory, name: &CStr, errno: Errno) -> CreateError {
    CreateError::Failed { doing, path: ShownPath::of(&region.path().joined(name.to_bytes())), errno }
}
