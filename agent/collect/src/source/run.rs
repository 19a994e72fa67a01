//! From the choice to the threads, and the rows of the probes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval};

use super::audit::{AuditRecord, Reader, RecordSender, Translator};
use super::choice::{Chosen, Survey, choose};
use super::connector::{self, ConnectorSocket, Follower};
use super::delivery::{Delivery, Tally};
use super::sockets::Poller;
use super::{Kind, SourceName, SourcesConfig, survey};
use crate::bpf::BpfSensor;
use crate::process::proc_fs::ProcFs;
use crate::process::{Inventory, ProcessConfig};
use crate::vigil::Vigil;
use crate::{FactSink, PaceHandle};

/// Time between two looks at whether a row has changed.
const LOOK: Duration = Duration::from_secs(1);
/// Raw records that wait for their reader: some seconds of a busy log.
const RECORDS_MAX: usize = 4_096;
/// Probe of the log's records, where rules read them and no kind is taken from it.
const RECORDS_PROBE: &str = "source.audit_records";

/// How long the connector waits for the first reading of /proc, so that parents are known; its socket holds what comes
/// meanwhile.
const FIRST_READING: Duration = Duration::from_secs(2);

/// Kinds with what became of their records.
type Kinds = BTreeMap<Kind, Arc<Tally>>;

/// The sources as they were chosen, with what had to be opened before the sandbox.
pub struct Sources {
    config: SourcesConfig,
    chosen: Vec<Chosen>,
    pub(super) connector: Option<ConnectorSocket>,
    position_file: PathBuf,
    records: Option<RecordSender>,
    tallies: Kinds,
}

/// What needs rights that the sandbox takes: the process connector, joined where it may be needed.
pub struct Rights(Option<Result<ConnectorSocket, String>>);

impl Rights {
    /// Joins the connector unless the probes tell everything that it could. `statuses` is what the sensor's load said.
    /// Call it before the sandbox is set: it reads nothing that others wrote.
    pub fn take(config: &SourcesConfig, sensor: &BpfSensor, statuses: &[ProbeStatus]) -> Self {
        let mut found = Survey::default();
        survey::probes(&mut found, statuses, sensor.traces_execs());
        survey::connector(&mut found, None);
        let chosen = choose(config, &found);
        let needed = chosen.iter().any(|one| one.source == Some(SourceName::Connector));
        Self(needed.then(|| survey::join(config)))
    }
}

impl Sources {
    /// Chooses a source for each kind, and unloads the probes that another source stands in for. `statuses` is what
    /// the sensor's load said. Call it after the sandbox is set: it looks into the audit log.
    pub fn choose(
        config: SourcesConfig,
        rights: Rights,
        sensor: &mut BpfSensor,
        statuses: &[ProbeStatus],
        process: &ProcessConfig,
        state_dir: &Path,
    ) -> Self {
        let proc = ProcFs::new(&process.proc_path);
        let mut found = Survey::default();
        survey::probes(&mut found, statuses, sensor.traces_execs());
        survey::others(&mut found, &config, &proc);
        let (chosen, connector) = settle(&config, &mut found, rights);
        for one in chosen.iter().filter(|one| one.source != Some(SourceName::Ebpf)) {
            let reason = match one.source {
                Some(source) => format!("not used: {} are told by {}", one.kind.as_str(), source.as_str()),
                None => format!("not used: {}", one.reason),
            };
            let hint = format!("set sources.{} = \"auto\" to use it", one.kind.as_str());
            sensor.give_up(one.kind.family_probe(), reason, hint);
            if one.kind == Kind::Processes && one.source != Some(SourceName::Proc) {
                sensor.processes_are_told();
            }
        }
        let position_file = config
            .audit_position_file
            .clone()
            .unwrap_or_else(|| state_dir.join("audit-position.json"));
        Self {
            tallies: chosen.iter().map(|one| (one.kind, Arc::default())).collect(),
            config,
            chosen,
            connector,
            position_file,
            records: None,
        }
    }

