//! A server: what it has to execute, and what it remembers.
//!
//! * queries: [`Server::bindings`], [`Server::remembered_bytes`], [`Server::executing`], [`Server::next_time`].
//! * input: [`Server::handle`], [`Server::complete`], [`Server::handle_time`], [`Server::client_lost`].
//! * output, to be taken after every input: [`Server::next_transmit`], [`Server::next_event`].

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::envelope::{Binding, Envelope, Refusal};
use crate::interface::{BindError, Interface, Semantics};
use crate::window::Window;
use crate::{Address, Settings, Time, Transmit, Transport};

/// Something that is being executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecutionId {
    /// For whom.
    pub binding: Binding,
    /// Its request's number; 0 for one without a reply.
    pub number: u64,
}

/// What a server is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Execute an operation, and then [`Server::complete`] it unless its number is 0.
    Execute {
        /// Which execution this is.
        execution: ExecutionId,
        /// The client that asks.
        client: u64,
        /// Which of the server's interfaces.
        interface: usize,
        /// Which operation; there is one of that number.
        operation: u16,
        /// Its arguments, marshalled.
        arguments: Vec<u8>,
    },
    /// Nobody wants the result any more: end it if it can be ended. It is completed all the same.
    Cancel(ExecutionId),
    /// The client of these executions is no more: they are orphans. They need not be completed.
    Orphaned(Vec<ExecutionId>),
}

/// What a number stands for that is above the floor.
#[derive(Debug)]
enum Entry {
    Executing(Semantics),
    /// Cancelled meanwhile.
    Unwanted(Semantics),
    /// The whole reply message.
    Remembered(Vec<u8>),
    /// Done, and no reply is remembered.
    Done,
}

#[derive(Debug)]
struct Bound {
    address: Address,
    client: u64,
    interface: usize,
    floor: u64,
    entries: BTreeMap<u64, Entry>,
    /// How many entries are executing.
    executing: usize,
    remembered_bytes: usize,
    /// Numbers of notices, and on an ordered transport of requests.
    notices: Window,
    requests: Window,
    expires: Option<Time>,
}

