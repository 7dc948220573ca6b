//! C types whose definition differs between compilers, given once for all targets.

#![allow(non_camel_case_types)]

/// IEEE binary16, as its bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct float16_t(pub u16);

/// bfloat16, as its bits.
pub type bfloat16_t = u16;

/// The C library's stream; only ever used behind a pointer.
#[repr(C)]
#[derive(Debug)]
pub struct FILE {
    opaque: [u8; 0],
}
