//! Clients and servers on a network that loses, doubles and reorders, with partitions, crashes and clocks that drift.
//!
//! Every run follows from its seed. `AFIELD_SIMULATION_SEED` replays one; `AFIELD_SIMULATION_RUNS` says how many there are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use crate::client::{CallId, Client};
use crate::envelope::Envelope;
use crate::interface::{Interface, Operation, Semantics};
use crate::server::{self, ExecutionId, Server};
use crate::{CallError, Settings, Time};

const fn operation(name: &'static str, semantics: Semantics, replies: bool, timeout_ms: u64) -> Operation {
    Operation {
        name,
        semantics,
        replies,
        timeout: match timeout_ms {
            0 => None,
            limit => Some(Duration::from_millis(limit)),
        },
    }
}

const OPERATIONS: [Operation; 5] = [
    operation("maybe", Semantics::Maybe, true, 900),
    operation("at_least_once", Semantics::AtLeastOnce, true, 0),
    operation("at_most_once", Semantics::AtMostOnce, true, 0),
    operation("at_most_once_for_a_while", Semantics::AtMostOnce, true, 2500),
    operation("notice", Semantics::Maybe, false, 0),
];

const INTERFACE: Interface = Interface {
    name: "test.simulation",
    version: 1,
    operations: &OPERATIONS,
};

const CALLS_MAX: usize = 40;
const REMEMBERED_BYTES_MAX: usize = 2000;

fn settings() -> Settings {
    Settings {
        calls_max: CALLS_MAX,
        remembered_bytes_max: REMEMBERED_BYTES_MAX,
        bindings_max: 8,
        lease: Some(Duration::from_secs(8)),
        ..Settings::datagram()
    }
}

/// A random sequence (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What can go wrong in a run.
#[derive(Clone, Copy, Debug)]
struct Faults {
    /// Of a thousand messages.
    lost: u64,
    doubled: u64,
    crashes: bool,
    partitions: bool,
}

/// A clock that goes at its own rate.
#[derive(Clone, Copy)]
struct Clock {
    offset_us: u64,
    /// Of a thousand.
    rate: u64,
}

impl Clock {
    fn local(self, now_us: u64) -> Time {
        Duration::from_micros(self.offset_us + now_us * self.rate / 1000)
    }

