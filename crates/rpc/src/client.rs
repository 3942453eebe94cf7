//! A client's calls on one interface, over one server or several.
//!
//! * queries: [`Client::open_calls`], [`Client::next_time`].
//! * input: [`Client::call`], [`Client::notify`], [`Client::cancel`], [`Client::handle`], [`Client::handle_time`],
//!   [`Client::server_lost`].
//! * output, to be taken after every input: [`Client::next_transmit`], [`Client::next_event`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::envelope::{Binding, Envelope, Refusal};
use crate::interface::{BindError, Interface, Operation, Semantics};
use crate::{Address, CallError, Settings, Time, Transmit, Transport};

/// A call of this client's, never given twice.
pub type CallId = u64;

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub call: CallId,
    /// Its marshalled result, or why there is none.
    pub result: Result<Vec<u8>, CallError>,
}

/// One call.
#[derive(Debug)]
struct Call {
    operation: u16,
    arguments: Vec<u8>,
    /// Where it has been sent: which server, under which number.
    place: Option<(usize, u64)>,
    deadline: Option<Time>,
    retry: Option<Time>,
    backoff: Duration,
    /// How often it was sent to the server where it is now.
    tries: u32,
}

/// What is known of a server.
#[derive(Debug)]
struct Server {
    address: Address,
    state: State,
    /// The latest binding it gave, of which the numbers below count on.
    latest: Binding,
    /// The number of its next request.
    next_number: u64,
    /// The number of its next notice.
    next_notice: u64,
    /// Requests that are open, by number.
    open: BTreeMap<u64, CallId>,
    /// When it is told next that the client lives.
    alive: Option<Time>,
    /// It was slow to answer: until then it gets nothing that another can do.
    suspect: Option<Time>,
}

#[derive(Debug)]
enum State {
    /// Not asked.
    Idle,
    /// Asked for a binding.
    Asking {
        retry: Time,
        backoff: Duration,
        tries: u32,
    },
    /// It may be used.
    Bound(Binding),
    /// It does not answer: it is asked again when there is no other, or after this.
    Silent(Time),
    /// It said no.
    Refused(BindError),
}

/// The core.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    interface: &'static Interface,
    identity: u64,
    epoch: u64,
    servers: Vec<Server>,
    /// The server that is first asked for the next call.
    turn: usize,
    calls: BTreeMap<CallId, Call>,
    next_call: CallId,
    /// When something has to be looked at.
    timers: BTreeSet<(Time, CallId)>,
    /// Calls that wait for a server.
    waiting: BTreeSet<CallId>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// How long a server that did not answer is left alone.
const SILENCE: Duration = Duration::from_secs(5);

impl Client {
    /// A client, in its incarnation `epoch`, of servers that have not been asked for bindings.
    pub fn new(
        settings: Settings,
        interface: &'static Interface,
        identity: u64,
        epoch: u64,
        servers: &[Address],
    ) -> Self {
        let mut client = Self {
            settings,
            interface,
            identity,
            epoch,
            servers: Vec::new(),
            turn: 0,
            calls: BTreeMap::new(),
            next_call: 1,
            timers: BTreeSet::new(),
            waiting: BTreeSet::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        for &address in servers {
            client.add_server(address);
        }
        client
    }

    /// A client of one server with which a binding was agreed on before.
    pub fn bound(
        settings: Settings,
        interface: &'static Interface,
        address: Address,
        binding: Binding,
    ) -> Self {
        let mut client = Self::new(settings, interface, 0, 0, &[address]);
        client.servers[0].state = State::Bound(binding);
        client
    }

    /// One more server, as a binder tells.
    pub fn add_server(&mut self, address: Address) {
        if self.servers.iter().any(|server| server.address == address) {
            return;
        }
        self.servers.push(Server {
            address,
            state: State::Idle,
            latest: 0,
            next_number: 1,
            next_notice: 1,
            open: BTreeMap::new(),
            alive: None,
            suspect: None,
        });
    }

    /// Its interface.
    pub fn interface(&self) -> &'static Interface {
        self.interface
    }

