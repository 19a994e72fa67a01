//! The faults themselves: each is injected, held, and taken back. One that does not bite is an error of the lab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fleetmend_testkit::proxy::Fault as Link;
use rand::Rng as _;

use super::central::Central;
use super::disk::Disk;
use super::fleet::{Fleet, Process};
use super::journal;
use super::plan::{Fault, Plan};
use super::rude::Rude;

/// Added to each piece on a slow link.
const SLOW: Duration = Duration::from_millis(150);
/// How long acknowledgements are held back before a link is cut: longer than a commit takes.
const HELD: Duration = Duration::from_millis(1_500);
/// Numbers of a clone begin here, beyond those of its original.
const CLONE_BASE: u64 = 1_000_000_000;
const HOUR_US: i64 = 3_600 * 1_000_000;
const YEAR_US: i64 = 365 * 24 * HOUR_US;
/// How far clocks jump.
pub(super) const JUMPS: [(i64, &str); 4] = [
    (HOUR_US, "+1 h"),
    (-HOUR_US, "−1 h"),
    (YEAR_US, "+1 y"),
    (-YEAR_US, "−1 y"),
];
/// How long a fault may take to bite.
const BITES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// More rows than the small quota holds: each takes 8 KiB, compressed.
const QUOTA_ROWS: u64 = 160;
/// What a spool says whose disk is full, and what the collector says.
const SPOOL_REFUSED: &str = "the disk refuses the spool's frames";
const STORE_REFUSED: &str = "store takes no records";

/// A copy of a host that ran beside it.
pub(super) struct Clone {
    /// Agent that it is a copy of.
    pub(super) of: usize,
    /// Its journal's folder.
    pub(super) folder: PathBuf,
}

/// All parts of a run.
pub(super) struct Scene {
    pub(super) central: Central,
    pub(super) fleet: Fleet,
    pub(super) rude: Rude,
    pub(super) plan: Plan,
    /// How long a fault lasts.
    pub(super) hold: Duration,
    pub(super) clones: Vec<Clone>,
    /// What could not be done here, and why.
    pub(super) not_covered: BTreeMap<Fault, &'static str>,
    /// Behind the collector's folder; unmounted after the collector is gone.
    pub(super) store_disk: Option<Disk>,
    pub(super) folder: PathBuf,
    /// How often each fault was injected.
    pub(super) injected: BTreeMap<&'static str, u64>,
    /// Those that came, whether they could be had or not.
    pub(super) tried: Vec<Fault>,
}

impl Scene {
    /// Time until the next fault.
    pub(super) fn pause(&mut self) -> Duration {
        self.hold.mul_f64(self.plan.random.random_range(0.2..0.8))
    }

    /// Injects a fault and takes it back; says what was done.
    pub(super) async fn inject(&mut self, fault: Fault) -> Result<String> {
        if !self.tried.contains(&fault) {
            self.tried.push(fault);
        }
        if let Some(why) = self.not_covered.get(&fault) {
            return Ok(format!("not covered here: {why}"));
        }
        let said = self.inject_one(fault).await?;
        *self.injected.entry(fault.name()).or_default() += 1;
        Ok(said)
    }

    /// How often a fault was injected.
    pub(super) fn count(&self, fault: &str) -> u64 {
        self.injected.get(fault).copied().unwrap_or(0)
    }

    async fn inject_one(&mut self, fault: Fault) -> Result<String> {
        match fault {
            Fault::AgentsKilled => self.agents_killed().await,
            Fault::AgentsRestarted => self.agents_restarted().await,
            Fault::CollectorKilled => {
                self.central.kill()?;
                self.wait().await;
                self.central.run().await?;
                Ok("kill −9, and started again".to_owned())
            }
            Fault::CollectorUpgraded => {
                ensure!(self.central.stop().await?, "the collector did not stop in order");
                self.central.run().await?;
                Ok("stopped in order and started".to_owned())
            }
            Fault::CollectorRestored => self.collector_restored().await,
            Fault::LinksCut => self.links(Link::Cut).await,
            Fault::LinksSlow => self.links(Link::Delay(SLOW)).await,
            Fault::LinksHalfOpen => self.links_half_open().await,
            Fault::ForcedRetries => self.forced_retries().await,
            Fault::RudeBatches => {
                self.rude.visit().await?;
                Ok("a host with a valid certificate repeated, reordered and forged batches".to_owned())
            }
            Fault::SpoolDiskFull => self.spool_disk_full().await,
            Fault::StoreDiskFull => self.store_disk_full().await,
            Fault::ClockJumps => self.clock_jumps().await,
            Fault::SpoolWiped => self.spool_wiped().await,
            Fault::HostCloned => self.host_cloned().await,
        }
    }

