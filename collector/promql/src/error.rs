//! Why a query failed, in the kinds that Prometheus' API names.

/// What went wrong with a query. [`QueryError::kind`] is the `errorType` of Prometheus' HTTP API; the text is the
/// message, in Prometheus' words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The query, or what was given with it, cannot be understood.
    #[error("{0}")]
    BadData(String),
    /// The query was understood and cannot be answered, for instance because a limit was reached.
    #[error("{0}")]
    Execution(String),
    /// It took longer than it may.
    #[error("query timed out in {0}")]
    Timeout(&'static str),
    /// Whoever asked went away, or the process ends.
    #[error("query was canceled in {0}")]
    Canceled(&'static str),
}

impl QueryError {
    pub(crate) fn bad_data(message: impl Into<String>) -> Self {
        Self::BadData(message.into())
    }

    pub(crate) fn execution(message: impl Into<String>) -> Self {
        Self::Execution(message.into())
    }

    /// `bad_data`, `execution`, `timeout` or `canceled`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadData(_) => "bad_data",
            Self::Execution(_) => "execution",
            Self::Timeout(_) => "timeout",
            Self::Canceled(_) => "canceled",
        }
    }
}

/// Why a source could not select.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// More than the request allows would have to be read.
    #[error("{0}")]
    TooMuch(String),
    /// The data could not be read.
    #[error("{0}")]
    Unavailable(String),
    /// The caller's time was over.
    #[error("the source ran out of time")]
    Timeout,
}

impl From<SourceError> for QueryError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::TooMuch(message) => Self::Execution(message),
            SourceError::Unavailable(message) => Self::Execution(format!("select series: {message}")),
            SourceError::Timeout => Self::Timeout("series selection"),
        }
    }
}
