//! Attributes, permission, figures, extended attributes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use afield_abi::fuse::{
    AccessRequest, Attributes, AttributesReply, FileSystemReply, GET_HANDLE, GetAttributesRequest,
    GetExtendedReply, GetExtendedRequest, Opcode, ROOT_NODE, SetAttributesRequest, SetExtendedRequest,
    StatxReply, StatxRequest, set_flag,
};
use zerocopy::IntoBytes;

use super::{Client, record, z};

fn set(client: &Client, node: u64, request: SetAttributesRequest) -> Result<Attributes, i32> {
    let reply: AttributesReply = record(&client.with(Opcode::SetAttributes, node, &request)?);
    Ok(reply.attributes)
}

#[test]
fn attributes_are_set() {
    let client = Client::new();
    let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    let node = entry.node;
    let request = SetAttributesRequest {
        valid: set_flag::MODE
            | set_flag::SIZE
            | set_flag::ACCESS_TIME
            | set_flag::MODIFY_TIME
            | set_flag::CHANGE_TIME,
        mode: libc::S_IFREG | 0o4711,
        size: 12345,
        atime: 1_000_000,
        atime_nanoseconds: 1,
        mtime: (-5i64) as u64,
        mtime_nanoseconds: 999_999_999,
        ..Default::default()
    };
    let attributes = set(&client, node, request).unwrap();
    assert_eq!(attributes.mode, libc::S_IFREG | 0o4711);
    assert_eq!(attributes.size, 12345);
    assert_eq!((attributes.atime, attributes.atime_nanoseconds), (1_000_000, 1));
    assert_eq!(
        (attributes.mtime as i64, attributes.mtime_nanoseconds),
        (-5, 999_999_999)
    );
    let metadata = std::fs::metadata(client.path("f")).unwrap();
    assert_eq!((metadata.mtime(), metadata.len()), (-5, 12345));

    let by_handle = SetAttributesRequest {
        valid: set_flag::SIZE | set_flag::HANDLE | set_flag::MODIFY_TIME_NOW,
        handle: open.handle,
        size: 7,
        ..Default::default()
    };
    let attributes = set(&client, node, by_handle).unwrap();
    assert_eq!(attributes.size, 7);
    assert_eq!(attributes.atime, 1_000_000);
    assert!(attributes.mtime > 1_000_000_000);

    let bad_handle = SetAttributesRequest {
        handle: 99,
        ..by_handle
    };
    assert_eq!(set(&client, node, bad_handle), Err(libc::EBADF));
    let too_large = SetAttributesRequest {
        valid: set_flag::SIZE,
        size: u64::MAX,
        ..Default::default()
    };
    assert_eq!(set(&client, node, too_large), Err(libc::EINVAL));
    let bad_time = SetAttributesRequest {
        valid: set_flag::MODIFY_TIME,
        mtime_nanoseconds: u32::MAX,
        ..Default::default()
    };
    assert_eq!(set(&client, node, bad_time), Err(libc::EINVAL));
    let nobody = SetAttributesRequest {
        valid: set_flag::UID,
        uid: u32::MAX,
        ..Default::default()
    };
    assert_eq!(set(&client, node, nobody), Err(libc::EINVAL));
}

#[test]
fn links_have_attributes_of_their_own() {
    let client = Client::new();
    std::fs::write(client.path("f"), "").unwrap();
    std::os::unix::fs::symlink("f", client.path("l")).unwrap();
    let request = SetAttributesRequest {
        valid: set_flag::MODIFY_TIME,
        mtime: 1000,
        ..Default::default()
    };
    let attributes = set(&client, client.node("l"), request).unwrap();
    assert_eq!(attributes.mtime, 1000);
    assert!(client.attributes(client.node("f")).unwrap().mtime > 1000);
    let mode = SetAttributesRequest {
        valid: set_flag::MODE,
        mode: 0o600,
        ..Default::default()
    };
    assert_eq!(set(&client, client.node("l"), mode), Err(libc::EOPNOTSUPP));
    let owner = SetAttributesRequest {
        valid: set_flag::UID | set_flag::GID,
        uid: client.uid,
        gid: client.gid,
        ..Default::default()
    };
    set(&client, client.node("l"), owner).unwrap();
}

