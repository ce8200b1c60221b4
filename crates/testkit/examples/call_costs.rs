//! Prints what single calls of the file system cost in this process, by processor time: a look, not a verdict.

use lifeboat_fs::{Caller, LastLink, Position, UserSource, UserTarget};
use lifeboat_testkit::scratch::ScratchRegion;

const ROOT: Caller<'static> = Caller { uid: 0, gid: 0, groups: &[], umask: 0o022, checked: false };

fn cpu() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to our own timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn timed(what: &str, count: u64, mut work: impl FnMut(u64)) {
    let start = cpu();
    for number in 0..count {
        work(number);
    }
    println!("{what:40} {:10.1} ns", (cpu() - start) * 1e9 / count as f64);
}

fn main() {
    let scratch = ScratchRegion::new("costs", 1 << 30);
    let fs = scratch.attach();
    let root = fs.root();
    fs.mkdir(&ROOT, root, b"/a", 0o755).unwrap();
    fs.mkdir(&ROOT, root, b"/a/b", 0o755).unwrap();
    let names: Vec<String> = (0..100_000).map(|number| format!("/a/b/file{number}")).collect();
    timed("create + close, 3 components", 100_000, |n| {
        let file = fs.open(&ROOT, root, names[n as usize].as_bytes(), 0o101, 0o644).unwrap();
        fs.close(file).unwrap();
    });
    timed("resolve + stat", 100_000, |n| {
        let inode = fs.resolve(&ROOT, root, names[n as usize].as_bytes(), LastLink::Follow).unwrap();
        fs.stat(inode).unwrap();
    });
    timed("open + close", 100_000, |n| {
        let file = fs.open(&ROOT, root, names[n as usize].as_bytes(), 0, 0).unwrap();
        fs.close(file).unwrap();
    });
    timed("unlink", 100_000, |n| fs.unlink(&ROOT, root, names[n as usize].as_bytes()).unwrap());
    let file = fs.open(&ROOT, root, b"/a/data", 0o102, 0o644).unwrap();
    let small = [1u8; 64];
    timed("write 64 B, growing", 1_000_000, |_| {
        fs.write(file, &[UserSource::from_slice(&small)], Position::Current).unwrap();
    });
    timed("pwrite 64 B inside", 1_000_000, |n| {
        fs.write(file, &[UserSource::from_slice(&small)], Position::At(n * 64 % 4096)).unwrap();
    });
    let block = vec![1u8; 4096];
    timed("pwrite 4 KiB, fresh", 20_000, |n| {
        fs.write(file, &[UserSource::from_slice(&block)], Position::At((100 << 20) + n * 4096)).unwrap();
    });
    let big = vec![7u8; 1 << 20];
    timed("pwrite 1 MiB, fresh region", 200, |n| {
        fs.write(file, &[UserSource::from_slice(&big)], Position::At((200 << 20) + (n << 20))).unwrap();
    });
    timed("pwrite 1 MiB, over", 200, |n| {
        fs.write(file, &[UserSource::from_slice(&big)], Position::At((200 << 20) + (n << 20))).unwrap();
    });
    fs.truncate_open(file, 0).unwrap();
    timed("pwrite 1 MiB, recycled", 200, |n| {
        fs.write(file, &[UserSource::from_slice(&big)], Position::At((200 << 20) + (n << 20))).unwrap();
    });
    let mut into = vec![0u8; 1 << 20];
    timed("pread 1 MiB", 200, |n| {
        fs.read(file, &[UserTarget::from_slice(&mut into)], Position::At((200 << 20) + (n << 20))).unwrap();
    });
}
