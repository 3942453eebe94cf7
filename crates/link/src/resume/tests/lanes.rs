//! Who goes first, and what a peer cannot do.

use std::time::Duration;

use zerocopy::IntoBytes;

use super::super::proof::Agreed;
use super::super::record::{FIRST, Head, LAST, RecordKind};
use super::super::{Class, Core, Limits, Phase, ProtocolError};
use crate::frame::{self, Kind};

const NOW: Duration = Duration::from_secs(1);

fn up(limits: Limits) -> Core {
    let window = limits.window_bytes as u64;
    let mut core = Core::new(limits, NOW);
    let agreed = Agreed {
        epoch: 1,
        received: 0,
        window,
    };
    assert!(core.up(NOW, &agreed).unwrap());
    core
}

/// Everything that `from` has to say goes to `to`, in pieces of `step` bytes; the ids of frames in the order of their arrival.
fn pass(from: &mut Core, to: &mut Core, step: usize) -> Vec<u64> {
    let mut arrived = Vec::new();
    loop {
        let mut bytes: Vec<u8> = from.transmit().iter().flat_map(|slice| slice.to_vec()).collect();
        if bytes.is_empty() {
            return arrived;
        }
        bytes.truncate(step);
        from.transmitted(bytes.len());
        to.receive(NOW, &bytes).unwrap();
        while let Some(frame) = to.next_frame() {
            arrived.push(frame.id);
        }
    }
}

#[test]
fn a_small_frame_overtakes_bulk_that_was_there_before() {
    let (mut home, mut node) = (up(Limits::default()), up(Limits::default()));
    let bulk = vec![7; 1 << 20];
    for id in 0..4 {
        home.send(Class::Data { stream: 1 }, Kind::FileReply, id, &[&bulk])
            .unwrap();
    }
    // Some of it is under way.
    let length: usize = home.transmit().iter().map(|slice| slice.len()).sum();
    assert!(length <= home.limits().ahead_bytes_max + home.limits().piece_bytes_max + 100);
    home.send(Class::Ordered, Kind::CallReply, 100, &[b"small"])
        .unwrap();
    home.send(Class::Data { stream: 2 }, Kind::FileReply, 101, &[&bulk])
        .unwrap();
    let arrived = pass(&mut home, &mut node, 10_000);
    assert_eq!(arrived, [100, 0, 101, 1, 2, 3]);
}

#[test]
fn a_flood_for_one_does_not_stall_another() {
    let (mut home, mut node) = (up(Limits::default()), up(Limits::default()));
    let bulk = vec![7; 100 << 10];
    for id in 0..100 {
        home.send(Class::Data { stream: 1 }, Kind::FileReply, id, &[&bulk])
            .unwrap();
    }
    for id in 200..205 {
        home.send(Class::Data { stream: 2 }, Kind::FileReply, id, &[&bulk])
            .unwrap();
    }
    let arrived = pass(&mut home, &mut node, 50_000);
    let last = arrived.iter().position(|id| *id == 204).unwrap();
    assert!((8..=13).contains(&last), "{last}");
}

#[test]
fn a_fence_overtakes_nothing() {
    let (mut home, mut node) = (up(Limits::default()), up(Limits::default()));
    let bulk = vec![7; 200 << 10];
    for id in 0..3 {
        home.send(Class::Data { stream: id as u32 }, Kind::FileReply, id, &[&bulk])
            .unwrap();
        let _ = home.transmit();
    }
    home.send(Class::Fence, Kind::Control, 10, &[b"changed"]).unwrap();
    home.send(Class::Ordered, Kind::CallReply, 11, &[b"after"])
        .unwrap();
    let arrived = pass(&mut home, &mut node, 50_000);
    assert_eq!(arrived[3..], [10, 11]);
}

#[test]
fn ordered_bulk_does_not_starve_data() {
    let (mut home, mut node) = (up(Limits::default()), up(Limits::default()));
    let bulk = vec![7; 300 << 10];
    home.send(Class::Data { stream: 1 }, Kind::FileReply, 0, &[&bulk])
        .unwrap();
    for id in 1..4 {
        home.send(Class::Ordered, Kind::HandleReply, id, &[&bulk])
            .unwrap();
    }
    let arrived = pass(&mut home, &mut node, 50_000);
    let place = arrived.iter().position(|id| *id == 0).unwrap();
    assert!(place <= 1, "{arrived:?}");
}

