//! The prefix under which programs see a region's files.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::failure::Failure;

/// The longest prefix in bytes.
const LONGEST: usize = 500;

/// A checked prefix: absolute, plain, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Vec<u8>);

impl Prefix {
    /// Checks `path`; slashes at its end are left out.
    pub fn new(path: &[u8]) -> Result<Prefix, &'static str> {
        if path.is_empty() {
            return Err("the mount prefix is empty; give an absolute path such as /lifeboat");
        }
        if path[0] != b'/' {
            return Err("a mount prefix must be an absolute path such as /lifeboat");
        }
        let trimmed = path.iter().rposition(|&byte| byte != b'/').map_or(&path[..0], |last| &path[..=last]);
        if trimmed.is_empty() {
            return Err("the whole file system cannot be the mount; give an absolute path below / such as /lifeboat");
        }
        let plain = |component: &[u8]| !component.is_empty() && component != b"." && component != b"..";
        if !trimmed[1..].split(|&byte| byte == b'/').all(plain) {
            return Err("a mount prefix cannot contain //, . or ..; write the absolute path plainly");
        }
        if trimmed.iter().any(|byte| byte.is_ascii_control()) || trimmed.len() > LONGEST {
            return Err("a mount prefix has at most 500 bytes and no control characters");
        }
        Ok(Prefix(trimmed.to_vec()))
    }

    /// The given prefix, else that of the surrounding `exec`, else the default of this user.
    pub fn choose(given: Option<&Prefix>) -> Result<Prefix, Failure> {
        if let Some(prefix) = given {
            return Ok(prefix.clone());
        }
        if let Some(inherited) = env::var_os("LIFEBOAT_MOUNT") {
            return Prefix::new(inherited.as_bytes())
                .map_err(|why| Failure::usage(format_args!("LIFEBOAT_MOUNT is wrong: {why}")));
        }
        let uid = rustix::process::geteuid().as_raw();
        Ok(Prefix(if uid == 0 { b"/lifeboat".to_vec() } else { format!("/tmp/lifeboat-{uid}").into_bytes() }))
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For the environment.
    pub fn to_os_string(&self) -> std::ffi::OsString {
        OsStringExt::from_vec(self.0.clone())
    }

    /// What `path` is below the mount, beginning with a slash; `None` when it is not below it.
    pub fn strip<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let rest = path.strip_prefix(self.0.as_slice())?;
        match rest.first() {
            None => Some(b"/"),
            Some(b'/') => Some(rest),
            Some(_) => None,
        }
    }

    /// The path in the region that is meant by a path with or without this prefix.
    pub fn inner(&self, path: &OsStr) -> Vec<u8> {
        let path = path.as_bytes();
        if let Some(inner) = self.strip(path) {
            return inner.to_vec();
        }
        if path.is_empty() {
            // Names nothing, as for the kernel; it must not come to mean everything.
            return Vec::new();
        }
        let path = path.strip_prefix(b":").unwrap_or(path);
        let mut inner = Vec::with_capacity(path.len() + 1);
        if !path.starts_with(b"/") {
            inner.push(b'/');
        }
        inner.extend_from_slice(path);
        inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_prefixes() {
        for path in ["", "/", "//", "relative", "./x", "/a//b", "/a/../b", "/.", "/a/./b", "/a\nb"] {
            assert!(Prefix::new(path.as_bytes()).is_err(), "{path}");
        }
        assert!(Prefix::new(&[b'/'; 9000]).is_err());
        assert!(Prefix::new(&[&b"/"[..], &[b'x'; 501]].concat()).is_err());
        assert_eq!(Prefix::new(b"/a/b//").unwrap().as_bytes(), b"/a/b");
    }

    #[test]
    fn a_path_that_only_looks_like_the_prefix_is_not_below_it() {
        let prefix = Prefix::new(b"/ckpt").unwrap();
        assert_eq!(prefix.strip(b"/ckpt"), Some(&b"/"[..]));
        assert_eq!(prefix.strip(b"/ckpt/a"), Some(&b"/a"[..]));
        assert_eq!(prefix.strip(b"/ckptfoo"), None);
        assert_eq!(prefix.strip(b"/other"), None);
    }

    #[test]
    fn paths_are_taken_with_and_without_the_prefix() {
        let prefix = Prefix::new(b"/ckpt").unwrap();
        for path in ["/ckpt/a/b", "/a/b", "a/b", ":a/b", ":/a/b"] {
            assert_eq!(prefix.inner(OsStr::new(path)), b"/a/b", "{path}");
        }
        assert_eq!(prefix.inner(OsStr::new("")), b"", "nothing is not everything");
    }
}
