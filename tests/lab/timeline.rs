//! What happened, when, with the row that shows it.

use std::time::Instant;

use serde_json::{Value, json};

struct Step {
    name: &'static str,
    seconds: f64,
    evidence: Value,
}

struct Check {
    what: String,
    held: bool,
}

/// A lab's report.
pub(crate) struct Timeline {
    lab: &'static str,
    begun: Instant,
    /// When it began.
    since: jiff::Timestamp,
    steps: Vec<Step>,
    checks: Vec<Check>,
}

impl Timeline {
    /// A report that begins now.
    pub(crate) fn new(lab: &'static str) -> Self {
        Self {
            lab,
            begun: Instant::now(),
            since: jiff::Timestamp::now(),
            steps: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// When it began, in seconds since 1970.
    pub(crate) fn since(&self) -> f64 {
        self.since.as_microsecond() as f64 / 1e6
    }

    /// The moment of its beginning, as SQL writes it.
    pub(crate) fn since_sql(&self) -> String {
        self.since.to_string()
    }

    /// Notes a step: at the time its row says, or, when the evidence is the lab's own, now.
    pub(crate) fn step(&mut self, name: &'static str, evidence: Value) {
        let said = evidence.get("time").and_then(Value::as_str);
        let seconds = match said.and_then(|time| time.parse::<jiff::Timestamp>().ok()) {
            Some(time) => time.duration_since(self.since).as_secs_f64(),
            None => self.begun.elapsed().as_secs_f64(),
        };
        self.steps.push(Step {
            name,
            seconds,
            evidence,
        });
    }

    /// Notes whether something is as it should be.
    pub(crate) fn check(&mut self, what: impl Into<String>, held: bool) {
        self.checks.push(Check {
            what: what.into(),
            held,
        });
    }

    /// Whether everything was as it should be, and something was looked at.
    pub(crate) fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.held)
    }

    /// The report for programs, with the fields of `more`.
    pub(crate) fn json(&self, more: &Value) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| json!({"step": step.name, "seconds": step.seconds, "evidence": step.evidence}))
            .collect();
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| json!({"check": check.what, "held": check.held}))
            .collect();
        let mut report =
            json!({"lab": self.lab, "passed": self.passed(), "timeline": steps, "checks": checks});
        if let (Some(report), Some(more)) = (report.as_object_mut(), more.as_object()) {
            report.extend(more.clone());
        }
        report
    }

    /// The report for people, with the fields of `more`.
    pub(crate) fn text(&self, more: &Value) -> String {
        let mut text = format!("{}\n", self.lab);
        for step in &self.steps {
            text.push_str(&format!(
                "  {:>7.2} s  {:<18} {}\n",
                step.seconds,
                step.name,
                brief(&step.evidence)
            ));
        }
        for check in &self.checks {
            text.push_str(&format!(
                "  {:<7}    {}\n",
                if check.held { "ok" } else { "WRONG" },
                check.what
            ));
        }
        for (name, value) in more.as_object().into_iter().flatten() {
            text.push_str(&format!("  {name:<10} {value}\n"));
        }
        text.push_str(if self.passed() { "  passed\n" } else { "  FAILED\n" });
        text
    }
}

fn brief(evidence: &Value) -> String {
    let Some(fields) = evidence.as_object() else {
        return evidence.to_string();
    };
    let wanted = [
        "title",
        "reason",
        "stage",
        "ending",
        "before",
        "after",
        "techniques",
        "verdict",
    ];
    let shown = wanted
        .iter()
        .filter_map(|key| Some((key, fields.get(*key)?)))
        .filter(|(_, value)| !value.is_null());
    let words: Vec<String> = shown
        .map(|(key, value)| {
            format!(
                "{key}={}",
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            )
        })
        .collect();
    if words.is_empty() {
        evidence.to_string()
    } else {
        words.join(" ")
    }
}
