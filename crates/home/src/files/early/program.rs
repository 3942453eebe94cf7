//! What it takes to start a program that nobody has started yet, as far as its file says: its interpreter, and the libraries that the
//! loader will look for, where it will look for them.
//!
//! What is found is a guess at what will be asked. Whatever is in the files, no more comes of it than answers that nobody wants.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use afield_link::contents::PIECE_BYTES;
use object::LittleEndian;
use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRTAB, DynamicTag, FileHeader64, PT_DYNAMIC, PT_INTERP, PT_LOAD,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};

use super::DEPTH_MAX;
use super::traces::{Ask, What};

/// What the loader looks at first.
const PRELOADED: &[u8] = b"/etc/ld.so.preload";

/// Where it finds libraries by name.
const CACHE: &[u8] = b"/etc/ld.so.cache";

/// Most bytes of that.
const CACHE_BYTES_MAX: u64 = 4 << 20;

/// Where it looks if it finds nothing there.
const DIRECTORIES: [&[u8]; 4] = [b"/lib", b"/usr/lib", b"/lib64", b"/usr/lib64"];

/// Libraries of one program.
const LIBRARIES_MAX: usize = 64;

/// Longest name or list of directories.
const TEXT_BYTES_MAX: u64 = 4096;

/// Entries of a dynamic section.
const DYNAMIC_MAX: usize = 4096;

/// A file of no more than this will be needed whole, as it seems; of a larger one that much.
const WANTED_BYTES: u64 = 2 << 20;

/// What an ELF file says of what it needs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    interpreter: Option<Vec<u8>>,
    libraries: Vec<Vec<u8>>,
    /// Where they are looked for.
    directories: Vec<Vec<u8>>,
}

/// What the start of a program will ask.
pub fn asks(program: &[u8]) -> Vec<Ask> {
    let mut asks = Asks::default();
    let Some(needs) = needs(program) else {
        return Vec::new();
    };
    asks.file(program, true);
    let Some(interpreter) = &needs.interpreter else {
        return asks.list;
    };
    asks.file(interpreter, true);
    asks.add(PRELOADED, What::Name);
    asks.file(CACHE, false);
    let cache = read_cache().unwrap_or_default();
    let mut wanted: VecDeque<(Vec<u8>, Vec<Vec<u8>>)> = VecDeque::new();
    let mut known = HashSet::new();
    let push = |wanted: &mut VecDeque<_>, needs: Needs| {
        let Needs {
            libraries,
            directories,
            ..
        } = needs;
        wanted.extend(
            libraries
                .into_iter()
                .map(|library| (library, directories.clone())),
        );
    };
    push(&mut wanted, needs);
    while let Some((library, directories)) = wanted.pop_front() {
        if known.len() >= LIBRARIES_MAX || !known.insert(library.clone()) {
            continue;
        }
        let Some(path) = find(&library, &directories, &cache, &mut asks) else {
            continue;
        };
        if let Some(canonical) = asks.file(&path, false)
            && let Some(needs) = self::needs(&canonical)
        {
            push(&mut wanted, needs);
        }
    }
    asks.list
}

/// Questions, each once.
#[derive(Debug, Default)]
struct Asks {
    list: Vec<Ask>,
    known: HashSet<Ask>,
}

impl Asks {
    fn add(&mut self, path: &[u8], what: What) {
        let ask = Ask {
            path: path.into(),
            what,
        };
        if self.known.insert(ask.clone()) {
            self.list.push(ask);
        }
    }

    /// The way to a file, through links, and the opening of it. Its path without links, if it is there.
    fn file(&mut self, path: &[u8], executes: bool) -> Option<Vec<u8>> {
        let canonical = self.way(path)?;
        self.add(&canonical, What::Open { executes });
        self.contents(&canonical);
        Some(canonical)
    }

