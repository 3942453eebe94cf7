//! A relay that delays: what comes goes on after a fixed time, each way, as over a link of that length. Without a rate it holds whatever the
//! delay makes it hold, up to a bound far above what fits into such a link, so it limits nothing but time. With one, no more goes on in a
//! second, and what it holds is what a link of that rate and a queue of some milliseconds hold.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sockets::depend;

/// Most bytes on their way in one direction; at 20 ms it would take more than 3 GB/s to feel it.
const HELD_BYTES_MAX: usize = 64 << 20;

/// Bytes read at once; less, if it matters when the last of them goes on.
const BLOCK_BYTES: usize = 256 << 10;
const BLOCK_BYTES_PACED: usize = 32 << 10;

/// Of a link that has a rate.
const QUEUE: Duration = Duration::from_millis(10);

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 64;

const STACK_BYTES: usize = 64 << 10;

/// What lies between two machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Line {
    /// Of each way.
    pub delay: Duration,
    /// Bytes in a second, each way, if that is limited.
    pub rate: Option<NonZeroU64>,
}

impl Line {
    /// How long so many bytes take to go on.
    fn takes(&self, bytes: usize) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_nanos((bytes as u128 * 1_000_000_000 / u128::from(rate.get())) as u64)
        })
    }

    /// Most bytes that are on their way.
    fn most(&self) -> usize {
        self.rate.map_or(HELD_BYTES_MAX, |rate| {
            let time = 2 * self.delay + QUEUE;
            ((time.as_secs_f64() * rate.get() as f64) as usize).clamp(BLOCK_BYTES, HELD_BYTES_MAX)
        })
    }
}

/// What is on its way in one direction.
#[derive(Default)]
struct Way {
    line: Line,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When each is to arrive; an empty block is the end.
    blocks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the last of them has gone on.
    free: Option<Instant>,
    /// Nobody takes anything any more.
    broken: bool,
}

impl Way {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// False if the other side is gone.
    fn put(&self, block: Vec<u8>) -> bool {
        let come = Instant::now();
        let mut state = self.lock();
        while state.bytes > 0 && state.bytes + block.len() > self.line.most() && !state.broken {
            state = self.wait(state);
        }
        let gone = state.free.map_or(come, |free| free.max(come)) + self.line.takes(block.len());
        state.free = Some(gone);
        let due = gone + self.line.delay;
        state.bytes += block.len();
        state.blocks.push_back((due, block));
        self.changed.notify_all();
        !state.broken
    }

    fn take(&self) -> (Instant, Vec<u8>) {
        let mut state = self.lock();
        loop {
            if let Some((due, block)) = state.blocks.pop_front() {
                state.bytes -= block.len();
                self.changed.notify_all();
                return (due, block);
            }
            state = self.wait(state);
        }
    }
}

/// Relays to an address, each way after a delay; prints its own address first.
pub fn relay_with_delay(listen: SocketAddr, target: SocketAddr, line: Line) -> io::Result<()> {
    depend()?;
    let listener = TcpListener::bind(listen)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    relay(&listener, target, line)
}

/// Relays every connection to `target`, each over a line of its own, for as long as the program runs.
fn relay(listener: &TcpListener, target: SocketAddr, line: Line) -> io::Result<()> {
    // Otherwise the kernel adds 50 µs to every pause. Threads have it from here.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let count = Arc::new(());
    loop {
        let (near, _) = listener.accept()?;
        if Arc::strong_count(&count) > CONNECTIONS_MAX {
            continue;
        }
        let guard = Arc::clone(&count);
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Both ends see that it failed.
                let _ = connection(&near, target, line);
                drop(guard);
            })?;
    }
}

fn connection(near: &TcpStream, target: SocketAddr, line: Line) -> io::Result<()> {
    // The way there and back that making a connection takes.
    std::thread::sleep(2 * line.delay);
    let far = &TcpStream::connect(target)?;
    for socket in [near, far] {
        socket.set_nodelay(true)?;
    }
    std::thread::scope(|scope| {
        for (from, to) in [(near, far), (far, near)] {
            let way = Arc::new(Way {
                line,
                ..Way::default()
            });
            let feed = Arc::clone(&way);
            let builder = || std::thread::Builder::new().stack_size(STACK_BYTES);
            builder().spawn_scoped(scope, move || read(from, &feed))?;
            builder().spawn_scoped(scope, move || write(to, from, &way))?;
        }
        Ok(())
    })
}

fn read(mut from: &TcpStream, way: &Way) {
    let size = match way.line.rate {
        Some(_) => BLOCK_BYTES_PACED,
        None => BLOCK_BYTES,
    };
    let mut block = vec![0; size];
    loop {
        let count = match from.read(&mut block) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A connection that was reset is at its end, too.
            Err(_) => 0,
        };
        if !way.put(block[..count].to_vec()) || count == 0 {
            return;
        }
    }
}

fn write(mut to: &TcpStream, from: &TcpStream, way: &Way) {
    loop {
        let (due, block) = way.take();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if block.is_empty() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        if to.write_all(&block).is_err() {
            way.lock().broken = true;
            way.changed.notify_all();
            // Its reader may wait for what is to come.
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(40);
    const LINE: Line = Line {
        delay: DELAY,
        rate: None,
    };

    /// Through the relay to something that serves one connection.
    fn through(line: Line, serve: impl FnOnce(TcpStream) + Send + 'static) -> TcpStream {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || relay(&listener, target, line));
        std::thread::spawn(move || serve(server.accept().unwrap().0));
        TcpStream::connect(address).unwrap()
    }

    #[test]
    fn a_round_trip_takes_both_delays() {
        let mut socket = through(LINE, |mut socket| {
            let mut byte = [0];
            while socket.read_exact(&mut byte).is_ok() {
                socket.write_all(&byte).unwrap();
            }
        });
        let mut byte = [1];
        for _ in 0..3 {
            let start = Instant::now();
            socket.write_all(&byte).unwrap();
            socket.read_exact(&mut byte).unwrap();
            assert!(start.elapsed() >= 2 * DELAY);
        }
    }

    #[test]
    fn no_more_goes_on_than_the_rate_says() {
        const COUNT: usize = 1 << 20;
        let line = Line {
            delay: Duration::ZERO,
            rate: NonZeroU64::new(10 << 20),
        };
        let mut socket = through(line, |mut socket| {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).unwrap();
            socket.write_all(&[u8::from(all.len() == COUNT)]).unwrap();
        });
        let start = Instant::now();
        socket.write_all(&vec![1; COUNT]).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut same = [0];
        socket.read_exact(&mut same).unwrap();
        assert_eq!(same, [1]);
        assert!(start.elapsed() >= Duration::from_millis(100));
    }

    #[test]
    fn everything_arrives_with_its_end_and_nothing_waits_for_what_went_before() {
        const COUNT: usize = 32 << 20;
        let mut socket = through(LINE, |mut socket| {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).unwrap();
            let same = all.iter().enumerate().all(|(at, byte)| *byte == at as u8);
            socket.write_all(&[u8::from(same && all.len() == COUNT)]).unwrap();
        });
        let bytes: Vec<u8> = (0..COUNT).map(|at| at as u8).collect();
        let start = Instant::now();
        socket.write_all(&bytes).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [1]);
        // One block after the other would take more than five seconds.
        assert!(start.elapsed() < DELAY * (COUNT / BLOCK_BYTES) as u32 / 2);
    }
}
