//! Runs of the world from seeds. `AFIELD_SIM_SEED` runs one seed again; `AFIELD_SIM_EVENTS` says how many events there shall be.

use std::time::Duration;

use super::super::Limits;
use super::world::{Faults, HOME, NODE, Random, World};

/// Names the seed when a run fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation failed: AFIELD_SIM_SEED={} runs it again", self.0);
        }
    }
}

fn limits_of(random: &mut Random) -> Limits {
    let pick = |random: &mut Random, choices: &[usize]| choices[random.below(choices.len() as u64) as usize];
    Limits {
        window_bytes: pick(random, &[600, 5000, 40_000, 1 << 20]),
        ordered_bytes_max: pick(random, &[300, 4000, 100_000]),
        data_bytes_max: pick(random, &[300, 4000, 100_000]),
        small_bytes_max: pick(random, &[0, 100]),
        small_reserve_bytes: 500,
        ahead_bytes_max: pick(random, &[1, 1000, 20_000]),
        piece_bytes_max: pick(random, &[40, 500, 60 << 10]),
        quantum_bytes: pick(random, &[40, 700, 60 << 10]),
        ping_interval: Duration::from_millis(100),
        silence_max: Duration::from_millis(350),
        grace: Duration::from_secs(4),
    }
}

/// The most that an end may hold at all.
fn bytes_max(limits: &Limits, frame_max: usize) -> usize {
    // Each of a window's frames has at least 48 bytes, each piece of it a record's head.
    let kept = 2 * (limits.window_bytes + frame_max) + limits.ahead_bytes_max + (64 << 10);
    let kept = kept + (limits.window_bytes + frame_max) / limits.piece_bytes_max.min(48) * 24;
    let waiting =
        limits.ordered_bytes_max + limits.small_reserve_bytes + limits.data_bytes_max + 2 * frame_max;
    kept + 2 * waiting
}

/// What a run comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// The faults end, and everything arrives.
    Settles,
    /// No connection can be made any more.
    Partition,
    /// One end is gone.
    Crash(usize),
    /// One end closes.
    Close(usize),
}

/// One run; the events in it.
fn run(seed: u64) -> u64 {
    let named = Named(seed);
    let mut random = Random::new(seed ^ 0x5eed);
    let limits = limits_of(&mut random);
    let frame_max = [100, 3000, 30_000][random.below(3) as usize];
    let mut rate = |common: u64| match random.below(3) {
        0 => 0,
        1 => common,
        _ => common / 8,
    };
    let faults = Faults {
        cut: rate(400),
        half_open: rate(2000),
        stall: rate(700),
        double_attempt: rate(1500),
        intruder: rate(3000),
        refuse: rate(4),
    };
    let ending = match random.below(8) {
        0 => Ending::Partition,
        1 => Ending::Crash(random.below(2) as usize),
        2 => Ending::Close(random.below(2) as usize),
        _ => Ending::Settles,
    };
    let send_every = 1 + random.below(6);
    let take_every = [1 + random.below(3), 1 + random.below(12)];
    let bound = bytes_max(&limits, frame_max);
    let mut world = World::new(seed, limits.clone(), faults);
    let steps = 500 + random.below(4000);
    let mut work = |world: &mut World, sends: bool| {
        for end in [HOME, NODE] {
            if sends && random.one_in(send_every) {
                for _ in 0..random.below(4) {
                    let class = match random.below(10) {
                        0 => 1,
                        1..5 => 2,
                        _ => 0,
                    };
                    let most = 1 + random.below(frame_max as u64 - 50);
                    world.send(end, class, random.below(most) as usize);
                }
            }
            if random.one_in(take_every[end]) {
                for _ in 0..random.below(6) {
                    world.take(end);
                }
            }
        }
        world.step();
    };
    for _ in 0..steps {
        work(&mut world, true);
    }
    match ending {
        Ending::Settles => {
            let faults = std::mem::take(&mut world.faults);
            let until = world.now + 120_000_000;
            while !world.is_settled() {
                assert!(
                    world.now < until,
                    "everything arrives in the end: {limits:?} {faults:?}"
                );
                assert!(!world.ends.iter().any(|end| end.dead), "nobody gives up early");
                work(&mut world, false);
            }
        }
        Ending::Close(end) => {
            world.faults = Faults::default();
            if let Some(core) = &mut world.ends[end].core {
                core.close();
            }
            let until = world.now + 120_000_000;
            while !world.ends[1 - end].closed {
                assert!(world.now < until, "the peer is told of the end");
                work(&mut world, false);
            }
            while world.take(1 - end) {}
            let sent = &world.ends[end].sender;
            assert_eq!(
                world.ends[1 - end].taken,
                sent.ordered + sent.data.iter().sum::<u64>(),
                "everything before the end has come"
            );
        }
        Ending::Partition | Ending::Crash(_) => {
            if let Ending::Crash(end) = ending {
                world.ends[end].core = None;
                world.unknown = end == NODE;
            }
            world.partition = ending == Ending::Partition || world.ends[HOME].core.is_none();
            world.faults = Faults {
                half_open: 1,
                ..Faults::default()
            };
            // Longest: silence, grace, and the difference of the clocks.
            let until = world.now + (limits.silence_max + limits.grace).as_micros() as u64 * 5 / 4 + 100_000;
            while world.ends.iter().any(|end| end.core.is_some() && !end.dead) {
                assert!(world.now < until, "both ends agree that it is over");
                work(&mut world, true);
            }
        }
    }
    for end in [HOME, NODE] {
        let held = world.held_max[end];
        assert!(held <= bound, "{held} bytes held, at most {bound}: {limits:?}");
    }
    if ending == Ending::Settles {
        for end in &world.ends {
            let traffic = end.core.as_ref().expect("it lives").traffic();
            assert_eq!(traffic.waiting_bytes, 0, "nothing is left over");
        }
    }
    drop(named);
    world.events
}

#[test]
fn every_frame_arrives_once_and_in_order_whatever_happens_to_connections() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("AFIELD_SIM_SEED") {
        run(seed);
        return;
    }
    // Tests are also built without optimisation.
    let wanted: u64 = number("AFIELD_SIM_EVENTS").unwrap_or(if cfg!(debug_assertions) {
        1_000_000
    } else {
        60_000_000
    });
    let (mut events, mut seed) = (0, 1);
    while events < wanted {
        events += run(seed);
        seed += 1;
    }
    println!("{events} events in {} runs", seed - 1);
}
