//! Operations on home objects.

use std::io::{Read, Seek, SeekFrom, Write};

use afield_link::sys::{AREA_BYTES, Area};

use super::*;
use crate::messages::{LockRecord, LockRequest};

/// A regular file without a name.
fn file(contents: &[u8]) -> std::fs::File {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open("/tmp", flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let mut file = std::fs::File::from(file);
    file.write_all(contents).unwrap();
    file.rewind().unwrap();
    file
}

fn shared(file: &std::fs::File) -> OwnedFd {
    file.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn the_offset_of_a_file_is_shared() {
    let mut ours = file(b"0123456789abcdef");
    let mut deputy = Fake::start(&[&shared(&ours)]);
    let mut four = [0; 4];
    ours.read_exact(&mut four).unwrap();
    let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 4), 0, &[]);
    assert_eq!(deputy.operation_answer(id), (4, b"4567".to_vec()));
    ours.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"89ab");
    let id = deputy.operate(HandleOp::Read, 1, (2, 0, 3), 0, &[]);
    assert_eq!(deputy.operation_answer(id), (3, b"234".to_vec()));
    let id = deputy.operate(HandleOp::Write, 1, (-1, 0, 0), 0, b"XY");
    assert_eq!(deputy.operation_answer(id).0, 2);
    assert_eq!(ours.stream_position().unwrap(), 14);
    let id = deputy.operate(HandleOp::Seek, 1, (-3, libc::SEEK_END as u64, 0), 0, &[]);
    assert_eq!(deputy.operation_answer(id).0, 13);
    assert_eq!(ours.stream_position().unwrap(), 13);
    let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    assert_eq!(deputy.operation_answer(id), (3, b"Yef".to_vec()));
    let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    assert_eq!(deputy.operation_answer(id), (0, vec![]));
    let id = deputy.operate(HandleOp::Stat, 1, (0, 0, 0), 0, &[]);
    let (result, status) = deputy.operation_answer(id);
    assert_eq!((result, status.len()), (0, 144));
    assert_eq!(status[48..56], 16u64.to_le_bytes());
    let length = 64u64.to_le_bytes();
    let id = deputy.operate(HandleOp::Allocate, 1, (0, 0, 0), 0, &length);
    assert_eq!(deputy.operation_answer(id).0, 0);
    assert_eq!(ours.metadata().unwrap().len(), 64);
    let id = deputy.operate(HandleOp::Sync, 1, (0, 1, 0), 0, &[]);
    assert_eq!(deputy.operation_answer(id).0, 0);
}

#[test]
fn contents_may_be_in_shared_memory() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let regular = file(b"contents");
    let mut deputy = Fake::start(&[&theirs.into(), &shared(&regular)]);
    let operate = |deputy: &mut Fake, op, handle, data: &[u8], place| {
        let id = deputy.operate_shared(op, handle, (-1, 0, 0), 0, data, place);
        deputy.operation_answer(id)
    };
    let refused = |errno: i32| (-i64::from(errno), vec![]);
    // Before it has been given any.
    let answer = operate(&mut deputy, HandleOp::Write, 1, &[], (0, 5));
    assert_eq!(answer, refused(libc::ENOMEM));
    let area = Area::create().unwrap();
    deputy.tell(&ToDeputy::Area, Some(&area));
    rustix::io::pwrite(&area, b"words", 70_000).unwrap();
    let answer = operate(&mut deputy, HandleOp::Write, 1, &[], (70_000, 5));
    assert_eq!(answer, (5, vec![]));
    let mut five = [0; 5];
    (&ours).read_exact(&mut five).unwrap();
    assert_eq!(&five, b"words");
    // What is there, what is waited for, and no more than there is room for.
    (&ours).write_all(b"answers").unwrap();
    let answer = operate(&mut deputy, HandleOp::Read, 1, &[], (4096, 6));
    assert_eq!(answer, (6, vec![]));
    let answer = operate(&mut deputy, HandleOp::Read, 1, &[], (4102, 6));
    assert_eq!(answer, (1, vec![]));
    let id = deputy.operate_shared(HandleOp::Read, 1, (-1, 0, 0), 0, &[], (4103, 6));
    (&ours).write_all(b"!").unwrap();
    assert_eq!(deputy.operation_answer(id), (1, vec![]));
    let mut eight = [0; 8];
    rustix::io::pread(&area, &mut eight, 4096).unwrap();
    assert_eq!(&eight, b"answers!");
    // Outside, of a file with an offset, and of what has no contents.
    let end = AREA_BYTES as u32;
    for place in [(end - 1, 2), (end, 1), (u32::MAX, 1), (0, u32::MAX)] {
        let answer = operate(&mut deputy, HandleOp::Read, 1, &[], place);
        assert_eq!(answer, refused(libc::EINVAL), "{place:?}");
    }
    let answer = operate(&mut deputy, HandleOp::Read, 2, &[], (0, 5));
    assert_eq!(answer, refused(libc::EINVAL));
    let answer = operate(&mut deputy, HandleOp::Stat, 1, &[], (0, 5));
    assert_eq!(answer, refused(libc::EINVAL));
}

