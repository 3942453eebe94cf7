//! What the service says that changes have left.

use std::io::Read;
use std::process::{Command, Stdio};

use afield_abi::fuse::{
    CreateRequest, EntryReply, FlushRequest, LinkRequest, MakeDirectoryRequest, Opcode, OpenReply,
    OpenRequest, ROOT_NODE, Rename2Request, RenameRequest,
};
use afield_link::aftermath::{After, NAMES, PLAIN};
use zerocopy::IntoBytes;

use super::coherence::{keeping, told};
use super::{Client, record, z};
use crate::beside;

/// What a change has left, by node: its flags and size. Attributes are the same as those that are asked for.
fn left(client: &Client, opcode: Opcode, node: u64, parts: &[&[u8]]) -> Vec<(u64, u32)> {
    let (_, result, after) = client.change(opcode, node, parts);
    result.unwrap();
    said(client, &after)
}

fn said(client: &Client, after: &[After]) -> Vec<(u64, u32)> {
    let one = |after: &After| {
        assert_eq!(Ok(after.attributes), client.attributes(after.node));
        (after.node, after.flags)
    };
    after.iter().map(one).collect()
}

fn open_to_write(client: &Client, node: u64, flags: i32) -> (OpenReply, Vec<After>) {
    let open = OpenRequest {
        flags: flags as u32,
        open_flags: 0,
    };
    let (_, result, after) = client.change(Opcode::Open, node, &[open.as_bytes()]);
    (record(&result.unwrap()), after)
}

fn flush(handle: u64) -> FlushRequest {
    FlushRequest {
        handle,
        ..FlushRequest::default()
    }
}

#[test]
fn files_that_are_made_written_and_closed() {
    let client = keeping();
    let create = CreateRequest {
        flags: libc::O_RDWR as u32,
        mode: 0o644 | libc::S_IFREG,
        ..CreateRequest::default()
    };
    let (_, result, after) = client.change(Opcode::Create, ROOT_NODE, &[create.as_bytes(), &z("file")]);
    let body = result.unwrap();
    let (entry, open): (EntryReply, OpenReply) = (record(&body), record(&body[size_of::<EntryReply>()..]));
    assert_eq!(said(&client, &after), [(ROOT_NODE, NAMES), (entry.node, PLAIN)]);
    client
        .write(entry.node, open.handle, 0, b"text", libc::O_RDWR)
        .unwrap();
    let (_, result, after) = client.change(Opcode::Flush, entry.node, &[flush(open.handle).as_bytes()]);
    result.unwrap();
    assert_eq!(said(&client, &after), [(entry.node, 0)]);
    assert_eq!(after[0].attributes.size, 4);
    client.release(entry.node, open.handle);

    let (open, after) = open_to_write(&client, entry.node, libc::O_WRONLY | libc::O_TRUNC);
    assert_eq!(said(&client, &after), [(entry.node, PLAIN)]);
    client.release(entry.node, open.handle);
    // Nothing is left by who reads.
    let (open, after) = open_to_write(&client, entry.node, libc::O_RDONLY);
    assert_eq!(after, []);
    assert_eq!(
        left(
            &client,
            Opcode::Flush,
            entry.node,
            &[flush(open.handle).as_bytes()]
        ),
        []
    );
    client.release(entry.node, open.handle);
}

#[test]
fn names_that_are_made_moved_and_removed() {
    let client = keeping();
    let directory = MakeDirectoryRequest {
        mode: 0o755,
        umask: 0,
    };
    for name in ["a", "b"] {
        let made = left(
            &client,
            Opcode::MakeDirectory,
            ROOT_NODE,
            &[directory.as_bytes(), &z(name)],
        );
        assert_eq!(made, [(ROOT_NODE, NAMES)]);
    }
    let (a, b) = (client.node("a"), client.node("b"));
    beside::write(&client.path("a/file"), "x");
    let file = client.lookup(a, "file").unwrap().node;
    let to = |new_directory| RenameRequest { new_directory };
    let moved = left(
        &client,
        Opcode::Rename,
        a,
        &[to(b).as_bytes(), &z("file"), &z("other")],
    );
    assert_eq!(moved, [(a, NAMES), (b, NAMES), (file, 0)]);
    let moved = left(
        &client,
        Opcode::Rename,
        b,
        &[to(b).as_bytes(), &z("other"), &z("file")],
    );
    assert_eq!(moved, [(b, NAMES), (file, 0)]);
    let link = LinkRequest { old_node: file };
    let linked = left(&client, Opcode::Link, b, &[link.as_bytes(), &z("same")]);
    assert_eq!(linked, [(b, NAMES), (file, 0)]);
    // The kernel does nothing where both are the same file's, and says that it has: the old name is still there.
    let moved = left(
        &client,
        Opcode::Rename,
        b,
        &[to(b).as_bytes(), &z("same"), &z("file")],
    );
    assert_eq!(moved, [(b, 0), (file, 0)]);
    let exchange = Rename2Request {
        new_directory: b,
        flags: libc::RENAME_EXCHANGE,
        ..Rename2Request::default()
    };
    let exchanged = left(
        &client,
        Opcode::Rename2,
        b,
        &[exchange.as_bytes(), &z("same"), &z("file")],
    );
    assert_eq!(exchanged, [(b, 0), (file, 0)]);
    assert_eq!(left(&client, Opcode::Unlink, b, &[&z("same")]), [(b, NAMES)]);
    let (_, result, after) = client.change(Opcode::Unlink, b, &[&z("same")]);
    assert_eq!((result, after), (Err(libc::ENOENT), Vec::new()));
}

#[test]
fn nothing_is_said_that_does_not_hold() {
    // Nobody watches.
    let client = Client::new();
    beside::write(&client.path("file"), "x");
    assert_eq!(left(&client, Opcode::Unlink, ROOT_NODE, &[&z("file")]), []);
    // Somebody else can store into the file.
    let client = keeping();
    beside::write(&client.path("file"), "x");
    let node = client.node("file");
    let mut other = beside::start(
        Command::new("sh")
            .args(["-c", "exec 3>> file; echo; read line"])
            .current_dir(client.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    )
    .unwrap();
    other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    // The service has heard of it.
    told(&client);
    let (open, after) = open_to_write(&client, node, libc::O_RDWR);
    assert_eq!(after, []);
    assert_eq!(
        left(&client, Opcode::Flush, node, &[flush(open.handle).as_bytes()]),
        []
    );
    drop(other.stdin.take());
    other.wait().unwrap();
}
