//! The program as it is shipped: its commands, and kill -9 in the middle of an action.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fleetmend_event::remedy::Ending;
use fleetmend_healer::policy::Mode;

use super::fixture::*;

pub(super) struct Program {
    config: PathBuf,
}

impl Program {
    pub(super) fn new(fleet: &Fleet, more: &str) -> Self {
        let config = fleet.path("healer.toml");
        let at = |name: &str| fleet.path(name).display().to_string();
        let text = format!(
            "socket = {:?}\nsocket_group = \"\"\nallowed_users = []\nallowed_uids = [0]\nstate_dir = {:?}\n\
             trust_bundle = {:?}\nhost_file = {:?}\n{more}",
            at("run/healer.sock"),
            at("state"),
            at("trust-bundle.json"),
            at("host-id"),
        );
        std::fs::write(&config, text).unwrap();
        Self { config }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleetmend-healer"));
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    pub(super) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(super) fn says(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(super) struct Running(Child);

impl Running {
    pub(super) fn start(program: &Program) -> Self {
        let running = Self(program.command(&["run"]).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while !program.output(&["status"]).status.success() {
            assert!(Instant::now() < deadline, "the healer does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn its_commands_work_and_faults_of_its_configuration_are_said_all_at_once() {
    let fleet = Fleet::new();
    let envelope = fleet.path("policy.signed");
    let policy = fleet.policy(9, Mode::Enforce, vec![throttle_grant("/demo")]);
    std::fs::write(&envelope, fleet.envelope(&policy)).unwrap();
    let program = Program::new(
        &fleet,
        &format!("policy_file = {:?}\n", envelope.display().to_string()),
    );
    assert!(program.says(&["check"]).contains("good"));
    assert!(!program.output(&["status"]).status.success(), "nothing runs yet");
    let running = Running::start(&program);
    let status = program.says(&["status"]);
    assert!(
        status.contains("enforce") && status.contains("version 9") && status.contains("throttle-process"),
        "{status}"
    );
    assert!(program.says(&["policy", "show"]).contains("\"version\": 9"));
    program.says(&["stop"]);
    assert!(program.says(&["status"]).contains("stopped"));
    program.says(&["resume"]);
    assert!(!program.says(&["status"]).contains("stopped"));
    assert!(program.says(&["ledger", "verify"]).contains("entries, head"));
    drop(running);

    let ledger = fleet.path("state/ledger.jsonl");
    let text = std::fs::read_to_string(&ledger).unwrap();
    std::fs::write(&ledger, text.replacen("started", "startEd", 1)).unwrap();
    let output = program.output(&["ledger", "verify"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("broken at entry 0"));

    let program = Program::new(&fleet, "");
    let text = std::fs::read_to_string(&program.config).unwrap();
    let text = text
        .replace(
            "allowed_users = []",
            "allowed_users = [\"no-such-a\", \"no-such-b\"]",
        )
        .replace("socket_group = \"\"", "socket_group = \"no-such-c\"");
    std::fs::write(&program.config, text).unwrap();
    let output = program.output(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "run would fail as well: {said}");
    for name in ["user \"no-such-a\"", "user \"no-such-b\"", "group \"no-such-c\""] {
        assert!(said.contains(name), "{said}");
    }

    let program = Program::new(&fleet, "sokcet = \"x\"\nledger_bytes_max = \"1\"\n");
    let output = program.output(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("sokcet") && said.contains("healer.toml:8"),
        "{said}"
    );
}

#[test]
fn kill_minus_nine_in_the_middle_of_an_action_leaves_one_ending() {
    use std::io::{Read, Write};

    use fleetmend_event::healer::{
        HealerReply, HealerRequest, PROTOCOL_VERSION, decode_message, encode_message,
    };
    use fleetmend_event::table::ActionStage;

    for die_after in [
        ActionStage::Journalled,
        ActionStage::Checked,
        ActionStage::Applied,
    ] {
        let fleet = Fleet::new();
        let hog = Hog::busy();
        drop(fleet.enforcing(vec![throttle_grant(&hog.cgroup)]));
        let program = Program::new(&fleet, "");
        let running = Running::start(&program);
        let action = throttle(&hog.process(), 2);
        let action_id = action.action_id;
        let mut stream = std::os::unix::net::UnixStream::connect(fleet.path("run/healer.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for request in [
            HealerRequest::Hello {
                protocol: PROTOCOL_VERSION,
            },
            HealerRequest::Follow { from_index: 0 },
            HealerRequest::Propose(Box::new(action)),
        ] {
            stream.write_all(&encode_message(&request).unwrap()).unwrap();
        }
        loop {
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix).unwrap();
            let mut body = vec![0; usize::try_from(u32::from_le_bytes(prefix)).unwrap()];
            stream.read_exact(&mut body).unwrap();
            if let HealerReply::Entry {
                event: Some(event), ..
            } = decode_message(&body).unwrap()
                && event.stage == die_after
            {
                break;
            }
        }
        running.kill();
        let steps = steps(&fleet.healer(), action_id);
        let ended: Vec<_> = steps
            .iter()
            .filter(|step| step.stage == ActionStage::Ended)
            .collect();
        assert_eq!(ended.len(), 1, "killed after {die_after}: {steps:#?}");
        let limited = hog.group() != hog.cgroup;
        assert_eq!(
            ending(&steps) == Some(Ending::Healed),
            limited,
            "killed after {die_after}: {steps:#?}"
        );
    }
}
