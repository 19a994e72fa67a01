//! Who may log in.

use fleetmend_control::{self as control, Control, ControlError, Transaction};
use fleetmend_event::TimeMicros;

use crate::groups::{Given, give_groups};
use crate::password::Passwords;
use crate::{StateError, database};

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    Admin,
    /// What only reads.
    Viewer,
}

impl Role {
    /// The word that is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Viewer => "viewer",
        }
    }
}

/// A word that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is admin or viewer")]
pub struct UnknownRole;

impl std::str::FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, UnknownRole> {
        match word {
            "admin" => Ok(Role::Admin),
            "viewer" => Ok(Role::Viewer),
            _ => Err(UnknownRole),
        }
    }
}

/// A user in a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UserView {
    /// Name, unique.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// When the user was made.
    pub created_at: TimeMicros,
    /// When the user last logged in.
    pub last_login_at: Option<TimeMicros>,
}

/// The accounts; also what a start without any user needs.
#[derive(Clone)]
pub struct Accounts {
    pool: Control,
    pub(crate) passwords: Passwords,
}

const NAME_CHARS_MAX: usize = 64;

impl Accounts {
    /// Opens the accounts, making their tables where there are none.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub async fn open(pool: Control) -> Result<Self, StateError> {
        database::migrate(&pool).await?;
        Ok(Self {
            pool,
            passwords: Passwords::new(),
        })
    }

    /// Makes a user.
    ///
    /// # Errors
    /// When the name is taken or cannot be, or the password is too short.
    pub async fn create(&self, name: &str, password: &str, role: Role) -> Result<UserView, StateError> {
        self.create_within(name, password, role, None).await
    }

    /// Makes a user who sees the hosts of these groups only, or every host when `None`.
    ///
    /// # Cancel safety
    /// There is no such user, or one who sees no more than was meant.
    pub(crate) async fn create_within(
        &self,
        name: &str,
        password: &str,
        role: Role,
        groups: Option<&[String]>,
    ) -> Result<UserView, StateError> {
        check_name(name)?;
        let hash = self.passwords.hash(password).await?;
        let created_at = TimeMicros::now();
        let make = async {
            let mut transaction = self.pool.begin("api").await?;
            let made = control::query(
                "INSERT INTO api_users (name, password_hash, role, created_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING",
            )
            .bind(name)
            .bind(hash)
            .bind(role.as_str())
            .bind(created_at.0)
            .execute(&mut transaction)
            .await?;
            if made == 0 {
                return Ok(None);
            }
            let given = match groups {
                None => Given::Done,
                Some(_) => give_groups(&mut transaction, name, groups).await?,
            };
            if matches!(given, Given::Done) {
                transaction.commit().await?;
            }
            Ok(Some(given))
        };
        let given = make.await.map_err(StateError::database("make a user"))?;
        given
            .ok_or_else(|| StateError::UserExists(name.to_owned()))?
            .settle(name)?;
        Ok(UserView {
            name: name.to_owned(),
            role,
            created_at,
            last_login_at: None,
        })
    }

    /// Makes the user, or gives it this password and role; its sessions end when the password changes. For the first
    /// admin and for a forgotten password: it needs the database, not a login.
    ///
    /// # Errors
    /// When the name or the password cannot be, or SQLite refuses.
    pub async fn set(&self, name: &str, password: &str, role: Role) -> Result<(), StateError> {
        check_name(name)?;
        if self
            .check(name, password)
            .await?
            .is_some_and(|found| found == role)
        {
            return Ok(());
        }
        let hash = self.passwords.hash(password).await?;
        let wrap = StateError::database("set a user's password");
        let set = async {
            let mut transaction = self.pool.begin("api").await?;
            control::query(
                "INSERT INTO api_users (name, password_hash, role, created_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (name) DO UPDATE SET password_hash = excluded.password_hash, role = excluded.role",
            )
            .bind(name)
            .bind(hash)
            .bind(role.as_str())
            .bind(TimeMicros::now().0)
            .execute(&mut transaction)
            .await?;
            end_sessions(&mut transaction, name).await?;
            transaction.commit().await
        };
        set.await.map_err(wrap)
    }

    /// Whether there is anybody at all.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub async fn is_empty(&self) -> Result<bool, StateError> {
        let count: Option<i64> = control::query("SELECT count(*) FROM api_users")
            .fetch_value(&self.pool)
            .await
            .map_err(StateError::database("count users"))?;
        Ok(count == Some(0))
    }

    /// Every user, by name.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub async fn list(&self) -> Result<Vec<UserView>, StateError> {
        let rows =
            control::query("SELECT name, role, created_at, last_login_at FROM api_users ORDER BY name")
                .fetch_all(&self.pool)
                .await
                .map_err(StateError::database("list users"))?;
        rows.into_iter()
            .map(|row| {
                Ok(UserView {
                    name: row.try_get(0)?,
                    role: role_of(row.try_get(1)?)?,
                    created_at: TimeMicros(row.try_get(2)?),
                    last_login_at: row.try_get::<Option<i64>>(3)?.map(TimeMicros),
                })
            })
            .collect()
    }

    /// Removes a user and ends its sessions; `false` when there is none of that name.
    ///
    /// # Errors
    /// When it is the last admin, or SQLite refuses.
    pub async fn remove(&self, name: &str) -> Result<bool, StateError> {
        let wrap = StateError::database("remove a user");
        let remove = async {
            let mut transaction = self.pool.begin("api").await?;
            let removed = control::query(
                "DELETE FROM api_users WHERE name = $1 AND (role <> 'admin' OR EXISTS
                 (SELECT 1 FROM api_users WHERE role = 'admin' AND name <> $1))",
            )
            .bind(name)
            .execute(&mut transaction)
            .await?;
            let left: Option<i64> = control::query("SELECT count(*) FROM api_users WHERE name = $1")
                .bind(name)
                .fetch_value(&mut transaction)
                .await?;
            if removed > 0 {
                crate::groups::forget_user(&mut transaction, name).await?;
                end_sessions(&mut transaction, name).await?;
            }
            transaction.commit().await?;
            Ok((removed > 0, left > Some(0)))
        };
        match remove.await.map_err(wrap)? {
            (false, true) => Err(StateError::LastAdmin(name.to_owned())),
            (removed, _) => Ok(removed),
        }
    }

    /// The role of the user whose password this is.
    pub(crate) async fn check(&self, name: &str, password: &str) -> Result<Option<Role>, StateError> {
        Ok(self.check_stored(name, password).await?.map(|(_, role)| role))
    }

    /// As [`Accounts::check`], with the stored hash.
    pub(crate) async fn check_stored(
        &self,
        name: &str,
        password: &str,
    ) -> Result<Option<(String, Role)>, StateError> {
        let stored = self.stored(name).await?;
        let hash = stored.as_ref().map(|(hash, _)| hash.as_str());
        let good = self.passwords.verify(password, hash).await?;
        Ok(stored.filter(|_| good))
    }

    /// The hash of a user's password, and the role.
    pub(crate) async fn stored(&self, name: &str) -> Result<Option<(String, Role)>, StateError> {
        let row = control::query("SELECT password_hash, role FROM api_users WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(StateError::database("find a user"))?;
        row.map(|row| Ok((row.try_get(0)?, role_of(row.try_get(1)?)?)))
            .transpose()
    }

    pub(crate) async fn note_login(&self, name: &str) -> Result<(), StateError> {
        control::query("UPDATE api_users SET last_login_at = $1 WHERE name = $2")
            .bind(TimeMicros::now().0)
            .bind(name)
            .execute(&self.pool)
            .await
            .map_err(StateError::database("note a login"))?;
        Ok(())
    }

    pub(crate) fn pool(&self) -> &Control {
        &self.pool
    }
}

