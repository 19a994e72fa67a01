//! What may be typed.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{FindingKind, FindingState, Severity};

/// Watch and repair a fleet of Linux servers.
#[derive(Parser)]
#[command(name = "fleetmend", version, after_help = HELP)]
pub(crate) struct Arguments {
    /// Address of the collector.
    #[arg(long, env = "FLEETMEND_URL", global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// PEM file of the authority that signed the collector's certificate.
    #[arg(long, env = "FLEETMEND_CA", global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Print the answers of the API as JSON; the same as `-o json`.
    #[arg(long, global = true)]
    json: bool,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Show every column, and cut nothing to the width of the terminal.
    #[arg(short, long, global = true)]
    pub(crate) wide: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Words that the API would take too; wrong ones are refused here, with those that are right.
macro_rules! words {
    ($vocabulary:ty) => {
        PossibleValuesParser::new(<$vocabulary>::ALL.iter().map(|word| word.as_str()))
    };
}

const ALERT_STATES: [&str; 7] = [
    "pending", "waiting", "firing", "resolved", "healed", "late", "unknown",
];
const ROLES: [&str; 2] = ["admin", "viewer"];

/// How many of something; none of it is no wish.
fn at_least_one<T: FromStr<Err: Display> + From<u8> + PartialOrd>(text: &str) -> Result<T, String> {
    let number: T = text.parse().map_err(|error: T::Err| error.to_string())?;
    if number >= T::from(1) {
        Ok(number)
    } else {
        Err("it has to be 1 or more".to_owned())
    }
}

/// Something that cannot be found by an empty text.
fn given() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

fn tables() -> PossibleValuesParser {
    PossibleValuesParser::new(fleetmend_event::tables().iter().map(|table| table.name))
}

const HELP: &str =
    "Environment: FLEETMEND_URL (default http://127.0.0.1:7780), FLEETMEND_CA, and either FLEETMEND_TOKEN, or
FLEETMEND_USER with FLEETMEND_PASSWORD, for which the session of `fleetmend login` is used if it is that user's;
without them the session of `fleetmend login` is used.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not logged in or not allowed, 4 unreachable, 5 no such thing.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

impl Arguments {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Log in and keep the session.
    Login(Login),
    /// End the session.
    Logout,
    /// All hosts, with the status of every probe underneath.
    #[command(args_conflicts_with_subcommands = true)]
    Hosts {
        /// Leave the probes out.
        #[arg(long)]
        no_probes: bool,
        /// List those too that left the fleet or were taken out of it.
        #[arg(long)]
        removed: bool,
        #[command(subcommand)]
        command: Option<Hosts>,
    },
    /// One host: what it is, its probes, models, failed units and busiest processes.
    Host {
        /// Id or name of the host.
        #[arg(value_parser = given())]
        host: String,
    },
    /// Findings, newest change first.
    Findings(Findings),
    /// One finding with its explanation, and what was done about it.
    Finding {
        /// Id, or its first characters.
        #[arg(value_parser = given())]
        finding: String,
        /// Id or name of the host, when the finding is older than the list goes back.
        #[arg(long)]
        host: Option<String>,
    },
    /// Healing transactions, newest first.
    Actions {
        /// Only of this host: id or name.
        #[arg(long)]
        host: Option<String>,
        /// Only with this ending.
        #[arg(long, value_parser = words!(Ending))]
        ending: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = at_least_one::<usize>)]
        limit: usize,
    },
    /// One healing transaction, step by step, with what was measured.
    Action {
        /// Id, or its first characters.
        #[arg(value_parser = given())]
        action: String,
        /// Id or name of the host, when the action is older than the list goes back.
        #[arg(long)]
        host: Option<String>,
    },
    /// Alerts, newest change first, and whether their messages arrived.
    Alerts {
        /// Only in this state.
        #[arg(long, value_parser = PossibleValuesParser::new(ALERT_STATES))]
        state: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = at_least_one::<usize>)]
        limit: usize,
    },
    /// Sites as each host sees them.
    Sites,
    /// Known losses of the last day.
    Gaps,
    /// Evaluate an expression of PromQL, now or over a range.
    Query(crate::commands::query::Query),
    /// Run an SQL query. Tables: metrics, process_events, network_events, file_events, credential_events,
    /// memory_events, kernel_events, signal_events, integrity_events, syscall_profiles, log_records, auth_events,
    /// sensor_accounts, processes, units, site_probes, probe_status, findings, actions, ledger, gaps, host_info, model_status.
    Sql {
        /// One SELECT; `-` reads it from standard input.
        query: String,
        /// Rows at most.
        #[arg(long, default_value_t = 1_000, value_parser = at_least_one::<usize>)]
        rows_max: usize,
    },
    /// Rows as they arrive.
    Tail(Tail),
    /// Facts for others: files, records in their words, and the targets that the collector sends to.
    #[command(subcommand)]
    Export(Export),
    /// Certificates and when they end, soonest first: of hosts, and the collector's own.
    Certs {
        /// Only those that end within so many days (30 when left out) or have ended; revoked ones are left out.
        #[arg(long, value_name = "DAYS", num_args = 0..=1, default_missing_value = "30")]
        expiring: Option<u32>,
    },
    /// Enrolment tokens for new hosts.
    #[command(subcommand)]
    Token(Token),
    /// Users of the API.
    #[command(subcommand)]
    Users(Users),
    /// Groups of hosts, which bound what a viewer sees.
    #[command(subcommand)]
    Groups(Groups),
    /// SQL queries that run now; yours, or everybody's for an admin.
    #[command(args_conflicts_with_subcommands = true)]
    Queries {
        #[command(subcommand)]
        command: Option<Queries>,
    },
    /// Revoke the identity of a host; it has to enrol anew.
    Revoke {
        /// Id or name of the host.
        #[arg(value_parser = given())]
        host: String,
        /// Why, for the audit trail.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// The audit trail, newest first.
    Audit {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = at_least_one::<usize>)]
        limit: usize,
    },
    /// Healing policies, signed with the fleet root key.
    #[command(subcommand)]
    Policy(Policy),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
