//! Both cores on one connection that is ordered and exactly once, for threads.
//!
//! Which interfaces the sides have they tell each other as they greet. A thread that reads the connection gives what comes to
//! [`Endpoint::receive`]; results are handed on there, in the order of the connection. What a thread sends goes out before
//! the call that sends it returns, so it keeps its place among everything else that the thread sends on the same connection.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::client::{CallId, Client};
use crate::envelope::{Envelope, Refusal};
use crate::interface::{BindError, Interface, Offer};
use crate::server::{Event, ExecutionId, Server};
use crate::stages::{Stage, mark};
use crate::{CallError, Settings, Time, stub};

/// Takes whole messages to the peer.
pub trait Connection: Send + Sync + 'static {
    /// Sends one; returns when its place in the order is certain.
    fn send(&self, message: &[u8]) -> Result<(), CallError>;
}

/// What is done with a call's result, by the thread that reads the connection.
pub type Continuation = Box<dyn FnOnce(Result<Vec<u8>, CallError>) + Send>;

/// What a client's stub needs.
pub trait Caller: Clone {
    /// Begins a call; `then` is called once, with its result.
    fn begin(&self, operation: u16, arguments: Vec<u8>, then: Continuation) -> Result<CallId, CallError>;

    /// Sends a call that has no reply.
    fn notify(&self, operation: u16, arguments: &[u8]) -> Result<(), CallError>;

    /// Gives a call up.
    fn cancel(&self, call: CallId);

    /// Ends calls whose time is over; how long until the next one's is.
    fn tick(&self) -> Option<Duration>;
}

/// The peer broke the rules, or what it asks for cannot be done: the connection has to be ended.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// Not a message.
    #[error("unreadable message of a call")]
    Garbled,
    /// A request that nobody may send.
    #[error("a request that has come before, of another interface, or of no operation")]
    Violation,
}

/// What stubs of servers come to.
#[derive(Debug, Error)]
pub enum DispatchError<F> {
    /// There is no such operation, or its arguments make no sense.
    #[error("operation {operation}: unreadable arguments")]
    Arguments {
        /// Its number.
        operation: u16,
    },
    /// The server's own.
    #[error("{0}")]
    Fault(F),
    /// The result could not be sent.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Both cores, and what belongs to open calls.
pub struct Endpoint<C> {
    connection: C,
    started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    server: Server,
    /// In the order in which they were asked for, each with the binding in which it is used.
    imports: Vec<(u64, Client)>,
    continuations: HashMap<(usize, CallId), Continuation>,
    /// Executions whose callers may give them up.
    unwanted: HashMap<ExecutionId, Arc<AtomicBool>>,
    over: Option<String>,
}

impl<C> fmt::Debug for Endpoint<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

/// The only peer of a connection.
const PEER: u64 = 0;

/// Where an interface of the peer's is used.
pub struct Remote<C> {
    endpoint: Arc<Endpoint<C>>,
    import: usize,
}

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Self {
            endpoint: Arc::clone(&self.endpoint),
            import: self.import,
        }
    }
}

impl<C> fmt::Debug for Remote<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Remote")
            .field("import", &self.import)
            .finish_non_exhaustive()
    }
}

