//! Two ends and the connections between them, in simulated time. Everything that happens comes from one seed.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::greeting::{Greeting, Outcome};
use super::super::proof::{Agreed, Secret};
use super::super::{Class, Core, Limits, Phase, Time, Timeout};
use crate::frame::Kind;
use crate::preamble::SessionId;

/// Numbers from a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound.max(1))) >> 64) as u64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }
}

pub const HOME: usize = 0;
pub const NODE: usize = 1;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    /// What is under way, with the time of its arrival.
    flying: VecDeque<(u64, Vec<u8>)>,
    flying_bytes: usize,
    /// Nothing moves until then.
    stalled_until: u64,
}

/// A connection, which each end sees closed at its own time, or never.
struct Connection {
    pipes: [Pipe; 2],
    /// When each end sees that it is over.
    over_at: [Option<u64>; 2],
    /// Nothing that is written any more arrives.
    cut: bool,
    /// What each end has given up or not yet accepted.
    closed: [bool; 2],
    delay_us: u64,
    room: usize,
    /// First words, while they last, and what has come of the next message.
    greetings: [Option<Greeting>; 2],
    heard: [Vec<u8>; 2],
    /// Home gives the attempt up then.
    give_up_at: u64,
    /// Nobody's: somebody who does not know the secret.
    false_one: bool,
}

/// What the world does to its connections; one in so many steps, 0 for never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub cut: u64,
    pub half_open: u64,
    pub stall: u64,
    pub double_attempt: u64,
    pub intruder: u64,
    /// One in so many attempts fails at once.
    pub refuse: u64,
}

/// An end: the machine under test and what a transport does for it.
pub struct End {
    pub core: Option<Core>,
    /// The index of the connection it is up on.
    on: Option<usize>,
    /// Its clock: microseconds of its own for a million of the world's, and its offset.
    rate: u64,
    offset: u64,
    pub dead: bool,
    pub closed: bool,
    epoch: u64,
    attempt_at: u64,
    back_off: u64,
    pub sender: Sender,
    pub receiver: Receiver,
    pub taken: u64,
}

/// What an end sends: every frame says what must have come before it.
#[derive(Default)]
pub struct Sender {
    pub ordered: u64,
    pub data: [u64; 4],
    /// The last fence, which everything later of the ordered lane follows too.
    fences: u64,
}

/// What an end has got.
#[derive(Default)]
pub struct Receiver {
    ordered: u64,
    data: [u64; 4],
}

pub struct World {
    pub random: Random,
    pub now: u64,
    pub ends: [End; 2],
    connections: Vec<Connection>,
    pub faults: Faults,
    limits: Limits,
    secret: Secret,
    pub events: u64,
    /// The node's process, or the way to it, is gone: attempts are told so.
    pub unknown: bool,
    /// No attempt gets through.
    pub partition: bool,
    /// Largest memory seen at each end.
    pub held_max: [usize; 2],
}

const STREAMS: u64 = 4;

impl World {
    pub fn new(seed: u64, limits: Limits, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        let secret = Secret(std::array::from_fn(|_| random.next() as u8));
        let mut end = |limits: Limits| {
            End {
                rate: 950_000 + random.below(100_000),
                offset: random.below(1 << 40),
                core: None,
                on: None,
                dead: false,
                closed: false,
                epoch: Agreed::EPOCH_FIRST,
                attempt_at: 0,
                back_off: 1000,
                sender: Sender::default(),
                receiver: Receiver::default(),
                taken: 0,
            }
            .started(limits)
        };
        let ends = [end(limits.clone()), end(limits.clone())];
        let mut world = Self {
            random,
            now: 0,
            ends,
            connections: Vec::new(),
            faults,
            limits,
            secret,
            events: 0,
            unknown: false,
            partition: false,
            held_max: [0; 2],
        };
        let home = Greeting::home_new(world.limits.clone());
        let node = Greeting::node_new(world.limits.clone(), SessionId([1; 16]), world.secret);
        // The session begins on a good connection: if the first one fails, there is no session.
        let faults = std::mem::take(&mut world.faults);
        world.connect(home, node);
        while world.ends.iter().any(|end| end.on.is_none()) {
            world.step();
        }
        world.faults = faults;
        world
    }

    fn connect(&mut self, home: Greeting, node: Greeting) {
        let first = home.begin();
        let connection = Connection {
            pipes: Default::default(),
            over_at: [None; 2],
            cut: false,
            closed: [false; 2],
            delay_us: 50 + self.random.below(20_000),
            room: 1 + self.random.below(100_000) as usize,
            greetings: [Some(home), Some(node)],
            heard: Default::default(),
            give_up_at: self.now + 200_000 + self.random.below(400_000),
            false_one: false,
        };
        self.connections.push(connection);
        let index = self.connections.len() - 1;
        self.fly(index, HOME, first);
    }

