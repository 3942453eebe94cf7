//! Programs that run at the same time and send each other messages, and what they show of registers: parts of a file's contents, a file's
//! size and mode, names that files are renamed to, names that are made and removed.

use afield_e2e::Random;

use crate::order::{Event, INITIAL};

/// An operation and how its result is understood.
#[derive(Clone, Debug)]
enum Meaning {
    Send(u64),
    Receive(u64),
    /// A value for a register, if the result is no error.
    Write(String, u64),
    /// A value that is the second word.
    Word(String),
    /// The first two parts of the file of parts.
    Parts,
    Size,
    Mode,
    /// The removal of a name.
    Remove(String),
    /// Whether there is a name.
    Exists(String),
    /// All names that are there.
    List,
    Nothing,
}

/// Operations of one worker.
pub type Program = Vec<(String, Step)>;

/// What an operation is for.
#[derive(Clone, Debug)]
pub struct Step(Meaning);

const PARTS: u64 = 4;

fn part(number: u64) -> String {
    format!("part {number}")
}

fn name(name: &str) -> String {
    format!("name {name}")
}

/// What a fresh directory has.
pub fn setup() -> Vec<String> {
    let parts = format!("put c ={}", "00000000".repeat(PARTS as usize));
    [
        parts,
        "put s =".to_owned(),
        "put m =".to_owned(),
        "chmod m 0".to_owned(),
    ]
    .to_vec()
}

/// A program for each of so many workers. No message is received before it is sent, if all go on.
pub fn programs(random: &mut Random, workers: usize, steps: usize) -> Vec<Program> {
    let mut programs: Vec<Program> = (0..workers)
        .map(|_| {
            [
                ("open 0 c r".to_owned(), Meaning::Nothing),
                ("open 1 c b".to_owned(), Meaning::Nothing),
            ]
            .map(|(line, meaning)| (line, Step(meaning)))
            .to_vec()
        })
        .collect();
    let mut channels = vec![std::collections::VecDeque::new(); workers * workers];
    let mut value = INITIAL;
    let mut made = Vec::new();
    for number in 0..steps as u64 {
        let worker = random.below(workers as u64) as usize;
        let waiting: Vec<usize> = (0..workers)
            .filter(|from| !channels[from * workers + worker].is_empty())
            .collect();
        let step = match random.below(100) {
            0..18 => {
                let to = (worker + 1 + random.below(workers as u64 - 1) as usize) % workers;
                channels[worker * workers + to].push_back(number + 1);
                (format!("send {to} {}", number + 1), Meaning::Send(number + 1))
            }
            18..36 if !waiting.is_empty() => {
                let from = waiting[random.below(waiting.len() as u64) as usize];
                let message = channels[from * workers + worker].pop_front().expect("not empty");
                (format!("receive {from} {message}"), Meaning::Receive(message))
            }
            _ => operation(random, &mut value, &mut made),
        };
        programs[worker].push((step.0, Step(step.1)));
    }
    // What is left would be found by the next round.
    for from in 0..workers {
        for (to, program) in programs.iter_mut().enumerate() {
            for message in &channels[from * workers + to] {
                let line = format!("receive {from} {message}");
                program.push((line, Step(Meaning::Receive(*message))));
            }
        }
    }
    programs
}

