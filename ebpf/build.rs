//! Compiles each probe family into a CO-RE object that `lib.rs` embeds, and each header of records into an object
//! that carries their layout.
//!
//! A family is a file `src/NAME.bpf.c`; its records are in `src/abi/NAME.h`. Nothing else lists them.
//! Needs clang 14 or newer with the bpf target and libbpf's headers. `FLEETMEND_CLANG` names another clang.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const INSTALL: &str = "apt-get install clang libbpf-dev";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=FLEETMEND_CLANG");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            for line in reason.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out_dir = env::var_os("OUT_DIR").map(PathBuf::from);
    let out_dir = out_dir.ok_or("OUT_DIR is not set: run through cargo")?;
    let clang = env::var("FLEETMEND_CLANG").unwrap_or_else(|_| "clang".to_owned());
    let families = names("src", ".bpf.c")?;
    for name in &families {
        let object = out_dir.join(format!("{name}.bpf.o"));
        compile(&clang, &format!("src/{name}.bpf.c"), &object)?;
    }
    write_table(&out_dir.join("objects.rs"), "OBJECTS", "", &families)?;
    let records = names("src/abi", ".h")?;
    for name in &records {
        let source = out_dir.join(format!("layout_{name}.bpf.c"));
        let text = layout_source(name)?;
        fs::write(&source, text).map_err(|error| format!("cannot write {}: {error}", source.display()))?;
        let object = out_dir.join(format!("layout_{name}.bpf.o"));
        compile(&clang, &source.to_string_lossy(), &object)?;
    }
    write_table(&out_dir.join("layouts.rs"), "LAYOUT_OBJECTS", "layout_", &records)
}

/// The files of a folder with this ending, without it, in order.
fn names(folder: &str, ending: &str) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("cannot read {folder}: {error}"))?;
    let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(ending)?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// A source that uses every struct of a header, so that clang describes it.
fn layout_source(name: &str) -> Result<String, String> {
    let path = format!("src/abi/{name}.h");
    let header = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let mut text = format!(
        "#include \"vmlinux_min.h\"\n#include \"abi.h\"\n#include \"abi/{name}.h\"\nstruct act_head shared_act_head;\n\
         struct repeats_record shared_repeats_record;\nstruct repeat_set shared_repeat_set;\n"
    );
    let structs = header
        .lines()
        .filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"));
    for name in structs {
        text.push_str(&format!("struct {name} layout_of_{name};\n"));
    }
    Ok(text)
}

/// `static NAME: &[(&str, &Aligned<[u8]>)]` with the objects' bytes.
fn write_table(path: &Path, table: &str, prefix: &str, names: &[String]) -> Result<(), String> {
    let mut text = format!("static {table}: &[(&str, &Aligned<[u8]>)] = &[\n");
    for name in names {
        let object = format!("/{prefix}{name}.bpf.o");
        text.push_str(&format!(
            "    (\"{name}\", &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"{object}\")))),\n"
        ));
    }
    text.push_str("];\n");
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn compile(clang: &str, source: &str, object: &Path) -> Result<(), String> {
    let target = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("aarch64") => "-D__TARGET_ARCH_arm64",
        _ => "-D__TARGET_ARCH_x86",
    };
    let output = Command::new(clang)
        .args([
            "-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Werror", target,
        ])
        .args(["-fdebug-prefix-map=/=", "-Isrc", "-c", source, "-o"])
        .arg(object)
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
