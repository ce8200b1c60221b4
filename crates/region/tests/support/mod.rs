//! What the tests of carriers share.

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd as StdOwnedFd};

use lifeboat_region::carrier::keeper::{Keeping, receive_new_file};
use lifeboat_region::carrier::{Carrier, CreateError, Created, PageReport};
use lifeboat_region::place::RegionDirectory;

/// Why a carrier gave nothing.
#[derive(Debug)]
pub enum Refused {
    /// Not here, not for this user: nothing that a test could do about it.
    NotHere(String),
    /// Anything else.
    Failed(String),
}

impl Refused {
    /// Tells the two kinds apart.
    pub fn of(error: CreateError) -> Refused {
        match error {
            CreateError::CannotMount { .. } | CreateError::NoNamespaces { .. } => Refused::NotHere(error.to_string()),
            _ => Refused::Failed(error.to_string()),
        }
    }
}

/// A keeper in a forked process of the test's own, which ends with this value or with its thread.
///
/// The region's code neither allocates nor calls libc, so that it may run in a child of a process with threads.
pub struct ForkedKeeper {
    pid: i32,
    _lines: std::fs::File,
}

impl ForkedKeeper {
    /// Reserves `size` bytes on `carrier` and gets the file as the creator of a region does.
    pub fn start(
        carrier: &'static dyn Carrier,
        region: &RegionDirectory,
        size: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Created, ForkedKeeper), Refused> {
        let mut ends = [0; 2];
        // SAFETY: the array has room for the two descriptors.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: both were opened just now and belong to nobody else.
        let [reader, writer] = ends.map(|end| unsafe { StdOwnedFd::from_raw_fd(end) });
        // SAFETY: the child only makes calls that are allowed there (see above) and never returns.
        let pid = match unsafe { libc::fork() } {
            0 => child(carrier, region, size, &writer),
            pid => pid,
        };
        assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
        drop(writer);
        let mut keeper = ForkedKeeper { pid, _lines: reader.into() };
        let pages = keeper.wait_for_memory(size, progress)?;
        let file = receive_new_file(region.directory()).map_err(|error| Refused::Failed(error.to_string()))?;
        Ok((Created { file, carrier: carrier.name(), pages, swappable: false }, keeper))
    }

    fn wait_for_memory(&mut self, size: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<PageReport, Refused> {
        let mut message = [0; 17];
        loop {
            self._lines.read_exact(&mut message).expect("the keeper died");
            let number = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().unwrap());
            match message[0] {
                b'p' => progress(number(1), size),
                b'm' => return Ok(PageReport { huge: number(1), total: number(9) }),
                kind => {
                    let mut line = String::new();
                    self._lines.read_to_string(&mut line).unwrap();
                    return Err(if kind == b'n' { Refused::NotHere(line) } else { Refused::Failed(line) });
                }
            }
        }
    }
}

impl Drop for ForkedKeeper {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody else waits for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

fn send(kind: u8, first: u64, second: u64) {
    let mut message = [kind; 17];
    message[1..9].copy_from_slice(&first.to_le_bytes());
    message[9..].copy_from_slice(&second.to_le_bytes());
    // SAFETY: reads the array only.
    unsafe { libc::write(1, message.as_ptr().cast(), message.len()) };
}

/// Writes text without allocating.
struct Line;

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // SAFETY: reads the text only.
        unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
        Ok(())
    }
}

fn child(carrier: &'static dyn Carrier, region: &RegionDirectory, size: u64, pipe: &StdOwnedFd) -> ! {
    let path = *region.path();
    // SAFETY: plain system calls. What the parent has open, claims of names among it, is closed here.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::dup2(pipe.as_raw_fd(), 1);
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
    }
    match Keeping::prepare(path.as_bytes(), carrier, size, &mut |done, size| send(b'p', done, size)) {
        Ok((keeping, created)) => {
            send(b'm', created.pages.huge, created.pages.total);
            drop(created);
            keeping.serve_creator_on_standard_output();
            keeping.serve();
        }
        Err(error) => {
            let not_here = matches!(error, CreateError::CannotMount { .. } | CreateError::NoNamespaces { .. });
            send(if not_here { b'n' } else { b'f' }, 0, 0);
            let _ = std::fmt::Write::write_fmt(&mut Line, format_args!("{error}"));
        }
    }
    // SAFETY: ends this process without touching what it shares with its parent.
    unsafe { libc::_exit(0) }
}
