//! What matching one event costs, and that it stays flat from 10 to 1,000 rules.
//!
//! Rules are the public ones of `FLEETMEND_DATA` where it is set, and beyond these variants of them whose literals are
//! other words, so that each is a rule of its own. Events are execs as a host makes them: builds, shells, cron, and a
//! few that rules nearly match. The matcher runs alone in this process, without sensor and spool.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_detect::sigma::{RuleState, Sigma};
use anyhow::{Context, Result, ensure};
use fleetmend_event::table::{ProcessEvent, ProcessEventKind, Source};
use fleetmend_event::{Fact, TimeMicros};
use serde_json::json;

use crate::report::{Bar, Report, progress};

/// Numbers of rules that are compared.
const RULES: [usize; 3] = [10, 100, 1_000];
/// Rounds of each; the median is told.
const ROUNDS: usize = 9;

/// Arguments of `sigma`.
#[derive(clap::Args)]
pub(crate) struct SigmaArguments {
    /// Folder of rules for Linux
    #[arg(long, env = "FLEETMEND_DATA")]
    data: Option<PathBuf>,
}

/// Measures it.
pub(crate) fn run(quick: bool, arguments: &SigmaArguments) -> Result<Report> {
    let span = Duration::from_millis(if quick { 30 } else { 400 });
    let events = events();
    let mut report = Report::new(
        "sigma",
        1,
        json!({"events": events.len(), "rounds": ROUNDS, "rules": RULES}),
    );
    let mut costs = Vec::new();
    for count in RULES {
        let folder = tempfile::tempdir().context("make a folder for rules")?;
        let public = write_rules(folder.path(), count, arguments.data.as_deref())?;
        let begun = Instant::now();
        let mut sigma = Sigma::load(&[folder.path().to_owned()]);
        let load_ms = begun.elapsed().as_secs_f64() * 1e3;
        let loaded = sigma
            .listing()
            .iter()
            .filter(|rule| rule.state == RuleState::Loaded)
            .count();
        ensure!(loaded == count, "{loaded} of {count} rules are loaded");
        progress(format!(
            "{count} rules, {public} of them public, loaded in {load_ms:.0} ms"
        ));
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round(&mut sigma, &events, span)).collect();
        rounds.sort_by(f64::total_cmp);
        let cost = rounds.get(ROUNDS / 2).copied().unwrap_or(f64::NAN);
        costs.push(cost);
        report.figure(&format!("with_{count}_rules_ns"), cost, Bar::AtMost(20_000.0));
        report.figure(&format!("load_{count}_rules_ms"), load_ms, Bar::None);
    }
    if let (Some(few), Some(many)) = (costs.first(), costs.last()) {
        report.figure("growth_10_to_1000_ratio", many / few, Bar::AtMost(3.0));
    }
    Ok(report)
}

/// Nanoseconds per event over one span.
fn round(sigma: &mut Sigma, events: &[Fact], span: Duration) -> f64 {
    let begun = Instant::now();
    let mut seen = 0_u64;
    while begun.elapsed() < span {
        for event in events {
            std::hint::black_box(sigma.observe(event));
        }
        seen = seen.saturating_add(events.len() as u64);
    }
    begun.elapsed().as_secs_f64() * 1e9 / seen.max(1) as f64
}

