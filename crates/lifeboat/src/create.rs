//! Creating a region: for `region create`, and for `exec` when there is none.

use std::fs::File;
use std::io::{IsTerminal, Read};

use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_fs::FileSystem;
use lifeboat_region::budget;
use lifeboat_region::carrier::{self, Carrier, CreateError, Created, Crew, PageReport};
use lifeboat_region::layout::Geometry;
use lifeboat_region::place::{Place, PlaceError, RegionDirectory, RegionName, RemoveMode, Standing, Tags};
use lifeboat_region::{FormatOptions, Region};

use crate::arguments::{CarrierChoice, NewRegionArguments};
use crate::crew::{Workers, memory_nodes};
use crate::failure::{Failure, io_reason, reason};
use crate::keeper::{self, Refused, Starting};
use crate::output::{say, size};
use crate::size as sizes;

/// What was created.
pub struct Made {
    /// Bytes, rounded up from what was asked for.
    pub size: u64,
    /// Name of the carrier.
    pub carrier: &'static str,
    /// Which pages it got.
    pub pages: PageReport,
}

/// Creates the region `name` and says on standard error what the user should know about it.
///
/// `Ok(None)` when the name was taken meanwhile.
pub fn create(place: &Place, name: &RegionName, new: &NewRegionArguments) -> Result<Option<Made>, Failure> {
    let bytes = wanted_size(new)?;
    clear_half_made(place, name)?;
    let directory = match place.create_region(name) {
        Ok(directory) => directory,
        Err(PlaceError::Exists { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match fill(&directory, bytes, new.carrier) {
        Ok(made) => Ok(Some(made)),
        Err(failure) => {
            drop(directory);
            // The first failure is the one to tell; what stays behind is cleared away by the next attempt.
            let _ = place.remove(name, RemoveMode::Force, &mut |_| false);
            let line = format!("cannot create region `{name}` ({}): {}", size(bytes), failure.line);
            Err(Failure { line, ..failure })
        }
    }
}

/// The size to reserve: what was asked for, rounded up, if a region of this machine can have it.
fn wanted_size(new: &NewRegionArguments) -> Result<u64, Failure> {
    let asked = new.size.unwrap_or(sizes::DEFAULT);
    let too_large = |limit: u64| {
        Failure::usage(format_args!("--size {}: this machine has only {} of memory", size(asked), size(limit)))
    };
    let memory = budget::machine_total().unwrap_or(u64::MAX);
    let rounded = carrier::round_size(asked).ok_or_else(|| too_large(memory))?;
    if rounded > memory {
        return Err(too_large(memory));
    }
    if Geometry::of(rounded).is_none() {
        return Err(Failure::usage(format_args!(
            "--size {}: a region has at least {} and at most {}",
            size(asked),
            size(lifeboat_region::layout::SMALLEST),
            size(lifeboat_region::layout::LARGEST)
        )));
    }
    Ok(rounded)
}

/// Removes what a creator that died left under `name`: it was never a region, so nothing is lost.
fn clear_half_made(place: &Place, name: &RegionName) -> Result<(), Failure> {
    if place.standing(name)? != Standing::HalfMade {
        return Ok(());
    }
    // Another process may have cleared it and made a region meanwhile: that one is not half made.
    let made_meanwhile = &mut |directory: &RegionDirectory| directory.is_published().unwrap_or(true);
    match place.remove(name, RemoveMode::KeepUsed, made_meanwhile) {
        Ok(()) => {
            say(format_args!("region `{name}` was left half made by a process that died: cleared away"));
            Ok(())
        }
        Err(_) if place.standing(name)? != Standing::HalfMade => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn fill(directory: &RegionDirectory, size: u64, choice: CarrierChoice) -> Result<Made, Failure> {
    // Kept until the region is published: a keeper whose starter is gone by then gives up.
    let (created, _keeper) = reserve(directory, size, choice)?;
    directory.make_images()?;
    if let Tags::Plain(errno) = directory.make_tags()?
        && rustix::process::geteuid().is_root()
    {
        say(format_args!(
            "no permission to mount ({}): writes that bypass the interception library will not fail",
            reason(errno)
        ));
    }
    let (carrier, pages) = (created.carrier, created.pages);
    tell_about_pages(&created);
    if carrier::by_name(carrier.as_bytes()).is_some_and(|carrier| !carrier.maps_files()) {
        say(format_args!("programs cannot map (mmap) files on carrier {carrier}: its pages of 2 MiB are mapped whole"));
    }
    format(directory, created)?;
    directory.publish()?;
    Ok(Made { size, carrier, pages })
}

fn reserve(
    directory: &RegionDirectory,
    size: u64,
    choice: CarrierChoice,
) -> Result<(Created, Option<Starting>), Failure> {
    let progress = progress_bar(size);
    let mut report = |done, _| progress.set_position(done);
    let mut workers = Workers::new(&mut report);
    let created = match choice {
        CarrierChoice::Only(carrier) => own(|| carrier.create(directory, size, &mut workers)),
        CarrierChoice::Kept(carrier) => start(directory, carrier.0, size, &mut workers),
        CarrierChoice::Auto if rustix::process::geteuid().is_root() => own(|| {
            let (created, fell_back) = carrier::create_best(directory, size, &mut workers)?;
            if let Some(CreateError::CannotMount { carrier, errno }) = fell_back {
                let (used, why) = (created.carrier, reason(errno));
                progress.suspend(|| {
                    say(format_args!("no permission to mount a {carrier} ({why}): using carrier {used}"));
                });
            }
            Ok(created)
        }),
        CarrierChoice::Auto => best_without_root(directory, size, &mut workers),
    };
    progress.finish_and_clear();
    created
}

/// What this process reserves itself.
fn own(create: impl FnOnce() -> Result<Created, CreateError>) -> Result<(Created, Option<Starting>), Failure> {
    // Not while a keeper is started, which would inherit that.
    let _victim = PreferredVictim::volunteer();
    match create() {
        Ok(created) => Ok((created, None)),
        Err(CreateError::Place(error)) => Err(error.into()),
        Err(error) => Err(Failure::operation(error)),
    }
}

fn start(
    directory: &RegionDirectory,
    carrier: &'static dyn Carrier,
    size: u64,
    crew: &mut dyn Crew,
) -> Result<(Created, Option<Starting>), Failure> {
    keeper::start(directory, carrier, size, &mut |done, total| crew.tell(done, total))
        .map(|(created, starting)| (created, Some(starting)))
        .map_err(Refused::line)
}

/// Files on /dev/shm where they get huge pages, else a keeper, else /dev/shm all the same.
fn best_without_root(
    directory: &RegionDirectory,
    size: u64,
    crew: &mut dyn Crew,
) -> Result<(Created, Option<Starting>), Failure> {
    // A probe that fails tells nothing about the carrier itself, which has better words for it.
    if !carrier::collapses_pages(directory).unwrap_or(true) {
        match keeper::start(directory, &carrier::Keeper, size, &mut |done, total| crew.tell(done, total)) {
            Ok((created, starting)) => return Ok((created, Some(starting))),
            Err(Refused::Namespaces(_)) => keeper::clear(directory)?,
            Err(refused) => return Err(refused.line()),
        }
    }
    own(|| carrier::Shm.create(directory, size, crew))
}

fn tell_about_pages(created: &Created) {
    if created.pages.page_size() == 4096 {
        say(format_args!(
            "only {} of {} got huge pages: first touches of the rest are slower",
            size(created.pages.huge),
            size(created.pages.total)
        ));
    }
    if created.swappable {
        say("this machine has swap and the region may go there: turn swap off, or use carrier tmpfs as root");
    }
}

/// Makes the reserved memory a region with an empty file system.
fn format(directory: &RegionDirectory, created: Created) -> Result<(), Failure> {
    let failed = |errno| Failure::operation(format_args!("cannot format the memory: {}", reason(errno)));
    let options = FormatOptions {
        name: directory.name().as_bytes(),
        uid: rustix::process::geteuid().as_raw(),
        identity: random()?,
        memory_nodes: memory_nodes(),
    };
    lifeboat_region::format(rustix::fd::AsFd::as_fd(&created.file), &options).map_err(Failure::operation)?;
    let own_directory = directory.directory().try_clone_to_owned().map_err(failed)?;
    let region = Region::attach_file(own_directory, created.file).map_err(Failure::operation)?;
    FileSystem::format(&region).map_err(failed)
}

fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Failure::operation(format_args!("cannot read /dev/urandom: {}", io_reason(&error))))?;
    Ok(u64::from_le_bytes(bytes))
}

fn progress_bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("reserving memory [{bar:30}] {bytes} of {total_bytes}, {eta} left")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// While memory is reserved this process is the first that the kernel kills if memory runs out after all: not the job.
pub struct PreferredVictim {
    before: Option<String>,
}

impl PreferredVictim {
    const FILE: &str = "/proc/self/oom_score_adj";

    /// Until the result is dropped.
    pub fn volunteer() -> PreferredVictim {
        let before = std::fs::read_to_string(Self::FILE).ok();
        let _ = std::fs::write(Self::FILE, "1000");
        PreferredVictim { before }
    }
}

impl Drop for PreferredVictim {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = std::fs::write(Self::FILE, before.trim());
        }
    }
}
