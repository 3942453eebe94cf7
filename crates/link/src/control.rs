//! What home and node ask of each other, apart from what guests' calls make them ask.
//!
//! Calls and their replies are frames of kind `Control` on the link and keep their place among all others: what one thread sends
//! is heard in the order in which it was sent. The link delivers exactly once as long as the session lasts, so a `maybe`
//! operation is executed once unless the session ends.

use afield_rpc::endpoint::Connection;
use afield_rpc::stages::Served;
use afield_rpc::{CallError, interface};
use serde::{Deserialize, Serialize};

use crate::frame::{FrameError, Kind};
use crate::stream::{LinkError, Writer};
use crate::wire::{MountPoint, Spawn, SpawnError, Usage};

/// What a node can be asked to do.
#[interface(name = "afield.node", version = 3)]
pub trait Node {
    /// Starts a guest. Answered when the program has been executed, ahead of anything that it does, or cannot be.
    #[at_most_once]
    #[later]
    fn start(&self, spawn: Spawn) -> Result<(), SpawnError>;
    /// Home's file systems are mounted here now, as [`Hello`](crate::wire::Hello) had it: jobs that are started from now on see
    /// them so. A file system keeps its number as long as it is mounted.
    #[maybe]
    fn mounts(&self, points: Vec<MountPoint>);
    /// A signal arrived at the deputy. `info` is the kernel's `siginfo_t`, 128 bytes.
    #[maybe]
    fn signal(&self, pid: u32, info: Vec<u8>);
    /// The deputy is gone: end the guest at once. Nobody waits for its status.
    #[maybe]
    fn kill(&self, pid: u32);
    /// The deputy is stopped: the guest must not compute.
    #[maybe]
    fn hold(&self, pid: u32);
    /// The deputy runs again.
    #[maybe]
    fn release(&self, pid: u32);
    /// The deputy's priority (`nice`) is this now.
    #[maybe]
    fn priority(&self, pid: u32, nice: i8);
    /// A home object for which a poll was asked with notification by `pid` has become ready: at the deputy's look
    /// number `look` (see [`crate::wire::HandleReply::look`]) it is so for `events` (`POLL*`).
    #[maybe]
    fn ready(&self, pid: u32, handle: u64, events: u32, look: u32);
    /// The guests that there are, so that home can end those whose deputies are no more.
    #[at_least_once(timeout = "5s")]
    #[later]
    fn guests(&self) -> Vec<u32>;
    /// How the session is. With `stages` it also tells from now on where the time of such a call goes.
    #[at_least_once(timeout = "5s")]
    #[later]
    fn statistics(&self, stages: bool) -> Statistics;
}

/// What a home can be asked to do.
#[interface(name = "afield.home", version = 3)]
pub trait Home {
    /// A guest forks: the deputy of `pid` forks too. Gives the child's pid, or the errno of the failed fork.
    /// `exit_signal` is for the parent when the child ends (`SIGCHLD` as a rule, 0 for none); with `sibling` the
    /// child becomes the caller's sibling (`CLONE_PARENT`).
    #[at_most_once]
    #[later]
    fn fork(&self, pid: u32, exit_signal: u32, sibling: bool) -> Result<u32, i32>;
    /// A child deputy that was made for a fork is not needed after all: end it without a trace.
    #[maybe]
    fn unfork(&self, parent: u32, pid: u32);
    /// The guest executes another program now. `name` is the command name, at most 15 bytes; `arguments` are NUL-separated, as in
    /// `/proc/PID/cmdline`, at most 128 KiB.
    #[maybe]
    fn exec(&self, pid: u32, name: Vec<u8>, arguments: Vec<u8>);
    /// The guest changed its command name (`PR_SET_NAME` by its main thread).
    #[maybe]
    fn name(&self, pid: u32, name: Vec<u8>);
    /// The guest has written over its arguments; they are NUL-separated.
    #[maybe]
    fn title(&self, pid: u32, arguments: Vec<u8>);
    /// The guest ended with this wait status (of `waitpid`).
    #[maybe]
    fn exit(&self, pid: u32, status: i32, usage: Usage);
    /// A stop signal's default action: the deputy stops itself with it. [`Node::release`] follows when the deputy runs again
    /// (which is at once if home's kernel ignores the stop).
    #[maybe]
    fn stop(&self, pid: u32, signal: u32);
    /// A call was refused because it is not possible afield.
    #[maybe]
    fn unsupported(&self, pid: u32, call: u32, errno: i32);
    /// Something that the user of this guest's job should know.
    #[maybe]
    fn notice(&self, pid: u32, text: String);
    /// The node ends the session, for this reason.
    #[maybe]
    fn farewell(&self, why: String);
    /// No guest has the object of a [`HandleOp::Share`](crate::wire::HandleOp::Share) any more.
    #[maybe]
    fn released(&self, handle: u64);
    /// Nothing but the round trip.
    #[at_least_once(timeout = "5s")]
    fn ping(&self);
    /// What the guest has open has changed since home was told last. At most [`DESCRIPTORS_TOLD`] changes, of numbers below that.
    #[maybe]
    fn descriptors(&self, pid: u32, changes: Vec<DescriptorChange>);
    /// The guest ignores a signal from now on, or no longer does: `SIGTSTP`, `SIGTTIN` or `SIGTTOU`.
    #[maybe]
    fn ignores(&self, pid: u32, signal: u32, ignored: bool);
}

/// The numbers of the descriptors of a guest that home is told of are below this.
pub const DESCRIPTORS_TOLD: u32 = 4096;

/// A change of a guest's descriptors, for home to show.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub struct DescriptorChange {
    /// The descriptor.
    pub number: u32,
    /// What it is now.
    pub now: Held,
}

/// What a guest has open under a number.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub enum Held {
    /// Nothing that home has.
    Nothing,
    /// A file of home's tree, by the node id of the file service.
    File(u64),
    /// A home object, by its handle.
    Object(u64),
    /// A device that the node has as well, by the minor number of those of `/dev/mem`'s kind.
    Device(u32),
}

/// Most bytes of arguments that home is told.
pub const ARGUMENTS_BYTES_MAX: usize = 128 << 10;

/// Most bytes of a command's name, without a NUL.
pub const NAME_BYTES_MAX: usize = 15;

/// How a node's session is.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Statistics {
    /// Guests that there are.
    pub guests: u32,
    /// Those of them that must not compute now.
    pub held: u32,
    /// Calls that wait for home.
    pub calls: u32,
    /// The node's part of this call, if it was asked for.
    pub served: Served,
}

impl Connection for Writer {
    fn send(&self, message: &[u8]) -> Result<(), CallError> {
        self.write_frame(Kind::Control, 0, &[message])
            .map_err(|error| match error {
                LinkError::Frame(FrameError::TooLong(bytes)) => CallError::TooLarge(bytes),
                other => CallError::Connection(other.to_string()),
            })
    }
}
