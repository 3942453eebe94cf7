//! Listing directories.

use std::collections::{BTreeMap, BTreeSet};

use afield_abi::fuse::{
    DirectoryEntry, DirectoryEntryPlus, EntryReply, Opcode, ROOT_NODE, ReadRequest, ReleaseRequest,
    SyncRequest, entry_bytes,
};

use super::{Client, record};

#[derive(Debug, Clone, PartialEq)]
struct Listed {
    name: String,
    entry: EntryReply,
    directory: DirectoryEntry,
}

fn list(client: &Client, handle: u64, offset: u64, size: u32, plus: bool) -> Result<Vec<Listed>, i32> {
    let request = ReadRequest {
        handle,
        offset,
        size,
        ..Default::default()
    };
    let opcode = if plus {
        Opcode::ReadDirectoryPlus
    } else {
        Opcode::ReadDirectory
    };
    let body = client.with(opcode, ROOT_NODE, &request)?;
    assert!(body.len() <= size as usize);
    let mut rest = &body[..];
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (head, entry, directory) = if plus {
            let both: DirectoryEntryPlus = record(rest);
            (size_of::<DirectoryEntryPlus>(), both.entry, both.directory)
        } else {
            (
                size_of::<DirectoryEntry>(),
                EntryReply::default(),
                record::<DirectoryEntry>(rest),
            )
        };
        let length = directory.name_length as usize;
        let name = String::from_utf8(rest[head..head + length].to_vec()).unwrap();
        rest = &rest[entry_bytes(head, length)..];
        all.push(Listed {
            name,
            entry,
            directory,
        });
    }
    Ok(all)
}

fn list_all(client: &Client, handle: u64, size: u32, plus: bool) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    loop {
        let offset = all.last().map_or(0, |last| last.directory.offset);
        let more = list(client, handle, offset, size, plus).unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

fn fill(client: &Client, count: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::from([".".to_owned(), "..".to_owned()]);
    for number in 0..count {
        let name = format!("{number}{}", "x".repeat(number % 200));
        std::fs::write(client.path(&name), "").unwrap();
        names.insert(name);
    }
    names
}

#[test]
fn everything_is_listed_once_in_pieces_of_any_size() {
    let client = Client::new();
    let names = fill(&client, 2000);
    let handle = client.open_directory(ROOT_NODE).unwrap().handle;
    for size in [512, 4096, 65_536, 1 << 20, u32::MAX] {
        for plus in [false, true] {
            let all = list_all(&client, handle, size, plus);
            assert_eq!(all.len(), names.len());
            let listed: BTreeSet<String> = all.into_iter().map(|one| one.name).collect();
            assert_eq!(listed, names);
        }
    }
}

#[test]
fn cookies_lead_back() {
    let client = Client::new();
    fill(&client, 500);
    let handle = client.open_directory(ROOT_NODE).unwrap().handle;
    let all = list_all(&client, handle, 4096, false);
    for at in [498, 3, 250, 0, 499, 251, 100] {
        let next = list(&client, handle, all[at].directory.offset, 512, false).unwrap();
        assert_eq!(
            next.first().map(|one| &one.name),
            all.get(at + 1).map(|one| &one.name)
        );
    }
    // rewinddir sees what has been made since.
    std::fs::write(client.path("new"), "").unwrap();
    assert!(
        list_all(&client, handle, 4096, false)
            .iter()
            .any(|one| one.name == "new")
    );
}

#[test]
fn entries_come_with_their_nodes() {
    let client = Client::new();
    std::fs::create_dir(client.path("directory")).unwrap();
    std::fs::write(client.path("file"), "123").unwrap();
    std::os::unix::fs::symlink("nowhere", client.path("link")).unwrap();
    let handle = client.open_directory(ROOT_NODE).unwrap().handle;
    let all: BTreeMap<String, Listed> = list_all(&client, handle, 65_536, true)
        .into_iter()
        .map(|one| (one.name.clone(), one))
        .collect();
    assert_eq!(all["."].entry.node, 0);
    assert_eq!(all[".."].entry.node, 0);
    for (name, kind) in [
        ("directory", libc::DT_DIR),
        ("file", libc::DT_REG),
        ("link", libc::DT_LNK),
    ] {
        let one = &all[name];
        assert_eq!(one.directory.kind, u32::from(kind));
        assert_eq!(one.entry.attributes.inode, one.directory.inode);
        assert_eq!(client.node(name), one.entry.node);
        // Listed and looked up: two lookups.
        client.forget(one.entry.node, 1);
        client.attributes(one.entry.node).unwrap();
        client.forget(one.entry.node, 1);
        assert_eq!(client.attributes(one.entry.node), Err(libc::ESTALE));
    }
    assert_eq!(client.service.counts().0, 1);
}

#[test]
fn odd_requests_for_listings() {
    let client = Client::new();
    fill(&client, 3);
    let handle = client.open_directory(ROOT_NODE).unwrap().handle;
    assert_eq!(list(&client, handle, 0, 8, false), Err(libc::EINVAL));
    assert_eq!(list(&client, handle, 0, 0, true), Err(libc::EINVAL));
    // Whatever home's file system says to a cookie that it never gave.
    let _ = list(&client, handle, u64::MAX, 4096, false);
    let _ = list(&client, handle, 12345, 4096, true);
    assert_eq!(list_all(&client, handle, 4096, false).len(), 5);
    let sync = SyncRequest {
        handle,
        ..Default::default()
    };
    client.with(Opcode::SyncDirectory, ROOT_NODE, &sync).unwrap();
    let release = ReleaseRequest {
        handle,
        ..Default::default()
    };
    client
        .with(Opcode::ReleaseDirectory, ROOT_NODE, &release)
        .unwrap();
    assert_eq!(list(&client, handle, 0, 4096, false), Err(libc::EBADF));
}

#[test]
fn inode_numbers_of_several_file_systems_differ() {
    let client = Client {
        service: super::FileService::new(std::path::Path::new("/"), None).unwrap(),
        ..Client::new()
    };
    let root = client.attributes(ROOT_NODE).unwrap();
    let proc_root = client.lookup(ROOT_NODE, "proc").unwrap();
    let native = rustix::fs::stat("/").unwrap();
    assert_eq!(root.inode, native.st_ino);
    assert_ne!(proc_root.attributes.inode >> 48, 0);
    let version = client.lookup(proc_root.node, "version").unwrap();
    assert_eq!(version.attributes.inode >> 48, proc_root.attributes.inode >> 48);
}
