//! `benign-hour`: an hour of what is done on servers every day, and every finding that it raised.
//!
//! The work is a list of chores, each a shell script in `benign`, run one after the other in a folder of its own, over
//! and over until the time is up. The lab fails when a finding above `low` came meanwhile, and when a chore failed; one
//! that cannot be done on this host is named with the reason.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::Instance;
use crate::setting::{self, Setting};
use crate::timeline::Timeline;

/// Name of the lab.
pub(crate) const NAME: &str = "benign-hour";
/// How long, when nothing else is said.
pub(crate) const SECONDS: u64 = 3_600;
/// Longest run of a chore.
const CHORE_WITHIN: Duration = Duration::from_secs(300);
/// Exit code of a chore that this host cannot do, as automake has it.
const CANNOT: i32 = 77;
/// After the last chore: how long a finding may take.
const LAST_FINDING: Duration = Duration::from_secs(15);
/// Severities that benign work may raise.
const ALLOWED: [&str; 2] = ["info", "low"];

/// A chore: what it is, and the script.
struct Chore {
    name: &'static str,
    about: &'static str,
    script: &'static str,
    /// It is done in one round of so many.
    every: u32,
}

const CHORES: [Chore; 10] = [
    Chore {
        name: "package",
        about: "a package installed, upgraded, reinstalled and purged with dpkg; one of Debian's installed again with apt",
        script: include_str!("benign/package.sh"),
        every: 1,
    },
    Chore {
        name: "make",
        about: "a C project of forty files built with make -j16, run and installed",
        script: include_str!("benign/make.sh"),
        every: 1,
    },
    Chore {
        name: "cargo",
        about: "a Rust project built and tested, its repository committed and cloned",
        script: include_str!("benign/cargo.sh"),
        every: 1,
    },
    Chore {
        name: "rotate",
        about: "logs rotated and compressed by logrotate",
        script: include_str!("benign/rotate.sh"),
        every: 1,
    },
    Chore {
        name: "backup",
        about: "/etc and documents packed with tar, copied with rsync, restored and compared",
        script: include_str!("benign/backup.sh"),
        every: 1,
    },
    Chore {
        name: "ssh",
        about: "a login by key, a command and a copy through an ssh server on loopback",
        script: include_str!("benign/ssh.sh"),
        every: 1,
    },
    Chore {
        name: "debug",
        about: "gdb on a program by the one who built it",
        script: include_str!("benign/debug.sh"),
        every: 1,
    },
    Chore {
        name: "sudo",
        about: "commands as another user by runuser, su and sudo",
        script: include_str!("benign/sudo.sh"),
        every: 1,
    },
    Chore {
        name: "admin",
        about: "ps, ss, df, du, find, grep, ldconfig, a virtual environment, a small web server and its client",
        script: include_str!("benign/admin.sh"),
        every: 1,
    },
    Chore {
        name: "cron",
        // It waits for the next minute.
        about: "a job of a crontab run by cron",
        script: include_str!("benign/cron.sh"),
        every: 10,
    },
];

/// How long, and where the page goes.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct BenignArguments {
    /// Write what was done and raised to this file, in Markdown
    #[arg(long)]
    page: Option<PathBuf>,
}

/// What became of a chore over the rounds.
#[derive(Debug, Default, Clone)]
struct Count {
    done: u32,
    failed: u32,
    said: String,
}

