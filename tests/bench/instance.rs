//! A collector, a healer and an enrolled agent in a folder that is deleted afterwards.
//!
//! The programs are those of `FLEETMEND_BIN_DIR`, with their own defaults but for paths and ports. The agent runs
//! as a user of its own with the capabilities of its unit. Everything has a death signal.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use crate::child::Program;
use crate::http;
use crate::report::progress;

/// User and group of the agent: a number that Debian gives to nobody.
const AGENT_UID: &str = "64990";
/// Capabilities the agent starts with, and their bits; it gives up those it needs only to load the probes. Beside those
/// of its unit the one that lifts the limit of locked memory, as the unit's `LimitMEMLOCK` does.
const AGENT_CAPABILITIES: [(&str, u32); 6] = [
    ("dac_read_search", 2),
    ("net_admin", 12),
    ("sys_ptrace", 19),
    ("sys_resource", 24),
    ("perfmon", 38),
    ("bpf", 39),
];
/// Where systemd mounts tracefs at the boot.
const TRACEFS_EVENTS: &str = "/sys/kernel/tracing/events";
/// For a shell that then becomes the program.
const MOUNT_TRACEFS: &str = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec \"$@\"";
/// How long a program has to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A fleet of one collector.
pub(crate) struct Instance {
    folder: TempDir,
    bin: PathBuf,
    source: PathBuf,
    onnxruntime: PathBuf,
    api_port: u16,
    carrier_port: u16,
    enrolment_port: u16,
    user: String,
    password: String,
    root: bool,
    /// Dropped in this order: what depends on others first.
    agent: Option<Program>,
    healer: Option<Program>,
    collector: Option<Program>,
}

