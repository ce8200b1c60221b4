//! Which region a command means, and opening it.

use std::env;
use std::os::unix::ffi::OsStrExt;

use lifeboat_fs::FileSystem;
use lifeboat_region::Region;
use lifeboat_region::carrier;
use lifeboat_region::place::{Base, Place, PlaceError, RegionDirectory, RegionName};
use rustix::fd::OwnedFd;

use crate::arguments::{DEFAULT_NAME, FilesArguments, PlaceArguments};
use crate::claims::claiming;
use crate::failure::{Failure, reason};
use crate::mount::Prefix;

/// The directory of this user's regions as the command line says.
pub fn base(arguments: &PlaceArguments) -> Base<'_> {
    arguments.place.as_ref().map_or(Base::Standard, |path| Base::At(path.as_os_str().as_bytes()))
}

/// The name that is meant when none is given.
pub fn default_name() -> RegionName {
    RegionName::new(DEFAULT_NAME.as_bytes()).expect("the default name is a name")
}

/// Opens the directory of the region: the named one, else that of the surrounding `exec`, else the default.
pub fn region_directory(name: Option<&RegionName>, place: &PlaceArguments) -> Result<RegionDirectory, Failure> {
    if name.is_none()
        && place.place.is_none()
        && let Some(path) = env::var_os("LIFEBOAT_REGION")
    {
        return RegionDirectory::open(path.as_bytes()).map_err(|error| match error {
            PlaceError::BadBase { .. } | PlaceError::BadName { .. } => {
                Failure::usage(format_args!("LIFEBOAT_REGION is wrong: {error}"))
            }
            error => error.into(),
        });
    }
    let name = name.copied().unwrap_or_else(default_name);
    match Place::open(base(place)) {
        Ok(place) => Ok(place.open_region(&name)?),
        // No region was ever made: say which one was looked for.
        Err(PlaceError::Missing { .. }) => {
            Err(Failure::region(format_args!("no region `{name}`: `lifeboat region create {name}` makes one")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Attaches the region in `directory`.
pub fn attach(directory: &RegionDirectory) -> Result<Region, Failure> {
    attach_file(directory, carrier::open(directory).map_err(Failure::region)?)
}

/// The same with the region's file, which the caller has opened.
pub fn attach_file(directory: &RegionDirectory, file: OwnedFd) -> Result<Region, Failure> {
    let name = directory.name();
    let own_directory = directory
        .directory()
        .try_clone_to_owned()
        .map_err(|errno| Failure::operation(format_args!("region `{name}`: {}", reason(errno))))?;
    Region::attach_file(own_directory, file)
        .map_err(|error| Failure::region(format_args!("region `{name}` ({}): {error}", directory.path())))
}

/// Attaches the region of the command line and the files in it.
pub fn files(arguments: &FilesArguments) -> Result<(FileSystem, Prefix), Failure> {
    let prefix = Prefix::choose(arguments.mount.as_ref())?;
    let directory = region_directory(arguments.region.name.as_ref(), &arguments.region.place)?;
    let region = attach(&directory)?;
    let files = FileSystem::attach(region, prefix.as_bytes()).map_err(|errno| {
        Failure::region(format_args!(
            "region `{}` ({}) has no usable file system: {}",
            directory.name(),
            directory.path(),
            reason(errno)
        ))
    })?;
    Ok((claiming(files)?, prefix))
}
