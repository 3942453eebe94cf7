//! Nodes and deputies that do not behave, and links that end.

use afield_rpc::CallError;
use afield_rpc::endpoint::Connection;
use afield_rpc::envelope::Envelope;

use super::*;

#[test]
fn a_deputy_that_does_not_read_holds_up_nobody() {
    let mut node = Node::new();
    let stuck = node.start_job(4_000_009);
    let mut other = node.start_job(4_000_010);
    let data = vec![1u8; 1 << 20];
    for id in 0..10 {
        node.operate(id | FILE_ID, stuck.pid, HandleOp::Write, &data);
    }
    node.call(100, other.pid);
    assert_eq!(other.frame().unwrap().id, 100);
    other.answer(Kind::CallReply, 100, 0);
    assert_eq!(node.result(Kind::CallReply, 100), 0);
    // It gets everything when it reads again.
    let mut stuck = stuck;
    for id in 0..10 {
        let frame = stuck.frame().unwrap();
        assert_eq!(frame.id, id | FILE_ID);
        assert_eq!(frame.payload.len(), size_of::<HandleHeader>() + (1 << 20));
    }
}

#[test]
fn a_hostile_node_loses_its_session() {
    let flood = |mut node: Node, stuck: Played| {
        let data = vec![1u8; 4 << 20];
        let header = [0u8; size_of::<HandleHeader>()];
        for id in 0..200u64 {
            let mut head = header;
            head[..4].copy_from_slice(&stuck.pid.to_le_bytes());
            head[4] = HandleOp::Write as u8;
            if node
                .writer
                .write_frame(Kind::Handle, id, &[&head, &data])
                .is_err()
            {
                break;
            }
        }
        let start = Instant::now();
        while !node.session.is_over() {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        while node.reader.read_frame().is_ok() {}
    };
    let mut node = Node::new();
    let stuck = node.start_job(4_000_020);
    flood(node, stuck);

    type Attack = fn(&Node, u32);
    let attacks: [(Attack, &str); 16] = [
        (
            |node, _| node.writer.write_frame(Kind::Welcome, 0, &[]).unwrap(),
            "Welcome",
        ),
        (
            |node, _| node.writer.write_frame(Kind::CallReply, 0, &[]).unwrap(),
            "CallReply",
        ),
        (
            |node, _| node.writer.write_frame(Kind::Call, 0, &[b"short"]).unwrap(),
            "malformed",
        ),
        (
            |node, _| node.writer.write_frame(Kind::Handle, 0, &[b"short"]).unwrap(),
            "malformed",
        ),
        (
            |node, pid| {
                let mut head = [0u8; size_of::<HandleHeader>()];
                head[..4].copy_from_slice(&pid.to_le_bytes());
                head[4] = HandleOp::Write as u8;
                // Contents elsewhere.
                head[44] = 1;
                node.writer.write_frame(Kind::Handle, 0, &[&head]).unwrap();
            },
            "not shared",
        ),
        (
            |node, _| node.writer.write_frame(Kind::Control, 0, &[&[0xff; 9]]).unwrap(),
            "unreadable",
        ),
        (
            |node, _| node.writer.write_frame(Kind::File, 1, &[&[0; 40]]).unwrap(),
            "id",
        ),
        (
            |node, pid| {
                node.home.unfork(1, pid).unwrap();
            },
            "not made by",
        ),
        (
            |node, pid| node.home.name(pid, vec![b'x'; 16]).unwrap(),
            "name of 16 bytes",
        ),
        (
            |node, pid| node.home.title(pid, vec![b'x'; (128 << 10) + 1]).unwrap(),
            "arguments of 131073 bytes",
        ),
        (
            |node, pid| {
                let now = afield_link::control::Held::File(1);
                let change = |number| afield_link::control::DescriptorChange { number, now };
                node.home
                    .descriptors(pid, vec![change(4095), change(4096)])
                    .unwrap();
            },
            "descriptors beyond 4096",
        ),
        (
            |node, pid| node.home.stop(pid, libc::SIGKILL as u32).unwrap(),
            "signal 9 stops nobody",
        ),
        (
            |node, pid| node.home.ignores(pid, libc::SIGKILL as u32, true).unwrap(),
            "signal 9 is of no account",
        ),
        (
            // The same message again, as somebody would who has heard it.
            |node, pid| {
                let message = Envelope::Notice {
                    binding: 0,
                    number: 77,
                    operation: 7,
                    arguments: &wire::encode(&(pid, 101u32, 1i32)).unwrap(),
                };
                for _ in 0..2 {
                    node.writer.send(&message.encode()).unwrap();
                }
            },
            "come before",
        ),
        (
            |node, _| {
                let message = Envelope::Request {
                    binding: 5,
                    number: 1,
                    floor: 1,
                    operation: 0,
                    arguments: &[],
                };
                node.writer.send(&message.encode()).unwrap();
            },
            "of another interface",
        ),
        (
            |node, pid| {
                let message = Envelope::Request {
                    binding: 0,
                    number: 1,
                    floor: 1,
                    operation: 0,
                    arguments: &wire::encode(&pid).unwrap(),
                };
                node.writer.send(&message.encode()).unwrap();
            },
            "unreadable arguments",
        ),
    ];
    for (index, (attack, why)) in attacks.into_iter().enumerate() {
        let mut node = Node::new();
        let deputy = node.start_job(4_000_030 + index as u32);
        attack(&node, deputy.pid);
        node.expect_refusal(deputy, why);
    }
    // One id twice.
    let mut node = Node::new();
    let mut deputy = node.start_job(4_000_050);
    node.call(1, deputy.pid);
    node.call(1, deputy.pid);
    assert_eq!(deputy.frame().unwrap().kind, Kind::Call);
    node.expect_refusal(deputy, "before it was answered");
}

/// A node that ends says how its guests ended, and closes. Who finds that nothing can be sent to it has not read that.
#[test]
fn what_a_node_said_before_its_end_counts() {
    let mut node = Node::new();
    let mut deputy = node.start_job(4_000_070);
    for error in [
        SessionError::Link(LinkError::Unsendable),
        SessionError::Call(CallError::Connection("the link is at its end".to_owned())),
    ] {
        node.session.end(&error);
        assert!(!node.session.is_over());
    }
    node.home
        .exit(deputy.pid, libc::SIGKILL, Usage::default())
        .unwrap();
    node.writer.shutdown();
    let message = deputy.told().1;
    assert!(
        matches!(
            message,
            ToDeputy::Exit {
                status: libc::SIGKILL
            }
        ),
        "{message:?}"
    );
    assert!(matches!(deputy.told().1, ToDeputy::Gone(_)));
    assert!(node.session.is_over());
}

#[test]
fn the_end_of_the_link_is_told() {
    let mut node = Node::new();
    let mut deputy = node.start_job(4_000_060);
    let Node {
        session,
        reader,
        writer,
        ..
    } = node;
    writer.shutdown();
    drop((reader, writer));
    let (_, message) = deputy.told();
    let ToDeputy::Gone(text) = message else {
        panic!("{message:?}");
    };
    assert_eq!(text, "node test is gone: the other side closed the link");
    assert!(session.is_over());
    assert!(matches!(deputy.frame(), Err(ChannelError::Closed)));
}

/// Guests that there should not be are ended; others are not.
#[test]
fn guests_without_deputies_are_ended() {
    let mut node = Node::new();
    let mut deputy = node.start_job(4_000_070);
    lock(&node.heard.1).extend([4_000_070, 4_000_071]);
    node.session.check_owners().unwrap();
    assert!(matches!(node.control(), Said::Kill(4_000_071)));
    node.ping();
    node.call(1, deputy.pid);
    assert_eq!(deputy.frame().unwrap().id, 1);
}

/// A job that comes to a session whose node takes nothing any more.
#[test]
fn who_comes_too_late_is_told() {
    let coherence = Coherence::start().unwrap();
    let generosity = Generosity {
        answers_max: 100,
        bytes_max: 100_000,
    };
    let Node { session, .. } = Node::with((Some(&coherence), generosity));
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let pid = 4_000_080;
    // Of what its program needs the node would be told first.
    let request = request("/bin/sh");
    if let Err(error) = session.start_job(pid, request, None, theirs.into(), Incoming::default()) {
        session.end(&error);
    }
    let mut deputy = Played::new(pid, ours);
    loop {
        match deputy.told().1 {
            ToDeputy::Gone(_) => break,
            ToDeputy::Accepted { .. } | ToDeputy::Notice(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
