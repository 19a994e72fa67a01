//! What a detection is called, and what ATT&CK calls it.

/// One thing that is detected.
#[derive(Debug)]
pub struct Detection {
    /// Name in findings and in the configuration.
    pub rule: &'static str,
    /// ATT&CK techniques.
    pub techniques: &'static [&'static str],
    /// ATT&CK tactics.
    pub tactics: &'static [&'static str],
    /// Whether it is raised because nothing in the process' descent explains the act: then what is not known of the
    /// descent lowers its severity.
    pub(crate) by_descent: bool,
}

/// Declares detections as constants, and a list of them.
macro_rules! declare {
    ($($name:ident = $rule:literal [$($technique:literal),*] [$($tactic:literal),*] $by_descent:expr;)+) => {
        $(pub(crate) const $name: $crate::behaviour::Detection = $crate::behaviour::Detection {
            rule: $rule,
            techniques: &[$($technique),*],
            tactics: &[$($tactic),*],
            by_descent: $by_descent,
        };)+

        /// What this module detects.
        pub(crate) const ALL: &[&$crate::behaviour::Detection] = &[$(&$name),+];
    };
}
pub(crate) use declare;

/// Every detection over several facts.
pub fn detections() -> impl Iterator<Item = &'static Detection> {
    crate::act::detections().chain(crate::flow::detections())
}