#[test]
fn large_files_come_whole() {
    let contents: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
    let ours = file(&contents);
    let mut deputy = Fake::start(&[&shared(&ours)]);
    let mut seen = Vec::new();
    loop {
        let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 1 << 20), 0, &[]);
        let (count, data) = deputy.operation_answer(id);
        if count == 0 {
            break;
        }
        assert!(count == 1 << 20 || seen.len() + data.len() == contents.len());
        seen.extend(data);
    }
    assert_eq!(seen, contents);
}

#[test]
fn reading_a_pipe_waits_without_holding_up_others() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut deputy = Fake::start(&[&reader]);
    drop(reader);
    let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 100), libc::O_NONBLOCK, &[]);
    assert_eq!(deputy.operation_answer(id).0, -i64::from(libc::EAGAIN));
    let reading = deputy.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    let stat = deputy.operate(HandleOp::Stat, 1, (0, 0, 0), 0, &[]);
    assert_eq!(deputy.operation_answer(stat).0, 0);
    rustix::io::write(&writer, b"late").unwrap();
    assert_eq!(deputy.operation_answer(reading), (4, b"late".to_vec()));
    drop(writer);
    let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    assert_eq!(deputy.operation_answer(id), (0, vec![]));
}

/// Every byte is given once, whether a cancelled read had it or not.
#[test]
fn cancelled_reads_lose_nothing() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut deputy = Fake::start(&[&reader]);
    let rounds = 3000u32;
    let feeder = std::thread::spawn(move || {
        for round in 0..rounds {
            rustix::io::write(&writer, &round.to_le_bytes()).unwrap();
            for _ in 0..(round % 90) * 20 {
                std::hint::spin_loop();
            }
        }
    });
    let (mut seen, mut interrupted, mut round) = (Vec::new(), 0, 0u32);
    while seen.len() < rounds as usize * 4 {
        let id = deputy.operate(HandleOp::Read, 1, (-1, 0, 4), 0, &[]);
        for _ in 0..(round % 70) * 30 {
            std::hint::spin_loop();
        }
        deputy.cancel(id);
        match deputy.operation_answer(id) {
            (4, data) => seen.extend(data),
            (result, _) => {
                assert_eq!(result, -i64::from(libc::EINTR));
                interrupted += 1;
            }
        }
        round += 1;
    }
    feeder.join().unwrap();
    let wanted: Vec<u8> = (0..rounds).flat_map(u32::to_le_bytes).collect();
    assert_eq!(seen, wanted);
    // Nearly always both happen; if not, this machine is just too even.
    let _ = interrupted;
}

