//! Processes at home and guests of two nodes that work on the same files and tell each other: nobody sees anything older than what
//! he must know of.
//!
//! *In turn*: each operation is told to one worker when the one before has been answered; twins do the same natively, and every result must be the
//! same. *At the same time*: programs with messages between them; what is read must be allowed by the order that messages make.
//!
//! | environment | meaning |
//! |---|---|
//! | `AFIELD_COHERENCE_SEED` | only the run with this seed |
//! | `AFIELD_COHERENCE_RUNS` | so many runs of each test, instead of a minute's worth |
//! | `AFIELD_COHERENCE_MAPS` | also with memory that stays mapped while others change the file |

mod concurrent;
mod operations;
mod order;
mod workers;

use std::fmt::Write as _;
use std::time::Duration;

use afield_e2e::{Arena, Mode, Place, Random};

use workers::{Channel, Fleet, Site};

/// Operations of a run.
const STEPS: usize = 60;

/// Directories that runs use in turn, so that names are used again.
const DIRECTORIES: u64 = 3;

/// Every way to be told, at home and on both nodes.
const ALL: &[(Site, Channel)] = &[
    (Site::Home, Channel::Fifo),
    (Site::Embedded, Channel::Poll),
    (Site::Tcp, Channel::Socket),
    (Site::Embedded, Channel::Signal),
    (Site::Tcp, Channel::Fifo),
    (Site::Home, Channel::Socket),
];

/// Those who can be sent more than a line.
const TALKATIVE: &[(Site, Channel)] = &[
    (Site::Home, Channel::Fifo),
    (Site::Embedded, Channel::Fifo),
    (Site::Tcp, Channel::Socket),
    (Site::Embedded, Channel::Socket),
    (Site::Tcp, Channel::Poll),
    (Site::Home, Channel::Poll),
];

/// Makes tests of a function that gets an arena with two nodes and how many runs are wanted.
macro_rules! tests {
    ($($name:ident: $user:literal, $delay_us:literal, $runs:literal, $function:ident;)*) => { $(
        #[test]
        fn $name() {
            let mode = Mode { place: Place::Tcp, user: $user };
            if mode.is_wanted(stringify!($name)) {
                let mut arena = Arena::new(mode);
                arena.start_node();
                if $delay_us > 0 {
                    arena.start_delay(Duration::from_micros($delay_us));
                }
                arena.install_program("coherence");
                let runs = Runs::new(stringify!($name), $runs);
                $function(&arena, runs);
                arena.expect_clean();
            }
        }
    )* };
}

tests! {
    in_turn: false, 0, 100, take_turns;
    in_turn_user: true, 0, 60, take_turns;
    in_turn_far: false, 1_000, 15, take_turns;
    together: false, 0, 200, run_together;
    together_user: true, 0, 100, run_together;
    together_far: false, 1_000, 50, run_together;
}

/// Seeds of runs.
struct Runs {
    test: &'static str,
    seeds: Vec<u64>,
}

impl Runs {
    fn new(test: &'static str, usual: u64) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(
                text.parse::<u64>()
                    .unwrap_or_else(|_| panic!("{name} is a number")),
            )
        };
        let seeds = match number("AFIELD_COHERENCE_SEED") {
            Some(seed) => vec![seed],
            None => {
                let mut random = Random::seeded(test);
                let count = number("AFIELD_COHERENCE_RUNS").unwrap_or(usual);
                (0..count).map(|_| random.number() >> 16).collect()
            }
        };
        Self { test, seeds }
    }

    /// Each run's directory, seed and generator.
    fn each(&self) -> impl Iterator<Item = (String, u64, Random)> {
        let seeds = self.seeds.iter().enumerate();
        seeds.map(|(index, seed)| {
            let directory = format!("r{}", index as u64 % DIRECTORIES);
            (directory, *seed, Random::from_seed(*seed))
        })
    }

    fn fail(&self, seed: u64, why: &str, history: &str) -> ! {
        panic!("{}, AFIELD_COHERENCE_SEED={seed}: {why}\n{history}", self.test);
    }
}

fn take_turns(arena: &Arena, runs: Runs) {
    let maps = std::env::var_os("AFIELD_COHERENCE_MAPS").is_some();
    let mut fleet = Fleet::start(arena, "far", ALL, &arena.node_address());
    let twins: Vec<_> = ALL.iter().map(|_| (Site::Home, Channel::Fifo)).collect();
    let mut native = Fleet::start(arena, "near", &twins, "");
    for (directory, seed, mut random) in runs.each() {
        for fleet in [&mut fleet, &mut native] {
            fleet.begin(&directory, &operations::setup());
        }
        let mut history = String::new();
        for _ in 0..STEPS {
            let worker = random.below(ALL.len() as u64) as usize;
            // Some are done by a child that its parent tells.
            let child = if random.below(4) == 0 { "@" } else { "" };
            let line = format!("{child}{}", operations::operation(&mut random, maps));
            native.workers[worker].tell(&line);
            let found = fleet.workers[worker].ask(&line);
            let expected = native.workers[worker].answer();
            let (site, channel) = ALL[worker];
            let _ = writeln!(history, "{worker} {site:?} {channel:?}: {line}: {expected}");
            if found != expected && !order_of_errors(&line, &found, &expected) {
                runs.fail(seed, &format!("{found} in place of the last"), &history);
            }
        }
    }
    fleet.end();
    native.end();
}

/// Of two reasons why a rename cannot be, the kernel at home tells a directory's that may not be searched first; a
/// file system in user space is asked for the old name before (docs/compatibility.md).
fn order_of_errors(line: &str, found: &str, expected: &str) -> bool {
    let operation = line.trim_start_matches('@');
    operation.starts_with("rename ") && (found, expected) == ("ENOENT", "EACCES")
}

fn run_together(arena: &Arena, runs: Runs) {
    let mut fleet = Fleet::start(arena, "all", TALKATIVE, &arena.node_address());
    for (directory, seed, mut random) in runs.each() {
        fleet.begin(&directory, &concurrent::setup());
        let programs = concurrent::programs(&mut random, TALKATIVE.len(), STEPS * 2);
        for (worker, program) in fleet.workers.iter_mut().zip(&programs) {
            let lines: String = program.iter().map(|(line, _)| format!("{line}\n")).collect();
            worker.send(&format!("batch {}\n{lines}", program.len()));
        }
        let names = concurrent::names(&programs);
        let mut history = String::new();
        let mut events = vec![Vec::new(); programs.len()];
        let mut strange = None;
        for (number, (worker, program)) in fleet.workers.iter_mut().zip(&programs).enumerate() {
            let _ = writeln!(history, "process {number} {:?}:", worker.site);
            for (index, (line, step)) in program.iter().enumerate() {
                let result = worker.answer();
                let _ = writeln!(history, "  {index}: {line}: {result}");
                match concurrent::event(step, &result, &names) {
                    Ok(event) => events[number].push(event),
                    Err(why) => strange = Some(why),
                }
            }
        }
        let outcome = strange.map_or_else(|| order::check(&events), Err);
        if let Err(why) = outcome {
            runs.fail(seed, &why, &history);
        }
        // The checker is one that would have found it.
        if seed % 8 == 0 {
            for forged in order::forge(&events) {
                assert!(
                    order::check(&forged).is_err(),
                    "staleness is not found:\n{forged:#?}"
                );
            }
        }
    }
    fleet.end();
}
