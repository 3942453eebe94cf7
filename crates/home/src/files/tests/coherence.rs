//! What the service says is valid, and what follows it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use afield_abi::fuse::{
    AttributesReply, DirectoryEntry, DirectoryEntryPlus, EntryReply, GetAttributesRequest, Opcode, OpenReply,
    ROOT_NODE, ReadRequest, ReleaseRequest, SetAttributesRequest, entry_bytes, open_reply_flag, release_flag,
    set_flag,
};
use afield_link::invalidation::{Change, FOREVER_SECONDS, decode};
use zerocopy::IntoBytes;

use super::super::FileService;
use super::{Client, encode, record, z};
use crate::beside;
use crate::coherence::Coherence;

const KEEP: u32 = open_reply_flag::KEEP_CACHE;

/// A client that may keep what it is told.
pub fn keeping() -> Client {
    let mut client = Client::new();
    let coherence = Coherence::start().expect("fanotify");
    client.service = FileService::with_budget(&client.home.0, 10_000, Some(&coherence)).unwrap();
    client
}

/// Two nodes' clients of the same agent, on the same files: the first one's directory, with `inner` in it.
fn pair() -> (Client, Client) {
    let (mut one, mut other) = (Client::new(), Client::new());
    fs::create_dir(one.path("inner")).unwrap();
    let root = one.path("");
    let coherence = Coherence::start().expect("fanotify");
    for client in [&mut one, &mut other] {
        client.service = FileService::with_budget(&root, 10_000, Some(&coherence)).unwrap();
    }
    (one, other)
}

/// What goes ahead of the next message, as text.
pub fn told(client: &Client) -> Vec<String> {
    let mut news = afield_link::ahead::News::default();
    client.service.coherence().unwrap().ahead().ahead(None, &mut news);
    text(&news.changes)
}

fn text(payload: &[u8]) -> Vec<String> {
    let one = |change: Change<'_>| match change {
        Change::Everything => "everything".to_owned(),
        Change::Name { directory, name } => format!("{directory}/{}", String::from_utf8_lossy(name)),
        Change::Attributes { node } => format!("{node} attributes"),
        Change::Contents { node } => format!("{node} contents"),
    };
    decode(payload).unwrap().into_iter().map(one).collect()
}

fn foreign(client: &Client, script: &str) {
    let status = beside::run(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(&client.home.0),
    )
    .unwrap();
    assert!(status.success(), "{script}");
}

fn attributes(client: &Client, node: u64) -> AttributesReply {
    client
        .ask(
            Opcode::GetAttributes,
            node,
            &[GetAttributesRequest::default().as_bytes()],
        )
        .unwrap()
}

#[test]
fn what_is_watched_is_valid_until_further_notice() {
    let client = keeping();
    beside::write(&client.path("file"), "text");
    fs::create_dir(client.path("d")).unwrap();
    symlink("x", client.path("link")).unwrap();
    for name in ["file", "d", "link"] {
        for _ in 0..2 {
            let entry = client.lookup(ROOT_NODE, name).unwrap();
            assert_eq!(
                (entry.entry_valid, entry.attributes_valid),
                (FOREVER_SECONDS, FOREVER_SECONDS),
                "{name}"
            );
        }
        assert_eq!(attributes(&client, client.node(name)).valid, FOREVER_SECONDS);
    }
    let nothing = client.lookup(ROOT_NODE, "nothing").unwrap();
    assert_eq!((nothing.node, nothing.entry_valid), (0, FOREVER_SECONDS));
    assert_eq!(told(&client), [""; 0]);
    foreign(&client, "echo > nothing");
    assert_eq!(told(&client), ["1/nothing"]);
    assert_eq!(
        client
            .open(client.node("file"), libc::O_RDONLY)
            .unwrap()
            .open_flags
            & KEEP,
        KEEP
    );
    assert_eq!(client.open_directory(client.node("d")).unwrap().open_flags, KEEP);
    // Opening is no event for others that matters.
    assert_eq!(told(&client), [""; 0]);
    // What each call finds out anew.
    foreign(&client, "mkfifo pipe");
    let entry = client.lookup(ROOT_NODE, "pipe").unwrap();
    assert_eq!((entry.entry_valid, entry.attributes_valid), (0, 0));
}

