//! An agent that is enrolled and has no collector to go to.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::host::Grant;
use fleetmend_identity::{HostIdentity, HostKey};
use fleetmend_testkit::TestFleet;

/// Gives the folder an identity and `agent.toml`: everything below the folder, and the sections of the test.
pub(crate) fn prepare(folder: &Path, sections: &str) {
    enrol(&folder.join("identity"));
    let state = folder.display();
    let config = format!(
        "state_dir = \"{state}\"\nadmin_socket = \"{state}/admin.sock\"\n\
         [detect]\nrule_dirs = []\n[detect.anomaly]\nenabled = false\n\
         [heal]\npropose = false\nsocket = \"{state}/no-healer.sock\"\ncursor_file = \"{state}/cursor\"\n\
         [spool]\nfolder = \"{state}/spool\"\n\
         [stream]\ncollectors = [\"127.0.0.1:9\"]\n{sections}"
    );
    std::fs::write(folder.join("agent.toml"), config).unwrap();
}

/// Starts what runs the agent; what it says goes to `log` in the folder.
pub(crate) fn spawn(command: &mut Command, folder: &Path) -> Child {
    let log = File::create(folder.join("log")).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Leaves the identity of a host whose collector is gone.
fn enrol(folder: &Path) {
    let fleet = TestFleet::new().unwrap();
    let key = Arc::new(HostKey::load_or_create(folder).unwrap());
    let (host, week) = (HostId::random(), Duration::from_hours(7 * 24));
    let request = key.request().unwrap();
    let issued = fleet
        .authority()
        .issue_host(&request, host, TimeMicros::now(), week);
    let grant = Grant {
        chain: issued.unwrap().chain.iter().map(|der| der.to_vec()).collect(),
        bundle: fleet.authority().signed_bundle().clone(),
        collectors: Vec::new(),
        enrolment: "127.0.0.1:9".to_owned(),
    };
    let identity = HostIdentity::accept(key, fleet.root().fingerprint(), grant).unwrap();
    identity.save(folder).unwrap();
}
