//! Instructions of BPF, as the kernel's documentation encodes them: code, two registers, an offset and a number.

/// The result of a call, and of the program.
pub const R0: u8 = 0;
pub const R1: u8 = 1;
pub const R2: u8 = 2;
pub const R3: u8 = 3;
/// Kept over calls.
pub const R6: u8 = 6;
pub const R7: u8 = 7;
pub const R8: u8 = 8;
/// The end of the stack.
pub const FRAME: u8 = 10;

pub const LOOKUP: i32 = 1;
pub const TIME: i32 = 5;
pub const RANDOM: i32 = 7;
pub const TAIL_CALL: i32 = 12;

const fn encode(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    let registers = (from << 4 | to) as u64;
    code as u64 | registers << 8 | (offset as u16 as u64) << 16 | (number as u32 as u64) << 32
}

/// `to = from`, 64 bits.
pub const fn copy(to: u8, from: u8) -> u64 {
    encode(0xbf, to, from, 0, 0)
}

/// `to = number`, 64 bits.
pub const fn set(to: u8, number: i32) -> u64 {
    encode(0xb7, to, 0, 0, number)
}

/// `to += number`, 64 bits.
pub const fn add(to: u8, number: i32) -> u64 {
    encode(0x07, to, 0, 0, number)
}

/// `to += number`, 32 bits.
pub const fn add32(to: u8, number: u32) -> u64 {
    encode(0x04, to, 0, 0, number.cast_signed())
}

/// `to %= number`, 32 bits, unsigned.
pub const fn modulo32(to: u8, number: u32) -> u64 {
    encode(0x94, to, 0, 0, number.cast_signed())
}

/// `to <<= bits`, 32 bits.
pub const fn shift32(to: u8, bits: u32) -> u64 {
    encode(0x64, to, 0, 0, bits.cast_signed())
}

/// The lower 32 bits of `to` in network order.
pub const fn network_order32(to: u8) -> u64 {
    encode(0xdc, to, 0, 0, 32)
}

/// `to = *(u32 *)(from + offset)`.
pub const fn load32(to: u8, from: u8, offset: i16) -> u64 {
    encode(0x61, to, from, offset, 0)
}

/// `to = *(u64 *)(from + offset)`.
pub const fn load64(to: u8, from: u8, offset: i16) -> u64 {
    encode(0x79, to, from, offset, 0)
}

/// `*(u64 *)(to + offset) = from`.
pub const fn store64(to: u8, offset: i16, from: u8) -> u64 {
    encode(0x7b, to, from, offset, 0)
}

/// `*(u32 *)(to + offset) = from`.
pub const fn store32(to: u8, offset: i16, from: u8) -> u64 {
    encode(0x63, to, from, offset, 0)
}

/// `*(u16 *)(to + offset) = from`.
pub const fn store16(to: u8, offset: i16, from: u8) -> u64 {
    encode(0x6b, to, from, offset, 0)
}

/// `to ^= number`, 32 bits.
pub const fn xor32(to: u8, number: u32) -> u64 {
    encode(0xa4, to, 0, 0, number.cast_signed())
}

/// `*(u64 *)(to + offset) = number`.
pub const fn store_number64(to: u8, offset: i16, number: i32) -> u64 {
    encode(0x7a, to, 0, offset, number)
}

/// Skips so many instructions if `left > right`.
pub const fn skip_if_greater(left: u8, right: u8, count: i16) -> u64 {
    encode(0x2d, left, right, count, 0)
}

pub const fn call(helper: i32) -> u64 {
    encode(0x85, 0, 0, 0, helper)
}

pub const fn exit() -> u64 {
    encode(0x95, 0, 0, 0, 0)
}

/// `to = map`, which takes two.
pub const fn load_map(to: u8, descriptor: i32) -> [u64; 2] {
    const MAP: u8 = 1;
    [encode(0x18, to, MAP, 0, descriptor), 0]
}

/// `to = the value of an array of one`, which takes two.
pub const fn load_value(to: u8, descriptor: i32) -> [u64; 2] {
    const VALUE: u8 = 2;
    [encode(0x18, to, VALUE, 0, descriptor), 0]
}
