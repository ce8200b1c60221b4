//! Who uses a file of memory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether another process maps `file`, by what this user may see of /proc.
pub fn is_mapped_by_others(file: &Path) -> bool {
    let Ok(metadata) = file.symlink_metadata() else { return false };
    is_inode_mapped_by_others(metadata.dev(), metadata.ino())
}

/// The same for a file that has no path here.
pub fn is_inode_mapped_by_others(device: u64, inode: u64) -> bool {
    let wanted = (device_text(device), inode.to_string());
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let own = std::process::id().to_string();
    processes.flatten().any(|process| {
        let name = process.file_name();
        let is_other = name.to_str().is_some_and(|name| name != own && name.parse::<u32>().is_ok());
        is_other
            && std::fs::read(process.path().join("maps"))
                .is_ok_and(|maps| String::from_utf8_lossy(&maps).lines().any(|line| is_of(line, &wanted)))
    })
}

/// A device number as /proc/PID/maps writes it: `major:minor` in hexadecimal.
fn device_text(device: u64) -> String {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    format!("{major:02x}:{minor:02x}")
}

/// Whether a line of maps (`range permissions offset device inode path`) is a mapping of this file.
fn is_of(line: &str, (device, inode): &(String, String)) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(3);
    fields.next() == Some(device) && fields.next() == Some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_told_from_others() {
        let line = "7f00-7f10 rw-s 00000000 00:1b 42                 /dev/shm/x (deleted)";
        assert!(is_of(line, &("00:1b".into(), "42".into())));
        assert!(!is_of(line, &("00:1b".into(), "4".into())));
        assert!(!is_of(line, &("00:1c".into(), "42".into())));
        assert!(!is_of("7f00-7f10 rw-p 00000000 00:00 0", &("00:1b".into(), "42".into())));
        assert!(!is_of("", &("00:1b".into(), "42".into())));
    }

    #[test]
    fn a_file_mapped_by_another_process_is_in_use() {
        // The shell maps itself.
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let mut command = std::process::Command::new(&shell);
        let mut child = command.args(["-c", "read line"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let found = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            is_mapped_by_others(&shell)
        });
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(found);
        assert!(!is_mapped_by_others(Path::new("/proc/self/status")));
        assert!(!is_mapped_by_others(Path::new("/no/such/file")));
    }
}
