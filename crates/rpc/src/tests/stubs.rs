//! Generated stubs over a pair of queues.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::endpoint::{Connection, Endpoint, ReceiveError, Remote};
use crate::{Answer, CallError, DispatchError, interface};

#[interface(name = "test.store", version = 3)]
trait Store {
    /// Adds and counts.
    #[at_most_once]
    fn add(&self, number: u32) -> u32;
    #[at_least_once(timeout = "50ms")]
    fn total(&self) -> Result<u32, String>;
    #[maybe]
    fn hint(&self, text: String);
    #[at_most_once]
    fn fill(&self, #[inout] buffer: &mut Vec<u8>, count: usize) -> u32;
    #[at_most_once]
    #[later]
    fn keep(&self, name: String) -> u32;
    #[maybe]
    fn poison(&self);
}

struct Wire(Mutex<Sender<Vec<u8>>>);

impl Connection for Wire {
    fn send(&self, message: &[u8]) -> Result<(), CallError> {
        let sent = self.0.lock().unwrap().send(message.to_vec());
        sent.map_err(|_| CallError::Connection("gone".into()))
    }
}

#[derive(Default)]
struct Memory {
    numbers: Mutex<Vec<u32>>,
    hints: Mutex<Vec<String>>,
    kept: Mutex<Vec<Answer<u32>>>,
}

impl Store for Memory {
    type Fault = &'static str;

    fn add(&self, number: u32) -> Result<u32, Self::Fault> {
        let mut numbers = self.numbers.lock().unwrap();
        numbers.push(number);
        Ok(numbers.len() as u32)
    }

    fn total(&self) -> Result<Result<u32, String>, Self::Fault> {
        Ok(match self.numbers.lock().unwrap().iter().sum() {
            0 => Err("empty".into()),
            sum => Ok(sum),
        })
    }

    fn hint(&self, text: String) -> Result<(), Self::Fault> {
        self.hints.lock().unwrap().push(text);
        Ok(())
    }

    fn fill(&self, buffer: &mut Vec<u8>, count: usize) -> Result<u32, Self::Fault> {
        buffer.reverse();
        buffer.resize(buffer.len() + count, 7);
        Ok(count as u32)
    }

    fn keep(&self, name: String, answer: Answer<u32>) -> Result<(), Self::Fault> {
        if name != "drop" {
            self.kept.lock().unwrap().push(answer);
        }
        Ok(())
    }

    fn poison(&self) -> Result<(), Self::Fault> {
        Err("poisoned")
    }
}

struct Pair {
    client: StoreClient<Remote<Wire>>,
    near: Arc<Endpoint<Wire>>,
    far: Arc<Endpoint<Wire>>,
    to_far: Receiver<Vec<u8>>,
    to_near: Receiver<Vec<u8>>,
    memory: Memory,
}

fn pair() -> Pair {
    let (near_out, to_far) = channel();
    let (far_out, to_near) = channel();
    let far = Endpoint::new(Wire(Mutex::new(far_out)), &[&STORE_INTERFACE], &[], &[]).unwrap();
    let offers = [STORE_INTERFACE.offer()];
    let near = Endpoint::new(Wire(Mutex::new(near_out)), &[], &[&STORE_INTERFACE], &offers).unwrap();
    Pair {
        client: StoreClient::new(near.remote(0)),
        near,
        far,
        to_far,
        to_near,
        memory: Memory::default(),
    }
}

impl Pair {
    /// Serves what has been sent.
    fn serve(&self) -> Result<(), DispatchError<&'static str>> {
        for message in self.to_far.try_iter() {
            if let Some(execution) = self.far.receive(&message).unwrap() {
                dispatch_store(&self.memory, execution)?;
            }
        }
        for message in self.to_near.try_iter() {
            assert!(self.near.receive(&message).unwrap().is_none());
        }
        Ok(())
    }
}

