//! A virtual machine: boots, runs its init, powers itself off; ended when it takes too long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::layout;

/// Longest run: several times what the suite takes on two cores.
const WITHIN: Duration = Duration::from_secs(25 * 60);
/// Longest silence, longer than a test may take: a kernel that hangs is not waited for.
const SILENCE: Duration = Duration::from_secs(6 * 60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const MEMORY_MIB: &str = "2048";
const PROCESSORS: &str = "2";
/// Bytes of the console that are shown when something is wrong.
const TAIL_BYTES: usize = 4_000;
/// The kernel's words go to the first serial port. Mitigations cost emulation most and change nothing here; a panic
/// ends the machine. The timer of an emulated processor is late when the host is busy, which the kernel takes for broken
/// hardware or a lock that hangs when it is let look.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 mitigations=off no_timer_check nowatchdog \
    rcupdate.rcu_cpu_stall_suppress=1 rdinit=/init";

/// What a machine said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Of the tests.
    pub(crate) results: String,
    console: String,
}

impl Said {
    /// The end of what the kernel said.
    pub(crate) fn console_tail(&self) -> &str {
        tail(&self.console)
    }
}

fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or_default()
}

/// The machine's process; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One machine of several that run a share of the tests each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) index: usize,
    pub(crate) of: usize,
}

/// Boots `kernel` with `image` and waits until it is off. The machine runs its share of the tests.
pub(crate) fn boot(name: &str, kernel: &Kernel, image: &Path, share: Share) -> Result<Said> {
    let Share { index, of } = share;
    let folder = layout::cache()?.join("kernels");
    let file = |what: &str| folder.join(format!("{name}.{index}.{what}"));
    let (results, console) = (file("results"), file("console"));
    for path in [&results, &console] {
        fs::write(path, "").with_context(|| format!("write {}", path.display()))?;
    }
    // A death signal, so that no machine outlives us.
    let mut machine = Command::new("setpriv");
    machine
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            PROCESSORS,
            "-m",
            MEMORY_MIB,
        ])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(image)
        .arg("-append")
        .arg(format!("{COMMAND_LINE} fleetmend.share={index}/{of}"));
    for path in [&console, &results] {
        machine.arg("-serial").arg(format!("file:{}", path.display()));
    }
    machine.stdin(Stdio::null()).stdout(Stdio::null());
    let machine = machine.spawn().context("start qemu-system-x86_64")?;
    let ended = wait(Running(machine), &[&console, &results]);
    let read = |path: &PathBuf| {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
    };
    let said = Said {
        results: read(&results)?,
        console: read(&console)?,
    };
    ended.with_context(|| {
        let (results, console) = (tail(&said.results), said.console_tail());
        format!("the tests said last:\n{results}\nthe kernel said last:\n{console}")
    })?;
    Ok(said)
}

/// Waits for the machine's own end, as long as it still says something.
fn wait(mut machine: Running, files: &[&PathBuf]) -> Result<()> {
    let begun = Instant::now();
    let (mut heard, mut last) = (0, Instant::now());
    loop {
        if let Some(status) = machine.0.try_wait().context("look at the virtual machine")? {
            if status.success() {
                return Ok(());
            }
            bail!("the virtual machine ended with {status}");
        }
        let bytes: u64 = files
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|metadata| metadata.len())
            .sum();
        if bytes != heard {
            (heard, last) = (bytes, Instant::now());
        }
        if last.elapsed() > SILENCE {
            bail!("the virtual machine has said nothing for {SILENCE:?}");
        }
        if begun.elapsed() > WITHIN {
            bail!("the virtual machine was not done within {WITHIN:?}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