impl Instance {
    /// Makes the folder and starts the collector.
    pub(crate) fn start() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .with_context(|| format!("find {name}: start this through cargo xtask bench"))
        };
        let folder = tempfile::Builder::new()
            .prefix("fleetmend-bench-")
            .tempdir()
            .context("make a folder")?;
        // The agent's user has to reach its own part.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
            .context("open the folder to the agent")?;
        let [api_port, carrier_port, enrolment_port] = free_ports()?;
        let mut instance = Self {
            folder,
            bin: variable("FLEETMEND_BIN_DIR")?,
            source: variable("FLEETMEND_SOURCE_DIR")?,
            onnxruntime: variable("FLEETMEND_ONNXRUNTIME")?,
            api_port,
            carrier_port,
            enrolment_port,
            user: String::new(),
            password: String::new(),
            root: nix::unistd::geteuid().is_root(),
            agent: None,
            healer: None,
            collector: None,
        };
        for name in [
            "collector",
            "agent",
            "healer",
            "run",
            "run/healer",
            "run/agent",
            "agent.d",
        ] {
            let path = instance.path(name);
            std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        }
        instance.write("collector.toml", &instance.collector_toml())?;
        instance.write("agent.toml", &instance.agent_toml())?;
        instance.write("healer.toml", &instance.healer_toml())?;
        instance.start_collector()?;
        Ok(instance)
    }

    /// A path in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Address of the listener for agents.
    pub(crate) fn carrier(&self) -> String {
        format!("localhost:{}", self.carrier_port)
    }

    /// Writes a file of its folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn collector_toml(&self) -> String {
        let folder = self.folder.path().display();
        let (api, carrier, enrolment) = (self.api_port, self.carrier_port, self.enrolment_port);
        format!(
            "state_dir = \"{folder}/collector\"\ncarrier_listen = \"127.0.0.1:{carrier}\"\n\
             enrolment_listen = \"127.0.0.1:{enrolment}\"\n\n\
             [enrolment]\naddress = \"localhost:{enrolment}\"\ncollectors = [\"localhost:{carrier}\"]\n\n\
             [store]\nfolder = \"{folder}/collector/store\"\n\n\
             [api]\nlisten = \"127.0.0.1:{api}\"\nquery_timeout_ms = 60000\n"
        )
    }

    fn agent_toml(&self) -> String {
        let (folder, source) = (self.folder.path().display(), self.source.display());
        let (api, library) = (self.api_port, self.onnxruntime.display());
        format!(
            "state_dir = \"{folder}/agent\"\nadmin_socket = \"{folder}/run/agent/admin.sock\"\n\n\
             [[collect.sites]]\nname = \"dashboard\"\nurl = \"http://127.0.0.1:{api}/\"\ninterval_s = 10\ntimeout_ms = 2000\n\n\
             [detect]\nrule_dirs = [\"{source}/agent/detect/rules\"]\n\n\
             [detect.anomaly]\nmodel_dir = \"{source}/models/host-anomaly\"\nonnxruntime = \"{library}\"\n\
             state_file = \"{folder}/agent/host-anomaly.state\"\nwarmup_s = 20\n\n\
             [heal]\nsocket = \"{folder}/run/healer/healer.sock\"\ncursor_file = \"{folder}/agent/heal-cursor\"\n\n\
             [spool]\nfolder = \"{folder}/agent/spool\"\n"
        )
    }

    fn healer_toml(&self) -> String {
        let folder = self.folder.path().display();
        let uid = if self.root { AGENT_UID } else { "0" };
        format!(
            "socket = \"{folder}/run/healer/healer.sock\"\nsocket_group = \"{uid}\"\nallowed_users = []\n\
             allowed_uids = [0, {uid}]\nstate_dir = \"{folder}/healer\"\n\
             trust_bundle = \"{folder}/healer-trust-bundle.json\"\nhost_file = \"{folder}/healer-host-id\"\n"
        )
    }

    /// A program with a death signal; the agent as its own user, and with tracefs where nobody mounted it: its probes
    /// at calls need that.
    fn command(&self, name: &str, own_user: bool) -> Command {
        let mut command = if own_user && self.root && !Path::new(TRACEFS_EVENTS).exists() {
            let mut apart = Command::new("unshare");
            apart.args([
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-c",
                MOUNT_TRACEFS,
                "sh",
                "setpriv",
            ]);
            apart
        } else {
            Command::new("setpriv")
        };
        command.args(["--pdeathsig", "TERM"]);
        if own_user && self.root {
            command.args(["--reuid", AGENT_UID, "--regid", AGENT_UID, "--clear-groups"]);
            let capabilities = agent_capabilities();
            command.args(["--inh-caps", &capabilities, "--ambient-caps", &capabilities]);
        }
        command.arg(self.bin.join(name));
        command
    }

    fn start_collector(&mut self) -> Result<()> {
        progress("start the collector");
        let config = self.path("collector.toml");
        let mut init = self.command("fleetmend-collector", false);
        init.args(["init", "--json", "--fleet", "bench", "--config"])
            .arg(&config);
        let made: Value = serde_json::from_str(&output(&mut init)?).context("read what init said")?;
        let text = |key: &str| {
            let value = made.get(key).and_then(Value::as_str);
            value
                .map(str::to_owned)
                .with_context(|| format!("find {key} in what init said"))
        };
        (self.user, self.password) = (text("user")?, text("password")?);
        self.run_collector()
    }

    /// Starts the collector of this fleet, for the first time or again, and waits until it is ready.
    pub(crate) fn run_collector(&mut self) -> Result<()> {
        let mut run = self.command("fleetmend-collector", false);
        run.args(["run", "--config"]).arg(self.path("collector.toml"));
        let mut collector = Program::start("the collector", &mut run, self.path("collector.log"))?;
        let port = self.api_port;
        collector.wait_until(READY_WITHIN, || http::get_loopback(port, "/readyz").is_ok())?;
        self.collector = Some(collector);
        Ok(())
    }

    /// A session of the administrator.
    pub(crate) async fn api(&self) -> Result<Api> {
        let url = format!("http://127.0.0.1:{}", self.api_port);
        Api::login(&url, &self.user, &self.password).await
    }

    /// Enrols the agent through the program itself, and tells the healer whom to trust.
    pub(crate) fn enrol(&mut self) -> Result<()> {
        use std::io::Write as _;
        progress("enrol the agent");
        if self.root {
            for name in ["agent", "run/agent"] {
                chown(&self.path(name))?;
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        let token = runtime.block_on(async { self.api().await?.enrolment_token(1).await })?;
        let mut enroll = self.command("fleetmend-agent", true);
        enroll.args(["enroll", "--config"]).arg(self.path("agent.toml"));
        let mut child = enroll
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the enrolment")?;
        let mut input = child.stdin.take().context("open the enrolment's input")?;
        input.write_all(token.as_bytes()).context("pass the token")?;
        drop(input);
        let done = child.wait_with_output().context("wait for the enrolment")?;
        anyhow::ensure!(done.status.success(), "the enrolment ended with {}", done.status);
        let said = String::from_utf8_lossy(&done.stdout);
        let host = said
            .split_whitespace()
            .nth(2)
            .context("read the host id from the enrolment")?;
        self.write("healer-host-id", host)?;
        let bundle = self.path("collector/authority/trust-bundle.json");
        std::fs::copy(&bundle, self.path("healer-trust-bundle.json"))
            .with_context(|| format!("copy {}", bundle.display()))?;
        Ok(())
    }

    /// Starts the healer.
    pub(crate) fn start_healer(&mut self) -> Result<()> {
        progress("start the healer");
        let mut run = self.command("fleetmend-healer", false);
        run.args(["run", "--config"]).arg(self.path("healer.toml"));
        let mut healer = Program::start("the healer", &mut run, self.path("healer.log"))?;
        let socket = self.path("run/healer/healer.sock");
        healer.wait_until(READY_WITHIN, || socket.exists())?;
        self.healer = Some(healer);
        Ok(())
    }

    /// Starts the agent and waits until it answers and its BPF probes have said how they stand.
    pub(crate) fn start_agent(&mut self) -> Result<u32> {
        let mut run = self.command("fleetmend-agent", true);
        run.args(["run", "--config"]).arg(self.path("agent.toml"));
        let mut agent = Program::start("the agent", &mut run, self.path("agent.log"))?;
        agent.wait_until(READY_WITHIN, || {
            self.status().is_ok_and(|status| {
                ["bpf.process", "bpf.network"]
                    .iter()
                    .all(|probe| probe_of(&status, probe).is_some())
            })
        })?;
        let pid = agent.pid();
        self.agent = Some(agent);
        Ok(pid)
    }

    /// Starts the agent when it does not run, and makes sure that its probes do.
    pub(crate) fn start_agent_if_stopped(&mut self) -> Result<()> {
        if self.agent.is_none() {
            self.start_agent()?;
            self.require_probes()?;
        }
        Ok(())
    }

    /// Ends the agent in order.
    pub(crate) fn stop_agent(&mut self) {
        drop(self.agent.take());
    }

    /// Ends the collector in order.
    pub(crate) fn stop_collector(&mut self) {
        drop(self.collector.take());
    }

    /// Process id of the agent.
    pub(crate) fn agent_pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("find the agent")?.pid())
    }

    /// Process id of the collector.
    pub(crate) fn collector_pid(&self) -> Result<u32> {
        let collector = self.collector.as_ref();
        Ok(collector.context("find the collector")?.pid())
    }

    /// Process id of the healer.
    pub(crate) fn healer_pid(&self) -> Result<u32> {
        Ok(self.healer.as_ref().context("find the healer")?.pid())
    }

    /// What the agent says of itself.
    pub(crate) fn status(&self) -> Result<Value> {
        let body = http::get_unix(&self.path("run/agent/admin.sock"), "/status")?;
        serde_json::from_str(&body).context("read the agent's status")
    }

    /// The state of every probe in the kernel, for the conditions of a figure.
    pub(crate) fn probe_states(&self) -> Result<Value> {
        let status = self.status()?;
        let probes = status
            .get("probes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let states = probes.filter_map(|probe| {
            let name = probe.get("probe")?.as_str()?.strip_prefix("bpf.")?;
            Some((name.to_owned(), probe.get("state")?.clone()))
        });
        Ok(Value::Object(states.collect()))
    }

    /// What the families of the sensor shed now, one line for each family that sheds.
    pub(crate) fn shedding(&self) -> Result<Vec<String>> {
        let status = self.status()?;
        let families = status
            .get("sensor")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let shed = families.filter_map(|row| {
            let what = row.get("shedding")?.as_array().filter(|what| !what.is_empty())?;
            Some(format!("{}: {}", row.get("family")?, Value::from(what.clone())))
        });
        Ok(shed.collect())
    }

    /// Fails when a BPF probe does not run: a figure without it would flatter. Some families cannot keep all of their
    /// promise on every kernel, but none may be without any.
    pub(crate) fn require_probes(&self) -> Result<()> {
        let status = self.status()?;
        for name in ["bpf.process", "bpf.network"] {
            let state = probe_of(&status, name).and_then(|probe| probe.get("state")?.as_str());
            let reason = probe_of(&status, name).and_then(|probe| probe.get("reason")?.as_str());
            anyhow::ensure!(
                state == Some("REAL"),
                "probe {name} is {}: {}",
                state.unwrap_or("missing"),
                reason.unwrap_or_default()
            );
        }
        let states = self.probe_states()?;
        anyhow::ensure!(
            !states.to_string().contains("BROKEN"),
            "a family of probes does not run: {states}"
        );
        Ok(())
    }
}