/// The core.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    interfaces: Vec<&'static Interface>,
    bindings: HashMap<Binding, Bound>,
    /// By client: its epoch, and its bindings by interface.
    clients: HashMap<u64, (u64, HashMap<usize, Binding>)>,
    /// Only these may come; `None`: everybody.
    admitted: Option<HashSet<u64>>,
    next_binding: Binding,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Server {
    /// A server in an incarnation of which there has never been another: its bindings are numbered above this.
    pub fn new(settings: Settings, incarnation: u32, interfaces: Vec<&'static Interface>) -> Self {
        Self {
            settings,
            interfaces,
            bindings: HashMap::new(),
            clients: HashMap::new(),
            admitted: None,
            next_binding: (u64::from(incarnation) << 32) + 1,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// From now on only these clients get bindings.
    pub fn admit_only(&mut self, clients: impl IntoIterator<Item = u64>) {
        self.admitted = Some(clients.into_iter().collect());
    }

    /// A binding on which both sides have agreed otherwise.
    pub fn bind_as(&mut self, binding: Binding, address: Address, interface: usize) {
        self.insert(binding, address, 0, interface, None);
    }

    /// How many bindings there are.
    pub fn bindings(&self) -> usize {
        self.bindings.len()
    }

    /// Bytes of replies that are remembered.
    pub fn remembered_bytes(&self) -> usize {
        self.bindings.values().map(|bound| bound.remembered_bytes).sum()
    }

    /// How much is being executed.
    pub fn executing(&self) -> usize {
        self.bindings.values().map(|bound| bound.executing).sum()
    }

    /// A message has come. Those that make no sense, or come too late, are dropped.
    pub fn handle(&mut self, now: Time, from: Address, message: &Envelope<'_>) {
        match *message {
            Envelope::Bind {
                client,
                epoch,
                name,
                version,
            } => {
                let outcome = self.bind(now, from, client, epoch, name, version);
                self.transmit(from, &Envelope::Bound { epoch, name, outcome });
            }
            Envelope::Request {
                binding,
                number,
                floor,
                operation,
                arguments,
            } => self.request(now, from, binding, number, floor, operation, arguments),
            Envelope::Notice {
                binding,
                number,
                operation,
                arguments,
            } => self.notice(now, from, binding, number, operation, arguments),
            Envelope::Cancel { binding, number } => {
                if let Some(bound) = self.known(now, from, binding)
                    && let Some(entry) = bound.entries.get_mut(&number)
                    && let Entry::Executing(semantics) = *entry
                {
                    *entry = Entry::Unwanted(semantics);
                    self.events
                        .push_back(Event::Cancel(ExecutionId { binding, number }));
                }
            }
            Envelope::Alive { binding, floor } => {
                if let Some(bound) = self.known(now, from, binding) {
                    bound.raise_floor(floor);
                } else {
                    self.refuse(from, binding, 0, Refusal::Stranger);
                }
            }
            Envelope::Bound { .. } | Envelope::Reply { .. } => {}
        }
    }

    /// An execution has ended, with this marshalled result; or its arguments made no sense. Nothing happens for one that is not
    /// known (any more).
    pub fn complete(&mut self, execution: ExecutionId, result: Result<&[u8], Refusal>) {
        let ExecutionId { binding, number } = execution;
        let ordered = self.settings.transport == Transport::Ordered;
        let Some(bound) = self.bindings.get_mut(&binding) else {
            return;
        };
        let (wanted, semantics) = match bound.entries.get(&number) {
            Some(Entry::Executing(semantics)) => (true, *semantics),
            Some(Entry::Unwanted(semantics)) => (false, *semantics),
            _ => return,
        };
        bound.executing -= 1;
        if number < bound.floor {
            bound.entries.remove(&number);
            return;
        }
        let reply = Envelope::Reply {
            binding,
            number,
            outcome: result,
        }
        .encode();
        match semantics {
            _ if ordered => {
                bound.entries.remove(&number);
            }
            // If the reply is lost the request is executed again.
            Semantics::AtLeastOnce => {
                bound.entries.remove(&number);
            }
            Semantics::AtMostOnce if wanted => {
                bound.remembered_bytes += reply.len();
                bound.entries.insert(number, Entry::Remembered(reply.clone()));
            }
            Semantics::AtMostOnce | Semantics::Maybe => {
                bound.entries.insert(number, Entry::Done);
            }
        }
        if wanted {
            let to = bound.address;
            self.transmits.push_back(Transmit { to, bytes: reply });
        }
    }

    /// The transport says that a client is gone.
    pub fn client_lost(&mut self, address: Address) {
        let lost: Vec<Binding> = self
            .bindings
            .iter()
            .filter(|(_, bound)| bound.address == address)
            .map(|(binding, _)| *binding)
            .collect();
        for binding in lost {
            self.forget(binding);
        }
    }

    /// Does what is due: leases that are over.
    pub fn handle_time(&mut self, now: Time) {
        let over: Vec<Binding> = self
            .bindings
            .iter()
            .filter(|(_, bound)| bound.expires.is_some_and(|time| time <= now))
            .map(|(binding, _)| *binding)
            .collect();
        for binding in over {
            self.forget(binding);
        }
    }

    /// When [`Server::handle_time`] has something to do.
    pub fn next_time(&self) -> Option<Time> {
        self.bindings.values().filter_map(|bound| bound.expires).min()
    }

    /// The next message to be sent.
    pub fn next_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What is to be done next.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn bind(
        &mut self,
        now: Time,
        from: Address,
        client: u64,
        epoch: u64,
        name: &str,
        version: u32,
    ) -> Result<Binding, BindError> {
        if self
            .admitted
            .as_ref()
            .is_some_and(|admitted| !admitted.contains(&client))
        {
            return Err(BindError::NotAdmitted);
        }
        let matching = |interface: &&'static Interface| interface.name == name;
        let Some(interface) = self
            .interfaces
            .iter()
            .position(|interface| interface.name == name && interface.version == version)
        else {
            return Err(
                match self.interfaces.iter().find(|interface| matching(interface)) {
                    Some(other) => BindError::Version {
                        name: name.to_owned(),
                        ours: version,
                        theirs: other.version,
                    },
                    None => BindError::Unknown {
                        name: name.to_owned(),
                    },
                },
            );
        };
        if let Some((known, of_client)) = self.clients.get(&client) {
            if *known > epoch {
                return Err(BindError::Stale {
                    ours: epoch,
                    theirs: *known,
                });
            }
            let old: Vec<Binding> = of_client.values().copied().collect();
            if *known < epoch {
                // Its earlier incarnation has left orphans.
                for binding in old {
                    self.forget(binding);
                }
                // The epoch is remembered: what is still under way of the earlier one must not look new.
                self.clients.insert(client, (epoch, HashMap::new()));
            } else if let Some(binding) = of_client.get(&interface).copied() {
                if let Some(bound) = self.bindings.get_mut(&binding) {
                    bound.address = from;
                    bound.expires = self.settings.lease.map(|lease| now + lease);
                }
                return Ok(binding);
            }
        }
        if self.bindings.len() >= self.settings.bindings_max
            || (!self.clients.contains_key(&client) && self.clients.len() >= 8 * self.settings.bindings_max)
        {
            return Err(BindError::Full);
        }
        let binding = self.next_binding;
        self.next_binding += 1;
        let known = self.clients.entry(client).or_insert((epoch, HashMap::new()));
        known.1.insert(interface, binding);
        self.insert(binding, from, client, interface, Some(now));
        Ok(binding)
    }

    fn insert(
        &mut self,
        binding: Binding,
        address: Address,
        client: u64,
        interface: usize,
        now: Option<Time>,
    ) {
        let lease = self.settings.lease;
        self.bindings.insert(
            binding,
            Bound {
                address,
                client,
                interface,
                floor: 1,
                entries: BTreeMap::new(),
                executing: 0,
                remembered_bytes: 0,
                notices: Window::default(),
                requests: Window::default(),
                expires: now.and_then(|now| lease.map(|lease| now + lease)),
            },
        );
    }

    fn forget(&mut self, binding: Binding) {
        let Some(bound) = self.bindings.remove(&binding) else {
            return;
        };
        if let Some((_, of_client)) = self.clients.get_mut(&bound.client) {
            of_client.remove(&bound.interface);
        }
        let orphans: Vec<ExecutionId> = bound
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry, Entry::Executing(_) | Entry::Unwanted(_)))
            .map(|(&number, _)| ExecutionId { binding, number })
            .collect();
        if !orphans.is_empty() {
            self.events.push_back(Event::Orphaned(orphans));
        }
    }

    /// The binding, if it is this client's; it lives.
    fn known(&mut self, now: Time, from: Address, binding: Binding) -> Option<&mut Bound> {
        let lease = self.settings.lease;
        let bound = self
            .bindings
            .get_mut(&binding)
            .filter(|bound| bound.address == from)?;
        if bound.expires.is_some() {
            bound.expires = lease.map(|lease| now + lease);
        }
        Some(bound)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    fn request(
        &mut self,
        now: Time,
        from: Address,
        binding: Binding,
        number: u64,
        floor: u64,
        operation: u16,
        arguments: &[u8],
    ) {
        let (calls_max, bytes_max) = (self.settings.calls_max, self.settings.remembered_bytes_max);
        let ordered = self.settings.transport == Transport::Ordered;
        let Some(bound) = self.known(now, from, binding) else {
            return self.refuse(from, binding, number, Refusal::Stranger);
        };
        let (interface, client) = (bound.interface, bound.client);
        if !ordered {
            bound.raise_floor(floor);
        }
        match bound.entries.get(&number) {
            Some(Entry::Executing(_) | Entry::Unwanted(_) | Entry::Done) => return,
            Some(Entry::Remembered(reply)) => {
                let bytes = reply.clone();
                return self.transmits.push_back(Transmit { to: from, bytes });
            }
            None => {}
        }
        let fresh = match ordered {
            true => bound.requests.take(number),
            false => number >= bound.floor,
        };
        if !fresh {
            return;
        }
        let full = bound.executing >= calls_max
            || (!ordered
                && (number - bound.floor >= calls_max as u64 || bound.remembered_bytes >= bytes_max.max(1)));
        if full {
            return self.refuse(from, binding, number, Refusal::Busy);
        }
        let row = self
            .interfaces
            .get(interface)
            .and_then(|row| row.operation(operation));
        let Some(row) = row.filter(|row| row.replies) else {
            return self.refuse(from, binding, number, Refusal::Rejected);
        };
        if let Some(bound) = self.bindings.get_mut(&binding) {
            bound.entries.insert(number, Entry::Executing(row.semantics));
            bound.executing += 1;
        }
        self.events.push_back(Event::Execute {
            execution: ExecutionId { binding, number },
            client,
            interface,
            operation,
            arguments: arguments.to_vec(),
        });
    }

    fn notice(
        &mut self,
        now: Time,
        from: Address,
        binding: Binding,
        number: u64,
        operation: u16,
        arguments: &[u8],
    ) {
        let Some(bound) = self.known(now, from, binding) else {
            return;
        };
        let (interface, client) = (bound.interface, bound.client);
        if !bound.notices.take(number) {
            return;
        }
        let row = self
            .interfaces
            .get(interface)
            .and_then(|row| row.operation(operation));
        if row.is_some_and(|row| !row.replies) {
            self.events.push_back(Event::Execute {
                execution: ExecutionId { binding, number: 0 },
                client,
                interface,
                operation,
                arguments: arguments.to_vec(),
            });
        }
    }

    fn refuse(&mut self, to: Address, binding: Binding, number: u64, why: Refusal) {
        self.transmit(
            to,
            &Envelope::Reply {
                binding,
                number,
                outcome: Err(why),
            },
        );
    }

    fn transmit(&mut self, to: Address, message: &Envelope<'_>) {
        self.transmits.push_back(Transmit {
            to,
            bytes: message.encode(),
        });
    }
}

impl Bound {
    /// The client has seen the end of everything below.
    fn raise_floor(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let below = self.entries.range(..floor).map(|(number, _)| *number);
        for number in below.collect::<Vec<_>>() {
            match self.entries.get(&number) {
                // Its end has to find it.
                Some(Entry::Executing(_) | Entry::Unwanted(_)) => {}
                Some(Entry::Remembered(reply)) => {
                    self.remembered_bytes -= reply.len();
                    self.entries.remove(&number);
                }
                _ => {
                    self.entries.remove(&number);
                }
            }
        }
    }
}
