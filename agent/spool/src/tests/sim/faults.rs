//! What the disk is told to fail at, and the source of chance.

use std::io;

use rustix::io::Errno;

/// xorshift64*: the same numbers for the same seed on every host.
#[derive(Debug, Clone)]
pub(in crate::tests) struct Random(u64);

impl Random {
    pub(in crate::tests) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.next();
        random
    }

    pub(in crate::tests) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`.
    pub(in crate::tests) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 33) as usize) % limit.max(1)
    }

    pub(in crate::tests) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tests) enum Fault {
    /// This and every further operation fails; of this one a part may happen.
    Crash,
    NoSpace,
    Io,
    /// Fewer bytes are read or written than asked for.
    Short,
    /// A signal came first.
    Interrupted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Open,
    Read,
    Write(usize),
    Sync,
    /// A new name.
    Make,
    Remove,
    /// Another length.
    Change,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) operations: u64,
    pub(super) dead: bool,
    at: Option<(u64, Fault)>,
    rate: usize,
    reads_too: bool,
    bytes_max: Option<usize>,
}

/// What becomes of one operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict {
    fault: Option<Fault>,
    /// How much of it happens nevertheless, of 256.
    part: usize,
}

pub(super) fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

impl Faults {
    pub(super) fn clear(&mut self) {
        *self = Self {
            operations: self.operations,
            ..Self::default()
        };
    }

    pub(super) fn fail_at(&mut self, number: u64, fault: Fault) {
        self.at = Some((self.operations + number, fault));
    }

    pub(super) fn fail_one_in(&mut self, rate: usize, reads_too: bool) {
        (self.rate, self.reads_too) = (rate, reads_too);
    }

    pub(super) fn any(&self) -> bool {
        let pending = self.at.is_some_and(|(at, _)| at + 64 > self.operations);
        self.dead || pending || self.rate > 0 || self.bytes_max.is_some()
    }

    pub(super) fn limit(&mut self, bytes: Option<usize>) {
        self.bytes_max = bytes;
    }

    /// Says what happens to the next operation; an error when nothing of it does.
    pub(super) fn verdict(
        &mut self,
        operation: Operation,
        used: impl Fn() -> usize,
        random: &mut Random,
    ) -> io::Result<Verdict> {
        if self.dead {
            return Err(error(Errno::IO));
        }
        let number = self.operations;
        self.operations += 1;
        let mut fault = self.at.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        let reads = matches!(operation, Operation::Read | Operation::Open);
        if fault.is_none() && self.rate > 0 && (self.reads_too || !reads) && random.one_in(self.rate) {
            let kinds = [Fault::NoSpace, Fault::Io, Fault::Short, Fault::Interrupted];
            fault = Some(kinds[random.below(kinds.len())]);
        }
        let needs = match operation {
            Operation::Write(bytes) => bytes,
            Operation::Make => 1,
            _ => 0,
        };
        if self
            .bytes_max
            .is_some_and(|most| needs > 0 && used() + needs > most)
        {
            fault = fault.or(Some(Fault::NoSpace));
        }
        let fault = fault.filter(|fault| possible(*fault, operation));
        self.dead |= fault == Some(Fault::Crash);
        let verdict = Verdict {
            fault,
            part: random.below(257),
        };
        // Of most operations either all happens or nothing.
        let atomic = !matches!(operation, Operation::Write(_) | Operation::Read | Operation::Sync);
        let nothing = atomic && (fault != Some(Fault::Crash) || random.one_in(2));
        if nothing {
            verdict.then_fail()?;
        }
        Ok(verdict)
    }
}

fn possible(fault: Fault, operation: Operation) -> bool {
    match fault {
        Fault::Crash | Fault::Io => true,
        Fault::NoSpace => matches!(operation, Operation::Write(_) | Operation::Make | Operation::Sync),
        Fault::Short | Fault::Interrupted => matches!(operation, Operation::Write(_) | Operation::Read),
    }
}

impl Verdict {
    pub(super) fn is_crash(self) -> bool {
        self.fault == Some(Fault::Crash)
    }

    pub(super) fn fails(self) -> bool {
        self.fault.is_some_and(|fault| fault != Fault::Short)
    }

    pub(super) fn then_fail(self) -> io::Result<()> {
        match self.fault {
            None | Some(Fault::Short) => Ok(()),
            Some(Fault::Crash | Fault::Io) => Err(error(Errno::IO)),
            Some(Fault::NoSpace) => Err(error(Errno::NOSPC)),
            Some(Fault::Interrupted) => Err(error(Errno::INTR)),
        }
    }

    /// How many of `bytes` are read or written.
    pub(super) fn share(self, bytes: usize) -> usize {
        match self.fault {
            None => bytes,
            Some(Fault::Interrupted) => 0,
            Some(Fault::Short) => (bytes * self.part / 256).max(bytes.min(1)),
            Some(_) => bytes * self.part / 256,
        }
    }
}
