use std::fmt;
use std::time::Duration;

/// Why the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// A sentence for the log: who asked, or which task failed and with what.
    pub reason: String,
    /// Whether a critical task caused it; the exit code should then not be 0.
    pub failed: bool,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// How a drain went.
#[derive(Clone, Debug)]
pub struct DrainReport {
    /// Why it began.
    pub end: End,
    /// How long it took.
    pub took: Duration,
    /// Paths (`room/task`) of what did not end in its share of the deadline, children first.
    pub stragglers: Vec<String>,
}

impl DrainReport {
    /// Whether everything ended by itself and no critical task had failed.
    pub fn is_clean(&self) -> bool {
        !self.end.failed && self.stragglers.is_empty()
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drained in {} ms ({})", self.took.as_millis(), self.end)?;
        if !self.stragglers.is_empty() {
            write!(f, "; did not end in time: {}", self.stragglers.join(", "))?;
        }
        Ok(())
    }
}
