//! The keeper's socket against what may be at its ends. Whole keepers are tested with the command, which starts them.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lifeboat_region::carrier::keeper::{KeeperError, Keeping, receive_file, receive_new_file};
use lifeboat_region::carrier::{self, Carrier, Keeper, OpenError};
use lifeboat_region::place::{Base, Place, Refusal, RegionDirectory, RegionName};
use lifeboat_region::{AttachError, Region};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// A region directory of this test's own; goes with everything in it.
struct Here {
    base: PathBuf,
    region: RegionDirectory,
}

impl Here {
    fn new() -> Here {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = PathBuf::from(format!("/dev/shm/lifeboat-test-keeper-{}-{number}", std::process::id()));
        let place = Place::open_or_create(Base::At(base.to_str().unwrap().as_bytes())).unwrap();
        let region = place.create_region(&RegionName::new(b"r").unwrap()).unwrap();
        region.make_memory().unwrap();
        Here { base, region }
    }

    fn socket(&self) -> PathBuf {
        self.base.join("r/keeper.sock")
    }

    fn region(&self) -> RegionDirectory {
        RegionDirectory::open(self.base.join("r").to_str().unwrap().as_bytes()).unwrap()
    }

    fn attach(&self) -> Option<AttachError> {
        Region::attach(self.base.join("r").to_str().unwrap().as_bytes()).err()
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.base);
    }
}

#[test]
fn a_region_without_keeper_is_missing_and_one_whose_keeper_died_is_lost() {
    let here = Here::new();
    assert_eq!(receive_file(here.region.directory()).unwrap_err(), KeeperError::None);
    assert!(matches!(carrier::open(&here.region), Err(OpenError::Missing { .. })));
    assert_eq!(here.attach(), Some(AttachError::Open(rustix::io::Errno::NOENT)));

    drop(UnixListener::bind(here.socket()).unwrap());
    assert_eq!(receive_file(here.region.directory()).unwrap_err(), KeeperError::Gone);
    assert_eq!(here.attach(), Some(AttachError::Keeper(KeeperError::Gone)));
    let line = carrier::open(&here.region).unwrap_err().to_string();
    assert!(line.contains("lost") && !line.contains('\n'), "{line}");
    assert_eq!(carrier::identify(&here.region).unwrap().name(), Keeper.name());
}

#[test]
fn a_keeper_that_accepts_nothing_is_waited_for_two_seconds_also_behind_a_full_queue() {
    use std::os::fd::AsRawFd;
    let here = Here::new();
    let listener = UnixListener::bind(here.socket()).unwrap();
    let attach = || {
        let start = Instant::now();
        assert_eq!(here.attach(), Some(AttachError::Keeper(KeeperError::Silent)));
        let waited = start.elapsed();
        assert!(waited > Duration::from_millis(1500) && waited < Duration::from_secs(6), "{waited:?}");
    };
    attach();
    // SAFETY: the listener is open until the end of this function.
    rustix::net::listen(unsafe { BorrowedFd::borrow_raw(listener.as_raw_fd()) }, 0).unwrap();
    // The connection of the first attempt was never taken: the queue is full.
    attach();
}

/// Hands `file` to the next connection.
fn hand_out(listener: &UnixListener, file: Option<BorrowedFd<'_>>) {
    use std::os::fd::AsRawFd;
    let (socket, _) = listener.accept().unwrap();
    let Some(file) = file else { return };
    let files = [file];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    // SAFETY: the socket is open until the end of this function.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    let bytes = [rustix::io::IoSlice::new(b"r")];
    rustix::net::sendmsg(socket, &bytes, &mut control, SendFlags::empty()).unwrap();
}

fn open(path: &str) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

#[test]
fn what_is_no_region_is_refused_from_a_keeper_too() {
    let here = Here::new();
    let listener = UnixListener::bind(here.socket()).unwrap();
    let shared = here.base.join("shared");
    std::fs::write(&shared, b"others may read this").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (null, shared) = (open("/dev/null"), open(shared.to_str().unwrap()));
            // Who gets nothing tries again.
            hand_out(&listener, None);
            hand_out(&listener, Some(null.as_fd()));
            hand_out(&listener, Some(shared.as_fd()));
            hand_out(&listener, Some(null.as_fd()));
        });
        let refusal = |why: Refusal| match carrier::open(&here.region) {
            Err(OpenError::Refused { why: found, .. }) => assert_eq!(found, why),
            other => panic!("{other:?}"),
        };
        refusal(Refusal::NotAFile);
        refusal(Refusal::Mode(0o644));
        assert_eq!(here.attach(), Some(AttachError::NotOurs));
    });
}

#[test]
fn everybody_gets_a_description_of_his_own_and_nobody_waits_for_the_silent() {
    let here = Here::new();
    let file = here.base.join("r/memory/region");
    std::fs::write(&file, b"0123456789").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let keeping = Keeping::listen(here.region()).unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            keeping.serve_creator(writer.as_fd());
            keeping.serve();
        });
        let first = receive_new_file(here.region.directory()).unwrap();
        std::fs::rename(here.base.join("r/keeper.new"), here.socket()).unwrap();
        drop(reader);
        let silent: Vec<_> = (0..50).map(|_| UnixStream::connect(here.socket()).unwrap()).collect();
        let second = receive_file(here.region.directory()).unwrap();
        let mut bytes = [0; 4];
        for file in [first, second] {
            rustix::io::read(&file, &mut bytes).unwrap();
            assert_eq!(&bytes, b"0123");
        }
        drop(silent);
        std::fs::remove_file(here.socket()).unwrap();
        server.join().unwrap();
    });
}

#[test]
fn an_unpublished_region_is_given_up_when_its_creator_is_gone() {
    let here = Here::new();
    let keeping = Keeping::listen(here.region()).unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let start = Instant::now();
    keeping.serve_creator(writer.as_fd());
    keeping.serve();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_deep_place_is_no_hindrance_for_a_socket() {
    let here = Here::new();
    let mut deep = here.base.clone();
    while deep.as_os_str().len() < 250 {
        deep.push("a-component-of-a-long-path");
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&deep).unwrap();
    let place = Place::open_or_create(Base::At(deep.to_str().unwrap().as_bytes())).unwrap();
    let region = place.create_region(&RegionName::new(b"r").unwrap()).unwrap();
    let keeping = Keeping::listen(RegionDirectory::open(region.path().as_bytes()).unwrap()).unwrap();
    region.publish().unwrap();
    drop(keeping);
    assert_eq!(receive_file(region.directory()).unwrap_err(), KeeperError::Gone);
}