    /// The names on the way to a path, and the links.
    fn way(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        let mut done = Vec::new();
        let mut left: VecDeque<Vec<u8>> = names(path).collect();
        for _ in 0..DEPTH_MAX {
            let Some(name) = left.pop_front() else {
                return Some(done);
            };
            match &name[..] {
                b".." => {
                    let at = done.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    done.truncate(at);
                    continue;
                }
                _ => {
                    done.push(b'/');
                    done.extend_from_slice(&name);
                }
            }
            self.add(&done, What::Name);
            let found = std::fs::symlink_metadata(path_of(&done)).ok()?;
            if !found.is_symlink() {
                continue;
            }
            self.add(&done, What::Link);
            let target = std::fs::read_link(path_of(&done))
                .ok()?
                .into_os_string()
                .into_vec();
            match target.first() {
                Some(b'/') => done.clear(),
                _ => done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            }
            names(&target).rev().for_each(|name| left.push_front(name));
        }
        None
    }

    fn contents(&mut self, path: &[u8]) {
        let bytes = std::fs::metadata(path_of(path)).map_or(0, |found| found.len());
        let pieces = bytes.min(WANTED_BYTES).div_ceil(PIECE_BYTES as u64) as u32;
        for piece in 0..pieces {
            self.add(path, What::Pieces(piece, piece + 1));
        }
    }
}

fn path_of(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    let names = path.split(|byte| *byte == b'/');
    names
        .filter(|name| !matches!(*name, b"" | b"."))
        .map(<[u8]>::to_vec)
}

/// Where the loader will find a library.
fn find(
    library: &[u8],
    directories: &[Vec<u8>],
    cache: &HashMap<Vec<u8>, Vec<u8>>,
    asks: &mut Asks,
) -> Option<Vec<u8>> {
    if library.contains(&b'/') {
        return library.starts_with(b"/").then(|| library.to_vec());
    }
    let within = |directory: &[u8]| [directory, b"/", library].concat();
    let is_there = |path: &Vec<u8>| path_of(path).exists();
    for directory in directories {
        let path = within(directory);
        if is_there(&path) {
            return Some(path);
        }
        asks.way(&path);
    }
    let cached = cache.get(library).filter(|path| is_there(path)).cloned();
    cached.or_else(|| DIRECTORIES.into_iter().map(within).find(is_there))
}

/// What a file needs; `None` if it is not one that can be executed here.
fn needs(path: &[u8]) -> Option<Needs> {
    let file = File::open(path_of(path)).ok()?;
    let cache = ReadCache::new(file);
    let data = &cache;
    let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    let text_at = |offset: u64| {
        data.read_bytes_at_until(offset..offset.checked_add(TEXT_BYTES_MAX)?, 0)
            .ok()
    };
    let mut needs = Needs::default();
    let segment = |kind| segments.iter().find(|segment| segment.p_type(endian) == kind);
    if let Some(interpreter) = segment(PT_INTERP) {
        let text = text_at(interpreter.p_offset(endian))?;
        needs.interpreter = text.starts_with(b"/").then(|| text.to_vec());
    }
    let entries = segment(PT_DYNAMIC).and_then(|segment| segment.dynamic(endian, data).ok()?);
    let entries = entries.unwrap_or_default();
    let entries = &entries[..entries.len().min(DYNAMIC_MAX)];
    let values = |tag: DynamicTag| {
        let entries = entries.iter();
        entries
            .filter(move |entry| entry.d_tag.get(endian) == tag)
            .map(|entry| entry.d_val.get(endian))
    };
    // The table of strings is where it is loaded to.
    let table = values(DT_STRTAB).next().and_then(|address| {
        let loads = segments
            .iter()
            .filter(|segment| segment.p_type(endian) == PT_LOAD);
        loads
            .filter_map(|segment| {
                let within = address.checked_sub(segment.p_vaddr(endian))?;
                (within < segment.p_filesz(endian)).then(|| segment.p_offset(endian).checked_add(within))?
            })
            .next()
    });
    let Some(table) = table else { return Some(needs) };
    let text = |value: u64| text_at(table.checked_add(value)?).map(<[u8]>::to_vec);
    needs.libraries = values(DT_NEEDED).filter_map(text).take(LIBRARIES_MAX).collect();
    let lists = values(DT_RUNPATH).chain(values(DT_RPATH)).filter_map(text);
    let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    needs.directories = lists
        .flat_map(|list| {
            let each = list
                .split(|byte| *byte == b':')
                .map(|each| origin(each, &path[..at]));
            each.collect::<Vec<_>>()
        })
        .filter(|directory| directory.starts_with(b"/"))
        .take(DEPTH_MAX)
        .collect();
    Some(needs)
}

