//! Connections as the node is told of them, with a peer that is this test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use afield_link::streams::{
    EAGER_BYTES, EVENT, HERE, MORE, News, UNKNOWN, WHOLE, WINDOW_BYTES, cost, decode,
};

use super::*;

const HANDLE: u64 = 7;
const PID: u32 = 42;
const IN: u32 = libc::POLLIN as u32;
const OUT: u32 = libc::POLLOUT as u32;

/// A guest's end, which the deputy has, and its peer's.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (guest, _) = listener.accept().unwrap();
    for socket in [&guest, &peer] {
        socket.set_nodelay(true).unwrap();
    }
    (guest, peer)
}

fn ask(streams: &Streams, op: HandleOp, id: u64) -> Passing {
    streams.pass_operation(op, HANDLE, id, b"payload")
}

fn begin(streams: &Streams, guest: &TcpStream) {
    streams.connected(PID, HANDLE, guest.local_addr().unwrap(), true);
    for id in 1..MOVES_MIN.into() {
        assert_eq!(ask(streams, HandleOp::Read, id), Passing::On);
        streams.answered(id);
    }
    let last = MOVES_MIN.into();
    assert_eq!(ask(streams, HandleOp::Write, last), Passing::Begin);
    streams.answered(last);
    let copy = OwnedFd::from(guest.try_clone().unwrap());
    let course = course_of(copy.as_fd());
    streams.begin(HANDLE, copy, course);
}

fn told(streams: &Streams) -> Vec<u8> {
    let mut payload = Vec::new();
    streams.tell(&mut payload);
    payload
}

fn only(payload: &[u8]) -> News<'_> {
    let news = decode(payload).unwrap();
    assert_eq!(news.len(), 1, "{news:?}");
    news[0]
}

#[test]
fn what_happens_is_told_once_and_stays_at_home_until_it_is_read() {
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    let payload = told(&streams);
    let first = only(&payload).head;
    assert_eq!((first.flags.get(), first.after.get()), (WHOLE, MOVES_MIN.into()));
    assert_eq!(first.ready.get(), OUT);
    assert!(first.limit.get() > cost(1000));
    assert_eq!(told(&streams), []);
    peer.write_all(b"hello").unwrap();
    let payload = told(&streams);
    let news = only(&payload);
    assert_eq!((news.data, news.head.flags.get()), (&b"hello"[..], EVENT));
    assert_eq!(news.head.ready.get(), IN | OUT);
    peer.write_all(b" there").unwrap();
    assert_eq!(only(&told(&streams)).data, b" there");
    assert_eq!(guest.peek(&mut [0; 100]).unwrap(), 11);
    assert!(!streams.consume(HANDLE, 6));
    let mut rest = [0; 100];
    assert_eq!(guest.peek(&mut rest).unwrap(), 5);
    assert_eq!(&rest[..5], b"there");
    // What the node asks makes void what it was told: all is told again.
    assert_eq!(ask(&streams, HandleOp::Ioctl, 99), Passing::On);
    assert_eq!(told(&streams), []);
    streams.answered(99);
    let payload = told(&streams);
    let news = only(&payload);
    assert_eq!((news.data, news.head.flags.get()), (&b"there"[..], WHOLE));
    assert_eq!(news.head.after.get(), 99);
    // More than there is cannot have been read.
    assert!(streams.consume(HANDLE, 1 << 40));
    assert_eq!(only(&told(&streams)).head.flags.get(), UNKNOWN);
}

#[test]
fn much_is_told_in_parts() {
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    told(&streams);
    let bytes: Vec<u8> = (0..2 * WINDOW_BYTES).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    let given = bytes.clone();
    let writer = std::thread::spawn(move || peer.write_all(&given).map(|()| peer));
    let mut come: Vec<u8> = Vec::new();
    while come.len() < bytes.len() {
        let payload = told(&streams);
        let mut count = 0;
        for news in decode(&payload).unwrap() {
            assert!(news.head.flags.get() & UNKNOWN == 0);
            if news.head.flags.get() & MORE == 0 {
                assert!(payload.len() <= AHEAD_BYTES + size_of::<streams::Head>());
            }
            come.extend(news.data);
            count += news.data.len();
        }
        if count > 0 {
            streams.consume(HANDLE, count as u64);
        }
    }
    assert_eq!(come, bytes);
    drop(writer.join().unwrap().unwrap());
    let payload = told(&streams);
    assert_eq!(
        only(&payload).head.ready.get() & libc::POLLRDHUP as u32,
        libc::POLLRDHUP as u32
    );
}