/// Runs the chores for so long.
pub(crate) async fn run(
    instance: &Instance,
    state: &Path,
    time: Duration,
    arguments: &BenignArguments,
) -> Result<(Timeline, Value)> {
    let settings = setting::of_detection(state, instance.pid("agent")?)?;
    let before = open_before(instance).await?;
    let mut timeline = Timeline::new(NAME);
    let mut counts = vec![Count::default(); CHORES.len()];
    let mut impossible: Vec<Option<String>> = vec![None; CHORES.len()];
    let begun = Instant::now();
    let mut rounds = 0;
    // Every chore is done once, however short the time is.
    while rounds == 0 || begun.elapsed() < time {
        for ((chore, count), cannot) in CHORES.iter().zip(&mut counts).zip(&mut impossible) {
            let is_due = rounds % chore.every == 0 && begun.elapsed() < time && cannot.is_none();
            if rounds > 0 && !is_due {
                continue;
            }
            let (status, said) = one(chore).await?;
            match status.and_then(|status| status.code()) {
                Some(0) => count.done += 1,
                Some(CANNOT) => *cannot = Some(said.clone()),
                _ => {
                    count.failed += 1;
                    count.said = said;
                }
            }
            if rounds == 0 {
                timeline.step("done", json!({"title": chore.name, "reason": chore.about}));
            }
        }
        rounds += 1;
    }
    tokio::time::sleep(LAST_FINDING).await;
    let told = executions(instance, &timeline).await?;
    timeline.check(
        format!("the agent told of the work ({told} executions)"),
        told > 0,
    );
    let mut findings = raised(instance, &timeline).await?;
    // One that was open and counted on is told of like a new one; one that ended and came again has another id.
    findings.retain(|finding| !before.contains(finding));
    let unexpected = findings.iter().filter(|finding| !finding.is_allowed()).count();
    timeline.check(
        format!("no finding above low was raised ({unexpected} were)"),
        unexpected == 0,
    );
    let failed: Vec<&str> = CHORES
        .iter()
        .zip(&counts)
        .filter(|(_, count)| count.failed > 0)
        .map(|(chore, _)| chore.name)
        .collect();
    timeline.check(
        format!("no chore failed ({})", failed.join(", ")),
        failed.is_empty(),
    );
    let seconds = begun.elapsed().as_secs();
    let model = model_minutes(instance, &timeline).await?;
    if let Some(path) = &arguments.page {
        let mut page = page(seconds, rounds, &counts, &impossible, (&before, &findings));
        add_settings(&mut page, &settings, &model);
        std::fs::write(path, page).with_context(|| format!("write {}", path.display()))?;
    }
    let chores = CHORES.iter().zip(&counts).zip(&impossible).map(|((chore, count), cannot)| {
        json!({"chore": chore.name, "done": count.done, "failed": count.failed, "said": count.said, "cannot": cannot})
    });
    let more = json!({
        "seconds": seconds, "rounds": rounds, "chores": chores.collect::<Vec<_>>(),
        "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
        "before": before.iter().map(Finding::json).collect::<Vec<_>>(),
        "settings": settings.iter().map(|setting| format!("{} = {}", setting.key, setting.value)).collect::<Vec<_>>(),
        "model_minutes": model.iter().map(|(state, minutes)| (state.clone(), json!(minutes))).collect::<serde_json::Map<_, _>>(),
    });
    Ok((timeline, more))
}

/// Findings above low that are open: the host is not theirs alone, and what runs since before is not the work's doing.
async fn open_before(instance: &Instance) -> Result<Vec<Finding>> {
    let query = "select finding_id, severity, kind, rule, title, subject, count as times from latest_findings \
                 where state = 'open' and severity not in ('info', 'low') order by rule";
    Ok(instance.sql(query).await?.iter().map(Finding::read).collect())
}

/// Runs a chore in a folder of its own; gives its ending, none when it took too long, and the end of what it said.
async fn one(chore: &Chore) -> Result<(Option<ExitStatus>, String)> {
    let folder = tempfile::Builder::new()
        .prefix("fleetmend-benign-")
        .tempdir()
        .context("make a folder for a chore")?;
    let log = folder.path().join("chore.log");
    let file = std::fs::File::create(&log).context("make a chore's log")?;
    let work = folder.path().join("work");
    std::fs::create_dir(&work).context("make a chore's folder")?;
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-euc", chore.script])
        .current_dir(&work)
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share a chore's log")?)
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start the chore {}", chore.name))?;
    let status = match tokio::time::timeout(CHORE_WITHIN, child.wait()).await {
        Ok(status) => Some(status.context("wait for a chore")?),
        Err(_) => None,
    };
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    Ok((status, last.into_iter().rev().collect::<Vec<_>>().join(" / ")))
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    id: String,
    severity: String,
    kind: String,
    rule: String,
    title: String,
    subject: String,
    /// How often it was seen.
    times: i64,
}

impl Finding {
    fn read(row: &Value) -> Self {
        let text = |key: &str| {
            row.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            id: text("finding_id"),
            severity: text("severity"),
            kind: text("kind"),
            rule: text("rule"),
            title: text("title"),
            subject: text("subject"),
            times: row.get("times").and_then(Value::as_i64).unwrap_or_default(),
        }
    }

    fn is_allowed(&self) -> bool {
        ALLOWED.contains(&self.severity.as_str())
    }

    fn json(&self) -> Value {
        json!({
            "severity": self.severity, "kind": self.kind, "rule": self.rule, "title": self.title,
            "subject": self.subject, "times": self.times,
        })
    }
}

/// Programs that the store knows to have been executed since the beginning: where there is none nobody was looking.
async fn executions(instance: &Instance, timeline: &Timeline) -> Result<i64> {
    let query = format!(
        "select count(*) as times from process_events where kind = 'exec' and time >= '{}'",
        timeline.since_sql()
    );
    let rows = instance.sql(&query).await?;
    let times = rows.first().and_then(|row| row.get("times")?.as_i64());
    Ok(times.unwrap_or_default())
}

/// Findings that were open at some time of the run.
async fn raised(instance: &Instance, timeline: &Timeline) -> Result<Vec<Finding>> {
    let query = format!(
        "select finding_id, severity, kind, rule, title, subject, max(count) as times from findings \
         where state = 'open' and time >= '{}' \
         group by finding_id, severity, kind, rule, title, subject order by severity, rule",
        timeline.since_sql()
    );
    Ok(instance.sql(&query).await?.iter().map(Finding::read).collect())
}