/// Lets an open file rest.
fn rest(client: &Client, node: u64, handle: u64) -> Result<(), i32> {
    let record = ReleaseRequest {
        handle,
        release_flags: release_flag::REST,
        ..ReleaseRequest::default()
    };
    client
        .call(Opcode::Release, node, &[record.as_bytes()])
        .map(|_| ())
}

/// Whether this process has a file open, other than to reach it.
fn is_open(path: &std::path::Path) -> bool {
    fs::read_dir("/proc/self/fd").unwrap().flatten().any(|entry| {
        let information = std::path::Path::new("/proc/self/fdinfo").join(entry.file_name());
        let opened = fs::read_to_string(information).unwrap_or_default();
        let flags = opened.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        fs::read_link(entry.path()).is_ok_and(|link| link == path)
            && flags.is_some_and(|flags| flags & libc::O_PATH == 0)
    })
}

#[test]
fn what_rests_is_closed_and_can_be_used() {
    let client = keeping();
    beside::write(&client.path("file"), "text");
    fs::create_dir(client.path("d")).unwrap();
    let node = client.node("file");
    let open = client.open(node, libc::O_RDONLY).unwrap();
    assert!(is_open(&client.path("file")));
    let may_rest = ["/", "/tmp", "/var"].iter().any(|point| {
        let mount = |path: &std::path::Path| {
            let path = fs::File::open(path).unwrap();
            super::super::nodes::stat_descriptor(path).unwrap().stx_mnt_id
        };
        mount(point.as_ref()) == mount(&client.home.0)
    });
    if !may_rest {
        assert_eq!(rest(&client, node, open.handle), Err(libc::EBUSY));
        return;
    }
    assert_eq!(rest(&client, node, open.handle), Ok(()));
    assert!(!is_open(&client.path("file")));
    assert_eq!(rest(&client, node, open.handle), Ok(()));
    // Whatever becomes of its name.
    beside::write(&client.path("other"), "other");
    fs::rename(client.path("other"), client.path("file")).unwrap();
    assert_eq!(client.read(node, open.handle, 0, 10).unwrap(), b"text");
    assert_eq!(rest(&client, node, open.handle), Ok(()));
    client.release(node, open.handle);
    assert_eq!(client.read(node, open.handle, 0, 10), Err(libc::EBADF));
    assert_eq!(rest(&client, node, open.handle), Err(libc::EBADF));
    let directory = client.node("d");
    let listing = client.open_directory(directory).unwrap();
    assert_eq!(rest(&client, directory, listing.handle), Ok(()));
    assert!(!is_open(&client.path("d")));
    let request = ReadRequest {
        handle: listing.handle,
        size: 4096,
        ..Default::default()
    };
    assert!(client.with(Opcode::ReadDirectory, directory, &request).is_ok());
    // What is in use, or locked, does not.
    let node = client.node("file");
    let open = client.open(node, libc::O_RDONLY).unwrap();
    let user = client.service.open_file(open.handle, node).unwrap();
    assert_eq!(rest(&client, node, open.handle), Err(libc::EBUSY));
    drop(user);
    assert_eq!(rest(&client, node, open.handle), Ok(()));
    let user = client.service.open_file(open.handle, node).unwrap();
    user.locks.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(user);
    assert_eq!(rest(&client, node, open.handle), Err(libc::EBUSY));
    // What is written to does not.
    let node = client.node("file");
    let open = client.open(node, libc::O_RDWR).unwrap();
    assert_eq!(rest(&client, node, open.handle), Err(libc::EBUSY));
    assert_eq!(client.read(node, open.handle, 0, 10).unwrap(), b"other");
}

#[test]
fn without_a_registry_nothing_is_valid() {
    let client = Client::new();
    beside::write(&client.path("file"), "text");
    let entry = client.lookup(ROOT_NODE, "file").unwrap();
    assert_eq!((entry.entry_valid, entry.attributes_valid), (0, 0));
    assert_eq!(client.lookup(ROOT_NODE, "nothing"), Err(libc::ENOENT));
    assert_eq!(
        client.open(entry.node, libc::O_RDONLY).unwrap().open_flags & KEEP,
        0
    );
    assert!(client.service.begin().is_none());
}

