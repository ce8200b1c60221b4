//! `lifeboat region create|list|info|check|remove`.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use lifeboat_fs::FileSystem;
use lifeboat_region::Region;
use lifeboat_region::carrier::keeper::{KeeperError, KeeperNote};
use lifeboat_region::carrier::{self, OpenError, Survives};
use lifeboat_region::image;
use lifeboat_region::place::{Place, PlaceError, RegionDirectory, RegionName, RemoveMode, Standing};
use rustix::fd::AsFd;
use serde::Serialize;

use crate::arguments::{CreateArguments, ListArguments, OneRegionArguments, RegionCommand, RemoveArguments};
use crate::create::create;
use crate::failure::{Failure, reason};
use crate::keeper;
use crate::mounting::{mounts_of, undo_mounts};
use crate::output::{json, out, say, size, table, time};
use crate::region_check;
use crate::target::{attach, attach_file, base, region_directory};
use crate::users::{is_inode_mapped_by_others, is_mapped_by_others};

/// Runs one of the commands.
pub fn run(command: &RegionCommand) -> Result<(), Failure> {
    match command {
        RegionCommand::Create(arguments) => create_region(arguments),
        RegionCommand::List(arguments) => list(arguments),
        RegionCommand::Info(arguments) => info(arguments),
        RegionCommand::Check(arguments) => region_check::run(arguments),
        RegionCommand::Remove(arguments) => remove(arguments),
    }
}

#[derive(Serialize)]
struct CreatedReport {
    name: String,
    path: String,
    size: u64,
    carrier: &'static str,
    page_size: u64,
    huge_bytes: u64,
}

fn create_region(arguments: &CreateArguments) -> Result<(), Failure> {
    let place = Place::open_or_create(base(&arguments.place))?;
    let name = &arguments.name;
    let Some(made) = create(&place, name, &arguments.new)? else {
        // Tells why the name is taken, be it for a moment only.
        return Err(place.create_region(name).err().map_or_else(
            || Failure::operation(format_args!("region `{name}` was removed meanwhile: try again")),
            Failure::from,
        ));
    };
    let report = CreatedReport {
        name: name.to_string(),
        path: place.region_path(name).to_string(),
        size: made.size,
        carrier: made.carrier,
        page_size: made.pages.page_size(),
        huge_bytes: made.pages.huge,
    };
    if arguments.json {
        return json(&report);
    }
    let mut out = out();
    writeln!(
        out,
        "created region `{}`: {} on {}, pages of {}, in {}",
        report.name,
        size(report.size),
        report.carrier,
        size(report.page_size),
        report.path
    )?;
    Ok(out.flush()?)
}

