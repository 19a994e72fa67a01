//! Private files: written whole or not at all, and refused when others may read them.
//!
//! [`write_private`] writes a new file beside the old one, syncs it, renames it over and syncs the folder: a
//! reader, a crash or a power cut sees the old content or the new one. The file gets the owner of its folder,
//! so that `enroll` run as root leaves files that the agent's own user can read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use zeroize::Zeroizing;

use crate::IdentityError;

/// Permission bits of a private file.
pub const FILE_MODE: u32 = 0o600;
/// Permission bits of a folder that holds private files.
pub const FOLDER_MODE: u32 = 0o700;
/// Permission bits of a file that others may read but not change, as a trust bundle.
pub const PUBLIC_MODE: u32 = 0o644;
/// No identity file comes near this; a larger one is not ours.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { action, path, source }
}

/// Makes `folder` with mode 0700 if it is not there, for the owner of the folder above it; refuses one that
/// others may write to.
pub fn private_folder(folder: &Path) -> Result<(), IdentityError> {
    if !folder.exists() {
        DirBuilder::new()
            .mode(FOLDER_MODE)
            .recursive(true)
            .create(folder)
            .map_err(failed("create folder", folder))?;
        give_to_owner_of_parent(folder)?;
    }
    let mode = fs::metadata(folder)
        .map_err(failed("inspect folder", folder))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o022 == 0 {
        Ok(())
    } else {
        Err(IdentityError::Exposed {
            path: folder.to_owned(),
            mode,
            wanted: FOLDER_MODE,
        })
    }
}

/// What root makes in somebody's folder belongs to that somebody. Others cannot give files away.
fn give_to_owner_of_parent(path: &Path) -> Result<(), IdentityError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let owner = fs::metadata(parent).map_err(failed("inspect folder", parent))?;
    let made = fs::metadata(path).map_err(failed("inspect", path))?;
    if made.uid() == 0 && (owner.uid(), owner.gid()) != (made.uid(), made.gid()) {
        // Never through a link that the parent's owner may have put there meanwhile.
        lchown(path, Some(owner.uid()), Some(owner.gid()))
            .map_err(failed("give to its folder's owner", path))?;
    }
    Ok(())
}

/// Exchanges two files or folders of one file system in one step, durably.
pub fn exchange(one: &Path, other: &Path) -> Result<(), IdentityError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .map_err(|error| failed("exchange", one)(error.into()))?;
    sync_parent(one)
}

/// Makes durable that `path` is where it is.
pub(crate) fn sync_parent(path: &Path) -> Result<(), IdentityError> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(failed("sync folder", folder))
}

/// Reads a file that only its owner may read; `None` when there is none.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    read_checked(path, 0o077, FILE_MODE)
}

/// Reads a file that only its owner may change; `None` when there is none.
pub fn read_trusted(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    read_checked(path, 0o022, PUBLIC_MODE)
}

/// Reads a secret that an operator put there, which others may not read and no group may change; `None` when there is
/// none.
pub(crate) fn read_given(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    read_checked(path, 0o027, FILE_MODE)
}

/// Reads a file whose folder is guarded by somebody else; `None` when there is none.
pub(crate) fn read_guarded(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    read_checked(path, 0, FILE_MODE)
}

/// As [`read_trusted`], and its owner must be root or whoever runs this process: what a privileged process
/// trusts may not have been put there by an unprivileged one.
pub fn read_own(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let Some(content) = read_trusted(path)? else {
        return Ok(None);
    };
    let owner = fs::metadata(path).map_err(failed("inspect", path))?.uid();
    // The owner of a process's folder in /proc is its effective user.
    let ours = fs::metadata("/proc/self")
        .map_err(failed("inspect", Path::new("/proc/self")))?
        .uid();
    if owner == 0 || owner == ours {
        Ok(Some(content))
    } else {
        Err(IdentityError::Owner {
            path: path.to_owned(),
            owner,
        })
    }
}

