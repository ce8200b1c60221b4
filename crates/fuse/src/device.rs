//! The kernel's side of a mount: by `mount(2)` where that is permitted, through `fusermount3` otherwise.

use crate::error::{MountError, UnmountError};
use crate::table::TYPE;
use lifeboat_fs::Errno;
use rustix::fd::{AsRawFd, IntoRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::IoSliceMut;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
};
use std::ffi::{CString, OsStr, OsString};
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

const HELPER: &str = "fusermount3";
/// Where the helper finds the number of the socket over which it hands out the device.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// A device whose mount stands.
#[derive(Debug)]
pub(crate) struct Device {
    file: OwnedFd,
    /// Whether all users may go in, as far as the files' own permissions let them.
    for_all: bool,
}

impl Device {
    /// The descriptor as the standard library has it, and who may go in.
    pub(crate) fn into_parts(self) -> (std::os::fd::OwnedFd, bool) {
        // SAFETY: the number is that of an open descriptor that nobody else owns any more.
        (unsafe { std::os::fd::FromRawFd::from_raw_fd(self.file.into_raw_fd()) }, self.for_all)
    }
}

/// Mounts over `at`, an existing directory.
pub(crate) fn mount(at: &Path, region: &OsStr) -> Result<Device, MountError> {
    if rustix::process::geteuid().is_root() {
        match mount_directly(at, region) {
            Err(MountError::Failed { errno: Errno::PERM, .. }) => {}
            done => return done.map(|file| Device { file, for_all: true }),
        }
    }
    mount_by_helper(at, region).map(|file| Device { file, for_all: false })
}

fn mount_directly(at: &Path, region: &OsStr) -> Result<OwnedFd, MountError> {
    let failed = |doing, errno| MountError::Failed { doing, at: at.to_path_buf(), errno };
    let device = rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::NoDevice { errno })?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other",
        device.as_raw_fd()
    );
    let no_nul = |_| failed("mount at", Errno::INVAL);
    let options = CString::new(options).map_err(no_nul)?;
    let source = CString::new(region.as_bytes()).map_err(no_nul)?;
    let kind = CString::new(TYPE).map_err(no_nul)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount(
        source.as_c_str(),
        at.as_os_str().as_bytes(),
        kind.as_c_str(),
        flags,
        Some(options.as_c_str()),
    )
    .map_err(|errno| failed("mount at", errno))?;
    Ok(device)
}

fn mount_by_helper(at: &Path, region: &OsStr) -> Result<OwnedFd, MountError> {
    let failed = |doing, errno| MountError::Failed { doing, at: at.to_path_buf(), errno };
    // Not closed by exec: the helper gets its end under its number.
    let (theirs, ours) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)
        .map_err(|errno| failed("talk to fusermount3 about", errno))?;
    let mut options = OsString::from("default_permissions,subtype=lifeboat,fsname=");
    // The helper takes a comma for the end of an option unless it is marked.
    let escaped: Vec<u8> = region
        .as_bytes()
        .iter()
        .flat_map(|&byte| if byte == b',' || byte == b'\\' { vec![b'\\', byte] } else { vec![byte] })
        .collect();
    options.push(OsStr::from_bytes(&escaped));
    let mut helper = Command::new(HELPER);
    helper.arg("-o").arg(options).arg("--").arg(at).env(HELPER_SOCKET, theirs.as_raw_fd().to_string());
    let child = helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    drop(theirs);
    let child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => MountError::NoHelper,
        _ => failed("start fusermount3 for", errno_of(&error)),
    })?;
    let received = receive_device(&ours);
    drop(ours);
    let output = child.wait_with_output().map_err(|error| failed("wait for fusermount3 at", errno_of(&error)))?;
    match received {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(MountError::Helper { at: at.to_path_buf(), said: first_line(&output.stderr) }),
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim();
    line.strip_prefix("fusermount3: ").unwrap_or(line).to_owned()
}

/// The descriptor that the helper sends; `None` when it ends without.
fn receive_device(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0u8; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// Undoes the topmost mount at `at`; `lazily` also where it is in use.
pub(crate) fn unmount(at: &Path, lazily: bool) -> Result<(), UnmountError> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazily);
    match rustix::mount::unmount(at.as_os_str().as_bytes(), flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(UnmountError::Busy { at: at.to_path_buf() }),
        Err(Errno::PERM) => unmount_by_helper(at, lazily),
        Err(errno) => Err(UnmountError::Failed { at: at.to_path_buf(), errno }),
    }
}

fn unmount_by_helper(at: &Path, lazily: bool) -> Result<(), UnmountError> {
    let mut helper = Command::new(HELPER);
    helper.arg("-u").args(lazily.then_some("-z")).arg("--").arg(at);
    let output = helper.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => UnmountError::NoHelper,
        _ => UnmountError::Failed { at: at.to_path_buf(), errno: errno_of(&error) },
    })?;
    let said = first_line(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(UnmountError::Busy { at: at.to_path_buf() }),
        false => Err(UnmountError::Helper { at: at.to_path_buf(), said }),
    }
}
