//! The thread that reads the connector.

use std::io;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Exactness, GapStage};

use super::Follower;
use super::message::{Message, Sequences};
use super::socket::{ConnectorSocket, DATAGRAM_BYTES, Received};
use crate::source::delivery::Delivery;

/// How long the thread sleeps where nothing happens: the end of the process is seen that late.
const WAIT: Duration = Duration::from_millis(250);
/// Time between two looks at what was lost.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Messages before other things have their turn.
const TURN_MAX: usize = 4_096;
/// Why messages are lost: the socket's buffer was full.
const REASON: &str = "socket_full";
/// Looks within which the next message of the same CPU shows how many were lost.
const OVERRUN_LOOKS: u32 = 10;

/// Losses since the last look.
#[derive(Debug, Default)]
struct Losses {
    sequences: Sequences,
    missing: u64,
    /// Looks since the kernel said so, while no number has shown how many.
    overrun: Option<u32>,
}

/// Body of the thread; ends with an error when the socket breaks.
pub(crate) fn run(
    socket: &ConnectorSocket,
    mut follower: Follower,
    mut delivery: Delivery,
    stopped: impl Fn() -> bool,
) -> io::Result<()> {
    let mut losses = Losses::default();
    let mut since = TimeMicros::now();
    let mut next_housekeeping = Instant::now() + HOUSEKEEPING;
    while !stopped() {
        socket.wait(WAIT)?;
        turn(socket, &mut follower, &mut delivery, &mut losses)?;
        if Instant::now() >= next_housekeeping {
            next_housekeeping = Instant::now() + HOUSEKEEPING;
            let now = TimeMicros::now();
            tell_losses(&mut losses, since, Last::No, &mut delivery);
            since = now;
            follower.keep_house(&mut delivery);
            delivery.flush();
        }
    }
    turn(socket, &mut follower, &mut delivery, &mut losses)?;
    tell_losses(&mut losses, since, Last::Yes, &mut delivery);
    delivery.flush();
    Ok(())
}

fn turn(
    socket: &ConnectorSocket,
    follower: &mut Follower,
    delivery: &mut Delivery,
    losses: &mut Losses,
) -> io::Result<()> {
    let mut buffer = [0; DATAGRAM_BYTES];
    let mut read = 0;
    for _ in 0..TURN_MAX {
        match socket.receive(&mut buffer)? {
            Received::Empty => break,
            Received::Overrun => losses.overrun = Some(0),
            Received::Datagram(length) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                let Some(message) = Message::parse(datagram).filter(|_| !Message::is_answer(datagram)) else {
                    continue;
                };
                read += 1;
                losses.missing += losses.sequences.missing(message.cpu, message.sequence);
                follower.take(&message, delivery);
            }
        }
    }
    delivery.note_read(read);
    Ok(())
}

/// What the numbers show is exact; the kernel's word alone, at `last` or after a while, is at least one.
fn tell_losses(losses: &mut Losses, since: TimeMicros, last: Last, delivery: &mut Delivery) {
    let missing = std::mem::take(&mut losses.missing);
    if missing > 0 {
        losses.overrun = None;
        delivery.lose(since, missing, Exactness::Exact, GapStage::Kernel, REASON);
        return;
    }
    let Some(looks) = losses.overrun.as_mut() else {
        return;
    };
    *looks += 1;
    if *looks > OVERRUN_LOOKS || last == Last::Yes {
        losses.overrun = None;
        delivery.lose(since, 1, Exactness::AtLeast, GapStage::Kernel, REASON);
    }
}

/// Whether there is another look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}