/// Writes `count` rules of process_creation; returns how many of them are public.
fn write_rules(folder: &Path, count: usize, data: Option<&Path>) -> Result<usize> {
    let mut texts = Vec::new();
    if let Some(data) = data {
        let rules = data.join("sigma/rules/linux/process_creation");
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&rules)
            .with_context(|| format!("list {}", rules.display()))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        for path in paths {
            texts.push(std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
        }
    }
    texts.truncate(count);
    let public = texts.len();
    for number in public..count {
        texts.push(variant(number));
    }
    for (number, text) in texts.iter().enumerate() {
        let path = folder.join(format!("{number}.yml"));
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(public)
}

/// A rule of the usual form about programs that no other rule names.
fn variant(number: usize) -> String {
    let mut text = format!(
        "title: Variant {number}\nid: 20000000-0000-4000-8000-{number:012}\nlevel: medium\n\
        logsource: {{product: linux, category: process_creation}}\ndetection:\n  selection_img:\n    Image|endswith:\n"
    );
    for tool in 0..3 {
        // Writing into a text cannot fail.
        let _written = writeln!(text, "      - '/tool{number}x{tool}'");
    }
    text.push_str("  selection_cli:\n    CommandLine|contains:\n");
    for option in 0..4 {
        let _written = writeln!(text, "      - ' --option{number}y{option}'");
    }
    let _written = writeln!(text, "      - '/etc/secret{number}'");
    text.push_str(
        "  filter:\n    ParentImage|endswith: '/dpkg'\n  condition: all of selection_* and not filter\n",
    );
    text
}

fn events() -> Vec<Fact> {
    let commands: [(&str, &str); 16] = [
        (
            "/usr/bin/gcc-12",
            "gcc -O2 -Wall -Iinclude -c src/main.c -o build/main.o",
        ),
        ("/usr/bin/bash", "bash -c for f in *.log; do gzip \"$f\"; done"),
        ("/usr/bin/ls", "ls -la /var/log"),
        (
            "/usr/bin/dash",
            "sh -c test -x /usr/sbin/anacron || run-parts --report /etc/cron.daily",
        ),
        (
            "/usr/bin/git",
            "git -c core.hooksPath=/dev/null fetch origin main",
        ),
        (
            "/usr/bin/curl",
            "curl -fsSL https://example.com/list.txt -o list.txt",
        ),
        ("/usr/bin/python3.11", "python3 -m http.server 8000"),
        ("/usr/bin/grep", "grep -rn TODO src"),
        (
            "/usr/bin/tar",
            "tar --create --file backup.tar --directory /srv data",
        ),
        ("/usr/sbin/logrotate", "logrotate /etc/logrotate.conf"),
        ("/usr/bin/systemctl", "systemctl status nginx.service"),
        ("/usr/bin/find", "find /srv -name *.tmp -mtime +7 -delete"),
        ("/usr/bin/ssh", "ssh -o BatchMode=yes host uptime"),
        ("/usr/bin/rsync", "rsync -a --delete /srv/data/ backup:/srv/data/"),
        ("/usr/bin/cat", "cat /etc/hostname"),
        (
            "/usr/lib/rustlib/cc1",
            "cc1 -quiet -imultiarch x86_64-linux-gnu main.c -o /tmp/ccXy12.s",
        ),
    ];
    commands
        .iter()
        .zip(1..)
        .map(|((exe, line), pid)| exec(exe, line, pid))
        .collect()
}

fn exec(exe: &str, line: &str, pid: u32) -> Fact {
    ProcessEvent {
        time: TimeMicros(i64::from(pid)),
        boot_ns: 1,
        kind: ProcessEventKind::Exec,
        pid,
        start_boot_ns: 1,
        ppid: 1,
        parent_comm: Some("bash".to_owned()),
        parent_exe: Some("/usr/bin/bash".to_owned()),
        parent_command_line: Some("bash -l".to_owned()),
        comm: exe.rsplit('/').next().unwrap_or_default().to_owned(),
        exe: Some(exe.to_owned()),
        args: line.split(' ').map(str::to_owned).collect(),
        args_truncated: false,
        uid: 0,
        gid: 0,
        cgroup: None,
        unit: None,
        container_id: None,
        exit_code: None,
        exit_signal: None,
        duration_us: None,
        user_us: None,
        system_us: None,
        rss_bytes_max: None,
        source: Source::Ebpf,
        euid: Some(0),
        login_uid: None,
        working_directory: Some("/root".to_owned()),
        fileless: Some(false),
    }
    .into()
}
