//! One file per subject of the command line.

mod actions;
mod alerts;
mod certs;
mod export;
mod findings;
mod groups;
mod hosts;
mod login;
mod policy;
mod queries;
pub(crate) mod query;
mod sites;
mod sql;
mod tail;
mod tokens;
mod users;

use clap::CommandFactory as _;

use crate::args::{Arguments, Command, Hosts, Policy};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    match &arguments.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "fleetmend", &mut script);
            return output.text(&String::from_utf8_lossy(&script));
        }
        Command::Policy(Policy::Sign { policy, root, to }) => {
            return policy::sign(output, policy, root, to.as_deref());
        }
        Command::Policy(Policy::Show { policy, root }) => {
            return policy::show(output, policy, root.as_deref());
        }
        _ => {}
    }
    let client = Client::new(arguments.url.as_deref(), arguments.ca.as_deref())?;
    if let Command::Login(login) = &arguments.command {
        return login::login(&client, output, login).await;
    }
    let client = client.authenticate().await?;
    match arguments.command {
        Command::Logout => login::logout(&client, output).await,
        Command::Hosts {
            command: Some(Hosts::Remove { host, reason }),
            ..
        } => hosts::remove(&client, output, &host, &reason).await,
        Command::Hosts {
            no_probes, removed, ..
        } => hosts::all(&client, output, !no_probes, removed).await,
        Command::Host { host } => hosts::one(&client, output, &host).await,
        Command::Findings(wanted) => findings::all(&client, output, wanted).await,
        Command::Finding { finding, host } => findings::one(&client, output, &finding, host.as_deref()).await,
        Command::Actions { host, ending, limit } => actions::all(&client, output, host, ending, limit).await,
        Command::Action { action, host } => actions::one(&client, output, &action, host.as_deref()).await,
        Command::Alerts { state, limit } => alerts::all(&client, output, state, limit).await,
        Command::Sites => sites::all(&client, output).await,
        Command::Gaps => sites::gaps(&client, output).await,
        Command::Query(query) => query::run(&client, output, query).await,
        Command::Sql { query, rows_max } => sql::run(&client, output, query, rows_max).await,
        Command::Export(wanted) => export::run(&client, output, wanted).await,
        Command::Tail(tail) => tail::run(&client, output, tail).await,
        Command::Certs { expiring } => certs::all(&client, output, expiring).await,
        Command::Token(token) => tokens::run(&client, output, token).await,
        Command::Groups(groups) => groups::run(&client, output, groups).await,
        Command::Queries { command } => queries::run(&client, output, command).await,
        Command::Users(users) => users::run(&client, output, users).await,
        Command::Revoke { host, reason } => hosts::revoke(&client, output, &host, &reason).await,
        Command::Audit { limit } => users::audit(&client, output, limit).await,
        // Done above.
        Command::Login(_) | Command::Policy(_) | Command::Completions { .. } => Ok(()),
    }
}
