//! Nodes and their descriptors: forgetting, eviction, files without names, several threads.

use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;

use afield_abi::fuse::{
    BatchForgetRequest, ForgetOne, Opcode, ROOT_NODE, ReadRequest, SetAttributesRequest, set_flag,
};
use zerocopy::IntoBytes;

use super::{Client, z};

#[test]
fn nodes_go_when_all_lookups_are_forgotten() {
    let client = Client::new();
    std::fs::write(client.path("f"), "").unwrap();
    let node = client.node("f");
    assert_eq!(client.node("f"), node);
    client.forget(node, 1);
    client.attributes(node).unwrap();
    client.forget(node, 1);
    assert_eq!(client.attributes(node), Err(libc::ESTALE));
    let again = client.node("f");
    assert_ne!(again, node, "ids are not used again");
    client.forget(again, u64::MAX);
    assert_eq!(client.attributes(again), Err(libc::ESTALE));
    client.forget(ROOT_NODE, u64::MAX);
    client.attributes(ROOT_NODE).unwrap();
}

#[test]
fn many_are_forgotten_at_once() {
    let client = Client::new();
    let mut ones = Vec::new();
    for number in 0..10 {
        let name = number.to_string();
        std::fs::write(client.path(&name), "").unwrap();
        let one = ForgetOne {
            node: client.node(&name),
            lookups: 1,
        };
        ones.extend_from_slice(one.as_bytes());
    }
    assert_eq!(client.service.counts().0, 11);
    // A count that is too large does no harm.
    let record = BatchForgetRequest {
        count: u32::MAX,
        padding: 0,
    };
    client
        .call(Opcode::BatchForget, ROOT_NODE, &[record.as_bytes(), &ones])
        .unwrap();
    assert_eq!(client.service.counts().0, 1);
}

#[test]
fn listing_costs_no_descriptors() {
    let client = Client::new();
    for number in 0..50 {
        std::fs::write(client.path(&number.to_string()), "").unwrap();
    }
    let handle = client.open_directory(ROOT_NODE).unwrap().handle;
    let request = ReadRequest {
        handle,
        size: 1 << 20,
        ..Default::default()
    };
    client
        .with(Opcode::ReadDirectoryPlus, ROOT_NODE, &request)
        .unwrap();
    let (nodes, _, descriptors) = client.service.counts();
    assert_eq!((nodes, descriptors), (51, 1));
    for number in 0..50 {
        client.attributes(client.node(&number.to_string())).unwrap();
    }
    assert_eq!(client.service.counts().2, 51);
}

#[test]
fn descriptors_are_bounded_and_found_again() {
    let client = Client::with_budget(8);
    let mut directory = ROOT_NODE;
    let mut path = client.home.0.clone();
    let mut nodes = Vec::new();
    for depth in 0..60 {
        let name = format!("d{depth}");
        path.push(&name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("f"), vec![b'x'; depth]).unwrap();
        directory = client.lookup(directory, &name).unwrap().node;
        nodes.push((directory, client.lookup(directory, "f").unwrap().node));
    }
    for (depth, &(directory, file)) in nodes.iter().enumerate().rev() {
        assert_eq!(client.attributes(file).unwrap().size, depth as u64);
        let open = client.open(file, libc::O_RDONLY).unwrap();
        assert_eq!(client.read(file, open.handle, 0, 100).unwrap().len(), depth);
        client.release(file, open.handle);
        assert_eq!(client.lookup(directory, "f").unwrap().node, file);
    }
    let (_, handles, descriptors) = client.service.counts();
    assert_eq!(handles, 0);
    assert!(descriptors <= 80, "{descriptors} descriptors");
    client.lookup(ROOT_NODE, "d0").unwrap();
    for _ in 0..4 {
        client.service.trim();
    }
    assert_eq!(client.service.counts().2, 1);
    for (depth, &(_, file)) in nodes.iter().enumerate() {
        assert_eq!(client.attributes(file).unwrap().size, depth as u64);
    }
}

#[test]
fn what_was_looked_up_is_what_is_opened() {
    let client = Client::new();
    std::fs::write(client.path("f"), "old").unwrap();
    let node = client.node("f");
    std::fs::write(client.path("g"), "new one").unwrap();
    std::fs::rename(client.path("g"), client.path("f")).unwrap();
    let open = client.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(node, open.handle, 0, 10).unwrap(), b"old");
    assert_ne!(client.node("f"), node);
}

