//! What others see of a guest's descriptors.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use afield_abi::syscalls::nr;
use afield_link::control::{DescriptorChange, Held};

use super::*;

fn change(deputy: &mut Fake, changes: &[(u32, Held)]) {
    let changes = changes.iter();
    let changes = changes.map(|&(number, now)| DescriptorChange { number, now });
    deputy.tell(&ToDeputy::Descriptors(changes.collect()), None);
}

/// What the deputy's descriptors lead to, by their numbers, but for its own.
fn shown(deputy: &Fake) -> BTreeMap<i32, String> {
    let numbers = deputy.descriptors().into_keys().filter(|number| *number < 200);
    let name = |number| {
        let link = std::fs::read_link(format!("/proc/{}/fd/{number}", deputy.pid));
        link.map_or_else(|_| "gone".to_owned(), |name| name.display().to_string())
    };
    numbers.map(|number| (number, name(number))).collect()
}

/// Gives the deputy what it asks for.
fn answer(deputy: &mut Fake, wanted: u64, path: Option<&str>) {
    match deputy.message() {
        (_, FromDeputy::Reach { node }) => assert_eq!(node, wanted),
        other => panic!("instead of a question: {other:?}"),
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let way = path.map(|path| rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap());
    deputy.tell(&ToDeputy::Reached(way.is_some()), way.as_ref());
}

#[test]
fn files_are_shown_where_the_guest_has_them() {
    let mut deputy = Fake::start(&[]);
    // It has begun, and so closed what is the test's.
    deputy.simple(nr::GETPPID, [0; 6]);
    // The channel of a test's deputy is one of the low numbers, which is not taken from it.
    let own = shown(&deputy);
    let (&taken, _) = own.first_key_value().unwrap();
    change(
        &mut deputy,
        &[
            (100, Held::File(7)),
            (taken as u32, Held::File(8)),
            (102, Held::File(9)),
            (103, Held::Device(3)),
            (104, Held::Device(99)),
        ],
    );
    answer(&mut deputy, 8, Some("/usr"));
    answer(&mut deputy, 7, Some("/etc/passwd"));
    answer(&mut deputy, 9, None);
    let all = |more: &[(i32, &str)]| {
        let mut all = own.clone();
        all.extend(more.iter().map(|&(number, name)| (number, name.to_owned())));
        all
    };
    let wanted = all(&[(100, "/etc/passwd"), (103, "/dev/null")]);
    eventually("shown", || shown(&deputy) == wanted);
    // What is asked for anew is what was not to be had.
    change(&mut deputy, &[(100, Held::Nothing), (101, Held::File(7))]);
    answer(&mut deputy, 7, Some("/etc/group"));
    answer(&mut deputy, 9, Some("/"));
    let wanted = all(&[(101, "/etc/group"), (102, "/"), (103, "/dev/null")]);
    eventually("changed", || shown(&deputy) == wanted);
    // A child's are told anew, as its own.
    let child = deputy.fork();
    eventually("not inherited", || !shown(&child).contains_key(&101));
}

#[test]
fn objects_are_moved_and_end_when_they_are_closed() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mine, others) = UnixStream::pair().unwrap();
    let numbers = [theirs.as_raw_fd(), others.as_raw_fd()];
    let mut deputy = Fake::start(&[&theirs.into(), &others.into()]);
    deputy.simple(nr::GETPPID, [0; 6]);
    let named = |deputy: &Fake, number: i32| shown(deputy).remove(&number);
    let names = numbers.map(|number| named(&deputy, number).unwrap());
    // Each in the other's place, and one of them a second time.
    let [one, other] = numbers.map(|number| number as u32);
    change(
        &mut deputy,
        &[
            (one, Held::Object(2)),
            (other, Held::Object(1)),
            (150, Held::Object(1)),
            (151, Held::Object(5)),
        ],
    );
    let places = [numbers[1], numbers[0], 150];
    eventually("moved", || {
        places.map(|place| named(&deputy, place))
            == [&names[0], &names[1], &names[0]].map(|name| Some(name.clone()))
    });
    assert_eq!(named(&deputy, 151), None);
    (&ours).write_all(b"word").unwrap();
    let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 9), 0, &[]);
    assert_eq!(deputy.operation_answer(id), (4, b"word".to_vec()));
    // Nobody has told yet that the guest has it no more: its end is seen all the same.
    deputy.operate(HandleOp::Close, 1, (0, 0, 0), 0, &[]);
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
    let id = deputy.operate(HandleOp::Write, 2, (-1, 0, 0), 0, b"more");
    assert_eq!(deputy.operation_answer(id).0, 4);
    drop(deputy);
    let mut all = Vec::new();
    (&mine).read_to_end(&mut all).unwrap();
    assert_eq!(all, b"more");
}
