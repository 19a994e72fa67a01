//! A real PostgreSQL for tests: Debian's version 15, in a temporary folder, on a port that was free.
//!
//! [`PostgresServer::shared`] is one server per test process with a database per test ([`TestDatabase`]);
//! [`PostgresServer::start`] is a server of one's own, to stop, crash and restart. The role `fleetmend` is a
//! superuser and has a password ([`PostgresServer::password_file`]), so that the ways of real installations are taken.
//! It syncs nothing to the disk: only the machine's end would lose something, a crash of the server does not.
//!
//! The server ends with its handle; should the process be killed, a shell that waits at the other end of a pipe ends
//! it and removes the folder. As root it runs as the user `postgres` (it refuses root).

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Debian's folder of the programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Another port is tried when somebody took the one that was free.
const PORT_TRIES: usize = 5;
/// Ends the server and removes its folder when the test process is gone (its end of the pipe closes).
const KEEPER: &str = "read -r line; pid=$(head -n 1 \"$1/data/postmaster.pid\" 2>/dev/null); \
    if [ -n \"$pid\" ]; then kill -QUIT \"$pid\" 2>/dev/null; \
    for turn in 1 2 3 4 5 6 7 8 9 10; do kill -0 \"$pid\" 2>/dev/null || break; sleep 0.1; done; fi; rm -rf \"$1\"";

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Connections are told, everything is written.
    Fast,
    /// As by a crash: nothing is written, the next start recovers.
    Immediate,
}

/// A running, or stopped, server.
#[derive(Debug)]
pub struct PostgresServer {
    folder: PathBuf,
    port: u16,
    password: String,
    /// The server process; `None` while it is stopped.
    process: Mutex<Option<Child>>,
    keeper: Option<Child>,
    databases: AtomicU64,
}

/// A database of one test; removed when dropped.
#[derive(Debug)]
pub struct TestDatabase {
    server: Arc<PostgresServer>,
    name: String,
}

