//! Which instructions of a program can run, as far as constants tell.
//!
//! What some kernels lack is read behind a question that the loader answers with a constant (CO-RE), so that the read is
//! there, spoilt, and never run. The walk knows constants in registers, and in the places of the stack where the compiler
//! puts registers aside, and which way a comparison with one goes; of everything else it takes both ways, so that it errs
//! towards what can run. It is asked before addresses of maps are filled in: one counts as the number that stands in its
//! place, so that a comparison of such an address with a constant is misjudged.

use aya_obj::generated::bpf_insn;

const CLASS: u8 = 0x07;
const CLASS_LD: u8 = 0x00;
const CLASS_LDX: u8 = 0x01;
const CLASS_ST: u8 = 0x02;
const CLASS_STX: u8 = 0x03;
const CLASS_ALU: u8 = 0x04;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const OPERATION: u8 = 0xf0;
const FROM_REGISTER: u8 = 0x08;
const MOVE: u8 = 0xb0;
const ADD_NUMBER: u8 = 0x07;
const LOAD_NUMBER: u8 = 0x18;
const LOAD_U64: u8 = 0x79;
const STORE_NUMBER_U64: u8 = 0x7a;
const STORE_U64: u8 = 0x7b;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x10;
const JUMP_UNEQUAL: u8 = 0x50;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Registers that a call leaves unknown.
const CALL_SPOILS: usize = 6;
/// The register that points to the end of the stack.
const STACK: u8 = 10;
/// Places of eight bytes on a program's stack.
const STACK_PLACES: usize = 64;

/// What is known: constants.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    registers: [Option<i64>; 16],
    /// The last place first.
    stack: [Option<i64>; STACK_PLACES],
}

impl Known {
    fn set(&mut self, register: usize, value: Option<i64>) {
        if let Some(known) = self.registers.get_mut(register) {
            *known = value;
        }
    }

    /// Takes in a store at this offset of the stack; one that fills no whole place leaves the one it hits unknown.
    fn put(&mut self, offset: i16, place: Option<usize>, value: Option<i64>) {
        let hit = place.or_else(|| usize::try_from((-i32::from(offset) + 7) / 8 - 1).ok());
        if let Some(known) = hit.and_then(|hit| self.stack.get_mut(hit)) {
            *known = place.and(value);
        }
    }
}

/// Whether each instruction can run.
pub(super) fn reachable(code: &[bpf_insn]) -> Vec<bool> {
    let nothing = Known {
        registers: [None; 16],
        stack: [None; STACK_PLACES],
    };
    let own = lowest_address(code);
    let mut states: Vec<Option<Known>> = vec![None; code.len()];
    let mut waiting = vec![(0, nothing)];
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
        waiting.extend(next(code, at, one, joined, own));
    }
    states.iter().map(Option::is_some).collect()
}

/// The lowest offset on the stack whose address may be handed out. What lies there is written to by others and extends
/// upwards, so that what is below belongs to the compiler alone.
fn lowest_address(code: &[bpf_insn]) -> i16 {
    let added = code
        .iter()
        .filter(|one| one.code == ADD_NUMBER && one.imm < 0)
        .filter_map(|one| i16::try_from(one.imm).ok());
    added.min().unwrap_or(0)
}

/// The place of the stack at this offset, when it belongs to the compiler alone.
fn place(offset: i16, own: i16) -> Option<usize> {
    let aligned = offset < own && offset % 8 == 0;
    let place = usize::try_from(-(i32::from(offset) / 8) - 1).ok()?;
    (aligned && place < STACK_PLACES).then_some(place)
}

fn join(mut one: Known, other: Known) -> Known {
    let mine = one.registers.iter_mut().chain(&mut one.stack);
    for (mine, theirs) in mine.zip(other.registers.into_iter().chain(other.stack)) {
        if *mine != theirs {
            *mine = None;
        }
    }
    one
}