fn read_checked(path: &Path, refused: u32, wanted: u32) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    // The open file is asked, not the path: what was checked is what is read.
    let mode = file
        .metadata()
        .map_err(failed("inspect", path))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & refused != 0 {
        return Err(IdentityError::Exposed {
            path: path.to_owned(),
            mode,
            wanted,
        });
    }
    let mut content = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(failed("read", path))?;
    Ok(Some(content))
}

/// Writes `content` as a file with mode 0600, atomically and durably, replacing what was there.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write_atomically(path, content, FILE_MODE)
}

/// Writes `content` as a file with mode 0644, atomically and durably, replacing what was there.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write_atomically(path, content, PUBLIC_MODE)
}

/// Writes `content` as a private file that must not be there yet.
pub fn create_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    if path.exists() {
        return Err(IdentityError::AlreadyThere {
            path: path.to_owned(),
        });
    }
    write_private(path, content)
}

fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    // Two writers of one file use different names; a leftover of a crash is overwritten by nobody else.
    temporary.push(format!(".new-{}", uuid::Uuid::new_v4().simple()));
    let temporary = Path::new(&temporary);
    let written = write_synced(temporary, content, mode, folder)
        .and_then(|()| fs::rename(temporary, path).map_err(failed("rename into place", path)));
    if written.is_err() && fs::remove_file(temporary).is_err() {
        tracing::debug!(path = %temporary.display(), "temporary file was not there to remove");
    }
    written?;
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(failed("sync folder", folder))
}

fn write_synced(temporary: &Path, content: &[u8], mode: u32, folder: &Path) -> Result<(), IdentityError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)
        .map_err(failed("create", temporary))?;
    let owner = fs::metadata(folder).map_err(failed("inspect folder", folder))?;
    let ours = file.metadata().map_err(failed("inspect", temporary))?;
    if (owner.uid(), owner.gid()) != (ours.uid(), ours.gid()) && ours.uid() == 0 {
        // By descriptor: the folder's owner could put a link to another file in the place of the path.
        fchown(&file, Some(owner.uid()), Some(owner.gid()))
            .map_err(failed("give to the folder's owner", temporary))?;
    }
    file.write_all(content).map_err(failed("write", temporary))?;
    file.sync_all().map_err(failed("sync", temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_files_are_replaced_whole_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            FILE_MODE
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(
            create_private(&path, b"three"),
            Err(IdentityError::AlreadyThere { .. })
        ));
        assert!(read_private(&folder.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn what_root_writes_into_somebodys_folder_belongs_to_that_somebody() {
        let folder = tempfile::tempdir().unwrap();
        if lchown(folder.path(), Some(65534), Some(65534)).is_err() {
            // Only root can give a folder away.
            assert_ne!(fs::metadata("/proc/self").unwrap().uid(), 0);
            return;
        }
        let inner = folder.path().join("identity");
        private_folder(&inner).unwrap();
        write_private(&inner.join("host.key"), b"key").unwrap();
        for path in [inner.clone(), inner.join("host.key")] {
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (65534, 65534), "{}", path.display());
        }
    }

    #[test]
    fn a_file_of_another_user_is_not_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anchors");
        write_public(&path, b"trust me").unwrap();
        assert!(read_own(&path).unwrap().is_some());
        if lchown(&path, Some(65534), Some(65534)).is_ok() {
            let error = read_own(&path).unwrap_err().to_string();
            assert!(
                error.contains("uid 65534") && error.contains("chown root"),
                "{error}"
            );
        } else {
            // Only root can give a file away.
            assert_ne!(fs::metadata("/proc/self").unwrap().uid(), 0);
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_private(&path).unwrap_err().to_string();
        assert!(
            error.contains("mode 0644") && error.contains("chmod 600"),
            "{error}"
        );
        assert!(!error.contains("secret"));
        assert!(read_trusted(&path).unwrap().is_some());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(read_trusted(&path), Err(IdentityError::Exposed { .. })));
    }
}