/// The row of a probe in the agent's status.
pub(crate) fn probe_of<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let probes = status.get("probes")?.as_array()?;
    probes
        .iter()
        .find(|probe| probe.get("probe").and_then(Value::as_str) == Some(name))
}

/// The agent's capabilities as far as we have them to give: a container may hold some back, and the agent says what
/// it misses.
fn agent_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .unwrap_or(0)
    };
    let ours = held("CapPrm:") & held("CapBnd:");
    AGENT_CAPABILITIES
        .iter()
        .filter(|(_, bit)| ours >> bit & 1 == 1)
        .fold("-all".to_owned(), |list, (name, _)| format!("{list},+{name}"))
}

fn chown(path: &Path) -> Result<()> {
    let id: u32 = AGENT_UID.parse().context("read the agent's user id")?;
    std::os::unix::fs::chown(path, Some(id), Some(id))
        .with_context(|| format!("give away {}", path.display()))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ports that were free a moment ago; all are held until all are known, so that they differ.
fn free_ports() -> Result<[u16; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port");
    let port =
        |listener: &TcpListener| Ok::<_, anyhow::Error>(listener.local_addr().context("read a port")?.port());
    let listeners = [listen()?, listen()?, listen()?];
    let [first, second, third] = &listeners;
    Ok([port(first)?, port(second)?, port(third)?])
}