#[test]
fn calls_by_value_and_by_copy_and_restore() {
    let pair = pair();
    let mut total = pair.client.begin_total().unwrap();
    assert!(total.poll().is_none());
    pair.serve().unwrap();
    assert_eq!(total.poll().unwrap().unwrap(), Err("empty".into()));
    let seen = Arc::new(Mutex::new(None));
    let seeing = Arc::clone(&seen);
    pair.client
        .add_then(5, move |result| *seeing.lock().unwrap() = Some(result))
        .unwrap();
    pair.client.hint("one".into()).unwrap();
    pair.serve().unwrap();
    assert_eq!(*seen.lock().unwrap(), Some(Ok(1)));
    assert_eq!(*pair.memory.hints.lock().unwrap(), ["one"]);
    // Another thread serves while this one waits.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut buffer = vec![1, 2, 3];
            let count = pair.client.fill(&mut buffer, 2).unwrap();
            (count, buffer)
        });
        let message = pair.to_far.recv().unwrap();
        let execution = pair.far.receive(&message).unwrap().unwrap();
        dispatch_store(&pair.memory, execution).unwrap();
        pair.near.receive(&pair.to_near.recv().unwrap()).unwrap();
        assert_eq!(waiting.join().unwrap(), (2, vec![3, 2, 1, 7, 7]));
    });
    assert_eq!((pair.near.open(), pair.far.open()), ((0, 0), (0, 0)));
}

#[test]
fn answers_may_come_later_or_never() {
    let pair = pair();
    let kept = pair.client.begin_keep("a".into()).unwrap();
    let given_up = pair.client.begin_keep("b".into()).unwrap();
    let dropped = pair.client.begin_keep("drop".into()).unwrap();
    pair.serve().unwrap();
    drop(given_up);
    pair.serve().unwrap();
    assert_eq!(dropped.wait(), Err(CallError::Rejected));
    let kept = kept.wait_for(Duration::from_millis(5)).unwrap_err();
    let mut answers = pair.memory.kept.lock().unwrap();
    assert!(answers[1].is_unwanted() && !answers[0].is_unwanted());
    for answer in answers.drain(..) {
        answer.send(&9).unwrap();
    }
    pair.serve().unwrap();
    assert_eq!(kept.wait(), Ok(9));
    assert_eq!((pair.near.open(), pair.far.open()), ((0, 0), (0, 0)));
}

#[test]
fn time_is_limited_and_an_end_ends_all() {
    let pair = pair();
    let limit = Duration::from_millis(50);
    let operation = "total";
    assert_eq!(pair.client.total(), Err(CallError::TimedOut { operation, limit }));
    let kept = pair.client.begin_keep("a".into()).unwrap();
    pair.near.close("cut");
    assert_eq!(kept.wait(), Err(CallError::Connection("cut".into())));
    assert!(pair.client.hint("late".into()).is_err());
    assert!(pair.client.add(1).is_err());
    assert_eq!(pair.near.open(), (0, 0));
}

#[test]
fn a_peer_that_breaks_the_rules_is_found_out() {
    let pair = pair();
    pair.client.hint("x".into()).unwrap();
    let message = pair.to_far.recv().unwrap();
    assert!(pair.far.receive(&message).unwrap().is_some());
    assert!(matches!(pair.far.receive(&message), Err(ReceiveError::Violation)));
    assert!(matches!(pair.far.receive(b""), Err(ReceiveError::Garbled)));
    assert!(matches!(
        pair.far.receive(&message[..3]),
        Err(ReceiveError::Garbled)
    ));
    // Every mutation is an error of one of the two kinds, an execution, or nothing.
    let mut seed = 5u64;
    for _ in 0..20_000 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut bytes = message.clone();
        let at = (seed >> 33) as usize % bytes.len();
        bytes[at] ^= (seed >> 20) as u8 | 1;
        if let Ok(Some(execution)) = pair.far.receive(&bytes) {
            let _ = dispatch_store(&pair.memory, execution);
        }
    }
    let pair = self::pair();
    pair.client.poison().unwrap();
    assert!(matches!(pair.serve(), Err(DispatchError::Fault("poisoned"))));
}

#[test]
fn other_versions_are_named() {
    let (out, _keep) = channel();
    let mut offer = STORE_INTERFACE.offer();
    offer.version = 2;
    let error = Endpoint::new(Wire(Mutex::new(out)), &[], &[&STORE_INTERFACE], &[offer]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the other side has version 2 of interface test.store, this side needs version 3"
    );
}
