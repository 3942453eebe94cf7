//! Two ends over loopback, through a relay that fails them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::byte_stream::{Plain, plain};

/// Passes bytes on between whoever connects and a listener, until it is told not to.
struct Relay {
    address: SocketAddr,
    shared: Arc<RelayState>,
}

#[derive(Default)]
struct RelayState {
    sockets: Mutex<Vec<TcpStream>>,
    /// Whoever connects is cut off at once.
    closed: AtomicBool,
    /// Connections stay, and nothing passes.
    silent: AtomicBool,
    connections: AtomicUsize,
}

impl Relay {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::default(),
        };
        let shared = Arc::clone(&relay.shared);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if shared.closed.load(Ordering::SeqCst) {
                    continue;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let far = TcpStream::connect(target).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        let mut buffer = vec![0; 30_000];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            while shared.silent.load(Ordering::SeqCst) {
                                std::thread::sleep(Duration::from_millis(1));
                            }
                            if to.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
                shared.sockets.lock().unwrap().extend([near, far]);
            }
        });
        relay
    }

    /// Cuts every connection there is.
    fn cut(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn quick(grace_ms: u64) -> Limits {
    Limits {
        ping_interval: Duration::from_millis(100),
        silence_max: Duration::from_millis(400),
        grace: Duration::from_millis(grace_ms),
        ..Limits::default()
    }
}

/// Home, the node, and the relay between them.
fn pair(limits: &Limits) -> (Carrier, Carrier, Relay) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::to(listener.local_addr().unwrap());
    let (found, session) = mpsc::channel();
    let on_node = limits.clone();
    std::thread::spawn(move || {
        let soon = || Instant::now() + GREETING_TIME_MAX;
        let first = Arc::new(Plain::new(listener.accept().unwrap().0).unwrap());
        let node = Carrier::begin_on_node(first, on_node, SessionId([5; 16]), soon()).unwrap();
        node.keep().unwrap();
        found.send(node.clone()).unwrap();
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            node.offer(move |deadline| plain()(socket, deadline));
        }
    });
    let address = relay.address;
    let dial: Dial = Box::new(move |session, _| {
        assert_eq!(session, SessionId([5; 16]));
        let later = |error: io::Error| Redial::Later(error.to_string());
        let socket = TcpStream::connect(address).map_err(later)?;
        Ok(Arc::new(Plain::new(socket).map_err(later)?))
    });
    let first = Arc::new(Plain::new(TcpStream::connect(address).unwrap()).unwrap());
    let home =
        Carrier::begin_at_home(first, limits.clone(), dial, Instant::now() + GREETING_TIME_MAX).unwrap();
    home.keep().unwrap();
    (home, session.recv().unwrap(), relay)
}

const WAIT: Option<Duration> = Some(Duration::from_secs(20));

/// Sends so many frames, and takes as many; each has to be the next one.
fn exchange(end: &Carrier, count: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0..count {
                let length = if id % 50 == 0 { 300_000 } else { id as usize % 500 };
                let payload = vec![id as u8; length];
                end.write_frame(Class::Ordered, Kind::Call, id, &[&payload])
                    .unwrap();
            }
        });
        for id in 0..count {
            let frame = end.read_frame(WAIT).unwrap();
            assert_eq!(frame.id, id);
            assert!(frame.payload.iter().all(|byte| *byte == id as u8));
        }
    });
}

#[test]
fn frames_arrive_once_and_in_order_though_connections_are_cut() {
    let (home, node, relay) = pair(&quick(20_000));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !over.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(15));
                relay.cut();
                turn += 1;
                if turn % 20 == 0 {
                    relay.shared.silent.store(true, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(500));
                    relay.shared.silent.store(false, Ordering::SeqCst);
                }
            }
        });
        let other = scope.spawn(|| exchange(&node, 5000));
        exchange(&home, 5000);
        other.join().unwrap();
        over.store(true, Ordering::SeqCst);
    });
    assert!(home.status().traffic.resumes > 3, "{:?}", home.status());
    home.shutdown();
    node.shutdown();
}

