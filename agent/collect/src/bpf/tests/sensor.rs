//! The sensor as a whole: loss, refusal, running, and the way without probes.

use super::*;

#[test]
fn records_that_find_the_ring_full_are_all_counted_in_gaps() {
    let Some(mut rig) = Rig::start(BpfConfig {
        process_ring_bytes: 4096,
        ..only(&[Family::Process])
    }) else {
        return;
    };
    for _ in 0..40 {
        run(&mut Command::new("/bin/true"));
    }
    let end = Instant::now() + DEADLINE;
    loop {
        rig.collect();
        rig.drain.look_at_losses();
        rig.collect();
        let is_loss = |gap: &Gap| gap.table == "process_events" && gap.stage == GapStage::Kernel;
        let gaps = rig.facts.iter().filter_map(|fact| match fact {
            Fact::Gap(gap) if is_loss(gap) => Some(gap.count),
            _ => None,
        });
        let in_gaps: u64 = gaps.sum();
        let status = rig
            .drain
            .statuses()
            .into_iter()
            .find(|status| status.probe == "bpf.process")
            .unwrap();
        // Other programs of this machine go on meanwhile: equal once nothing is on its way.
        if in_gaps >= 60 && status.seen == status.delivered + in_gaps && status.lost == in_gaps {
            assert_eq!(status.state, ProbeState::Degraded);
            assert!(status.reason.contains("lost"), "{status:?}");
            break;
        }
        assert!(Instant::now() < end, "{in_gaps} in gaps, {status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn over_the_budget_executions_come_and_every_other_event_is_counted_in_gaps() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Network])) else {
        return;
    };
    rig.pace.set(crate::Pace::Executions);
    rig.drain.drain();
    rig.drain.tell_shed();
    rig.collect();
    rig.facts.clear();
    let pids: Vec<u32> = (0..5).map(|_| run(&mut Command::new("/bin/true"))).collect();
    for pid in pids {
        rig.process(pid, ProcessEventKind::Exec);
    }
    let end = Instant::now() + DEADLINE;
    loop {
        rig.collect();
        rig.drain.tell_shed();
        rig.collect();
        let left_out = |fact: &Fact| match fact {
            Fact::Gap(gap) if gap.table == "process_events" && gap.reason == "budget" => {
                assert_eq!(
                    (gap.stage, gap.exactness),
                    (GapStage::Collect, fleetmend_event::table::Exactness::Exact)
                );
                Some(gap.count)
            }
            _ => None,
        };
        // A fork and an exit of each.
        if rig.facts.iter().filter_map(left_out).sum::<u64>() >= 10 {
            break;
        }
        assert!(Instant::now() < end, "no gaps: {:#?}", rig.facts);
        std::thread::sleep(Duration::from_millis(5));
    }
    for fact in &rig.facts {
        let is_execution = matches!(fact, Fact::ProcessEvent(row) if row.kind == ProcessEventKind::Exec);
        assert!(is_execution || matches!(fact, Fact::Gap(_)), "{fact:?}");
    }
    for status in rig.drain.statuses() {
        assert_eq!(status.state, ProbeState::Degraded, "{status:?}");
        assert!(status.reason.contains("over its budget"), "{status:?}");
    }
    rig.pace.set(crate::Pace::Full);
    let pid = run(&mut Command::new("/bin/true"));
    rig.process(pid, ProcessEventKind::Exit);
}

#[test]
fn damaged_object_breaks_its_own_family_alone() {
    static DAMAGED: &[u8] = b"\x7fELF this is not an object";
    let damage = |damaged: Family| {
        BpfSensor::load_objects(only(&[Family::Process, Family::Network]), 0, move |family| {
            if family == damaged {
                Some(DAMAGED)
            } else {
                family.object()
            }
        })
    };
    let (sensor, statuses) = damage(Family::Network);
    let state = |statuses: &[ProbeStatus], probe: &str| {
        statuses
            .iter()
            .find(|status| status.probe == probe)
            .cloned()
            .unwrap()
    };
    let network = state(&statuses, "bpf.network");
    assert_eq!(network.state, ProbeState::Broken);
    assert!(
        network.reason.contains("network") && !network.hint.is_empty(),
        "{network:?}"
    );
    let others: Vec<ProbeStatus> = statuses
        .into_iter()
        .filter(|status| status.probe != "bpf.network")
        .collect();
    if !may_load(&others) {
        return;
    }
    assert!(sensor.traces_execs());

    let (sensor, statuses) = damage(Family::Process);
    let process = state(&statuses, "bpf.process");
    assert_eq!(
        (process.state, sensor.traces_execs()),
        (ProbeState::Degraded, false)
    );
    assert!(process.reason.contains("short-lived"), "{process:?}");
    assert_eq!(state(&statuses, "bpf.network").state, ProbeState::Real);
}

/// An object whose programs never end: every `exit` is a jump to itself.
fn endless(family: Family) -> Option<&'static [u8]> {
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    const JUMP_TO_ITSELF: [u8; 8] = [0x05, 0, 0xff, 0xff, 0, 0, 0, 0];
    let mut object = family.object()?.to_vec();
    for instruction in object.as_chunks_mut::<8>().0 {
        if *instruction == EXIT {
            *instruction = JUMP_TO_ITSELF;
        }
    }
    Some(object.leak())
}

