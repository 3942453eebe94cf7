//! Everything that a peer can send, or that a crash can leave behind, damaged.

use std::cell::RefCell;
use std::time::Duration;

use afield_fuzz::{Random, run};
use afield_link::aftermath::{self, AFTER_MAX, After, NAMES, PLAIN};
use afield_link::contents::{self, Contents, Told, hash};
use afield_link::control::{
    DescriptorChange, HOME_INTERFACE, Held, Home, HomeClient, NODE_INTERFACE, Node, NodeClient, Statistics,
    dispatch_home, dispatch_node,
};
use afield_link::early::{self, Item, Question};
use afield_link::frame::{self, Decoder, HEADER_BYTES, Kind, PAYLOAD_BYTES_MAX};
use afield_link::invalidation::{self, Change};
use afield_link::secure::Fingerprint;
use afield_link::streams::{self, EVENT, MORE, UNKNOWN, WHOLE, WINDOW_BYTES};
use afield_link::wire::{
    self, Buffer, CallHeader, Descriptor, HandleHeader, Hello, Inherited, MountPoint, Spawn, SpawnError,
    Usage, Welcome,
};
use afield_link::{message, preamble};
use afield_node::admission;
use afield_node::journal::Entry;
use afield_rpc::client::Client;
use afield_rpc::endpoint::{Connection, Endpoint};
use afield_rpc::envelope::{Envelope, Refusal};
use afield_rpc::server::{Event, Server};
use afield_rpc::{Answer, BindError, CallError, Settings};
use zerocopy::IntoBytes;

fn hello() -> Hello {
    Hello {
        protocol: afield_link::PROTOCOL,
        version: "0.1.0".into(),
        uid: 1000,
        gid: 1000,
        groups: vec![4, 20, 1000],
        uname: ["Linux", "home", "6.1", "#1 SMP", "x86_64", "(none)"].map(str::to_owned),
        monotonic_ns: 5_000_000_000,
        boottime_ns: 7_000_000_000,
        home: 77,
        epoch: 3,
        mounts: vec![MountPoint {
            path: b"/proc".to_vec(),
            file_system: 1,
            device: 22,
            may_hang: false,
        }],
        interfaces: vec![HOME_INTERFACE.offer()],
    }
}

fn spawn() -> Spawn {
    Spawn {
        pid: 4321,
        program: b"/bin/true".to_vec(),
        arguments: vec![b"true".to_vec(), b"x".to_vec()],
        environment: vec![b"A=b".to_vec()],
        directory: b"/".to_vec(),
        umask: 0o22,
        limits: vec![(1, 2); 16],
        ignored: 0,
        blocked: 0,
        ids: [1000; 6],
        descriptors: vec![
            Descriptor {
                number: 0,
                object: Inherited::Handle {
                    handle: 1,
                    flags: 0,
                    stream: true,
                    offset: 0,
                    terminal: false,
                    device: false,
                    size: 0,
                },
            },
            Descriptor {
                number: 1,
                object: Inherited::Device {
                    name: "null".into(),
                    flags: 1,
                },
            },
            Descriptor {
                number: 2,
                object: Inherited::Path {
                    path: b"/tmp".to_vec(),
                    flags: 0,
                },
            },
        ],
    }
}