#[test]
fn both_ends_agree_that_it_is_over_when_the_grace_time_is() {
    let (home, node, relay) = pair(&quick(700));
    let (tell, told) = mpsc::channel();
    home.on_event(move |event| {
        let _ = tell.send(event);
    });
    exchange_once(&home, &node);
    relay.shared.closed.store(true, Ordering::SeqCst);
    let began = Instant::now();
    relay.cut();
    for end in [&home, &node] {
        let error = end.read_frame(WAIT).unwrap_err();
        assert!(matches!(error, CarrierError::Over(Over::Dead(_))), "{error}");
        assert!(
            error.to_string().starts_with("no connection for 0.7 s"),
            "{error}"
        );
        end.write_frame(Class::Ordered, Kind::Call, 1, &[]).unwrap_err();
    }
    assert!((600..5000).contains(&began.elapsed().as_millis()));
    let heard: Vec<_> = (0..2)
        .map(|_| told.recv_timeout(Duration::from_secs(5)).unwrap())
        .collect();
    assert_eq!(heard, [LinkEvent::Down, LinkEvent::Dead]);
}

fn exchange_once(home: &Carrier, node: &Carrier) {
    for (from, to) in [(home, node), (node, home)] {
        from.write_frame(Class::Ordered, Kind::Call, 7, &[b"one", b"two"])
            .unwrap();
        assert_eq!(to.read_frame(WAIT).unwrap().payload, b"onetwo");
    }
}

#[test]
fn a_half_open_connection_is_noticed_and_replaced() {
    let (home, node, relay) = pair(&quick(20_000));
    exchange_once(&home, &node);
    let before = relay.shared.connections.load(Ordering::SeqCst);
    relay.shared.silent.store(true, Ordering::SeqCst);
    home.write_frame(Class::Ordered, Kind::Call, 1, &[b"into the hole"])
        .unwrap();
    while relay.shared.connections.load(Ordering::SeqCst) == before {
        std::thread::sleep(Duration::from_millis(5));
    }
    relay.shared.silent.store(false, Ordering::SeqCst);
    assert_eq!(node.read_frame(WAIT).unwrap().payload, b"into the hole");
    exchange_once(&home, &node);
    home.shutdown();
    assert!(matches!(
        node.read_frame(WAIT),
        Err(CarrierError::Over(Over::Closed))
    ));
}

#[test]
fn an_orderly_end_comes_after_everything_that_was_sent() {
    let (home, node, _relay) = pair(&quick(20_000));
    let payload = vec![3; 100_000];
    for id in 0..10 {
        home.write_frame(Class::Data { stream: 1 }, Kind::FileReply, id, &[&payload])
            .unwrap();
    }
    home.shutdown();
    for id in 0..10 {
        assert_eq!(node.read_frame(WAIT).unwrap().id, id);
    }
    assert!(matches!(
        node.read_frame(WAIT),
        Err(CarrierError::Over(Over::Closed))
    ));
    home.finish();
    node.finish();
}

/// Both write more than all buffers take before either reads, and neither reads while it writes.
#[test]
fn a_writer_that_waits_gets_on_when_the_other_reads() {
    let limits = Limits {
        window_bytes: 1 << 20,
        ..quick(20_000)
    };
    let (home, node, _relay) = pair(&limits);
    let payload = vec![9; 100_000];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for id in 0..200 {
                home.write_frame(Class::Ordered, Kind::Call, id, &[&payload])
                    .unwrap();
            }
        });
        while home.status().traffic.waiting_bytes < 500_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        for id in 0..200 {
            assert_eq!(node.read_frame(WAIT).unwrap().id, id);
        }
        writer.join().unwrap();
    });
    assert_eq!(home.status().traffic.frames_out, 200);
    home.shutdown();
    node.shutdown();
}

#[test]
fn news_go_around_frames() {
    use crate::stream::{Socket, split, tests::news_go_around};
    let (home, node, _relay) = pair(&quick(20_000));
    let (_, writer) = split(Socket::Carried(home.clone())).unwrap();
    let (mut reader, _keep) = split(Socket::Carried(node.clone())).unwrap();
    news_go_around(&writer, &mut reader);
    home.shutdown();
    node.shutdown();
}

#[test]
fn who_does_not_know_the_secret_is_sent_away() {
    let (home, node, _relay) = pair(&quick(20_000));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let thief = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    node.offer(move |deadline| plain()(socket, deadline));
    let greeting = Greeting::home_resumes(quick(1), Secret([1; 32]), 99, 0, [2; 32]);
    let thief = Plain::new(thief).unwrap();
    let error = greet(&thief, greeting, Instant::now() + GREETING_TIME_MAX, || 0).unwrap_err();
    assert!(
        matches!(error, GreetingError::Protocol(ProtocolError::Secret)),
        "{error}"
    );
    exchange_once(&home, &node);
    assert_eq!(node.status().traffic.resumes, 0);
    home.shutdown();
}
