//! `lifeboat exec`: any program, with the region's files under the mount prefix.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lifeboat_region::place::{Base, CoverError, Place, PlaceError, RegionDirectory, RegionName, Standing};

use crate::arguments::{ExecArguments, RegionArguments};
use crate::claims::Claiming;
use crate::create::create;
use crate::failure::{CANNOT_RUN, Failure, NOT_FOUND, io_reason, shown};
use crate::mount::Prefix;
use crate::mounting::is_mounted_at;
use crate::other_nodes;
use crate::output::{say, size};
use crate::program::{self, Blind};
use crate::target::{attach, base, default_name};

/// File name of the interception library.
const LIBRARY: &str = "liblifeboat_preload.so";
/// How long another process may take to create the region that this one waits for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the program in place of this process; returns only if that fails.
pub fn run(arguments: &ExecArguments) -> Result<(), Failure> {
    let prefix = Prefix::choose(arguments.files.mount.as_ref())?;
    let library = find_library()?;
    let claiming = Claiming::choose(arguments.claims.directory.as_deref(), &prefix)?;
    let by_hand = claiming.demand()?;
    let (place, name) = choose(&arguments.files.region)?;
    ensure_region(&place, &name, arguments)?;
    let directory = place.open_region(&name)?;
    let region = attach(&directory)?;
    let found = region.length();
    if let Some(asked) = arguments.new.size
        && lifeboat_region::carrier::round_size(asked) != Some(found)
    {
        say(format_args!("region `{name}` exists with {}: --size is for new regions only", size(found)));
    }
    if by_hand {
        other_nodes::leave_word(&directory, region.superblock().identity, &prefix, std::process::id())?;
    }
    drop(region);
    cover(&place, &directory, &prefix)?;
    if !is_mounted_at(&directory, Path::new(OsStr::from_bytes(prefix.as_bytes()))) {
        warn_if_blind(&arguments.command[0]);
    }
    let mut command = Command::new(&arguments.command[0]);
    command.args(&arguments.command[1..]);
    command.env("LIFEBOAT_REGION", OsStr::from_bytes(directory.path().as_bytes()));
    command.env("LIFEBOAT_MOUNT", prefix.to_os_string());
    if arguments.trap_raw {
        command.env("LIFEBOAT_TRAP_RAW", "1");
    }
    if arguments.guard {
        command.env("LIFEBOAT_GUARD", "1");
    }
    if arguments.checksums_at_seal {
        command.env("LIFEBOAT_CHECKSUMS", "seal");
    }
    claiming.hand_on(&mut command);
    command.env("LD_PRELOAD", preload(env::var_os("LD_PRELOAD"), &library));
    // Everything opened here is closed by the kernel when the program starts.
    let error = command.exec();
    let program = shown(arguments.command[0].as_bytes());
    // A folder on the PATH that may not be looked into makes "permission denied" of programs that are nowhere.
    let has_slash = arguments.command[0].as_bytes().contains(&b'/');
    if error.kind() == ErrorKind::NotFound || (!has_slash && program::find(&arguments.command[0]).is_none()) {
        return Err(Failure { code: NOT_FOUND, line: format!("cannot run `{program}`: no such program") });
    }
    Err(Failure { code: CANNOT_RUN, line: format!("cannot run `{program}`: {}", io_reason(&error)) })
}

/// Says so when the program cannot see the mount: its calls will meet the unwritable directory instead.
fn warn_if_blind(program: &OsStr) {
    let Some(blind) = program::find(program).and_then(|file| program::is_blind(&file)) else { return };
    let why = match blind {
        Blind::Static => "is linked statically",
        Blind::Privileged => "runs with rights of its own (set-uid)",
    };
    say(format_args!(
        "`{}` {why}: it does not see the files of the region (`lifeboat mount` shows them to all programs)",
        shown(program.as_bytes())
    ));
}

/// The region to use, which need not exist: the named one, else that of a surrounding `exec`, else the default.
fn choose(arguments: &RegionArguments) -> Result<(Place, RegionName), Failure> {
    if arguments.name.is_none()
        && arguments.place.place.is_none()
        && let Some(path) = env::var_os("LIFEBOAT_REGION")
    {
        let path = path.as_bytes();
        let slash = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let name = path.get(slash + 1..).unwrap_or_default();
        let wrong = |error: PlaceError| Failure::usage(format_args!("LIFEBOAT_REGION is wrong: {error}"));
        let name = RegionName::new(name).map_err(|why| wrong(PlaceError::bad_name(name, why)))?;
        return Ok((Place::open_or_create(Base::At(&path[..slash])).map_err(wrong)?, name));
    }
    let place = Place::open_or_create(base(&arguments.place))?;
    Ok((place, arguments.name.unwrap_or_else(default_name)))
}