#[test]
fn what_is_written_arrives_and_counts() {
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    let before = only(&told(&streams)).head.limit.get();
    streams.append(HANDLE, b"answer").unwrap();
    let mut bytes = [0; 6];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"answer");
    assert_eq!(ask(&streams, HandleOp::Poll, 50), Passing::On);
    streams.answered(50);
    // The room is as before, behind what was written.
    assert_eq!(only(&told(&streams)).head.limit.get(), before + cost(6));
}

#[test]
fn what_finds_no_room_goes_before_all_that_follows() {
    let (guest, mut peer) = pair();
    rustix::net::sockopt::set_socket_send_buffer_size(&guest, 4096).unwrap();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    told(&streams);
    let block = vec![3; 60_000];
    let mut written = 0;
    while lock(&streams.known).entries[&HANDLE]
        .flow
        .as_ref()
        .unwrap()
        .is_clear()
    {
        streams.append(HANDLE, &block).unwrap();
        written += block.len();
    }
    for id in [60, 61] {
        assert_eq!(ask(&streams, HandleOp::Write, id), Passing::Kept);
    }
    assert!(streams.pass_close(HANDLE, PID, b"close"));
    assert!(streams.next_free().is_none());
    let mut come = vec![0; written];
    let reader = std::thread::spawn(move || peer.read_exact(&mut come).map(|()| (come, peer)));
    let mut passed = Vec::new();
    while passed.len() < 4 {
        told(&streams);
        let Some(waiting) = streams.next_free() else {
            continue;
        };
        passed.push(waiting.id);
        if waiting.payload == b"close" {
            assert!(!streams.pass_close(HANDLE, PID, &waiting.payload));
            break;
        }
        assert_eq!(ask(&streams, HandleOp::Write, waiting.id), Passing::On);
        if passed.len() == 1 {
            // Whatever comes meanwhile waits for its turn.
            assert_eq!(ask(&streams, HandleOp::Write, 62), Passing::Kept);
        }
    }
    assert_eq!(passed, [60, 61, 0]);
    let (come, _peer) = reader.join().unwrap().unwrap();
    assert!(come.iter().all(|&byte| byte == 3));
}

