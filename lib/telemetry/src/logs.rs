use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, SubscriberBuilder};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::LogsError;

/// The variable that holds the filter, in the syntax of `tracing_subscriber::EnvFilter`.
const FILTER_VARIABLE: &str = "FLEETMEND_LOG";
const FILTER_DEFAULT: &str = "info";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people and journald.
    #[default]
    Plain,
    /// One JSON object per line, for collectors of logs.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            other => Err(format!("unknown log format `{other}`: it is `plain` or `json`")),
        }
    }
}

/// Sends the logs of the whole process to stderr, filtered by `FLEETMEND_LOG` (default `info`).
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn init_logs(format: LogFormat) -> Result<(), LogsError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) => EnvFilter::builder().parse(text).map_err(LogsError::Filter)?,
        Err(_) => EnvFilter::new(FILTER_DEFAULT),
    };
    let builder = SubscriberBuilder::default()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
        LogFormat::Plain => {
            let journal = std::env::var_os("JOURNAL_STREAM").is_some();
            builder
                .with_ansi(false)
                .event_format(Plain { journal })
                .finish()
                .try_init()
        }
    }
    .map_err(LogsError::Twice)
}

/// `LEVEL target: fields message`, led by the time, or under journald by the priority.
pub(crate) struct Plain {
    pub(crate) journal: bool,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.journal {
            write!(out, "<{}>", priority(level))?;
        } else {
            SystemTime.format_time(&mut out)?;
            write!(out, " {level:>5} ")?;
        }
        write!(out, "{}: ", event.metadata().target())?;
        ctx.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// The syslog priority, see sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
