//! The instance: its folder, its ports, its configuration files and its commands.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::children::Program;
use super::without_password;
use crate::layout::{self, Profile};
use crate::step::{command, output, run};
use crate::{ports, setup};

/// User and group of the agent here: a number that Debian gives to nobody.
pub(super) const AGENT_UID: &str = "64990";
/// Capabilities the agent starts with; it gives up those it needs only to load the probes.
const AGENT_CAPABILITIES: &str = "-all,+sys_ptrace,+dac_read_search,+bpf,+perfmon";
/// Control group of the demonstration: the only one in which the policy lets processes be throttled.
const DEMO_CGROUP: &str = "/fleetmend-demo";
/// Size of the demonstration's filesystem.
const DEMO_DISK: &str = "64m";

struct Ports {
    api: u16,
    carrier: u16,
    enrolment: u16,
    site: u16,
    resolver: u16,
    webhook: u16,
}

/// One instance of `up`.
pub(super) struct Instance {
    /// Folder of all state.
    pub(super) state: PathBuf,
    /// Profile of its programs.
    pub(super) profile: Profile,
    ports: Ports,
    observe_only: bool,
    root: bool,
}

impl Instance {
    /// Makes the folder and writes every configuration file.
    pub(super) fn prepare(state: &Path, profile: Profile, observe_only: bool) -> Result<Self> {
        clean_up(state);
        for folder in [
            "",
            "collector",
            "agent",
            "healer",
            "run",
            "run/healer",
            "run/agent",
            "logs",
            "demo-disk",
        ] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(state.join(folder))
                .with_context(|| format!("create {}", state.join(folder).display()))?;
        }
        let ports = Ports {
            api: ports::choose(7780)?,
            carrier: ports::choose(7444)?,
            enrolment: ports::choose(7443)?,
            site: ports::choose(7781)?,
            resolver: ports::choose(7782)?,
            webhook: ports::choose(7783)?,
        };
        let instance = Self {
            state: state.to_owned(),
            profile,
            ports,
            observe_only,
            root: setup::is_root(),
        };
        if !state.join("webhook-secret").exists() {
            let secret = output(&mut command(
                "sh",
                &["-c", "head -c 32 /dev/urandom | sha256sum | cut -c1-48"],
            ))?;
            instance.write("webhook-secret", &secret)?;
            instance.restrict("webhook-secret")?;
        }
        instance.write("collector.toml", &instance.collector_toml()?)?;
        instance.restrict("collector.toml")?;
        instance.write("agent.toml", &instance.agent_toml()?)?;
        instance.write("healer.toml", &instance.healer_toml())?;
        if instance.root {
            let disk = state.join("demo-disk");
            let mut mount = command(
                "mount",
                &[
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={DEMO_DISK},mode=0755"),
                    "fleetmend-demo",
                ],
            );
            run(mount.arg(&disk)).context("mount the demonstration's filesystem")?;
            for folder in ["agent", "run/agent"] {
                run(command("chown", &["-R", &format!("{AGENT_UID}:{AGENT_UID}")]).arg(state.join(folder)))?;
            }
        }
        Ok(instance)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.state.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn restrict(&self, name: &str) -> Result<()> {
        let path = self.state.join(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("protect {}", path.display()))
    }

    fn collector_toml(&self) -> Result<String> {
        let (state, ports) = (self.state.display(), &self.ports);
        Ok(format!(
            "state_dir = \"{state}/collector\"\n\
             carrier_listen = \"127.0.0.1:{carrier}\"\n\
             enrolment_listen = \"127.0.0.1:{enrolment}\"\n\n\
             [enrolment]\naddress = \"localhost:{enrolment}\"\ncollectors = [\"localhost:{carrier}\"]\n\n\
             [store]\nfolder = \"{state}/collector/store\"\n\n\
             [api]\nlisten = \"127.0.0.1:{api}\"\n\n\
             [[alert.receivers]]\nname = \"demonstration\"\nurl = \"http://127.0.0.1:{webhook}/alerts\"\nsecret = \"{secret}\"\n",
            secret = self.webhook_secret()?,
            carrier = ports.carrier,
            enrolment = ports.enrolment,
            api = ports.api,
            webhook = ports.webhook,
        ))
    }