    /// Calls that have not ended.
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// Begins a call of an operation that has a reply.
    ///
    /// # Errors
    /// Too many are open, or there is no server to ask.
    pub fn call(&mut self, now: Time, operation: u16, arguments: Vec<u8>) -> Result<CallId, CallError> {
        let row = self.row(operation)?;
        if self.calls.len() >= self.settings.calls_max {
            return Err(CallError::TooMany);
        }
        if let Some(why) = self.hopeless() {
            return Err(why);
        }
        let id = self.next_call;
        self.next_call += 1;
        let call = Call {
            operation,
            arguments,
            place: None,
            deadline: row.timeout.map(|limit| now + limit),
            retry: None,
            backoff: Duration::ZERO,
            tries: 0,
        };
        self.calls.insert(id, call);
        self.assign(now, id);
        self.set_timer(id);
        Ok(id)
    }

    /// Sends a call that has no reply.
    ///
    /// # Errors
    /// No server is bound.
    pub fn notify(&mut self, operation: u16, arguments: &[u8]) -> Result<(), CallError> {
        self.row(operation)?;
        let bound = self.servers.iter_mut().find_map(|server| match server.state {
            State::Bound(binding) => Some((server, binding)),
            _ => None,
        });
        let Some((server, binding)) = bound else {
            return Err(self.hopeless().unwrap_or(CallError::ServerLost));
        };
        let number = server.next_notice;
        server.next_notice += 1;
        let message = Envelope::Notice {
            binding,
            number,
            operation,
            arguments,
        };
        self.transmits.push_back(Transmit {
            to: server.address,
            bytes: message.encode(),
        });
        Ok(())
    }

    /// Gives a call up; it ends with [`CallError::Cancelled`] unless it has ended already.
    pub fn cancel(&mut self, now: Time, call: CallId) {
        self.give_up(call, CallError::Cancelled);
        self.assign_waiting(now);
    }

    /// The connection to a server is no more: nothing that it was asked will be answered.
    pub fn server_lost(&mut self, now: Time, address: Address) {
        if let Some(index) = self.servers.iter().position(|server| server.address == address) {
            self.lose(now, index);
        }
    }

    /// A message has come. Those that make no sense, or come too late, are dropped.
    pub fn handle(&mut self, now: Time, from: Address, message: &Envelope<'_>) {
        let Some(index) = self.servers.iter().position(|server| server.address == from) else {
            return;
        };
        self.servers[index].suspect = None;
        match message {
            Envelope::Bound { epoch, name, outcome }
                if *epoch == self.epoch && *name == self.interface.name =>
            {
                self.bound_by(now, index, outcome);
            }
            Envelope::Reply {
                binding,
                number,
                outcome,
            } => self.replied(now, index, *binding, *number, outcome),
            _ => {}
        }
    }

    /// Does what is due.
    pub fn handle_time(&mut self, now: Time) {
        while let Some(&(time, id)) = self.timers.first() {
            if time > now {
                break;
            }
            self.timers.pop_first();
            self.call_due(now, id);
        }
        for index in 0..self.servers.len() {
            self.server_due(now, index);
        }
    }

    /// When [`Client::handle_time`] has something to do.
    pub fn next_time(&self) -> Option<Time> {
        let calls = self.timers.first().map(|(time, _)| *time);
        let servers = self.servers.iter().filter_map(|server| match server.state {
            State::Asking { retry, .. } => Some(retry),
            State::Bound(_) => server.alive.filter(|_| !server.open.is_empty()),
            _ => None,
        });
        calls.into_iter().chain(servers).min()
    }