pub(crate) enum Hosts {
    /// Take a host out of the fleet: its identity is revoked and it is not waited for any more; its data stays.
    Remove {
        /// Id or name of the host.
        #[arg(value_parser = given())]
        host: String,
        /// Why, for the audit trail.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Args)]
pub(crate) struct Login {
    /// User.
    #[arg(long, env = "FLEETMEND_USER")]
    pub(crate) user: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Args)]
pub(crate) struct Findings {
    /// Only of this host: id or name.
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Only in this state.
    #[arg(long, value_parser = words!(FindingState))]
    pub(crate) state: Option<String>,
    /// The least severity.
    #[arg(long, value_parser = words!(Severity))]
    pub(crate) severity: Option<String>,
    /// Only of this kind.
    #[arg(long, value_parser = words!(FindingKind))]
    pub(crate) kind: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 50, value_parser = at_least_one::<usize>)]
    pub(crate) limit: usize,
}

#[derive(Args)]
pub(crate) struct Tail {
    /// Tables, with commas or repeated; all but metrics when left out.
    #[arg(long, value_delimiter = ',', value_parser = tables())]
    pub(crate) table: Vec<String>,
    /// Only of this host: id or name.
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// End after so many rows.
    #[arg(short = 'n', long, value_parser = at_least_one::<u64>)]
    pub(crate) count: Option<u64>,
}