#[test]
fn an_open_file_is_examined_by_its_handle() {
    let client = Client::new();
    let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    let get = GetAttributesRequest {
        flags: GET_HANDLE,
        padding: 0,
        handle: open.handle,
    };
    let reply: AttributesReply = record(&client.with(Opcode::GetAttributes, entry.node, &get).unwrap());
    assert_eq!(reply.attributes, entry.attributes);
    assert_eq!(
        client.with(Opcode::GetAttributes, ROOT_NODE, &get),
        Err(libc::EBADF)
    );
}

#[test]
fn statx_shows_more() {
    let client = Client::new();
    let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    for flags in [0, GET_HANDLE] {
        let request = StatxRequest {
            flags,
            handle: open.handle,
            statx_flags: !libc::AT_STATX_DONT_SYNC as u32,
            mask: u32::MAX,
            ..Default::default()
        };
        let reply: StatxReply = record(&client.with(Opcode::Statx, entry.node, &request).unwrap());
        assert_eq!(reply.statx.inode, entry.attributes.inode);
        assert_eq!(u32::from(reply.statx.mode), entry.attributes.mode);
        assert_eq!(
            reply.statx.mask & libc::STATX_BASIC_STATS,
            libc::STATX_BASIC_STATS
        );
    }
}

#[test]
fn access_is_home_s_decision() {
    let client = Client::new();
    std::fs::write(client.path("f"), "").unwrap();
    std::fs::set_permissions(client.path("f"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let access = |mask| {
        let request = AccessRequest { mask, padding: 0 };
        client
            .with(Opcode::Access, client.node("f"), &request)
            .map(|_| ())
    };
    assert_eq!(access(0), Ok(()));
    assert_eq!(access(6), Ok(()));
    assert_eq!(access(1), Err(libc::EACCES));
    assert_eq!(access(8), Err(libc::EINVAL));
}

#[test]
fn figures_of_the_file_system() {
    let client = Client::new();
    let reply: FileSystemReply = client.ask(Opcode::FileSystem, ROOT_NODE, &[]).unwrap();
    let expected = rustix::fs::statfs(&client.home.0).unwrap();
    assert_eq!(reply.blocks, expected.f_blocks);
    assert_eq!(reply.name_length, expected.f_namelen as u32);
    client
        .call(Opcode::SyncFileSystem, ROOT_NODE, &[&[0; 8]])
        .unwrap();
}

#[test]
fn extended_attributes() {
    let client = Client::new();
    std::fs::write(client.path("f"), "").unwrap();
    let node = client.node("f");
    let set = |name: &str, value: &[u8], flags: i32| {
        let request = SetExtendedRequest {
            size: value.len() as u32,
            flags: flags as u32,
            ..Default::default()
        };
        client.call(Opcode::SetExtended, node, &[request.as_bytes(), &z(name), value])
    };
    let get = |name: &str, size| {
        let request = GetExtendedRequest { size, padding: 0 };
        client.call(Opcode::GetExtended, node, &[request.as_bytes(), &z(name)])
    };
    if set("user.one", b"value", 0) == Err(libc::EOPNOTSUPP) {
        return;
    }
    assert_eq!(set("user.one", b"v", libc::XATTR_CREATE), Err(libc::EEXIST));
    assert_eq!(set("user.two", b"v", libc::XATTR_REPLACE), Err(libc::ENODATA));
    assert_eq!(get("user.one", 100).unwrap(), b"value");
    assert_eq!(get("user.one", u32::MAX).unwrap(), b"value");
    assert_eq!(get("user.one", 3), Err(libc::ERANGE));
    assert_eq!(get("user.two", 3), Err(libc::ENODATA));
    let size: GetExtendedReply = record(&get("user.one", 0).unwrap());
    assert_eq!(size.size, 5);
    let list = GetExtendedRequest {
        size: 4096,
        padding: 0,
    };
    let names = client.with(Opcode::ListExtended, node, &list).unwrap();
    assert!(names.split(|&byte| byte == 0).any(|name| name == b"user.one"));
    client
        .call(Opcode::RemoveExtended, node, &[&z("user.one")])
        .unwrap();
    assert_eq!(get("user.one", 0), Err(libc::ENODATA));
}