    fn global_us(self, time: Time) -> u64 {
        ((time.as_micros() as u64).saturating_sub(self.offset_us) * 1000).div_ceil(self.rate)
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrives {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Wake {
        node: usize,
    },
    Completes {
        node: usize,
        life: u32,
        execution: ExecutionId,
        argument: u64,
    },
    Calls {
        node: usize,
    },
    Crash {
        node: usize,
    },
    Partition,
}

enum Core {
    Client(Client),
    Server(Server),
}

struct Node {
    core: Core,
    clock: Clock,
    /// Which incarnation.
    life: u32,
    /// The wake that is scheduled.
    wake_us: Option<u64>,
    /// A client's open calls, with their arguments.
    calls: HashMap<CallId, u64>,
}

/// What is known of a call.
#[derive(Default)]
struct Truth {
    operation: u16,
    executed: u32,
    /// How it ended; none if its client crashed.
    result: Option<Result<(), CallError>>,
    cancelled: bool,
}

struct World {
    random: Random,
    faults: Faults,
    nodes: Vec<Node>,
    clients: usize,
    now_us: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    sequence: u64,
    truths: Vec<Truth>,
    /// Pairs that hear nothing of each other.
    cut: Vec<(usize, usize)>,
    calm: bool,
    events: u64,
}

fn result_of(argument: u64) -> u64 {
    argument.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 77
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let faults = Faults {
            lost: [0, 20, 300][random.below(3) as usize],
            doubled: [0, 100, 400][random.below(3) as usize],
            crashes: random.one_in(2),
            partitions: random.one_in(3),
        };
        let clients = 1 + random.below(4) as usize;
        let servers = 1 + random.below(3) as usize;
        let mut world = Self {
            random,
            faults,
            nodes: Vec::new(),
            clients,
            now_us: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            truths: Vec::new(),
            cut: Vec::new(),
            calm: false,
            events: 0,
        };
        for index in 0..clients + servers {
            let clock = Clock {
                offset_us: world.random.below(1_000_000_000),
                rate: 850 + world.random.below(300),
            };
            let core = world.birth(index, 1, servers);
            world.nodes.push(Node {
                core,
                clock,
                life: 1,
                wake_us: None,
                calls: HashMap::new(),
            });
        }
        for node in 0..clients {
            world.later(1, Happening::Calls { node });
        }
        if world.faults.crashes {
            world.later(3_000_000, Happening::Crash { node: 0 });
        }
        if world.faults.partitions {
            world.later(2_000_000, Happening::Partition);
        }
        world
    }

    fn birth(&self, index: usize, life: u32, servers: usize) -> Core {
        if index < self.clients {
            let servers: Vec<u64> = (self.clients..self.clients + servers)
                .map(|at| at as u64)
                .collect();
            let client = Client::new(settings(), &INTERFACE, index as u64, u64::from(life), &servers);
            Core::Client(client)
        } else {
            // Incarnations are never used twice, and bindings of different servers look alike.
            Core::Server(Server::new(settings(), life, vec![&INTERFACE]))
        }
    }

    fn later(&mut self, after_us: u64, what: Happening) {
        self.sequence += 1;
        self.queue
            .push(Reverse((self.now_us + after_us, self.sequence, what)));
    }

    /// Runs so many events with faults, then without until all is quiet.
    fn run(&mut self, events: u64) {
        while let Some(Reverse((time, _, what))) = self.queue.pop() {
            self.now_us = time;
            self.events += 1;
            if self.events == events {
                self.calm = true;
                self.cut.clear();
            }
            self.happen(what);
        }
        self.check_end();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrives { from, to, bytes } => {
                let Ok(message) = Envelope::decode(&bytes) else {
                    panic!("a core sent what cannot be read");
                };
                let now = self.nodes[to].clock.local(self.now_us);
                match &mut self.nodes[to].core {
                    Core::Client(client) => client.handle(now, from as u64, &message),
                    Core::Server(server) => server.handle(now, from as u64, &message),
                }
                self.settle(to);
            }
            Happening::Wake { node } => {
                if self.nodes[node].wake_us != Some(self.now_us) {
                    return;
                }
                self.nodes[node].wake_us = None;
                let now = self.nodes[node].clock.local(self.now_us);
                match &mut self.nodes[node].core {
                    Core::Client(client) => client.handle_time(now),
                    Core::Server(server) => server.handle_time(now),
                }
                self.settle(node);
            }
            Happening::Completes {
                node,
                life,
                execution,
                argument,
            } => {
                if self.nodes[node].life != life {
                    return;
                }
                let result = result_of(argument).to_le_bytes();
                if let Core::Server(server) = &mut self.nodes[node].core {
                    server.complete(execution, Ok(&result));
                }
                self.settle(node);
            }
            Happening::Calls { node } => self.make_calls(node),
            Happening::Crash { .. } => {
                if self.calm {
                    return;
                }
                let node = self.random.below(self.nodes.len() as u64) as usize;
                let servers = self.nodes.len() - self.clients;
                let life = self.nodes[node].life + 1;
                self.nodes[node].core = self.birth(node, life, servers);
                self.nodes[node].life = life;
                self.nodes[node].calls.clear();
                self.nodes[node].wake_us = None;
                let next = 500_000 + self.random.below(10_000_000);
                self.later(next, Happening::Crash { node: 0 });
            }
            Happening::Partition => {
                if self.calm {
                    return;
                }
                self.cut.clear();
                if self.random.one_in(2) {
                    let count = self.nodes.len() as u64;
                    for _ in 0..1 + self.random.below(3) {
                        // One direction at a time.
                        let pair = (
                            self.random.below(count) as usize,
                            self.random.below(count) as usize,
                        );
                        self.cut.push(pair);
                    }
                }
                let next = 100_000 + self.random.below(6_000_000);
                self.later(next, Happening::Partition);
            }
        }
    }

    fn make_calls(&mut self, node: usize) {
        if self.calm {
            return;
        }
        let now = self.nodes[node].clock.local(self.now_us);
        for _ in 0..self.random.below(4) {
            let operation = self.random.below(5) as u16;
            let argument = self.truths.len() as u64;
            self.truths.push(Truth {
                operation,
                ..Truth::default()
            });
            let bytes = argument.to_le_bytes().to_vec();
            let Core::Client(client) = &mut self.nodes[node].core else {
                return;
            };
            if operation == 4 {
                let sent = client.notify(operation, &bytes);
                self.truths[argument as usize].result = Some(sent);
                continue;
            }
            match client.call(now, operation, bytes) {
                Ok(call) => {
                    self.nodes[node].calls.insert(call, argument);
                }
                Err(error) => {
                    assert_eq!(error, CallError::TooMany);
                    self.truths[argument as usize].result = Some(Err(error));
                }
            }
        }
        if self.random.one_in(20)
            && let Some((&call, &argument)) = self.nodes[node].calls.iter().min()
            && let Core::Client(client) = &mut self.nodes[node].core
        {
            self.truths[argument as usize].cancelled = true;
            client.cancel(now, call);
        }
        self.settle(node);
        let next = 1 + self.random.below(60_000);
        self.later(next, Happening::Calls { node });
    }