#[test]
fn who_does_not_take_is_not_sent_more_than_there_is_room_for() {
    let limits = Limits {
        window_bytes: 100_000,
        ..Limits::default()
    };
    let (mut home, mut node) = (up(limits.clone()), up(limits));
    let mut sent = 0;
    let part = vec![1; 9_000];
    while home.has_room(Class::Ordered, part.len()) && sent < 1000 {
        home.send(Class::Ordered, Kind::CallReply, sent, &[&part])
            .unwrap();
        sent += 1;
        let bytes: Vec<u8> = home.transmit().iter().flat_map(|slice| slice.to_vec()).collect();
        home.transmitted(bytes.len());
        node.receive(NOW, &bytes).unwrap();
    }
    assert!(node.held_bytes() <= 100_000 + 9_100, "{}", node.held_bytes());
    assert!(home.has_room(Class::Ordered, 100), "small ones have a reserve");
    let mut taken = 0;
    while node.next_frame().is_some() {
        taken += 1;
        pass(&mut node, &mut home, usize::MAX);
        let bytes: Vec<u8> = home.transmit().iter().flat_map(|slice| slice.to_vec()).collect();
        home.transmitted(bytes.len());
        node.receive(NOW, &bytes).unwrap();
    }
    assert!(taken > 20 && taken <= sent);
}

fn piece(number: u64, flags: u8, slot: u32, bytes: &[u8]) -> Vec<u8> {
    let mut record = Head::piece(flags, bytes.len(), slot, number, 0)
        .as_bytes()
        .to_vec();
    record.extend_from_slice(bytes);
    record
}

#[test]
fn a_peer_that_does_not_keep_to_the_protocol_is_found_out() {
    let head = |length| frame::encode_head(Kind::Call, 1, length).unwrap();
    let refused = |records: &[Vec<u8>]| {
        let mut core = up(Limits {
            window_bytes: 10_000,
            ..Limits::default()
        });
        records
            .iter()
            .find_map(|record| core.receive(NOW, record).err())
            .expect("an error")
    };
    assert_eq!(
        refused(&[piece(1, FIRST | LAST, 0, &head(0))]),
        ProtocolError::Gap { expected: 0, got: 1 }
    );
    // Ends early, late, begins twice, was never begun, has no head.
    let record = |error| matches!(error, ProtocolError::Record(_));
    assert!(record(refused(&[piece(0, FIRST | LAST, 0, &head(5))])));
    assert!(record(refused(&[piece(0, FIRST, 0, &head(0))])));
    assert!(record(refused(&[
        piece(0, FIRST, 0, &head(100)),
        piece(1, FIRST, 0, &head(100))
    ])));
    assert!(record(refused(&[piece(0, LAST, 7, b"rest")])));
    assert!(record(refused(&[piece(0, FIRST | LAST, 0, b"no head")])));
    assert!(record(refused(&[vec![9; 24]])));
    // More than there is room for; what was not sent is acknowledged, or taken.
    assert_eq!(
        refused(&[piece(0, FIRST, 1, &head(6000)), piece(1, FIRST, 2, &head(6000))]),
        ProtocolError::Window
    );
    let mut other = Head::other(RecordKind::Ping, 1, 1).as_bytes().to_vec();
    assert_eq!(refused(&[other.clone()]), ProtocolError::Acknowledgement);
    other = Head::other(RecordKind::Credit, 1, 0).as_bytes().to_vec();
    assert_eq!(refused(&[other]), ProtocolError::Acknowledgement);
    // A frame over the limit, which nothing is set aside for.
    let mut long = head(0);
    long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        refused(&[piece(0, FIRST, 0, &long)]),
        ProtocolError::Frame(_)
    ));
}

/// Mutations of what a good peer says: the core comes to an end with frames or an error, within its bounds.
#[test]
fn garbage_is_an_error_or_a_frame() {
    let mut random = super::world::Random::new(5);
    for _ in 0..5_000 {
        let limits = Limits {
            window_bytes: 20_000,
            piece_bytes_max: 100,
            ..Limits::default()
        };
        let (mut home, mut node) = (up(limits.clone()), up(limits));
        for id in 0..random.below(5) {
            let payload = vec![id as u8; random.below(500) as usize];
            let class = match id % 2 {
                0 => Class::Ordered,
                _ => Class::Data { stream: 1 },
            };
            home.send(class, Kind::FileReply, id, &[&payload]).unwrap();
        }
        let mut bytes: Vec<u8> = home.transmit().iter().flat_map(|slice| slice.to_vec()).collect();
        for _ in 0..random.below(6) {
            if !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
        }
        let step = 1 + random.below(300) as usize;
        for part in bytes.chunks(step) {
            if node.receive(NOW, part).is_err() {
                break;
            }
            assert!(node.held_bytes() <= 20_000 + (64 << 10));
        }
        while node.next_frame().is_some() {}
    }
}

#[test]
fn pings_go_both_ways_and_silence_is_noticed() {
    let (mut home, mut node) = (up(Limits::default()), up(Limits::default()));
    home.handle_timeout(NOW);
    pass(&mut home, &mut node, 7);
    pass(&mut node, &mut home, 7);
    assert_eq!(home.round_trip(), Some((Duration::ZERO, Duration::ZERO)));
    assert_eq!(node.round_trip(), None);
    let later = NOW + home.limits().silence_max;
    assert_eq!(home.handle_timeout(later), super::super::Timeout::Lost);
    home.down(later);
    assert_eq!(home.phase(), Phase::Down(later));
    assert_eq!(
        home.handle_timeout(later + home.limits().grace),
        super::super::Timeout::Dead
    );
}