/// Whether all that this side needs is among what the peer offers.
///
/// # Errors
/// The first interface that is not.
pub fn agree(needs: &[&'static Interface], offers: &[Offer]) -> Result<(), BindError> {
    needs.iter().try_for_each(|need| need.find(offers).map(drop))
}

impl<C: Connection> Endpoint<C> {
    /// An endpoint that serves `exports` and uses `imports`, which the peer offers.
    ///
    /// # Errors
    /// The peer does not have what is needed.
    pub fn new(
        connection: C,
        exports: &[&'static Interface],
        imports: &[&'static Interface],
        offers: &[Offer],
    ) -> Result<Arc<Self>, BindError> {
        let settings = Settings::ordered();
        let mut server = Server::new(settings.clone(), 0, exports.to_vec());
        for place in 0..exports.len() {
            server.bind_as(place as u64, PEER, place);
        }
        let imports = imports
            .iter()
            .map(|interface| {
                let binding = interface.find(offers)?;
                Ok((binding, Client::bound(settings.clone(), interface, PEER, binding)))
            })
            .collect::<Result<_, BindError>>()?;
        Ok(Arc::new(Self {
            connection,
            started: Instant::now(),
            inner: Mutex::new(Inner {
                server,
                imports,
                continuations: HashMap::new(),
                unwanted: HashMap::new(),
                over: None,
            }),
        }))
    }

    /// The peer's interface that was named at this place of `imports`.
    pub fn remote(self: &Arc<Self>, import: usize) -> Remote<C> {
        Remote {
            endpoint: Arc::clone(self),
            import,
        }
    }

    /// A message has come. Gives what is to be executed; results go to who waits for them.
    ///
    /// # Errors
    /// The peer cannot be talked to.
    pub fn receive(self: &Arc<Self>, bytes: &[u8]) -> Result<Option<Execution>, ReceiveError> {
        mark(Stage::Dispatched);
        let message = Envelope::decode(bytes).map_err(|_| ReceiveError::Garbled)?;
        let now = self.started.elapsed();
        match message {
            Envelope::Request { .. } | Envelope::Notice { .. } => self.requested(now, &message).map(Some),
            Envelope::Cancel { .. } => {
                let mut inner = self.lock();
                inner.server.handle(now, PEER, &message);
                while let Some(event) = inner.server.next_event() {
                    if let Event::Cancel(execution) = event
                        && let Some(flag) = inner.unwanted.get(&execution)
                    {
                        flag.store(true, Ordering::Release);
                    }
                }
                Ok(None)
            }
            Envelope::Reply { binding, .. } => {
                let ended = {
                    let mut inner = self.lock();
                    let import = inner.imports.iter().position(|(bound, _)| *bound == binding);
                    let Some(import) = import else {
                        return Err(ReceiveError::Violation);
                    };
                    inner.imports[import].1.handle(now, PEER, &message);
                    inner.ended(import)
                };
                hand_on(ended);
                Ok(None)
            }
            Envelope::Alive { .. } => Ok(None),
            Envelope::Bind { .. } | Envelope::Bound { .. } => Err(ReceiveError::Violation),
        }
    }

    fn requested(self: &Arc<Self>, now: Time, message: &Envelope<'_>) -> Result<Execution, ReceiveError> {
        let mut inner = self.lock();
        inner.server.handle(now, PEER, message);
        // On this transport there is nothing to refuse but what nobody should have sent.
        if inner.server.next_transmit().is_some() {
            while inner.server.next_transmit().is_some() {}
            return Err(ReceiveError::Violation);
        }
        let Some(Event::Execute {
            execution,
            interface,
            operation,
            arguments,
            ..
        }) = inner.server.next_event()
        else {
            return Err(ReceiveError::Violation);
        };
        let answer = (execution.number != 0).then(|| {
            let unwanted = Arc::new(AtomicBool::new(false));
            inner.unwanted.insert(execution, Arc::clone(&unwanted));
            RawAnswer {
                completer: Some(Arc::clone(self) as Arc<dyn Completer>),
                execution,
                unwanted,
            }
        });
        Ok(Execution {
            interface,
            operation,
            arguments,
            answer,
        })
    }

    /// The connection is at its end: all open calls fail.
    pub fn close(&self, why: &str) {
        let now = self.started.elapsed();
        let mut ended = Vec::new();
        {
            let mut inner = self.lock();
            if inner.over.is_some() {
                return;
            }
            inner.over = Some(why.to_owned());
            for import in 0..inner.imports.len() {
                inner.imports[import].1.server_lost(now, PEER);
                ended.extend(inner.ended(import));
            }
        }
        for (then, result) in ended {
            then(result.map_err(|_| CallError::Connection(why.to_owned())));
        }
    }

    /// Open calls of this side, and executions for the other.
    pub fn open(&self) -> (usize, usize) {
        let inner = self.lock();
        let calls = inner.imports.iter().map(|(_, client)| client.open_calls()).sum();
        (calls, inner.server.executing())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Calls that have ended, with those who wait for them.
    fn ended(&mut self, import: usize) -> Vec<(Continuation, Result<Vec<u8>, CallError>)> {
        let mut ended = Vec::new();
        while let Some(event) = self.imports[import].1.next_event() {
            if let Some(then) = self.continuations.remove(&(import, event.call)) {
                ended.push((then, event.result));
            }
        }
        ended
    }

    /// What a client has to send; nobody else's is among it.
    fn messages(&mut self, import: usize) -> Vec<Vec<u8>> {
        let client = &mut self.imports[import].1;
        std::iter::from_fn(|| client.next_transmit().map(|message| message.bytes)).collect()
    }

    fn check(&self) -> Result<(), CallError> {
        match &self.over {
            Some(why) => Err(CallError::Connection(why.clone())),
            None => Ok(()),
        }
    }
}

fn hand_on(ended: Vec<(Continuation, Result<Vec<u8>, CallError>)>) {
    for (then, result) in ended {
        then(result);
    }
}

impl<C: Connection> Caller for Remote<C> {
    fn begin(&self, operation: u16, arguments: Vec<u8>, then: Continuation) -> Result<CallId, CallError> {
        mark(Stage::Marshalled);
        let endpoint = &*self.endpoint;
        let (call, messages) = {
            let mut inner = endpoint.lock();
            inner.check()?;
            let now = endpoint.started.elapsed();
            let call = inner.imports[self.import].1.call(now, operation, arguments)?;
            inner.continuations.insert((self.import, call), then);
            (call, inner.messages(self.import))
        };
        mark(Stage::Enveloped);
        for message in messages {
            let sent = endpoint.connection.send(&message);
            mark(Stage::Sent);
            if let Err(error) = sent {
                // If its continuation has been called meanwhile, that was the answer.
                let mut inner = endpoint.lock();
                let unused = inner.continuations.remove(&(self.import, call));
                inner.imports[self.import]
                    .1
                    .cancel(endpoint.started.elapsed(), call);
                inner.messages(self.import);
                inner.ended(self.import);
                return if unused.is_some() { Err(error) } else { Ok(call) };
            }
        }
        Ok(call)
    }

    fn notify(&self, operation: u16, arguments: &[u8]) -> Result<(), CallError> {
        let endpoint = &*self.endpoint;
        let messages = {
            let mut inner = endpoint.lock();
            inner.check()?;
            inner.imports[self.import].1.notify(operation, arguments)?;
            inner.messages(self.import)
        };
        messages
            .iter()
            .try_for_each(|message| endpoint.connection.send(message))
    }

    fn cancel(&self, call: CallId) {
        let endpoint = &*self.endpoint;
        let (messages, ended) = {
            let mut inner = endpoint.lock();
            inner.imports[self.import]
                .1
                .cancel(endpoint.started.elapsed(), call);
            (inner.messages(self.import), inner.ended(self.import))
        };
        hand_on(ended);
        for message in messages {
            // If the connection is gone, so is the execution.
            let _ = endpoint.connection.send(&message);
        }
    }

    fn tick(&self) -> Option<Duration> {
        let endpoint = &*self.endpoint;
        let now = endpoint.started.elapsed();
        let (messages, ended, next) = {
            let mut inner = endpoint.lock();
            inner.imports[self.import].1.handle_time(now);
            let next = inner.imports[self.import].1.next_time();
            (inner.messages(self.import), inner.ended(self.import), next)
        };
        hand_on(ended);
        for message in messages {
            let _ = endpoint.connection.send(&message);
        }
        next.map(|next| next.saturating_sub(now))
    }
}

/// A call whose result is awaited. Dropped, it is cancelled.
pub struct Pending<T, C: Caller> {
    caller: C,
    call: CallId,
    slot: Arc<Slot>,
    result: PhantomData<fn() -> T>,
}

impl<T, C: Caller> fmt::Debug for Pending<T, C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pending")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Slot {
    result: Mutex<Option<Result<Vec<u8>, CallError>>>,
    filled: Condvar,
}

impl<T: DeserializeOwned, C: Caller> Pending<T, C> {
    /// Begins a call.
    #[doc(hidden)]
    pub fn begin(caller: &C, operation: u16, arguments: Vec<u8>) -> Result<Self, CallError> {
        let slot = Arc::new(Slot::default());
        let filling = Arc::clone(&slot);
        let then = Box::new(move |result| {
            *filling.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            filling.filled.notify_all();
        });
        let call = caller.begin(operation, arguments, then)?;
        Ok(Self {
            caller: caller.clone(),
            call,
            slot,
            result: PhantomData,
        })
    }

    /// The result, if it has come.
    pub fn poll(&mut self) -> Option<Result<T, CallError>> {
        self.caller.tick();
        let result = self
            .slot
            .result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        result.map(|result| result.and_then(|bytes| stub::decode(&bytes)))
    }

    /// Waits for the result, as long as the operation's time-out says.
    pub fn wait(mut self) -> Result<T, CallError> {
        loop {
            if let Some(result) = self.poll() {
                return result;
            }
            let limit = self.caller.tick();
            let filled = self.slot.result.lock().unwrap_or_else(PoisonError::into_inner);
            if filled.is_some() {
                continue;
            }
            match limit {
                Some(limit) => drop(
                    self.slot
                        .filled
                        .wait_timeout(filled, limit.max(Duration::from_millis(1))),
                ),
                None => drop(self.slot.filled.wait(filled)),
            }
        }
    }

    /// Waits at most so long; gives itself back if there is no result yet.
    pub fn wait_for(mut self, limit: Duration) -> Result<Result<T, CallError>, Self> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(result) = self.poll() {
                return Ok(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self);
            }
            let limit = self.caller.tick().map_or(left, |limit| limit.min(left));
            let filled = self.slot.result.lock().unwrap_or_else(PoisonError::into_inner);
            if filled.is_none() {
                drop(
                    self.slot
                        .filled
                        .wait_timeout(filled, limit.max(Duration::from_micros(100))),
                );
            }
        }
    }
}

impl<T, C: Caller> Drop for Pending<T, C> {
    fn drop(&mut self) {
        self.caller.cancel(self.call);
    }
}

/// An operation that the peer asks for.
#[derive(Debug)]
pub struct Execution {
    /// Which of this side's interfaces.
    pub interface: usize,
    /// Which operation.
    pub operation: u16,
    arguments: Vec<u8>,
    answer: Option<RawAnswer>,
}

impl Execution {
    /// Unmarshals the arguments.
    #[doc(hidden)]
    pub fn arguments<T: DeserializeOwned, F>(&self) -> Result<T, DispatchError<F>> {
        stub::decode(&self.arguments).map_err(|_| DispatchError::Arguments {
            operation: self.operation,
        })
    }

    /// Where the result goes.
    #[doc(hidden)]
    pub fn answer<T, F>(&mut self) -> Result<Answer<T>, DispatchError<F>> {
        let raw = self.answer.take().ok_or(DispatchError::Arguments {
            operation: self.operation,
        })?;
        Ok(Answer {
            raw,
            result: PhantomData,
        })
    }
}

trait Completer: Send + Sync {
    fn complete(&self, execution: ExecutionId, result: Result<&[u8], Refusal>) -> Result<(), CallError>;
}

impl<C: Connection> Completer for Endpoint<C> {
    fn complete(&self, execution: ExecutionId, result: Result<&[u8], Refusal>) -> Result<(), CallError> {
        mark(Stage::Marshalled);
        let messages: Vec<Vec<u8>> = {
            let mut inner = self.lock();
            inner.unwanted.remove(&execution);
            inner.server.complete(execution, result);
            std::iter::from_fn(|| inner.server.next_transmit().map(|message| message.bytes)).collect()
        };
        mark(Stage::Enveloped);
        let sent = messages
            .iter()
            .try_for_each(|message| self.connection.send(message));
        mark(Stage::Sent);
        sent
    }
}

struct RawAnswer {
    /// None once it was given.
    completer: Option<Arc<dyn Completer>>,
    execution: ExecutionId,
    unwanted: Arc<AtomicBool>,
}

impl fmt::Debug for RawAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Answer").field(&self.execution).finish()
    }
}

impl Drop for RawAnswer {
    fn drop(&mut self) {
        // The caller must not wait for ever.
        if let Some(completer) = self.completer.take() {
            let _ = completer.complete(self.execution, Err(Refusal::Rejected));
        }
    }
}

/// Where the result of an operation goes. If it is dropped, the call fails.
#[derive(Debug)]
pub struct Answer<T> {
    raw: RawAnswer,
    result: PhantomData<fn(T)>,
}

impl<T: Serialize> Answer<T> {
    /// Sends the result.
    pub fn send(mut self, result: &T) -> Result<(), CallError> {
        let bytes = stub::encode(result)?;
        match self.raw.completer.take() {
            Some(completer) => completer.complete(self.raw.execution, Ok(&bytes)),
            None => Ok(()),
        }
    }

    /// Whether the caller has given the call up.
    pub fn is_unwanted(&self) -> bool {
        self.raw.unwanted.load(Ordering::Acquire)
    }
}
