//! Homes that do not behave.

use std::sync::Arc;
use std::time::Instant;

use afield_link::carrier::{Carrier, Dial, Redial};
use afield_link::control::{HOME_INTERFACE, NODE_INTERFACE, NodeClient};
use afield_link::early::{self, Item, Question};
use afield_link::frame::Kind;
use afield_link::invalidation::FOREVER_SECONDS;
use afield_link::preamble::SessionId;
use afield_link::resume::greeting::Greeting;
use afield_link::resume::proof::Secret;
use afield_link::resume::{Limits, ProtocolError};
use afield_link::secure::Identity;
use afield_link::stream::{self, LinkError, Reader, Socket, Writer};
use afield_link::wire::{self, Hello, Welcome};
use afield_rpc::endpoint::Endpoint;

use super::raw::{CLOSE, Raw, attacks, record, whole};
use super::{BOUND, Scene, soon};

fn hello(home: u64, epoch: u64) -> Hello {
    Hello {
        protocol: afield_link::PROTOCOL,
        version: "test".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        uname: [const { String::new() }; 6],
        monotonic_ns: 1,
        boottime_ns: 1,
        home,
        epoch,
        mounts: vec![],
        interfaces: vec![HOME_INTERFACE.offer()],
    }
}

#[test]
fn break_the_links_rules() {
    let mut scene = Scene::new();
    let identity = scene.admitted();
    let before = scene.sessions();
    let first = whole(0, Kind::Hello, &wire::encode(&hello(7, 1)).unwrap());
    let second_hello = whole(1, Kind::Hello, &wire::encode(&hello(7, 1)).unwrap());
    for (what, attack) in attacks().into_iter().chain([("a second hello", second_hello)]) {
        let raw = Raw::dial(&scene.address, SessionId::default(), &identity).unwrap();
        raw.greet(Greeting::home_new(Limits::default())).unwrap();
        raw.say(&first);
        // What has come before is not heard again.
        raw.say(&first);
        assert!(raw.is_answered(77), "{what}");
        raw.say(&attack);
        raw.expect_end(what);
        let left = scene.arena.watch().until_none(BOUND, |process| {
            Some(process.parent) == scene.arena.node_pid() && !before.contains(&process.pid)
        });
        assert!(left.is_empty(), "{what}: {left:?}");
        scene.step();
    }
    scene.end();
}

/// Who knows a session's id has nothing by it: neither with another key, nor without the secret, nor with an attempt that is an
/// earlier one.
#[test]
fn come_for_a_session() {
    let mut scene = Scene::new();
    let thief = Identity::ephemeral().unwrap();
    let identity = scene.admitted();
    let home = scene.arena.fingerprint(scene.arena.afield(&[]));
    let keys = [
        home,
        identity.fingerprint().to_string(),
        thief.fingerprint().to_string(),
    ];
    scene.arena.admit(&(keys.join("\n") + "\n"));
    let limits = Limits::default;
    let raw = Raw::dial(&scene.address, SessionId::default(), &identity).unwrap();
    let outcome = raw.greet(Greeting::home_new(limits())).unwrap();
    let (session, secret) = outcome.made.unwrap();
    raw.say(&whole(0, Kind::Hello, &wire::encode(&hello(7, 1)).unwrap()));
    assert!(raw.is_answered(1));
    let address = scene.address.clone();
    let resume = |identity, secret, epoch| {
        let raw = Raw::dial(&address, session, identity).unwrap();
        let greeted = raw.greet(Greeting::home_resumes(limits(), secret, epoch, 0, [5; 32]));
        (raw, greeted)
    };
    let (other, greeted) = resume(&thief, secret, 9);
    assert!(greeted.is_err());
    other.expect_end("another home's key");
    let (_, greeted) = resume(&identity, Secret([0; 32]), 9);
    assert_eq!(
        greeted.unwrap_err().to_string(),
        ProtocolError::Secret.to_string()
    );
    let (other, greeted) = resume(&identity, secret, 1);
    greeted.unwrap();
    other.expect_end("an epoch that has been");
    assert!(raw.is_answered(2));
    // A good one takes over, and the one before it is of no more use.
    let (next, greeted) = resume(&identity, secret, 2);
    greeted.unwrap();
    assert!(next.is_answered(3));
    raw.expect_end("an earlier connection");
    let (other, greeted) = resume(&identity, secret, 2);
    greeted.unwrap();
    other.expect_end("the same epoch again");
    assert!(next.is_answered(4));
    drop((raw, next));
    scene.step();
    // Not known any more when its home has ended it.
    let (last, greeted) = resume(&identity, secret, 3);
    greeted.unwrap();
    last.say(&record(CLOSE, 0, 0, 0, 0));
    let until = soon();
    while Raw::dial(&scene.address, session, &identity).is_ok() {
        assert!(Instant::now() < until, "an ended session is still known");
    }
    scene.end();
}

/// A session as homes have them.
fn session(scene: &Scene, identity: &Identity, hello: &Hello) -> (Reader, Writer, Welcome) {
    let raw = Raw::dial(&scene.address, SessionId::default(), identity).unwrap();
    let dial: Dial = Box::new(|_, _| Err(Redial::Never("one connection is enough".to_owned())));
    let carrier = Carrier::begin_at_home(Arc::new(raw.stream), Limits::default(), dial, soon()).unwrap();
    carrier.keep().unwrap();
    let (mut reader, writer) = stream::split(Socket::Carried(carrier)).unwrap();
    reader.set_timeout(Some(BOUND)).unwrap();
    let hello = wire::encode(hello).unwrap();
    writer.write_frame(Kind::Hello, 0, &[&hello]).unwrap();
    let frame = reader.read_frame().unwrap();
    assert_eq!(frame.kind, Kind::Welcome);
    let welcome = wire::decode(&frame.payload).unwrap();
    (reader, writer, welcome)
}

