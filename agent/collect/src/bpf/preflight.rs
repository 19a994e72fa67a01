//! What would load on a kernel, judged by its BTF alone: hooks, functions, types and fields, helpers.
//!
//! Nothing is loaded and no privilege is needed, so another kernel's types will do. What BTF does not tell is what the
//! verifier, lockdown or a missing capability refuse: loading tells that.

use std::io;
use std::path::Path;

use aya::{Btf, BtfError};
use aya_obj::Object;
use aya_obj::btf::BtfKind;
use fleetmend_ebpf::Family;

use super::reachable::reachable;
use super::spec::{At, Hook, SPECS, Way};

/// Helpers that not every supported kernel has, with the kernel's function that has its name.
const HELPERS: [(i32, &str); 2] = [(158, "bpf_get_current_task_btf"), (175, "bpf_task_pt_regs")];
/// Instruction that stands for a field or type that the kernel lacks.
const POISON: i32 = 0xBAD_2310;
/// Code of a call.
const CALL: u8 = 0x85;

/// How one duty would be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The family.
    pub family: &'static str,
    /// The duty.
    pub duty: &'static str,
    /// The way that would serve; `None` when the kernel lacks something for each.
    pub way: Option<&'static str>,
    /// What is missing for the ways before that one.
    pub missing: Vec<String>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The types cannot be read.
    #[error(
        "cannot read the kernel's types: name a file with BTF, such as a copy of /sys/kernel/btf/vmlinux"
    )]
    Types {
        /// Why.
        source: BtfError,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An object of this build is damaged.
    #[error("cannot read the probes of family {family}: reinstall the package: {reason}")]
    Object {
        /// The family.
        family: &'static str,
        /// Why.
        reason: String,
    },
}

/// Judges this kernel, or the one whose BTF is in a file.
///
/// # Errors
/// When the types or an object cannot be read.
pub fn forecast(btf: Option<&Path>) -> Result<Vec<Forecast>, PreflightError> {
    let path = btf.unwrap_or(Path::new("/sys/kernel/btf/vmlinux"));
    let bytes = std::fs::read(path).map_err(|source| PreflightError::File {
        path: path.display().to_string(),
        source,
    })?;
    let types =
        Btf::parse(&bytes, aya::Endianness::default()).map_err(|source| PreflightError::Types { source })?;
    let mut forecasts = Vec::new();
    for spec in SPECS {
        let Some(object) = spec.family.object() else {
            continue;
        };
        let object = Probes::read(spec.family, object, &types)?;
        for duty in spec.duties {
            let mut missing = Vec::new();
            let serves = |way: &&Way| match object.lacks(way, &types) {
                None => true,
                Some(what) => {
                    missing.push(format!("{}: {what}", way.name));
                    false
                }
            };
            let way = duty.ways.iter().find(serves).map(|way| way.name);
            forecasts.push(Forecast {
                family: spec.family.as_str(),
                duty: duty.name,
                way,
                missing,
            });
        }
    }
    Ok(forecasts)
}

/// The programs of an object, moved to the kernel's layout.
struct Probes(Object);

impl Probes {
    fn read(family: Family, bytes: &[u8], types: &Btf) -> Result<Self, PreflightError> {
        let fault = |reason: String| PreflightError::Object {
            family: family.as_str(),
            reason,
        };
        let mut object = Object::parse(bytes).map_err(|error| fault(error.to_string()))?;
        object
            .relocate_btf(types)
            .map_err(|error| fault(error.to_string()))?;
        Ok(Self(object))
    }

    /// What the kernel lacks for a way.
    fn lacks(&self, way: &Way, types: &Btf) -> Option<String> {
        let lacking: Vec<(&Hook, String)> = way
            .hooks
            .iter()
            .filter_map(|hook| {
                Some((
                    hook,
                    hook_lacks(hook.at, types).or_else(|| self.program_lacks(hook, types))?,
                ))
            })
            .collect();
        let needed = lacking.iter().find(|(hook, _)| !hook.optional);
        let none_left = (lacking.len() == way.hooks.len())
            .then(|| lacking.first())
            .flatten();
        needed.or(none_left).map(|(_, what)| what.clone())
    }

