//! Guard under test.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`frame`] | frames of any shape, honest and not |
//! | [`kernel`] | the program in the kernel, one frame at a time |

pub mod frame;
pub mod kernel;