    /// The next message to be sent.
    pub fn next_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next call that has ended.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn row(&self, operation: u16) -> Result<&'static Operation, CallError> {
        self.interface.operation(operation).ok_or(CallError::Rejected)
    }

    /// Why no server will ever take a call.
    fn hopeless(&self) -> Option<CallError> {
        let mut why = None;
        for server in &self.servers {
            match &server.state {
                State::Refused(error) => why = Some(CallError::Bind(error.clone())),
                _ => return None,
            }
        }
        Some(why.unwrap_or(CallError::ServerLost))
    }

    fn retry_times(&self) -> Option<(Duration, Duration, u32)> {
        match self.settings.transport {
            Transport::Ordered => None,
            Transport::Datagram {
                retry_first,
                retry_max,
                tries_per_server,
            } => Some((retry_first, retry_max, tries_per_server)),
        }
    }

    /// Sends a call to a server whose turn it is, or asks servers for bindings.
    fn assign(&mut self, now: Time, id: CallId) {
        let count = self.servers.len();
        let order: Vec<usize> = (0..count).map(|step| (self.turn + step) % count).collect();
        let ready = |trusted: bool| {
            order.iter().copied().find(|&index| {
                matches!(self.servers[index].state, State::Bound(_))
                    && self.has_room(index)
                    && !(trusted && self.servers[index].suspect.is_some_and(|until| until > now))
            })
        };
        // One that is to be asked, or is being asked, comes before one that is slow.
        let others = |server: &Server| matches!(server.state, State::Idle | State::Asking { .. });
        let usable = match ready(true) {
            None if !self.servers.iter().any(others) => ready(false),
            usable => usable,
        };
        if let Some(index) = usable {
            self.turn = (index + 1) % count;
            let number = self.servers[index].next_number;
            self.servers[index].next_number += 1;
            self.servers[index].open.insert(number, id);
            self.waiting.remove(&id);
            let retry = self.retry_times();
            if let Some(call) = self.calls.get_mut(&id) {
                call.place = Some((index, number));
                call.tries = 0;
                call.backoff = retry.map_or(Duration::ZERO, |(first, ..)| first);
            }
            return self.send(now, id);
        }
        self.waiting.insert(id);
        self.find_server(now, &order);
    }

    /// Asks a server for a binding, if none is being asked.
    fn find_server(&mut self, now: Time, order: &[usize]) {
        let asking = |server: &Server| match server.state {
            State::Asking { .. } => true,
            State::Bound(_) => server.suspect.is_none_or(|until| until <= now),
            _ => false,
        };
        if self.servers.iter().any(asking) {
            return;
        }
        let idle = |index: &usize| match self.servers[*index].state {
            State::Idle => true,
            State::Silent(until) => until <= now,
            _ => false,
        };
        let silent = |index: &usize| matches!(self.servers[*index].state, State::Silent(_));
        let next = order.iter().copied().find(idle);
        if let Some(index) = next.or_else(|| order.iter().copied().find(silent)) {
            let (backoff, ..) = self.retry_times().unwrap_or_default();
            self.ask(now, index, backoff, 1);
        }
    }

    fn ask(&mut self, now: Time, index: usize, backoff: Duration, tries: u32) {
        let server = &mut self.servers[index];
        server.state = State::Asking {
            retry: now + backoff,
            backoff,
            tries,
        };
        let message = Envelope::Bind {
            client: self.identity,
            epoch: self.epoch,
            name: self.interface.name,
            version: self.interface.version,
        };
        self.transmits.push_back(Transmit {
            to: server.address,
            bytes: message.encode(),
        });
    }

    /// A server remembers only so much: its oldest open request must not be too old.
    fn has_room(&self, index: usize) -> bool {
        let server = &self.servers[index];
        let oldest = server
            .open
            .first_key_value()
            .map_or(server.next_number, |(n, _)| *n);
        self.settings.transport == Transport::Ordered
            || server.next_number - oldest < self.settings.calls_max as u64
    }

    fn floor(server: &Server) -> u64 {
        server
            .open
            .first_key_value()
            .map_or(server.next_number, |(number, _)| *number)
    }

    /// Sends a call to where its place is, once more or for the first time.
    fn send(&mut self, now: Time, id: CallId) {
        let retry = self.retry_times();
        let lease = self.settings.lease;
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let Some((index, number)) = call.place else { return };
        let server = &mut self.servers[index];
        let State::Bound(binding) = server.state else {
            return;
        };
        let message = Envelope::Request {
            binding,
            number,
            floor: Self::floor(server),
            operation: call.operation,
            arguments: &call.arguments,
        };
        self.transmits.push_back(Transmit {
            to: server.address,
            bytes: message.encode(),
        });
        server.alive = lease.map(|lease| now + lease / 4);
        call.tries += 1;
        let maybe = self
            .interface
            .operation(call.operation)
            .is_some_and(|row| row.semantics == Semantics::Maybe);
        call.retry = match retry {
            Some((_, max, _)) if !maybe => {
                let wait = call.backoff;
                call.backoff = (call.backoff * 2).min(max);
                Some(now + wait)
            }
            _ => None,
        };
    }

    fn set_timer(&mut self, id: CallId) {
        let Some(call) = self.calls.get(&id) else { return };
        if let Some(time) = [call.deadline, call.retry].into_iter().flatten().min() {
            self.timers.insert((time, id));
        }
    }

    fn call_due(&mut self, now: Time, id: CallId) {
        let Some(call) = self.calls.get(&id) else { return };
        let Some(row) = self.interface.operation(call.operation) else {
            return;
        };
        if call.deadline.is_some_and(|deadline| deadline <= now) {
            let why = CallError::TimedOut {
                operation: row.name,
                limit: row.timeout.unwrap_or_default(),
            };
            self.give_up(id, why);
            return self.assign_waiting(now);
        }
        if call.retry.is_some_and(|retry| retry <= now) {
            let tries = call.tries;
            match (call.place, self.retry_times()) {
                (Some((index, _)), Some((_, _, per_server)))
                    if row.semantics == Semantics::AtLeastOnce
                        && tries >= per_server
                        && self.servers.len() > 1 =>
                {
                    self.servers[index].suspect = Some(now + SILENCE);
                    self.move_call(now, id);
                }
                _ => self.send(now, id),
            }
        }
        self.set_timer(id);
    }

    fn server_due(&mut self, now: Time, index: usize) {
        match self.servers[index].state {
            State::Asking {
                retry,
                backoff,
                tries,
            } if retry <= now => {
                let Some((_, max, per_server)) = self.retry_times() else {
                    return;
                };
                if tries >= per_server && self.servers.len() > 1 {
                    self.servers[index].state = State::Silent(now + SILENCE);
                    self.turn = (index + 1) % self.servers.len();
                    self.assign_waiting(now);
                } else {
                    self.ask(now, index, (backoff * 2).min(max), tries + 1);
                }
            }
            State::Bound(binding) => {
                let server = &mut self.servers[index];
                if server.alive.is_some_and(|time| time <= now) && !server.open.is_empty() {
                    server.alive = self.settings.lease.map(|lease| now + lease / 4);
                    let message = Envelope::Alive {
                        binding,
                        floor: Self::floor(server),
                    };
                    self.transmits.push_back(Transmit {
                        to: server.address,
                        bytes: message.encode(),
                    });
                }
            }
            _ => {}
        }
    }

    fn bound_by(&mut self, now: Time, index: usize, outcome: &Result<Binding, BindError>) {
        if !matches!(self.servers[index].state, State::Asking { .. } | State::Silent(_)) {
            return;
        }
        match outcome {
            // An old answer: bindings only grow.
            Ok(binding) if *binding < self.servers[index].latest => {}
            Ok(binding) => {
                let server = &mut self.servers[index];
                server.state = State::Bound(*binding);
                // The server may remember this one; then it remembers its numbers too.
                if server.latest != *binding {
                    server.latest = *binding;
                    server.next_number = 1;
                    server.next_notice = 1;
                }
                self.assign_waiting(now);
            }
            Err(BindError::Full) => {
                self.servers[index].state = State::Silent(now + SILENCE);
                self.assign_waiting(now);
            }
            Err(error) => {
                self.servers[index].state = State::Refused(error.clone());
                match self.hopeless() {
                    Some(why) => {
                        for id in std::mem::take(&mut self.waiting) {
                            self.finish(id, Err(why.clone()));
                        }
                    }
                    None => self.assign_waiting(now),
                }
            }
        }
    }

    /// There may be room for calls that wait for it.
    fn assign_waiting(&mut self, now: Time) {
        for id in self.waiting.clone() {
            self.assign(now, id);
            self.set_timer(id);
        }
    }

    fn replied(
        &mut self,
        now: Time,
        index: usize,
        binding: Binding,
        number: u64,
        outcome: &Result<&[u8], Refusal>,
    ) {
        let server = &self.servers[index];
        match server.state {
            State::Bound(ours) if ours == binding => {}
            _ => return,
        }
        if *outcome == Err(Refusal::Stranger) {
            return self.lose(now, index);
        }
        let Some(&id) = server.open.get(&number) else {
            return;
        };
        match outcome {
            Ok(result) => self.finish(id, Ok(result.to_vec())),
            // It is sent again when its time comes, if it ever is.
            Err(Refusal::Busy) if self.retry_times().is_some() => {}
            Err(Refusal::Busy) => self.finish(id, Err(CallError::Busy)),
            Err(_) => self.finish(id, Err(CallError::Rejected)),
        }
        self.assign_waiting(now);
    }

    /// A server knows this client no more: what may have been executed there fails, what may be repeated is.
    fn lose(&mut self, now: Time, index: usize) {
        self.servers[index].state = match self.settings.transport {
            Transport::Ordered => State::Silent(Time::MAX),
            Transport::Datagram { .. } => State::Idle,
        };
        self.move_all(now, index);
    }

    /// Takes the open calls from a server that is used no longer.
    fn move_all(&mut self, now: Time, index: usize) {
        let open = std::mem::take(&mut self.servers[index].open);
        for id in open.into_values() {
            let Some(call) = self.calls.get_mut(&id) else {
                continue;
            };
            call.place = None;
            call.retry = None;
            let repeat = self.settings.transport != Transport::Ordered
                && self
                    .interface
                    .operation(call.operation)
                    .is_some_and(|row| row.semantics == Semantics::AtLeastOnce);
            if repeat {
                self.assign(now, id);
                self.set_timer(id);
            } else {
                self.finish(id, Err(CallError::ServerLost));
            }
        }
    }

    /// Has another server do what this one does not answer.
    fn move_call(&mut self, now: Time, id: CallId) {
        self.tell_unwanted(id);
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        call.retry = None;
        if let Some((index, number)) = call.place.take() {
            self.servers[index].open.remove(&number);
        }
        self.assign(now, id);
    }

    /// Ends a call from this side.
    fn give_up(&mut self, id: CallId, why: CallError) {
        self.tell_unwanted(id);
        self.finish(id, Err(why));
    }

    /// Tells the server that it need not go on with a call.
    fn tell_unwanted(&mut self, id: CallId) {
        if let Some((index, number)) = self.calls.get(&id).and_then(|call| call.place)
            && let State::Bound(binding) = self.servers[index].state
        {
            self.transmits.push_back(Transmit {
                to: self.servers[index].address,
                bytes: Envelope::Cancel { binding, number }.encode(),
            });
        }
    }

    fn finish(&mut self, id: CallId, result: Result<Vec<u8>, CallError>) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        self.waiting.remove(&id);
        if let Some(deadline) = call.deadline {
            self.timers.remove(&(deadline, id));
        }
        if let Some(retry) = call.retry {
            self.timers.remove(&(retry, id));
        }
        if let Some((index, number)) = call.place {
            self.servers[index].open.remove(&number);
        }
        self.events.push_back(Event { call: id, result });
    }
}
