//! What a file is at one moment: its metadata and the digest of its content.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use md5::Md5;
use rustix::fs::{Advice, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::metrics;

/// Read at once.
const BLOCK_BYTES: usize = 128 * 1024;
/// Of a file above the limit: so much of its beginning, of its end, and of each place between.
const SAMPLE_BYTES: u64 = 256 * 1024;
/// Places of a file above the limit that are hashed.
const SAMPLES: u64 = 16;
/// A file that changed so shortly before it was looked at may change again without its time showing it: the clock
/// behind it stands still for up to 10 ms.
const RACY_NS: i64 = 2_000_000_000;
/// Longest value of an attribute that is looked at: file capabilities take 24 bytes.
const ATTRIBUTE_BYTES_MAX: usize = 128;

/// A file, folder or link at one moment. The target of a link is its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileState {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device, major in the upper 12 bits and minor in the lower 20, as the kernel has it.
    pub device: u32,
    /// Inode.
    pub inode: u64,
    /// Bytes; 0 of a folder.
    pub size: u64,
    /// When content or metadata were last changed, in nanoseconds since the epoch.
    pub changed_ns: i64,
    /// Checksum of its capabilities; 0 when it has none.
    pub capabilities: u32,
    /// Digest of its content.
    pub digest: Digest,
}

/// SHA-256 of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Digest {
    /// There is none: a folder, a device, or not read yet.
    None,
    /// Of every byte.
    Whole([u8; 32]),
    /// Of some places of a file above the limit.
    Part([u8; 32]),
}

/// How much of a file is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Largest file of which every byte is hashed.
    pub(crate) whole_max: u64,
    /// Whether the MD5 is wanted too, for what a package says.
    pub(crate) md5: bool,
}

/// What came of looking at a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed {
    /// The state.
    pub(crate) state: FileState,
    /// MD5 of every byte, when wanted and had.
    pub(crate) md5: Option<[u8; 16]>,
}

/// Asked before each block: whether to go on.
pub(crate) type GoOn<'a> = &'a mut dyn FnMut(u64) -> bool;

impl FileState {
    fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is a file with content.
    pub(crate) fn is_regular(&self) -> bool {
        self.kind() == libc::S_IFREG
    }

    /// Whether it is a symbolic link.
    pub(crate) fn is_link(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }

    /// Whether it is a folder.
    pub(crate) fn is_folder(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// SHA-256 in hex, when every byte was hashed.
    pub(crate) fn sha256(&self) -> Option<String> {
        match self.digest {
            Digest::Whole(bytes) if self.is_regular() => Some(hex::encode(bytes)),
            _ => None,
        }
    }

    /// Whether nothing was touched since: the kernel's own time of change says so.
    pub(crate) fn is_untouched(&self, since: &Self) -> bool {
        let blank = |state: &Self| Self {
            digest: Digest::None,
            ..*state
        };
        blank(self) == blank(since)
    }

    /// Whether both name one file with the same rights; what it holds may differ.
    pub(crate) fn same_rights(&self, other: &Self) -> bool {
        let rights = |state: &Self| (state.mode, state.uid, state.gid, state.capabilities);
        rights(self) == rights(other)
    }

    /// Whether both have one content. Where one of them was not read it is the time of change that tells.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        if self.kind() != other.kind() {
            return false;
        }
        if !self.is_regular() && !self.is_link() {
            return true;
        }
        if self.size != other.size {
            return false;
        }
        match (self.digest, other.digest) {
            // What lies between the places that were read cannot be compared.
            (Digest::Part(one), Digest::Part(two)) => one == two && self.same_moment(other),
            (Digest::Whole(one), Digest::Whole(two)) => one == two,
            _ => self.same_moment(other),
        }
    }

    fn same_moment(&self, other: &Self) -> bool {
        (self.changed_ns, self.inode, self.device) == (other.changed_ns, other.inode, other.device)
    }

    /// Whether it changed so shortly before `now_ns` that its time may not show the next change.
    pub(crate) fn is_racy(&self, now_ns: i64) -> bool {
        now_ns.saturating_sub(self.changed_ns) < RACY_NS
    }

    /// The file as events of the kernel name it: major in the upper 32 bits and minor in the lower, and the inode.
    pub(crate) fn identity(&self) -> (u64, u64) {
        let device = u64::from(self.device);
        ((device >> 20) << 32 | (device & 0xf_ffff), self.inode)
    }
}

/// Looks at metadata only.
///
/// # Errors
/// When the system refuses; that it is not there is `None`.
pub(crate) fn look(path: &Path) -> io::Result<Option<FileState>> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(Some(state_of(&found, capabilities(path, &found))))
}

