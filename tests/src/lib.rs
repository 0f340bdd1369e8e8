//! Guard under test.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`arrivals`] | what a port takes in |
//! | [`mod@bench`] | what guard costs, measured |
//! | [`bpf`] | bare maps and programs of a few instructions |
//! | [`conntrack`] | hosts that use conntrack |
//! | [`cpu`] | CPUs, and threads that stay on one |
//! | [`cpu_time`] | what work spends of a CPU |
//! | [`crowd`] | network namespaces by the hundred, of a user without rights |
//! | [`every_wire`] | a stranger on several wires, and what of it comes through on each |
//! | [`faults`] | errors of system calls, put in by strace |
//! | [`fence`] | knowing that everything that was sent before is through |
//! | [`frame`] | frames of any shape, honest and not |
//! | [`dashboard`] | what a dashboard asks of Prometheus |
//! | [`demo`] | guard at work, for people to see |
//! | [`guard`] | an agent on a host of a test network |
//! | [`hidden`] | what the kernel shows to no tracing program |
//! | [`kernel`] | the program in the kernel, one frame at a time |
//! | [`large`] | policies and blocks of the size that guard is made for |
//! | [`listener`] | what arrives, counted |
//! | [`multipath`] | sockets of Multipath TCP |
//! | [`net`] | test networks |
//! | [`pause_free`] | traffic that goes on while something is done to guard |
//! | [`prometheus`] | a real Prometheus, and what guard has for it |
//! | [`raw`] | frames onto a wire |
//! | [`scene`] | the network that most tests use |
//! | [`shapes`] | packets that slip through many filters |
//! | [`stale`] | what tests that died have left |
//! | [`streams`] | a server that streams, and its clients |
//! | [`tap`] | what guard lets through, frame by frame |
//! | [`tracer`] | what the kernel's own tracer sees |
//! | [`tun`] | a tunnel between two hosts, of devices without an Ethernet header |
//! | [`wait`] | waiting for something to become true |

pub mod arrivals;
pub mod bench;
pub mod bpf;
pub mod conntrack;
pub mod cpu;
pub mod cpu_time;
pub mod crowd;
pub mod dashboard;
pub mod demo;
pub mod every_wire;
pub mod faults;
pub mod fence;
pub mod guard;
pub mod hidden;
mod hidden_time;
pub mod kernel;
pub mod large;
pub mod listener;
pub mod multipath;
pub mod net;
pub mod pause_free;
pub mod picture;
pub mod prometheus;
pub mod raw;
pub mod scene;
pub mod shapes;
pub mod stale;
pub mod streams;
pub mod tap;
pub mod terminal;
pub mod tracer;
pub mod tun;
pub mod wait;

pub use guard_proof::frame;
