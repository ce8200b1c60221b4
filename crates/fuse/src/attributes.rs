//! Attributes between the region's words and the kernel's.

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use lifeboat_fs::{NewTime, Stat};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The unit of `st_blksize`, as interception says it.
pub(crate) const BLOCK_SIZE: u32 = 4096;
const NANOSECONDS: i64 = 1_000_000_000;

/// The kernel's form of an inode's attributes.
pub(crate) fn to_kernel(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.number),
        size: stat.size,
        blocks: stat.blocks,
        atime: time(stat.accessed),
        mtime: time(stat.modified),
        ctime: time(stat.changed),
        crtime: time(stat.born),
        kind: kind((stat.mode >> 12) as u8),
        perm: (stat.mode & 0o7777) as u16,
        nlink: stat.links,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.device as u32,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// A type from `d_type`, which is also the upper part of a mode.
pub(crate) fn kind(number: u8) -> FileType {
    match number {
        libc::DT_DIR => FileType::Directory,
        libc::DT_LNK => FileType::Symlink,
        libc::DT_FIFO => FileType::NamedPipe,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::CharDevice,
        libc::DT_BLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn time(nanoseconds: i64) -> SystemTime {
    let length = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds < 0 { UNIX_EPOCH.checked_sub(length) } else { UNIX_EPOCH.checked_add(length) };
    time.unwrap_or(UNIX_EPOCH)
}

/// What `utimensat` asked for. Times that a region's clock cannot hold become the nearest that it can.
pub(crate) fn new_time(asked: Option<TimeOrNow>) -> NewTime {
    match asked {
        None => NewTime::Keep,
        Some(TimeOrNow::Now) => NewTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => NewTime::At(nanoseconds(time)),
    }
}

fn nanoseconds(time: SystemTime) -> i64 {
    let (seconds, fraction) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        // The kernel counts the fraction forwards from the second below; `fuser` hands it on as if backwards.
        Err(before) => {
            let before = before.duration();
            (i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds), before.subsec_nanos())
        }
    };
    seconds.saturating_mul(NANOSECONDS).saturating_add(i64::from(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_come_back_as_they_went() {
        for at in [0, 1, -1, -NANOSECONDS, 1_234_567_890_123_456_789, i64::MAX] {
            assert_eq!(nanoseconds_forwards(time(at)), at);
        }
        // -1.25 s is {-2 s, 750 ms} for the kernel.
        let as_handed_on = UNIX_EPOCH - Duration::new(2, 750_000_000);
        assert_eq!(nanoseconds(as_handed_on), -1_250_000_000);
        assert_eq!(nanoseconds(UNIX_EPOCH + Duration::new(3, 5)), 3 * NANOSECONDS + 5);
    }

    fn nanoseconds_forwards(time: SystemTime) -> i64 {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64,
            Err(before) => -(before.duration().as_nanos() as i64),
        }
    }
}