#[test]
fn files_without_events_are_not_valid() {
    let mut client = keeping();
    let coherence = Coherence::start().unwrap();
    client.service = FileService::with_budget(std::path::Path::new("/proc"), 1000, Some(&coherence)).unwrap();
    let entry = client.lookup(ROOT_NODE, "version").unwrap();
    assert_eq!((entry.entry_valid, entry.attributes_valid), (0, 0));
    assert_eq!(client.lookup(ROOT_NODE, "nothing"), Err(libc::ENOENT));
    assert_eq!(
        client.open(entry.node, libc::O_RDONLY).unwrap().open_flags & KEEP,
        0
    );
}

#[test]
fn what_is_listed_is_watched() {
    let client = keeping();
    beside::write(&client.path("one"), "1");
    beside::write(&client.path("two"), "22");
    let opened = client.open_directory(ROOT_NODE).unwrap();
    let request = ReadRequest {
        handle: opened.handle,
        size: 65536,
        ..Default::default()
    };
    let body = client
        .with(Opcode::ReadDirectoryPlus, ROOT_NODE, &request)
        .unwrap();
    let head = size_of::<DirectoryEntryPlus>();
    let mut rest = &body[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let entry: EntryReply = record(rest);
        let listed: DirectoryEntry = record(&rest[size_of::<EntryReply>()..]);
        let name = &rest[head..][..listed.name_length as usize];
        if entry.node != 0 {
            assert_eq!(
                (entry.entry_valid, entry.attributes_valid),
                (FOREVER_SECONDS, FOREVER_SECONDS)
            );
            found.push((String::from_utf8(name.to_vec()).unwrap(), entry.node));
        }
        rest = &rest[entry_bytes(head, name.len())..];
    }
    found.sort();
    assert_eq!(found.len(), 2);
    foreign(&client, "echo 333 > two; rm one");
    let told = told(&client);
    assert!(told.contains(&format!("{} contents", found[1].1)), "{told:?}");
    assert!(told.contains(&"1/one".to_owned()), "{told:?}");
}

#[test]
fn a_client_knows_of_its_own_changes_and_others_are_told() {
    let (one, other) = pair();
    let [root, other_root] = [&one, &other].map(|client| client.lookup(ROOT_NODE, "inner").unwrap().node);
    let (entry, open) = one.create(root, "file", 0o644, 0).unwrap();
    assert_eq!(
        (entry.entry_valid, entry.attributes_valid, open.open_flags & KEEP),
        (FOREVER_SECONDS, FOREVER_SECONDS, KEEP)
    );
    assert_eq!(told(&one), [""; 0]);
    assert_eq!(told(&other), [format!("{other_root}/file")]);
    let seen = other.lookup(other_root, "file").unwrap();
    // The one who writes is the other's stranger.
    one.write(entry.node, open.handle, 0, b"text", libc::O_RDWR)
        .unwrap();
    assert_eq!(told(&other), [format!("{} contents", seen.node)]);
    assert_eq!(told(&one), [""; 0]);
    let mode = SetAttributesRequest {
        valid: set_flag::MODE,
        mode: 0o600,
        ..Default::default()
    };
    one.with(Opcode::SetAttributes, entry.node, &mode).unwrap();
    assert_eq!(told(&other), [format!("{} attributes", seen.node)]);
    one.call(Opcode::Unlink, root, &[&z("file")]).unwrap();
    let told_other = told(&other);
    assert!(
        told_other.contains(&format!("{other_root}/file")),
        "{told_other:?}"
    );
    assert!(
        told_other.contains(&format!("{} attributes", seen.node)),
        "{told_other:?}"
    );
    assert_eq!(told(&one), [""; 0]);
    one.release(entry.node, open.handle);
    assert_eq!(told(&one), [""; 0]);
}

