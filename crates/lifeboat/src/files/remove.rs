//! `lifeboat rm`.

use lifeboat_fs::{Errno, LastLink};

use super::{Failures, Files, is_directory};
use crate::arguments::RmArguments;
use crate::failure::{Failure, shown};

/// Runs `lifeboat rm`.
pub fn rm(arguments: &RmArguments) -> Result<(), Failure> {
    let files = Files::open(&arguments.files)?;
    let mut failures = Failures::default();
    for argument in &arguments.paths {
        let path = files.inner(argument);
        failures.check(remove(&files, &path, arguments, &mut Failures::default()))?;
    }
    failures.end()
}

fn remove(files: &Files, path: &[u8], arguments: &RmArguments, below: &mut Failures) -> Result<(), Failure> {
    let (inode, stat) = match files.resolve(path, LastLink::Keep) {
        Err(Errno::NOENT) if arguments.force && !path.is_empty() => return Ok(()),
        _ => files.find(path, LastLink::Keep, "remove")?,
    };
    if is_directory(&stat) && !arguments.recursive {
        return Err(Failure::operation(format_args!("cannot remove {}: it is a directory; add -r", shown(path))));
    }
    if inode == files.fs.root() {
        return Err(Failure::operation(format_args!(
            "cannot remove {}: it is the root of the region; `lifeboat region remove` removes everything",
            shown(path)
        )));
    }
    files.walk(path, inode, stat, &mut |path, found| {
        let step = found.and_then(|(_, stat)| {
            let (who, root) = (files.who(), files.fs.root());
            if is_directory(stat) { files.fs.rmdir(&who, root, path) } else { files.fs.unlink(&who, root, path) }
        });
        let step = match step {
            // Somebody else was faster.
            Err(Errno::NOENT) => Ok(()),
            other => other.map_err(|errno| Failure::on_path("remove", path, errno)),
        };
        below.check(step).map(|_| ())
    })?;
    std::mem::take(below).end()
}
