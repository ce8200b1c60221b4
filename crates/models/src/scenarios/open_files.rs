//! Slots of open files: one open file each, and an inode without a name lives exactly as long as somebody has it open.

use crate::file_system::FileSystem;
use crate::files::{FILE, FILE_OWNER_AT, files, one_file};
use crate::harness::{Bounds, Explored, World, explore, spawn};
use crate::inode;
use crate::open_file::{OpenFile, Wish};
use crate::owner::{Owner, State};
use crate::recovery;
use crate::support::unless_dead;
use crate::{Errno, Result};
use rustix::fs::OFlags;

fn open(files: &FileSystem) -> Result<OpenFile> {
    files.take_slot(FILE, Wish::new(OFlags::RDWR))
}

/// Two processes open the file, use it and close it.
pub fn two_open_files_never_share_a_slot(bounds: Bounds) -> Explored {
    explore(bounds, &one_file(8, 1), move |world: &World| {
        let [observer, first, second] = [2, 0, 1].map(|number| files(world, number, None));
        let (Some(observer), Some(first), Some(second)) = (observer, first, second) else { return };
        world.start();
        let first = spawn(move || (open(&first), first));
        let second = (open(&second), second);
        let first = first.join().expect("the first");
        world.end();
        if let (true, Ok(one), Ok(other)) = (world.counts(), first.0, second.0) {
            assert_ne!(one, other, "one slot for two open files");
            for (file, process) in [(one, &first.1), (other, &second.1)] {
                assert_eq!(process.inode_of(file), Ok(FILE));
            }
            assert_eq!(observer.field(FILE, inode::OPENS), Ok(2));
        } else if world.counts() {
            panic!("there are two slots: {:?} {:?}", first.0, second.0);
        }
    })
}

/// How open files are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Under the inode's lock.
    Locked,
    /// Without it, announced in a lane that was kept before.
    InPlace,
}

fn prepare(opener: Option<&FileSystem>, way: Way) {
    if way == Way::InPlace {
        // It may die over it, too.
        let _ = opener.map(|files| files.keep_lane());
    }
}

/// Takes the file's only name, as unlinking ends.
fn unlink(files: &FileSystem) -> Result<()> {
    let lane = files.lane()?;
    files.lock_inode(&lane, FILE)?;
    files.set(FILE, inode::LINKS, inode::links_word(0))?;
    files.release_if_unused(&lane, FILE)
}

fn exists(files: &FileSystem) -> Result<bool> {
    let owner = Owner::decode(files.region().load(FILE_OWNER_AT)?).expect("a word");
    Ok(owner.state == State::Live && owner.generation == FILE.generation())
}

/// One process opens the file (and may die at `step`), the other unlinks it. Who has it open has it, and when nobody has
/// it any more it is gone.
pub fn an_unlinked_file_lives_as_long_as_it_is_open(
    bounds: Bounds,
    step: Option<u32>,
    closes: bool,
    way: Way,
) -> Explored {
    explore(bounds, &one_file(8, 1), move |world: &World| {
        let [observer, opener, unlinker] = [(2, None), (0, step), (1, None)].map(|(n, step)| files(world, n, step));
        let (Some(observer), Some(unlinker)) = (observer, unlinker) else { return };
        prepare(opener.as_ref(), way);
        world.start();
        let opener = spawn(move || {
            let answer = opener.as_ref().and_then(|files| {
                unless_dead(open(files).and_then(|file| if closes { files.close(file).map(|()| file) } else { Ok(file) }))
            });
            // Who dies when the call has its answer has nothing open either.
            let answer = answer.filter(|_| opener.as_ref().is_some_and(|files| !files.region().process.is_dead()));
            if let (None, Some(files)) = (&answer, &opener) {
                files.region().process.die();
            }
            (answer, opener)
        });
        let unlinked = unlink(&unlinker);
        let (answer, opener) = opener.join().expect("the opener");
        world.end();
        world.died(answer.is_none());
        let _ = recovery::recover_all(observer.region(), &observer);
        let open_now = exists(&observer);
        let still_open = !closes && matches!(answer, Some(Ok(_)));
        if world.counts() {
            unlinked.expect("the survivor's unlink");
            assert!(matches!(answer, None | Some(Ok(_)) | Some(Err(Errno::STALE))), "{answer:?}");
            if still_open {
                assert_eq!(open_now, Ok(true), "taken apart while it is open");
            }
            if closes && matches!(answer, Some(Ok(_))) {
                assert_eq!(open_now, Ok(false), "closed and without a name, and nobody takes it apart");
            }
        }
        // Now nobody has it any more.
        if let Some(files) = &opener {
            files.region().process.die();
        }
        let _ = recovery::recover_all(observer.region(), &observer);
        let lane = observer.lane();
        let _ = lane.and_then(|lane| {
            observer.lock_inode(&lane, FILE)?;
            observer.release_if_unused(&lane, FILE)
        });
        let gone = exists(&observer);
        if world.counts() {
            assert_eq!(gone, Ok(false), "nobody has it open, and it is still there ({answer:?})");
        }
    })
}
