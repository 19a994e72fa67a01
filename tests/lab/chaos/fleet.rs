//! The agents' side: processes that can be killed, a fault proxy before each agent, disks and clocks of their own.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_stream::enrol::{HostFacts, enroll};
use agent_stream::network::Dialer;
use anyhow::{Context, Result, bail, ensure};
use fleetmend_event::HostId;
use fleetmend_identity::{EnrolmentToken, TrustedTime};
use fleetmend_testkit::FaultProxy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::agent::{AgentPlan, ProcessPlan, ready_file};
use super::clock::Shim;
use super::disk::Disk;

/// Agents in one process at most.
const AGENTS_PER_PROCESS: usize = 10;
/// Events of an agent in a tenth of a second.
const EVENTS_PER_TICK: u64 = 2;
/// Bytes of noise that fill a spool within seconds.
const NOISE_BYTES: usize = 16 * 1024;
/// The small spool's quota.
const SMALL_QUOTA_MIB: u64 = 1;
/// Acknowledged segments are kept for so long.
const RETENTION_S: u64 = 300;
/// Time to start, to end in order, and to deliver everything.
const READY_WITHIN: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const DELIVER_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const TAIL_BYTES: usize = 2_000;

/// One agent, as the lab knows it.
pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) plan: AgentPlan,
    pub(super) proxy: FaultProxy,
}

/// A process with agents.
pub(super) struct Process {
    folder: PathBuf,
    plan: ProcessPlan,
    child: Option<Child>,
    shim: Option<Arc<Shim>>,
    other_boot: bool,
}

/// All of them.
pub(super) struct Fleet {
    pub(super) hosts: Vec<Host>,
    pub(super) processes: Vec<Process>,
    /// The disk of [`Fleet::SMALL_DISK`], where there could be one.
    pub(super) disk: Option<Disk>,
    pub(super) shim: Option<Arc<Shim>>,
    pub(super) folder: PathBuf,
    pub(super) seed: u64,
}

impl Fleet {
    /// The agent with a small quota and much to say.
    pub(super) const SMALL_QUOTA: usize = 0;
    /// The agent whose spool has a disk of its own, and much to say.
    pub(super) const SMALL_DISK: usize = 1;
    /// The agent that nothing else befalls, so that its losses are those of its wiped spool.
    pub(super) const WIPED: usize = 2;

    /// Enrols `agents` hosts and prepares their processes; none is started.
    pub(super) async fn enrol(
        folder: &Path,
        token: &str,
        agents: usize,
        carrier: u16,
        seed: u64,
        shim: Option<Arc<Shim>>,
    ) -> Result<Self> {
        let token: EnrolmentToken = token.parse().context("read the enrolment token")?;
        let disk = Disk::small(&folder.join("small-disk"))?;
        let mut hosts = Vec::new();
        for number in 0..agents {
            let home = folder.join(format!("agent-{number}"));
            let id = enrol(&token, &home, number).await?;
            let proxy = FaultProxy::start(([127, 0, 0, 1], carrier).into())
                .await
                .context("start a fault proxy")?;
            let noisy = number == Self::SMALL_QUOTA || number == Self::SMALL_DISK;
            let spool = match &disk {
                Some(disk) if number == Self::SMALL_DISK => disk.folder().join("spool"),
                _ => home.join("spool"),
            };
            let plan = AgentPlan {
                folder: home,
                spool,
                collector: format!("localhost:{}", proxy.address().port()),
                base: 1,
                quota_mib: (number == Self::SMALL_QUOTA).then_some(SMALL_QUOTA_MIB),
                noise_bytes: if noisy { NOISE_BYTES } else { 0 },
                retention_s: RETENTION_S,
            };
            hosts.push(Host { id, plan, proxy });
        }
        let mut fleet = Self {
            hosts,
            processes: Vec::new(),
            disk,
            shim,
            folder: folder.to_owned(),
            seed,
        };
        // At least two processes, so that one is there while the other is not.
        let size = AGENTS_PER_PROCESS.min(agents.div_ceil(2)).max(1);
        for number in 0..agents.div_ceil(size) {
            let range = number * size..((number + 1) * size).min(agents);
            let plans = fleet.hosts.get(range).unwrap_or_default();
            let plans = plans.iter().map(|host| host.plan.clone()).collect();
            let process = fleet.process(&format!("process-{number}"), plans)?;
            fleet.processes.push(process);
        }
        Ok(fleet)
    }

    /// A process with these agents that is not started yet.
    pub(super) fn process(&self, name: &str, agents: Vec<AgentPlan>) -> Result<Process> {
        let folder = self.folder.join(name);
        std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let clock = folder.join("clock");
        std::fs::write(&clock, 0_i64.to_ne_bytes()).context("write a clock")?;
        std::fs::write(folder.join("boot-id"), "3c2b1a00-0000-4000-8000-000000000001\n")
            .context("write a boot id")?;
        Ok(Process {
            plan: ProcessPlan {
                folder: folder.clone(),
                seed: self.seed,
                events_per_tick: EVENTS_PER_TICK,
                agents,
            },
            folder,
            child: None,
            shim: self.shim.clone(),
            other_boot: false,
        })
    }

