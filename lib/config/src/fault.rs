use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a fault lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// In a file; line and column count from 1.
    File {
        /// The file as it was named.
        path: Arc<PathBuf>,
        /// Line, or 0 where it is not known.
        line: usize,
        /// Column in characters, or 0 where it is not known.
        column: usize,
    },
    /// In an environment variable.
    Variable(String),
    /// Nowhere: the value is the built-in default, or the key is missing.
    Default,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0, .. } => write!(f, "{}", path.display()),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Default => f.write_str("built-in default"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where.
    pub location: Location,
    /// The key with its sections, `spool.bytes_max`; empty when it is about a whole file.
    pub key: String,
    /// What, for a person.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}