#[test]
fn what_guests_have_both_ends_of_is_not_written_behind() {
    let (guest, peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    assert!(only(&told(&streams)).head.limit.get() > 0);
    // The other end becomes a guest's: of another process, under whatever handle.
    streams.connected(PID + 1, HANDLE + 1, peer.local_addr().unwrap(), false);
    assert_eq!(only(&told(&streams)).head.limit.get(), 0);
    drop(peer);
}

#[test]
fn a_connection_ends_with_the_last_who_has_it() {
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    drop(guest);
    peer.set_read_timeout(Some(std::time::Duration::from_millis(20)))
        .unwrap();
    let is_open = |peer: &mut TcpStream| peer.read(&mut [0]).is_err();
    streams.forking(PID, 5);
    streams.left(PID);
    assert!(is_open(&mut peer));
    streams.forked(5, Some(PID + 1));
    streams.hold(HANDLE, Holder::Agent);
    assert!(!streams.pass_close(HANDLE, PID + 1, b""));
    assert!(is_open(&mut peer) && !streams.is_empty());
    streams.let_go(HANDLE, Holder::Agent);
    assert!(!is_open(&mut peer) && streams.is_empty());
    assert_eq!(told(&streams), []);
}

#[test]
fn a_connection_that_lingers_holds_up_nobody() {
    let (guest, peer) = pair();
    let time = std::time::Duration::from_secs(100);
    rustix::net::sockopt::set_socket_linger(&guest, Some(time)).unwrap();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    // More than the peer, who does not read, has room for.
    guest.set_nonblocking(true).unwrap();
    while (&guest).write(&[0; 65536]).is_ok() {}
    drop(guest);
    let start = std::time::Instant::now();
    streams.left(PID);
    assert!(start.elapsed() < time / 2);
    assert!(streams.is_empty());
    drop(peer);
}

#[test]
fn who_has_the_connection_is_told_how_much_has_come() {
    let (guest, mut peer) = pair();
    let (hatch, node) = Hatch::pair().unwrap();
    let streams = Streams::new(Some(hatch)).unwrap();
    peer.write_all(b"ab").unwrap();
    begin(&streams, &guest);
    // Nothing keeps it open before the node hears of it.
    assert!(node.take().unwrap().is_none());
    let come = || {
        let payload = told(&streams);
        let news = only(&payload);
        (news.head.flags.get(), news.here())
    };
    assert_eq!(come(), (WHOLE | HERE, Some(2)));
    let (handle, there) = node.take().unwrap().unwrap();
    let mut there = TcpStream::from(there.unwrap());
    assert_eq!(handle, HANDLE);
    peer.write_all(b"hello").unwrap();
    assert_eq!(come(), (EVENT | HERE, Some(7)));
    let mut bytes = [0; 10];
    assert_eq!(there.read(&mut bytes[..3]).unwrap(), 3);
    peer.write_all(b"more").unwrap();
    // It is said what has come, not what there is.
    assert_eq!(come(), (EVENT | HERE, Some(11)));
    assert_eq!(ask(&streams, HandleOp::Read, 90), Passing::On);
    assert_eq!((&guest).read(&mut bytes[..2]).unwrap(), 2);
    assert_eq!(told(&streams), []);
    streams.answered(90);
    assert_eq!(come(), (WHOLE | HERE, Some(6)));
    // The node lets go of it.
    drop(there);
    assert!(streams.consume(HANDLE, streams::NOT_HERE));
    let payload = told(&streams);
    let news = only(&payload);
    assert_eq!((news.head.flags.get(), news.data), (WHOLE, &b"lomore"[..]));
    assert!(!streams.consume(HANDLE, streams::NOT_HERE));
    assert_eq!(told(&streams), []);
    assert!(!streams.consume(HANDLE, 2));
    assert_eq!(guest.peek(&mut bytes).unwrap(), 4);
}

#[test]
fn who_has_no_room_for_a_connection_is_told_what_has_come() {
    let (guest, mut peer) = pair();
    let (hatch, node) = Hatch::pair().unwrap();
    drop(node);
    let streams = Streams::new(Some(hatch)).unwrap();
    begin(&streams, &guest);
    peer.write_all(b"ab").unwrap();
    assert_eq!(only(&told(&streams)).data, b"ab");
}

#[test]
fn what_was_read_before_the_node_is_told_to_ask_is_taken() {
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    peer.write_all(b"abcdef").unwrap();
    assert_eq!(only(&told(&streams)).data, b"abcdef");
    drop(peer);
    guest.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(only(&told(&streams)).head.flags.get(), UNKNOWN);
    // On its way when that was told.
    assert!(!streams.consume(HANDLE, 2));
    assert_eq!(ask(&streams, HandleOp::Read, 90), Passing::On);
    let mut rest = [0; 10];
    assert_eq!((&guest).read(&mut rest).unwrap(), 4);
    assert_eq!(&rest[..4], b"cdef");
}

#[test]
fn what_is_of_no_use_is_not_told_for_ever() {
    use afield_link::streams::HELD;
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    peer.write_all(&[1; 50_000]).unwrap();
    let mut bytes = 0;
    for id in 100..400 {
        let payload = told(&streams);
        let news = only(&payload);
        bytes += news.data.len();
        assert_eq!(
            news.data.is_empty(),
            news.head.flags.get() & (HELD | MORE) == HELD | MORE
        );
        assert_eq!(news.head.ready.get(), IN | OUT);
        assert_eq!(ask(&streams, HandleOp::Poll, id), Passing::On);
        streams.answered(id);
    }
    assert!((WINDOW_BYTES / 2..WINDOW_BYTES).contains(&bytes), "{bytes}");
}

#[test]
fn what_cannot_be_told_at_once_is_not_forgotten() {
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    // Somebody else is writing to the link.
    let busy = || Ok::<_, ()>(false);
    assert_eq!(streams.tell_on(busy), Ok(true));
    let mut payload = Vec::new();
    let mut tell = || {
        streams.tell(&mut payload);
        Ok::<_, ()>(true)
    };
    assert_eq!(streams.tell_on(&mut tell), Ok(false));
    let count = 3 * EAGER_BYTES;
    let writer = std::thread::spawn(move || peer.write_all(&vec![1; count]).map(|()| peer));
    let mut come = 0;
    let mut turns = 0;
    while come < count {
        // Each time it is only the second attempt that finds room.
        assert_eq!(streams.tell_on(busy), Ok(true));
        assert!(streams.is_unfinished());
        let mut payload = Vec::new();
        streams.tell(&mut payload);
        let news: usize = decode(&payload).unwrap().iter().map(|news| news.data.len()).sum();
        come += news;
        if news > 0 {
            let tells = streams.consume(HANDLE, news as u64);
            assert!(streams.is_unfinished() >= tells);
        }
        turns += 1;
        assert!(turns < 1_000_000, "{come}");
    }
    drop(writer.join().unwrap().unwrap());
}

#[test]
fn what_is_given_away_is_not_known_any_more() {
    let (guest, mut peer) = pair();
    let streams = Streams::new(None).unwrap();
    begin(&streams, &guest);
    told(&streams);
    streams.give_away(HANDLE);
    assert_eq!(only(&told(&streams)).head.flags.get(), UNKNOWN);
    peer.write_all(b"x").unwrap();
    assert_eq!(only(&told(&streams)).head.flags.get(), UNKNOWN);
    assert_eq!(told(&streams), []);
}
