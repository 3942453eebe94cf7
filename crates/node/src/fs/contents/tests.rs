use super::*;

fn reading(known: &Arc<Known>, offset: u64, size: usize) -> Reading {
    Reading {
        unique: 7,
        known: Arc::clone(known),
        offset,
        size,
        from: offset,
        pieces: 0..0,
    }
}

fn data(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 7) as u8 ^ (at >> 12) as u8).collect()
}

/// A reply's data.
fn body(reply: &[u8]) -> &[u8] {
    let (header, body) = ReplyHeader::read_from_prefix(reply).unwrap();
    assert_eq!(
        (header.length as usize, header.error, header.unique),
        (reply.len(), 0, 7)
    );
    body
}

#[test]
fn a_reply_is_cut_from_pieces() {
    let file = data(3 * PIECE_BYTES + 100);
    let pieces: Vec<Arc<[u8]>> = file.chunks(PIECE_BYTES).map(Arc::from).collect();
    let known = Arc::new(Known::new(file.len() as u64, b""));
    known.told(&pieces.iter().map(|piece| hash(piece)).collect::<Vec<_>>());
    for (offset, size) in [
        (0, 1),
        (0, file.len()),
        (PIECE_BYTES - 1, 2),
        (PIECE_BYTES, PIECE_BYTES),
        (5000, 2 * PIECE_BYTES),
        (3 * PIECE_BYTES + 50, 4096),
        (file.len() - 1, 4096),
        (file.len(), 4096),
        (file.len() + 5 * PIECE_BYTES, 4096),
    ] {
        let reading = reading(&known, offset as u64, size);
        let hashes = known.hashes(reading.offset, size).unwrap();
        let wanted: Vec<_> = hashes
            .iter()
            .map(|(index, _)| Arc::clone(&pieces[*index as usize]))
            .collect();
        let end = (offset + size).min(file.len());
        assert_eq!(
            body(&reading.reply(&wanted)),
            &file[offset.min(end)..end],
            "{offset} {size}"
        );
    }
}

#[test]
fn what_is_asked_of_home_is_whole_pieces() {
    let request = |offset, size| {
        let mut request = RequestHeader::default().as_bytes().to_vec();
        let read = ReadRequest {
            offset,
            size,
            ..ReadRequest::default()
        };
        request.extend_from_slice(read.as_bytes());
        request
    };
    let widened = |bytes: u64, offset: u64, size: u32| {
        let known = Arc::new(Known::new(bytes, b""));
        let mut request = request(offset, size);
        let reading = reading(&known, offset, size as usize).widen(&mut request);
        let (read, _) = ReadRequest::read_from_prefix(&request[size_of::<RequestHeader>()..]).unwrap();
        assert_eq!(read.offset, reading.from);
        (read.offset, read.size)
    };
    let piece = PIECE_BYTES as u64;
    assert_eq!(widened(100, 0, 4096), (0, PIECE_BYTES as u32));
    assert_eq!(
        widened(10 << 20, piece + 1, 32 << 10),
        (piece, PIECE_BYTES as u32)
    );
    // Whoever seeks about in a large file gets what he asks for.
    assert_eq!(widened(10 << 20, piece + 4096, 4096), (piece + 4096, 4096));
    // Never more than a reply can carry, and nothing that overflows.
    assert_eq!(widened(10 << 20, 1, 1 << 20), (1, 1 << 20));
    assert_eq!(widened(100, u64::MAX - 5, 4096).0, u64::MAX - 5);
}

#[test]
fn only_whole_pieces_of_this_file_are_taken_in() {
    let file = data(2 * PIECE_BYTES + 100);
    let known = Known::new(file.len() as u64, b"");
    let whole = |from: usize, end: usize| -> Vec<u64> {
        let pieces = known.whole_pieces(from as u64, &file[from..end]);
        pieces
            .inspect(|(index, piece)| {
                let begin = *index as usize * PIECE_BYTES;
                assert_eq!(*piece, &file[begin..begin + piece.len()]);
            })
            .map(|(index, _)| index)
            .collect()
    };
    assert_eq!(whole(0, file.len()), [0, 1, 2]);
    assert_eq!(whole(0, file.len() - 1), [0, 1]);
    assert_eq!(whole(1, file.len()), [1, 2]);
    assert_eq!(whole(1, PIECE_BYTES), []);
    // It has grown in between: what came is not this file.
    let grown = data(2 * PIECE_BYTES + 101);
    assert_eq!(known.whole_pieces(0, &grown).count(), 0);
    assert_eq!(known.whole_pieces(u64::MAX, &grown).count(), 0);
}

#[test]
fn what_home_has_told_is_not_replaced() {
    let known = Known::new(2 * PIECE_BYTES as u64, b"");
    assert!(known.hashes(0, 1).is_none());
    let (right, wrong) = (hash(b"right"), hash(b"wrong"));
    assert!(known.learn(0, &right));
    assert!(known.learn(0, &right));
    assert!(!known.learn(0, &wrong));
    assert!(!known.learn(2, &wrong));
    assert_eq!(known.hashes(0, PIECE_BYTES), Some(vec![(0, right)]));
    assert_eq!(known.hashes(0, PIECE_BYTES + 1), None);
}

#[test]
fn only_root_s_public_files_are_the_system_s() {
    // Whatever else the system has, it has this, which may be a link.
    let path = std::fs::canonicalize("/usr/bin/env").unwrap();
    let env = std::fs::read(&path).unwrap();
    let name = path.as_os_str().as_encoded_bytes();
    let index = 0;
    let piece = &env[..env.len().min(PIECE_BYTES)];
    let found = |name: &[u8], size: usize, hash: &Hash| {
        let known = Known::new(size as u64, name);
        let found = known.local(index, hash);
        assert_eq!(known.is_local(), found.is_some());
        found
    };
    let right = hash(piece);
    assert_eq!(found(name, env.len(), &right).as_deref(), Some(piece));
    assert_eq!(found(name, env.len() + 1, &right), None);
    assert_eq!(found(name, env.len(), &hash(b"")), None);
    assert_eq!(found(b"", env.len(), &right), None);
    assert_eq!(found(b"/usr/../etc/passwd", env.len(), &right), None);
    assert_eq!(found(b"/usr/bin", 4096, &right), None);
    assert_eq!(found(b"/etc/passwd", env.len(), &right), None);
}

#[test]
fn the_pool_is_bounded() {
    let mut pool = Pool::default();
    let piece: Arc<[u8]> = vec![0; PIECE_BYTES].into();
    let name = |number: u32| hash(&number.to_le_bytes());
    for number in 0..1000 {
        pool.add(name(number), Arc::clone(&piece));
        pool.add(name(number), Arc::clone(&piece));
    }
    let held = (0..1000)
        .filter(|number| pool.get(&name(*number)).is_some())
        .count();
    assert_eq!(held, (24 << 20) / PIECE_BYTES);
    assert!(pool.get(&name(999)).is_some());
}
