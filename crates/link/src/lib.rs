//! The link between a home and a node: one ordered stream of frames.
//!
//! * [`aftermath`]: what a change has left, behind the reply to it.
//! * [`ahead`]: what goes before and after frames, found out where they get their order.
//! * [`carrier`]: a session on connections that come and go: the transport around [`resume`].
//! * [`contents`]: what home says of a file's contents, for nodes that keep them.
//! * [`early`]: what home answers before it is asked.
//! * [`frame`]: the framing, a sans-io decoder that bounds everything a peer can claim.
//! * [`hatch`]: connections that home hands to a node on its own machine.
//! * [`wire`]: what the frames say: fixed headers for the hot ones, serde messages for control.
//! * [`invalidation`]: what home says of files that have changed.
//! * [`message`]: the messages of sockets, inside operations on home objects.
//! * [`byte_stream`]: what a link between machines runs over: TCP, or TCP encrypted.
//! * [`preamble`]: the first bytes of every connection, in clear, by which a node finds the session it is for.
//! * [`resume`]: one end of a session that survives its connections, sans-io: numbers, acknowledgements, lanes.
//! * [`secure`]: keys, and TLS on TCP.
//! * [`streams`]: what home says of streams that are read and written ahead.
//! * [`stream`]: the thin transport (socketpair or TCP) that carries frames.
//! * [`sys`]: memory that an embedded node and its home share.
//! * [`turns`]: several threads that read it.
//!
//! Order is the contract. Both ends hand frames to the stream in the order in which things happened, and handle
//! them in the order in which they arrive; coherence (what was written before is seen before) rests on this.

pub mod aftermath;
pub mod ahead;
pub mod byte_stream;
pub mod carrier;
pub mod contents;
pub mod control;
pub mod early;
pub mod frame;
pub mod hatch;
mod held;
pub mod invalidation;
pub mod message;
pub mod preamble;
pub mod resume;
pub mod secure;
pub mod stream;
pub mod streams;
pub mod sys;
pub mod turns;
pub mod wire;

/// Version of everything in this crate that the peer sees. Both ends must agree on it exactly.
pub const PROTOCOL: u32 = 10;
