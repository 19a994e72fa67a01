//! The choice on this host without the kernel's probes, and everything it starts.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fleetmend_event::Fact;
use fleetmend_event::table::{NetworkEventKind, ProbeState, ProbeStatus, ProcessEventKind, Source};
use fleetmend_shutdown::Tasks;
use tokio::sync::mpsc;

use super::*;
use crate::PaceHandle;
use crate::bpf::{BpfConfig, BpfSensor};
use crate::process::{Inventory, ProcessConfig};

/// Longest wait for a fact.
const PATIENCE: Duration = Duration::from_secs(60);

fn without_probes(config: SourcesConfig, state: &std::path::Path) -> (Sources, BpfSensor) {
    let off = BpfConfig {
        process: false,
        network: false,
        file: false,
        credential: false,
        memory: false,
        kernel: false,
        signal: false,
        resource: false,
        ..BpfConfig::default()
    };
    let (mut sensor, statuses) = BpfSensor::load(off);
    let rights = Rights::take(&config, &sensor, &statuses);
    let process = ProcessConfig::default();
    let sources = Sources::choose(config, rights, &mut sensor, &statuses, &process, state);
    (sources, sensor)
}

fn of(statuses: &[ProbeStatus], probe: &str) -> ProbeStatus {
    statuses.iter().find(|row| row.probe == probe).cloned().unwrap()
}

fn no_log(folder: &std::path::Path) -> SourcesConfig {
    SourcesConfig {
        audit_log: folder.join("no-audit.log"),
        socket_poll_ms: 100,
        ..SourcesConfig::default()
    }
}

#[test]
fn without_probes_and_rights_the_next_source_is_taken_and_says_what_it_misses() {
    let folder = tempfile::tempdir().unwrap();
    let (sources, _sensor) = without_probes(no_log(folder.path()), folder.path());
    let statuses = sources.statuses();
    let processes = of(&statuses, "source.processes");
    assert_eq!(processes.state, ProbeState::Degraded);
    assert!(
        processes.reason.contains("no-audit.log") && !processes.hint.is_empty(),
        "{processes:?}"
    );
    let told_by = if sources.connector.is_some() {
        "connector"
    } else {
        "proc"
    };
    assert!(
        processes.reason.starts_with(&format!("told by {told_by}")),
        "{processes:?}"
    );
    let network = of(&statuses, "source.network");
    assert!(
        network.reason.contains("between two readings are missed"),
        "{network:?}"
    );
    let files = of(&statuses, "source.files");
    assert_eq!(files.state, ProbeState::Broken);
    assert!(!files.reason.is_empty() && !files.hint.is_empty(), "{files:?}");
}

#[test]
fn source_that_is_asked_for_and_cannot_be_had_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let config = SourcesConfig {
        processes: SourceName::Audit,
        files: SourceName::Off,
        ..no_log(folder.path())
    };
    let faults = Sources::check(&config, std::path::Path::new("/proc"));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].reason.contains("no-audit.log") && faults[0].hint.contains("auto"),
        "{faults:?}"
    );
    let (sources, _sensor) = without_probes(config, folder.path());
    let statuses = sources.statuses();
    assert_eq!(of(&statuses, "source.processes").state, ProbeState::Broken);
    assert!(of(&statuses, "source.files").reason.contains("switched off"));
    assert!(Sources::check(&no_log(folder.path()), std::path::Path::new("/proc")).is_empty());
}

/// Reads facts until `wanted` finds one; keeps all.
fn wait<T>(facts: &mut mpsc::Receiver<Fact>, seen: &mut Vec<Fact>, wanted: impl Fn(&Fact) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        while let Ok(fact) = facts.try_recv() {
            seen.push(fact);
        }
        if let Some(found) = seen.iter().find_map(&wanted) {
            return found;
        }
        assert!(Instant::now() < end, "nothing among {} facts", seen.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn listeners_are_told(facts: &mut mpsc::Receiver<Fact>, seen: &mut Vec<Fact>) {
    // A listener that is not of the first reading, whenever that was: another is made until one is told.
    let mut listeners = Vec::new();
    let end = Instant::now() + PATIENCE;
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listeners.push(listener.local_addr().unwrap().port());
        let since = Instant::now();
        let mut told = false;
        while !told && since.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
            while let Ok(fact) = facts.try_recv() {
                seen.push(fact);
            }
            told = seen.iter().any(|fact| match fact {
                Fact::NetworkEvent(row) => {
                    row.kind == NetworkEventKind::Listen
                        && row.source == Source::SocketTable
                        && listeners.iter().any(|port| u32::from(*port) == row.local_port)
                }
                _ => false,
            });
        }
        if told {
            break;
        }
        assert!(Instant::now() < end, "no listener of {listeners:?} is told");
    }
}

#[test]
fn what_was_chosen_tells_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let (sources, sensor) = without_probes(no_log(folder.path()), folder.path());
    if sources.connector.is_none() {
        assert!(!nix::unistd::geteuid().is_root(), "root may join the connector");
        println!("not run: the connector needs CAP_NET_ADMIN");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let tasks = Tasks::new();
    let (sender, mut facts) = mpsc::channel(200_000);
    let inventory = Inventory::new(ProcessConfig::default());
    let pace = PaceHandle::default();
    sources.run(&tasks, &sender, &inventory, &pace).unwrap();
    sensor.run(&tasks, sender, inventory.clone()).unwrap();
    let mut seen = Vec::new();
    let status = |probe: &'static str| {
        move |fact: &Fact| match fact {
            Fact::ProbeStatus(row) if row.probe == probe => Some(row.as_ref().clone()),
            _ => None,
        }
    };
    wait(&mut facts, &mut seen, status("source.processes"));
    let mut child = Command::new("sh")
        .args(["-c", "read line", "chosen-source"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let rows = |kind: ProcessEventKind| {
        move |fact: &Fact| match fact {
            Fact::ProcessEvent(row) if row.pid == pid && row.kind == kind => Some(row.as_ref().clone()),
            _ => None,
        }
    };
    let exec = wait(&mut facts, &mut seen, rows(ProcessEventKind::Exec));
    assert_eq!(exec.source, Source::Connector);
    assert_eq!(exec.args, ["sh", "-c", "read line", "chosen-source"]);
    assert_eq!(inventory.running(pid).unwrap().program.args, exec.args);
    listeners_are_told(&mut facts, &mut seen);
    child.kill().unwrap();
    child.wait().unwrap();
    let exit = wait(&mut facts, &mut seen, rows(ProcessEventKind::Exit));
    assert_eq!((exit.exit_signal, exit.source), (Some(9), Source::Connector));
    let execs = seen.iter().filter_map(rows(ProcessEventKind::Exec)).count();
    assert_eq!(execs, 1, "a kind has one source");
    // Their end is in order, and no row says otherwise.
    tasks.begin("the test is over");
    let report = runtime.block_on(tasks.drain(Duration::from_secs(30)));
    assert!(report.is_clean(), "{report}");
    while let Ok(fact) = facts.try_recv() {
        seen.push(fact);
    }
    let broken = seen.iter().find_map(|fact| match fact {
        Fact::ProbeStatus(row) if row.reason.contains("ended by itself") => Some(row.probe.clone()),
        _ => None,
    });
    assert_eq!(broken, None);
}