#[test]
fn program_that_the_verifier_refuses_is_told_in_its_words() {
    let change = |family| {
        if family == Family::Network {
            endless(family)
        } else {
            family.object()
        }
    };
    let (sensor, statuses) = BpfSensor::load_objects(only(&[Family::Process, Family::Network]), 0, change);
    let (network, others): (Vec<_>, Vec<_>) = statuses
        .into_iter()
        .partition(|status| status.probe == "bpf.network");
    if !may_load(&others) {
        return;
    }
    assert!(sensor.traces_execs(), "the other family runs");
    assert_eq!(network[0].state, ProbeState::Broken);
    let reason = &network[0].reason;
    assert!(
        reason.contains("on_state") && reason.contains("the verifier says"),
        "{reason}"
    );
}

/// Set in the process that runs this test again without the capabilities.
const WITHOUT_CAPABILITIES: &str = "FLEETMEND_TEST_WITHOUT_CAPABILITIES";

#[test]
fn without_permission_the_reason_and_what_to_do_are_told() {
    if std::env::var_os(WITHOUT_CAPABILITIES).is_some() {
        let (sensor, statuses) = BpfSensor::load(config());
        assert!(!sensor.traces_execs());
        for status in statuses {
            let state = match status.probe.as_str() {
                "bpf.process" => ProbeState::Degraded,
                _ => ProbeState::Broken,
            };
            assert_eq!(status.state, state, "{status:?}");
            assert!(status.reason.contains("not permitted"), "{status:?}");
            assert!(status.hint.contains("CAP_BPF"), "{status:?}");
        }
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root");
        println!("COULD NOT RUN: only root has capabilities to drop");
        return;
    }
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-sys_admin,-bpf,-perfmon", "--inh-caps", "-all"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "bpf::tests::sensor::without_permission_the_reason_and_what_to_do_are_told",
        ])
        .env(WITHOUT_CAPABILITIES, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// Receives until a fact is what is wanted.
async fn receive<T>(
    receiver: &mut mpsc::Receiver<Fact>,
    what: &str,
    wanted: impl Fn(&Fact) -> Option<T>,
) -> T {
    let found = async {
        loop {
            let fact = receiver.recv().await.expect("the sensor runs");
            if let Some(found) = wanted(&fact) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_sensor_tells_its_state_the_inventory_and_what_begins() {
    let (sensor, statuses) = BpfSensor::load(only(&[Family::Process]));
    if !may_load(&statuses) {
        return;
    }
    let (sender, mut receiver) = mpsc::channel(CHANNEL);
    let tasks = Tasks::new();
    let inventory = Inventory::new(ProcessConfig::default());
    sensor.run(&tasks, sender, inventory).unwrap();
    let own = std::process::id();
    receive(&mut receiver, "snapshot of this process", |fact| match fact {
        Fact::ProcessSnapshot(row) if row.pid == own => Some(()),
        _ => None,
    })
    .await;
    receive(&mut receiver, "state of the probes", |fact| match fact {
        Fact::ProbeStatus(row) if row.probe == "bpf.process" => (row.state == ProbeState::Real).then_some(()),
        _ => None,
    })
    .await;
    let pid = run(&mut Command::new("/bin/true"));
    let begun = Instant::now();
    receive(&mut receiver, "exec", |fact| match fact {
        Fact::ProcessEvent(row) if row.pid == pid && row.kind == ProcessEventKind::Exec => Some(()),
        _ => None,
    })
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "took {:?}",
        begun.elapsed()
    );
    let report = tasks.drain(DEADLINE).await;
    assert!(report.stragglers.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_probes_processes_are_read_from_proc() {
    let (sensor, statuses) = BpfSensor::load(only(&[]));
    assert!(
        statuses
            .iter()
            .any(|status| status.probe == "bpf.process" && status.state == ProbeState::Degraded)
    );
    let (sender, mut receiver) = mpsc::channel(CHANNEL);
    let tasks = Tasks::new();
    sensor
        .run(&tasks, sender, Inventory::new(ProcessConfig::default()))
        .unwrap();
    let own = std::process::id();
    receive(&mut receiver, "first reading", |fact| match fact {
        Fact::ProcessSnapshot(row) if row.pid == own => Some(()),
        _ => None,
    })
    .await;
    receive(&mut receiver, "state of the probes", |fact| {
        matches!(fact, Fact::ProbeStatus(_)).then_some(())
    })
    .await;
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read line", "x", "--token=abc"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let wanted = |kind| {
        move |fact: &Fact| match fact {
            Fact::ProcessEvent(row) if row.pid == pid && row.kind == kind => Some((**row).clone()),
            _ => None,
        }
    };
    let exec = receive(&mut receiver, "exec", wanted(ProcessEventKind::Exec)).await;
    assert_eq!((exec.source, exec.ppid), (Source::Proc, own));
    assert_eq!(exec.args.last().map(String::as_str), Some("--token=[masked]"));
    child.kill().unwrap();
    child.wait().unwrap();
    receive(&mut receiver, "exit", wanted(ProcessEventKind::Exit)).await;
    let report = tasks.drain(DEADLINE).await;
    assert!(report.stragglers.is_empty(), "{report:?}");
}

/// What lacks by its types does not load, and what does not load without lacking anything was refused in the kernel's own
/// words: this kernel has functions with trampolines and takes no program there.
#[test]
fn forecast_by_types_is_what_really_loads_here() {
    let (sensor, statuses) = load(config());
    if !may_load(&statuses) {
        return;
    }
    let kept = sensor.kept();
    let forecasts = crate::bpf::forecast(None).unwrap();
    assert!(!forecasts.is_empty());
    for forecast in forecasts {
        let of = |(family, kept): &&(&str, super::super::family::Kept)| {
            (*family, kept.duty.name) == (forecast.family, forecast.duty)
        };
        let (_, kept) = kept.iter().find(of).expect("the family was loaded");
        let served = kept.way.expect("every duty is kept here").name;
        let lacks = forecast
            .missing
            .iter()
            .any(|missing| missing.starts_with(&format!("{served}: ")));
        assert!(!lacks, "{served} serves: {forecast:?}");
        if forecast.way != Some(served) {
            let refused = kept
                .refused
                .iter()
                .find(|(way, _)| Some(way.name) == forecast.way);
            let (_, diagnosis) = refused.expect("what would load was tried");
            assert!(diagnosis.reason.contains("refused"), "{diagnosis:?}");
        }
    }
}
