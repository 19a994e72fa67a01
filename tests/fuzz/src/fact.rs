//! Frames, batches, messages and kernel records.

use bytes::Bytes;
use fleetmend_ebpf::abi::{self, process::Record};
use fleetmend_event::frame::HEADER_BYTES;
use fleetmend_event::relative::{self, Bases, Limits, is_relative};
use fleetmend_event::table::{
    ActionEvent, Finding, Gap, HostInfo, LedgerEntry, MetricChunk, ModelStatus, NetworkEvent, ProbeStatus,
    ProcessEvent, ProcessSnapshot, SiteProbe, Table, UnitState,
};
use fleetmend_event::{Frame, Mark};
use fleetmend_proto::v1;
use prost::Message as _;

/// A frame that decodes encodes to what it was read from, and its rows do not panic.
pub(crate) fn frame(data: &[u8]) {
    let announced = Frame::peek_len(data);
    let bytes = Bytes::copy_from_slice(data);
    let Ok(frame) = Frame::decode(&bytes) else {
        return;
    };
    let encoded = frame.encode();
    assert_eq!(announced.ok(), Some(encoded.len()), "length and content disagree");
    assert_eq!(
        data.get(..encoded.len()),
        Some(encoded.as_ref()),
        "a frame changed on its way"
    );
    if let Ok(Some(batch)) = frame.batch() {
        rows(&batch);
    }
}

/// The body of a frame.
pub(crate) fn batch(data: &[u8]) {
    if let Ok(batch) = fleetmend_event::batch::decode(data) {
        rows(&batch);
    }
}

/// A relative frame after the one it is relative to. Past the checksums, which no fuzzer finds, its compressed part is
/// read once more by itself.
pub(crate) fn relative(data: &[u8]) {
    const LIMITS: Limits = Limits {
        slots: 2,
        plain_bytes: 64 * 1024,
    };
    let base = crate::seeds::base();
    let prefix = fleetmend_event::batch::decompress(&base.body).expect("the base");
    let compressed = data.get(HEADER_BYTES + relative::PREFACE_BYTES..).unwrap_or(data);
    if let Ok(plain) = relative::decompress(compressed, &prefix, LIMITS.plain_bytes) {
        assert!(plain.len() <= LIMITS.plain_bytes, "more than was agreed on");
    }
    let mut bases = Bases::new(LIMITS);
    bases.restore(&base.encode()).expect("the base");
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(whole) = bases.restore(&bytes)
        && is_relative(data)
    {
        let frame = Frame::decode(&whole).expect("a whole frame");
        assert!(frame.fits(), "a relative frame became too long");
    }
    assert!(
        bases.bytes() <= LIMITS.slots * LIMITS.plain_bytes,
        "too much is kept"
    );
}

fn rows(batch: &arrow::array::RecordBatch) {
    fn read<T: Table>(batch: &arrow::array::RecordBatch) {
        // What is no row of the table is an error, and that is all that is asked.
        T::from_batch(batch).ok();
    }
    for chunk in MetricChunk::from_batch(batch).into_iter().flatten() {
        for index in 0..chunk.value.len().min(1_000) {
            chunk.sample_time(index);
        }
    }
    read::<ProcessEvent>(batch);
    read::<NetworkEvent>(batch);
    read::<ProcessSnapshot>(batch);
    read::<UnitState>(batch);
    read::<SiteProbe>(batch);
    read::<ProbeStatus>(batch);
    read::<Finding>(batch);
    read::<ActionEvent>(batch);
    read::<LedgerEntry>(batch);
    read::<Gap>(batch);
    read::<HostInfo>(batch);
    read::<ModelStatus>(batch);
}

/// What an agent sends to a collector.
pub(crate) fn agent_message(data: &[u8]) {
    use v1::agent_message::Message;
    let Ok(message) = v1::AgentMessage::decode(data) else {
        return;
    };
    match message.message {
        Some(Message::Hello(hello)) => {
            fleetmend_proto::id_bytes("host_id", &hello.host_id).ok();
            fleetmend_proto::id_bytes("epoch", &hello.epoch).ok();
            for mark in hello.spooled {
                Mark::try_from(mark).ok();
            }
        }
        Some(Message::Records(records)) => records.frames.iter().for_each(|bytes| frame(bytes)),
        _ => {}
    }
}

/// What a collector sends to an agent.
pub(crate) fn collector_message(data: &[u8]) {
    use v1::collector_message::Message;
    let Ok(message) = v1::CollectorMessage::decode(data) else {
        return;
    };
    let marks = match message.message {
        Some(Message::Welcome(welcome)) => welcome.durable,
        Some(Message::Acknowledged(acknowledged)) => acknowledged.marks,
        _ => return,
    };
    for mark in marks {
        Mark::try_from(mark).ok();
    }
}

/// A record of the kernel's ring.
pub(crate) fn kernel_record(data: &[u8]) {
    for (_, _, check) in abi::FAMILIES {
        check(data).ok();
    }
    if let Ok(Record::Exec { filename, argv, .. }) = Record::parse(data) {
        assert!(filename.len() + argv.len() <= data.len(), "more text than bytes");
    }
}