    /// Writes what an end says, whatever room there is.
    fn fly(&mut self, index: usize, from: usize, bytes: Vec<u8>) {
        let connection = &mut self.connections[index];
        if connection.cut || bytes.is_empty() {
            return;
        }
        let pipe = &mut connection.pipes[from];
        pipe.flying_bytes += bytes.len();
        pipe.flying.push_back((self.now + connection.delay_us, bytes));
    }

    /// Time goes on a little, and everything that is due happens.
    pub fn step(&mut self) {
        self.now += 1 + self.random.below(4000);
        self.do_faults();
        self.attempt();
        for index in 0..self.connections.len() {
            for end in [HOME, NODE] {
                self.deliver(index, end);
            }
        }
        for end in [HOME, NODE] {
            self.tick(end);
            self.write(end);
        }
        if self.connections.len() > 64 {
            self.forget_connections();
        }
    }

    fn forget_connections(&mut self) {
        // Those that nobody has any more.
        let mut index = 0;
        while index < self.connections.len() {
            let used = !self.connections[index].closed.iter().all(|closed| *closed);
            if used {
                index += 1;
                continue;
            }
            self.connections.remove(index);
            for end in &mut self.ends {
                if let Some(on) = end.on.as_mut()
                    && *on > index
                {
                    *on -= 1;
                }
            }
        }
    }

    fn do_faults(&mut self) {
        if self.connections.is_empty() {
            return;
        }
        let index = self.random.below(self.connections.len() as u64) as usize;
        let (now, faults) = (self.now, self.faults.clone());
        if self.random.one_in(faults.cut) {
            let delays = [self.random.below(30_000), self.random.below(30_000)];
            self.cut(index, [Some(now + delays[0]), Some(now + delays[1])]);
        }
        if self.random.one_in(faults.half_open) {
            let side = self.random.below(3);
            let over = [(side == 0).then_some(now), (side == 1).then_some(now)];
            self.cut(index, over);
        }
        if self.random.one_in(faults.stall) {
            let until = now + self.random.below(600_000);
            let direction = self.random.below(2) as usize;
            self.connections[index].pipes[direction].stalled_until = until;
        }
        if self.random.one_in(faults.intruder) {
            let greeting = Greeting::home_resumes(
                self.limits.clone(),
                Secret([0; 32]),
                1 + self.random.below(1000),
                self.random.below(1000),
                [3; 32],
            );
            let nonce = std::array::from_fn(|_| self.random.next() as u8);
            let node = Greeting::node_resumes(self.limits.clone(), self.secret, nonce);
            self.connect(greeting, node);
            if let Some(connection) = self.connections.last_mut() {
                connection.false_one = true;
            }
        }
    }

    fn cut(&mut self, index: usize, over: [Option<u64>; 2]) {
        let connection = &mut self.connections[index];
        connection.cut = true;
        for end in [HOME, NODE] {
            if connection.over_at[end].is_none() {
                connection.over_at[end] = over[end];
            }
        }
        for pipe in &mut connection.pipes {
            // Some of what is under way still arrives.
            let keep = self.random.below(1 + pipe.flying.len() as u64) as usize;
            pipe.flying.truncate(keep);
        }
    }

    fn local(&self, end: usize) -> Time {
        let end = &self.ends[end];
        Duration::from_micros((u128::from(self.now) * u128::from(end.rate) / 1_000_000) as u64 + end.offset)
    }

    /// Home tries again when it is down.
    fn attempt(&mut self) {
        let now = self.now;
        let double = self.random.one_in(self.faults.double_attempt);
        let home = &mut self.ends[HOME];
        if home.core.is_none()
            || home.dead
            || home.closed
            || home.on.is_some() && !double
            || now < home.attempt_at && !double
        {
            return;
        }
        home.attempt_at = now + home.back_off;
        home.back_off = (home.back_off * 2).min(100_000);
        if self.unknown && !self.partition {
            home.dead = true;
            return;
        }
        if self.partition || self.random.one_in(self.faults.refuse) {
            return;
        }
        home.epoch += 1;
        home.on = None;
        // Nothing that still comes to home over an earlier one may be counted; what home has said there still arrives.
        let epoch = home.epoch;
        for old in &mut self.connections {
            if !old.closed[HOME] && !old.false_one {
                old.closed[HOME] = true;
                let over = now + self.random.below(50_000);
                old.over_at[NODE].get_or_insert(over);
            }
        }
        let time = self.local(HOME);
        let Some(core) = self.ends[HOME].core.as_mut() else {
            return;
        };
        core.down(time);
        let received = core.received();
        let nonce = std::array::from_fn(|_| self.random.next() as u8);
        let home = Greeting::home_resumes(self.limits.clone(), self.secret, epoch, received, nonce);
        let nonce = std::array::from_fn(|_| self.random.next() as u8);
        let node = Greeting::node_resumes(self.limits.clone(), self.secret, nonce);
        self.connect(home, node);
    }

