use super::*;

use std::sync::atomic::AtomicUsize;

/// A directory that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("afield-store-{}-{number}", std::process::id()));
        Self(path)
    }

    fn store(&self, home: &str, most_bytes: u64) -> Store {
        let policy = Policy {
            directory: self.0.clone(),
            most_bytes,
        };
        Store::open(&policy, home).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn piece(number: usize) -> Vec<u8> {
    let mut piece = vec![0; 1000];
    piece[..8].copy_from_slice(&number.to_le_bytes());
    piece
}

fn keep(store: &Store, piece: &[u8]) -> Hash {
    let hash = hash(piece);
    store.add([(hash, piece)]).unwrap();
    hash
}

#[test]
fn what_is_kept_is_found_by_another_session() {
    let place = Place::new();
    let wanted = keep(&place.store("a", 1 << 20), &piece(1));
    let other = place.store("a", 1 << 20);
    assert_eq!(other.read(&wanted), Some(piece(1)));
    assert_eq!(other.read(&hash(b"other")), None);
    assert_eq!(other.add([(wanted, &piece(1)[..])]).unwrap(), 0);
}

#[test]
fn a_home_does_not_see_what_another_has_sent() {
    let place = Place::new();
    let (one, other) = (place.store("a", 1 << 20), place.store("b", 1 << 20));
    let wanted = keep(&one, &piece(1));
    assert_eq!(other.read(&wanted), None);
}

#[test]
fn nobody_else_can_read_it() {
    let place = Place::new();
    let store = place.store("a", 1 << 20);
    let path = store.path(&keep(&store, &piece(1)));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&place.0), 0o700);
    fs::set_permissions(&place.0, Permissions::from_mode(0o755)).unwrap();
    let policy = Policy {
        directory: place.0.clone(),
        most_bytes: 1,
    };
    assert!(matches!(Store::open(&policy, "a"), Err(StoreError::Shared(_))));
}

#[test]
fn damage_is_seen_and_repaired() {
    let place = Place::new();
    let store = place.store("a", 1 << 20);
    let wanted = keep(&store, &piece(1));
    let path = store.path(&wanted);
    let mut changed = piece(1);
    changed[500] ^= 1;
    let long = vec![1; 10 << 20];
    for damage in [&changed[..], &changed[..10], b"", &long] {
        fs::write(&path, damage).unwrap();
        assert_eq!(store.read(&wanted), None);
        assert!(!path.exists());
        keep(&store, &piece(1));
        assert_eq!(store.read(&wanted), Some(piece(1)));
    }
    // Neither a link nor anything else is followed or waited for.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert_eq!(store.read(&wanted), None);
}

/// Bytes of all pieces, finished or not.
fn bytes_in(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => bytes_in(&path),
            path if path.ends_with("total") => 0,
            // A session may have removed it in between.
            path => fs::metadata(path).map_or(0, |status| status.len()),
        })
        .sum()
}

#[test]
fn what_was_not_used_goes_first_and_the_bound_holds() {
    let place = Place::new();
    let store = place.store("a", 100_000);
    let hashes: Vec<Hash> = (0..100).map(|number| keep(&store, &piece(number))).collect();
    let old = SystemTime::now() - Duration::from_secs(7200);
    for (number, hash) in hashes.iter().enumerate() {
        let file = File::open(store.path(hash)).unwrap();
        file.set_modified(old + Duration::from_secs(number as u64))
            .unwrap();
    }
    // The oldest is used again.
    assert!(store.read(&hashes[0]).is_some());
    let other = place.store("b", 100_000);
    let new = keep(&other, &piece(1000));
    assert!(other.read(&new).is_some());
    assert!(store.read(&hashes[0]).is_some());
    assert!(store.read(&hashes[1]).is_none());
    assert!(store.read(&hashes[99]).is_some());
    for number in 0..300 {
        keep(&store, &piece(2000 + number));
        assert!(bytes_in(&place.0) <= 100_000);
    }
    // One that is larger than the bound.
    let large = vec![0; PIECE_BYTES];
    let small = place.store("c", 1000);
    let error = small.add([(hash(&large), &large[..])]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_wrong_total_is_put_right() {
    let place = Place::new();
    let store = place.store("a", 10_000);
    for total in [u64::MAX, 0, 5] {
        fs::write(place.0.join("total"), total.to_le_bytes()).unwrap();
        for number in 0..30 {
            let wanted = keep(&store, &piece(number));
            assert!(store.read(&wanted).is_some());
        }
    }
    fs::write(place.0.join("total"), b"xyz").unwrap();
    keep(&store, &piece(1));
}

#[test]
fn sessions_do_not_disturb_each_other() {
    let place = Place::new();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            // Opened anew, as by another process: the lock is the open file's.
            let store = place.store("a", 20_000);
            std::thread::spawn(move || {
                for number in 0..200 {
                    let wanted = keep(&store, &piece(number % 40));
                    if let Some(found) = store.read(&wanted) {
                        assert_eq!(found, piece(number % 40));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(bytes_in(&place.0) <= 20_000);
}
