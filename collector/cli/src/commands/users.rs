//! Users and the audit trail.

use serde_json::json;

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
                    clock(user, "created_at"),
                    ago(user, "last_login_at"),
                ]
            });
            output.table(
                &["NAME", "ROLE", "CREATED", "LAST LOGIN"],
                rows.collect(),
                "no users",
            )
        }
        Users::Create { name, role } => {
            let password = password("password of the new user: ")?;
            let made = client
                .post(
                    "users",
                    json!({ "name": name, "password": password, "role": role }),
                )
                .await?;
            if output.is_json() {
                return output.json(&made);
            }
            output.line(&format!("made the {role} {name}"))
        }
        Users::Remove { name } => {
            client.delete(&format!("users/{name}")).await?;
            output.line(&format!("removed {name}"))
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
