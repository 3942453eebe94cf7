//! The kernel's events taken apart.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::sys::HANDLE_BYTES_MAX;

/// What the kernel writes at most for one event: its head, and records of a directory with a name and of a file.
const RECORD_BYTES_MAX: usize = 4 + 8 + 8 + HANDLE_BYTES_MAX + 256 + 8;

/// Room for some events at least.
pub const BUFFER_BYTES: usize = 64 << 10;

const _: () = assert!(BUFFER_BYTES > 24 + 4 * RECORD_BYTES_MAX);

/// What an inode is called in events: its file system's id, and its handle there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// `f_fsid` of `statfs`.
    pub file_system: [u8; 8],
    /// The handle's kind.
    pub kind: i32,
    /// The handle.
    pub handle: Box<[u8]>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `FAN_*` bits.
    pub mask: u64,
    /// The process whose doing it is, 0 if that is not to be known.
    pub pid: i32,
    /// The directory, and the name in it, if it is about a name.
    pub place: Option<(Key, Vec<u8>)>,
    /// The file or directory itself.
    pub target: Option<Key>,
}

/// The kernel says what cannot be.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Malformed;

#[derive(Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Head {
    length: u32,
    version: u8,
    reserved: u8,
    head_length: u16,
    mask: [u8; 8],
    descriptor: i32,
    pid: i32,
}

#[derive(Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RecordHead {
    kind: u8,
    padding: u8,
    length: [u8; 2],
}

#[derive(Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct HandleHead {
    file_system: [u8; 8],
    bytes: [u8; 4],
    kind: [u8; 4],
}

const FAN_EVENT_INFO_TYPE_FID: u8 = 1;
const FAN_EVENT_INFO_TYPE_DFID_NAME: u8 = 2;
const FAN_EVENT_INFO_TYPE_DFID: u8 = 3;

/// Takes the first of several events. Whatever is not understood is an error: something may have changed.
pub fn next_event(bytes: &[u8]) -> Result<Option<(Event, &[u8])>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (head, _) = Head::read_from_prefix(bytes).map_err(|_| Malformed)?;
    let length = head.length as usize;
    if head.version != libc::FANOTIFY_METADATA_VERSION
        || usize::from(head.head_length) < size_of::<Head>()
        || length < usize::from(head.head_length)
        || length > bytes.len()
    {
        return Err(Malformed);
    }
    let (this, rest) = bytes.split_at(length);
    let mut event = Event {
        mask: u64::from_ne_bytes(head.mask),
        pid: head.pid,
        place: None,
        target: None,
    };
    let mut records = &this[usize::from(head.head_length)..];
    while !records.is_empty() {
        let (record, _) = RecordHead::read_from_prefix(records).map_err(|_| Malformed)?;
        let length = usize::from(u16::from_ne_bytes(record.length));
        if length < size_of::<RecordHead>() || length > records.len() {
            return Err(Malformed);
        }
        let (this, after) = records.split_at(length);
        records = after;
        let body = &this[size_of::<RecordHead>()..];
        match record.kind {
            FAN_EVENT_INFO_TYPE_FID => event.target = Some(key(body)?.0),
            FAN_EVENT_INFO_TYPE_DFID => event.target = event.target.or(Some(key(body)?.0)),
            FAN_EVENT_INFO_TYPE_DFID_NAME => {
                let (key, name) = key(body)?;
                let end = name.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
                match &name[..end] {
                    // The directory itself.
                    b"." | b"" => event.target = event.target.or(Some(key)),
                    name => event.place = Some((key, name.to_vec())),
                }
            }
            _ => return Err(Malformed),
        }
    }
    Ok(Some((event, rest)))
}

/// A handle, and what follows it.
fn key(body: &[u8]) -> Result<(Key, &[u8]), Malformed> {
    let (head, rest) = HandleHead::read_from_prefix(body).map_err(|_| Malformed)?;
    let bytes = u32::from_ne_bytes(head.bytes) as usize;
    if bytes > HANDLE_BYTES_MAX {
        return Err(Malformed);
    }
    let (handle, rest) = rest.split_at_checked(bytes).ok_or(Malformed)?;
    let key = Key {
        file_system: head.file_system,
        kind: i32::from_ne_bytes(head.kind),
        handle: handle.into(),
    };
    Ok((key, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend([7; 8]);
        bytes.extend((handle.len() as u32).to_ne_bytes());
        bytes.extend(1i32.to_ne_bytes());
        bytes.extend(handle);
        bytes.extend(name);
        while bytes.len() % 4 != 0 {
            bytes.push(0);
        }
        let length = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    fn event(mask: u64, pid: i32, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut bytes = Vec::new();
        bytes.extend((24 + records.len() as u32).to_ne_bytes());
        bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
        bytes.extend(24u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1i32).to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    fn key_of(handle: &[u8]) -> Key {
        Key {
            file_system: [7; 8],
            kind: 1,
            handle: handle.into(),
        }
    }

    #[test]
    fn events_are_taken_apart() {
        let mut bytes = event(
            libc::FAN_CREATE,
            5,
            &[record(2, b"dir", b"name\0"), record(1, b"file", b"")],
        );
        bytes.extend(event(libc::FAN_MODIFY, 0, &[record(1, b"file", b"")]));
        bytes.extend(event(libc::FAN_ATTRIB, 0, &[record(2, b"dir", b".\0")]));
        bytes.extend(event(libc::FAN_Q_OVERFLOW, 0, &[]));
        let (first, rest) = next_event(&bytes).unwrap().unwrap();
        assert_eq!(first.place, Some((key_of(b"dir"), b"name".to_vec())));
        assert_eq!((first.target, first.pid), (Some(key_of(b"file")), 5));
        let (second, rest) = next_event(rest).unwrap().unwrap();
        assert_eq!((second.place, second.target), (None, Some(key_of(b"file"))));
        let (third, rest) = next_event(rest).unwrap().unwrap();
        assert_eq!((third.place, third.target), (None, Some(key_of(b"dir"))));
        let (last, rest) = next_event(rest).unwrap().unwrap();
        assert_eq!(last.mask, libc::FAN_Q_OVERFLOW);
        assert_eq!(next_event(rest), Ok(None));
    }

    #[test]
    fn nonsense_is_refused() {
        let good = event(libc::FAN_CREATE, 5, &[record(2, b"dir", b"name\0")]);
        for length in 1..good.len() {
            assert_eq!(next_event(&good[..length]), Err(Malformed), "{length}");
        }
        for (at, value) in [(0, 8), (4, 9), (6, 255), (26, 255), (26, 0), (36, 255), (24, 99)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(next_event(&bad), Err(Malformed), "{at}");
        }
    }
}
