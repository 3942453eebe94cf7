//! The seccomp filter of a world, generated from the system-call table.
//!
//! The program first checks the architecture, then searches the number by halving, so that a call passes about ten
//! instructions. Calls whose answer does not depend on arguments load nothing but architecture and number; those that are
//! allowed the kernel then remembers in a bitmap and runs no filter for them at all.
//!
//! A jump reaches 255 instructions forward at most; where a half is longer, an unconditional jump with its 32 bits
//! takes over. Every leaf ends in a `RET`, so parts can be put one after the other without fixing anything up.

use crate::arch::x86_64::{AUDIT_ARCH, X32_BIT, nr};
use crate::syscalls::{Class, Door, NUMBERS, Row, Test, row};

pub use libc::sock_filter as SockFilter;

/// Most instructions that the kernel takes.
pub const INSTRUCTIONS_MAX: usize = libc::BPF_MAXINSNS as usize;

// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What the table alone does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterOptions {
    /// Descriptor numbers of inherited regular files: their offset is home's, so `lseek` on them comes out of the notify
    /// door. At most 64.
    pub seekable: Vec<u32>,
    /// Owners of files have to be corrected: the `stat` and `chown` families come out of the notify door.
    pub correct_owners: bool,
    /// There is a limit on the size of files: the calls that can exceed it stop in the tracer.
    pub limit_files: bool,
}

/// The calls that can exceed a limit on the size of files, of those that name the file by their first argument.
pub const FILE_WRITES: [u32; 8] = [
    nr::WRITE,
    nr::WRITEV,
    nr::PWRITE64,
    nr::PWRITEV,
    nr::PWRITEV2,
    nr::SENDFILE,
    nr::FTRUNCATE,
    nr::FALLOCATE,
];

/// Most entries of [`FilterOptions::seekable`] that the filter tells apart; with more of them every `lseek` comes
/// out.
pub const SEEKABLE_MAX: usize = 64;

impl FilterOptions {
    /// The class of a call under these options.
    pub fn class_of(&self, number: u32, arguments: &[u64; 6]) -> Class {
        if number == nr::LSEEK && self.is_seekable(arguments[0] as u32) {
            return Class::Event(Door::Notify);
        }
        match row(number) {
            Some(row) if row.owners && self.correct_owners => Class::Event(Door::Notify),
            Some(_) if self.limit_files && FILE_WRITES.contains(&number) => Class::Event(Door::Trace),
            Some(row) => row.class(arguments),
            None => Class::Never(libc::ENOSYS),
        }
    }

    fn is_seekable(&self, descriptor: u32) -> bool {
        self.seekable.len() > SEEKABLE_MAX || self.seekable.contains(&descriptor)
    }

    /// What the filter does with a number.
    fn leaf(&self, number: u32) -> Leaf {
        let Some(row) = row(number) else {
            return Leaf::Return(Action::Notify);
        };
        if number == nr::LSEEK && !self.seekable.is_empty() {
            if self.seekable.len() > SEEKABLE_MAX {
                return Leaf::Return(Action::Notify);
            }
            return Leaf::Seek;
        }
        if row.owners && self.correct_owners {
            return Leaf::Return(Action::Notify);
        }
        if self.limit_files && FILE_WRITES.contains(&number) {
            return Leaf::Return(Action::Trace);
        }
        let default = Action::of(row.class);
        if row.rules.iter().all(|rule| Action::of(rule.class) == default) {
            return Leaf::Return(default);
        }
        Leaf::Rules(row)
    }
}

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Notify,
    Trace,
}

impl Action {
    fn of(class: Class) -> Self {
        match class {
            Class::Node | Class::File => Self::Allow,
            Class::Home | Class::Both | Class::Never(_) | Class::Event(Door::Notify) => Self::Notify,
            Class::Event(Door::Trace) => Self::Trace,
        }
    }

    fn instruction(self) -> SockFilter {
        let value = match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::Trace => libc::SECCOMP_RET_TRACE,
        };
        instruction(RETURN, 0, 0, value)
    }
}

