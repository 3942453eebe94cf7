//! What may be read: values of registers against the order of events that messages and values themselves make known.
//!
//! A process's events follow each other. A message orders what came before it was sent and what comes after it was received; a value
//! that was read orders the write's effect and what comes after the read. A read may give any value but one that was known to be
//! overwritten when the read began, or that was written only after it had ended.

use std::collections::HashMap;

/// Something that happened in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message with this number goes out.
    Send(u64),
    /// It has come.
    Receive(u64),
    /// Home has accepted a value for a register.
    Write(String, u64),
    /// The register had this value.
    Read(String, u64),
    /// An operation that gives several values: each was read at some time within it.
    ReadMany(Vec<(String, u64)>),
    /// What concerns no register.
    Other,
}

/// What every register has before anybody writes.
pub const INITIAL: u64 = 0;

/// For each process, how many of its events are known to have had their effect.
type Clock = Vec<usize>;

/// A write of a register.
struct Write {
    process: usize,
    index: usize,
    value: u64,
}

/// Each process's events, in its order, and what they know at their beginnings.
struct History<'a> {
    processes: &'a [Vec<Event>],
    begins: Vec<Vec<Clock>>,
    writes: HashMap<&'a str, Vec<Write>>,
    sends: HashMap<u64, (usize, usize)>,
}

fn merge(clock: &mut Clock, other: &Clock) {
    for (own, other) in clock.iter_mut().zip(other) {
        *own = (*own).max(*other);
    }
}

impl<'a> History<'a> {
    fn new(processes: &'a [Vec<Event>]) -> Self {
        let mut writes: HashMap<&str, Vec<Write>> = HashMap::new();
        let mut sends = HashMap::new();
        for (process, events) in processes.iter().enumerate() {
            for (index, event) in events.iter().enumerate() {
                match event {
                    Event::Write(register, value) => writes.entry(register).or_default().push(Write {
                        process,
                        index,
                        value: *value,
                    }),
                    Event::Send(number) => {
                        sends.insert(*number, (process, index));
                    }
                    _ => {}
                }
            }
        }
        Self {
            begins: vec![Vec::new(); processes.len()],
            processes,
            writes,
            sends,
        }
    }

    /// The one write that a value can come from.
    fn source(&self, register: &str, value: u64) -> Option<(usize, usize)> {
        let mut writes = self
            .writes
            .get(register)?
            .iter()
            .filter(|write| write.value == value);
        match (writes.next(), writes.next(), value) {
            (Some(write), None, 1..) => Some((write.process, write.index)),
            _ => None,
        }
    }

    /// Events that have to have had their effect before this one ends.
    fn causes(&self, event: &Event) -> Result<Vec<(usize, usize)>, String> {
        Ok(match event {
            Event::Receive(number) => {
                let send = self.sends.get(number);
                vec![*send.ok_or_else(|| format!("message {number} was never sent"))?]
            }
            Event::Read(register, value) => self.source(register, *value).into_iter().collect(),
            Event::ReadMany(reads) => {
                let sources = reads
                    .iter()
                    .filter_map(|(register, value)| self.source(register, *value));
                sources.collect()
            }
            _ => Vec::new(),
        })
    }

