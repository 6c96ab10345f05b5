//! What a hostile or broken agent does. Each function has a name that a backtrace shows.

use std::hint::black_box;

#[inline(never)]
pub(crate) fn stumble() {
    panic!("the puppet stumbles");
}

#[inline(never)]
pub(crate) fn spin() {
    let mut rounds = 0_u64;
    while black_box(true) {
        rounds = black_box(rounds.wrapping_add(1));
    }
}

#[inline(never)]
pub(crate) fn allocate() {
    let mut hoard = Vec::new();
    while black_box(true) {
        hoard.push(black_box(vec![1_u8; 1024 * 1024]));
    }
}

#[inline(never)]
pub(crate) fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if black_box(false) {
        return depth;
    }
    recurse(depth + 1) + frame[63]
}
