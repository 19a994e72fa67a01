//! The key of a repository: 32 random bytes in a file, from which everything else is derived.
//!
//! HKDF-SHA256 with the salt `fleetmend backup 1` derives three secrets: `objects`, from which each sealed file's own
//! key is derived with that file's salt; `names`, the HMAC key of the objects' names; and `id`, eight bytes that tell
//! keys apart and may be known to everybody.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::error::{BackupError, io_error};

const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const SALT: &[u8] = b"fleetmend backup 1";

/// A key; clones are the same. It is never shown.
#[derive(Clone)]
pub struct BackupKey {
    objects: Zeroizing<[u8; KEY_BYTES]>,
    names: hmac::Key,
    id: String,
}

impl fmt::Debug for BackupKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BackupKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Fills `out` from `secret`. Fails for outputs of more than 8,160 bytes only.
fn expand(secret: &Prk, info: &[u8], out: &mut [u8]) {
    let parts = [info];
    let filled = secret
        .expand(&parts, Length(out.len()))
        .and_then(|derived| derived.fill(out));
    debug_assert!(filled.is_ok(), "HKDF gives up to 255 blocks");
}

impl BackupKey {
    /// The key made of `master`.
    pub fn new(master: &[u8; KEY_BYTES]) -> Self {
        let secret = Salt::new(HKDF_SHA256, SALT).extract(master);
        let mut objects = Zeroizing::new([0; KEY_BYTES]);
        let mut names = Zeroizing::new([0; KEY_BYTES]);
        let mut id = [0; ID_BYTES];
        expand(&secret, b"objects", objects.as_mut_slice());
        expand(&secret, b"names", names.as_mut_slice());
        expand(&secret, b"id", &mut id);
        Self {
            objects,
            names: hmac::Key::new(hmac::HMAC_SHA256, names.as_slice()),
            id: hex::encode(id),
        }
    }

    /// Reads the key in the file `path`: 32 bytes, or 64 hex digits.
    ///
    /// # Errors
    /// When others may read the file, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let file = fs::File::open(path).map_err(io_error("open the key file", path))?;
        let mode = file.metadata().map_err(io_error("inspect", path))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(BackupError::KeyExposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut content = Zeroizing::new(Vec::with_capacity(128));
        file.take(128)
            .read_to_end(&mut content)
            .map_err(io_error("read the key file", path))?;
        let shape = || BackupError::KeyShape {
            path: path.to_owned(),
        };
        let mut master = Zeroizing::new([0; KEY_BYTES]);
        if content.len() == KEY_BYTES {
            master.copy_from_slice(&content);
        } else {
            let digits = content.trim_ascii();
            hex::decode_to_slice(digits, master.as_mut_slice()).map_err(|_| shape())?;
        }
        Ok(Self::new(&master))
    }

    /// Makes a new key in the file `path`, as hex digits and for its owner only; there may be no file yet.
    ///
    /// # Errors
    /// When there is a file, or it cannot be written.
    pub fn create(path: &Path) -> Result<Self, BackupError> {
        let mut master = Zeroizing::new([0; KEY_BYTES]);
        rand::Rng::fill(&mut rand::rngs::ThreadRng::default(), master.as_mut_slice());
        let mut text = Zeroizing::new(hex::encode(master.as_slice()));
        text.push('\n');
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io_error("make the key file", path))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", path))?;
        // A power cut must not take the key and leave backups that need it.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("sync", folder))?;
        Ok(Self::new(&master))
    }

    /// Tells keys apart; no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Name of the object whose content has this digest.
    pub(super) fn name_of(&self, digest: &[u8]) -> String {
        hex::encode(hmac::sign(&self.names, digest))
    }

    /// The key of one sealed file; `None` when the library refuses, which it does not for keys of this length.
    pub(super) fn of_file(&self, salt: &[u8; KEY_BYTES]) -> Option<LessSafeKey> {
        let secret = Salt::new(HKDF_SHA256, salt).extract(self.objects.as_slice());
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        expand(&secret, b"file", bytes.as_mut_slice());
        Some(LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, bytes.as_slice()).ok()?,
        ))
    }
}
