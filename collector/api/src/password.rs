//! Passwords: Argon2id, never on the runtime's threads, a few at once.

use std::sync::{Arc, LazyLock};

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::StateError;

/// Characters of a password: enough to resist guessing, and not so many that hashing them is an attack.
pub(crate) const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 12..=256;
/// Hashes at once: each takes 19 MiB and about 20 ms of a core.
const HASHES_AT_ONCE: usize = 2;

/// Hashed in place of a user that does not exist, so that both take as long.
static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| hash_now("nobody has this password").ok());

#[derive(Clone)]
pub(crate) struct Passwords {
    slots: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
        }
    }

    /// The hash in the PHC format.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, StateError> {
        if !PASSWORD_CHARS.contains(&password.chars().count()) {
            return Err(StateError::Password);
        }
        let password = password.to_owned();
        self.apart(move || hash_now(&password)).await?
    }

    /// Whether the password is the one that was hashed; takes as long for a user who is not there.
    pub(crate) async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, StateError> {
        if password.chars().count() > *PASSWORD_CHARS.end() {
            return Ok(false);
        }
        let (password, known) = (password.to_owned(), hash.is_some());
        let hash = hash.map(str::to_owned);
        let good = self
            .apart(move || {
                let Some(hash) = hash.or_else(|| NOBODY.clone()) else {
                    return false;
                };
                PasswordHash::new(&hash)
                    .is_ok_and(|parsed| argon().verify_password(password.as_bytes(), &parsed).is_ok())
            })
            .await?;
        Ok(good && known)
    }

    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StateError> {
        let stopped = |error: &dyn std::fmt::Display| StateError::Hash(error.to_string());
        let slot = self
            .slots
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| stopped(&error))?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
            result
        });
        done.await.map_err(|error| stopped(&error))
    }
}

/// OWASP's first choice for Argon2id: 19 MiB, two passes, one lane.
fn argon() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
}

fn hash_now(password: &str) -> Result<String, StateError> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = argon().hash_password(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string())
        .map_err(|error| StateError::Hash(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_verifies_only_itself_and_only_for_a_user() {
        let passwords = Passwords::new();
        let hash = passwords.hash("correct horse battery").await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(
            passwords
                .verify("correct horse battery", Some(&hash))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("correct horse batterx", Some(&hash))
                .await
                .unwrap()
        );
        assert!(!passwords.verify("nobody has this password", None).await.unwrap());
        assert!(matches!(passwords.hash("short").await, Err(StateError::Password)));
    }
}
