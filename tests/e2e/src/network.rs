//! A home and a node on one machine: two network namespaces and a cable between them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::STEP;
use crate::sys::{Surroundings, prepare};
use crate::tools;

/// The node's address on the cable.
pub(crate) const NODE_ADDRESS: &str = "10.77.0.2";

/// Home's addresses on it.
pub(crate) const HOME_ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.3"];

/// Two network namespaces, joined by a pair of `veth` devices; without a way out.
///
/// Root makes them directly. An ordinary user gets a user namespace around both, in which it appears as root.
pub(crate) struct Network {
    pub home: Vec<(i32, Arc<OwnedFd>)>,
    pub node: Vec<(i32, Arc<OwnedFd>)>,
    /// Processes that keep the namespaces alive; they end with the network.
    _holders: [Holder; 2],
}

struct Holder {
    child: Child,
    input: Option<ChildStdin>,
}

impl Holder {
    /// A `cat` that waits on a pipe, in new namespaces.
    fn new(surroundings: &Surroundings) -> Self {
        let mut command = Command::new("cat");
        command
            .env("PATH", tools::PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        prepare(&mut command, surroundings);
        let mut child = command
            .spawn()
            .expect("namespaces can be made (see afield doctor)");
        let input = child.stdin.take();
        Self { child, input }
    }

    fn namespace(&self, name: &str) -> Arc<OwnedFd> {
        let path = format!("/proc/{}/ns/{name}", self.child.id());
        Arc::new(File::open(path).expect("a holder's namespaces are ours").into())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

impl Network {
    pub fn new() -> Self {
        let is_root = rustix::process::getuid().is_root();
        let unshare = if is_root {
            libc::CLONE_NEWNET
        } else {
            libc::CLONE_NEWUSER | libc::CLONE_NEWNET
        };
        let home_holder = Holder::new(&Surroundings {
            unshare,
            ..Surroundings::default()
        });
        let mut users = Vec::new();
        if !is_root {
            users.push((libc::CLONE_NEWUSER, home_holder.namespace("user")));
        }
        let node_holder = Holder::new(&Surroundings {
            namespaces: users.clone(),
            unshare: libc::CLONE_NEWNET,
            ..Surroundings::default()
        });
        let join = |holder: &Holder| {
            let mut namespaces = users.clone();
            namespaces.push((libc::CLONE_NEWNET, holder.namespace("net")));
            namespaces
        };
        let (home, node) = (join(&home_holder), join(&node_holder));
        let peer = node_holder.child.id();
        let [first, second] = HOME_ADDRESSES;
        configure(
            &home,
            &format!(
                "link set lo up\nlink add cable type veth peer name cable netns {peer}\n\
                 address add {first}/29 dev cable\naddress add {second}/29 dev cable\nlink set cable up\n"
            ),
        );
        configure(
            &node,
            &format!("link set lo up\naddress add {NODE_ADDRESS}/29 dev cable\nlink set cable up\n"),
        );
        Self {
            home,
            node,
            _holders: [home_holder, node_holder],
        }
    }

    /// Has the node's end of the cable carry what is sent, or lose it in both directions without a word.
    pub fn set_cable(&self, carries: bool) {
        let state = if carries { "up" } else { "down" };
        configure(&self.node, &format!("link set cable {state}\n"));
        if carries {
            // The kernel would go on saying for a while that there is no way to neighbours who did not answer.
            configure(&self.home, "neigh flush dev cable\n");
        }
    }
}

fn configure(namespaces: &[(i32, Arc<OwnedFd>)], batch: &str) {
    let mut command = Command::new(tools::find("ip").expect("looked for before"));
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    prepare(
        &mut command,
        &Surroundings {
            namespaces: namespaces.to_vec(),
            ..Surroundings::default()
        },
    );
    let mut child = command.spawn().expect("ip runs");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(batch.as_bytes())
        .expect("ip reads its input");
    assert!(
        child.wait().expect("the child is ours").success(),
        "ip could not do:\n{batch}"
    );
}

/// Waits until the network namespace of `pid` has a listener on `port`.
pub(crate) fn is_listening(pid: i32, port: u16, bound: Duration) -> bool {
    let deadline = Instant::now() + bound;
    let wanted = format!(":{port:04X}");
    while Instant::now() < deadline {
        let sockets = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/{pid}/net/{name}")));
        let found = sockets
            .iter()
            .flatten()
            .flat_map(|table| table.lines())
            .any(|line| {
                let mut fields = line.split_whitespace();
                // 0A is the listening state.
                fields.nth(1).is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
            });
        if found {
            return true;
        }
        std::thread::sleep(STEP);
    }
    false
}