#[derive(Serialize)]
struct ListedRegion {
    name: String,
    path: String,
    state: &'static str,
    size: Option<u64>,
    used: Option<u64>,
    carrier: Option<&'static str>,
    survives: Option<&'static str>,
    /// Whether files in it can be mapped.
    maps_files: Option<bool>,
    attached: Option<usize>,
    created: Option<String>,
    problem: Option<String>,
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let mut regions = Vec::new();
    match Place::open(base(&arguments.place)) {
        Ok(place) => {
            let mut names = Vec::new();
            place.list(&mut |name| {
                names.push(*name);
                true
            })?;
            names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
            regions = describe_all(&place, &names);
        }
        Err(PlaceError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if arguments.json {
        return json(&regions);
    }
    if regions.is_empty() {
        say("there are no regions; `lifeboat region create` makes one");
        return Ok(());
    }
    let head = ["NAME", "SIZE", "USED", "CARRIER", "SURVIVES", "ATTACHED", "STATE"].map(String::from).to_vec();
    let shown = |value: Option<u64>| value.map_or("-".into(), size);
    let rows = regions.iter().map(|region| {
        vec![
            region.name.clone(),
            shown(region.size),
            shown(region.used),
            format!(
                "{}{}",
                region.carrier.unwrap_or("-"),
                if region.maps_files == Some(false) { " (no mmap)" } else { "" }
            ),
            region.survives.unwrap_or("-").into(),
            region.attached.map_or("-".into(), |count| count.to_string()),
            region.problem.clone().unwrap_or(region.state.into()),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let mut out = out();
    table(&mut out, &rows)?;
    Ok(out.flush()?)
}

/// As many at a time as keep the answer prompt where keepers do not answer: each of those is waited for.
fn describe_all(place: &Place, names: &[RegionName]) -> Vec<ListedRegion> {
    const AT_ONCE: usize = 32;
    let describe_some = |names: &[RegionName]| {
        std::thread::scope(|scope| {
            let running: Vec<_> = names.iter().map(|name| scope.spawn(|| describe(place, name))).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<_>>()
        })
    };
    names.chunks(AT_ONCE).flat_map(describe_some).collect()
}

/// What can be said about a region, also about one that cannot be attached.
fn describe(place: &Place, name: &RegionName) -> ListedRegion {
    let mut listed = ListedRegion {
        name: name.to_string(),
        path: place.region_path(name).to_string(),
        state: "refused",
        size: None,
        used: None,
        carrier: None,
        survives: None,
        maps_files: None,
        attached: None,
        created: None,
        problem: None,
    };
    match place.standing(name) {
        Ok(Standing::Ready) => {}
        Ok(Standing::Busy) => {
            listed.state = "being created";
            return listed;
        }
        Ok(Standing::NotVisible) => {
            listed.state = "not visible here";
            return listed;
        }
        Ok(Standing::HalfMade | Standing::Absent) => {
            listed.state = "half made";
            return listed;
        }
        Err(error) => {
            listed.problem = Some(error.to_string());
            return listed;
        }
    }
    if let Err(failure) = describe_ready(place, name, &mut listed) {
        listed.problem = Some(failure.line);
    }
    listed
}

fn describe_ready(place: &Place, name: &RegionName, listed: &mut ListedRegion) -> Result<(), Failure> {
    let directory = place.open_region(name)?;
    let carrier = carrier::identify(&directory)?;
    listed.carrier = Some(carrier.name());
    listed.survives = Some(carrier.survives().as_str());
    listed.maps_files = Some(carrier.maps_files());
    if carrier.survives() == Survives::WhileKept && keeper::alive(&directory).is_none() {
        listed.state = "lost";
    }
    let file = carrier::open(&directory).map_err(|error| {
        if matches!(error, OpenError::Keeper { why: KeeperError::Silent, .. }) {
            listed.state = "not answering";
        }
        Failure::region(error)
    })?;
    let region = attach_file(&directory, file)?;
    listed.size = Some(region.length());
    listed.created = Some(time(region.superblock().created));
    listed.attached = Some(attached(&region).len());
    let files = FileSystem::attach(region, b"/").map_err(|errno| Failure::region(reason(errno)))?;
    let usage = files.usage();
    listed.used = Some(usage.bytes_total.saturating_sub(usage.bytes_free));
    listed.state = "ready";
    Ok(())
}

#[derive(Serialize)]
struct AttachedProcess {
    pid: u32,
    program: Option<String>,
}

/// Processes that hold a slot and are not proved gone.
fn attached(region: &Region) -> Vec<AttachedProcess> {
    let mut found = Vec::new();
    // What cannot be read is damage, which `region check` reports.
    let _ = image::attached(region, |image, holder| {
        if image::is_alive(region, image).unwrap_or(false) && holder.pid != std::process::id() {
            let program = std::fs::read_to_string(format!("/proc/{}/comm", holder.pid)).ok();
            found.push(AttachedProcess { pid: holder.pid, program: program.map(|text| text.trim().to_string()) });
        }
    });
    found
}

#[derive(Serialize)]
struct RegionReport {
    name: String,
    path: String,
    size: u64,
    carrier: &'static str,
    survives: &'static str,
    /// Whether files in it can be mapped.
    maps_files: bool,
    #[serde(skip)]
    needs_keeper: bool,
    /// The process that keeps the memory, where the carrier needs one.
    keeper: Option<u32>,
    huge_bytes: Option<u64>,
    identity: String,
    uid: u32,
    created: String,
    run: u64,
    bytes_total: u64,
    bytes_free: u64,
    inodes_used: u64,
    inodes_free: u64,
    covers: Vec<String>,
    /// Where it is mounted for the kernel.
    mounts: Vec<String>,
    attached: Vec<AttachedProcess>,
}

fn info(arguments: &OneRegionArguments) -> Result<(), Failure> {
    let directory = region_directory(arguments.name.as_ref(), &arguments.place)?;
    let report = report(&directory)?;
    if arguments.json {
        return json(&report);
    }
    let huge = report.huge_bytes.map_or("unknown".into(), |huge| format!("{} of {}", size(huge), size(report.size)));
    let attached: Vec<String> = report
        .attached
        .iter()
        .map(|process| format!("{} ({})", process.pid, process.program.as_deref().unwrap_or("?")))
        .collect();
    let or_none = |list: Vec<String>| if list.is_empty() { "none".into() } else { list.join(", ") };
    let keeper = match report.keeper {
        Some(pid) => format!("process {pid}, alive"),
        // It has handed out the region just now.
        None if report.needs_keeper => "alive, in another pid namespace".into(),
        None => "none needed".into(),
    };
    let rows = [
        ("name", report.name),
        ("path", report.path),
        ("size", size(report.size)),
        ("carrier", report.carrier.into()),
        ("survives", report.survives.into()),
        ("keeper", keeper),
        ("mmap of files", if report.maps_files { "yes" } else { "no: pages of 2 MiB are mapped whole" }.into()),
        ("huge pages", huge),
        ("identity", report.identity),
        ("owner", report.uid.to_string()),
        ("created", format!("{} UTC", report.created)),
        ("run", report.run.to_string()),
        ("space", format!("{} free of {}", size(report.bytes_free), size(report.bytes_total))),
        ("files", format!("{}, room for {} more", report.inodes_used, report.inodes_free)),
        ("covered prefixes", or_none(report.covers)),
        ("mounted at", or_none(report.mounts)),
        ("attached", or_none(attached)),
        ("kernels", lifeboat_kernels::level().name().into()),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_string(), value]).collect();
    let mut out = out();
    table(&mut out, &rows)?;
    Ok(out.flush()?)
}

fn report(directory: &RegionDirectory) -> Result<RegionReport, Failure> {
    let carrier = carrier::identify(directory)?;
    let region = attach(directory)?;
    let size = region.length();
    let huge_bytes = carrier::examine_pages(region.file().as_fd(), size).map(|pages| pages.huge);
    let superblock = region.superblock();
    let (identity, uid, created, run) =
        (superblock.identity, superblock.uid, time(superblock.created), u64::from(superblock.run));
    let attached = attached(&region);
    let files = FileSystem::attach(region, b"/")
        .map_err(|errno| Failure::region(format_args!("region `{}`: {}", directory.name(), reason(errno))))?;
    let usage = files.usage();
    let mut covers = Vec::new();
    directory.for_each_cover(&mut |cover| {
        covers.push(String::from_utf8_lossy(cover.prefix).into_owned());
        true
    })?;
    covers.reverse();
    let mounts = mounts_of(directory).iter().map(|at| at.to_string_lossy().into_owned()).collect();
    Ok(RegionReport {
        name: directory.name().to_string(),
        path: directory.path().to_string(),
        size,
        carrier: carrier.name(),
        survives: carrier.survives().as_str(),
        maps_files: carrier.maps_files(),
        needs_keeper: carrier.survives() == Survives::WhileKept,
        keeper: keeper::alive(directory),
        huge_bytes,
        identity: format!("{identity:016x}"),
        uid,
        created,
        run,
        bytes_total: usage.bytes_total,
        bytes_free: usage.bytes_free,
        inodes_used: usage.inodes_used,
        inodes_free: usage.inodes_free,
        covers,
        mounts,
        attached,
    })
}

fn remove(arguments: &RemoveArguments) -> Result<(), Failure> {
    let name = &arguments.name;
    let place = match Place::open(base(&arguments.place)) {
        Ok(place) => place,
        Err(PlaceError::Missing { .. }) => {
            return Err(Failure::region(format_args!(
                "no region `{name}`: `lifeboat region list` shows what there is"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    undo_mounts(&place.open_region(name)?, arguments.force)?;
    let mode = if arguments.force { RemoveMode::Force } else { RemoveMode::KeepUsed };
    place.remove(name, mode, &mut is_in_use_for_long)?;
    Ok(())
}

/// As [`is_in_use`], after waiting a little for who only looks (another `region list`).
fn is_in_use_for_long(directory: &RegionDirectory) -> bool {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while is_in_use(directory) {
        if std::time::Instant::now() > patience {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    false
}

/// Whether a living process has the region: by its memory maps, and by the slots for processes that cannot be seen.
pub fn is_in_use(directory: &RegionDirectory) -> bool {
    let memory = std::path::Path::new(std::ffi::OsStr::from_bytes(directory.path().as_bytes())).join("memory/region");
    // A file that only a keeper can reach is known by what the keeper wrote down, also when it has died since.
    let kept = KeeperNote::read(directory).and_then(|note| note.file);
    if is_mapped_by_others(&memory) || kept.is_some_and(|(device, inode)| is_inode_mapped_by_others(device, inode)) {
        return true;
    }
    // A damaged region has no slots to ask.
    attach(directory).is_ok_and(|region| !attached(&region).is_empty())
}