#[derive(Subcommand)]
pub(crate) enum Export {
    /// How each target that the collector sends to stands.
    Status,
    /// Send a target an empty request.
    Test {
        /// Its name.
        #[arg(value_parser = given())]
        name: String,
    },
    /// Records in the Elastic Common Schema, one JSON document a line.
    Ecs(Records),
    /// Records in the Open Cybersecurity Schema Framework, one JSON event a line.
    Ocsf(Records),
    /// Rows as one Parquet file.
    Parquet {
        /// Table.
        #[arg(long, value_parser = tables())]
        table: String,
        /// From then, by the hosts' clocks: RFC 3339, or an offset such as -1d.
        #[arg(long, default_value = "-1h", allow_hyphen_values = true)]
        from: String,
        /// Until then, itself left out.
        #[arg(long, default_value = "now", allow_hyphen_values = true)]
        to: String,
        /// Only of this host: id or name.
        #[arg(long)]
        host: Option<String>,
        /// File to write; it is not there before it is whole.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Records {
    /// Table.
    #[arg(long, default_value = "findings", value_parser = tables())]
    pub(crate) table: String,
    /// Stored since then: RFC 3339, or an offset such as -1d.
    #[arg(long, default_value = "-1h", allow_hyphen_values = true)]
    pub(crate) from: String,
    /// Stored until then.
    #[arg(long, allow_hyphen_values = true, conflicts_with = "follow")]
    pub(crate) to: Option<String>,
    /// Only of this host: id or name.
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Go on with what is stored from now on.
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Subcommand)]
pub(crate) enum Token {
    /// Make a token; it is shown once.
    Create {
        /// How long it holds, in seconds.
        #[arg(long, default_value_t = 3_600, value_parser = at_least_one::<u64>)]
        lifetime_s: u64,
        /// How many hosts it enrols.
        #[arg(long, default_value_t = 1, value_parser = at_least_one::<u32>)]
        uses: u32,
    },
    /// Tokens that are kept.
    List,
    /// Take a token back.
    Revoke {
        /// Its id.
        #[arg(value_parser = given())]
        id: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Users {
    /// All users.
    List,
    /// Make a user; the password is read from standard input or asked for.
    Create {
        /// Name.
        name: String,
        /// What they may do.
        #[arg(long, default_value = "viewer", value_parser = PossibleValuesParser::new(ROLES))]
        role: String,
        /// Groups whose hosts the viewer sees, with commas; every host when left out.
        #[arg(long, value_delimiter = ',', value_parser = given())]
        groups: Option<Vec<String>>,
    },
    /// Say which hosts a viewer sees.
    #[command(group = clap::ArgGroup::new("bounds").required(true))]
    Scope {
        /// Name.
        #[arg(value_parser = given())]
        name: String,
        /// The hosts of these groups, with commas, and no other.
        #[arg(long, value_delimiter = ',', value_parser = given(), group = "bounds")]
        groups: Option<Vec<String>>,
        /// Every host.
        #[arg(long, group = "bounds")]
        all: bool,
        /// No host.
        #[arg(long, group = "bounds")]
        none: bool,
    },
    /// Remove a user and end their sessions.
    Remove {
        /// Name.
        #[arg(value_parser = given())]
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Groups {
    /// All groups.
    List,
    /// Make a group of exactly these hosts, or make a group that.
    Set {
        /// Name of the group.
        #[arg(value_parser = given())]
        name: String,
        /// Ids or names of the hosts.
        #[arg(value_parser = given())]
        hosts: Vec<String>,
    },
    /// Put hosts into a group.
    Add {
        /// Name of the group.
        #[arg(value_parser = given())]
        name: String,
        /// Ids or names of the hosts.
        #[arg(required = true, value_parser = given())]
        hosts: Vec<String>,
    },
    /// Take hosts out of a group.
    Drop {
        /// Name of the group.
        #[arg(value_parser = given())]
        name: String,
        /// Ids or names of the hosts.
        #[arg(required = true, value_parser = given())]
        hosts: Vec<String>,
    },
    /// Remove a group; its users do not see its hosts any more.
    Remove {
        /// Name of the group.
        #[arg(value_parser = given())]
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Queries {
    /// Cancel one.
    Cancel {
        /// Its number.
        id: u64,
    },
}

#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Sign a policy (a JSON file) with the fleet root; needs no collector.
    Sign {
        /// JSON file of the policy; `-` reads it from standard input.
        policy: PathBuf,
        /// Folder of the fleet root, with `root.key` and `root.pem`.
        #[arg(long, value_name = "FOLDER")]
        root: PathBuf,
        /// Where to write the signed policy; standard output when left out.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Show what is in a signed policy, and verify it when the fleet root is given.
    Show {
        /// File with the signed policy.
        policy: PathBuf,
        /// Folder of the fleet root.
        #[arg(long, value_name = "FOLDER")]
        root: Option<PathBuf>,
    },
}
