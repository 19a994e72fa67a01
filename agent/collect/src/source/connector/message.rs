//! Messages of the connector: `nlmsghdr`, `cn_msg`, `proc_event` (include/uapi/linux/cn_proc.h), in the machine's
//! own byte order.

/// Bytes of the netlink header, of the connector's, and of an event before its data.
const NETLINK_BYTES: usize = 16;
const CONNECTOR_BYTES: usize = 20;
const EVENT_BYTES: usize = 16;
/// `CN_IDX_PROC`, `CN_VAL_PROC`: who the message is of.
pub(super) const PROCESSES: (u32, u32) = (1, 1);

/// A message, and its place in the sequence of its CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) cpu: u32,
    pub(crate) sequence: u32,
    /// Nanoseconds on the monotonic clock.
    pub(crate) monotonic_ns: u64,
    pub(crate) event: Event,
}

/// A thread, and the process it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) thread: u32,
    pub(crate) process: u32,
}

impl Task {
    /// Whether the thread is the first of its process.
    pub(crate) const fn leads(self) -> bool {
        self.thread == self.process
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Fork {
        parent: Task,
        child: Task,
    },
    Exec(Task),
    User {
        task: Task,
        real: u32,
        effective: u32,
    },
    Group {
        task: Task,
        real: u32,
        effective: u32,
    },
    /// `tracer` is zero when one lets go.
    Ptrace {
        task: Task,
        tracer: Task,
    },
    Comm {
        task: Task,
        comm: [u8; 16],
    },
    Coredump(Task),
    Exit {
        task: Task,
        code: u32,
    },
    /// A session, an answer to ourselves, or something newer than this.
    Other,
}

impl Message {
    /// Reads one datagram of the kernel; `None` when it is no message of this connector.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = bytes.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_ne_bytes(*bytes))
        };
        let connector = NETLINK_BYTES;
        if (word(connector)?, word(connector + 4)?) != PROCESSES {
            return None;
        }
        let event = connector + CONNECTOR_BYTES;
        let data = |index: usize| word(event + EVENT_BYTES + index * 4);
        let task = |index: usize| {
            Some(Task {
                thread: data(index)?,
                process: data(index + 1)?,
            })
        };
        let told = match word(event)? {
            0x0000_0001 => Event::Fork {
                parent: task(0)?,
                child: task(2)?,
            },
            0x0000_0002 => Event::Exec(task(0)?),
            0x0000_0004 => Event::User {
                task: task(0)?,
                real: data(2)?,
                effective: data(3)?,
            },
            0x0000_0040 => Event::Group {
                task: task(0)?,
                real: data(2)?,
                effective: data(3)?,
            },
            0x0000_0100 => Event::Ptrace {
                task: task(0)?,
                tracer: task(2)?,
            },
            0x0000_0200 => Event::Comm {
                task: task(0)?,
                comm: *bytes.get(event + EVENT_BYTES + 8..)?.first_chunk()?,
            },
            0x4000_0000 => Event::Coredump(task(0)?),
            0x8000_0000 => Event::Exit {
                task: task(0)?,
                code: data(2)?,
            },
            _ => Event::Other,
        };
        let monotonic = bytes.get(event + 8..)?.first_chunk::<8>()?;
        Some(Self {
            cpu: word(event + 4)?,
            sequence: word(connector + 8)?,
            monotonic_ns: u64::from_ne_bytes(*monotonic),
            event: told,
        })
    }

    /// Whether the message is one of the kernel's sequence; an answer to ourselves is not.
    pub(crate) fn is_answer(bytes: &[u8]) -> bool {
        let what = NETLINK_BYTES + CONNECTOR_BYTES;
        bytes.get(what..what + 4).is_none_or(|what| what == [0; 4])
    }
}

/// The numbers of each CPU's messages.
#[derive(Debug, Default)]
pub(crate) struct Sequences(std::collections::HashMap<u32, u32>);

impl Sequences {
    /// How many messages of the CPU are missing before this one.
    pub(crate) fn missing(&mut self, cpu: u32, sequence: u32) -> u64 {
        let expected = self.0.insert(cpu, sequence.wrapping_add(1));
        let missing = expected.map_or(0, |expected| sequence.wrapping_sub(expected));
        // Half a turn back is no loss of two thousand million.
        if missing > u32::MAX / 2 {
            0
        } else {
            u64::from(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn datagram(what: u32, data: &[u32]) -> Vec<u8> {
        let mut words = vec![76, 3, 0, 0, 1, 1, 7, 0, 40, what, 2, 0, 0];
        words.extend_from_slice(data);
        words.resize(19, 0);
        words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
    }

    #[test]
    fn every_event_is_read() {
        let event = |what, data: &[u32]| Message::parse(&datagram(what, data)).unwrap().event;
        let (one, two) = (
            Task {
                thread: 1,
                process: 2,
            },
            Task {
                thread: 3,
                process: 4,
            },
        );
        assert_eq!(
            event(1, &[1, 2, 3, 4]),
            Event::Fork {
                parent: one,
                child: two
            }
        );
        assert_eq!(event(2, &[1, 2]), Event::Exec(one));
        let (real, effective) = (5, 6);
        assert_eq!(
            event(4, &[1, 2, 5, 6]),
            Event::User {
                task: one,
                real,
                effective
            }
        );
        assert_eq!(
            event(0x40, &[1, 2, 5, 6]),
            Event::Group {
                task: one,
                real,
                effective
            }
        );
        assert_eq!(
            event(0x100, &[1, 2, 3, 4]),
            Event::Ptrace {
                task: one,
                tracer: two
            }
        );
        assert_eq!(
            event(0x8000_0000, &[1, 2, 256]),
            Event::Exit { task: one, code: 256 }
        );
        assert_eq!(event(0x4000_0000, &[1, 2]), Event::Coredump(one));
        assert_eq!(event(0x80, &[1, 2]), Event::Other);
        assert_eq!(Message::parse(&datagram(2, &[])).unwrap().sequence, 7);
        assert!(Message::is_answer(&datagram(0, &[])) && !Message::is_answer(&datagram(2, &[])));
    }

    #[test]
    fn datagram_that_is_cut_or_of_another_is_no_message() {
        let whole = datagram(1, &[1, 2, 3, 4]);
        for end in 0..16 + 20 + 16 + 16 {
            assert_eq!(Message::parse(&whole[..end]), None, "{end}");
        }
        let mut other = whole;
        other[16] = 9;
        assert_eq!(Message::parse(&other), None);
    }

    #[test]
    fn what_is_missing_in_a_sequence_is_counted_by_cpu() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.missing(0, 100), 0, "the first tells nothing");
        assert_eq!(sequences.missing(1, 5), 0);
        assert_eq!(sequences.missing(0, 101), 0);
        assert_eq!(sequences.missing(0, 105), 3);
        assert_eq!(sequences.missing(1, 6), 0);
        assert_eq!(sequences.missing(1, u32::MAX), 0, "begun anew");
        assert_eq!(sequences.missing(1, 1), 1, "around the end");
    }
}
