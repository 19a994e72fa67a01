//! A job that executes much: small C files through the compiler's driver, which starts a compiler and an assembler for
//! each.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Includes enough headers that the compiler opens some dozens of files, as real ones do.
const SOURCE: &str = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
    #include <sys/stat.h>\n#include <sys/socket.h>\n\
    static int twice(int number) { return 2 * number; }\n\
    int answer(int argc, char **argv) { printf(\"%s %d\\n\", argv[0], twice(argc)); return (int)strlen(argv[0]); }\n";

/// The folder of the job.
#[derive(Debug)]
pub(super) struct Job {
    folder: TempDir,
    source: Option<PathBuf>,
}

impl Job {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir().context("make a folder for a compile job")?,
            source: None,
        })
    }

    /// Compiles the file once more.
    pub(super) fn compile(&mut self) -> Result<()> {
        let source = match &self.source {
            Some(source) => source.clone(),
            None => {
                let source = self.folder.path().join("answer.c");
                std::fs::write(&source, SOURCE).context("write a source")?;
                self.source = Some(source.clone());
                source
            }
        };
        let status = Command::new("cc")
            .args(["-O1", "-c", "-o"])
            .arg(self.folder.path().join("answer.o"))
            .arg(source)
            .stdin(Stdio::null())
            .status()
            .context("start cc (apt-get install gcc)")?;
        anyhow::ensure!(status.success(), "cc ended with {status}");
        Ok(())
    }
}
