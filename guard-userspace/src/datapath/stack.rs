//! How deep a program's stack is, from its instructions.

use aya_obj::generated::bpf_insn;

/// Register 10 is the frame pointer; everything on the stack is reached from it by a negative offset.
const FRAME: u8 = 10;
const CLASS: u8 = 0x07;
const LOAD: u8 = 0x01;
const STORE_IMMEDIATE: u8 = 0x02;
const STORE: u8 = 0x03;
/// `dst = src` and `dst += immediate` on 64 bits.
const MOVE: u8 = 0xbf;
const ADD_IMMEDIATE: u8 = 0x07;
const ALIGNMENT: u32 = 8;

/// Bytes of stack that a function uses, as the verifier counts them: up to the lowest address that is reached from the frame
/// pointer, in words of 8.
pub(super) fn depth(instructions: &[bpf_insn]) -> u32 {
    let mut lowest = 0;
    for (index, instruction) in instructions.iter().enumerate() {
        let offset = match instruction.code & CLASS {
            LOAD if instruction.src_reg() == FRAME => i32::from(instruction.off),
            STORE | STORE_IMMEDIATE if instruction.dst_reg() == FRAME => i32::from(instruction.off),
            _ if instruction.code == ADD_IMMEDIATE
                && is_frame(&instructions[..index], instruction.dst_reg()) =>
            {
                instruction.imm
            }
            _ => 0,
        };
        lowest = lowest.min(offset);
    }
    lowest.unsigned_abs().next_multiple_of(ALIGNMENT)
}

/// Whether the last write to `register` copied the frame pointer. Compilers put the copy right before its use, so a look back over a
/// few instructions is enough.
fn is_frame(before: &[bpf_insn], register: u8) -> bool {
    let copies = before.iter().rev().take(8).find(|instruction| instruction.dst_reg() == register);
    copies.is_some_and(|copy| copy.code == MOVE && copy.src_reg() == FRAME)
}