    /// Takes a core's output, and sees to its next time.
    fn settle(&mut self, node: usize) {
        let mut messages = Vec::new();
        let mut executions = Vec::new();
        let Node { core, calls, .. } = &mut self.nodes[node];
        let next = match core {
            Core::Client(client) => {
                assert!(client.open_calls() <= CALLS_MAX);
                while let Some(message) = client.next_transmit() {
                    messages.push(message);
                }
                while let Some(event) = client.next_event() {
                    let argument = calls.remove(&event.call).expect("a call ends once");
                    let truth = &mut self.truths[argument as usize];
                    truth.result = Some(event.result.map(|bytes| {
                        assert_eq!(bytes, result_of(argument).to_le_bytes(), "somebody else's result");
                        assert!(truth.executed > 0, "a result of nothing");
                    }));
                }
                client.next_time()
            }
            Core::Server(server) => {
                // One reply more than the bound may come of each request that was let in below it.
                let bound = 8 * (REMEMBERED_BYTES_MAX + CALLS_MAX * 64);
                assert!(
                    server.remembered_bytes() <= bound,
                    "{} bytes",
                    server.remembered_bytes()
                );
                while let Some(message) = server.next_transmit() {
                    messages.push(message);
                }
                while let Some(event) = server.next_event() {
                    if let server::Event::Execute {
                        execution, arguments, ..
                    } = event
                    {
                        executions.push((execution, arguments));
                    }
                }
                server.next_time()
            }
        };
        for message in messages {
            self.send(node, message.to as usize, message.bytes);
        }
        let life = self.nodes[node].life;
        for (execution, arguments) in executions {
            let argument = u64::from_le_bytes(arguments.try_into().expect("eight bytes"));
            let truth = &mut self.truths[argument as usize];
            truth.executed += 1;
            let semantics = OPERATIONS[usize::from(truth.operation)].semantics;
            assert!(
                truth.executed == 1 || semantics == Semantics::AtLeastOnce,
                "{semantics:?} was executed {} times",
                truth.executed
            );
            if execution.number != 0 {
                let takes = match self.random.one_in(30) {
                    true => self.random.below(4_000_000),
                    false => self.random.below(30_000),
                };
                let what = Happening::Completes {
                    node,
                    life,
                    execution,
                    argument,
                };
                self.later(takes, what);
            }
        }
        if let Some(next) = next {
            let at = self.nodes[node].clock.global_us(next).max(self.now_us + 1);
            if self.nodes[node]
                .wake_us
                .is_none_or(|wake| at < wake || wake <= self.now_us)
            {
                self.nodes[node].wake_us = Some(at);
                self.later(at - self.now_us, Happening::Wake { node });
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let copies = if self.calm {
            1
        } else if self.cut.contains(&(from, to)) || self.random.below(1000) < self.faults.lost {
            0
        } else if self.random.below(1000) < self.faults.doubled {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = match !self.calm && self.random.one_in(50) {
                true => self.random.below(3_000_000),
                false => 50 + self.random.below(5_000),
            };
            let bytes = bytes.clone();
            self.later(delay, Happening::Arrives { from, to, bytes });
        }
    }

    fn check_end(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            match &node.core {
                Core::Client(client) => assert_eq!(client.open_calls(), 0, "client {index} waits for ever"),
                Core::Server(server) => {
                    // Leases are over: nobody has said anything for long.
                    assert_eq!((server.executing(), server.bindings()), (0, 0));
                    assert_eq!(server.remembered_bytes(), 0);
                }
            }
        }
        let gentle = !self.faults.crashes && !self.faults.partitions && self.faults.lost < 100;
        for truth in &self.truths {
            let row = &OPERATIONS[usize::from(truth.operation)];
            let ended_well = truth.result == Some(Ok(()));
            match row.semantics {
                Semantics::AtLeastOnce if ended_well => assert!(truth.executed >= 1),
                Semantics::AtMostOnce if ended_well => assert_eq!(truth.executed, 1),
                _ => {}
            }
            // While its server lives, and nobody gives it up, every call ends well.
            if gentle && row.timeout.is_none() && row.replies && !truth.cancelled {
                assert!(
                    matches!(truth.result, Some(Ok(()) | Err(CallError::TooMany))),
                    "{}: {:?}",
                    row.name,
                    truth.result
                );
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn semantics_hold_whatever_happens() {
    let one = number("AFIELD_SIMULATION_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("AFIELD_SIMULATION_RUNS").unwrap_or(250),
    };
    let (mut events, mut calls, mut well) = (0, 0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run(10_000);
            let well = world
                .truths
                .iter()
                .filter(|truth| truth.result == Some(Ok(())))
                .count();
            (world.events, world.truths.len(), well)
        });
        match outcome {
            Ok((some, made, ended_well)) => {
                events += some;
                calls += made;
                well += ended_well;
            }
            Err(_) => panic!("replay with AFIELD_SIMULATION_SEED={seed}"),
        }
    }
    println!("{events} events, {calls} calls, {well} of them ended well");
    assert!(one.is_some() || well * 2 > calls, "the simulation does little");
}
