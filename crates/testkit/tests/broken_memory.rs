//! The fear: memory that the hardware has lost kills the program that reads it, or leaves a lock held.

use lifeboat_testkit::child::{self, Role, report, setting};
use lifeboat_testkit::report::skipped;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, attach, check};
use lifeboat_testkit::volume::Volume;
use lifeboat_testkit::workers::volume;
use std::ffi::c_void;
use std::path::Path;
use std::time::Duration;

const PAGE: usize = 4096;
/// Pages of the file; the one with this index is lost.
const PAGES: usize = 16;
const LOST: usize = 3;

/// Requests of `userfaultfd(2)`.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_POISON: u64 = 0xc020_aa08;
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_FEATURE_POISON: u64 = 1 << 14;

#[test]
fn entry_of_child_processes() {
    child::enter(&[("reader", reader)]);
}

/// From now on touching this page of ours raises `SIGBUS` with `BUS_MCEERR_AR`, as for a page that the hardware lost; the
/// page itself and other processes' mappings stay as they are.
fn lose(page: usize) -> std::io::Result<()> {
    let (page, length) = (page as u64, PAGE as u64);
    let mut api = [0xaa, UFFD_FEATURE_POISON, 0];
    let mut register = [page, length, 1, 0];
    let mut poison = [page, length, 0, 0];
    let done = |answer: i32| if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: requests with structures of 3 and 4 words as the kernel defines them; the page is mapped and shared, so that
    // taking it out of the page table loses nothing.
    unsafe {
        let file = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) as i32;
        if file < 0 {
            return Err(std::io::Error::last_os_error());
        }
        done(libc::ioctl(file, UFFDIO_API, api.as_mut_ptr()))?;
        done(libc::ioctl(file, UFFDIO_REGISTER, register.as_mut_ptr()))?;
        done(libc::madvise(page as *mut c_void, PAGE, libc::MADV_DONTNEED))?;
        done(libc::ioctl(file, UFFDIO_POISON, poison.as_mut_ptr()))
    }
}

extern "C" fn on_bus_error(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: what the kernel passed to this handler.
    if !unsafe { lifeboat_kernels::fault::handle(signal, info.cast_const().cast(), context) } {
        // SAFETY: ends this process.
        unsafe { libc::_exit(7) };
    }
}

fn reader() {
    // SAFETY: a handler of three arguments; zeros are valid for the rest.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()), 0);
    }
    let files = attach(Path::new(&setting("REGION"))).expect("attach");
    let volume = volume(&files);
    let file = volume.open(None, b"file", libc::O_RDWR, 0).expect("open");
    let mut place = None;
    let pin = files.map(file, 0, (PAGES * PAGE) as u64, false, &mut |piece| {
        let (start, lost) = (piece.file_offset as usize, LOST * PAGE);
        if (start..start + piece.length as usize).contains(&lost) {
            place = Some(piece.region_offset as usize + lost - start);
        }
    });
    files.unmap(pin.expect("the file's places")).expect("unmap");
    let page = files.region().base() + place.expect("a place of the page");
    if let Err(error) = lose(page) {
        return report(&format!("skip {error}"));
    }
    let at = |page: usize| Some((page * PAGE) as u64);
    assert_eq!(volume.read(file, 100, at(LOST)), Err(libc::EIO), "reading what is lost");
    assert_eq!(volume.read(file, PAGE, at(LOST + 1)), Ok(vec![9; PAGE]), "reading behind it");
    assert_eq!(volume.write(file, &[1; 100], at(LOST)), Err(libc::EIO), "writing there");
    assert_eq!(volume.write(file, &[2; PAGE], at(LOST + 1)), Ok(PAGE), "writing behind it");
    volume.truncate_open(file, (2 * PAGES * PAGE) as u64).expect("nothing is locked");
    volume.close(file).expect("close");
    report("done");
}

#[test]
fn memory_that_the_hardware_lost_is_an_error_of_the_call_that_touches_it() {
    let _nothing_left = NoResidue::begin();
    let region = ScratchRegion::new("broken", 16 << 20);
    let files = region.attach();
    let volume = volume(&files);
    let file = volume.open(None, b"file", libc::O_CREAT | libc::O_RDWR, 0o644).expect("create");
    volume.write(file, &[9; PAGES * PAGE], None).expect("write");
    let said = Role::new("reader").with("REGION", region.path().display()).run(Duration::from_secs(20)).concat();
    if let Some(why) = said.strip_prefix("skip ") {
        return skipped("broken memory", why);
    }
    assert_eq!(said, "done");
    // For others, whose mapping is whole, the bytes are there, and nobody waits.
    assert_eq!(volume.read(file, PAGE, Some(0)), Ok(vec![9; PAGE]));
    volume.write(file, &[3; 100], Some((LOST * PAGE) as u64)).expect("write beside");
    volume.close(file).expect("close");
    let checked = check(&files);
    assert!(checked.is_clean(), "{checked}");
}