#[test]
fn writing_is_complete_or_interrupted() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut deputy = Fake::start(&[&writer]);
    let big = vec![3u8; 1 << 20];
    let writing = deputy.operate(HandleOp::Write, 1, (-1, 0, 0), 0, &big);
    let drain = std::thread::spawn({
        let reader = reader.try_clone().unwrap();
        move || {
            let mut left = 1 << 20;
            let mut bytes = vec![0; 70_000];
            while left > 0 {
                left -= rustix::io::read(&reader, &mut bytes).unwrap();
            }
        }
    });
    assert_eq!(deputy.operation_answer(writing).0, 1 << 20);
    drain.join().unwrap();
    // Without waiting: as much as there is room for.
    let id = deputy.operate(HandleOp::Write, 1, (-1, 0, 0), libc::O_NONBLOCK, &big);
    let (room, _) = deputy.operation_answer(id);
    assert!(room > 0 && room < 1 << 20);
    let id = deputy.operate(HandleOp::Write, 1, (-1, 0, 0), libc::O_NONBLOCK, b"x");
    assert_eq!(deputy.operation_answer(id).0, -i64::from(libc::EAGAIN));
    // Interrupted before and after the first byte.
    let id = deputy.operate(HandleOp::Write, 1, (-1, 0, 0), 0, &big);
    deputy.cancel(id);
    assert_eq!(deputy.operation_answer(id).0, -i64::from(libc::EINTR));
    let id = deputy.operate(HandleOp::Write, 1, (-1, 0, 0), 0, &big);
    let mut page = [0; 4096];
    rustix::io::read(&reader, &mut page).unwrap();
    eventually("it fills the room again", || {
        let pipe = rustix::io::ioctl_fionread(&reader).unwrap();
        pipe >= room as u64
    });
    deputy.cancel(id);
    assert_eq!(deputy.operation_answer(id).0, 4096);
}

#[test]
fn a_broken_pipe_is_told_without_its_signal() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut deputy = Fake::start(&[&writer]);
    drop(reader);
    for _ in 0..10 {
        let id = deputy.operate(HandleOp::Write, 1, (-1, 0, 0), 0, b"x");
        assert_eq!(deputy.operation_answer(id).0, -i64::from(libc::EPIPE));
    }
}

#[test]
fn readiness_is_told_once() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut deputy = Fake::start(&[&reader]);
    let readable = libc::POLLIN as u64;
    let id = deputy.operate(HandleOp::Poll, 1, (0, readable, 1), 0, &[]);
    assert_eq!(deputy.operation_answer(id).0, 0);
    rustix::io::write(&writer, b"x").unwrap();
    assert!(matches!(
        deputy.message(),
        (_, FromDeputy::Ready { handle: 1, .. })
    ));
    let id = deputy.operate(HandleOp::Poll, 1, (0, readable, 1), 0, &[]);
    assert_eq!(deputy.operation_answer(id).0, i64::from(libc::POLLIN));
    let id = deputy.operate(HandleOp::GetFlags, 1, (0, 0, 0), 0, &[]);
    assert_eq!(deputy.operation_answer(id).0, i64::from(libc::O_RDONLY));
}