    /// What has arrived at an end of a connection.
    fn deliver(&mut self, index: usize, end: usize) {
        let from = 1 - end;
        let now = self.now;
        loop {
            let connection = &mut self.connections[index];
            if connection.closed[end] {
                return;
            }
            if now < connection.pipes[from].stalled_until {
                break;
            }
            let pipe = &mut connection.pipes[from];
            if pipe.flying.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let Some((_, bytes)) = pipe.flying.pop_front() else {
                break;
            };
            pipe.flying_bytes -= bytes.len().min(pipe.flying_bytes);
            self.events += 1;
            self.hear(index, end, &bytes);
        }
        let connection = &mut self.connections[index];
        let greeting_too_long = connection.greetings[end].is_some() && now > connection.give_up_at;
        if connection.over_at[end].is_some_and(|at| at <= now) || greeting_too_long {
            self.drop_connection(index, end);
        }
    }

    /// An end gives a connection up; the other one sees it, if it is not cut.
    fn drop_connection(&mut self, index: usize, end: usize) {
        let now = self.now;
        let connection = &mut self.connections[index];
        connection.closed[end] = true;
        connection.greetings[end] = None;
        if !connection.cut {
            let at = now + connection.delay_us;
            connection.over_at[1 - end].get_or_insert(at);
        } else if self.random.one_in(2) {
            // Else it is half-open until the other end gives it up.
            connection.over_at[1 - end].get_or_insert(now + 1000);
        }
        if self.ends[end].on == Some(index) {
            self.ends[end].on = None;
            let time = self.local(end);
            if let Some(core) = &mut self.ends[end].core {
                core.down(time);
            }
        }
    }

    fn hear(&mut self, index: usize, end: usize, mut bytes: &[u8]) {
        let time = self.local(end);
        while !bytes.is_empty() {
            let connection = &mut self.connections[index];
            let Some(greeting) = &mut connection.greetings[end] else {
                if self.ends[end].on == Some(index)
                    && let Some(core) = &mut self.ends[end].core
                {
                    core.receive(time, bytes).expect("the peer keeps to the protocol");
                }
                return;
            };
            let heard = &mut connection.heard[end];
            let (now, rest) = bytes.split_at((greeting.wanted() - heard.len()).min(bytes.len()));
            heard.extend_from_slice(now);
            bytes = rest;
            if heard.len() < greeting.wanted() {
                return;
            }
            let message = std::mem::take(heard);
            let Some(core) = &self.ends[end].core else {
                return self.drop_connection(index, end);
            };
            let Ok(step) = greeting.hear(&message, core.received()) else {
                assert!(connection.false_one, "the right secret is known");
                return self.drop_connection(index, end);
            };
            if step.outcome.is_some() {
                connection.greetings[end] = None;
            }
            self.fly(index, end, step.say);
            if let Some(Outcome { agreed, .. }) = step.outcome {
                assert!(
                    !self.connections[index].false_one,
                    "nobody gets in without the secret"
                );
                let end_now = &mut self.ends[end];
                let Some(core) = &mut end_now.core else { return };
                if core.up(time, &agreed).expect("the peer has forgotten nothing") {
                    end_now.back_off = 1000;
                    if let Some(old) = end_now.on.replace(index) {
                        self.connections[old].closed[end] = true;
                        self.connections[old].over_at[1 - end].get_or_insert(self.now + 5000);
                    }
                } else {
                    return self.drop_connection(index, end);
                }
            }
        }
    }

    /// Timers of an end.
    fn tick(&mut self, end: usize) {
        let time = self.local(end);
        let Some(core) = &mut self.ends[end].core else {
            return;
        };
        if core.next_timeout().is_some_and(|at| at <= time) {
            self.events += 1;
            match core.handle_timeout(time) {
                Timeout::Nothing => {}
                Timeout::Lost => {
                    if let Some(index) = self.ends[end].on {
                        self.drop_connection(index, end);
                    }
                }
                Timeout::Dead => self.ends[end].dead = true,
            }
        }
        let Some(core) = &self.ends[end].core else { return };
        if core.phase() == Phase::Closed {
            self.ends[end].closed = true;
        }
        if self.random.one_in(16) {
            let held = core.held_bytes();
            self.held_max[end] = self.held_max[end].max(held);
        }
    }

