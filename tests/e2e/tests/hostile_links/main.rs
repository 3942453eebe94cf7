//! Homes and nodes that have a key that is trusted, and do not behave once the handshake is done: their own session ends with an
//! error, and others go on.

mod homes;
mod nodes;
mod raw;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Mode, Place, Running};
use afield_link::secure::Identity;

/// The machines of these tests share the loopback device.
const EMBEDDED: Mode = Mode {
    place: Place::Embedded,
    user: false,
};

/// For everything that should come soon.
const BOUND: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + BOUND
}

/// A node, and a job of a well-behaved home on it, which must not notice anything.
struct Scene {
    arena: Arena,
    address: String,
    job: Running,
    steps: usize,
}

impl Scene {
    fn new() -> Self {
        let mut arena = Arena::new(EMBEDDED);
        arena.set_grace("60");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let address = format!("127.0.0.1:{port}");
        arena.start_node_at(&address, port);
        let script = "echo ready; i=0; until [ -e over ]; do if [ -e go$i ]; then echo went $i; i=$((i+1)); fi; sleep 0.01; done; exit 6";
        let mut job = arena.start(&arena.afield(&["run", "--on", &address, "sh", "-c", script]));
        job.until_output("ready");
        Self {
            arena,
            address,
            job,
            steps: 0,
        }
    }

    /// The job goes on.
    fn step(&mut self) {
        let step = self.steps;
        self.steps += 1;
        std::fs::write(self.arena.work().join(format!("go{step}")), "").unwrap();
        self.job.until_output(&format!("went {step}\n"));
    }

    fn end(mut self) {
        self.step();
        std::fs::write(self.arena.work().join("over"), "").unwrap();
        let outcome = self.job.wait();
        outcome.expect_exit(6);
        let steps: String = (0..self.steps).map(|step| format!("went {step}\n")).collect();
        assert_eq!(outcome.output(), format!("ready\n{steps}"));
        self.arena.expect_clean();
    }

    /// A key that the node admits, beside the home's own.
    fn admitted(&self) -> Identity {
        let identity = Identity::ephemeral().unwrap();
        let home = self.arena.fingerprint(self.arena.afield(&[]));
        self.arena.admit(&format!("{home}\n{}\n", identity.fingerprint()));
        identity
    }

    /// The processes of sessions on the node.
    fn sessions(&self) -> Vec<i32> {
        let node = self.arena.node_pid().unwrap();
        let processes = self.arena.watch().all().into_iter();
        processes
            .filter(|process| process.parent == node)
            .map(|process| process.pid)
            .collect()
    }
}
