//! The attacks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Table, TableInfo, UnitState};
use fleetmend_event::{Frame, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros, batch};
use fleetmend_identity::LiveIdentity;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::peer::{Peer, prefix, records};

/// Frames of a message, each of about a quarter of a mebibyte.
const FLOOD_FRAMES: u64 = 15;
const FLOOD_BODY_BYTES: u32 = 250 * 1024;
/// Bytes of zeros that a bomb becomes: as many as a body may have.
const BOMB_BYTES: usize = batch::BODY_BYTES_MAX - 1;
/// Connections that each source address tries: more than its share.
const OF_ADDRESS: u32 = 2_500;
/// Connections that are opened before the next look at the clock.
const STEP: usize = 100;

/// Whom it is against, and by whom.
pub(super) struct Target {
    pub(super) address: String,
    pub(super) hosts: Vec<LiveIdentity>,
    /// Connections, and streams, that are tried.
    pub(super) connections: u32,
}

/// What a hostile peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attack {
    /// Sends the largest messages and waits for nothing, nor reads an answer.
    Flood,
    /// Lies about lengths: of the call's message, of a field, of a frame.
    Lies,
    /// Sends small frames that become large, and batches that claim buffers they do not have.
    Bombs,
    /// Opens connections without a certificate, and keeps them.
    Connections,
    /// Opens streams of one host, and keeps them.
    Streams,
    /// Sends a byte a second of a large message.
    Trickle,
}

impl Attack {
    pub(super) const ALL: [Self; 6] = [
        Self::Flood,
        Self::Lies,
        Self::Bombs,
        Self::Connections,
        Self::Streams,
        Self::Trickle,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::Lies => "lies",
            Self::Bombs => "bombs",
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Trickle => "trickle",
        }
    }

    /// Code words of the audit, any of which names the attack.
    pub(super) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Flood => &["quota_bytes", "refused_rows", "stuck"],
            Self::Lies => &["too_large", "malformed"],
            Self::Bombs => &["refused_rows"],
            Self::Connections => &["too_many_connections", "handshake_timeout"],
            Self::Streams => &["too_many_connections", "too_many_streams_of_host", "no_hello"],
            Self::Trickle => &["too_slow"],
        }
    }

    /// Makes what it needs; blocks.
    pub(super) fn prepare(self) {
        if self == Self::Bombs {
            LazyLock::force(&BOMBS);
        }
    }

    /// Goes on until the time is over; says what it did.
    pub(super) async fn run(self, target: &Target, until: Instant) -> Value {
        // On this thread: who attacks needs no more than one, and honest hosts have the others.
        tokio::task::LocalSet::new()
            .run_until(self.run_here(target, until))
            .await
    }

    async fn run_here(self, target: &Target, until: Instant) -> Value {
        let mut attackers = JoinSet::new();
        for host in target.hosts.clone() {
            let address = target.address.clone();
            match self {
                Self::Flood => attackers.spawn_local(flood(address, host, until)),
                Self::Lies => attackers.spawn_local(lies(address, host, until)),
                Self::Bombs => attackers.spawn_local(bombs(address, host, until)),
                Self::Trickle => attackers.spawn_local(trickle(address, host, until)),
                Self::Streams => {
                    let share = target.connections / u32::try_from(target.hosts.len()).unwrap_or(1).max(1);
                    attackers.spawn_local(streams(address, host, share, until))
                }
                Self::Connections => {
                    attackers.spawn_local(connections(address, target.connections, until));
                    break;
                }
            };
        }
        let mut done = Vec::new();
        while let Some(ended) = attackers.join_next().await {
            done.push(match ended {
                Ok(Ok(did)) => did,
                Ok(Err(error)) => json!({"failed": format!("{error:#}")}),
                Err(error) => json!({"failed": error.to_string()}),
            });
        }
        Value::Array(done)
    }
}

/// Runs a visit again and again until the time is over. A visit that fails is one that was refused.
async fn again(until: Instant, mut visit: impl AsyncFnMut() -> Result<u64>) -> Value {
    let (mut visits, mut refused, mut messages) = (0_u64, 0_u64, 0_u64);
    while Instant::now() < until {
        visits += 1;
        let left = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, visit()).await {
            Ok(Ok(sent)) => messages += sent,
            Ok(Err(_)) => {
                refused += 1;
                // Not to measure how fast this machine connects.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(_) => {}
        }
    }
    json!({"visits": visits, "refused": refused, "messages_of_ended_visits": messages})
}

async fn flood(address: String, host: LiveIdentity, until: Instant) -> Result<Value> {
    Ok(again(until, async || {
        let mut peer = Peer::welcomed(&address, &host).await?;
        let noise: Vec<u8> = (0..FLOOD_BODY_BYTES)
            .map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        let noise = Bytes::from(noise);
        let mut sent = 0;
        loop {
            let frames = (1..=FLOOD_FRAMES)
                .map(|number| frame(peer.epoch, sent * FLOOD_FRAMES + number, noise.clone()))
                .collect();
            if !peer.send(records(frames)).await {
                return Ok(sent);
            }
            sent += 1;
        }
    })
    .await)
}

async fn lies(address: String, host: LiveIdentity, until: Instant) -> Result<Value> {
    let mut turn = 0_usize;
    Ok(again(until, async || {
        let mut lying_frame = vec![b'F', b'M', b'R', 1, 0, 0, 0, 0];
        lying_frame.extend(u32::MAX.to_le_bytes());
        lying_frame.extend([0; 100]);
        let field = [&prefix(4)[..], &[0x12, 0x7f, 0x0a, 0x7d]].concat();
        let all = [prefix(u32::MAX), field, records(vec![lying_frame.into()])];
        turn += 1;
        let lie = all.get(turn % all.len()).cloned().unwrap_or_default();
        let mut peer = Peer::welcomed(&address, &host).await?;
        peer.send(lie).await;
        peer.read_to_end().await;
        Ok(1)
    })
    .await)
}

