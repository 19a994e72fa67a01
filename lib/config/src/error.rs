use std::fmt;

use thiserror::Error;

use crate::fault::Fault;

/// All that is wrong with a configuration, in the order of files and lines.
#[derive(Clone, Debug, Error)]
pub struct ConfigFaults {
    /// At least one.
    pub faults: Vec<Fault>,
    /// Whether something could not be read, and so was not checked any further.
    pub partial: bool,
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.as_slice() {
            [only] => write!(f, "the configuration has a fault: {only}"),
            many => {
                write!(f, "the configuration has {} faults:", many.len())?;
                many.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }?;
        if self.partial {
            f.write_str("\nwhat could not be read was not checked further: check again when this is mended")?;
        }
        Ok(())
    }
}
