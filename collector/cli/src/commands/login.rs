//! Logging in and out, and asking for a password without showing it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::args::Login;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::session;

pub(crate) async fn login(client: &Client, output: &Output, login: &Login) -> Result<(), Failure> {
    let user = match &login.user {
        Some(user) => user.clone(),
        None => ask("user: ")?,
    };
    let given = std::env::var("FLEETMEND_PASSWORD")
        .ok()
        .filter(|password| !password.is_empty() && !login.password_stdin);
    let password = match given {
        Some(password) => password,
        None => password("password: ")?,
    };
    let session = client.login(&user, &password).await?;
    let lock = session::lock().await?;
    session::save(&session)?;
    drop(lock);
    if output.is_json() {
        return output
            .json(&json!({ "user": session.user, "url": session.url, "expires_at": session.expires_at }));
    }
    output.line(&format!("logged in to {} as {}", session.url, session.user))
}

pub(crate) async fn logout(client: &Client, output: &Output) -> Result<(), Failure> {
    client.post("logout", json!({})).await?;
    let _lock = session::lock().await?;
    session::forget()?;
    output.line("logged out")
}

/// A password: from standard input as it is, or asked for without an echo.
pub(crate) fn password(prompt: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return line();
    }
    let hidden = stty("-echo");
    let answer = ask(prompt);
    if hidden {
        stty("echo");
        writeln!(io::stderr())?;
    }
    answer
}

fn ask(prompt: &str) -> Result<String, Failure> {
    write!(io::stderr(), "{prompt}")?;
    io::stderr().flush()?;
    line()
}

fn line() -> Result<String, Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let text = line.trim_end_matches(['\n', '\r']).to_owned();
    if text.is_empty() {
        Err(Failure::other("nothing was entered"))
    } else {
        Ok(text)
    }
}

/// Switches the echo of the terminal; `stty` is in every base system.
fn stty(setting: &str) -> bool {
    let command = Command::new("stty")
        .arg(setting)
        .stdin(Stdio::inherit())
        .stdout(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}