    /// What would be chosen if the probes said `statuses`, for a person who checks the configuration: the rows of
    /// kinds that were asked of one source by name and cannot be had of it.
    pub fn check(config: &SourcesConfig, proc_path: &Path) -> Vec<ProbeStatus> {
        // Only what was asked for by name is tried; whether the probes load is seen at the start.
        let named = config.second_sources_by_name();
        let mut found = Survey::default();
        survey::others(&mut found, &named, &ProcFs::new(proc_path));
        let wanted = Kind::ALL
            .into_iter()
            .any(|kind| named.of(kind) == SourceName::Connector);
        let rights = Rights(wanted.then(|| survey::join(&named)));
        let (chosen, _) = settle(&named, &mut found, rights);
        chosen
            .iter()
            .filter(|one| named.of(one.kind) != SourceName::Off && one.source.is_none())
            .map(Chosen::status)
            .collect()
    }

    /// The rows of the probes `source.<kind>`.
    pub fn statuses(&self) -> Vec<ProbeStatus> {
        self.chosen.iter().map(Chosen::status).collect()
    }

    /// Raw records of the audit log from now on, secrets masked; those that find the channel full are dropped and
    /// counted. Nothing comes where `audit_records` is off or the log cannot be read.
    pub fn records(&mut self) -> Receiver<AuditRecord> {
        let (sender, receiver) = mpsc::channel(RECORDS_MAX);
        self.records = Some(sender);
        receiver
    }

    /// Starts a thread for each source that was chosen. They send facts to `sender` and fill `inventory`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn run(
        mut self,
        tasks: &Tasks,
        sender: &Sender<Fact>,
        inventory: &Inventory,
        pace: &PaceHandle,
    ) -> io::Result<()> {
        let way = Way {
            tasks,
            sender,
            sink: FactSink::new(sender.clone()),
            inventory,
            pace,
        };
        if let Some(socket) = self.connector.take() {
            self.run_connector(socket, &way)?;
        }
        self.run_socket_tables(&way)?;
        let records = self.records.take().filter(|_| self.config.audit_records);
        self.run_audit(records, &way)?;
        self.tell(tasks, way.sink);
        Ok(())
    }

    /// The kinds that were chosen of a source.
    fn kinds(&self, source: SourceName) -> Kinds {
        let kinds = self.chosen.iter().filter(|one| one.source == Some(source));
        kinds
            .filter_map(|one| Some((one.kind, self.tallies.get(&one.kind)?.clone())))
            .collect()
    }

    fn run_connector(&self, socket: ConnectorSocket, way: &Way<'_>) -> io::Result<()> {
        let kinds = self.kinds(SourceName::Connector);
        let (watch, delivery) = way.open(SourceName::Connector, kinds);
        let inventory = way.inventory.clone();
        way.tasks
            .spawn_thread("connector", TaskKind::Critical, move |token| {
                let _watch = watch;
                // Late or not, the socket must be emptied: without the first reading some parents are unknown for a while.
                let begun = Instant::now();
                while inventory.is_empty() && begun.elapsed() < FIRST_READING && !token.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let follower = Follower::new(inventory);
                connector::run(&socket, follower, delivery, || token.is_cancelled()).map_err(Into::into)
            })
    }

    fn run_socket_tables(&self, way: &Way<'_>) -> io::Result<()> {
        let kinds = self.kinds(SourceName::SocketTable);
        if kinds.is_empty() {
            return Ok(());
        }
        let (watch, delivery) = way.open(SourceName::SocketTable, kinds);
        let (poll, most) = (self.config.socket_poll(), self.config.sockets_max);
        let mut poller = Poller::new(way.inventory.clone(), delivery, poll, most, way.pace.clone());
        way.tasks
            .spawn_thread("socket-tables", TaskKind::Critical, move |token| {
                let _watch = watch;
                poller.run(|| token.is_cancelled());
                Ok(())
            })
    }

    /// The log is read for the kinds that were chosen of it, and for rules on its records where it can be.
    fn run_audit(&self, records: Option<RecordSender>, way: &Way<'_>) -> io::Result<()> {
        let kinds = self.kinds(SourceName::Audit);
        let readable = std::fs::File::open(&self.config.audit_log).is_ok();
        if kinds.is_empty() && !(records.is_some() && readable) {
            return Ok(());
        }
        if records.is_some() {
            way.sink.offer(self.records_row(&kinds).into());
        }
        let (watch, delivery) = way.open(SourceName::Audit, kinds);
        let mut reader = Reader::new(
            &self.config.audit_log,
            self.position_file.clone(),
            self.config.audit_poll(),
            Translator::new(way.inventory.clone()),
            delivery,
            records,
        );
        way.tasks.spawn_thread("audit", TaskKind::Critical, move |token| {
            let _watch = watch;
            reader.run(|| token.is_cancelled());
            Ok(())
        })
    }

    fn records_row(&self, kinds: &Kinds) -> ProbeStatus {
        let log = self.config.audit_log.display();
        ProbeStatus {
            time: TimeMicros::now(),
            probe: RECORDS_PROBE.to_owned(),
            state: ProbeState::Real,
            reason: format!(
                "rules read the records of {log}; {} kinds are taken from it",
                kinds.len()
            ),
            hint: String::new(),
            seen: 0,
            delivered: 0,
            lost: 0,
        }
    }

    /// Writes the rows at the start, when one changes, and every status interval.
    fn tell(self, tasks: &Tasks, sink: FactSink) {
        let Self {
            config,
            chosen,
            tallies,
            ..
        } = self;
        let every = config.status_interval_s.max(1);
        let token = tasks.token();
        let board = Arc::new((chosen, tallies, sink));
        tasks.spawn_restartable("sources", move || {
            let (board, token) = (board.clone(), token.clone());
            async move {
                let (chosen, tallies, sink) = &*board;
                let mut ticks = interval(LOOK);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut told: BTreeMap<Kind, (ProbeState, String)> = BTreeMap::new();
                let mut seconds = 0_u64;
                loop {
                    tokio::select! {
                        () = token.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                        _ = ticks.tick() => {}
                    }
                    let all = seconds.is_multiple_of(every);
                    seconds = seconds.wrapping_add(1);
                    for one in chosen {
                        let row = row(one, tallies.get(&one.kind));
                        let telling = (row.state, row.reason.clone());
                        if all || told.get(&one.kind).is_none_or(|told| told.0 != telling.0) {
                            told.insert(one.kind, telling);
                            sink.offer(row.into());
                        }
                    }
                    sink.report_gaps();
                }
            }
        });
    }
}