/// In words: nothing here counts on a cascade.
async fn end_sessions(connection: &mut Transaction, user: &str) -> Result<(), ControlError> {
    control::query(
        "DELETE FROM api_tokens WHERE session_id IN (SELECT session_id FROM api_sessions WHERE \"user\" = $1)",
    )
    .bind(user)
    .execute(&mut *connection)
    .await?;
    control::query("DELETE FROM api_sessions WHERE \"user\" = $1")
        .bind(user)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

pub(crate) fn role_of(word: String) -> Result<Role, StateError> {
    word.parse().map_err(|_| StateError::Stored { what: "a role" })
}

fn check_name(name: &str) -> Result<(), StateError> {
    let fits =
        |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '.' | '-' | '_');
    if (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(fits) {
        Ok(())
    } else {
        Err(StateError::UserName)
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_testkit::Turns;

    use super::*;
    use crate::groups::Groups;

    #[tokio::test]
    async fn whoever_is_to_see_some_hosts_never_sees_all_however_far_the_request_came() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Control::sqlite(&folder.path().join("control.sqlite"))
            .await
            .unwrap();
        let accounts = Accounts::open(pool.clone()).await.unwrap();
        let groups = Groups::new(pool);
        groups.set("admin", "web", &[]).await.unwrap();
        let wanted = ["web".to_owned()];
        let mut turns = 0;
        loop {
            turns += 1;
            let name = format!("user-{turns}");
            let create =
                accounts.create_within(&name, "a good password", Role::Viewer, Some(wanted.as_slice()));
            let made = Turns::of(create, turns).await.transpose().unwrap();
            if accounts.stored(&name).await.unwrap().is_some() {
                let seen = groups.of_user(&name).await.unwrap();
                assert_eq!(seen.as_deref(), Some(wanted.as_slice()), "after {turns} turns");
            }
            if made.is_some() {
                break;
            }
            assert!(turns < 1_000, "it never ends");
        }
        // The hash of the password, the begin, the groups, the user, the scope, the record and the commit.
        assert!(turns > 5, "it was given up {turns} times only");
        let nowhere = ["nowhere".to_owned()];
        for (role, wanted) in [(Role::Admin, &wanted), (Role::Viewer, &nowhere)] {
            let refused = accounts.create_within("other", "a good password", role, Some(wanted.as_slice()));
            assert!(matches!(refused.await, Err(StateError::Group(_))));
            assert_eq!(accounts.stored("other").await.unwrap(), None);
        }
    }
}
