//! What the keeper process does: enters its namespaces, makes the region's file and hands it out.

use core::ffi::CStr;
use core::fmt::Write;

use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::{Errno, FdFlags, IoSlice};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use rustix::thread::UnshareFlags;

use super::peer::uid_of_peer;
use super::{NOTE, SOCKET, SOCKET_NEW, exists, failed, pause, socket_address, timespec};
use crate::carrier::{Carrier, CreateError, Created, Crew, KeeperHugetlb};
use crate::place::{RegionDirectory, Text, open_or_make};
use crate::process::{own_start_time, pid_namespace};

/// Connections that may wait for the keeper; the kernel takes less where it is told to.
const QUEUE: i32 = 4096;
/// How often the region's directory is looked at where the kernel does not tell of changes, in milliseconds.
const LOOK: u64 = 5000;
/// Rest after a connection could not be taken (no descriptors, no memory), in milliseconds.
const REST: u64 = 50;

/// The work of a keeper process whose region is made.
#[derive(Debug)]
pub struct Keeping {
    region: RegionDirectory,
    /// The region's file where it has no name.
    nameless: Option<OwnedFd>,
    listener: OwnedFd,
    watch: Option<OwnedFd>,
}

impl Keeping {
    /// Makes the memory of the region whose directory has this absolute path on `carrier`, one of
    /// [`crate::carrier::KEPT`]; where it needs a mount, in namespaces of this process's own, which must have a single
    /// thread and do nothing else from now on.
    ///
    /// `crew` fills it, and is told how far it is. Errors are those of a carrier; [`CreateError::NoNamespaces`]
    /// where users may not make namespaces.
    pub fn prepare(
        path: &[u8],
        carrier: &dyn Carrier,
        size: u64,
        crew: &mut dyn Crew,
    ) -> Result<(Keeping, Created), CreateError> {
        write_note(&RegionDirectory::open(path)?)?;
        let nameless = carrier.name() == KeeperHugetlb.name();
        if !nameless {
            enter_namespaces()?;
        }
        // Descriptors from before lead into the old namespace.
        let region = RegionDirectory::open(path)?;
        let created = carrier.create(&region, size, crew)?;
        if !nameless {
            let memory = region.open_memory()?;
            rustix::fs::renameat(&memory, c"region.new", &memory, c"region")
                .map_err(|errno| failed("rename", &region, c"memory/region.new", errno))?;
        }
        complete_note(&region, created.file.as_fd(), created.carrier)?;
        let mut keeping = Keeping::listen(region)?;
        if nameless {
            let file = reopen(created.file.as_fd());
            keeping.nameless = Some(file.map_err(|errno| failed("keep open", &keeping.region, c"memory", errno))?);
        }
        Ok((keeping, created))
    }

    /// Makes the socket `keeper.new` of a region whose file is in place.
    pub fn listen(region: RegionDirectory) -> Result<Keeping, CreateError> {
        let wrong = |errno| failed("listen on", &region, SOCKET_NEW, errno);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(wrong)?;
        let address = socket_address(region.directory(), SOCKET_NEW).map_err(wrong)?;
        rustix::net::bind(&listener, &address).map_err(wrong)?;
        // Whatever the umask left: who connects must be allowed to write.
        rustix::fs::chmodat(region.directory(), SOCKET_NEW, Mode::RUSR | Mode::WUSR, AtFlags::empty())
            .map_err(wrong)?;
        rustix::net::listen(&listener, QUEUE).map_err(wrong)?;
        let watch = watch(&region).ok();
        Ok(Keeping { region, nameless: None, listener, watch })
    }

    /// Hands out the region's file until the reader of the pipe `creator` closes it, as it does when it has published the
    /// region, gives up, or dies.
    pub fn serve_creator(&self, creator: BorrowedFd<'_>) {
        while self.is_wanted() && !self.serve_one(Some(creator)) {}
    }

    /// As [`Keeping::serve_creator`] with the pipe that this process was started with as its standard output, which leads
    /// nowhere afterwards.
    pub fn serve_creator_on_standard_output(&self) {
        // SAFETY: the standard output of a keeper process stays open as long as the process.
        self.serve_creator(unsafe { rustix::stdio::stdout() });
        if let Ok(nowhere) = rustix::fs::open(c"/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            let _ = rustix::stdio::dup2_stdout(&nowhere);
        }
    }

    /// Hands out the region's file until the region is removed; returns at once if it was never published.
    pub fn serve(&self) {
        while exists(self.region.directory(), SOCKET) {
            self.serve_one(None);
        }
    }