/// What every thread of a source is given.
struct Way<'a> {
    tasks: &'a Tasks,
    sender: &'a Sender<Fact>,
    sink: FactSink,
    inventory: &'a Inventory,
    pace: &'a PaceHandle,
}

impl Way<'_> {
    /// The way out of a source, and the watch over its thread.
    fn open(&self, source: SourceName, kinds: Kinds) -> (Vigil, Delivery) {
        let probes = kinds.keys().map(|kind| format!("source.{}", kind.as_str()));
        let watch = Vigil::keep(self.sink.clone(), self.tasks.token(), probes.collect());
        let delivery = Delivery::new(self.sender.clone(), source.as_str(), kinds, self.pace.clone());
        (watch, delivery)
    }
}

/// Chooses; without a connector that was joined it is chosen again without. One that is not needed is left.
fn settle(
    config: &SourcesConfig,
    found: &mut Survey,
    rights: Rights,
) -> (Vec<Chosen>, Option<ConnectorSocket>) {
    let chosen = choose(config, found);
    if chosen.iter().all(|one| one.source != Some(SourceName::Connector)) {
        return (chosen, None);
    }
    let refused = match rights.0 {
        Some(Ok(socket)) => return (chosen, Some(socket)),
        Some(Err(reason)) => reason,
        None => "it was not joined".to_owned(),
    };
    survey::connector(found, Some(&refused));
    (choose(config, found), None)
}

/// The row of a kind with what became of its records.
fn row(one: &Chosen, tally: Option<&Arc<Tally>>) -> ProbeStatus {
    let mut row = one.status();
    let Some(tally) = tally else { return row };
    (row.seen, row.delivered, row.lost) = tally.counts();
    if tally.lost_lately(row.time) {
        if row.state == ProbeState::Real {
            row.state = ProbeState::Degraded;
        }
        row.reason.push_str(&format!(
            "; records were lost within the last minute, {} in all",
            row.lost
        ));
        if row.hint.is_empty() {
            row.hint = "the gap rows say why".to_owned();
        }
    }
    if let Some(fault) = tally.fault() {
        row.state = ProbeState::Broken;
        row.reason = fault.reason;
        row.hint = fault.hint;
    }
    row
}