fn operation(random: &mut Random, value: &mut u64, made: &mut Vec<String>) -> (String, Meaning) {
    let at = random.below(PARTS);
    let published = *random.choose(&["x", "y"]).expect("some");
    match random.below(20) {
        0..2 => {
            *value += 1;
            let meaning = Meaning::Write(part(at), *value);
            let line = match random.below(2) {
                0 => format!("pwrite 1 {} ={value:08}", at * 8),
                _ => format!("at c {} ={value:08}", at * 8),
            };
            (line, meaning)
        }
        2..4 => (format!("pread 0 {} 8", at * 8), Meaning::Word(part(at))),
        4..6 => (format!("get c {} 8", at * 8), Meaning::Word(part(at))),
        6 => ("mcat c".to_owned(), Meaning::Parts),
        7 => {
            *value += 1;
            (
                format!("truncate s {value}"),
                Meaning::Write("size".to_owned(), *value),
            )
        }
        8 => ("stat s".to_owned(), Meaning::Size),
        9 => {
            *value += 1;
            // Nine bits, each value once.
            match *value {
                1..=0o777 => {
                    let meaning = Meaning::Write("mode".to_owned(), *value);
                    (format!("chmod m {value:o}"), meaning)
                }
                _ => ("stat m".to_owned(), Meaning::Mode),
            }
        }
        10 => ("stat m".to_owned(), Meaning::Mode),
        11..13 => {
            *value += 1;
            let line = format!("publish {published} ={value:08}");
            (line, Meaning::Write(name(published), *value))
        }
        13..15 => (format!("cat {published}"), Meaning::Word(name(published))),
        15 => (format!("unlink {published}"), Meaning::Remove(name(published))),
        16 => {
            *value += 1;
            let new = format!("n{value}");
            made.push(new.clone());
            (format!("new {new} ="), Meaning::Write(name(&new), 1))
        }
        17 => match random.choose(made) {
            Some(old) => (format!("unlink {old}"), Meaning::Remove(name(old))),
            None => ("ls .".to_owned(), Meaning::List),
        },
        18 => match random.choose(made) {
            Some(one) => (format!("lstat {one}"), Meaning::Exists(name(one))),
            None => ("ls .".to_owned(), Meaning::List),
        },
        _ => ("ls .".to_owned(), Meaning::List),
    }
}

/// Names that are made in the programs, each once.
pub fn names(programs: &[Program]) -> Vec<String> {
    let lines = programs.iter().flatten();
    lines
        .filter_map(|(line, _)| Some(line.strip_prefix("new ")?.split(' ').next()?.to_owned()))
        .collect()
}

/// What a result tells.
pub fn event(step: &Step, result: &str, names: &[String]) -> Result<Event, String> {
    let strange = || format!("{result:?} is no result of {step:?}");
    let words: Vec<&str> = result.split(' ').collect();
    let is_absent = result == "ENOENT";
    let parse = |text: &str| text.parse::<u64>().map_err(|_| strange());
    Ok(match &step.0 {
        Meaning::Send(number) if result == "0" => Event::Send(*number),
        Meaning::Receive(number) if result == "0" => Event::Receive(*number),
        Meaning::Write(register, value) if parse(result).is_ok() => Event::Write(register.clone(), *value),
        Meaning::Word(register) if is_absent => Event::Read(register.clone(), INITIAL),
        Meaning::Word(register) if words.len() == 3 => Event::Read(register.clone(), parse(words[1])?),
        Meaning::Parts if words.len() == 3 => {
            let (first, second) = words[1].split_at_checked(8).ok_or_else(strange)?;
            Event::ReadMany(vec![(part(0), parse(first)?), (part(1), parse(second)?)])
        }
        Meaning::Size if words.len() > 5 => Event::Read("size".to_owned(), parse(words[2])?),
        Meaning::Mode if words.len() > 5 => {
            let mode = u64::from_str_radix(words[0], 8).map_err(|_| strange())?;
            Event::Read("mode".to_owned(), mode & 0o777)
        }
        Meaning::Remove(register) if result == "0" => Event::Write(register.clone(), INITIAL),
        Meaning::Remove(register) | Meaning::Exists(register) if is_absent => {
            Event::Read(register.clone(), INITIAL)
        }
        Meaning::Exists(register) if words.len() > 5 => Event::Read(register.clone(), 1),
        Meaning::List if words[0] == "names" => {
            let is_there = |name: &String| words.contains(&format!("{name}/8").as_str());
            let seen = names.iter().map(|one| (name(one), u64::from(is_there(one))));
            Event::ReadMany(seen.collect())
        }
        Meaning::Nothing => Event::Other,
        _ => return Err(strange()),
    })
}
