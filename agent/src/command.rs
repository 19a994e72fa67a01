//! Subcommands other than `run`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent_collect::Sources;
use agent_stream::enrol::{HostFacts, enroll as enroll_with};
use anyhow::{Context, Result, bail};
use fleetmend_identity::credential::read_secret;
use fleetmend_identity::{EnrolmentToken, HostIdentity, TrustBundle, TrustedTime};
use serde_json::Value;

use crate::config::AgentConfig;
use crate::probe_tool;
use crate::status::budget_in_words;

/// Longest wait for the running agent's answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest token file.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// Arguments of `enroll`.
#[derive(Debug, clap::Args)]
pub(crate) struct EnrollArguments {
    #[command(flatten)]
    config: super::ConfigArguments,
    /// File with the token that others may not read, or the name of a systemd credential; `-` reads it from standard
    /// input, so that it is in no process list
    #[arg(long, default_value = "-")]
    token_file: PathBuf,
    /// Folder in which the healer finds whom to trust; written when this runs as root
    #[arg(long, default_value = "/etc/fleetmend/healer")]
    healer_dir: PathBuf,
}

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    config: super::ConfigArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads the configuration and reports every fault.
pub(crate) fn check(path: &Path) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match AgentConfig::load(path) {
        Ok(config) => {
            writeln!(out, "{}: no faults", path.display()).context("print the result")?;
            // No fault of the file: the agent starts all the same, and shows it as BROKEN.
            for row in Sources::check(&config.sources, &config.process.proc_path) {
                writeln!(out, "warning: {}: {}; {}", row.probe, row.reason, row.hint)
                    .context("print a warning")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            writeln!(out, "{faults}").context("print the faults")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Keeps how systemd says that the service ended, for the next start.
pub(crate) fn note_end(path: &Path) -> Result<ExitCode> {
    let config = AgentConfig::load(path)?;
    let Ok(result) = std::env::var("SERVICE_RESULT") else {
        bail!("this is for ExecStopPost= of the unit: systemd says in SERVICE_RESULT how the service ended");
    };
    crate::budget::last_run::note_end(&config.run_file(), &result)
        .map_err(anyhow::Error::msg)
        .context("keep how the service ended")?;
    Ok(ExitCode::SUCCESS)
}

/// Enrols this host.
pub(crate) fn enroll(arguments: &EnrollArguments) -> Result<ExitCode> {
    let config = AgentConfig::load(&arguments.config.config)?;
    let text = read_token(&arguments.token_file)?;
    let token: EnrolmentToken = text
        .trim()
        .parse()
        .context("read the token; it begins with fm1.")?;
    let time = TrustedTime::open(config.time_file()).context("open the trusted time")?;
    let dialer = config.stream.dialer().context("set up stream.proxy")?;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned();
    let facts = HostFacts {
        hostname,
        ..HostFacts::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    // Only to say what changed; one that cannot be read is replaced by what the collector answers.
    let before = HostIdentity::load(&config.identity_dir()).ok().flatten();
    let identity = runtime
        .block_on(enroll_with(&dialer, &token, &config.identity_dir(), facts, &time))
        .context("enrol this host")?;
    if nix::unistd::geteuid().is_root() {
        tell_healer(&arguments.healer_dir, &identity).context("tell the healer whom to trust")?;
    }
    let mut out = std::io::stdout().lock();
    let how = match before.filter(|before| before.host() == identity.host()) {
        Some(_) => "was enrolled already and is kept",
        None => "enrolled",
    };
    writeln!(
        out,
        "{how} as {} in fleet {}; the certificate ends {} and renews itself. Start the agent: systemctl enable --now fleetmend-agent",
        identity.host(),
        identity.fleet(),
        identity.peer().not_after
    )
    .context("print the result")?;
    Ok(ExitCode::SUCCESS)
}

/// The healer's trust anchors are files of root's, written here and never by the running agent.
fn tell_healer(folder: &Path, identity: &HostIdentity) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let bundle = folder.join("trust-bundle.json");
    TrustBundle::write(&bundle, identity.signed_bundle())
        .with_context(|| format!("write {}", bundle.display()))?;
    let host = folder.join("host-id");
    std::fs::write(&host, format!("{}\n", identity.host()))
        .with_context(|| format!("write {}", host.display()))
}

fn read_token(path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(TOKEN_BYTES_MAX)
            .read_to_string(&mut text)
            .context("read the token from standard input")?;
        return Ok(text);
    }
    let bytes = read_secret(path).with_context(|| format!("read the token file {}", path.display()))?;
    let text = std::str::from_utf8(&bytes).context("read the token")?;
    Ok(text.to_owned())
}

/// Asks the running agent how it stands.
pub(crate) fn status(arguments: &StatusArguments) -> Result<ExitCode> {
    let config = AgentConfig::load(&arguments.config.config)?;
    let body = ask(&config.admin_socket, "/status")?;
    let status: Value = serde_json::from_str(&body).context("read the agent's answer")?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{status}").context("print the status")?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value, key: &str| {
        value.get(key).map_or_else(String::new, |value| {
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        })
    };
    writeln!(
        out,
        "host         {}\nfleet        {}",
        text(&status, "host_id"),
        text(&status, "fleet")
    )
    .context("print")?;
    writeln!(
        out,
        "certificate  until {}",
        text(&status, "certificate_not_after")
    )
    .context("print")?;
    let stream = status.get("stream").map_or_else(String::new, stream_in_words);
    writeln!(out, "stream       {stream}").context("print")?;
    let budget = status.get("budget").map_or_else(String::new, budget_in_words);
    writeln!(out, "{budget}").context("print")?;
    writeln!(out, "\nPROBES").context("print")?;
    for probe in list(&status, "probes") {
        let counts = format!(
            "seen {} delivered {} lost {}",
            text(probe, "seen"),
            text(probe, "delivered"),
            text(probe, "lost")
        );
        writeln!(
            out,
            "  {:<22} {:<9} {}  [{counts}]",
            text(probe, "probe"),
            text(probe, "state"),
            text(probe, "reason")
        )
        .context("print")?;
    }
    if let Some(sensor) = status.get("sensor") {
        writeln!(out, "\nSENSOR\n{}", probe_tool::tables(sensor)).context("print")?;
    }
    writeln!(out, "\nMODELS").context("print")?;
    for model in list(&status, "models") {
        writeln!(
            out,
            "  {:<22} {:<9} {}",
            text(model, "model"),
            text(model, "state"),
            text(model, "reason")
        )
        .context("print")?;
    }
    writeln!(out, "\nFINDINGS").context("print")?;
    for finding in list(&status, "findings") {
        writeln!(out, "  {}", finding.as_str().unwrap_or_default()).context("print")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The state of the connection, for a person.
fn stream_in_words(stream: &Value) -> String {
    let text = |key: &str| stream.get(key).and_then(Value::as_str);
    let count = |key: &str| stream.get(key).and_then(Value::as_u64).unwrap_or(0);
    let collector = text("collector").unwrap_or("a collector");
    let phase = match text("phase") {
        Some("connected") => format!("connected to {collector}"),
        Some("connecting") => format!("connecting to {collector}"),
        Some("waiting") => format!("not connected to {collector}, to be tried again"),
        Some("refused") => format!("refused by {collector}, until a person mends it"),
        Some(other) => other.to_owned(),
        None => "not known".to_owned(),
    };
    let since = text("since").map_or_else(String::new, |since| format!(" since {since}"));
    let error = text("last_error").map_or_else(String::new, |error| format!("; last error: {error}"));
    format!(
        "{phase}{since}, {} in flight, {} acknowledged{error}",
        count("frames_in_flight"),
        count("frames_acknowledged")
    )
}

fn list<'a>(status: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    status.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Says something beside the result, on standard error.
pub(crate) fn tell(text: &str) {
    // Where standard error is closed there is nobody to tell.
    if writeln!(std::io::stderr(), "fleetmend-agent: {text}").is_err() {}
}

/// Whether the reader of our output went away, as `head` does: that is no failure.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kinds = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    kinds
        .map(std::io::Error::kind)
        .any(|kind| kind == std::io::ErrorKind::BrokenPipe)
}

/// One GET over a Unix socket. HTTP/1.0: the answer ends with the connection.
pub(crate) fn ask(socket: &Path, path: &str) -> Result<String> {
    exchange(socket, &format!("GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n"))
}

/// One POST of JSON likewise.
pub(crate) fn post(socket: &Path, path: &str, body: &str) -> Result<String> {
    let length = body.len();
    let head = "Host: agent\r\nContent-Type: application/json";
    exchange(
        socket,
        &format!("POST {path} HTTP/1.0\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
}

fn exchange(socket: &Path, request: &str) -> Result<String> {
    let hint = || {
        format!(
            "connect to {}; is the agent running? systemctl status fleetmend-agent",
            socket.display()
        )
    };
    let mut stream = UnixStream::connect(socket).with_context(hint)?;
    stream
        .set_read_timeout(Some(STATUS_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(STATUS_TIMEOUT)))
        .context("set the timeouts")?;
    stream.write_all(request.as_bytes()).context("ask the agent")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("read the agent's answer")?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        Some((head, _)) => bail!("the agent answered {}", head.lines().next().unwrap_or_default()),
        None => bail!("the agent's answer was cut short"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::stream_in_words;

    #[test]
    fn stream_is_told_in_words() {
        let mut stream = json!({
            "phase": "connected", "collector": "c:7443", "since": "2030-01-01T00:00:00Z",
            "last_error": null, "frames_acknowledged": 9, "frames_in_flight": 2,
        });
        let connected = "connected to c:7443 since 2030-01-01T00:00:00Z, 2 in flight, 9 acknowledged";
        assert_eq!(stream_in_words(&stream), connected);
        stream["phase"] = json!("waiting");
        stream["last_error"] = json!("disk full");
        let waiting = stream_in_words(&stream);
        assert!(waiting.starts_with("not connected to c:7443"), "{waiting}");
        assert!(waiting.ends_with("; last error: disk full"), "{waiting}");
    }
}
