//! Our facts under Sigma's field names, without copying them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use fleetmend_event::table::{NetworkEvent, NetworkEventKind, ProcessEvent, ProcessEventKind};
use rsigma_eval::event::{Event, EventValue};
use serde_json::Value;

/// Most user names that are remembered.
const USERS_MAX: usize = 1_024;

/// Names and values of an event, in the order in which a keyword looks through them.
struct Fields<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<EventValue<'_>> {
        let (_, value) = self.0.iter().find(|(field, _)| *field == name)?;
        Some(EventValue::Str(Cow::Borrowed(value.as_ref())))
    }

    fn json(&self) -> Value {
        self.0
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_ref())))
            .collect()
    }
}

/// An exec as Sigma's category process_creation.
pub(super) struct ProcessCreation<'a>(Fields<'a>);

impl<'a> ProcessCreation<'a> {
    /// `None` when the event is not an exec.
    pub(super) fn of(event: &'a ProcessEvent) -> Option<Self> {
        if event.kind != ProcessEventKind::Exec {
            return None;
        }
        let mut fields = vec![
            (
                "Image",
                Cow::Borrowed(event.exe.as_deref().unwrap_or(&event.comm)),
            ),
            ("CommandLine", Cow::Owned(event.args.join(" "))),
            ("ProcessId", Cow::Owned(event.pid.to_string())),
            ("ParentProcessId", Cow::Owned(event.ppid.to_string())),
            ("User", Cow::Owned(user_name(event.uid))),
            ("LogonId", Cow::Owned(event.uid.to_string())),
        ];
        let parent = event.parent_exe.as_deref().or(event.parent_comm.as_deref());
        fields.extend(parent.map(|parent| ("ParentImage", Cow::Borrowed(parent))));
        fields.extend(
            event
                .parent_command_line
                .as_deref()
                .map(|line| ("ParentCommandLine", Cow::Borrowed(line))),
        );
        Some(Self(Fields(fields)))
    }
}

/// A connection that this host opened, as Sigma's category network_connection.
pub(super) struct ConnectionEvent<'a>(Fields<'a>);

impl<'a> ConnectionEvent<'a> {
    /// `None` for the end of a connection.
    pub(super) fn of(event: &'a NetworkEvent) -> Option<Self> {
        let initiated = match event.kind {
            NetworkEventKind::Connect => "true",
            NetworkEventKind::Accept => "false",
            NetworkEventKind::Close | NetworkEventKind::Listen => return None,
        };
        Some(Self(Fields(vec![
            ("Image", Cow::Borrowed(event.comm.as_str())),
            ("Initiated", Cow::Borrowed(initiated)),
            ("Protocol", Cow::Borrowed(event.protocol.as_str())),
            ("DestinationIp", Cow::Borrowed(event.remote_address.as_str())),
            ("DestinationPort", Cow::Owned(event.remote_port.to_string())),
            ("SourceIp", Cow::Borrowed(event.local_address.as_str())),
            ("SourcePort", Cow::Owned(event.local_port.to_string())),
            ("ProcessId", Cow::Owned(event.pid.to_string())),
            ("User", Cow::Owned(user_name(event.uid))),
        ])))
    }
}

macro_rules! sigma_event {
    ($event:ident) => {
        impl Event for $event<'_> {
            fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
                self.0.get(path)
            }

            fn any_string_value(&self, wanted: &dyn Fn(&str) -> bool) -> bool {
                self.0.0.iter().any(|(_, value)| wanted(value))
            }

            fn all_string_values(&self) -> Vec<Cow<'_, str>> {
                self.0
                    .0
                    .iter()
                    .map(|(_, value)| Cow::Borrowed(value.as_ref()))
                    .collect()
            }

            fn to_json(&self) -> Value {
                self.0.json()
            }
        }
    };
}

sigma_event!(ProcessCreation);
sigma_event!(ConnectionEvent);

/// Name of a user, or its number when there is none.
fn user_name(uid: u32) -> String {
    static NAMES: std::sync::LazyLock<Mutex<HashMap<u32, String>>> = std::sync::LazyLock::new(Mutex::default);
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
