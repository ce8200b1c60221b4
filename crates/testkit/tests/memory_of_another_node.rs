//! The fear: a process writes its checkpoint into memory that belongs to the processors of the other socket, and copies at two thirds of
//! the speed; or it stays in its own part of the region and says that there is no room.

use lifeboat_fs::FileSystem;
use lifeboat_region::layout::memory_part;
use lifeboat_region::owner::{Kind, Owner};
use lifeboat_region::space;
use lifeboat_testkit::residue::NoResidue;
use lifeboat_testkit::scratch::{ScratchRegion, check};
use lifeboat_testkit::volume::{RegionVolume, Volume};
use std::ops::Range;

const SIZE: u64 = 64 << 20;

/// The memory node that this thread is near to.
fn own_node() -> u32 {
    let mut node = 0u32;
    // SAFETY: the kernel writes one number to the second address; the others are null.
    let answer = unsafe { libc::syscall(libc::SYS_getcpu, 0, &raw mut node, 0) };
    assert_eq!(answer, 0, "getcpu");
    node
}

/// Where the bytes of files lie: how many units inside a part of the region, and how many outside.
fn data_in(files: &FileSystem, part: &Range<u64>) -> (usize, usize) {
    let (mut inside, mut outside) = (0, 0);
    let each = |unit: space::Unit, owner: Owner| {
        match owner.kind == Kind::Data {
            true if part.contains(&unit.at) => inside += 1,
            true => outside += 1,
            false => {}
        }
        Ok(())
    };
    space::each_unit(files.region(), each).expect("every unit");
    (inside, outside)
}

/// Writes so many bytes to a new file; answers how many fitted.
fn write(files: &FileSystem, name: &str, bytes: usize, piece: usize) -> usize {
    let volume = RegionVolume::over(files, b"").expect("the root");
    let file = volume.open(None, name.as_bytes(), libc::O_CREAT | libc::O_WRONLY, 0o600).expect("created");
    let buffer = vec![7; piece];
    let mut written = 0;
    while written < bytes {
        match volume.write(file, &buffer, None) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error, libc::ENOSPC);
                break;
            }
        }
    }
    volume.close(file).expect("closed");
    written
}

#[test]
fn what_is_written_lies_near_until_there_is_no_room_near() {
    let _nothing_left = NoResidue::begin();
    for piece in [1 << 20, 4096] {
        // As many nodes as it takes for ours to be one of them, on whatever machine this is.
        let own = own_node();
        let nodes = own + 2;
        let region = ScratchRegion::spread("near", SIZE, nodes);
        let files = region.attach();
        let near = memory_part(SIZE, nodes, own);
        let little = (near.end - near.start) as usize / 4;
        assert!(write(&files, "little", little, piece) >= little);
        if own_node() != own {
            // Moved to another processor meanwhile: either place is right.
            continue;
        }
        let (inside, outside) = data_in(&files, &near);
        assert!(inside >= little / 65536 && outside == 0, "{inside} units near, {outside} not");
        // All of it is used in the end.
        let rest = write(&files, "rest", SIZE as usize, piece);
        assert!(rest + little > SIZE as usize * 17 / 20, "only {rest} bytes more");
        assert!(data_in(&files, &near).1 > 0);
        let found = check(&files);
        assert!(found.is_clean(), "{found}");
    }
}

#[test]
fn a_region_over_more_nodes_than_there_are_is_used_all_the_same() {
    let _nothing_left = NoResidue::begin();
    // Ours is none of them, or has no whole chunk.
    for nodes in [2, 64, 65, u32::MAX] {
        let region = ScratchRegion::spread("nodes", 16 << 20, nodes);
        let files = region.attach();
        assert!(write(&files, "all", 16 << 20, 1 << 20) > 8 << 20, "{nodes} nodes");
        let found = check(&files);
        assert!(found.is_clean(), "{found}");
    }
}