#[test]
fn a_fifo_is_opened_at_home() {
    let path = format!("/tmp/afield-fifo-{}", std::process::id());
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let at = rustix::fs::open(
        &path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let mut deputy = Fake::start(&[]);
    let open = |deputy: &mut Fake| {
        let message = ToDeputy::Open {
            handle: 70,
            flags: libc::O_RDONLY as u32,
            offset: -1,
        };
        deputy.tell(&message, Some(&at))
    };
    for _ in 0..200 {
        let id = open(&mut deputy);
        deputy.cancel(id);
        assert_eq!(deputy.operation_answer(id).0, -i64::from(libc::EINTR));
    }
    let id = open(&mut deputy);
    let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    assert_eq!(deputy.operation_answer(id).0, 70);
    writer.write_all(b"hello").unwrap();
    let id = deputy.operate(HandleOp::Read, 70, (-1, 0, 10), 0, &[]);
    assert_eq!(deputy.operation_answer(id), (5, b"hello".to_vec()));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn record_locks_are_the_deputys() {
    let mut ours = file(b"0123456789");
    ours.seek(SeekFrom::Start(0)).unwrap();
    // Another open file of the same inode, which the test keeps as the file service does.
    let mut deputy = Fake::start(&[]);
    let mut other = Fake::start(&[]);
    let request = |kind: i32, descriptor: bool, test: bool, wait: bool| {
        ToDeputy::Lock(LockRequest {
            node: 9,
            access: libc::O_RDWR as u32,
            descriptor,
            test,
            wait,
            record: LockRecord {
                kind: kind as i16,
                start: 2,
                length: 4,
                pid: 0,
            },
        })
    };
    let shared = shared(&ours);
    let answer = |deputy: &mut Fake, id: u64| match deputy.message() {
        (answered, FromDeputy::Locked(result)) if answered == id => result,
        other => panic!("{other:?}"),
    };
    let id = deputy.tell(&request(libc::F_WRLCK, true, false, false), Some(&shared));
    assert!(answer(&mut deputy, id).is_ok());
    let id = other.tell(&request(libc::F_WRLCK, true, true, false), Some(&shared));
    let found = answer(&mut other, id).unwrap();
    assert_eq!((found.pid, found.kind), (deputy.pid as i32, libc::F_WRLCK as i16));
    let id = other.tell(&request(libc::F_RDLCK, false, false, false), None);
    assert_eq!(answer(&mut other, id), Err(libc::EAGAIN));
    // Cancelled while it waits.
    for _ in 0..100 {
        let id = other.tell(&request(libc::F_RDLCK, false, false, true), None);
        other.cancel(id);
        assert_eq!(answer(&mut other, id), Err(libc::EINTR));
    }
    let id = other.tell(&request(libc::F_RDLCK, false, false, true), None);
    // The end of the lock is the closing of the file.
    let unlocked = deputy.tell(&ToDeputy::Unlock { node: 9 }, None);
    assert!(matches!(deputy.message(), (id, FromDeputy::Unlocked) if id == unlocked));
    assert!(answer(&mut other, id).is_ok());
}

#[test]
fn a_background_process_is_stopped_by_its_terminal() {
    use afield_abi::syscalls::nr;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = rustix::fs::open(
        &*name,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let mut leader = Fake::start(&[&terminal]);
    assert!(leader.simple(nr::SETPGID, [0; 6]) == 0);
    let mut shell = leader.fork();
    assert!(shell.simple(nr::SETSID, [0; 6]) > 0);
    let id = shell.operate(HandleOp::Ioctl, 1, (0, libc::TIOCSCTTY, 0), 0, &[]);
    assert_eq!(shell.operation_answer(id).0, 0);
    let mut job = shell.fork();
    assert_eq!(job.simple(nr::SETPGID, [0; 6]), 0);
    // In the background: a signal, and the read ends.
    let id = job.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    assert_eq!(job.signal().0, libc::SIGTTIN);
    assert_eq!(job.operation_answer(id).0, -i64::from(wire::RESTART));
    // Changing the terminal from the background as well.
    let get = job.operate(HandleOp::Ioctl, 1, (0, libc::TCGETS, 36), 0, &[]);
    let (_, settings) = job.operation_answer(get);
    let id = job.operate(HandleOp::Ioctl, 1, (0, libc::TCSETSW, 36), 0, &settings);
    assert_eq!(job.signal().0, libc::SIGTTOU);
    assert_eq!(job.operation_answer(id).0, -i64::from(wire::RESTART));
    // A caller that does not hear of it may; reading is refused.
    let deaf = (wire::deaf::TO_INPUT | wire::deaf::TO_OUTPUT) as i32;
    let id = job.operate(HandleOp::Ioctl, 1, (0, libc::TCSETSW, 36), deaf, &settings);
    assert_eq!(job.operation_answer(id).0, 0);
    let id = job.operate(HandleOp::Read, 1, (-1, 0, 100), deaf, &[]);
    assert_eq!(job.operation_answer(id).0, -i64::from(libc::EIO));
    let group = job.pid.to_le_bytes();
    let id = job.operate(HandleOp::Ioctl, 1, (0, libc::TIOCSPGRP, 4), deaf, &group);
    assert_eq!(job.operation_answer(id).0, 0);
    // In the foreground it reads.
    let id = job.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    rustix::io::write(&master, b"line\n").unwrap();
    assert_eq!(job.operation_answer(id), (5, b"line\n".to_vec()));
    let id = job.operate(HandleOp::Ioctl, 1, (0, libc::TIOCGWINSZ, 8), 0, &[]);
    assert_eq!(job.operation_answer(id), (0, vec![0; 8]));
    let id = job.operate(HandleOp::Ioctl, 1, (0, 0xdead, 8), 0, &[]);
    assert!(matches!(job.message(), (_, FromDeputy::Log(_))));
    assert_eq!(job.operation_answer(id).0, -i64::from(libc::ENOTTY));
    for deputy in [&job, &shell] {
        let _ = process::kill(deputy.pid, libc::SIGKILL);
    }
}
