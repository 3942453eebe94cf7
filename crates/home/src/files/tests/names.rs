//! Finding, making, moving and removing names.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use afield_abi::fuse::{
    EntryReply, LinkRequest, MakeDirectoryRequest, MakeNodeRequest, Opcode, ROOT_NODE, Rename2Request,
    RenameRequest,
};
use zerocopy::IntoBytes;

use super::{Client, z};

fn make_directory(client: &Client, parent: u64, name: &str) -> Result<EntryReply, i32> {
    let record = MakeDirectoryRequest {
        mode: 0o777,
        umask: 0o027,
    };
    client.ask(Opcode::MakeDirectory, parent, &[record.as_bytes(), &z(name)])
}

fn rename(client: &Client, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<Vec<u8>, i32> {
    let record = Rename2Request {
        new_directory: to.0,
        flags,
        padding: 0,
    };
    client.call(
        Opcode::Rename2,
        from.0,
        &[record.as_bytes(), &z(from.1), &z(to.1)],
    )
}

#[test]
fn lookups_tell_what_is_there() {
    let client = Client::new();
    std::fs::write(client.path("file"), "12345").unwrap();
    let entry = client.lookup(ROOT_NODE, "file").unwrap();
    let metadata = std::fs::metadata(client.path("file")).unwrap();
    assert!(entry.node > ROOT_NODE);
    assert_eq!(entry.attributes.inode, metadata.ino());
    assert_eq!(entry.attributes.size, 5);
    assert_eq!(entry.attributes.mode, metadata.mode());
    assert_eq!(entry.attributes.mtime, metadata.mtime() as u64);
    assert_eq!(entry.attributes.mtime_nanoseconds, metadata.mtime_nsec() as u32);
    assert_eq!(client.lookup(ROOT_NODE, "file").unwrap().node, entry.node);
    assert_eq!(client.lookup(ROOT_NODE, "none").unwrap_err(), libc::ENOENT);
    assert_eq!(client.lookup(entry.node, "below").unwrap_err(), libc::ENOTDIR);
    assert_eq!(
        client.lookup(ROOT_NODE, &"n".repeat(256)).unwrap_err(),
        libc::ENAMETOOLONG
    );
    assert_eq!(
        client.lookup(ROOT_NODE, &"n".repeat(5000)).unwrap_err(),
        libc::ENAMETOOLONG
    );
}

#[test]
fn dots_stay_inside() {
    let client = Client::new();
    let directory = make_directory(&client, ROOT_NODE, "d").unwrap().node;
    let below = make_directory(&client, directory, "e").unwrap().node;
    assert_eq!(client.lookup(ROOT_NODE, "..").unwrap().node, ROOT_NODE);
    assert_eq!(client.lookup(ROOT_NODE, ".").unwrap().node, ROOT_NODE);
    assert_eq!(client.lookup(directory, ".").unwrap().node, directory);
    assert_eq!(client.lookup(directory, "..").unwrap().node, ROOT_NODE);
    assert_eq!(client.lookup(below, "..").unwrap().node, directory);
    for name in ["", "a/b", "/", "../x"] {
        assert_eq!(client.lookup(directory, name).unwrap_err(), libc::EINVAL);
    }
    for name in [".", ".."] {
        assert_eq!(
            make_directory(&client, directory, name).unwrap_err(),
            libc::EINVAL
        );
        assert_eq!(
            client.call(Opcode::RemoveDirectory, directory, &[&z(name)]),
            Err(libc::EINVAL)
        );
    }
}

#[test]
fn hard_links_share_a_node() {
    let client = Client::new();
    let (entry, open) = client.create(ROOT_NODE, "one", 0o644, 0).unwrap();
    client.release(entry.node, open.handle);
    let record = LinkRequest { old_node: entry.node };
    let second: EntryReply = client
        .ask(Opcode::Link, ROOT_NODE, &[record.as_bytes(), &z("two")])
        .unwrap();
    assert_eq!(second.node, entry.node);
    assert_eq!(second.attributes.links, 2);
    assert_eq!(client.node("one"), client.node("two"));
    assert_eq!(
        client.call(Opcode::Link, ROOT_NODE, &[record.as_bytes(), &z("two")]),
        Err(libc::EEXIST)
    );
}

#[test]
fn a_symbolic_link_can_be_linked_and_read() {
    let client = Client::new();
    let target = "t".repeat(4095);
    let entry: EntryReply = client
        .ask(Opcode::SymbolicLink, ROOT_NODE, &[&z("link"), &z(&target)])
        .unwrap();
    assert_eq!(entry.attributes.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(
        client.call(Opcode::ReadLink, entry.node, &[]).unwrap(),
        target.as_bytes()
    );
    let record = LinkRequest { old_node: entry.node };
    let other: EntryReply = client
        .ask(Opcode::Link, ROOT_NODE, &[record.as_bytes(), &z("other")])
        .unwrap();
    assert_eq!(other.node, entry.node);
    std::fs::write(client.path("file"), "").unwrap();
    assert_eq!(
        client.call(Opcode::ReadLink, client.node("file"), &[]),
        Err(libc::EINVAL)
    );
    assert_eq!(client.open(entry.node, libc::O_RDONLY).unwrap_err(), libc::ELOOP);
}

#[test]
fn nodes_of_every_type_are_made() {
    let client = Client::new();
    for (name, kind) in [
        ("fifo", libc::S_IFIFO),
        ("socket", libc::S_IFSOCK),
        ("file", libc::S_IFREG),
    ] {
        let record = MakeNodeRequest {
            mode: kind | 0o666,
            device: 0,
            umask: 0o022,
            padding: 0,
        };
        let entry: EntryReply = client
            .ask(Opcode::MakeNode, ROOT_NODE, &[record.as_bytes(), &z(name)])
            .unwrap();
        assert_eq!(entry.attributes.mode, kind | 0o644);
        let open = client.open(entry.node, libc::O_RDWR);
        if kind == libc::S_IFREG {
            open.unwrap();
        } else {
            assert_eq!(open.unwrap_err(), libc::ENXIO);
            client.service.path_descriptor(entry.node).unwrap();
        }
    }
}

#[test]
fn the_umask_is_the_callers() {
    let client = Client::new();
    let (first, _) = client.create(ROOT_NODE, "a", 0o666, 0o077).unwrap();
    let (second, _) = client.create(ROOT_NODE, "b", 0o6777, 0).unwrap();
    assert_eq!(first.attributes.mode & 0o7777, 0o600);
    assert_eq!(second.attributes.mode & 0o7777, 0o6777);
    let entry = make_directory(&client, ROOT_NODE, "d").unwrap();
    assert_eq!(entry.attributes.mode & 0o7777, 0o750);
}

#[test]
fn renames_keep_the_node_and_its_reach() {
    let client = Client::new();
    let directory = make_directory(&client, ROOT_NODE, "d").unwrap().node;
    std::fs::write(client.path("a"), "A").unwrap();
    std::fs::write(client.path("b"), "B").unwrap();
    let (a, b) = (client.node("a"), client.node("b"));
    rename(&client, (ROOT_NODE, "a"), (directory, "c"), 0).unwrap();
    assert_eq!(client.attributes(a).unwrap().size, 1);
    assert_eq!(client.lookup(directory, "c").unwrap().node, a);
    assert_eq!(
        rename(
            &client,
            (directory, "c"),
            (ROOT_NODE, "b"),
            libc::RENAME_NOREPLACE
        ),
        Err(libc::EEXIST)
    );
    rename(&client, (directory, "c"), (ROOT_NODE, "b"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(client.lookup(directory, "c").unwrap().node, b);
    assert_eq!(client.node("b"), a);
    assert_eq!(
        rename(&client, (ROOT_NODE, "b"), (ROOT_NODE, "x"), libc::RENAME_WHITEOUT),
        Err(libc::EINVAL)
    );
    let record = RenameRequest {
        new_directory: directory,
    };
    let parts: [&[u8]; 3] = [record.as_bytes(), &z("b"), &z("c")];
    client.call(Opcode::Rename, ROOT_NODE, &parts).unwrap();
    // The replaced file has no name left but is still known.
    assert_eq!(client.attributes(b).unwrap().links, 0);
    assert_eq!(client.attributes(a).unwrap().links, 1);
}

#[test]
fn removing_follows_the_kernels_rules() {
    let client = Client::new();
    let directory = make_directory(&client, ROOT_NODE, "d").unwrap().node;
    std::fs::write(client.path("d/f"), "").unwrap();
    assert_eq!(
        client.call(Opcode::RemoveDirectory, ROOT_NODE, &[&z("d")]),
        Err(libc::ENOTEMPTY)
    );
    assert_eq!(
        client.call(Opcode::Unlink, ROOT_NODE, &[&z("d")]),
        Err(libc::EISDIR)
    );
    assert_eq!(
        client.call(Opcode::RemoveDirectory, directory, &[&z("f")]),
        Err(libc::ENOTDIR)
    );
    client.call(Opcode::Unlink, directory, &[&z("f")]).unwrap();
    client
        .call(Opcode::RemoveDirectory, ROOT_NODE, &[&z("d")])
        .unwrap();
    assert_eq!(
        client.call(Opcode::Unlink, ROOT_NODE, &[&z("d")]),
        Err(libc::ENOENT)
    );
    // It may be somebody's working directory.
    assert_eq!(client.attributes(directory).unwrap().links, 0);
    assert_eq!(client.lookup(directory, "f").unwrap_err(), libc::ENOENT);
}

#[test]
fn creating_over_what_is_there_opens_it() {
    let client = Client::new();
    std::fs::write(client.path("f"), "kept").unwrap();
    let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    assert_eq!(client.read(entry.node, open.handle, 0, 10).unwrap(), b"kept");
    assert_eq!(client.node("f"), entry.node);
    // A link is for the node's kernel to follow, on which it comes back.
    std::os::unix::fs::symlink("elsewhere", client.path("l")).unwrap();
    assert_eq!(client.create(ROOT_NODE, "l", 0o644, 0).unwrap_err(), libc::ESTALE);
    assert!(!client.path("elsewhere").exists());
    std::fs::create_dir(client.path("d")).unwrap();
    assert_eq!(client.create(ROOT_NODE, "d", 0o644, 0).unwrap_err(), libc::EISDIR);
}

#[test]
fn root_serves_others_with_their_own_rights() {
    let mut client = Client::new();
    if client.uid != 0 {
        return;
    }
    std::fs::write(client.path("secret"), "x").unwrap();
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&client.home.0, open_to_all).unwrap();
    let only_root = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(client.path("secret"), only_root).unwrap();
    (client.uid, client.gid) = (4321, 8765);
    let node = client.node("secret");
    assert_eq!(client.open(node, libc::O_RDONLY).unwrap_err(), libc::EACCES);
    assert_eq!(
        client.create(ROOT_NODE, "mine", 0o644, 0).unwrap_err(),
        libc::EACCES
    );
    std::fs::set_permissions(&client.home.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (entry, _) = client.create(ROOT_NODE, "mine", 0o644, 0).unwrap();
    assert_eq!((entry.attributes.uid, entry.attributes.gid), (4321, 8765));
    (client.uid, client.gid) = (0, 0);
    let (entry, _) = client.create(ROOT_NODE, "roots", 0o644, 0).unwrap();
    assert_eq!((entry.attributes.uid, entry.attributes.gid), (0, 0));
    client.open(node, libc::O_RDONLY).unwrap();
}

/// Who has made something is not told that it is not there because somebody else has removed it since.
#[test]
fn what_is_removed_at_once_was_made() {
    let client = Client::new();
    let path = client.path("flag");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_dir(&path);
            }
        });
        let directory = MakeDirectoryRequest {
            mode: 0o755,
            umask: 0,
        };
        let made: Vec<_> = (0..4000)
            .map(|turn| match turn % 2 {
                0 => client.ask::<EntryReply>(Opcode::SymbolicLink, ROOT_NODE, &[&z("flag"), &z("x")]),
                _ => client.ask(
                    Opcode::MakeDirectory,
                    ROOT_NODE,
                    &[directory.as_bytes(), &z("flag")],
                ),
            })
            .collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for (turn, result) in made.into_iter().enumerate() {
            let kind = if turn % 2 == 0 {
                libc::S_IFLNK
            } else {
                libc::S_IFDIR
            };
            match result {
                Ok(entry) => assert_eq!(entry.attributes.mode & libc::S_IFMT, kind),
                Err(errno) => assert_eq!(errno, libc::EEXIST, "{turn}"),
            }
        }
    });
}
