//! Secrets that an operator gives: files with checked modes, or systemd credentials.
//!
//! A path that is a plain name, as `api.key`, means the credential of that name when the unit has one
//! (`LoadCredential=api.key:/path`, `systemd.exec(5)`); every other path is a file.
//!
//! systemd guards the folder of the credentials, and their modes are its own: where it gives a service's user access
//! by an access control list, the bits of the group show the list's mask. They are not judged. Files are: others may
//! neither read nor change them, and the group may not change them; it may read them, as Debian's `ssl-cert` does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::{IdentityError, files};

/// Where systemd says that the credentials are.
const FOLDER_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Where `path` leads: to the credential of that name, when it is a plain name and there is one.
pub fn place_of(path: &Path) -> PathBuf {
    credential(path, std::env::var_os(FOLDER_VARIABLE)).unwrap_or_else(|| path.to_owned())
}

/// Reads a key, token or password that `path` names.
///
/// # Errors
/// When it is not there or cannot be read, and when it is a file that others may read or change.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    read(path, std::env::var_os(FOLDER_VARIABLE))
}

fn read(path: &Path, folder: Option<OsString>) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let found = match credential(path, folder) {
        Some(place) => files::read_guarded(&place)?,
        None => files::read_given(path)?,
    };
    found.ok_or_else(|| IdentityError::File {
        action: "open",
        path: path.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// The file of a credential that exists.
fn credential(path: &Path, folder: Option<OsString>) -> Option<PathBuf> {
    let name = path.to_str()?;
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return None;
    }
    let place = Path::new(&folder?).join(name);
    place.is_file().then_some(place)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn put(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn plain_name_is_the_credential_whatever_its_mode_and_a_path_never_is() {
        let folder = tempfile::tempdir().unwrap();
        let variable = || Some(folder.path().as_os_str().to_owned());
        put(&folder.path().join("api.key"), "given", 0o440);
        assert_eq!(
            read(Path::new("api.key"), variable()).unwrap().as_slice(),
            b"given"
        );
        for path in ["none.key", "../api.key", "./api.key", ""] {
            let error = read(Path::new(path), variable()).unwrap_err();
            assert!(matches!(error, IdentityError::File { .. }), "{path}: {error}");
        }
        assert!(
            read(Path::new("api.key"), None).is_err(),
            "without systemd there is none"
        );
    }

    #[test]
    fn file_that_others_may_read_is_refused_and_one_that_a_group_reads_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.key");
        for mode in [0o600, 0o400, 0o640] {
            put(&path, "key", mode);
            assert_eq!(read(&path, None).unwrap().as_slice(), b"key", "{mode:o}");
            fs::remove_file(&path).unwrap();
        }
        for mode in [0o644, 0o660, 0o604] {
            put(&path, "key", mode);
            let error = read(&path, None).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
            fs::remove_file(&path).unwrap();
        }
    }
}
