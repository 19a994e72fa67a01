//! Groups of hosts, and who may see only some.
//!
//! A group is a named set of host ids. A user is *scoped* or not: one who is not sees every host, one who is sees the
//! hosts of the user's groups. Being scoped is a mark of its own, so that whoever loses the last group, or whose group
//! is removed, sees nothing rather than everything. Admins see every host: they could lift their own bounds.

use fleetmend_control::{self as control, Control, ControlError, Transaction};
use fleetmend_event::{HostId, HostScope, TimeMicros};

use crate::StateError;

/// Hosts of one group. Every request of a scoped user reads the user's.
pub(crate) const GROUP_HOSTS_MAX: usize = 5_000;
/// Groups altogether.
const GROUPS_MAX: i64 = 1_000;
/// Groups of one user.
const USER_GROUPS_MAX: usize = 50;
const NAME_CHARS_MAX: usize = 64;

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct GroupView {
    pub(crate) name: String,
    pub(crate) hosts: Vec<HostId>,
    /// Users who see it.
    pub(crate) users: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Groups {
    pool: Control,
}

impl Groups {
    pub(crate) fn new(pool: Control) -> Self {
        Self { pool }
    }

    /// Every group, by name.
    pub(crate) async fn list(&self) -> Result<Vec<GroupView>, StateError> {
        let list = async {
            let names = control::query("SELECT name FROM api_groups ORDER BY name")
                .fetch_all(&self.pool)
                .await?;
            let mut groups = Vec::with_capacity(names.len());
            for row in names {
                let name: String = row.try_get(0)?;
                let hosts =
                    control::query("SELECT host FROM api_group_hosts WHERE group_name = $1 ORDER BY host")
                        .bind(&name)
                        .fetch_all(&self.pool)
                        .await?;
                let users = control::query(
                    "SELECT user_name FROM api_user_groups WHERE group_name = $1 ORDER BY user_name",
                )
                .bind(&name)
                .fetch_all(&self.pool)
                .await?;
                groups.push((name, hosts, users));
            }
            Ok(groups)
        };
        let groups = list.await.map_err(StateError::database("list groups"))?;
        groups
            .into_iter()
            .map(|(name, hosts, users)| {
                Ok(GroupView {
                    name,
                    hosts: hosts
                        .iter()
                        .map(|row| host_of(row.try_get(0)?))
                        .collect::<Result<_, _>>()?,
                    users: users.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
                })
            })
            .collect()
    }

    /// Makes a group of exactly these hosts, or makes the group that.
    pub(crate) async fn set(&self, by: &str, name: &str, hosts: &[HostId]) -> Result<(), StateError> {
        check_name(name)?;
        if hosts.len() > GROUP_HOSTS_MAX {
            return Err(StateError::Group(format!(
                "a group has at most {GROUP_HOSTS_MAX} hosts, not {}; make several and give a user all of them",
                hosts.len()
            )));
        }
        let set = async {
            let mut transaction = self.pool.begin("api").await?;
            let others: Option<i64> = control::query("SELECT count(*) FROM api_groups WHERE name <> $1")
                .bind(name)
                .fetch_value(&mut transaction)
                .await?;
            if others >= Some(GROUPS_MAX) {
                return Ok(false);
            }
            control::query(
                "INSERT INTO api_groups (name, created_at, created_by) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
            )
            .bind(name)
            .bind(TimeMicros::now().0)
            .bind(by)
            .execute(&mut transaction)
            .await?;
            control::query("DELETE FROM api_group_hosts WHERE group_name = $1")
                .bind(name)
                .execute(&mut transaction)
                .await?;
            for host in hosts {
                control::query(
                    "INSERT INTO api_group_hosts (group_name, host) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                )
                .bind(name)
                .bind(host.to_string())
                .execute(&mut transaction)
                .await?;
            }
            transaction.commit().await?;
            Ok(true)
        };
        if set.await.map_err(StateError::database("set a group"))? {
            Ok(())
        } else {
            Err(StateError::Group(format!(
                "there are {GROUPS_MAX} groups, which is as many as may be; remove one first"
            )))
        }
    }

    /// Removes a group; `false` when there is none of that name. Its users stay scoped.
    pub(crate) async fn remove(&self, name: &str) -> Result<bool, StateError> {
        let remove = async {
            let mut transaction = self.pool.begin("api").await?;
            for statement in [
                "DELETE FROM api_user_groups WHERE group_name = $1",
                "DELETE FROM api_group_hosts WHERE group_name = $1",
            ] {
                control::query(statement)
                    .bind(name)
                    .execute(&mut transaction)
                    .await?;
            }
            let removed = control::query("DELETE FROM api_groups WHERE name = $1")
                .bind(name)
                .execute(&mut transaction)
                .await?;
            transaction.commit().await?;
            Ok(removed > 0)
        };
        remove.await.map_err(StateError::database("remove a group"))
    }

    /// Lets a user see these groups only, or every host when `None`. `false` when there is no such user.
    pub(crate) async fn give(&self, user: &str, groups: Option<&[String]>) -> Result<bool, StateError> {
        let give = async {
            let mut transaction = self.pool.begin("api").await?;
            let given = give_groups(&mut transaction, user, groups).await?;
            if matches!(given, Given::Done) {
                transaction.commit().await?;
            }
            Ok(given)
        };
        let given = give.await.map_err(StateError::database("give a user groups"))?;
        given.settle(user)
    }

    /// The groups of a user; `None` for one who sees every host.
    pub(crate) async fn of_user(&self, user: &str) -> Result<Option<Vec<String>>, StateError> {
        let of_user = async {
            let scoped: Option<i64> = control::query("SELECT scoped FROM api_users WHERE name = $1")
                .bind(user)
                .fetch_value(&self.pool)
                .await?;
            if scoped == Some(0) {
                return Ok(None);
            }
            let rows = control::query(
                "SELECT group_name FROM api_user_groups WHERE user_name = $1 ORDER BY group_name",
            )
            .bind(user)
            .fetch_all(&self.pool)
            .await?;
            rows.iter()
                .map(|row| row.try_get(0))
                .collect::<Result<_, _>>()
                .map(Some)
        };
        of_user
            .await
            .map_err(StateError::database("find a user's groups"))
    }

    /// What a user may see now. A user who is not there sees nothing.
    pub(crate) async fn scope_of(&self, user: &str) -> Result<HostScope, StateError> {
        let scope_of = async {
            let scoped: Option<i64> = control::query("SELECT scoped FROM api_users WHERE name = $1")
                .bind(user)
                .fetch_value(&self.pool)
                .await?;
            if scoped == Some(0) {
                return Ok(None);
            }
            let rows = control::query(
                "SELECT DISTINCT h.host FROM api_user_groups u JOIN api_group_hosts h ON h.group_name = u.group_name
                 WHERE u.user_name = $1",
            )
            .bind(user)
            .fetch_all(&self.pool)
            .await?;
            Ok(Some(rows))
        };
        let Some(rows) = scope_of
            .await
            .map_err(StateError::database("find whom a user may see"))?
        else {
            return Ok(HostScope::All);
        };
        let hosts: Vec<HostId> = rows
            .iter()
            .map(|row| host_of(row.try_get(0)?))
            .collect::<Result<_, _>>()?;
        Ok(HostScope::only(hosts))
    }
}

/// What came of giving a user groups. Nothing is to be committed unless it is done.
pub(crate) enum Given {
    Done,
    NoUser,
    Admin,
    TooMany,
    NoGroup(String),
}

impl Given {
    /// Whether there is such a user, or why the groups cannot be given.
    pub(crate) fn settle(self, user: &str) -> Result<bool, StateError> {
        match self {
            Given::Done => Ok(true),
            Given::NoUser => Ok(false),
            Given::Admin => Err(StateError::Group(format!(
                "{user:?} is an admin, who sees every host; only a viewer can be given groups"
            ))),
            Given::TooMany => Err(StateError::Group(format!(
                "a user has at most {USER_GROUPS_MAX} groups"
            ))),
            Given::NoGroup(name) => Err(StateError::Group(format!(
                "there is no group {name:?}; make it first with `fleetmend groups set`"
            ))),
        }
    }
}

/// Lets a user see these groups only, or every host when `None`, once the transaction is committed.
pub(crate) async fn give_groups(
    transaction: &mut Transaction,
    user: &str,
    groups: Option<&[String]>,
) -> Result<Given, ControlError> {
    if groups.is_some_and(|groups| groups.len() > USER_GROUPS_MAX) {
        return Ok(Given::TooMany);
    }
    let role: Option<String> = control::query("SELECT role FROM api_users WHERE name = $1")
        .bind(user)
        .fetch_value(&mut *transaction)
        .await?;
    match role.as_deref() {
        None => Ok(Given::NoUser),
        Some("admin") if groups.is_some() => Ok(Given::Admin),
        Some(_) => write_groups(transaction, user, groups).await,
    }
}

async fn write_groups(
    connection: &mut Transaction,
    user: &str,
    groups: Option<&[String]>,
) -> Result<Given, ControlError> {
    forget_user(connection, user).await?;
    control::query("UPDATE api_users SET scoped = $1 WHERE name = $2")
        .bind(i64::from(groups.is_some()))
        .bind(user)
        .execute(&mut *connection)
        .await?;
    for name in groups.unwrap_or_default() {
        let known: Option<i64> = control::query("SELECT count(*) FROM api_groups WHERE name = $1")
            .bind(name)
            .fetch_value(&mut *connection)
            .await?;
        if known == Some(0) {
            return Ok(Given::NoGroup(name.clone()));
        }
        control::query(
            "INSERT INTO api_user_groups (user_name, group_name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(user)
        .bind(name)
        .execute(&mut *connection)
        .await?;
    }
    Ok(Given::Done)
}

/// Takes a user's groups away, so that one made later under the same name does not inherit them.
pub(crate) async fn forget_user(connection: &mut Transaction, user: &str) -> Result<(), ControlError> {
    control::query("DELETE FROM api_user_groups WHERE user_name = $1")
        .bind(user)
        .execute(connection)
        .await?;
    Ok(())
}

fn host_of(text: String) -> Result<HostId, StateError> {
    text.parse().map_err(|_| StateError::Stored { what: "a host id" })
}

fn check_name(name: &str) -> Result<(), StateError> {
    let fits =
        |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '.' | '-' | '_');
    if (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(fits) {
        Ok(())
    } else {
        Err(StateError::Group(
            "a group's name has 1 to 64 characters out of a-z, 0-9, '.', '-' and '_'".to_owned(),
        ))
    }
}