    /// The process that agent `index` belongs to.
    pub(super) fn process_of(&mut self, index: usize) -> Result<&mut Process> {
        let at = self.index_of_process(index)?;
        self.processes.get_mut(at).context("find a process")
    }

    /// How often the log of agent `index`'s process says so.
    pub(super) fn said(&self, index: usize, words: &str) -> Result<usize> {
        let process = self.processes.get(self.index_of_process(index)?);
        let folder = &process.context("find a process")?.folder;
        super::said(&folder.join("log"), words)
    }

    fn index_of_process(&self, index: usize) -> Result<usize> {
        let folder = &self.hosts.get(index).context("find an agent")?.plan.folder;
        self.processes
            .iter()
            .position(|process| process.plan.agents.iter().any(|agent| agent.folder == *folder))
            .context("find the process of an agent")
    }
}

impl Process {
    /// As on another machine: what it reads as the kernel's boot id is its own.
    pub(super) fn on_another_boot(mut self) -> Self {
        self.other_boot = true;
        self
    }

    /// How many agents it has.
    pub(super) fn agents(&self) -> usize {
        self.plan.agents.len()
    }

    /// Starts it, and waits until all its agents have a spool that writes.
    pub(super) async fn start(&mut self) -> Result<()> {
        let plan = self.folder.join("plan.json");
        let text = serde_json::to_vec(&self.plan).context("write down a plan")?;
        std::fs::write(&plan, text).context("write a plan")?;
        let ready = ready_file(&self.folder);
        if ready.exists() {
            std::fs::remove_file(&ready).context("remove an old sign")?;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .context("open a log")?;
        let own = std::env::current_exe().context("find this program")?;
        let mut command = super::mortal(&own);
        command.arg("chaos-agents").arg(&plan);
        if let Some(shim) = &self.shim {
            command.env("LD_PRELOAD", shim.library());
            command.env("FLEETMEND_CHAOS_CLOCK", self.folder.join("clock"));
            if self.other_boot {
                command.env("FLEETMEND_CHAOS_BOOT", self.folder.join("boot-id"));
            }
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start agents")?;
        self.child = Some(child);
        let begun = Instant::now();
        while !ready.exists() {
            if let Some(status) = self.ended()? {
                bail!("agents ended with {status}: {}", self.tail());
            }
            ensure!(
                begun.elapsed() < READY_WITHIN,
                "agents are not ready: {}",
                self.tail()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// kill −9.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child.kill().context("kill agents")?;
        child.wait().context("wait for agents")?;
        Ok(())
    }

    /// Ends it as an upgrade does.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let child = self.child.as_ref().context("find a process")?;
        let pid = i32::try_from(child.id()).context("read a process id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("ask agents to end")?;
        self.end(STOP_WITHIN).await
    }

    /// Makes it stop generating; [`Process::delivered`] waits for the rest.
    pub(super) fn finish(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
        }
    }

    /// Waits until everything is delivered and the process has ended.
    pub(super) async fn delivered(&mut self) -> Result<()> {
        self.end(DELIVER_WITHIN).await
    }

    /// Sets its wall clock so much off the machine's.
    pub(super) fn set_clock(&self, offset: i64) -> Result<()> {
        let path = self.folder.join("clock");
        let file = File::options().write(true).open(&path).context("open a clock")?;
        file.write_all_at(&offset.to_ne_bytes(), 0).context("set a clock")
    }

    async fn end(&mut self, within: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                self.child = None;
                ensure!(status.success(), "agents ended with {status}: {}", self.tail());
                return Ok(());
            }
            ensure!(
                begun.elapsed() < within,
                "agents did not end within {within:?}: {}",
                self.tail()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("find a process")?;
        child.try_wait().context("look at a process")
    }

    fn tail(&self) -> String {
        super::tail(&self.folder.join("log"), TAIL_BYTES)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            super::progress(format!("agents may still run: {error:#}"));
        }
    }
}

/// Enrols a host with its own key, in `home/identity`.
pub(super) async fn enrol(token: &EnrolmentToken, home: &Path, number: usize) -> Result<HostId> {
    let identity = home.join("identity");
    std::fs::create_dir_all(&identity).with_context(|| format!("create {}", identity.display()))?;
    let facts = HostFacts {
        hostname: format!("chaos-{number:02}"),
        ..HostFacts::default()
    };
    let identity = enroll(&Dialer::direct(), token, &identity, facts, &TrustedTime::system())
        .await
        .with_context(|| format!("enrol agent {number}"))?;
    Ok(identity.host())
}