impl PostgresServer {
    /// The server that the tests of this process share; it ends with the last who uses it.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceLock<Mutex<Weak<PostgresServer>>> = OnceLock::new();
        let mut shared = SHARED
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// A new server.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// A new server with more lines of `postgresql.conf`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        let server = Self::prepare()?;
        server.make(settings)?;
        server.on_free_port()
    }

    /// A copy of this server that follows it; `SELECT pg_promote()` makes it a server of its own.
    pub fn standby(&self) -> Result<Self> {
        let mut standby = Self::prepare()?;
        standby.password.clone_from(&self.password);
        standby.own_folder()?;
        let copied = program("pg_basebackup")?
            .args([
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                "--wal-method=stream",
            ])
            .args(["--host=127.0.0.1", "--username=fleetmend"])
            .arg(format!("--port={}", self.port))
            .arg("--pgdata")
            .arg(standby.data())
            .env("PGPASSWORD", &self.password)
            .output()
            .context("run pg_basebackup")?;
        if !copied.status.success() {
            bail!(
                "pg_basebackup failed: {}",
                String::from_utf8_lossy(&copied.stderr)
            );
        }
        let socket = format!("unix_socket_directories = '{}'\n", standby.folder.display());
        standby.configure(&socket)?;
        standby.on_free_port()
    }

    /// A folder and who removes it.
    fn prepare() -> Result<Self> {
        if !Path::new(PROGRAMS).join("postgres").exists() {
            bail!(
                "PostgreSQL is not in {PROGRAMS}: run `cargo xtask test`, which installs it, or install postgresql-15"
            );
        }
        let folder = tempfile::Builder::new().prefix("fleetmend-pg-").tempdir()?.keep();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the keeper of PostgreSQL's folder")?;
        Ok(Self {
            password: format!("test-{}", std::process::id()),
            folder,
            port: 0,
            process: Mutex::new(None),
            keeper: Some(keeper),
            databases: AtomicU64::new(0),
        })
    }

    fn on_free_port(mut self) -> Result<Self> {
        for _ in 0..PORT_TRIES {
            self.port = free_port()?;
            match self.restart() {
                Ok(()) => return Ok(self),
                Err(error) if self.log().contains("could not bind") => drop(error),
                Err(error) => return Err(error),
            }
        }
        bail!("no port stayed free long enough")
    }

    fn own_folder(&self) -> Result<()> {
        std::fs::set_permissions(&self.folder, std::fs::Permissions::from_mode(0o755))?;
        let password = self.password_file();
        std::fs::write(&password, &self.password)?;
        if let Some((user, group)) = run_as()? {
            std::os::unix::fs::chown(&self.folder, Some(user), Some(group))?;
        }
        Ok(())
    }

    fn configure(&self, lines: &str) -> Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(self.data().join("postgresql.conf"))?;
        file.write_all(lines.as_bytes())?;
        Ok(())
    }

    fn make(&self, settings: &[&str]) -> Result<()> {
        self.own_folder()?;
        let password = self.password_file();
        let made = program("initdb")?
            .args([
                "--username=fleetmend",
                "--auth=scram-sha-256",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .arg("--pgdata")
            .arg(self.data())
            .output()
            .context("run initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        // As real ones are: for its owner alone.
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600))?;
        let lines = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\nfull_page_writes = off\n\
             max_connections = 200\nshared_buffers = 16MB\nlogging_collector = off\nautovacuum_naptime = 10min\n{}\n",
            self.folder.display(),
            settings.join("\n")
        );
        self.configure(&lines)
    }

    /// Starts it again on the same port, stopping it first when it runs.
    pub fn restart(&self) -> Result<()> {
        self.stop(Ending::Fast)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let process = program("postgres")?
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start PostgreSQL")?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        let begun = Instant::now();
        while !self.answers()? {
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                *process = None;
                bail!("PostgreSQL ended at its start with {status}: {}", self.log());
            }
            if begun.elapsed() > PATIENCE {
                bail!("PostgreSQL did not start within {PATIENCE:?}: {}", self.log());
            }
            drop(process);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Lets it speak TLS under the name `localhost`, and returns the file of the authority that vouches for it.
    pub fn serve_tls(&self) -> Result<PathBuf> {
        let (certificate, key) = (self.folder.join("server.crt"), self.folder.join("server.key"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ])
            .args([
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .context("run openssl")?;
        if !made.status.success() {
            bail!("openssl failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        if let Some((user, group)) = run_as()? {
            std::os::unix::fs::chown(&key, Some(user), Some(group))?;
        }
        self.configure(&format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
            certificate.display(),
            key.display()
        ))?;
        self.restart()?;
        Ok(certificate)
    }

    /// Ends the server; nothing when it is stopped.
    pub fn stop(&self, ending: Ending) -> Result<()> {
        let Some(mut process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let signal = match ending {
            Ending::Fast => "-INT",
            Ending::Immediate => "-QUIT",
        };
        Command::new("kill")
            .args([signal, &process.id().to_string()])
            .status()?;
        let begun = Instant::now();
        while process.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                process.kill()?;
                process.wait()?;
                bail!("PostgreSQL did not end within {PATIENCE:?}: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// A database of its own, which is removed when the handle is dropped.
    pub fn database(self: &Arc<Self>) -> Result<TestDatabase> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(TestDatabase {
            server: self.clone(),
            name,
        })
    }

    /// Carries out statements, and returns what psql printed without decoration.
    pub fn psql(&self, database: &str, statements: &str) -> Result<String> {
        let done = Command::new(Path::new(PROGRAMS).join("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "--set=ON_ERROR_STOP=1",
            ])
            .args(["--host=127.0.0.1", "--username=fleetmend"])
            .args([format!("--port={}", self.port), format!("--dbname={database}")])
            .args(["--command", statements])
            .env("PGPASSWORD", &self.password)
            .output()
            .context("run psql")?;
        if !done.status.success() {
            bail!(
                "psql refused {statements:?}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// All rows of a database as text; bytes that are letters stand as letters.
    pub fn dump(&self, database: &str) -> Result<Vec<u8>> {
        let dumped = Command::new(Path::new(PROGRAMS).join("pg_dump"))
            .args(["--inserts", "--host=127.0.0.1", "--username=fleetmend"])
            .args([format!("--port={}", self.port), format!("--dbname={database}")])
            .env("PGPASSWORD", &self.password)
            .env("PGOPTIONS", "-c bytea_output=escape")
            .output()
            .context("run pg_dump")?;
        if !dumped.status.success() {
            bail!("pg_dump failed: {}", String::from_utf8_lossy(&dumped.stderr));
        }
        Ok(dumped.stdout)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// `postgres://…` of a database of it, without the password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://fleetmend@{}/{database}", self.address())
    }

    /// The password of `fleetmend`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// File with the password of `fleetmend`.
    pub fn password_file(&self) -> PathBuf {
        self.folder.join("password")
    }

    /// Its folder: data in `data`, the socket beside it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn answers(&self) -> Result<bool> {
        let ready = Command::new(Path::new(PROGRAMS).join("pg_isready"))
            .args(["--quiet", "--host=127.0.0.1", &format!("--port={}", self.port)])
            .status()
            .context("run pg_isready")?;
        Ok(ready.success())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // It fails only when the server hung, and then it was killed.
        self.stop(Ending::Immediate).ok();
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().ok();
        }
    }
}

impl TestDatabase {
    /// `postgres://…`, without the password.
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server that it is of.
    pub fn server(&self) -> &Arc<PostgresServer> {
        &self.server
    }

    /// Carries out statements in it; see [`PostgresServer::psql`].
    pub fn psql(&self, statements: &str) -> Result<String> {
        self.server.psql(&self.name, statements)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // The server may be stopped, or its folder about to go: then so does this.
        self.server
            .psql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .ok();
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// User and group of the server: none but our own, unless that is root.
fn run_as() -> Result<Option<(u32, u32)>> {
    let number = |arguments: &[&str]| -> Result<u32> {
        let said = Command::new("id").args(arguments).output().context("run id")?;
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        text.parse()
            .with_context(|| format!("id {arguments:?} said {text:?}"))
    };
    if number(&["-u"])? != 0 {
        return Ok(None);
    }
    Ok(Some((number(&["-u", "postgres"])?, number(&["-g", "postgres"])?)))
}

/// One of PostgreSQL's programs, as a user that it accepts.
fn program(name: &str) -> Result<Command> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(Path::new(PROGRAMS).join(name));
    if let Some((user, group)) = run_as()? {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env("LC_ALL", "C.UTF-8");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_rows_over_a_crash_and_leaves_nothing_behind() {
        let server = Arc::new(PostgresServer::start().unwrap());
        let database = server.database().unwrap();
        database
            .psql("CREATE TABLE kept (a INT); INSERT INTO kept VALUES (7)")
            .unwrap();
        server.stop(Ending::Immediate).unwrap();
        database.psql("SELECT 1").unwrap_err();
        server.restart().unwrap();
        assert_eq!(database.psql("SELECT a FROM kept").unwrap(), "7");
        let folder = server.folder().to_owned();
        drop(database);
        drop(server);
        assert!(!folder.exists(), "{}", folder.display());
    }
}