/// Looks at metadata and content. A file that changes while it is read is read again by its next event; what is
/// returned is what was read, with the metadata from before.
///
/// # Errors
/// When the system refuses, or `go_on` does.
pub(crate) fn read(path: &Path, depth: Depth, go_on: GoOn<'_>) -> io::Result<Option<Observed>> {
    let Some(mut state) = look(path)? else {
        return Ok(None);
    };
    if state.is_link() {
        let target = match std::fs::read_link(path) {
            Ok(target) => target,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        state.digest = Digest::Whole(digest_of(target.as_os_str().as_bytes()));
    }
    if !state.is_regular() {
        return Ok(Some(Observed { state, md5: None }));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // The file that was opened may be another than the one that was looked at: the opened one counts.
    let opened = file.metadata()?;
    state = state_of(&opened, state.capabilities);
    let mut md5 = None;
    if state.is_regular() {
        let hashed = hash(file, state.size, depth, go_on)?;
        (state.digest, md5) = hashed;
    }
    Ok(Some(Observed { state, md5 }))
}

fn state_of(found: &std::fs::Metadata, capabilities: u32) -> FileState {
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let is_folder = found.mode() & libc::S_IFMT == libc::S_IFDIR;
    FileState {
        mode: found.mode(),
        uid: found.uid(),
        gid: found.gid(),
        device: (major << 20) | (minor & 0xf_ffff),
        inode: found.ino(),
        size: if is_folder { 0 } else { found.size() },
        // What happens in a folder is told by its files.
        changed_ns: if is_folder {
            0
        } else {
            found
                .ctime()
                .saturating_mul(1_000_000_000)
                .saturating_add(found.ctime_nsec())
        },
        capabilities,
        digest: Digest::None,
    }
}

fn capabilities(path: &Path, found: &std::fs::Metadata) -> u32 {
    if found.mode() & libc::S_IFMT != libc::S_IFREG || found.mode() & 0o111 == 0 {
        return 0;
    }
    let mut value = [0_u8; ATTRIBUTE_BYTES_MAX];
    match rustix::fs::lgetxattr(path, "security.capability", &mut value[..]) {
        Ok(length) => value
            .get(..length)
            .map_or(0, |value| crc32c::crc32c(value).max(1)),
        Err(_) => 0,
    }
}

fn digest_of(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    Sha256::digest(bytes).into()
}

fn hash(mut file: File, size: u64, depth: Depth, go_on: GoOn<'_>) -> io::Result<(Digest, Option<[u8; 16]>)> {
    use sha2::Digest as _;
    // A hint: what is read here is not what the host will want next.
    rustix::fs::fadvise(&file, 0, None, Advice::NoReuse).ok();
    let mut sha = Sha256::new();
    let mut block = vec![0_u8; BLOCK_BYTES];
    if size > depth.whole_max {
        for place in 0..SAMPLES {
            let from = (size - SAMPLE_BYTES) / (SAMPLES - 1) * place;
            file.seek(SeekFrom::Start(from))?;
            feed(&mut (&file).take(SAMPLE_BYTES), &mut block, go_on, |bytes| {
                sha.update(bytes)
            })?;
        }
        return Ok((Digest::Part(sha.finalize().into()), None));
    }
    let mut md5 = depth.md5.then(<Md5 as md5::Digest>::new);
    // A file that grows while it is read is cut off where it ended.
    feed(&mut (&file).take(depth.whole_max), &mut block, go_on, |bytes| {
        sha.update(bytes);
        if let Some(md5) = &mut md5 {
            md5::Digest::update(md5, bytes);
        }
    })?;
    let md5 = md5.map(|md5| md5::Digest::finalize(md5).into());
    Ok((Digest::Whole(sha.finalize().into()), md5))
}

fn feed(
    file: &mut impl io::Read,
    block: &mut [u8],
    go_on: GoOn<'_>,
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    loop {
        let count = match file.read(block) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(block.get(..count).unwrap_or_default());
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        metrics::hashed(bytes);
        if !go_on(bytes) {
            return Err(io::Error::new(ErrorKind::Interrupted, "the agent ends"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DEPTH: Depth = Depth {
        whole_max: 1 << 20,
        md5: true,
    };

    fn observed(path: &Path) -> Observed {
        read(path, DEPTH, &mut |_| true).unwrap().unwrap()
    }

    #[test]
    fn content_rights_and_links_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let one = observed(&path);
        assert_eq!(
            one.state.sha256().unwrap(),
            "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
        );
        assert_eq!(hex::encode(one.md5.unwrap()), "f97c5d29941bfb1b2fdab0874906ab82");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
        let with_bit = observed(&path).state;
        assert!(with_bit.same_content(&one.state) && !with_bit.same_rights(&one.state));
        let other = folder.path().join("other");
        std::fs::write(&other, "one").unwrap();
        assert!(observed(&other).state.same_content(&one.state));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("file", &link).unwrap();
        let to_file = observed(&link).state;
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("fil2", &link).unwrap();
        assert!(!observed(&link).state.same_content(&to_file) && to_file.sha256().is_none());
        assert!(look(&folder.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn large_file_is_hashed_in_places_and_its_time_tells_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, vec![7_u8; 6 << 20]).unwrap();
        let before = observed(&path);
        assert!(matches!(before.state.digest, Digest::Part(_)) && before.md5.is_none());
        assert!(before.state.sha256().is_none());
        assert!(observed(&path).state.same_content(&before.state));
        let mut changed = before.state;
        changed.changed_ns += 1;
        assert!(!changed.same_content(&before.state));
    }

    #[test]
    fn file_that_was_not_read_yet_is_compared_by_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let unread = look(&path).unwrap().unwrap();
        let read = observed(&path).state;
        assert!(read.same_content(&unread) && read.is_untouched(&unread));
        let mut later = read;
        later.changed_ns += 1;
        assert!(!later.same_content(&unread));
    }

    #[test]
    fn reading_stops_when_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![0; 1 << 19]).unwrap();
        let refused = read(&path, DEPTH, &mut |_| false).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn identity_is_the_one_that_events_tell() {
        let folder = tempfile::tempdir().unwrap();
        let found = std::fs::metadata(folder.path()).unwrap();
        let state = look(folder.path()).unwrap().unwrap();
        let device =
            u64::from(rustix::fs::major(found.dev())) << 32 | u64::from(rustix::fs::minor(found.dev()));
        assert_eq!(state.identity(), (device, found.ino()));
    }
}