    /// Waits for one event and treats it; tells whether the creator has closed its end.
    fn serve_one(&self, creator: Option<BorrowedFd<'_>>) -> bool {
        let mut files = [
            PollFd::new(&self.listener, PollFlags::IN),
            // A pipe whose reader is gone is in error, which is always told.
            PollFd::from_borrowed_fd(creator.unwrap_or(self.listener.as_fd()), PollFlags::empty()),
            PollFd::from_borrowed_fd(self.watch.as_ref().map_or(self.listener.as_fd(), AsFd::as_fd), PollFlags::IN),
        ];
        let timeout = self.watch.is_none().then(|| timespec(LOOK));
        if rustix::event::poll(&mut files, timeout.as_ref()).is_err() {
            return false;
        }
        let [connection, closed, changed] = files.each_ref().map(|file| !file.revents().is_empty());
        if changed && let Some(watch) = &self.watch {
            let mut events = [0u8; 4096];
            let _ = rustix::io::read(watch, &mut events);
        }
        if connection {
            self.answer();
        }
        creator.is_some() && closed
    }

    /// Whether the region is there, published or not. In the order of publishing, so that this never falls between.
    fn is_wanted(&self) -> bool {
        exists(self.region.directory(), SOCKET_NEW) || exists(self.region.directory(), SOCKET)
    }

    /// Takes one connection and sends the file. Nothing is waited for.
    fn answer(&self) {
        let socket = match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(_) => return pause(REST),
        };
        let own = rustix::process::geteuid().as_raw();
        if uid_of_peer(socket.as_fd()) != Ok(own) {
            return;
        }
        // A description of its own for everybody: no offset, flag or lock is shared. Who gets none tries again.
        let file = match &self.nameless {
            Some(file) => reopen(file.as_fd()).ok(),
            None => crate::carrier::open_checked(&self.region, c"region").ok(),
        };
        let Some(file) = file else { return };
        let _ = send(socket.as_fd(), file.as_fd());
    }
}

/// Another description of an open file.
fn reopen(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut path = Text::<64>::from_bytes(b"/proc/self/fd/");
    path.push_number(file.as_raw_fd() as u64);
    rustix::fs::open(path.as_c_str(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn send(socket: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut space = [core::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    control.push(SendAncillaryMessage::ScmRights(&files));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(b"r")], &mut control, flags)
}

/// Tells when names in the region's directory vanish.
fn watch(region: &RegionDirectory) -> Result<OwnedFd, Errno> {
    let watch = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let kinds = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR;
    rustix::fs::inotify::add_watch(&watch, region.path().as_c_str(), kinds)?;
    Ok(watch)
}

fn write_note(region: &RegionDirectory) -> Result<(), CreateError> {
    let wrong = |errno| failed("write", region, NOTE, errno);
    let pid = rustix::process::getpid().as_raw_nonzero();
    let (started, namespace) = (own_start_time().map_err(wrong)?, pid_namespace().map_err(wrong)?);
    let file = open_or_make(region.directory(), NOTE, OFlags::WRONLY | OFlags::EXCL).map_err(wrong)?;
    let mut text = Text::<96>::new();
    // Writing into a buffer of our own cannot fail.
    let _ = write!(text, "{pid} {started} {namespace} ");
    rustix::io::write(&file, text.as_bytes()).map(drop).map_err(wrong)
}

fn complete_note(region: &RegionDirectory, made: BorrowedFd<'_>, carrier: &str) -> Result<(), CreateError> {
    let wrong = |errno| failed("write", region, NOTE, errno);
    let stat = rustix::fs::fstat(made).map_err(wrong)?;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(region.directory(), NOTE, flags, Mode::empty()).map_err(wrong)?;
    let mut text = Text::<96>::new();
    let _ = writeln!(text, "{} {} {carrier}", stat.st_dev, stat.st_ino);
    rustix::io::write(&file, text.as_bytes()).map(drop).map_err(wrong)
}

/// A user namespace in which this user is the same and may mount, and a mount namespace that it governs.
fn enter_namespaces() -> Result<(), CreateError> {
    let refused = |errno| CreateError::NoNamespaces { errno };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: the table of descriptors is not unshared, which alone could leave a descriptor without its file.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }.map_err(refused)?;
    // Kernels before 3.19 have no such file.
    match write_to(c"/proc/self/setgroups", b"deny") {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(refused(errno)),
    }
    for (file, id) in [(c"/proc/self/uid_map", uid), (c"/proc/self/gid_map", gid)] {
        let mut line = Text::<64>::new();
        let _ = write!(line, "{id} {id} 1");
        write_to(file, line.as_bytes()).map_err(refused)?;
    }
    Ok(())
}

fn write_to(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text).map(drop)
}

/// Marks every descriptor but the standard three as not for programs that this process runs: what goes on in the background
/// must not hold files, locks or ends of pipes that its starter has inherited.
pub fn keep_descriptors_from_children() {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(listing) = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty()) else { return };
    let mut buffer = [core::mem::MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = rustix::fs::RawDir::new(&listing, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let number = crate::process::parse_decimal(entry.file_name().to_bytes());
        let Some(number) = number.and_then(|number| i32::try_from(number).ok()).filter(|number| *number > 2) else {
            continue;
        };
        // SAFETY: the number was listed as open; should it have been closed since, the call below fails and nothing
        // else happens.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC);
    }
}