    fn webhook_secret(&self) -> Result<String> {
        let path = self.state.join("webhook-secret");
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn agent_toml(&self) -> Result<String> {
        let (state, ports, source) = (self.state.display(), &self.ports, layout::root());
        let library = setup::onnxruntime()?;
        Ok(format!(
            "state_dir = \"{state}/agent\"\nadmin_socket = \"{state}/run/agent/admin.sock\"\n\n\
             [collect]\nresolver = \"127.0.0.1:{resolver}\"\n\n\
             [[collect.sites]]\nname = \"demo-shop\"\nurl = \"http://127.0.0.1:{site}/\"\ninterval_s = 5\ntimeout_ms = 2000\n\n\
             [[collect.sites]]\nname = \"demo-named\"\nurl = \"http://shop.demo.test:{site}/\"\ninterval_s = 5\ntimeout_ms = 2000\n\n\
             [detect]\nrule_dirs = [\"{source}/agent/detect/rules\"]\n\n\
             [detect.limits]\nprocess_cpu_for_s = 10\n\n\
             [detect.anomaly]\nmodel_dir = \"{source}/models/host-anomaly\"\nonnxruntime = \"{library}\"\nstate_file = \"{state}/agent/host-anomaly.state\"\nwarmup_s = 120\n\n\
             [heal]\nsocket = \"{state}/run/healer/healer.sock\"\ncursor_file = \"{state}/agent/heal-cursor\"\n\n\
             [spool]\nfolder = \"{state}/agent/spool\"\nmetrics_flush = \"2s\"\n",
            resolver = ports.resolver,
            site = ports.site,
            source = source.display(),
            library = library.display(),
        ))
    }

    fn healer_toml(&self) -> String {
        let state = self.state.display();
        let uid = if self.root { AGENT_UID } else { "0" };
        format!(
            "socket = \"{state}/run/healer/healer.sock\"\nsocket_group = \"{uid}\"\nallowed_users = []\nallowed_uids = [0, {uid}]\n\
             state_dir = \"{state}/healer\"\ntrust_bundle = \"{state}/healer-trust-bundle.json\"\nhost_file = \"{state}/healer-host-id\"\n"
        )
    }

    /// Address of the API.
    pub(super) fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.api)
    }

    /// Socket of the healer.
    pub(super) fn healer_socket(&self) -> PathBuf {
        self.state.join("run/healer/healer.sock")
    }

    /// Socket of the agent.
    pub(super) fn agent_socket(&self) -> PathBuf {
        self.state.join("run/agent/admin.sock")
    }

    /// File to source for the command line.
    pub(super) fn env_file(&self) -> PathBuf {
        self.state.join("env")
    }

    fn binary(&self, name: &str) -> Command {
        Command::new(layout::binary(self.profile, name))
    }

    /// `program` with a death signal; when `agent`, as the agent's user with its capabilities.
    fn guarded(&self, program: &str, agent: bool) -> Command {
        // systemd mounts tracefs at the boot; where it did not, the agent alone sees it: its probes at calls need it.
        let without_tracefs =
            agent && self.root && !std::path::Path::new("/sys/kernel/tracing/events").exists();
        let mut guarded = if without_tracefs {
            let mount = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec \"$@\"";
            let mut apart = command(
                "unshare",
                &["--mount", "--propagation", "slave", "sh", "-c", mount, "sh"],
            );
            apart.args(["setpriv", "--pdeathsig", "TERM"]);
            apart
        } else {
            command("setpriv", &["--pdeathsig", "TERM"])
        };
        if agent && self.root {
            guarded.args(["--reuid", AGENT_UID, "--regid", AGENT_UID, "--clear-groups"]);
            guarded.args([
                "--inh-caps",
                AGENT_CAPABILITIES,
                "--ambient-caps",
                AGENT_CAPABILITIES,
            ]);
        }
        guarded.arg(program);
        guarded
    }

    fn program(&self, name: &str, agent: bool, arguments: &[&str], config: &str) -> Program {
        let mut program = self.guarded(
            layout::binary(self.profile, name).to_string_lossy().as_ref(),
            agent,
        );
        program
            .args(arguments)
            .arg("--config")
            .arg(self.state.join(config));
        Program {
            command: program,
            log: self.state.join(format!("logs/{name}.log")),
        }
    }

    /// Makes the fleet, once, and keeps the first password where only its owner reads it.
    pub(super) fn init_collector(&self) -> Result<()> {
        let mut init = self.binary("fleetmend-collector");
        init.args(["init", "--json", "--fleet", "demo"])
            .arg("--config")
            .arg(self.state.join("collector.toml"));
        let made: Value = serde_json::from_str(&output(&mut init).context("make the fleet")?)
            .context("read what init said")?;
        if made.get("password").is_some_and(Value::is_string) {
            self.write(
                "login.json",
                &json!({"user": field(&made, "user"), "password": field(&made, "password")}).to_string(),
            )?;
            self.restrict("login.json")?;
        }
        Ok(())
    }

    /// The collector.
    pub(super) fn collector(&self) -> Program {
        self.program("fleetmend-collector", false, &["run"], "collector.toml")
    }

    /// The healer.
    pub(super) fn healer(&self) -> Program {
        self.program("fleetmend-healer", false, &["run"], "healer.toml")
    }

    /// The agent.
    pub(super) fn agent(&self) -> Program {
        self.program("fleetmend-agent", true, &["run"], "agent.toml")
    }

    /// The demonstration's site, resolver and alert receiver.
    pub(super) fn demonstration(&self) -> Vec<(&'static str, Program)> {
        let script = |name: &str, arguments: &[String]| {
            let mut command = self.guarded("python3", false);
            command
                .arg(layout::root().join("tests/demo").join(format!("{name}.py")))
                .args(arguments);
            Program {
                command,
                log: self.state.join(format!("logs/{name}.log")),
            }
        };
        let path = |name: &str| self.state.join(name).to_string_lossy().into_owned();
        vec![
            ("site", script("site", &[self.ports.site.to_string()])),
            ("resolver", script("resolver", &[self.ports.resolver.to_string()])),
            (
                "webhook",
                script(
                    "webhook",
                    &[
                        self.ports.webhook.to_string(),
                        path("webhook-secret"),
                        path("alerts.jsonl"),
                    ],
                ),
            ),
        ]
    }

    /// Enrols the agent, once, and tells the healer whom to trust.
    pub(super) fn enrol(&self) -> Result<()> {
        let identity = self.state.join("agent/identity");
        if !identity.join("host.json").exists() && !identity_is_complete(&identity) {
            let mut create =
                self.cli(&["token", "create", "--lifetime-s", "600", "--uses", "1", "--json"])?;
            let made: Value = serde_json::from_str(&output(&mut create).context("make an enrolment token")?)
                .context("read the enrolment token")?;
            let token = made
                .get("token")
                .and_then(Value::as_str)
                .context("find the token in the answer")?
                .to_owned();
            let mut enroll = self.guarded(
                layout::binary(self.profile, "fleetmend-agent")
                    .to_string_lossy()
                    .as_ref(),
                true,
            );
            enroll
                .arg("enroll")
                .arg("--config")
                .arg(self.state.join("agent.toml"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut child = enroll.spawn().context("start the enrolment")?;
            child
                .stdin
                .take()
                .context("open the enrolment's input")?
                .write_all(token.as_bytes())
                .context("pass the token")?;
            let done = child.wait_with_output().context("wait for the enrolment")?;
            anyhow::ensure!(done.status.success(), "the enrolment ended with {}", done.status);
            let said = String::from_utf8_lossy(&done.stdout);
            let host = said
                .split_whitespace()
                .nth(2)
                .context("read the host id from the enrolment")?
                .to_owned();
            self.write("healer-host-id", &host)?;
        }
        let bundle = self.state.join("collector/authority/trust-bundle.json");
        std::fs::copy(&bundle, self.state.join("healer-trust-bundle.json"))
            .with_context(|| format!("copy {}", bundle.display()))?;
        Ok(())
    }

    /// The command line with the administrator's login.
    pub(super) fn cli(&self, arguments: &[&str]) -> Result<Command> {
        let login = self.login()?;
        let mut cli = self.binary("fleetmend");
        cli.args(arguments).env("FLEETMEND_URL", self.api_url());
        for (variable, key) in [("FLEETMEND_USER", "user"), ("FLEETMEND_PASSWORD", "password")] {
            cli.env(
                variable,
                login.get(key).and_then(Value::as_str).unwrap_or_default(),
            );
        }
        Ok(cli)
    }

    fn login(&self) -> Result<Value> {
        let path = self.state.join("login.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Signs the policy of the demonstration with the throw-away root. Its version grows with every start.
    pub(super) fn sign_policy(&self) -> Result<()> {
        self.write(
            "policy.json",
            &serde_json::to_string_pretty(&self.policy()?).context("write the policy")?,
        )?;
        let mut sign = self.binary("fleetmend");
        sign.args(["policy", "sign", "--root"])
            .arg(self.state.join("collector/root"));
        sign.arg("--to")
            .arg(self.state.join("policy.signed.json"))
            .arg(self.state.join("policy.json"));
        run(&mut sign).context("sign the policy")
    }

    fn policy(&self) -> Result<Value> {
        let now = output(&mut command("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))?;
        let end = output(&mut command(
            "date",
            &["--utc", "--date", "+30 days", "+%Y-%m-%dT%H:%M:%SZ"],
        ))?;
        let version: u64 = output(&mut command("date", &["+%s"]))?
            .parse()
            .context("read the clock")?;
        let limits = |verify_s: u32| json!({"cooldown_s": 5, "attempts_max": 20, "attempts_window_s": 600, "verify_deadline_s": verify_s});
        let scope = json!({"cgroup_prefixes": [DEMO_CGROUP], "executables": [], "cpu_core_pct_min": 50});
        let place = json!({"path": self.state.join("demo-disk"), "patterns": ["*.log", "*.tmp"], "depth_max": 2,
            "age_s_min": 0, "keep_newest": 0, "bytes_max": 67_108_864});
        Ok(json!({
            "format": 1, "version": version, "issued_at": now, "not_after": end,
            "scope": {"kind": "fleet", "fleet": "demo"},
            "mode": if self.observe_only { "observe" } else { "enforce" },
            "actions_per_hour_max": 60,
            "breaker": {"failures": 5, "window_s": 600, "open_s": 60},
            "grants": [
                {"remedy": "throttle-process", "scope": scope, "cpu_core_pct_floor": 5, "hold_s": 60, "limits": limits(20)},
                {"remedy": "free-disk", "places": [place], "used_pct_min": 80, "used_pct_floor": 10,
                 "irreversible_allowed": true, "limits": limits(20)},
            ],
        }))
    }

    /// Gives the signed policy to the running healer.
    pub(super) fn install_policy(&self) -> Result<()> {
        let mut install = self.binary("fleetmend-healer");
        install
            .arg("--config")
            .arg(self.state.join("healer.toml"))
            .args(["policy", "install"])
            .arg(self.state.join("policy.signed.json"));
        run(&mut install).context("install the policy")
    }

    /// What scripts need.
    pub(super) fn summary(&self) -> Result<Value> {
        let login = self.login()?;
        Ok(json!({
            "api_url": self.api_url(),
            "dashboard_url": self.api_url(),
            "user": field(&login, "user"),
            "password": field(&login, "password"),
            "state": self.state,
            "env": {
                "FLEETMEND_URL": self.api_url(),
                "FLEETMEND_USER": field(&login, "user"),
                "FLEETMEND_PASSWORD": field(&login, "password"),
                "PATH": format!("{}:{}", layout::target().join(self.profile.folder()).display(), std::env::var("PATH").unwrap_or_default()),
            },
        }))
    }

    /// Writes `up.json` for the labs and `env` for shells.
    pub(super) fn record(&self, pids: &Value) -> Result<()> {
        let summary = self.summary()?;
        let env = summary
            .get("env")
            .and_then(Value::as_object)
            .context("make the environment")?;
        let lines: String = env
            .iter()
            .map(|(key, value)| format!("export {key}='{}'\n", value.as_str().unwrap_or_default()))
            .collect();
        self.write("env", &lines)?;
        self.restrict("env")?;
        let mut record = without_password(summary);
        if let Some(record) = record.as_object_mut() {
            record.remove("env");
            record.insert("pids".to_owned(), pids.clone());
            record.insert("demo_cgroup".to_owned(), json!(DEMO_CGROUP));
            record.insert("demo_disk".to_owned(), json!(self.state.join("demo-disk")));
            record.insert("alerts_file".to_owned(), json!(self.state.join("alerts.jsonl")));
            record.insert("login_file".to_owned(), json!(self.state.join("login.json")));
            record.insert("site_interval_s".to_owned(), json!(5));
            record.insert("observe_only".to_owned(), json!(self.observe_only));
        }
        self.write(
            "up.json",
            &serde_json::to_string_pretty(&record).context("write up.json")?,
        )
    }
}

/// A member of an object; null when there is none.
fn field(value: &Value, key: &str) -> Value {
    value.get(key).cloned().unwrap_or(Value::Null)
}

fn identity_is_complete(identity: &Path) -> bool {
    std::fs::read_dir(identity).is_ok_and(|entries| entries.count() > 1)
}

/// Takes away what an instance left outside its folder: its filesystem, its control group, its record.
pub(super) fn clean_up(state: &Path) {
    let disk = state.join("demo-disk");
    command("umount", &["--quiet"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status()
        .ok();
    for controller in ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        std::fs::remove_dir(format!("{controller}{DEMO_CGROUP}")).ok();
    }
    std::fs::remove_file(state.join("up.json")).ok();
}
