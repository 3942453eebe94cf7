use super::*;

const KEY: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OTHER: &str = "SHA256:BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn parse(text: &str) -> AuthorizedHomes {
    AuthorizedHomes::parse(Path::new("a"), text)
}

fn key() -> Fingerprint {
    KEY.parse().unwrap()
}

#[test]
fn lines_are_read() {
    let homes = parse(&format!(
        "# nobody\n\n  cpus=2,memory=4G,guests=100,hours=mon/10:00-11:00,hours=12:00-13:00 {KEY}  me at home \n{OTHER}\n"
    ));
    let limits = homes.admit(key()).unwrap();
    assert_eq!(
        (limits.cpus, limits.memory_bytes, limits.guests),
        (Some(2), Some(4 << 30), Some(100))
    );
    assert_eq!(limits.hours.len(), 2);
    assert_eq!(homes.admit(OTHER.parse().unwrap()), Ok(Limits::default()));
    let remarks: Vec<&str> = homes.homes().map(|home| home.remark.as_str()).collect();
    assert_eq!(remarks, ["me at home", ""]);
    assert_eq!(homes.mistakes().count(), 0);
    let noon = Moment {
        day: 3,
        minute: 12 * 60 + 5,
    };
    assert_eq!(limits.closed(noon), None);
    let night = Moment { day: 3, minute: 5 };
    assert!(
        limits
            .closed(night)
            .unwrap()
            .contains("(mon/10:00-11:00, 12:00-13:00), and has thu 00:05 now")
    );
}

#[test]
fn a_line_that_makes_no_sense_admits_nobody() {
    for (options, word) in [
        ("cpu=2", "no option `cpu`"),
        ("cpus=0", "from 1 on"),
        ("cpus=-1", "from 1 on"),
        ("memory=4X", "500M or 4G"),
        ("memory=0", "500M or 4G"),
        ("memory=99999999999999T", "500M or 4G"),
        ("memory=", "500M or 4G"),
        ("guests=1,guests=2", "twice"),
        ("hours=9-17", "HH:MM"),
        ("nonsense", "neither a fingerprint nor an option"),
    ] {
        let homes = parse(&format!("\n{options} {KEY} x\n{OTHER}"));
        let why = homes.admit(key()).unwrap_err();
        assert!(why.contains("a:2: ") && why.contains(word), "{options}: {why}");
        assert_eq!(homes.mistakes().count(), 1);
        assert!(homes.admit(OTHER.parse().unwrap()).is_ok());
    }
    // Not even if a later line would.
    assert!(parse(&format!("cpus=x {KEY}\n{KEY}")).admit(key()).is_err());
    assert!(
        parse("")
            .admit(key())
            .unwrap_err()
            .contains(&format!("afield trust admit {KEY}"))
    );
}

/// Whatever stands in the file, reading it ends, and admits only keys that stand in it.
#[test]
fn any_text_is_read() {
    let words = [
        KEY, OTHER, " ", "\n", ",", "cpus=", "memory=", "guests=", "hours=", "1", "9", "G", "mon", "-", "/",
        "+", ":", "00:00", "24:00", "#", "SHA256:", "=", "\t", "é", "\u{0}", "\r\n",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..20_000 {
        let text: String = (0..random(40)).map(|_| words[random(words.len())]).collect();
        let homes = parse(&text);
        if let Ok(limits) = homes.admit(key()) {
            assert!(text.contains(KEY), "{text:?}");
            let minute = random(24 * 60) as u16;
            let _ = limits.closed(Moment {
                day: random(7) as u8,
                minute,
            });
        }
        assert_eq!(
            homes.mistakes().count() + homes.homes().count(),
            homes.lines.len()
        );
    }
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..random(200)).map(|_| random(256) as u8).collect();
        assert_eq!(parse(&String::from_utf8_lossy(&bytes)).homes().count(), 0);
    }
}

#[test]
fn homes_are_added_and_removed() {
    let folder = std::env::temp_dir().join(format!("afield-admission-{}", std::process::id()));
    let path = folder.join("authorized_homes");
    assert!(AuthorizedHomes::load(&path).unwrap().admit(key()).is_err());
    assert!(add(&path, "cpus=1", key(), "one\ntwo").unwrap());
    assert!(!add(&path, "", key(), "").unwrap());
    assert!(add(&path, "cpus=many", OTHER.parse().unwrap(), "").is_err());
    assert!(add(&path, "", OTHER.parse().unwrap(), "").unwrap());
    let homes = AuthorizedHomes::load(&path).unwrap();
    assert_eq!(
        homes.homes().map(|home| home.remark.as_str()).collect::<Vec<_>>(),
        ["one two", ""]
    );
    assert_eq!(remove(&path, "one two").unwrap(), [key()]);
    assert_eq!(remove(&path, "nobody").unwrap(), []);
    assert_eq!(remove(&path, OTHER).unwrap().len(), 1);
    assert_eq!(AuthorizedHomes::load(&path).unwrap().homes().count(), 0);
    std::fs::remove_dir_all(&folder).unwrap();
}
