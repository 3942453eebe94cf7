//! What workers are told to do, chosen at random.

use afield_e2e::Random;

const NAMES: &[&str] = &[
    "a", "b", "c", "d", "p", "q", "p/a", "p/b", "q/a", "q/p", "p/q", "q/p/a",
];
const FILES: &[&str] = &["a", "b", "c", "d", "p/a", "p/b", "q/a"];
const FOLDERS: &[&str] = &["p", "q", "q/p", "p/q"];
const OFFSETS: &[u64] = &[0, 1, 8, 100, 4095, 4096, 5000, 9000];
const LENGTHS: &[u64] = &[1, 8, 16, 100, 1000, 4096, 5000, 12288];
const MODES: &[&str] = &["755", "700", "711", "750", "644"];

fn pick(random: &mut Random, from: &[&'static str]) -> &'static str {
    random.choose(from).expect("there are some")
}

fn number(random: &mut Random, from: &[u64]) -> u64 {
    *random.choose(from).expect("there are some")
}

fn data(random: &mut Random) -> String {
    let letter = char::from(b'a' + random.below(26) as u8);
    format!("{letter}:{}", number(random, LENGTHS))
}

/// What a fresh directory has.
pub fn setup() -> Vec<String> {
    [
        "mkdir p",
        "mkdir q",
        "put a a:100",
        "put p/a b:5000",
        "symlink a c",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// One on memory that is mapped from a file.
fn mapped(random: &mut Random) -> String {
    // Few, so that they meet.
    let slot = random.below(2);
    let file = pick(random, &FILES[..2]);
    let offset = number(random, OFFSETS);
    match random.below(10) {
        0..3 => format!(
            "map {slot} {file} {}",
            random.choose(&["r", "r", "w", "p"]).expect("some")
        ),
        3..7 => format!("mget {slot} {offset}"),
        7..8 => format!(
            "mput {slot} {offset} {}:16",
            char::from(b'a' + random.below(26) as u8)
        ),
        8..9 => format!("msync {slot}"),
        _ => format!("unmap {slot}"),
    }
}

/// Any operation; with `maps` also on memory that stays mapped while others change the file.
pub fn operation(random: &mut Random, maps: bool) -> String {
    if maps && random.below(2) == 0 {
        return mapped(random);
    }

    let slot = random.below(4);
    let name = pick(random, NAMES);
    let file = pick(random, FILES);
    let other = pick(random, NAMES);
    let folder = pick(random, FOLDERS);
    let offset = number(random, OFFSETS);
    let length = number(random, LENGTHS);
    let mode = pick(random, MODES);
    let data = data(random);
    match random.below(100) {
        0..9 => format!("cat {file}"),
        9..15 => format!("get {file} {offset} {length}"),
        15..21 => format!("mcat {file}"),
        21..28 => format!("put {file} {data}"),
        28..30 => format!("new {file} {data}"),
        30..34 => format!("append {file} {data}"),
        34..37 => format!("at {file} {offset} {data}"),
        37..40 => format!("truncate {file} {length}"),
        40..46 => format!("stat {name}"),
        46..49 => format!("lstat {name}"),
        49..51 => format!("access {name} {}", random.below(8)),
        51..56 => format!("rename {name} {other}"),
        56..57 => format!("exchange {name} {other}"),
        57..59 => format!("link {file} {other}"),
        59..63 => format!("unlink {name}"),
        63..65 => format!("symlink {other} {name}"),
        65..67 => format!("readlink {name}"),
        67..70 => format!("mkdir {folder}"),
        70..72 => format!("rmdir {folder}"),
        72..74 => format!("chmod {name} {mode}"),
        74..79 => format!("ls {}", random.choose(&[".", "p", "q", "q/p"]).expect("some")),
        79..81 => format!("utime {name} {}", random.below(900_000)),
        81..82 => format!("chdir {}", random.choose(&["p", "q", "..", "."]).expect("some")),
        82..83 => format!("publish {file} {data}"),
        83..87 => {
            let flags = random
                .choose(&["r", "r", "b", "bc", "wt", "ba", "bcx", "rd"])
                .expect("some");
            format!("open {slot} {name} {flags}")
        }
        87..88 => format!("close {slot}"),
        88..90 => format!("pread {slot} {offset} {length}"),
        90..92 => format!("read {slot} {length}"),
        92..93 => format!("pwrite {slot} {offset} {data}"),
        93..95 => format!("write {slot} {data}"),
        95..96 => format!("seek {slot} {} {}", offset, random.below(3)),
        96..97 => format!("ftruncate {slot} {length}"),
        97..98 => format!("fstat {slot}"),
        98..99 => format!(
            "{} {slot}",
            random.choose(&["again", "lsfd", "fsync"]).expect("some")
        ),
        _ => format!("fchmod {slot} {mode}"),
    }
}