/// Whether a node goes on after it has been told this ahead of being asked.
fn is_believed(scene: &Scene, identity: &Identity, epoch: u64, payload: &[u8]) -> bool {
    let (mut reader, writer, welcome) = session(scene, identity, &hello(11, epoch));
    assert_eq!(welcome.refusal, None);
    let calls = Endpoint::new(writer.clone(), &[], &[&NODE_INTERFACE], &welcome.interfaces).unwrap();
    writer.write_frame(Kind::Early, 0, &[payload]).unwrap();
    let node = NodeClient::new(calls.remote(0));
    let mut guests = match node.begin_guests() {
        Ok(guests) => guests,
        Err(_) => return false,
    };
    loop {
        match reader.read_frame() {
            Ok(frame) if frame.kind == Kind::Control => drop(calls.receive(&frame.payload).unwrap()),
            Ok(_) => {}
            Err(LinkError::Io(error)) => panic!("neither answered nor ended: {error}"),
            Err(_) => return false,
        }
        if let Some(answer) = guests.poll() {
            return answer.is_ok();
        }
    }
}

fn said(question: Question<'_>, result: Result<&[u8], i32>) -> Vec<u8> {
    let mut payload = Vec::new();
    early::append(&mut payload, &Item::Answer { question, result });
    payload
}

fn name(name: &[u8]) -> Question<'_> {
    Question::Name { directory: 77, name }
}

/// Answers that nobody has asked for yet: what cannot be ends the session, what is only not true does no harm.
#[test]
fn answer_before_they_are_asked() {
    let mut scene = Scene::new();
    let identity = scene.admitted();
    let open = |node| Question::Open {
        node,
        executes: false,
        directory: false,
    };
    // Flags: kept in the cache; past the cache.
    let [kept, direct] =
        [2u8, 1].map(|flags| [[9, 0, 0, 0, 0, 0, 0, 0], [flags, 0, 0, 0, 0, 0, 0, 0]].concat());
    let (mut listing, mut pieces) = (Vec::new(), Vec::new());
    let entries = &[0xff; 300];
    early::append(
        &mut listing,
        &Item::Listing {
            node: 77,
            full: true,
            entries,
        },
    );
    let (node, first, end) = (78, 0, 60_000);
    early::append(&mut pieces, &Item::Pieces { node, first, end });
    let impossible = [
        vec![0],
        [[0xaa; 64], [0; 64]].concat(),
        said(name(b".."), Err(libc::ENOENT)),
        said(name(b"a/b"), Err(libc::ENOENT)),
        said(name(b"short"), Ok(b"entry")),
        // Of a node, but valid for no time.
        said(name(b"brief"), Ok(&[5; 128])),
        said(name(b"odd"), Err(-1)),
        said(Question::Link { node: 77 }, Ok(b"")),
        said(Question::Link { node: u64::MAX }, Ok(b"of the node's own")),
        said(open(77), Ok(&direct)),
        said(open(77), Ok(&[&kept[..], b"garbage"].concat())),
        said(Question::Access { node: 77, mask: 4 }, Ok(b"more")),
        listing,
    ];
    for (at, payload) in impossible.iter().enumerate() {
        assert!(!is_believed(&scene, &identity, 1 + at as u64, payload), "{at}");
        scene.step();
    }
    // A name that is not there: an entry without a node, valid until further notice.
    let mut absent = [0; 128];
    absent[16..24].copy_from_slice(&FOREVER_SECONDS.to_ne_bytes());
    let many: Vec<u8> = (0..3000)
        .flat_map(|at| said(name(format!("name {at}").as_bytes()), Ok(&absent)))
        .collect();
    let twice = said(open(77), Ok(&kept)).repeat(2);
    for (at, payload) in [many, twice, pieces].iter().enumerate() {
        assert!(is_believed(&scene, &identity, 100 + at as u64, payload), "{at}");
        scene.step();
    }
    scene.end();
}

/// What names another home's incarnation or guests means nothing in this home's session.
#[test]
fn meddle_with_others() {
    let mut scene = Scene::new();
    let identity = scene.admitted();
    let incarnation = std::fs::read_to_string(scene.arena.runtime().join("incarnation")).unwrap();
    let (victim, _) = incarnation.split_once(' ').unwrap();
    let victim = u64::from_str_radix(victim, 16).unwrap();
    let (mut reader, writer, welcome) = session(&scene, &identity, &hello(victim, u64::MAX));
    assert_eq!(welcome.refusal, None);
    let calls = Endpoint::new(writer.clone(), &[], &[&NODE_INTERFACE], &welcome.interfaces).unwrap();
    let node = NodeClient::new(calls.remote(0));
    let pid = scene.job.pid() as u32;
    node.hold(pid).unwrap();
    node.signal(pid, vec![9; 128]).unwrap();
    node.kill(pid).unwrap();
    // Answered when all of that has been heard.
    let mut guests = node.begin_guests().unwrap();
    let answer = loop {
        let frame = reader.read_frame().unwrap();
        if frame.kind == Kind::Control {
            calls.receive(&frame.payload).unwrap();
        }
        if let Some(answer) = guests.poll() {
            break answer.unwrap();
        }
    };
    assert_eq!(answer, [0; 0]);
    scene.step();
    // An incarnation that is over has nothing to say.
    let (_, _, welcome) = session(&scene, &identity, &hello(8, 5));
    assert_eq!(welcome.refusal, None);
    let (_, _, welcome) = session(&scene, &identity, &hello(8, 4));
    let refusal = welcome.refusal.unwrap();
    assert!(refusal.contains("incarnation 4"), "{refusal}");
    writer.shutdown();
    scene.end();
}