    /// Takes everything back, and waits until all that is spooled is delivered.
    pub(super) async fn heal(&mut self) -> Result<()> {
        self.set_links(&(0..self.fleet.hosts.len()).collect::<Vec<_>>(), Link::None);
        for process in &mut self.fleet.processes {
            process.finish();
        }
        for process in &mut self.fleet.processes {
            process.delivered().await?;
        }
        Ok(())
    }

    async fn wait(&mut self) {
        let time = self.hold.mul_f64(self.plan.random.random_range(0.5..1.5));
        tokio::time::sleep(time).await;
    }

    fn set_links(&self, chosen: &[usize], link: Link) {
        for host in chosen.iter().filter_map(|index| self.fleet.hosts.get(*index)) {
            host.proxy.set(link);
        }
    }

    fn any_process(&mut self) -> Result<(usize, &mut Process)> {
        let index = self.plan.random.random_range(0..self.fleet.processes.len());
        let process = self.fleet.processes.get_mut(index).context("find a process")?;
        Ok((index, process))
    }

    async fn agents_killed(&mut self) -> Result<String> {
        let (index, process) = self.any_process()?;
        process.kill()?;
        let agents = process.agents();
        self.wait().await;
        let process = self.fleet.processes.get_mut(index).context("find a process")?;
        process.start().await?;
        Ok(format!(
            "kill −9 of process {index} with {agents} agents, and started again"
        ))
    }

    async fn agents_restarted(&mut self) -> Result<String> {
        let (index, process) = self.any_process()?;
        process.stop().await?;
        process.start().await?;
        Ok(format!("process {index} stopped and started"))
    }