#[test]
fn frames() {
    let mut stream = Vec::new();
    for (kind, payload) in [
        (Kind::Call, &b"payload"[..]),
        (Kind::Control, b""),
        (Kind::File, &[7; 100]),
    ] {
        stream.extend(frame::encode_head(kind, 5, payload.len()).unwrap());
        stream.extend(payload);
    }
    run(&[stream], |random, bytes| {
        let mut decoder = Decoder::default();
        let mut again = Vec::new();
        for piece in bytes.chunks(1 + random.below(40)) {
            decoder.feed(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        assert!(frame.payload.len() <= PAYLOAD_BYTES_MAX);
                        again.extend(frame::encode_head(frame.kind, frame.id, frame.payload.len()).unwrap());
                        again.extend(frame.payload);
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            assert!(decoder.pending_bytes() <= bytes.len());
        }
        assert_eq!(bytes[..again.len()], again[..]);
        assert!(bytes.len() - again.len() == decoder.pending_bytes() || bytes.len() < HEADER_BYTES);
    });
}

#[test]
fn first_words() {
    let welcome = Welcome {
        protocol: afield_link::PROTOCOL,
        version: "0.1.0".into(),
        refusal: Some("no".into()),
        name: "node".into(),
        cpus: 4,
        keeps_contents: false,
        file_systems: 2,
        interfaces: vec![NODE_INTERFACE.offer()],
    };
    let good = [wire::encode(&hello()).unwrap(), wire::encode(&welcome).unwrap()];
    run(&good, |_, bytes| {
        if let Ok(hello) = wire::decode::<Hello>(bytes) {
            assert_eq!(
                wire::decode::<Hello>(&wire::encode(&hello).unwrap()).unwrap(),
                hello
            );
            let _ = HOME_INTERFACE.find(&hello.interfaces);
        }
        if let Ok(welcome) = wire::decode::<Welcome>(bytes) {
            let _ = NODE_INTERFACE.find(&welcome.interfaces);
        }
    });
}

#[test]
fn preambles() {
    let good = [preamble::Preamble::new(Default::default()).encode().to_vec()];
    run(&good, |_, bytes| {
        if let Some(bytes) = bytes.first_chunk()
            && let Ok(preamble) = preamble::Preamble::decode(bytes)
        {
            assert_eq!(preamble.encode(), *bytes);
        }
    });
}

#[test]
fn contents_of_files() {
    let said = |size, path, told| {
        let mut reply = Vec::new();
        contents::append(&mut reply, &Contents { size, path, told });
        reply
    };
    let good = [
        said(9, &b""[..], Told::Whole(b"contents!")),
        said(70_000, b"/usr/lib/x", Told::Hashes(&[hash(b"a"), hash(b"b")])),
        said(70_000, b"", Told::Nothing),
    ];
    run(&good, |_, bytes| {
        if let Ok(contents) = contents::decode(bytes) {
            let mut again = Vec::new();
            contents::append(&mut again, &contents);
            assert_eq!(again, bytes);
            assert!(contents.size <= contents::FILE_BYTES_MAX);
        }
    });
}

#[test]
fn early_answers() {
    let name = |name| Question::Name { directory: 1, name };
    let open = Question::Open {
        node: 3,
        executes: true,
        directory: false,
    };
    let items = [
        Item::Answer {
            question: name(b"usr"),
            result: Ok(&[7; 128]),
        },
        Item::Answer {
            question: name(b"none"),
            result: Err(2),
        },
        Item::Answer {
            question: Question::Link { node: 2 },
            result: Ok(b"target"),
        },
        Item::Answer {
            question: open,
            result: Ok(&[1; 16]),
        },
        Item::Answer {
            question: Question::Access { node: 4, mask: 5 },
            result: Ok(b""),
        },
        Item::Answer {
            question: Question::Extended {
                node: 5,
                name: b"security.x",
            },
            result: Err(61),
        },
        Item::Pieces {
            node: 3,
            first: 0,
            end: 7,
        },
        Item::Listing {
            node: 6,
            full: true,
            entries: &[0; 200],
        },
    ];
    let said = |items: &[Item<'_>]| {
        let mut payload = Vec::new();
        items.iter().for_each(|item| early::append(&mut payload, item));
        payload
    };
    let good: Vec<_> = items
        .chunks(1)
        .map(said)
        .chain([said(&items), Vec::new()])
        .collect();
    run(&good, |_, bytes| {
        if let Ok(items) = early::decode(bytes) {
            assert_eq!(said(&items), bytes);
        }
    });
}

#[test]
fn what_changes_have_left() {
    let one = |node, flags| After {
        node,
        flags,
        ..After::default()
    };
    let lists = [
        vec![],
        vec![one(1, NAMES)],
        vec![one(1, NAMES), one(9, PLAIN)],
        vec![one(1, 0), one(2, NAMES), one(3, 0)],
    ];
    let said = |list: &[After]| list.iter().flat_map(|after| after.as_bytes().to_vec()).collect();
    let good: Vec<Vec<u8>> = lists.iter().map(|list| said(list)).collect();
    run(&good, |_, bytes| {
        if let Ok(list) = aftermath::decode(bytes) {
            assert!(list.len() <= AFTER_MAX);
            assert_eq!(said(&list), bytes);
        }
    });
}

#[test]
fn news_of_streams() {
    let said = |records: &[(u64, u32, &[u8])]| {
        let mut payload = Vec::new();
        for &(handle, flags, data) in records {
            let head = streams::Head {
                handle: handle.into(),
                after: 5.into(),
                limit: 6.into(),
                ready: 5.into(),
                flags: flags.into(),
                length: 0.into(),
            };
            streams::encode(&mut payload, head, data);
        }
        payload
    };
    let good = [
        said(&[(1, WHOLE, b"abc")]),
        said(&[(1, WHOLE | MORE, b""), (2, UNKNOWN, b""), (1, EVENT, b"defg")]),
    ];
    run(&good, |_, bytes| {
        if let Ok(records) = streams::decode(bytes) {
            let mut again = Vec::new();
            for news in records {
                assert!(news.data.len() <= WINDOW_BYTES);
                streams::encode(&mut again, news.head, news.data);
            }
            assert_eq!(again, bytes);
        }
    });
}

#[test]
fn forwarded_calls() {
    let header = CallHeader {
        pid: 1.into(),
        tid: 1.into(),
        number: 42.into(),
        buffers: 2.into(),
        arguments: [1.into(); 6],
        result: 0.into(),
    };
    let mut call = header.as_bytes().to_vec();
    for (argument, output) in [(1, false), (3, true)] {
        let buffer = Buffer {
            argument,
            input: !output,
            output,
            length: 5,
            data: if output { b"" } else { b"abcde" },
        };
        wire::encode_buffer(&mut call, &buffer);
    }
    run(&[call], |_, bytes| {
        let Ok((header, rest)) = wire::split::<CallHeader>(bytes, "call") else {
            return;
        };
        if let Ok(buffers) = wire::decode_buffers(header.buffers.get(), rest) {
            let mut again = Vec::new();
            for buffer in &buffers {
                assert!(buffer.argument < 6 && buffer.length <= PAYLOAD_BYTES_MAX);
                wire::encode_buffer(&mut again, buffer);
            }
            assert_eq!(again, rest);
        }
        let _ = wire::split::<HandleHeader>(bytes, "operation");
    });
}

#[test]
fn messages_of_sockets() {
    let noise: Vec<u8> = (0..200).map(|number| number as u8).collect();
    let good = [
        message::encode_outgoing(&[], &[]),
        noise,
        vec![0; 64],
        vec![1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
    ];
    run(&good, |_, bytes| {
        if let Ok((messages, objects)) = message::decode_outgoing(bytes) {
            // Fields that mean nothing for their kind are not kept.
            let again = message::encode_outgoing(&messages, &objects);
            let (messages, objects) = message::decode_outgoing(&again).unwrap();
            assert_eq!(message::encode_outgoing(&messages, &objects), again);
        }
        if let Ok(wanted) = message::decode_wanted(bytes) {
            let again = message::encode_wanted(&wanted);
            assert!(message::decode_wanted(&again).is_ok());
        }
        let _ = message::promise_of(bytes);
    });
}

#[test]
fn journal_files() {
    let text = "afield session 1\nboot 1b4e28ba\nnamespace 4026531836\ndaemon 1000 5\nsession 2000 6\ninit 2001 7\n\
                owner SHA256:abc 4d 3\nend\n";
    assert!(Entry::read(text).is_some());
    run(&[text.as_bytes().to_vec()], |_, bytes| {
        if let Some(entry) = std::str::from_utf8(bytes).ok().and_then(Entry::read) {
            for process in [Some(entry.daemon), Some(entry.session), entry.init]
                .into_iter()
                .flatten()
            {
                assert!(process.pid > 1 && i32::try_from(process.pid).is_ok());
            }
        }
    });
}

/// Messages of calls as both sides send them.
fn envelopes() -> Vec<Vec<u8>> {
    let arguments = wire::encode(&(spawn(),)).unwrap();
    [
        Envelope::Bind {
            client: 9,
            epoch: 2,
            name: NODE_INTERFACE.name,
            version: 1,
        },
        Envelope::Bound {
            epoch: 2,
            name: NODE_INTERFACE.name,
            outcome: Err(BindError::Full),
        },
        Envelope::Bound {
            epoch: 2,
            name: NODE_INTERFACE.name,
            outcome: Ok((1 << 32) + 1),
        },
        Envelope::Request {
            binding: (1 << 32) + 1,
            number: 1,
            floor: 1,
            operation: 0,
            arguments: &arguments,
        },
        Envelope::Request {
            binding: 0,
            number: 1,
            floor: 1,
            operation: 0,
            arguments: &arguments,
        },
        Envelope::Notice {
            binding: 0,
            number: 4,
            operation: 2,
            arguments: &[0x81, 0x20],
        },
        Envelope::Reply {
            binding: (1 << 32) + 1,
            number: 1,
            outcome: Ok(&[0]),
        },
        Envelope::Reply {
            binding: 0,
            number: 1,
            outcome: Err(Refusal::Stranger),
        },
        Envelope::Cancel {
            binding: 0,
            number: 1,
        },
        Envelope::Alive { binding: 1, floor: 2 },
    ]
    .iter()
    .map(Envelope::encode)
    .collect()
}

/// A server and a client that hear whatever it is from anybody stay within their bounds.
#[test]
fn call_cores() {
    let settings = Settings {
        calls_max: 50,
        remembered_bytes_max: 1000,
        bindings_max: 5,
        ..Settings::datagram()
    };
    let mut server = Server::new(settings.clone(), 1, vec![&NODE_INTERFACE]);
    let mut client = Client::new(settings, &NODE_INTERFACE, 9, 2, &[1, 2]);
    let mut now = Duration::ZERO;
    run(&envelopes(), |random, bytes| {
        now += Duration::from_millis(random.number() % 400);
        let from = random.number() % 4;
        if let Ok(message) = Envelope::decode(bytes) {
            server.handle(now, from, &message);
            client.handle(now, from, &message);
        }
        if random.below(20) == 0 {
            let _ = client.call(now, (random.number() % 12) as u16, vec![1, 2, 3]);
        }
        server.handle_time(now);
        client.handle_time(now);
        while server.next_transmit().is_some() {}
        while client.next_transmit().is_some() {}
        while client.next_event().is_some() {}
        while let Some(event) = server.next_event() {
            if let Event::Execute { execution, .. } = event
                && random.below(3) > 0
            {
                server.complete(execution, Ok(&[5; 40]));
            }
        }
        assert!(client.open_calls() <= 50);
        assert!(server.bindings() <= 5 && server.executing() <= 250);
        assert!(
            server.remembered_bytes() <= 5 * (1000 + 50 * 64),
            "{}",
            server.remembered_bytes()
        );
    });
}

struct Nowhere;

impl Connection for Nowhere {
    fn send(&self, _: &[u8]) -> Result<(), CallError> {
        Ok(())
    }
}

/// A node and a home that only look at what they are asked.
#[derive(Default)]
struct Asked {
    starts: RefCell<Vec<Answer<Result<(), SpawnError>>>>,
}

impl Node for Asked {
    type Fault = ();

    fn start(&self, spawn: Spawn, answer: Answer<Result<(), SpawnError>>) -> Result<(), ()> {
        assert!(spawn.arguments.len() <= PAYLOAD_BYTES_MAX);
        let mut starts = self.starts.borrow_mut();
        starts.truncate(20);
        starts.push(answer);
        Ok(())
    }

    fn mounts(&self, points: Vec<MountPoint>) -> Result<(), ()> {
        assert!(points.len() <= PAYLOAD_BYTES_MAX);
        Ok(())
    }

    fn signal(&self, _: u32, _: Vec<u8>) -> Result<(), ()> {
        Ok(())
    }

    fn kill(&self, _: u32) -> Result<(), ()> {
        Ok(())
    }

    fn hold(&self, _: u32) -> Result<(), ()> {
        Ok(())
    }

    fn release(&self, _: u32) -> Result<(), ()> {
        Err(())
    }

    fn priority(&self, _: u32, _: i8) -> Result<(), ()> {
        Ok(())
    }

    fn ready(&self, _: u32, _: u64, _: u32, _: u32) -> Result<(), ()> {
        Ok(())
    }

    fn guests(&self, answer: Answer<Vec<u32>>) -> Result<(), ()> {
        answer.send(&vec![1]).map_err(|_| ())
    }

    fn statistics(&self, _: bool, answer: Answer<Statistics>) -> Result<(), ()> {
        answer.send(&Statistics::default()).map_err(|_| ())
    }
}

impl Home for Asked {
    type Fault = ();

    fn fork(&self, _: u32, _: u32, _: bool, answer: Answer<Result<u32, i32>>) -> Result<(), ()> {
        answer.send(&Ok(1)).map_err(|_| ())
    }

    fn unfork(&self, _: u32, _: u32) -> Result<(), ()> {
        Ok(())
    }

    fn exec(&self, _: u32, _: Vec<u8>, _: Vec<u8>) -> Result<(), ()> {
        Ok(())
    }

    fn name(&self, _: u32, _: Vec<u8>) -> Result<(), ()> {
        Ok(())
    }

    fn ignores(&self, _: u32, _: u32, _: bool) -> Result<(), ()> {
        Ok(())
    }

    fn title(&self, _: u32, _: Vec<u8>) -> Result<(), ()> {
        Ok(())
    }

    fn exit(&self, _: u32, _: i32, _: Usage) -> Result<(), ()> {
        Ok(())
    }

    fn stop(&self, _: u32, _: u32) -> Result<(), ()> {
        Ok(())
    }

    fn unsupported(&self, _: u32, _: u32, _: i32) -> Result<(), ()> {
        Ok(())
    }

    fn notice(&self, _: u32, _: String) -> Result<(), ()> {
        Ok(())
    }

    fn farewell(&self, _: String) -> Result<(), ()> {
        Ok(())
    }

    fn released(&self, _: u64) -> Result<(), ()> {
        Ok(())
    }

    fn ping(&self) -> Result<(), ()> {
        Ok(())
    }

    fn descriptors(&self, _: u32, _: Vec<DescriptorChange>) -> Result<(), ()> {
        Ok(())
    }
}

/// What one side really sends, then damaged: calls are executed, refused, or the end of the connection.
#[test]
fn control_calls() {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    struct Tap(Mutex<Sender<Vec<u8>>>);

    impl Connection for Tap {
        fn send(&self, message: &[u8]) -> Result<(), CallError> {
            let _ = self.0.lock().unwrap().send(message.to_vec());
            Ok(())
        }
    }

    let (tap, sent) = channel();
    let offers = [NODE_INTERFACE.offer(), HOME_INTERFACE.offer()];
    let imports = [&NODE_INTERFACE, &HOME_INTERFACE];
    let speaker = Endpoint::new(Tap(Mutex::new(tap)), &[], &imports, &offers).unwrap();
    let (node, home) = (
        NodeClient::new(speaker.remote(0)),
        HomeClient::new(speaker.remote(1)),
    );
    let started = node.begin_start(spawn()).unwrap();
    node.signal(5, vec![1; 128]).unwrap();
    node.kill(5).unwrap();
    node.priority(5, -3).unwrap();
    node.ready(5, 6, 7, 8).unwrap();
    node.release(5).unwrap();
    let forked = home.begin_fork(5, 17, false).unwrap();
    home.exec(5, b"name".to_vec(), b"a\0b\0".to_vec()).unwrap();
    home.exit(5, 256, Usage::default()).unwrap();
    home.stop(5, 19).unwrap();
    let held = [Held::File(9), Held::Object(8), Held::Device(3), Held::Nothing];
    let changes = held.map(|now| DescriptorChange { number: 300, now });
    home.descriptors(5, changes.to_vec()).unwrap();
    let mut good: Vec<Vec<u8>> = sent.try_iter().collect();
    good.extend(envelopes());
    drop((started, forked));

    let asked = Asked::default();
    let fresh = || Endpoint::new(Nowhere, &imports, &imports, &offers).unwrap();
    let mut endpoint = fresh();
    let (mut executed, mut ended) = (0u64, 0u64);
    run(&good, |_: &mut Random, bytes| {
        let outcome = endpoint.receive(bytes).map(|execution| match execution {
            Some(execution) if execution.interface == 0 => dispatch_node(&asked, execution).is_ok(),
            Some(execution) => dispatch_home(&asked, execution).is_ok(),
            None => true,
        });
        if matches!(outcome, Ok(true)) {
            executed += 1;
        } else {
            // The connection would be closed.
            ended += 1;
            asked.starts.borrow_mut().clear();
            assert_eq!(endpoint.open(), (0, 0));
            endpoint = fresh();
        }
    });
    assert!(executed > 100 && ended > 100, "{executed} {ended}");
}

#[test]
fn changes() {
    let mut good = Vec::new();
    for change in [
        Change::Name {
            directory: 1,
            name: b"name",
        },
        Change::Attributes { node: 2 },
        Change::Contents { node: 3 },
        Change::Everything,
    ] {
        invalidation::append(&mut good, change).unwrap();
    }
    run(&[good], |_, bytes| {
        let Ok(changes) = invalidation::decode(bytes) else {
            return;
        };
        let mut again = Vec::new();
        for change in changes {
            invalidation::append(&mut again, change).unwrap();
        }
        assert_eq!(invalidation::decode(&again).unwrap().is_empty(), again.is_empty());
    });
}

/// What a node's owner, or somebody in his place, has written.
#[test]
fn options_of_homes() {
    let good = [
        "cpus=2,memory=3G,guests=7,hours=Mo-Fr/22:00-06:00",
        "hours=00:00-24:00",
        "",
    ];
    run(&good.map(|text| text.as_bytes().to_vec()), |_, bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Ok(limits) = admission::limits_of(text) {
            assert!(limits.cpus != Some(0) && limits.guests != Some(0));
        }
        let _ = text.parse::<Fingerprint>();
    });
}
