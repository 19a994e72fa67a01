//! Users and the audit trail.

use serde_json::{Value, json};

use crate::args::Users;
use crate::client::Client;
use crate::commands::login::password;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{ago, clock, items, text};

pub(crate) async fn run(client: &Client, output: &Output, users: Users) -> Result<(), Failure> {
    match users {
        Users::List => {
            let list = client.get("users", &[]).await?;
            if output.is_json() {
                return output.json(&list);
            }
            let rows = items(&list, "items").iter().map(|user| {
                vec![
                    text(user, "name"),
                    text(user, "role"),
                    seen(user),
                    clock(user, "created_at"),
                    ago(user, "last_login_at"),
                ]
            });
            output.table(
                &["NAME", "ROLE", "SEES", "CREATED", "LAST LOGIN"],
                rows.collect(),
                "no users",
            )
        }
        Users::Create { name, role, groups } => {
            let password = password("password of the new user: ")?;
            let made = client
                .post(
                    "users",
                    json!({ "name": name, "password": password, "role": role, "groups": groups }),
                )
                .await?;
            if output.is_json() {
                return output.json(&made);
            }
            output.line(&format!("made the {role} {name}"))
        }
        Users::Scope {
            name, groups, all, ..
        } => {
            let groups = if all {
                None
            } else {
                Some(groups.unwrap_or_default())
            };
            let path = format!("users/{name}/groups");
            client.put(&path, json!({ "groups": groups })).await?;
            output.line(&match groups {
                None => format!("{name} sees every host"),
                Some(groups) if groups.is_empty() => format!("{name} sees no host"),
                Some(groups) => format!("{name} sees the hosts of {}", groups.join(", ")),
            })
        }
        Users::Remove { name } => {
            client.delete(&format!("users/{name}")).await?;
            output.line(&format!("removed {name}"))
        }
    }
}

/// Whose hosts a user sees.
fn seen(user: &Value) -> String {
    match user.get("groups").and_then(Value::as_array) {
        None => "all".to_owned(),
        Some(groups) if groups.is_empty() => "none".to_owned(),
        Some(groups) => {
            let names: Vec<&str> = groups.iter().filter_map(Value::as_str).collect();
            names.join(",")
        }
    }
}

pub(crate) async fn audit(client: &Client, output: &Output, limit: usize) -> Result<(), Failure> {
    let page = client.pages("audit", &[], limit).await?;
    if output.is_json() {
        return output.json(&page);
    }
    let columns = [
        "actor",
        "action",
        "subject",
        "outcome",
        "remote_address",
        "detail",
    ];
    let rows = items(&page, "items").iter().map(|entry| {
        let mut row = vec![clock(entry, "time")];
        row.extend(columns.iter().map(|name| text(entry, name)));
        row
    });
    let header = ["TIME", "WHO", "DID", "TO", "OUTCOME", "FROM", "DETAIL"];
    output.table(&header, rows.collect(), "the audit trail is empty")
}
