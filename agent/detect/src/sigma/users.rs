//! Names of users, read once each.

use std::sync::{LazyLock, Mutex, PoisonError};

use foldhash::HashMap;

/// Most user names that are remembered.
const USERS_MAX: usize = 1_024;

/// Name of a user, or its number when there is none.
pub(crate) fn user_name(uid: u32) -> String {
    static NAMES: LazyLock<Mutex<HashMap<u32, String>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = names.get(&uid) {
        return name.clone();
    }
    if names.len() >= USERS_MAX {
        names.clear();
    }
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
        .ok()
        .flatten();
    let name = user.map_or_else(|| uid.to_string(), |user| user.name);
    names.insert(uid, name.clone());
    name
}