    fn program_lacks(&self, hook: &Hook, types: &Btf) -> Option<String> {
        if matches!(hook.at, At::Absent(_)) {
            return None;
        }
        let Some(program) = self.0.programs.get(hook.program) else {
            return Some(format!("the object has no program {}", hook.program));
        };
        let function = self.0.functions.get(&program.function_key())?;
        let runs = reachable(&function.instructions);
        let calls = function
            .instructions
            .iter()
            .zip(runs)
            .filter(|(one, runs)| *runs && one.code == CALL && one.src_reg() == 0);
        for (call, _) in calls {
            if call.imm == POISON {
                return Some(format!("a field or type that {} reads", hook.program));
            }
            let helper = HELPERS.iter().find(|(number, _)| *number == call.imm);
            if let Some((_, name)) = helper.filter(|(_, name)| !has(types, name, BtfKind::Func)) {
                return Some(format!("helper {name}"));
            }
        }
        None
    }
}

fn has(types: &Btf, name: &str, kind: BtfKind) -> bool {
    types.id_by_type_name_kind(name, kind).is_ok()
}

/// What the kernel lacks for a hook.
fn hook_lacks(at: At, types: &Btf) -> Option<String> {
    let function = |name: &str| has(types, name, BtfKind::Func);
    let lacking = |there: bool, what: String| (!there).then_some(what);
    match at {
        At::BtfTracepoint(name) | At::RawTracepoint(name) => {
            let there = has(types, &format!("btf_trace_{name}"), BtfKind::Typedef);
            lacking(there, format!("tracepoint {name}"))
        }
        At::Tracepoint("syscalls", name) => {
            let call = name
                .trim_start_matches("sys_enter_")
                .trim_start_matches("sys_exit_");
            // The types of a kernel before 5.13 leave out functions; this one lies in the function that runs the programs.
            let traced = function("perf_syscall_exit") || has(types, "syscall_tp_t", BtfKind::Struct);
            let there = traced
                && ["__x64_sys_", "__arm64_sys_"]
                    .iter()
                    .any(|prefix| function(&format!("{prefix}{call}")));
            lacking(there, format!("tracepoint syscalls:{name}"))
        }
        At::Tracepoint(category, name) => {
            let there = has(types, &format!("btf_trace_{name}"), BtfKind::Typedef);
            lacking(there, format!("tracepoint {category}:{name}"))
        }
        At::Fentry(name) | At::Fexit(name) => {
            // Kernels whose types leave the function out have this list of such programs.
            let direct =
                function("register_ftrace_direct") || has(types, "ftrace_direct_func", BtfKind::Struct);
            if !direct {
                return Some("programs at functions (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)".to_owned());
            }
            lacking(function(name), format!("function {name}"))
        }
        At::Lsm(name) => lacking(
            function(&format!("bpf_lsm_{name}")),
            format!("security hook {name}"),
        ),
        // What there is nothing of needs no hook: the types of a kernel without modules have no loader of them.
        At::Absent(_) => lacking(!function("load_module"), "a kernel without modules".to_owned()),
        At::Kprobe(name) => {
            if !function("register_kprobe") {
                return Some("kprobes (CONFIG_KPROBES)".to_owned());
            }
            lacking(function(name), format!("function {name}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_no_btf_is_refused_with_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no types").unwrap();
        let error = forecast(Some(file.path())).unwrap_err();
        assert!(error.to_string().contains("/sys/kernel/btf/vmlinux"), "{error}");
        assert!(matches!(
            forecast(Some(Path::new("/no/such/file"))),
            Err(PreflightError::File { .. })
        ));
    }
}