#[test]
fn an_answer_that_was_overtaken_is_followed_by_what_overtook_it() {
    let client = keeping();
    beside::write(&client.path("file"), "text");
    let node = client.node("file");
    let request = encode(
        Opcode::GetAttributes as u32,
        node,
        (client.uid, client.gid),
        &[GetAttributesRequest::default().as_bytes()],
    );
    let promise = client.service.begin();
    client.service.handle(&request, &mut Vec::new());
    let promise = client.service.promised(&request, promise);
    foreign(&client, "chmod 600 file");
    assert_eq!(told(&client), [format!("{node} attributes")]);
    let mut payload = Vec::new();
    client.service.behind(promise, &mut payload);
    assert_eq!(text(&payload), [format!("{node} attributes")]);
    let mut payload = Vec::new();
    client.service.behind(client.service.begin(), &mut payload);
    assert!(payload.is_empty());
}

#[test]
fn what_is_read_of_a_file_that_others_can_store_into_is_not_kept_for_long() {
    let client = keeping();
    beside::write(&client.path("file"), "text");
    let node = client.node("file");
    let open: OpenReply = client.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(open.open_flags & KEEP, KEEP);
    let script = "import mmap,os\nf=os.open('file',os.O_RDWR)\nm=mmap.mmap(f,4)\nos.close(f)\nprint(flush=True)\nimport sys\nsys.stdin.read()\n";
    let mut storer = beside::start(
        Command::new("python3")
            .args(["-c", script])
            .current_dir(&client.home.0)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped()),
    )
    .unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(storer.stdout.as_mut().unwrap(), &mut byte).unwrap();
    assert_eq!(told(&client), [format!("{node} contents")]);
    assert_eq!(attributes(&client, node).valid, 0);
    let again = client.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(again.open_flags & KEEP, 0);
    let read = |handle| {
        let record = ReadRequest {
            handle,
            size: 4,
            ..Default::default()
        };
        let request = encode(
            Opcode::Read as u32,
            node,
            (client.uid, client.gid),
            &[record.as_bytes()],
        );
        let promise = client.service.begin();
        client.service.handle(&request, &mut Vec::new());
        let promise = client.service.promised(&request, promise);
        client.service.behind(promise, &mut Vec::new());
    };
    read(again.handle);
    assert_eq!(told(&client), [""; 0]);
    read(open.handle);
    assert_eq!(told(&client), [format!("{node} contents")]);
    assert_eq!(told(&client), [""; 0]);
    drop(storer.stdin.take());
    storer.wait().unwrap();
    assert_eq!(told(&client), [format!("{node} contents")]);
    assert_eq!(attributes(&client, node).valid, FOREVER_SECONDS);
    read(open.handle);
    assert_eq!(told(&client), [""; 0]);
}

#[test]
fn what_is_forgotten_is_not_watched() {
    let client = keeping();
    for name in ["a", "b"] {
        beside::write(&client.path(name), "");
    }
    let (a, b) = (client.node("a"), client.node("b"));
    client.forget(a, 1);
    foreign(&client, "echo > a; echo > b");
    assert_eq!(told(&client), [format!("{b} contents")]);
    // Found again, it is watched again.
    let a = client.node("a");
    foreign(&client, "echo > a");
    assert_eq!(told(&client), [format!("{a} contents")]);
}

#[test]
fn names_in_a_directory_that_not_all_may_search_are_the_callers_own() {
    let client = keeping();
    fs::create_dir(client.path("d")).unwrap();
    beside::write(&client.path("d/file"), "");
    fs::set_permissions(client.path("d"), fs::Permissions::from_mode(0o700)).unwrap();
    let d = client.node("d");
    // As long as all guests are the service's own user.
    assert_eq!(client.lookup(d, "file").unwrap().entry_valid, FOREVER_SECONDS);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    client.service.coherence().unwrap().mix();
    assert_eq!(told(&client), ["everything"]);
    let entry = client.lookup(d, "file").unwrap();
    assert_eq!((entry.entry_valid, entry.attributes_valid), (0, FOREVER_SECONDS));
    assert_eq!(client.lookup(d, "nothing"), Err(libc::ENOENT));
    fs::set_permissions(client.path("d"), fs::Permissions::from_mode(0o711)).unwrap();
    told(&client);
    assert_eq!(client.lookup(d, "file").unwrap().entry_valid, FOREVER_SECONDS);
}
