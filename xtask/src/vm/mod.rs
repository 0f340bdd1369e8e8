//! Other kernels: a virtual machine boots each with an initramfs that holds guard and its tests, and nothing else.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`kernels`] | which kernels, and Debian's packages of them |
//! | [`payload`] | guard and its tests as static programs |
//! | [`initramfs`] | what the machine boots with, its first program included |
//! | [`machine`] | boots it and reads what it says |

pub(crate) mod initramfs;
pub(crate) mod kernels;
pub(crate) mod machine;
pub(crate) mod payload;