    async fn collector_restored(&mut self) -> Result<String> {
        let backup = self.folder.join("backup");
        self.central.stop().await?;
        self.central.back_up(&backup)?;
        self.central.run().await?;
        // What the backup has not, or nothing would be restored.
        let before = self.central.stored().await?;
        self.wait().await;
        self.wait().await;
        let begun = Instant::now();
        while self.central.stored().await? <= before {
            ensure!(
                begun.elapsed() < BITES_WITHIN,
                "nothing was stored after the backup"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.central.stop().await?;
        self.central.restore(&backup)?;
        std::fs::remove_dir_all(&backup).context("remove the backup")?;
        self.central.run().await?;
        Ok("stopped, its folder replaced by an earlier copy, started".to_owned())
    }

    async fn links(&mut self, link: Link) -> Result<String> {
        let mut chosen = self.plan.some_of(self.fleet.hosts.len(), 0.5);
        if !chosen.contains(&Fleet::SMALL_QUOTA) {
            chosen.push(Fleet::SMALL_QUOTA);
        }
        self.set_links(&chosen, link);
        self.wait().await;
        self.set_links(&chosen, Link::None);
        Ok(format!("{} links", chosen.len()))
    }

    /// Nothing comes through and nothing closes, until agents give their connections up by themselves.
    async fn links_half_open(&mut self) -> Result<String> {
        let mut chosen = self.plan.some_of(self.fleet.hosts.len(), 0.3);
        if !chosen.contains(&Fleet::SMALL_QUOTA) {
            chosen.push(Fleet::SMALL_QUOTA);
        }
        let before = self.accepted();
        self.set_links(&chosen, Link::Stall);
        let given_up = self.connected_again(&chosen, &before).await;
        let shed = self.quota_filled().await;
        self.set_links(&chosen, Link::None);
        given_up.and(shed)?;
        Ok(format!(
            "{} links, until their agents gave them up and a quota was full",
            chosen.len()
        ))
    }

    /// Waits until the agent with the small quota made more than it may hold.
    async fn quota_filled(&self) -> Result<()> {
        let host = self.fleet.hosts.get(Fleet::SMALL_QUOTA);
        let folder = &host.context("find an agent")?.plan.folder;
        let made = || -> Result<u64> {
            let lives = journal::read(folder)?;
            let batches = lives.iter().filter_map(|life| life.batches.first()).flatten();
            Ok(batches.map(|batch| batch.count).sum())
        };
        let (begun, before) = (Instant::now(), made()?);
        while made()? < before + QUOTA_ROWS {
            ensure!(begun.elapsed() < BITES_WITHIN, "an agent makes nothing");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn forced_retries(&mut self) -> Result<String> {
        let chosen = self.plan.some_of(self.fleet.hosts.len(), 0.7);
        let before = self.accepted();
        self.set_links(&chosen, Link::HoldAnswers);
        tokio::time::sleep(HELD).await;
        self.set_links(&chosen, Link::Cut);
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.set_links(&chosen, Link::None);
        self.connected_again(&chosen, &before).await?;
        Ok(format!(
            "{} links held their answers back and were then cut, and all came again",
            chosen.len()
        ))
    }

    fn accepted(&self) -> Vec<u64> {
        self.fleet
            .hosts
            .iter()
            .map(|host| host.proxy.accepted())
            .collect()
    }

    /// Waits until each chosen agent has made another connection than those before.
    async fn connected_again(&self, chosen: &[usize], before: &[u64]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = self.accepted();
            let old = |index: &&usize| now.get(**index) <= before.get(**index);
            let Some(index) = chosen.iter().find(old) else {
                return Ok(());
            };
            ensure!(
                begun.elapsed() < BITES_WITHIN,
                "agent {index} did not connect again"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn spool_disk_full(&mut self) -> Result<String> {
        let disk = self.fleet.disk.as_ref().context("find the small disk")?;
        let said = || self.fleet.said(Fleet::SMALL_DISK, SPOOL_REFUSED);
        let before = said()?;
        let bytes = disk.fill()?;
        let begun = Instant::now();
        while said()? <= before {
            ensure!(begun.elapsed() < BITES_WITHIN, "no full disk was noticed");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(self.hold).await;
        disk.free()?;
        Ok(filled(bytes, disk))
    }

    async fn store_disk_full(&mut self) -> Result<String> {
        let disk = self.store_disk.as_ref().context("find the store's disk")?;
        let said = || self.central.said(STORE_REFUSED);
        let before = said()?;
        let bytes = disk.fill()?;
        let begun = Instant::now();
        while said()? <= before {
            ensure!(begun.elapsed() < BITES_WITHIN, "no full disk was noticed");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(self.hold).await;
        disk.free()?;
        Ok(filled(bytes, disk))
    }

    async fn clock_jumps(&mut self) -> Result<String> {
        let mut said = Vec::new();
        for (offset, name) in JUMPS {
            let (index, process) = self.any_process()?;
            process.set_clock(offset)?;
            // A session that is open does not ask what time it is.
            let all: Vec<usize> = (0..self.fleet.hosts.len()).collect();
            self.set_links(&all, Link::Cut);
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.set_links(&all, Link::None);
            self.wait().await;
            let process = self.fleet.processes.get(index).context("find a process")?;
            process.set_clock(0)?;
            said.push(format!("{name} in process {index}"));
        }
        Ok(said.join(", "))
    }

    async fn spool_wiped(&mut self) -> Result<String> {
        let index = Fleet::WIPED;
        let host = self.fleet.hosts.get(index).context("find an agent")?;
        let (id, plan) = (host.id, host.plan.clone());
        // Of a spool of which it never stored anything, a collector cannot know that it was wiped.
        let begun = Instant::now();
        while self.central.stored_of(id).await? == 0 {
            ensure!(
                begun.elapsed() < BITES_WITHIN,
                "nothing of agent {index} was stored"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let process = self.fleet.process_of(index)?;
        process.kill()?;
        std::fs::remove_dir_all(&plan.spool).context("wipe a spool")?;
        journal::wiped(&plan.folder)?;
        self.fleet.process_of(index)?.start().await?;
        Ok(format!(
            "kill −9 of the process of agent {index}, its spool removed, started again"
        ))
    }

    /// A copy of a host's disk, taken while it runs, lives beside it as on another machine.
    async fn host_cloned(&mut self) -> Result<String> {
        let of = self.fleet.hosts.len() - 1;
        let mut plan = self.fleet.hosts.get(of).context("find an agent")?.plan.clone();
        let folder = self.folder.join("clone");
        // A copy that remembers no record is a wiped spool to the collector.
        let begun = Instant::now();
        while !has_records(&plan.spool) {
            ensure!(begun.elapsed() < BITES_WITHIN, "agent {of} spools nothing");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        std::fs::create_dir(&folder).context("make the clone's folder")?;
        super::copy_folder(&plan.folder.join("identity"), &folder.join("identity"))?;
        super::copy_folder(&plan.spool, &folder.join("spool"))?;
        plan.spool = folder.join("spool");
        plan.folder.clone_from(&folder);
        plan.base = CLONE_BASE;
        let mut clone = self.fleet.process("clone-process", vec![plan])?.on_another_boot();
        clone.start().await?;
        self.clones.push(Clone { of, folder });
        self.wait().await;
        clone.finish();
        clone.delivered().await?;
        Ok(format!(
            "a copy of agent {of} lived beside it, delivered, and ended"
        ))
    }
}

/// Whether frames lie in any epoch of a spool.
fn has_records(spool: &Path) -> bool {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries(spool)
        .flat_map(|epoch| entries(&epoch.path()))
        .filter(|file| file.path().extension().is_some_and(|of| of == "frames"))
        .any(|file| file.metadata().is_ok_and(|about| about.len() > 0))
}

fn filled(bytes: i64, disk: &Disk) -> String {
    format!(
        "{} MiB of {} filled to the last block until it was refused, and freed",
        bytes >> 20,
        disk.kind()
    )
}