/// The instructions that may come after this one, with what is known then.
fn next(code: &[bpf_insn], at: usize, one: &bpf_insn, mut known: Known, own: i16) -> Vec<(usize, Known)> {
    let after = at + 1;
    let jumped = after.checked_add_signed(isize::from(one.off));
    let constant =
        |known: &Known, register: u8| known.registers.get(usize::from(register)).copied().flatten();
    let source = constant(&known, one.src_reg());
    let value = if one.code & FROM_REGISTER == 0 {
        Some(i64::from(one.imm))
    } else {
        source
    };
    let place = place(one.off, own);
    let target = usize::from(one.dst_reg());
    match (one.code & CLASS, one.code) {
        (_, EXIT) => Vec::new(),
        (_, JUMP) => jumped.map(|to| (to, known)).into_iter().collect(),
        (_, CALL) => {
            known
                .registers
                .iter_mut()
                .take(CALL_SPOILS)
                .for_each(|register| *register = None);
            vec![(after, known)]
        }
        (CLASS_JMP, code) => {
            let equal = constant(&known, one.dst_reg()).zip(value).map(|(a, b)| a == b);
            let taken = match code & OPERATION {
                JUMP_EQUAL => equal,
                JUMP_UNEQUAL => equal.map(|equal| !equal),
                _ => None,
            };
            let further = (taken != Some(true)).then_some(after);
            let aside = jumped.filter(|_| taken != Some(false));
            further.into_iter().chain(aside).map(|to| (to, known)).collect()
        }
        // Sixteen bytes long; with a source it is the address of a map or the like.
        (CLASS_LD, LOAD_NUMBER) => {
            let high = code.get(after).map(|rest| i64::from(rest.imm) << 32);
            let low = i64::from(one.imm.cast_unsigned());
            let number = high.filter(|_| one.src_reg() == 0).map(|high| high | low);
            known.set(target, number);
            vec![(after + 1, known)]
        }
        (CLASS_LDX, LOAD_U64) if one.src_reg() == STACK => {
            let kept = place.and_then(|place| known.stack.get(place).copied().flatten());
            known.set(target, kept);
            vec![(after, known)]
        }
        (CLASS_ST | CLASS_STX, code) if one.dst_reg() == STACK => {
            let value = match code {
                STORE_NUMBER_U64 => Some(i64::from(one.imm)),
                STORE_U64 => source,
                _ => None,
            };
            known.put(one.off, place, value);
            vec![(after, known)]
        }
        (CLASS_ALU64, code) if code & OPERATION == MOVE => {
            known.set(target, value);
            vec![(after, known)]
        }
        (CLASS_LD | CLASS_LDX | CLASS_ALU | CLASS_ALU64, _) => {
            known.set(target, None);
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

    fn from(mut one: bpf_insn, source: u8) -> bpf_insn {
        one.set_src_reg(source);
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
    fn an_answer_that_was_put_aside_is_known() {
        let aside = |answer, offset| {
            let code = [
                instruction(LOAD_NUMBER, 1, 0, answer), // r1 = answer, sixteen bytes
                instruction(0, 0, 0, 0),
                from(instruction(STORE_U64, STACK, offset, 0), 1),
                instruction(CALL, 0, 0, 1),
                from(instruction(LOAD_U64, 2, offset, 0), STACK),
                instruction(0x15, 2, 1, 0), // if r2 == 0 goto exit
                instruction(CALL, 0, 0, 2),
                instruction(EXIT, 0, 0, 0),
                instruction(ADD_NUMBER, 3, 0, -16),
            ];
            reachable(&code)
        };
        assert!(!aside(0, -24)[6], "never run");
        assert!(aside(1, -24)[6]);
        assert!(aside(0, -16)[6], "the address of this place is handed out");
    }

    #[test]
    fn a_store_into_a_part_makes_the_place_unknown() {
        let code = [
            instruction(STORE_NUMBER_U64, STACK, -24, 0),
            from(instruction(0x63, STACK, -20, 0), 4), // four bytes of r4, which nobody knows
            from(instruction(LOAD_U64, 2, -24, 0), STACK),
            instruction(0x15, 2, 1, 0), // if r2 == 0 goto exit
            instruction(CALL, 0, 0, 2),
            instruction(EXIT, 0, 0, 0),
        ];
        assert_eq!(reachable(&code), [true; 6]);
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