/// A directory of a list, with `$ORIGIN` replaced.
fn origin(directory: &[u8], origin: &[u8]) -> Vec<u8> {
    for token in [&b"$ORIGIN"[..], b"${ORIGIN}"] {
        if let Some(rest) = directory.strip_prefix(token) {
            return [origin, rest].concat();
        }
    }
    directory.to_vec()
}

/// The first path of each library in the loader's cache (`glibc-ld.so.cache1.1`: a head of 48 bytes, whose third word of 32 bits behind
/// the 20 of the name and version says how many entries there are; entries of 24 bytes: flags, name and path as offsets in the file, and more).
fn read_cache() -> Option<HashMap<Vec<u8>, Vec<u8>>> {
    if std::fs::metadata(path_of(CACHE)).ok()?.len() > CACHE_BYTES_MAX {
        return None;
    }
    parse_cache(&std::fs::read(path_of(CACHE)).ok()?)
}

fn parse_cache(bytes: &[u8]) -> Option<HashMap<Vec<u8>, Vec<u8>>> {
    const NAME: &[u8] = b"glibc-ld.so.cache1.1";
    const HEAD_BYTES: usize = 48;
    const ENTRY_BYTES: usize = 24;
    /// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`.
    const OWN: u32 = 0x0303;
    let word = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let text = |at: usize| bytes.get(at..)?.split(|byte| *byte == 0).next();
    if !bytes.starts_with(NAME) {
        return None;
    }
    let count = word(NAME.len())? as usize;
    let entries = bytes.get(HEAD_BYTES..)?.chunks_exact(ENTRY_BYTES).take(count);
    let mut found = HashMap::new();
    for number in 0..entries.len() {
        let at = HEAD_BYTES + number * ENTRY_BYTES;
        if word(at) != Some(OWN) {
            continue;
        }
        let (name, path) = (text(word(at + 4)? as usize)?, text(word(at + 8)? as usize)?);
        found.entry(name.to_vec()).or_insert_with(|| path.to_vec());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(asks: &[Ask], what: impl Fn(&What) -> bool) -> Vec<String> {
        let asks = asks.iter().filter(|ask| what(&ask.what));
        asks.map(|ask| String::from_utf8_lossy(&ask.path).into_owned())
            .collect()
    }

    #[test]
    fn a_program_needs_its_loader_and_its_libraries() {
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let asks = asks(shell.as_os_str().as_bytes());
        let executed = paths(&asks, |what| *what == What::Open { executes: true });
        assert!(
            executed.len() == 2 && executed[1].contains("/ld-"),
            "{executed:?}"
        );
        let opened = paths(&asks, |what| *what == What::Open { executes: false });
        assert!(
            opened.iter().any(|path| path.contains("/libc.so.6")),
            "{opened:?}"
        );
        // No name on the way is a link's.
        for path in opened.iter().chain(&executed) {
            assert_eq!(std::fs::canonicalize(path).unwrap().as_os_str(), path.as_str());
        }
        assert!(self::asks(b"/etc/passwd").is_empty());
        assert!(self::asks(b"/nosuch").is_empty());
    }

    #[test]
    fn any_bytes_can_be_looked_at() {
        let good = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let path = std::env::temp_dir().join(format!("afield-program-{}", std::process::id()));
        for at in (0..4096).step_by(7) {
            let mut bad = good[..64 << 10].to_vec();
            for byte in &mut bad[at..at + 9] {
                *byte = byte.wrapping_mul(37).wrapping_add(91);
            }
            std::fs::write(&path, &bad).unwrap();
            let _ = needs(path.as_os_str().as_bytes());
        }
        std::fs::remove_file(&path).unwrap();
        let mut cache = b"glibc-ld.so.cache1.1".to_vec();
        cache.resize(200, 0xff);
        assert!(parse_cache(&cache).is_some_and(|found| found.is_empty()));
        assert!(parse_cache(b"").is_none());
    }
}