    /// Finds out what is known at the beginning of every event.
    fn order(&mut self) -> Result<(), String> {
        let mut now: Vec<Clock> = vec![vec![0; self.processes.len()]; self.processes.len()];
        loop {
            let mut moved = false;
            for process in 0..self.processes.len() {
                while let Some(event) = self.processes[process].get(self.begins[process].len()) {
                    let index = self.begins[process].len();
                    let causes = self.causes(event)?;
                    // One's own later write cannot be waited for.
                    let ready = |&(other, at): &(usize, usize)| self.begins[other].len() > at;
                    if !causes.iter().all(ready) {
                        break;
                    }
                    self.begins[process].push(now[process].clone());
                    let mut clock = now[process].clone();
                    for (other, at) in causes {
                        merge(&mut clock, &self.begins[other][at]);
                        clock[other] = clock[other].max(at + 1);
                    }
                    clock[process] = index + 1;
                    now[process] = clock;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let stuck = (0..self.processes.len()).find(|&at| self.begins[at].len() < self.processes[at].len());
        match stuck {
            None => Ok(()),
            Some(process) => {
                let index = self.begins[process].len();
                Err(format!(
                    "process {process}, event {index}: {:?} is of the future",
                    self.processes[process][index]
                ))
            }
        }
    }

    /// Whether an event is known to have had its effect before another begins.
    fn precedes(&self, (process, index): (usize, usize), later: (usize, usize)) -> bool {
        self.begins[later.0][later.1][process] > index
    }

    /// Why a process cannot have read this.
    fn objection(&self, reader: (usize, usize), register: &str, value: u64) -> Option<String> {
        let none = Vec::new();
        let writes = self.writes.get(register).unwrap_or(&none);
        let is_overwritten = |source: Option<&Write>| {
            writes.iter().find(|other| {
                let other = (other.process, other.index);
                let follows =
                    source.is_none_or(|source| self.precedes((source.process, source.index), other));
                follows && self.precedes(other, reader)
            })
        };
        let mut objection = None;
        let initial = (value == INITIAL).then_some(None);
        let written = writes.iter().filter(|write| write.value == value).map(Some);
        for source in initial.into_iter().chain(written) {
            if source.is_some_and(|source| self.precedes(reader, (source.process, source.index))) {
                objection = Some("it was written later".to_owned());
                continue;
            }
            match is_overwritten(source) {
                None => return None,
                Some(by) => {
                    objection = Some(format!(
                        "it had been overwritten with {} by event {} of process {}",
                        by.value, by.index, by.process
                    ));
                }
            }
        }
        Some(objection.unwrap_or_else(|| "nobody ever wrote that".to_owned()))
    }
}

/// Says what cannot have been read.
pub fn check(processes: &[Vec<Event>]) -> Result<(), String> {
    let mut history = History::new(processes);
    history.order()?;
    for (process, events) in processes.iter().enumerate() {
        for (index, event) in events.iter().enumerate() {
            let reads = match event {
                Event::Read(register, value) => &[(register.clone(), *value)][..],
                Event::ReadMany(reads) => reads,
                _ => &[],
            };
            for (register, value) in reads {
                if let Some(why) = history.objection((process, index), register, *value) {
                    return Err(format!(
                        "process {process}, event {index}: {register} was {value}, but {why}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Forges staleness: puts into each read in turn a value that was overwritten before, where there is one, and gives the histories. All of
/// them are to be objected to.
pub fn forge(processes: &[Vec<Event>]) -> Vec<Vec<Vec<Event>>> {
    let mut history = History::new(processes);
    if history.order().is_err() {
        return Vec::new();
    }
    let mut forged = Vec::new();
    for (process, events) in processes.iter().enumerate() {
        for (index, event) in events.iter().enumerate() {
            let Event::Read(register, _) = event else { continue };
            let writes = history.writes.get(register.as_str()).into_iter().flatten();
            // Whoever has seen a write sees nothing from before all writes.
            let is_known = |write: &Write| history.precedes((write.process, write.index), (process, index));
            if writes.clone().any(is_known) && writes.clone().all(|write| write.value != INITIAL) {
                let mut copy = processes.to_vec();
                copy[process][index] = Event::Read(register.clone(), INITIAL);
                forged.push(copy);
            }
        }
    }
    forged
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Other, Read, ReadMany, Receive, Send, Write};

    fn write(value: u64) -> Event {
        Write("x".into(), value)
    }

    fn read(value: u64) -> Event {
        Read("x".into(), value)
    }

    #[track_caller]
    fn refused(processes: &[Vec<Event>], why: &str) {
        let error = check(processes).unwrap_err();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn without_messages_anything_that_was_written_may_be_read() {
        for value in [0, 1, 2] {
            check(&[vec![write(1), write(2)], vec![read(value)]]).unwrap();
        }
        refused(&[vec![write(1)], vec![read(7)]], "nobody");
    }

    #[test]
    fn a_message_makes_older_values_stale() {
        let writer = vec![write(1), write(2), Send(5), write(3)];
        for value in [2, 3] {
            check(&[writer.clone(), vec![Receive(5), read(value)]]).unwrap();
        }
        for value in [0, 1] {
            refused(&[writer.clone(), vec![Receive(5), read(value)]], "overwritten");
            // Over a third one.
            refused(
                &[
                    writer.clone(),
                    vec![Receive(5), Send(6)],
                    vec![Other, Receive(6), read(value)],
                ],
                "overwritten",
            );
        }
    }

    #[test]
    fn one_sees_ones_own_writes_and_does_not_go_back() {
        refused(&[vec![write(1), read(0)]], "overwritten");
        refused(&[vec![write(1), write(2)], vec![read(2), read(1)]], "overwritten");
        check(&[vec![write(1)], vec![write(2)], vec![read(2), read(1)]]).unwrap();
    }

    #[test]
    fn who_saw_one_write_knows_of_what_came_before_it() {
        let writer = vec![write(1), Write("y".into(), 2)];
        refused(&[writer, vec![Read("y".into(), 2), read(0)]], "overwritten");
    }

    #[test]
    fn nothing_is_read_before_it_is_written() {
        refused(&[vec![Receive(1), write(1)], vec![read(1), Send(1)]], "future");
        refused(&[vec![read(1), write(1)]], "future");
        refused(&[vec![Receive(9)]], "never sent");
    }

    #[test]
    fn a_value_that_several_have_written_may_be_of_any() {
        let remove = || Write("n".into(), 0);
        let look = |value| Read("n".into(), value);
        let make = |value| Write("n".into(), value);
        check(&[
            vec![make(1), remove(), make(2), Send(1), remove()],
            vec![Receive(1), look(0)],
        ])
        .unwrap();
        refused(
            &[
                vec![make(1), remove(), make(2), Send(1)],
                vec![Receive(1), look(0)],
            ],
            "overwritten",
        );
    }

    #[test]
    fn a_listing_is_many_reads() {
        let writer = vec![write(1), Send(1)];
        let listing = |value| ReadMany(vec![("y".into(), 0), ("x".into(), value)]);
        check(&[writer.clone(), vec![Receive(1), listing(1)]]).unwrap();
        refused(&[writer, vec![Receive(1), listing(0)]], "overwritten");
    }

    #[test]
    fn what_is_forged_is_found() {
        let processes = [
            vec![write(1), Send(1), Receive(2), read(2)],
            vec![Receive(1), read(1), write(2), Send(2)],
        ];
        check(&processes).unwrap();
        let forged = forge(&processes);
        assert_eq!(forged.len(), 2);
        for one in forged {
            refused(&one, "overwritten");
        }
    }
}
