//! The socket: who may talk, what a connection may cost, and that nothing is lost over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::healer::{
    HealerReply, HealerRequest, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, decode_message, encode_message,
    message_len,
};
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{ActionStage, LedgerEntry};
use fleetmend_healer::engine::Healer;
use fleetmend_healer::server::{Access, CONNECTIONS_MAX, bind, serve};
use fleetmend_shutdown::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::fixture::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct Client(UnixStream);

impl Client {
    async fn connect(socket: &Path) -> Self {
        Self(UnixStream::connect(socket).await.unwrap())
    }

    async fn greeted(socket: &Path) -> Self {
        let mut client = Self::connect(socket).await;
        client
            .send(&HealerRequest::Hello {
                protocol: PROTOCOL_VERSION,
            })
            .await;
        assert!(matches!(client.receive().await, Some(HealerReply::Status(_))));
        client
    }

    async fn send(&mut self, request: &HealerRequest) {
        self.0.write_all(&encode_message(request).unwrap()).await.unwrap();
    }

    /// The next reply; none once the healer closed.
    async fn receive(&mut self) -> Option<HealerReply> {
        let mut prefix = [0; 4];
        match timeout(DEADLINE, self.0.read_exact(&mut prefix))
            .await
            .expect("a reply in time")
        {
            Ok(_) => {}
            Err(_) => return None,
        }
        let mut body = vec![0; message_len(prefix).unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        Some(decode_message(&body).unwrap())
    }

    async fn entry(&mut self) -> (LedgerEntry, Option<ActionStage>, Option<Ending>) {
        loop {
            match self.receive().await.expect("an entry") {
                HealerReply::Entry { entry, event } => {
                    let (stage, ending) = (
                        event.as_ref().map(|event| event.stage),
                        event.and_then(|event| event.ending),
                    );
                    return (entry, stage, ending);
                }
                HealerReply::Decided { .. } | HealerReply::Status(_) => {}
                HealerReply::Refused { reason } => panic!("refused: {reason}"),
            }
        }
    }
}

fn served(fleet: &Fleet, healer: Healer, uids: Vec<u32>) -> (PathBuf, Tasks) {
    let socket = fleet.path("run/healer.sock");
    let tasks = Tasks::new();
    serve(bind(&socket, "").unwrap(), healer, Access::only(uids), &tasks);
    (socket, tasks)
}

fn us() -> Vec<u32> {
    vec![nix::unistd::geteuid().as_raw()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_over_the_socket_heals_and_a_client_that_died_misses_nothing() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    let (socket, tasks) = served(&fleet, healer, us());
    let mut client = Client::greeted(&socket).await;
    client.send(&HealerRequest::Follow { from_index: 0 }).await;
    assert_eq!(client.entry().await.0.index, 0);
    client
        .send(&HealerRequest::Propose(Box::new(throttle(&hog.process(), 2))))
        .await;
    let mut last = loop {
        let (entry, stage, _) = client.entry().await;
        if stage == Some(ActionStage::Journalled) {
            break entry;
        }
    };
    // The agent dies with its action under way; the next one goes on where it was.
    drop(client);
    let mut client = Client::greeted(&socket).await;
    client
        .send(&HealerRequest::Follow {
            from_index: last.index + 1,
        })
        .await;
    loop {
        let (entry, _, ending) = client.entry().await;
        assert_eq!((entry.index, &entry.previous_hash), (last.index + 1, &last.hash));
        last = entry;
        if let Some(ending) = ending {
            assert_eq!(ending, Ending::Healed);
            break;
        }
    }
    assert!(tasks.drain(DEADLINE).await.stragglers.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_not_allowed_is_told_so_and_gets_nothing() {
    let fleet = Fleet::new();
    let (socket, tasks) = served(&fleet, fleet.healer(), vec![65_534]);
    let mut client = Client::connect(&socket).await;
    match client.receive().await {
        Some(HealerReply::Refused { reason }) => assert!(reason.contains("allowed_users"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.receive().await, None);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    tasks.drain(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_close_their_connection_and_no_other() {
    let fleet = Fleet::new();
    let (socket, tasks) = served(&fleet, fleet.healer(), us());
    let mut bystander = Client::greeted(&socket).await;
    let too_long = u32::try_from(MESSAGE_BYTES_MAX + 1)
        .unwrap()
        .to_le_bytes()
        .to_vec();
    let hello = encode_message(&HealerRequest::Hello {
        protocol: PROTOCOL_VERSION,
    })
    .unwrap();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    let nested = [
        u32::try_from(nested.len()).unwrap().to_le_bytes().to_vec(),
        nested,
    ]
    .concat();
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("one gibibyte announced", (1_u32 << 30).to_le_bytes().to_vec()),
        ("one byte too many announced", too_long),
        ("not JSON", [&4_u32.to_le_bytes()[..], b"\xff\xfe\x00x"].concat()),
        ("deeply nested", nested),
        ("text", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("garbage after hello", [hello, vec![0xaa; 64]].concat()),
    ];
    for (name, bytes) in attacks {
        let mut client = Client::connect(&socket).await;
        drop(client.0.write_all(&bytes).await);
        let mut told = false;
        while let Some(reply) = client.receive().await {
            told |= matches!(reply, HealerReply::Refused { .. });
        }
        assert!(told, "{name}");
    }
    let mut other = Client::connect(&socket).await;
    other.send(&HealerRequest::Hello { protocol: 99 }).await;
    assert!(matches!(other.receive().await, Some(HealerReply::Refused { .. })));
    let mut rude = Client::connect(&socket).await;
    rude.send(&HealerRequest::Status).await;
    assert!(matches!(rude.receive().await, Some(HealerReply::Refused { .. })));
    bystander.send(&HealerRequest::Status).await;
    assert!(matches!(bystander.receive().await, Some(HealerReply::Status(_))));
    tasks.drain(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_proposals_are_bounded() {
    let fleet = Fleet::new();
    let (socket, tasks) = served(&fleet, fleet.healer(), us());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        clients.push(Client::greeted(&socket).await);
    }
    assert_eq!(
        Client::connect(&socket).await.receive().await,
        None,
        "one more is closed at once"
    );
    let mut client = clients.pop().unwrap();
    let process = fleetmend_event::remedy::ProcessRef {
        pid: 4_194_300,
        start_boot_ns: 0,
        comm: "x".to_owned(),
    };
    let mut limited = 0;
    for _ in 0..80 {
        client
            .send(&HealerRequest::Propose(Box::new(throttle(&process, 20))))
            .await;
        match client.receive().await {
            Some(HealerReply::Decided {
                accepted: false,
                reason,
                ..
            }) => limited += usize::from(reason.contains("a minute")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(limited, 20, "60 a minute are considered");
    tasks.drain(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_and_policies_go_over_the_socket() {
    let fleet = Fleet::new();
    let healer = fleet.healer();
    let (socket, tasks) = served(&fleet, healer, us());
    let mut client = Client::greeted(&socket).await;
    client
        .send(&HealerRequest::InstallPolicy {
            envelope: "{}".to_owned(),
        })
        .await;
    assert!(matches!(
        client.receive().await,
        Some(HealerReply::Refused { .. })
    ));
    let policy = fleet.policy(
        5,
        fleetmend_healer::policy::Mode::Enforce,
        vec![throttle_grant("/demo")],
    );
    let envelope = String::from_utf8(fleet.envelope(&policy)).unwrap();
    client.send(&HealerRequest::InstallPolicy { envelope }).await;
    let Some(HealerReply::Status(status)) = client.receive().await else {
        panic!("no status")
    };
    assert_eq!(
        (status.policy_version, status.mode.as_str(), status.stopped),
        (5, "enforce", false)
    );
    for stopped in [true, false] {
        client.send(&HealerRequest::KillSwitch { stopped }).await;
        let Some(HealerReply::Status(status)) = client.receive().await else {
            panic!("no status")
        };
        assert_eq!(status.stopped, stopped);
    }
    let report = Arc::new(tasks).drain(DEADLINE).await;
    assert!(report.stragglers.is_empty(), "{report}");
}