    /// An end's connection takes what it has room for.
    fn write(&mut self, end: usize) {
        let Some(index) = self.ends[end].on else { return };
        let Some(core) = &mut self.ends[end].core else {
            return;
        };
        let connection = &mut self.connections[index];
        loop {
            let room = connection.room.saturating_sub(connection.pipes[end].flying_bytes);
            let mut bytes = Vec::new();
            for slice in core.transmit() {
                bytes.extend_from_slice(&slice);
            }
            bytes.truncate(room);
            if bytes.is_empty() {
                return;
            }
            let whole = bytes.len();
            let taken = 1 + self.random.below(whole as u64) as usize;
            bytes.truncate(taken);
            core.transmitted(taken);
            self.events += 1;
            if !connection.cut {
                let pipe = &mut connection.pipes[end];
                pipe.flying_bytes += taken;
                let last = pipe.flying.back().map_or(0, |(at, _)| *at);
                pipe.flying
                    .push_back((last.max(self.now + connection.delay_us), bytes));
            }
        }
    }

    /// An end's program sends a frame, if there is room.
    pub fn send(&mut self, end: usize, class_number: u64, size: usize) {
        let stream = self.random.below(STREAMS);
        let (class, kind) = match class_number {
            0 => (Class::Ordered, Kind::Call),
            1 => (Class::Fence, Kind::Control),
            _ => (
                Class::Data {
                    stream: stream as u32,
                },
                Kind::FileReply,
            ),
        };
        let end = &mut self.ends[end];
        let Some(core) = &mut end.core else { return };
        let sender = &mut end.sender;
        let data_total: u64 = sender.data.iter().sum();
        let fences = match class {
            Class::Fence => data_total,
            _ => sender.fences,
        };
        let (number, lane) = match class {
            Class::Data { .. } => (sender.data[stream as usize], stream + 1),
            _ => (sender.ordered, 0),
        };
        let mut payload = Vec::with_capacity(size + 32);
        for word in [lane, number, sender.ordered, fences] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        payload.extend((0..size).map(|at| pattern(lane, number, at)));
        if !core.has_room(class, payload.len()) {
            return;
        }
        let (first, second) = payload.split_at(payload.len() / 2);
        core.send(class, kind, number, &[first, second])
            .expect("a frame of legal size");
        sender.fences = fences;
        match class {
            Class::Data { .. } => sender.data[stream as usize] += 1,
            _ => sender.ordered += 1,
        }
        self.events += 1;
    }

    /// An end's program takes a frame, and looks whether it is the right one.
    pub fn take(&mut self, end: usize) -> bool {
        let end = &mut self.ends[end];
        let Some(frame) = end.core.as_mut().and_then(Core::next_frame) else {
            return false;
        };
        end.taken += 1;
        self.events += 1;
        let word = |index: usize| {
            let bytes = &frame.payload[index * 8..index * 8 + 8];
            u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        };
        let (lane, number, ordered_before, data_before) = (word(0), word(1), word(2), word(3));
        let receiver = &mut end.receiver;
        if lane == 0 {
            assert_eq!(
                number, receiver.ordered,
                "ordered frames come in order, each once"
            );
            receiver.ordered += 1;
            let data: u64 = receiver.data.iter().sum();
            assert!(data >= data_before, "a fence overtakes nothing");
        } else {
            let count = &mut receiver.data[lane as usize - 1];
            assert_eq!(number, *count, "a stream's frames come in order, each once");
            *count += 1;
            assert!(
                receiver.ordered >= ordered_before,
                "data overtakes nothing that is ordered"
            );
        }
        for (at, byte) in frame.payload[32..].iter().enumerate() {
            assert_eq!(*byte, pattern(lane, number, at), "contents");
        }
        true
    }

    /// Whether everything that was sent has been taken.
    pub fn is_settled(&self) -> bool {
        [HOME, NODE].into_iter().all(|end| {
            let (sender, receiver) = (&self.ends[end].sender, &self.ends[1 - end].receiver);
            sender.ordered == receiver.ordered && sender.data == receiver.data
        })
    }
}

impl End {
    fn started(mut self, limits: Limits) -> Self {
        self.core = Some(Core::new(limits, Duration::from_micros(self.offset)));
        self
    }
}

fn pattern(lane: u64, number: u64, at: usize) -> u8 {
    (lane * 31 + number * 7 + at as u64) as u8
}