async fn bombs(address: String, host: LiveIdentity, until: Instant) -> Result<Value> {
    let bodies = BOMBS.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(again(until, async || {
        let mut peer = Peer::welcomed(&address, &host).await?;
        let mut sent = 0;
        loop {
            let frames = (1..=16)
                .map(|number: u64| {
                    let index = usize::try_from(number).unwrap_or(0) % bodies.len().max(1);
                    let body = bodies.get(index).cloned().unwrap_or_default();
                    frame(peer.epoch, sent * 16 + number, body)
                })
                .collect();
            if !peer.send(records(frames)).await {
                return Ok(sent);
            }
            sent += 1;
        }
    })
    .await)
}

/// Made once: all hosts throw the same.
static BOMBS: LazyLock<Result<Vec<Bytes>, String>> =
    LazyLock::new(|| bomb_bodies().map_err(|error| format!("{error:#}")));

/// Zeros of which there are as many as may be; four times as many; and a batch that claims an exabyte.
fn bomb_bodies() -> Result<Vec<Bytes>> {
    let zeros = zstd::bulk::compress(&vec![0; BOMB_BYTES], 3).context("compress zeros")?;
    let more = zstd::bulk::compress(&vec![0; 4 * BOMB_BYTES], 1).context("compress more zeros")?;
    let rows = UnitState::to_batch(&[row()]).context("make a batch")?;
    let mut plain = batch::plain(&rows).context("encode a batch")?;
    // Where the length of the batch's body stands is not looked for: every small number becomes an exabyte.
    let numbers: Vec<usize> = (0..plain.len().saturating_sub(8))
        .step_by(8)
        .filter(|at| {
            let number = plain.get(*at..*at + 8).and_then(|bytes| bytes.try_into().ok());
            number.is_some_and(|bytes| (64..4_096).contains(&i64::from_le_bytes(bytes)))
        })
        .collect();
    for at in numbers {
        if let Some(bytes) = plain.get_mut(at..at + 8) {
            bytes.copy_from_slice(&(1_i64 << 60).to_le_bytes());
        }
    }
    let claims = zstd::bulk::compress(&plain, 3).context("compress a batch")?;
    Ok([zeros, more, claims].map(Bytes::from).to_vec())
}

/// Connections over some addresses that never shake hands.
async fn connections(address: String, count: u32, until: Instant) -> Result<Value> {
    let port: u16 = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .context("read the port")?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let addresses = u8::try_from(count / OF_ADDRESS).unwrap_or(u8::MAX - 1).max(1);
    let (mut open, mut failed): (Vec<TcpStream>, u64) = (Vec::new(), 0);
    let wanted = usize::try_from(count).context("count the connections")?;
    let mut most = 0;
    while Instant::now() < until && open.len() < wanted {
        for number in (0..addresses).cycle().take(STEP) {
            let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, number + 1));
            match tokio::time::timeout(Duration::from_secs(1), connect(from, to)).await {
                Ok(Ok(stream)) => open.push(stream),
                _ => failed += 1,
            }
        }
        most = most.max(open.len());
        if failed > 100 {
            break;
        }
    }
    let begun = Instant::now();
    tokio::time::sleep_until(until.into()).await;
    let closed = open
        .iter()
        .filter(|stream| matches!(stream.try_read(&mut [0; 1]), Ok(0) | Err(_)) && is_closed(stream))
        .count();
    Ok(json!({
        "opened": most, "failed": failed, "closed_by_the_collector": closed,
        "held_s": begun.elapsed().as_secs_f64(),
    }))
}

fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 1]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

async fn streams(address: String, host: LiveIdentity, count: u32, until: Instant) -> Result<Value> {
    let mut open = Vec::new();
    let (mut tried, mut refused) = (0_u32, 0_u32);
    while Instant::now() < until && tried < count {
        tried += 1;
        match Peer::connected(&address, &host).await {
            Ok(peer) => open.push(peer),
            Err(_) => refused += 1,
        }
    }
    tokio::time::sleep_until(until.into()).await;
    Ok(json!({"tried": tried, "refused": refused, "called": open.len()}))
}

async fn trickle(address: String, host: LiveIdentity, until: Instant) -> Result<Value> {
    Ok(again(until, async || {
        let mut peer = Peer::welcomed(&address, &host).await?;
        let mut sent = 0;
        // Short enough that its time is over within the attack.
        peer.send(prefix(8_000)).await;
        while peer.send(Bytes::from_static(&[0])).await {
            sent += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(sent)
    })
    .await)
}

fn frame(epoch: SpoolEpoch, number: u64, body: Bytes) -> Bytes {
    let now = TimeMicros::now();
    let info = TableInfo::of::<UnitState>();
    let stamp = Stamp {
        wall: now,
        boot_us: number,
    };
    Frame {
        id: RecordId {
            epoch,
            lane: Lane::Events,
            sequence: Sequence(number),
        },
        table: info.id,
        schema_version: info.version,
        tombstone: false,
        rows: 1,
        made_at: stamp.wall,
        made_boot_us: stamp.boot_us,
        from_time: now,
        to_time: now,
        body,
    }
    .encode()
}

fn row() -> UnitState {
    UnitState {
        time: TimeMicros::now(),
        unit: "bomb.service".to_owned(),
        description: "x".repeat(500),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        sub_state: "running".to_owned(),
        main_pid: 1,
        restart_count: 0,
        result: "success".to_owned(),
    }
}
