//! The work that is timed: most print the median nanoseconds of one operation, servers the port they serve at.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::Name;
use super::figure::median;
use super::sockets;
use crate::sys::{child, process};

/// Operations timed together.
pub const BATCH: usize = 200;
/// Batches; their median counts.
pub const BATCHES: usize = 15;

/// Does the work and gives the median nanoseconds of one operation, if that is what it finds out. `port`: where the peer
/// of a ping serves; without it this is the peer. Other programs' work is not done here.
pub fn do_work(work: Name, port: Option<u16>) -> io::Result<Option<f64>> {
    let ns = match work {
        Name::Null => batches(BATCH, || {
            process::parent();
            Ok(())
        }),
        Name::Cpu => batches(1, || {
            std::hint::black_box(compute());
            Ok(())
        }),
        Name::Pipe => pipe(),
        Name::Futex => futex(),
        Name::Stat => batches(BATCH, || std::fs::metadata("/etc/passwd").map(drop)),
        Name::Open => {
            let mut buffer = [0; 4096];
            batches(BATCH, || {
                let count = File::open("/etc/passwd")?.read(&mut buffer)?;
                std::hint::black_box(count);
                Ok(())
            })
        }
        Name::Write => write(),
        Name::Fork => batches(20, || child::fork_child(|| {})?.reap()),
        Name::Stop => Ok(super::stop::compute()),
        Name::Random => return super::files::read_at_random().map(|()| None),
        Name::Storm => return super::files::storm().map(|()| None),
        _ if work.has_sockets() => return sockets::do_work(work, port),
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    ns.map(Some)
}

/// Median of batches of an operation.
pub fn batches(count: usize, mut operation: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    operation()?;
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..count {
            operation()?;
        }
        times.push(start.elapsed().as_nanos() as f64 / count as f64);
    }
    Ok(median(times))
}

/// Some tens of milliseconds of integer and memory work.
fn compute() -> u64 {
    let mut table = vec![0u64; 1 << 15];
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..8_000_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let slot = state as usize & (table.len() - 1);
        table[slot] = table[slot].wrapping_add(state).rotate_left(11);
    }
    table.iter().fold(0, |sum, value| sum ^ value)
}

/// Keeps the calling thread, and what it makes from now on, on the processor where it is. A ping-pong whose sides the scheduler
/// places takes ten times as long when they are apart, natively and afield, and says nothing else.
fn stay_on_processor() -> io::Result<()> {
    let mut here = rustix::thread::CpuSet::new();
    here.set(rustix::thread::sched_getcpu());
    Ok(rustix::thread::sched_setaffinity(None, &here)?)
}

fn pipe() -> io::Result<f64> {
    stay_on_processor()?;
    let (mut from_parent, mut to_child) = io::pipe()?;
    let (mut from_child, mut to_parent) = io::pipe()?;
    let echo = child::fork_child(move || {
        let mut byte = [0];
        while from_parent.read_exact(&mut byte).is_ok() && byte[0] != 0 && to_parent.write_all(&byte).is_ok()
        {
        }
    })?;
    let mut byte = [1];
    let result = batches(BATCH, || {
        to_child.write_all(&byte)?;
        from_child.read_exact(&mut byte)
    })?;
    to_child.write_all(&[0])?;
    echo.reap()?;
    Ok(result)
}

fn futex() -> io::Result<f64> {
    stay_on_processor()?;
    // Even: ours to move; odd: the other's.
    let turn = Arc::new(AtomicU32::new(0));
    let theirs = Arc::clone(&turn);
    const END: u32 = u32::MAX;
    let other = std::thread::spawn(move || {
        loop {
            let now = theirs.load(Ordering::Acquire);
            if now == END {
                return;
            }
            if now % 2 == 1 {
                theirs.store(now + 1, Ordering::Release);
                child::futex_wake(&theirs);
            } else {
                child::futex_wait(&theirs, now);
            }
        }
    });
    let mut round = 0u32;
    let result = batches(BATCH, || {
        turn.store(round + 1, Ordering::Release);
        child::futex_wake(&turn);
        round += 2;
        while turn.load(Ordering::Acquire) != round {
            child::futex_wait(&turn, round - 1);
        }
        Ok(())
    })?;
    turn.store(END, Ordering::Release);
    child::futex_wake(&turn);
    // It does not panic.
    let _ = other.join();
    Ok(result)
}

fn write() -> io::Result<f64> {
    let path = std::env::temp_dir().join(format!("afield-bench-{}", std::process::id()));
    let mut file = File::options().create_new(true).append(true).open(&path)?;
    let block = [42; 4096];
    let result = batches(BATCH, || file.write_all(&block));
    std::fs::remove_file(&path)?;
    result
}
