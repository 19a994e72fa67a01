//! Which instructions of a program can run, as far as constants tell.
//!
//! What some kernels lack is read behind a question that the loader answers with a constant (CO-RE), so that the read is
//! there, spoilt, and never run. The walk knows constants that were moved into registers, and which way a comparison with
//! one goes; of everything else it takes both ways, so that it errs towards what can run.

use aya_obj::generated::bpf_insn;

const CLASS: u8 = 0x07;
const CLASS_LD: u8 = 0x00;
const CLASS_LDX: u8 = 0x01;
const CLASS_ALU: u8 = 0x04;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const OPERATION: u8 = 0xf0;
const FROM_REGISTER: u8 = 0x08;
const MOVE: u8 = 0xb0;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x10;
const JUMP_UNEQUAL: u8 = 0x50;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Registers that a call leaves unknown.
const CALL_SPOILS: usize = 6;

/// What is known of registers: constants.
type Known = [Option<i64>; 16];

/// Whether each instruction can run.
pub(super) fn reachable(code: &[bpf_insn]) -> Vec<bool> {
    let mut states: Vec<Option<Known>> = vec![None; code.len()];
    let mut waiting = vec![(0, [None; 16])];
    while let Some((at, known)) = waiting.pop() {
        let (Some(one), Some(state)) = (code.get(at), states.get_mut(at)) else {
            continue;
        };
        let joined = match *state {
            None => known,
            Some(before) => join(before, known),
        };
        // A state only ever knows less, so that this ends.
        if *state == Some(joined) {
            continue;
        }
        *state = Some(joined);
        waiting.extend(next(at, one, joined));
    }
    states.iter().map(Option::is_some).collect()
}

fn join(mut one: Known, other: Known) -> Known {
    for (mine, theirs) in one.iter_mut().zip(other) {
        if *mine != theirs {
            *mine = None;
        }
    }
    one
}

/// The instructions that may come after this one, with what is known then.
fn next(at: usize, one: &bpf_insn, mut known: Known) -> Vec<(usize, Known)> {
    let after = at + 1;
    let jumped = after.checked_add_signed(isize::from(one.off));
    let source = known.get(usize::from(one.src_reg())).copied().flatten();
    let value = if one.code & FROM_REGISTER == 0 {
        Some(i64::from(one.imm))
    } else {
        source
    };
    let mut set = |register: usize, value: Option<i64>| {
        if let Some(known) = known.get_mut(register) {
            *known = value;
        }
    };
    let target = usize::from(one.dst_reg());
    match (one.code & CLASS, one.code) {
        (_, EXIT) => Vec::new(),
        (_, JUMP) => jumped.map(|to| (to, known)).into_iter().collect(),
        (_, CALL) => {
            (0..CALL_SPOILS).for_each(|register| set(register, None));
            vec![(after, known)]
        }
        (CLASS_JMP, code) => {
            let equal = known
                .get(target)
                .copied()
                .flatten()
                .zip(value)
                .map(|(a, b)| a == b);
            let taken = match code & OPERATION {
                JUMP_EQUAL => equal,
                JUMP_UNEQUAL => equal.map(|equal| !equal),
                _ => None,
            };
            let further = (taken != Some(true)).then_some(after);
            let aside = jumped.filter(|_| taken != Some(false));
            further.into_iter().chain(aside).map(|to| (to, known)).collect()
        }
        // Sixteen bytes long; what it loads is not followed.
        (CLASS_LD, 0x18) => {
            set(target, None);
            vec![(after + 1, known)]
        }
        (CLASS_ALU64, code) if code & OPERATION == MOVE => {
            set(target, value);
            vec![(after, known)]
        }
        (CLASS_LD | CLASS_LDX | CLASS_ALU | CLASS_ALU64, _) => {
            set(target, None);
            vec![(after, known)]
        }
        _ => vec![(after, known)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, target: u8, off: i16, imm: i32) -> bpf_insn {
        let mut one = bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: Default::default(),
            off,
            imm,
        };
        one.set_dst_reg(target);
        one
    }

    #[test]
    fn what_stands_behind_an_answered_question_is_not_reached() {
        let answered = |answer| {
            let code = [
                instruction(0xb7, 1, 0, answer), // r1 = answer
                instruction(0x15, 1, 1, 0),      // if r1 == 0 goto exit
                instruction(CALL, 0, 0, 1),
                instruction(EXIT, 0, 0, 0),
            ];
            reachable(&code)
        };
        assert_eq!(answered(0), [true, true, false, true]);
        assert_eq!(answered(1), [true, true, true, true]);
    }

    #[test]
    fn what_may_be_either_is_taken_both_ways() {
        let code = [
            instruction(CALL, 0, 0, 1),
            instruction(0x15, 0, 2, 0), // if r0 == 0 goto the move of 0
            instruction(0xb7, 1, 0, 1), // r1 = 1
            instruction(JUMP, 0, 1, 0),
            instruction(0xb7, 1, 0, 0), // r1 = 0
            instruction(0x15, 1, 1, 0), // if r1 == 0 goto exit
            instruction(CALL, 0, 0, 2),
            instruction(EXIT, 0, 0, 0),
        ];
        assert_eq!(reachable(&code), [true; 8]);
    }
}