#[test]
fn something_else_under_the_name_is_stale() {
    let client = Client::new();
    std::fs::write(client.path("f"), "old").unwrap();
    let node = client.node("f");
    for _ in 0..4 {
        client.service.trim();
    }
    std::fs::write(client.path("g"), "new one").unwrap();
    std::fs::rename(client.path("g"), client.path("f")).unwrap();
    assert_eq!(client.attributes(node), Err(libc::ESTALE));
    assert_eq!(client.open(node, libc::O_RDONLY).unwrap_err(), libc::ESTALE);
    std::fs::remove_file(client.path("f")).unwrap();
    assert_eq!(client.attributes(node), Err(libc::ESTALE));
    std::fs::write(client.path("f"), "").unwrap();
    assert_ne!(client.node("f"), node);
}

#[test]
fn open_files_outlive_their_names() {
    let client = Client::with_budget(1);
    let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    let (node, handle) = (entry.node, open.handle);
    client.write(node, handle, 0, b"data", 0).unwrap();
    client.call(Opcode::Unlink, ROOT_NODE, &[&z("f")]).unwrap();
    for number in 0..20 {
        let (entry, open) = client.create(ROOT_NODE, &number.to_string(), 0o644, 0).unwrap();
        client.release(entry.node, open.handle);
    }
    for _ in 0..4 {
        client.service.trim();
    }
    let attributes = client.attributes(node).unwrap();
    assert_eq!((attributes.links, attributes.size), (0, 4));
    let request = SetAttributesRequest {
        valid: set_flag::SIZE | set_flag::MODE,
        size: 2,
        mode: 0o600,
        ..Default::default()
    };
    client.with(Opcode::SetAttributes, node, &request).unwrap();
    assert_eq!(client.read(node, handle, 0, 10).unwrap(), b"da");
    // Opened once more, as through /proc/self/fd.
    let second = client.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(node, second.handle, 0, 10).unwrap(), b"da");
    client.release(node, handle);
    client.release(node, second.handle);
    client.forget(node, 1);
    assert_eq!(client.attributes(node), Err(libc::ESTALE));
}

#[test]
fn home_moves_an_open_file() {
    let client = Client::new();
    std::fs::write(client.path("f"), "data").unwrap();
    let node = client.node("f");
    let open = client.open(node, libc::O_RDONLY).unwrap();
    std::fs::rename(client.path("f"), client.path("g")).unwrap();
    std::fs::write(client.path("f"), "").unwrap();
    assert_eq!(client.attributes(node).unwrap().size, 4);
    assert_eq!(client.read(node, open.handle, 0, 10).unwrap(), b"data");
    assert_eq!(client.node("g"), node);
    assert_ne!(client.node("f"), node);
}

#[test]
fn threads_share_the_service() {
    let client = Client::with_budget(16);
    for number in 0..8 {
        std::fs::create_dir(client.path(&number.to_string())).unwrap();
    }
    let (client, barrier) = (&client, Barrier::new(8));
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                for round in 0..200u32 {
                    let parent = client.node(&(round % 8).to_string());
                    let name = format!("{thread}-{round}");
                    let umask = if thread % 2 == 0 { 0o022 } else { 0o077 };
                    let (entry, open) = client.create(parent, &name, 0o666, umask).unwrap();
                    assert_eq!(entry.attributes.mode & 0o777, 0o666 & !umask);
                    client
                        .write(entry.node, open.handle, 0, name.as_bytes(), 0)
                        .unwrap();
                    assert_eq!(
                        client.read(entry.node, open.handle, 0, 100).unwrap(),
                        name.as_bytes()
                    );
                    client.release(entry.node, open.handle);
                    assert_eq!(client.lookup(parent, &name).unwrap().node, entry.node);
                    client.call(Opcode::Unlink, parent, &[&z(&name)]).unwrap();
                    client.forget(entry.node, 2);
                    client.forget(parent, 1);
                }
            });
        }
    });
    let (nodes, handles, descriptors) = client.service.counts();
    assert_eq!((nodes, handles, descriptors), (1, 0, 1));
    assert_eq!(std::fs::metadata(client.path("0")).unwrap().nlink(), 2);
}
