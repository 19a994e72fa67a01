//! Histograms and retransmissions as metrics, and profiles of system calls.

use std::fs::File;
use std::net::SocketAddr;

use fleetmend_event::MetricFrame;
use fleetmend_event::table::SyscallProfile;

use super::*;
use crate::bpf::ProfileConfig;
use crate::bpf::profile::{Profiler, Rounds};

fn value(frame: &MetricFrame, name: &str, label: Option<(&str, &str)>) -> Option<f64> {
    let at = frame.series.iter().position(|key| {
        key.name == name
            && label.is_none_or(|(label, value)| key.labels.get(label).is_some_and(|is| is == value))
    })?;
    frame.values.get(at).copied()
}

fn metric(fact: &Fact) -> Option<&MetricFrame> {
    match fact {
        Fact::Metrics(frame) if value(frame, "system.cpu.run_queue.latency.count", None).is_some() => {
            Some(frame)
        }
        _ => None,
    }
}

/// A connect to a listener whose queue is full: its first segment is dropped and sent again.
fn connect_in_vain(address: SocketAddr) {
    let outcome = TcpStream::connect_timeout(&address, Duration::from_millis(2_500));
    drop(outcome);
}

#[test]
fn waits_for_processors_and_disks_and_segments_sent_again_are_measured() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Resource])) else {
        return;
    };
    // An address of this test's own; the loopback has sixteen million of them.
    let [_, _, low, high] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((std::net::Ipv4Addr::new(127, 77, low, high), 0)).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let filling: Vec<TcpStream> = (0..3)
        .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok())
        .collect();
    connect_in_vain(address);
    drop(filling);
    let folder = tempfile::tempdir().unwrap();
    let mut file = File::create(folder.path().join("block")).unwrap();
    file.write_all(&vec![7; 1 << 20]).unwrap();
    file.sync_all().unwrap();

    let peer = address.ip().to_string();
    let end = Instant::now() + DEADLINE;
    let frame = loop {
        // Maps are read every tenth tick.
        (0..10).for_each(|_| rig.drain.tick());
        rig.collect();
        let again = |frame: &&MetricFrame| {
            let count = value(
                frame,
                "system.network.tcp.retransmits",
                Some(("network.peer.address", &peer)),
            );
            count.is_some_and(|count| count >= 1.0)
        };
        if let Some(frame) = rig.facts.iter().filter_map(metric).find(again) {
            break frame.clone();
        }
        let last = rig.facts.iter().rev().find_map(metric);
        assert!(Instant::now() < end, "nothing sent again to {peer}: {last:#?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let total = value(&frame, "system.cpu.run_queue.latency.count", None).unwrap();
    let sum = value(&frame, "system.cpu.run_queue.latency.sum", None).unwrap();
    assert!(total > 0.0 && sum > 0.0, "{total} waits, {sum} s");
    let everything = value(
        &frame,
        "system.cpu.run_queue.latency.bucket",
        Some(("le", "+Inf")),
    );
    assert_eq!(everything, Some(total));
    let writes = ("disk.io.direction", "write");
    let written = value(&frame, "system.disk.operation.latency.count", Some(writes)).unwrap();
    if std::fs::read_to_string("/proc/diskstats").is_ok_and(|text| !text.trim().is_empty())
        && !is_tmpfs(folder.path())
    {
        assert!(written > 0.0, "a synced file is written to a disk");
    } else {
        println!("COULD NOT RUN: no disk under {}", folder.path().display());
    }
}

fn is_tmpfs(path: &std::path::Path) -> bool {
    nix::sys::statfs::statfs(path).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC
}

#[test]
fn calls_are_profiled_now_and_then_and_of_suspects() {
    let btf = aya::Btf::from_sys_fs().unwrap();
    let config = ProfileConfig {
        interval_s: 1,
        ..ProfileConfig::default()
    };
    let profiler = Profiler::load(config, Ok(&btf), std::process::id());
    let handle = profiler.handle();
    let (sender, mut receiver) = mpsc::channel(CHANNEL);
    let inventory = Inventory::new(ProcessConfig::default());
    let pace = crate::PaceHandle::default();
    let mut rounds = Rounds::new(profiler, Outlet::new(sender, "test"), inventory, pace);
    let mut busy = Command::new("dd")
        .args(["if=/dev/zero", "of=/dev/null", "bs=1"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = busy.id();
    let end = Instant::now() + DEADLINE;
    let mut told: Vec<SyscallProfile> = Vec::new();
    let mut statuses = Vec::new();
    let mut wait = |occasion: &str, rounds: &mut Rounds| loop {
        rounds.round(Instant::now());
        while let Ok(fact) = receiver.try_recv() {
            match fact {
                Fact::SyscallProfile(row) => told.push(*row),
                Fact::ProbeStatus(row) => statuses.push(*row),
                _ => {}
            }
        }
        let wanted =
            |row: &&SyscallProfile| row.pid == pid && row.occasion == occasion && !row.calls.is_empty();
        if let Some(row) = told.iter().find(wanted) {
            assert!(
                told.iter().all(|row| row.pid != std::process::id()),
                "its own calls"
            );
            return row.clone();
        }
        assert!(
            Instant::now() < end,
            "no {occasion}: {statuses:?}, {} profiles",
            told.len()
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    for occasion in ["sample", "suspect"] {
        if occasion == "suspect" {
            handle.suspect(pid, 0);
        }
        let row = wait(occasion, &mut rounds);
        let numbers = [libc::SYS_read, libc::SYS_write].map(|call| u32::try_from(call).unwrap());
        assert!(numbers.iter().all(|call| row.calls.contains(call)), "{row:?}");
        assert_eq!(row.calls.len(), row.counts.len());
        assert!(row.calls.is_sorted() && row.sequence.len() <= 256);
        assert!(
            row.sequence.windows(2).any(|pair| pair == numbers),
            "read, then write: {row:?}"
        );
        assert!((row.comm.as_str(), row.span_us > 0) == ("dd", true), "{row:?}");
    }
    busy.kill().unwrap();
    busy.wait().unwrap();
}
