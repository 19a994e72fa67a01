//! `sigma-oracle`: our verdicts on Sigma rules beside those of pySigma and SQLite.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step::{command, output, run, step};
use crate::{layout, setup};

/// What the oracle's script needs, beside it.
const REQUIREMENTS: &str = "agent/detect/src/sigma/oracle/requirements.txt";

/// Variable that gives tests the Python with pySigma.
pub(crate) const PYTHON: &str = "FLEETMEND_SIGMA_PYTHON";

/// Python that has pySigma, in an environment of its own; made once for each set of versions.
pub(crate) fn python() -> Result<PathBuf> {
    let requirements = layout::root().join(REQUIREMENTS);
    let wanted =
        std::fs::read_to_string(&requirements).with_context(|| format!("read {}", requirements.display()))?;
    let folder = layout::cache()?.join("sigma-oracle");
    let (python, installed) = (folder.join("bin/python3"), folder.join("installed.txt"));
    if std::fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    step("install pySigma", || {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&folder);
        run(&mut make).context("make a Python environment (apt-get install python3-venv)")?;
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .arg("--requirement")
        .arg(&requirements);
        run(&mut pip)?;
        output(Command::new(&python).args(["-c", "import sigma.backends.sqlite"])).context("try pySigma")?;
        // Last: an environment that was left half made is made again.
        std::fs::write(&installed, &wanted).with_context(|| format!("write {}", installed.display()))
    })?;
    Ok(python)
}

/// Runs the comparison and lets it report.
pub(crate) fn oracle() -> Result<()> {
    setup::packages(setup::BUILD_PACKAGES)?;
    ensure!(
        std::env::var_os("FLEETMEND_DATA").is_some(),
        "set FLEETMEND_DATA to the folder that has sigma/rules: there are no public rules to compare"
    );
    let arguments = [
        "test",
        "--quiet",
        "--package",
        "agent-detect",
        "--lib",
        "--",
        "--nocapture",
        "sigma::oracle",
    ];
    let status = command("cargo", &arguments)
        .current_dir(layout::root())
        .env(PYTHON, python()?)
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "our verdicts and the oracle's differ");
    Ok(())
}
