//! What has to hold on every kernel, and the few exceptions with their reasons.

use super::outcome::{Outcome, Row, Test};

/// A test that may say that it did not run.
struct Exception {
    kernel: &'static str,
    /// Part of the test's name.
    test: &'static str,
    /// Why the kernel cannot do what is tested.
    why: &'static str,
}

/// Each names what the kernel lacks; the documentation of the matrix repeats it.
const EXCEPTIONS: &[Exception] = &[];

/// Promises that were not kept, in words.
pub(crate) fn broken(row: &Row) -> Vec<String> {
    row.tests
        .iter()
        .filter_map(|test| fault(row, test))
        .map(|fault| format!("kernel {} ({}): {fault}", row.name, row.version))
        .collect()
}

fn fault(row: &Row, test: &Test) -> Option<String> {
    let said = || test.said.join("\n    ");
    match test.outcome {
        Outcome::Passed => None,
        Outcome::Failed => Some(format!("{} failed:\n    {}", test.name, said())),
        Outcome::TimedOut => Some(format!(
            "{} did not end within {:.0} s:\n    {}",
            test.name,
            test.seconds,
            said()
        )),
        Outcome::NotRun if excepted(row, test).is_some() => None,
        Outcome::NotRun => Some(format!("{} did not run:\n    {}", test.name, said())),
    }
}

/// Why a test may not run on a kernel.
fn excepted(row: &Row, test: &Test) -> Option<&'static str> {
    let applies = |exception: &&Exception| exception.kernel == row.name && test.name.contains(exception.test);
    EXCEPTIONS.iter().find(applies).map(|exception| exception.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_that_did_not_run_breaks_its_promise() {
        let test = |outcome| {
            Test::new(
                "bpf::tests::a::b".to_owned(),
                outcome,
                1.0,
                vec!["not run: x".to_owned()],
            )
        };
        let row = |outcome| Row {
            name: "6.1".to_owned(),
            version: "6.1.0".to_owned(),
            tests: vec![test(outcome)],
        };
        // It passed, but says that it did not try.
        assert_eq!(broken(&row(Outcome::Passed)).len(), 1);
        assert_eq!(broken(&row(Outcome::Failed)).len(), 1);
    }
}
