//! Compiles each probe family into a CO-RE object that `lib.rs` embeds.
//!
//! Needs clang 14 or newer with the bpf target and libbpf's headers. `FLEETMEND_CLANG` names another clang.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const OBJECTS: &[&str] = &["process", "network", "abi"];
const HEADERS: &[&str] = &["src/vmlinux_min.h", "src/abi.h", "src/probe.h"];
const INSTALL: &str = "apt-get install clang libbpf-dev";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=FLEETMEND_CLANG");
    for header in HEADERS {
        println!("cargo::rerun-if-changed={header}");
    }
    let Some(out_dir) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        println!("cargo::error=OUT_DIR is not set: run through cargo");
        return ExitCode::FAILURE;
    };
    let clang = env::var("FLEETMEND_CLANG").unwrap_or_else(|_| "clang".to_owned());
    for name in OBJECTS {
        if let Err(reason) = compile(&clang, name, &out_dir) {
            for line in reason.lines() {
                println!("cargo::error={line}");
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn compile(clang: &str, name: &str, out_dir: &Path) -> Result<(), String> {
    let source = format!("src/{name}.bpf.c");
    println!("cargo::rerun-if-changed={source}");
    let output = Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Werror"])
        .args(["-fdebug-prefix-map=/=", "-c", &source, "-o"])
        .arg(out_dir.join(format!("{name}.bpf.o")))
        .output()
        .map_err(|error| {
            format!("cannot run `{clang}` to compile the BPF probes: {error}\ninstall it with: {INSTALL}")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let diagnostics = String::from_utf8_lossy(&output.stderr);
    let hint = if diagnostics.contains("file not found") || diagnostics.contains("unable to create target") {
        format!("\ninstall what is missing with: {INSTALL}")
    } else {
        String::new()
    };
    Err(format!("`{clang}` refused {source}: {diagnostics}{hint}"))
}