/// Creates the region if there is none, waiting for others that are doing so at this moment.
fn ensure_region(place: &Place, name: &RegionName, arguments: &ExecArguments) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match place.standing(name)? {
            Standing::Ready => return Ok(()),
            Standing::NotVisible => {
                return Err(Failure::region(format_args!(
                    "the memory of region `{name}` is not visible here: it is mounted in another mount namespace, or was \
                     unmounted; take another name or `lifeboat region remove --force {name}`"
                )));
            }
            Standing::Busy if start.elapsed() > PATIENCE => {
                return Err(Failure::operation(format_args!(
                    "region `{name}` is still being created by another process after {} s: end that one and try again",
                    PATIENCE.as_secs()
                )));
            }
            Standing::Busy => sleep(Duration::from_millis(20)),
            Standing::Absent | Standing::HalfMade => {
                if let Some(made) = create(place, name, &arguments.new)? {
                    say(format_args!("created region `{name}`: {} on {}", size(made.size), made.carrier));
                    return Ok(());
                }
            }
        }
    }
}

/// Makes the real directory under the prefix unwritable.
fn cover(place: &Place, directory: &RegionDirectory, prefix: &Prefix) -> Result<(), Failure> {
    let covered = place.cover(directory, prefix.as_bytes()).map_err(|error| match error {
        CoverError::Place(error) => error.into(),
        error @ CoverError::BadPrefix { .. } => Failure::usage(error),
        error => Failure::operation(error),
    })?;
    if let Some(errno) = covered.cannot_mount {
        let prefix = shown(prefix.as_bytes());
        say(format_args!(
            "no permission to mount ({}): as root, calls that bypass the interception library can write into {prefix}",
            crate::failure::reason(errno)
        ));
    }
    Ok(())
}

/// The interception library: `LIFEBOAT_PRELOAD`, else beside this program, else in `../lib`.
pub fn find_library() -> Result<PathBuf, Failure> {
    let given = env::var_os("LIFEBOAT_PRELOAD").map(PathBuf::from);
    let own = env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or(Path::new("/"));
    let candidates = match given {
        Some(path) => vec![path],
        None => vec![folder.join(LIBRARY), folder.join("../lib").join(LIBRARY)],
    };
    let Some(found) = candidates.iter().find_map(|path| path.canonicalize().ok().filter(|path| path.is_file())) else {
        let looked: Vec<String> = candidates.iter().map(|path| shown(path.as_os_str().as_bytes())).collect();
        return Err(Failure::operation(format_args!(
            "the interception library is missing (looked for {}): build it with `cargo build -p lifeboat-preload` or name it in LIFEBOAT_PRELOAD",
            looked.join(", ")
        )));
    };
    if let Some(why) = env::var_os("LIFEBOAT_PRELOAD").and_then(|_| distrust(&found)) {
        let path = shown(found.as_os_str().as_bytes());
        return Err(Failure::operation(format_args!(
            "LIFEBOAT_PRELOAD names {path}, which {why}: others decide what it does; name a library of your own"
        )));
    }
    if found.as_os_str().as_bytes().iter().any(|byte| b": \t\n".contains(byte)) {
        let path = shown(found.as_os_str().as_bytes());
        return Err(Failure::operation(format_args!(
            "the dynamic linker cannot load {path}: its path contains a space or a colon; put the library elsewhere and name it in LIFEBOAT_PRELOAD"
        )));
    }
    Ok(found)
}

/// Why a library that the environment names is not loaded: `sudo` and the like let the variable pass, which the linker's own
/// they do not.
fn distrust(library: &Path) -> Option<String> {
    let metadata = library.metadata().ok()?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Some(format!("belongs to user {}", metadata.uid()));
    }
    (metadata.mode() & 0o002 != 0).then(|| "everybody may write".to_owned())
}

/// The list of libraries to load first: what was asked for before comes before ours, because sanitizers insist on that.
fn preload(before: Option<OsString>, library: &Path) -> OsString {
    let library = library.as_os_str().as_bytes();
    let mut list = before.map(OsString::into_vec).unwrap_or_default();
    let known = list.split(|byte| b": \t\n".contains(byte)).any(|entry| entry == library);
    if !known {
        if !list.is_empty() {
            list.push(b':');
        }
        list.extend_from_slice(library);
    }
    OsString::from_vec(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_preloaded_libraries_stay_first_and_ours_comes_once() {
        let ours = Path::new("/x/liblifeboat_preload.so");
        for (before, after) in [
            (None, "/x/liblifeboat_preload.so"),
            (Some(""), "/x/liblifeboat_preload.so"),
            (Some("/libasan.so"), "/libasan.so:/x/liblifeboat_preload.so"),
            (Some("/a.so /b.so"), "/a.so /b.so:/x/liblifeboat_preload.so"),
            (Some("/x/liblifeboat_preload.so"), "/x/liblifeboat_preload.so"),
            (Some("/a.so:/x/liblifeboat_preload.so"), "/a.so:/x/liblifeboat_preload.so"),
        ] {
            assert_eq!(preload(before.map(OsString::from), ours), after);
        }
    }
}
