//! The host itself, its units and its models.

use super::table;
use crate::{Lane, TimeMicros, words};

table! {
    /// What a host is: written when the agent starts and when it changes.
    pub struct HostInfo("host_info", id 12, version 1, Lane::Events) {
        /// When it was read.
        time: TimeMicros,
        /// Host name.
        hostname: String,
        /// `PRETTY_NAME` of /etc/os-release.
        os: String,
        /// Kernel release.
        kernel: String,
        /// Machine architecture.
        arch: String,
        /// Logical processors.
        cpu_count: u32,
        /// Memory in bytes.
        memory_bytes: u64,
        /// When the kernel booted.
        boot_time: TimeMicros,
        /// Version of the agent.
        agent_version: String,
        /// `observe` or `enforce`, as the healer's policy has it; `absent` without a healer.
        healing: String,
    }
}

table! {
    /// State of a systemd unit: written on change, and all of them every minute.
    pub struct UnitState("units", id 5, version 1, Lane::Events) {
        /// When it was read.
        time: TimeMicros,
        /// Name, such as `nginx.service`.
        unit: String,
        /// What it is, in its own words.
        description: String,
        /// `loaded`, `not-found`, `masked`, …
        load_state: String,
        /// `active`, `failed`, `inactive`, …
        active_state: String,
        /// `running`, `dead`, `exited`, …
        sub_state: String,
        /// Main process; 0 when there is none.
        main_pid: u32,
        /// Automatic restarts since it was loaded.
        restart_count: u32,
        /// Result of its last run: `success`, `exit-code`, `signal`, …
        result: String,
    }
}

words! {
    /// What a model is doing on a host.
    pub enum ModelState {
        /// It gathers the host's normal behaviour and raises nothing.
        Learning = "learning",
        /// It scores and raises findings.
        Active = "active",
        /// It scores without raising findings.
        Shadow = "shadow",
        /// It was refused or stopped; the reason says why.
        Refused = "refused",
    }
}

table! {
    /// State of a model on a host: written on change and every minute.
    pub struct ModelStatus("model_status", id 13, version 1, Lane::Events) {
        /// When it was true.
        time: TimeMicros,
        /// Model, such as `host-anomaly`.
        model: String,
        /// Its version.
        version: String,
        /// SHA-256 of the graph, in hex.
        digest: String,
        /// What it is doing.
        state: ModelState,
        /// Why, in words.
        reason: String,
        /// Windows seen since it was loaded.
        windows: u64,
        /// When its parameters were last fitted on the host.
        fitted_at: Option<TimeMicros>,
        /// 99th percentile of its inference time in microseconds, over the last minute.
        inference_p99_us: Option<f64>,
        /// Score of the last window, 0..1 (1 − tail probability).
        score: Option<f64>,
    }
}
