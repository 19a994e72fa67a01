//! What the running agent and the healer say.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use agent_heal::Config as HealConfig;
use fleetmend_event::healer::{
    HealerReply, HealerRequest, HealerStatus, PROTOCOL_VERSION, decode_message, encode_message, message_len,
};
use serde_json::Value;

use super::report::{Check, chain};
use crate::command::ask;

/// Where the kernel describes its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Longest wait for the healer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The running agent's status, or why there is none.
pub(super) fn status(socket: &Path) -> io::Result<Value> {
    let body = ask(socket, "/status").map_err(|error| {
        let kind = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<io::Error>())
            .map_or(io::ErrorKind::Other, io::Error::kind);
        io::Error::new(kind, error.root_cause().to_string())
    })?;
    Ok(serde_json::from_str(&body)?)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whether the agent runs.
pub(super) fn agent(socket: &Path, status: &io::Result<Value>) -> Check {
    let name = "agent";
    let shown = socket.display();
    match status {
        Ok(status) => Check::ok(
            name,
            format!("version {} runs and answers at {shown}", text(status, "version")),
        ),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Check::warning(
                name,
                format!("it does not run: nobody answers at {shown}"),
                "systemctl start fleetmend-agent; when it ends again: journalctl -u fleetmend-agent",
            ),
            io::ErrorKind::PermissionDenied => Check::warning(
                name,
                format!("it may not be asked by this user: {shown}"),
                "run this as root, or as the user that the agent runs as",
            ),
            _ => Check::warning(
                name,
                format!("it does not answer at {shown}: {error}"),
                "journalctl -u fleetmend-agent; if it hangs: systemctl restart fleetmend-agent",
            ),
        },
    }
}

/// What the agent says of its stream: the one part of the way that is not tried here.
pub(super) fn stream(status: &io::Result<Value>) -> Check {
    let name = "stream";
    let Some(stream) = status.as_ref().ok().and_then(|status| status.get("stream")) else {
        return Check::skipped(
            name,
            "hello and welcome are not tried, because a second stream of this host would be taken for a clone; the running agent would say how its own stands",
        );
    };
    let (phase, collector, since) = (
        text(stream, "phase"),
        text(stream, "collector"),
        text(stream, "since"),
    );
    let since = since.split_once('.').map_or(since, |(whole, _)| whole);
    let error = text(stream, "last_error");
    match phase {
        "connected" => Check::ok(
            name,
            format!("the running agent is connected to {collector} since {since}Z"),
        ),
        "connecting" if error.is_empty() => {
            Check::warning(name, "the running agent is connecting", "look again in a moment")
        }
        "refused" => Check::failed(
            name,
            format!("the running agent was refused by {collector} and waits: {error}"),
            "mend what the lines above say; then, to try at once: systemctl restart fleetmend-agent",
        ),
        _ => Check::failed(
            name,
            format!("the running agent is not connected ({phase}): {error}"),
            "it tries again by itself, and the spool keeps everything meanwhile; the lines above say what is in the way",
        ),
    }
}

/// Whether the kernel lets the agent look.
pub(super) fn kernel(status: &io::Result<Value>) -> Check {
    let name = "kernel";
    let Ok(status) = status else {
        let seen = if Path::new(BTF).exists() {
            "the kernel describes its types (BTF); whether probes load is known to a running agent"
        } else {
            "there is no /sys/kernel/btf/vmlinux: kernel events need a kernel with CONFIG_DEBUG_INFO_BTF"
        };
        return Check::skipped(name, seen);
    };
    let probes = status
        .get("probes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let probes: Vec<&Value> = probes
        .filter(|probe| text(probe, "probe").starts_with("bpf"))
        .collect();
    let real = probes
        .iter()
        .filter(|probe| text(probe, "state") == "REAL")
        .count();
    let bad = |state: &str| probes.iter().find(|probe| text(probe, "state") == state);
    let words = |probe: &Value| format!("{}: {}", text(probe, "probe"), text(probe, "reason"));
    let hint = |probe: &Value| match text(probe, "hint") {
        "" => "fleetmend-agent status shows every probe".to_owned(),
        hint => hint.to_owned(),
    };
    if let Some(probe) = bad("BROKEN") {
        return Check::failed(
            name,
            format!("{real} of {} probes work; {}", probes.len(), words(probe)),
            hint(probe),
        );
    }
    if let Some(probe) = bad("DEGRADED") {
        return Check::warning(
            name,
            format!("{real} of {} probes work in full; {}", probes.len(), words(probe)),
            hint(probe),
        );
    }
    if probes.is_empty() {
        return Check::warning(
            name,
            "no probe of the kernel has reported yet",
            "look again in a minute; section bpf of the configuration may have turned them off",
        );
    }
    Check::ok(name, format!("BTF and BPF are there: all {real} probes work"))
}

/// Whether the healer answers.
pub(super) fn healer(config: &HealConfig) -> Check {
    let name = "healer";
    let shown = config.socket.display();
    match greet(&config.socket) {
        Ok(HealerReply::Status(status)) => greeted(&status),
        Ok(HealerReply::Refused { reason }) => Check::failed(
            name,
            format!("{shown} refuses: {reason}"),
            "run this as root or as the agent's user; see the users that /etc/fleetmend/healer.toml lets in",
        ),
        Ok(_) => Check::failed(
            name,
            format!("{shown} does not greet"),
            "another program serves that socket: lsof it",
        ),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Check::warning(
                name,
                format!(
                    "there is none: {shown} is not there; findings are reported, and nothing is repaired"
                ),
                "systemctl enable --now fleetmend-healer, if repairs are wanted",
            ),
            io::ErrorKind::ConnectionRefused => Check::failed(
                name,
                format!("{shown} is there, and nobody serves it"),
                "systemctl restart fleetmend-healer; journalctl -u fleetmend-healer",
            ),
            io::ErrorKind::PermissionDenied => Check::warning(
                name,
                format!("{shown} may not be used by this user"),
                "run this as root, or as the user that the agent runs as",
            ),
            _ => Check::failed(
                name,
                format!("{shown}: {}", chain(&error)),
                "journalctl -u fleetmend-healer; healer and agent have to be of matching versions",
            ),
        },
    }
}

fn greeted(status: &HealerStatus) -> Check {
    let name = "healer";
    let able = status.remedies.iter().filter(|remedy| remedy.applicable).count();
    let policy = match status.policy_version {
        0 => "no policy".to_owned(),
        version => format!("policy version {version}"),
    };
    let seen = format!(
        "version {}, mode {}, {policy}, {able} of {} remedies can be carried out here",
        status.version,
        status.mode,
        status.remedies.len()
    );
    if status.stopped {
        let next = "when it is to act again, as root: fleetmend-healer resume";
        return Check::warning(name, format!("{seen}; all acting is stopped"), next);
    }
    Check::ok(name, seen)
}

fn greet(socket: &Path) -> io::Result<HealerReply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let hello = encode_message(&HealerRequest::Hello {
        protocol: PROTOCOL_VERSION,
    });
    // Whoever we turned out to be may have been told before we said a word.
    let said = stream.write_all(&hello.map_err(io::Error::other)?);
    let mut prefix = [0; 4];
    if let Err(error) = stream.read_exact(&mut prefix) {
        return Err(said.err().unwrap_or(error));
    }
    let mut body = vec![0; message_len(prefix).map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    decode_message(&body).map_err(io::Error::other)
}