/// The end of the search for a number.
#[derive(Clone, Copy)]
enum Leaf {
    /// The same for all arguments.
    Return(Action),
    /// By the row's rules.
    Rules(&'static Row),
    /// `lseek`, by descriptor.
    Seek,
}

impl Leaf {
    fn joins(self, other: Self) -> bool {
        matches!((self, other), (Self::Return(one), Self::Return(two)) if one == two)
    }
}

/// The filter for guests of a world.
///
/// Calls of another architecture and x32 calls come out of the notify door, where they are refused by name.
pub fn build(options: &FilterOptions) -> Vec<SockFilter> {
    // (first number, leaf); each reaches to the next one's first number. Numbers from the table's end on, and with
    // them x32's, share the last.
    let mut segments: Vec<(u32, Leaf)> = Vec::new();
    for number in 0..=NUMBERS as u32 {
        let leaf = options.leaf(number);
        if !segments.last().is_some_and(|(_, last)| last.joins(leaf)) {
            segments.push((number, leaf));
        }
    }
    const { assert!(NUMBERS < X32_BIT as usize) };
    let mut program = vec![
        instruction(LOAD, 0, 0, OFFSET_ARCH),
        instruction(JUMP_EQUAL, 1, 0, AUDIT_ARCH),
        Action::Notify.instruction(),
        instruction(LOAD, 0, 0, OFFSET_NUMBER),
    ];
    program.extend(search(&segments, options));
    assert!(program.len() <= INSTRUCTIONS_MAX, "the table outgrew one filter");
    program
}

/// A filter by which these calls stop in the tracer, on top of the world's.
pub fn tracing(calls: &[u32]) -> Vec<SockFilter> {
    let mut program = vec![
        instruction(LOAD, 0, 0, OFFSET_ARCH),
        instruction(JUMP_EQUAL, 1, 0, AUDIT_ARCH),
        Action::Allow.instruction(),
        instruction(LOAD, 0, 0, OFFSET_NUMBER),
    ];
    for &call in calls {
        program.extend([instruction(JUMP_EQUAL, 0, 1, call), Action::Trace.instruction()]);
    }
    program.push(Action::Allow.instruction());
    program
}

/// A program as it lies in memory.
pub fn bytes(program: &[SockFilter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of_val(program));
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

fn search(segments: &[(u32, Leaf)], options: &FilterOptions) -> Vec<SockFilter> {
    if let [(_, leaf)] = segments {
        return end(*leaf, options);
    }
    let (low, high) = segments.split_at(segments.len() / 2);
    let middle = high[0].0;
    let (low, high) = (search(low, options), search(high, options));
    let mut program = Vec::with_capacity(low.len() + high.len() + 2);
    match u8::try_from(low.len()) {
        Ok(skip) => program.push(instruction(JUMP_AT_LEAST, skip, 0, middle)),
        Err(_) => {
            program.push(instruction(JUMP_AT_LEAST, 0, 1, middle));
            program.push(instruction(JUMP, 0, 0, low.len() as u32));
        }
    }
    program.extend(low);
    program.extend(high);
    program
}

fn end(leaf: Leaf, options: &FilterOptions) -> Vec<SockFilter> {
    let mut program = Vec::new();
    match leaf {
        Leaf::Return(action) => program.push(action.instruction()),
        Leaf::Seek => {
            program.push(load_argument(0));
            for &descriptor in &options.seekable {
                program.push(instruction(JUMP_EQUAL, 0, 1, descriptor));
                program.push(Action::Notify.instruction());
            }
            program.push(Action::Allow.instruction());
        }
        Leaf::Rules(row) => {
            for rule in row.rules {
                let action = Action::of(rule.class).instruction();
                program.push(load_argument(rule.argument));
                match rule.test {
                    Test::Equal(value) => program.extend([instruction(JUMP_EQUAL, 0, 1, value), action]),
                    Test::Any(values) => {
                        for &value in values {
                            program.extend([instruction(JUMP_EQUAL, 0, 1, value), action]);
                        }
                    }
                    Test::MaskSet(mask) => program.extend([instruction(JUMP_SET, 0, 1, mask), action]),
                    Test::MaskClear(mask) => program.extend([instruction(JUMP_SET, 1, 0, mask), action]),
                }
            }
            program.push(Action::of(row.class).instruction());
        }
    }
    program
}

/// Loads the lower half of an argument; x86-64 is little-endian.
fn load_argument(index: u8) -> SockFilter {
    instruction(LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * u32::from(index))
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscalls::rows;

    /// `struct seccomp_data`, as 32-bit words.
    struct Data {
        number: u32,
        arch: u32,
        arguments: [u64; 6],
    }

    impl Data {
        fn word(&self, offset: u32) -> u32 {
            match offset {
                OFFSET_NUMBER => self.number,
                OFFSET_ARCH => self.arch,
                16..64 if offset.is_multiple_of(4) => {
                    let argument = self.arguments[(offset as usize - 16) / 8];
                    (argument >> (8 * (offset % 8))) as u32
                }
                _ => panic!("load from offset {offset}"),
            }
        }
    }

    /// What a program returned, how many instructions it took, and whether it looked at arguments.
    struct Run {
        value: u32,
        steps: usize,
        looked: bool,
    }

    fn run(program: &[SockFilter], data: &Data) -> Run {
        let (mut at, mut accumulator, mut steps, mut looked) = (0usize, 0u32, 0, false);
        loop {
            let SockFilter { code, jt, jf, k } = program[at];
            at += 1;
            steps += 1;
            let condition = match code {
                LOAD => {
                    looked |= k >= OFFSET_ARGUMENTS;
                    accumulator = data.word(k);
                    continue;
                }
                JUMP => {
                    at += k as usize;
                    continue;
                }
                RETURN => {
                    return Run {
                        value: k,
                        steps,
                        looked,
                    };
                }
                JUMP_EQUAL => accumulator == k,
                JUMP_AT_LEAST => accumulator >= k,
                JUMP_SET => accumulator & k != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if condition { jt } else { jf });
        }
    }

    fn expected(class: Class) -> u32 {
        match class {
            Class::Node | Class::File => libc::SECCOMP_RET_ALLOW,
            Class::Event(Door::Trace) => libc::SECCOMP_RET_TRACE,
            _ => libc::SECCOMP_RET_USER_NOTIF,
        }
    }

    /// Values around everything that any rule mentions, with and without upper halves.
    fn interesting() -> Vec<u64> {
        let mut values = vec![0, 1, 2, 3, 7, u64::from(u32::MAX), u64::MAX, 1 << 31, 1 << 32];
        for rule in rows().flat_map(|row| row.rules) {
            let mentioned: Vec<u32> = match rule.test {
                Test::Equal(value) | Test::MaskSet(value) | Test::MaskClear(value) => vec![value],
                Test::Any(values) => values.to_vec(),
            };
            for value in mentioned {
                let value = u64::from(value);
                values.extend([
                    value,
                    value + 1,
                    value.wrapping_sub(1),
                    value | 1 << 32,
                    value | 1 << 63,
                ]);
                values.extend((0..32).map(|bit| value & 1 << bit));
            }
        }
        values.extend([
            libc::CLONE_THREAD as u64 | libc::CLONE_VM as u64,
            libc::SIGCHLD as u64,
        ]);
        values.sort_unstable();
        values.dedup();
        values
    }

    fn options() -> Vec<FilterOptions> {
        vec![
            FilterOptions::default(),
            FilterOptions {
                seekable: vec![0, 1, 2, 255, 1 << 20],
                correct_owners: true,
                limit_files: false,
            },
            FilterOptions {
                seekable: (0..SEEKABLE_MAX as u32).collect(),
                correct_owners: false,
                limit_files: true,
            },
            FilterOptions {
                seekable: (0..4096).collect(),
                correct_owners: true,
                limit_files: true,
            },
        ]
    }

    #[test]
    fn the_filter_agrees_with_the_table() {
        let values = interesting();
        for options in options() {
            let program = build(&options);
            let check = |number: u32, arguments: [u64; 6]| {
                let data = Data {
                    number,
                    arch: AUDIT_ARCH,
                    arguments,
                };
                let class = options.class_of(number, &arguments);
                assert_eq!(
                    run(&program, &data).value,
                    expected(class),
                    "call {number} {arguments:x?} is {class:?} ({options:?})"
                );
            };
            for number in (0..NUMBERS as u32 + 50).chain([1 << 16, X32_BIT - 1, i32::MAX as u32, u32::MAX]) {
                for &value in &values {
                    for index in 0..3 {
                        let mut arguments = [0; 6];
                        arguments[index] = value;
                        check(number, arguments);
                        check(number, [value; 6]);
                    }
                }
            }
            // Pairs, for rows whose rules look at more than one argument.
            for &one in &values {
                for &two in &values {
                    check(nr::PRLIMIT64, [one, two, 0, 0, 0, 0]);
                }
            }
        }
    }

    #[test]
    fn foreign_calls_never_pass() {
        let program = build(&FilterOptions::default());
        for number in 0..NUMBERS as u32 + 50 {
            // x32, and i386.
            for (number, arch) in [(number | X32_BIT, AUDIT_ARCH), (number, 0x4000_0003)] {
                let data = Data {
                    number,
                    arch,
                    arguments: [0; 6],
                };
                assert_eq!(run(&program, &data).value, libc::SECCOMP_RET_USER_NOTIF);
            }
        }
    }

    #[test]
    fn allowed_calls_are_cheap() {
        let program = build(&FilterOptions::default());
        for row in rows().filter(|row| row.rules.is_empty() && matches!(row.class, Class::Node | Class::File))
        {
            let data = Data {
                number: row.number,
                arch: AUDIT_ARCH,
                arguments: [0; 6],
            };
            let run = run(&program, &data);
            assert!(!run.looked, "{} is not in the kernel's bitmap", row.name);
            assert!(run.steps <= 16, "{} takes {} instructions", row.name, run.steps);
        }
    }

    #[test]
    fn programs_have_room_to_grow() {
        for options in options() {
            let length = build(&options).len();
            assert!(length < INSTRUCTIONS_MAX / 4, "{length} instructions");
        }
    }
}
