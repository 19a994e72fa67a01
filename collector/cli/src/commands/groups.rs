//! Groups of hosts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::args::Groups;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{items, text};

pub(crate) async fn run(client: &Client, output: &Output, groups: Groups) -> Result<(), Failure> {
    match groups {
        Groups::List => list(client, output).await,
        Groups::Set { name, hosts } => {
            let hosts = ids(client, &hosts).await?;
            set(client, output, &name, hosts).await
        }
        Groups::Add { name, hosts } => {
            let mut held = members(client, &name).await?.unwrap_or_default();
            held.extend(ids(client, &hosts).await?);
            set(client, output, &name, held).await
        }
        Groups::Drop { name, hosts } => {
            let held = members(client, &name).await?;
            let mut held = held.ok_or_else(|| Failure::Absent(format!("there is no group {name}")))?;
            for host in ids(client, &hosts).await? {
                held.remove(&host);
            }
            set(client, output, &name, held).await
        }
        Groups::Remove { name } => {
            client.delete(&format!("groups/{name}")).await?;
            output.line(&format!("removed group {name}"))
        }
    }
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let list = client.get("groups", &[]).await?;
    if output.is_json() {
        return output.json(&list);
    }
    let rows = items(&list, "items").iter().map(|group| {
        let users: Vec<String> = items(group, "users").iter().map(crate::shown::plain).collect();
        vec![
            text(group, "name"),
            items(group, "hosts").len().to_string(),
            users.join(","),
        ]
    });
    output.table(
        &["NAME", "HOSTS", "USERS"],
        rows.collect(),
        "no groups: every viewer sees every host",
    )
}

async fn set(client: &Client, output: &Output, name: &str, hosts: BTreeSet<String>) -> Result<(), Failure> {
    let count = hosts.len();
    let path = format!("groups/{name}");
    client.put(&path, json!({ "hosts": hosts })).await?;
    output.line(&format!("group {name} has {count} hosts"))
}

/// The hosts of a group, if there is one of that name.
async fn members(client: &Client, name: &str) -> Result<Option<BTreeSet<String>>, Failure> {
    let list = client.get("groups", &[]).await?;
    let group = items(&list, "items")
        .iter()
        .find(|group| text(group, "name") == name);
    let hosts = |group: &Value| items(group, "hosts").iter().map(crate::shown::plain).collect();
    Ok(group.map(hosts))
}

async fn ids(client: &Client, hosts: &[String]) -> Result<BTreeSet<String>, Failure> {
    let mut ids = BTreeSet::new();
    for host in hosts {
        ids.insert(client.host(host).await?);
    }
    Ok(ids)
}