/// Minutes in which the model of the host was in each state: while it learns it raises nothing.
async fn model_minutes(instance: &Instance, timeline: &Timeline) -> Result<Vec<(String, i64)>> {
    let query = format!(
        "select state, count(distinct date_trunc('minute', time)) as minutes from model_status \
         where model = 'host-anomaly' and time >= '{}' group by state order by min(time)",
        timeline.since_sql()
    );
    let rows = instance.sql(&query).await?;
    let pair = |row: &Value| {
        Some((
            row.get("state")?.as_str()?.to_owned(),
            row.get("minutes")?.as_i64()?,
        ))
    };
    Ok(rows.iter().filter_map(pair).collect())
}

/// The page of the documentation.
fn page(
    seconds: u64,
    rounds: u32,
    counts: &[Count],
    impossible: &[Option<String>],
    (before, findings): (&[Finding], &[Finding]),
) -> String {
    let mut text = format!(
        "# Benign work\n\nWhat an agent with the shipped rules says of an ordinary day. Written by `cargo xtask lab run {NAME} \
         --page docs/benign.md`\nagainst a running `cargo xtask up`, over {seconds} s and {rounds} rounds.\n\n\
         ## What was done\n\n| chore | what it is | times |\n|---|---|---|\n"
    );
    for ((chore, count), cannot) in CHORES.iter().zip(counts).zip(impossible) {
        let times = match cannot {
            Some(why) => format!("cannot be done here: {why}"),
            None if count.failed > 0 => format!("{}, and failed {} times", count.done, count.failed),
            None => count.done.to_string(),
        };
        writeln!(text, "| {} | {} | {times} |", chore.name, chore.about).ok();
    }
    text.push_str("\n## What was raised\n\n");
    add_findings(&mut text, findings);
    if !before.is_empty() {
        text.push_str(
            "\n## What was open before\n\nAs it was when the work began; what was seen again meanwhile is above, too.\n\n",
        );
        add_findings(&mut text, before);
    }
    text
}

fn add_settings(text: &mut String, settings: &[Setting], model: &[(String, i64)]) {
    text.push_str("\n## What was set\n\n");
    if settings.is_empty() {
        text.push_str("Detection as it is shipped.\n");
    } else {
        text.push_str("| setting of detection | value | by |\n|---|---|---|\n");
    }
    for Setting { key, value, by } in settings {
        writeln!(text, "| {key} | `{}` | {by} |", value.replace('|', "/")).ok();
    }
    text.push_str("\nThe model of the host, which raises nothing while it learns, was");
    if model.is_empty() {
        text.push_str(" not heard of.\n");
        return;
    }
    for (index, (state, minutes)) in model.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        write!(text, "{comma} {state} in {minutes} minutes").ok();
    }
    text.push_str(".\n");
}

fn add_findings(text: &mut String, findings: &[Finding]) {
    if findings.is_empty() {
        text.push_str("Nothing.\n");
        return;
    }
    text.push_str(
        "| severity | kind | rule | title | subject | times, at least |\n|---|---|---|---|---|---|\n",
    );
    for finding in findings {
        let cells = [
            &finding.severity,
            &finding.kind,
            &finding.rule,
            &finding.title,
            &finding.subject,
        ];
        for cell in cells {
            write!(text, "| {} ", cell.replace('|', "/")).ok();
        }
        writeln!(text, "| {} |", finding.times).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tells_what_was_done_and_what_was_not() {
        let mut counts = vec![Count::default(); CHORES.len()];
        let mut impossible = vec![None; CHORES.len()];
        counts[0].done = 3;
        impossible[1] = Some("make is not installed".to_owned());
        let finding = Finding {
            id: "f".to_owned(),
            severity: "medium".to_owned(),
            kind: "sigma".to_owned(),
            rule: "a | b".to_owned(),
            title: "t".to_owned(),
            subject: "s".to_owned(),
            times: 2,
        };
        assert!(!finding.is_allowed());
        let page = page(60, 3, &counts, &impossible, (&[], &[finding]));
        assert!(
            page.contains("cannot be done here: make is not installed"),
            "{page}"
        );
        assert!(page.contains("| medium | sigma | a / b | t | s | 2 |"), "{page}");
    }

    #[test]
    fn page_tells_what_was_set_and_whether_the_model_could_raise_anything() {
        let setting = Setting {
            key: "detect.limits.process_cpu_for_s".to_owned(),
            value: "10".to_owned(),
            by: "file",
        };
        let model = [("learning".to_owned(), 20), ("active".to_owned(), 41)];
        let mut page = String::new();
        add_settings(&mut page, &[setting], &model);
        assert!(
            page.contains("| detect.limits.process_cpu_for_s | `10` | file |"),
            "{page}"
        );
        assert!(
            page.contains("was learning in 20 minutes, active in 41 minutes."),
            "{page}"
        );
    }

    #[test]
    fn every_script_is_one_that_a_shell_reads() {
        for chore in &CHORES {
            let status = std::process::Command::new("/bin/sh")
                .args(["-nc", chore.script])
                .status()
                .unwrap();
            assert!(status.success(), "{}", chore.name);
        }
    }
}
