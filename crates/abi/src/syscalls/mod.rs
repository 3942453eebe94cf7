//! The system-call table: for every call where it is executed, and what a forwarded call reads and writes.
//!
//! The table is data, one file per area. The filter ([`crate::filter`]), the dispatch on the node, the check at
//! home and the published list ([`markdown`]) are generated from it. A call that has no row does not exist in the Linux
//! that this table describes (6.18); its class is `Never(ENOSYS)`, which is what a kernel without it answers.
//!
//! All arguments that rules look at are `int` or `unsigned int` in the kernel (of `clone`'s flags it takes the lower
//! half), so rules compare 32 bits.

mod descriptors;
mod files;
mod identity;
mod ipc;
mod memory;
mod process;
mod refused;
mod signals;
mod time;

use std::fmt::Write as _;

use crate::arch::x86_64::CALLS;
pub use crate::arch::x86_64::nr;
use crate::errno;
pub use descriptors::{OPTION_BYTES_MAX, SET_FILE_ATTRIBUTES, SET_FILE_FLAGS};
pub use process::{HOME_LIMITS, TRACERS_FILTER};

/// What the tracer makes of an `lseek` on a file whose offset is home's: no call of any kernel, so it comes out of the notify door.
pub const SEEK_AT_HOME: u32 = 0x2000_0000;

/// Where a call is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// By the node's kernel on its own objects.
    Node,
    /// By the node's kernel, which asks home through the file door where it has to.
    File,
    /// By the deputy.
    Home,
    /// By the deputy, and if that succeeds by the node's kernel as well, whose result counts.
    Both,
    /// Something that afield itself has to know of.
    Event(Door),
    /// Not possible afield: it fails with this errno, and the user is told once.
    Never(i32),
}

/// Where an event comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// In the tracer, before the call (`SECCOMP_RET_TRACE`).
    Trace,
    /// In the session (`SECCOMP_RET_USER_NOTIF`).
    Notify,
}

/// A condition on the lower 32 bits of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Equal to the value.
    Equal(u32),
    /// Equal to one of the values.
    Any(&'static [u32]),
    /// At least one of the bits is set.
    MaskSet(u32),
    /// None of the bits is set.
    MaskClear(u32),
}

impl Test {
    /// Whether the condition holds for a register.
    pub fn holds(self, register: u64) -> bool {
        let value = register as u32;
        match self {
            Self::Equal(wanted) => value == wanted,
            Self::Any(wanted) => wanted.contains(&value),
            Self::MaskSet(mask) => value & mask != 0,
            Self::MaskClear(mask) => value & mask == 0,
        }
    }
}

/// An exception to a row's class. The first rule that holds decides.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Index of the argument, 0 to 5.
    pub argument: u8,
    /// What it is compared with.
    pub test: Test,
    /// The class if the test holds.
    pub class: Class,
    /// The call's arguments in this case; `None`: as the row says.
    pub shape: Option<[Arg; 6]>,
    /// The condition in words, for the published list.
    pub when: &'static str,
}

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// Not looked at by the kernel, or not wanted from home; passed as 0.
    None,
    /// A number, passed as it is.
    Value,
    /// A descriptor, passed as the handle of the home object behind it. If there is none, the call is about an object
    /// of the node's, whose kernel executes it.
    Fd,
    /// Memory that the call reads.
    In(Len),
    /// Memory that the call writes in full if it succeeds.
    Out(Len),
    /// Memory that the call reads and writes, or writes only in part, so that the rest has to survive the round trip.
    InOut(Len),
    /// A path of at most 4096 bytes with its NUL.
    String,
}

impl Arg {
    /// Bytes of memory that the argument covers with these registers: `None` if it is not memory of a length that
    /// the registers give, `Some(0)` if there is nothing to transfer, and then NULL is passed on as NULL.
    ///
    /// `index` is the argument's own. A NULL pointer covers nothing.
    pub fn bytes(self, index: usize, arguments: &[u64; 6]) -> Option<u32> {
        match self {
            Self::In(length) | Self::Out(length) | Self::InOut(length) => Some(if arguments[index] == 0 {
                0
            } else {
                length.bytes(arguments)
            }),
            Self::None | Self::Value | Self::Fd | Self::String => None,
        }
    }

    /// Whether the memory's contents go to home.
    pub fn is_input(self) -> bool {
        matches!(self, Self::In(_) | Self::InOut(_) | Self::String)
    }

    /// Whether the memory's contents come back.
    pub fn is_output(self) -> bool {
        matches!(self, Self::Out(_) | Self::InOut(_))
    }
}

/// Length of a memory argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Len {
    /// Always this many bytes.
    Fixed(u32),
    /// As many elements of `unit` bytes as argument `index`, an `int`, says, but no more than `max`: the kernel
    /// refuses a larger count, or never touches more. A negative count is none.
    Argument {
        /// Which argument counts the elements.
        index: u8,
        /// Bytes per element.
        unit: u32,
        /// Most elements.
        max: u32,
    },
    /// As many bytes as the `int` says to which argument `index` points, an in-out buffer of four bytes, but no more than
    /// `max`. A negative count is none.
    Pointee {
        /// Which argument points to the count.
        index: u8,
        /// Most bytes.
        max: u32,
    },
}

impl Len {
    /// Bytes, with these registers; of a [`Len::Pointee`], whose count is in memory, the most there can be.
    pub fn bytes(self, arguments: &[u64; 6]) -> u32 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Pointee { max, .. } => max,
            Self::Argument { index, unit, max } => {
                let count = (arguments[index as usize] as i32).max(0) as u32;
                count.min(max) * unit
            }
        }
    }
}

/// What becomes of a forwarded call that a signal interrupts at home before it has done anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It fails with `EINTR`, handler or not.
    Never,
    /// It is made again if there is no handler, or the handler has `SA_RESTART` (`ERESTARTSYS`).
    Restart,
    /// It is made again only if no handler ran (`ERESTARTNOHAND`).
    NoHandler,
}

/// The result of a call is a new descriptor, of a home object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opens {
    /// The argument that may have `O_NONBLOCK` and `O_CLOEXEC` among its bits (as `SOCK_NONBLOCK`, `IN_CLOEXEC` and the
    /// like are); `None` if there is none.
    pub flags: Option<u8>,
    /// The descriptor is close-on-exec whatever the flags say.
    pub always_cloexec: bool,
}

impl Opens {
    /// `O_NONBLOCK` and `O_CLOEXEC` of the new descriptor, with these registers.
    pub fn flags(self, arguments: &[u64; 6]) -> u32 {
        let asked = self.flags.map_or(0, |index| arguments[index as usize] as u32);
        let always = if self.always_cloexec {
            libc::O_CLOEXEC as u32
        } else {
            0
        };
        asked & (libc::O_NONBLOCK | libc::O_CLOEXEC) as u32 | always
    }
}

/// One system call.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The number on x86-64.
    pub number: u32,
    /// The name.
    pub name: &'static str,
    /// The class if no rule holds.
    pub class: Class,
    /// Exceptions, in order.
    pub rules: &'static [Rule],
    /// The arguments of a forwarded call, if the rule does not say otherwise.
    pub shape: [Arg; 6],
    /// What becomes of it if it is interrupted at home.
    pub restart: Restart,
    /// It may wait at home for an unlimited time.
    pub blocks: bool,
    /// Its result is a new descriptor of a home object.
    pub opens: Option<Opens>,
    /// It shows or sets owners of files, which a world without mapped ids has to correct.
    pub owners: bool,
    /// For the published list.
    pub note: &'static str,
}

impl Row {
    /// The class with these arguments.
    pub fn class(&self, arguments: &[u64; 6]) -> Class {
        self.rule(arguments).map_or(self.class, |rule| rule.class)
    }

    /// The shape with these arguments.
    pub fn shape(&self, arguments: &[u64; 6]) -> &[Arg; 6] {
        self.rule(arguments)
            .and_then(|rule| rule.shape.as_ref())
            .unwrap_or(&self.shape)
    }

    /// What the new descriptor of a home object is that the call returns with these arguments; `None` if it returns none.
    pub fn gives(&self, arguments: &[u64; 6]) -> Option<Opens> {
        self.opens.filter(|_| self.class(arguments) == Class::Home)
    }

    fn rule(&self, arguments: &[u64; 6]) -> Option<&Rule> {
        self.rules
            .iter()
            .find(|rule| rule.test.holds(arguments[rule.argument as usize]))
    }

    const fn rules(mut self, rules: &'static [Rule]) -> Self {
        self.rules = rules;
        self
    }

    const fn shaped<const N: usize>(mut self, arguments: [Arg; N]) -> Self {
        self.shape = shape(arguments);
        self
    }

    const fn blocks(mut self, restart: Restart) -> Self {
        self.blocks = true;
        self.restart = restart;
        self
    }

    const fn opens(mut self, flags: Option<u8>, always_cloexec: bool) -> Self {
        self.opens = Some(Opens {
            flags,
            always_cloexec,
        });
        self
    }

    const fn owners(mut self) -> Self {
        self.owners = true;
        self
    }

    const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }
}

impl Rule {
    const fn shaped<const N: usize>(mut self, arguments: [Arg; N]) -> Self {
        self.shape = Some(shape(arguments));
        self
    }
}

/// A row with nothing special; the builder methods above add to it.
const fn call(number: u32, class: Class) -> Row {
    Row {
        number,
        name: name_of(number),
        class,
        rules: &[],
        shape: [Arg::None; 6],
        restart: Restart::Never,
        blocks: false,
        opens: None,
        owners: false,
        note: "",
    }
}

/// A rule; `when` says the condition in words.
const fn rule(argument: u8, test: Test, class: Class, when: &'static str) -> Rule {
    Rule {
        argument,
        test,
        class,
        shape: None,
        when,
    }
}

const fn shape<const N: usize>(arguments: [Arg; N]) -> [Arg; 6] {
    let mut shape = [Arg::None; 6];
    let mut index = 0;
    while index < N {
        shape[index] = arguments[index];
        index += 1;
    }
    shape
}

const fn name_of(number: u32) -> &'static str {
    let mut index = 0;
    while index < CALLS.len() {
        if CALLS[index].number == number {
            return CALLS[index].name;
        }
        index += 1;
    }
    panic!("a row for a call without a name")
}

/// One more than the largest number in the table.
pub const NUMBERS: usize = 470;

const AREAS: [&[Row]; 9] = [
    memory::ROWS,
    files::ROWS,
    descriptors::ROWS,
    process::ROWS,
    signals::ROWS,
    identity::ROWS,
    time::ROWS,
    ipc::ROWS,
    refused::ROWS,
];

static INDEX: [Option<&'static Row>; NUMBERS] = index();

/// Finds two rows for one call, and calls without a row, when the program is compiled.
const fn index() -> [Option<&'static Row>; NUMBERS] {
    let mut index: [Option<&'static Row>; NUMBERS] = [None; NUMBERS];
    let mut area = 0;
    while area < AREAS.len() {
        let mut row = 0;
        while row < AREAS[area].len() {
            let number = AREAS[area][row].number as usize;
            assert!(index[number].is_none(), "two rows for one call");
            index[number] = Some(&AREAS[area][row]);
            row += 1;
        }
        area += 1;
    }
    let mut known = 0;
    while known < CALLS.len() {
        assert!(
            index[CALLS[known].number as usize].is_some(),
            "a call without a row"
        );
        known += 1;
    }
    index
}

/// The row of a call.
pub fn row(number: u32) -> Option<&'static Row> {
    INDEX.get(number as usize).copied().flatten()
}

/// All rows, by number.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    INDEX.iter().copied().flatten()
}

/// The row of the call with this name.
pub fn named(name: &str) -> Option<&'static Row> {
    rows().find(|row| row.name == name)
}

/// The class of a call with these arguments.
pub fn class_of(number: u32, arguments: &[u64; 6]) -> Class {
    row(number).map_or(Class::Never(libc::ENOSYS), |row| row.class(arguments))
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::File => f.write_str("file"),
            Self::Home => f.write_str("home"),
            Self::Both => f.write_str("both"),
            Self::Event(Door::Trace) => f.write_str("event (trace)"),
            Self::Event(Door::Notify) => f.write_str("event (notify)"),
            Self::Never(number) => match errno::name(*number) {
                Some(name) => write!(f, "never ({name})"),
                None => write!(f, "never ({number})"),
            },
        }
    }
}

impl Row {
    /// The class and its exceptions in words, for example `node; home if who is RUSAGE_CHILDREN`.
    pub fn class_text(&self) -> String {
        let mut text = self.class.to_string();
        for rule in self.rules {
            // Writing to a string cannot fail.
            let _ = write!(text, "; {} if {}", rule.class, rule.when);
        }
        text
    }
}

/// The published list, `docs/syscalls.md`.
pub fn markdown() -> String {
    let mut text = String::from(MARKDOWN_HEAD);
    for row in rows() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} |",
            row.number,
            row.name,
            row.class_text(),
            row.note
        );
    }
    text
}

const MARKDOWN_HEAD: &str = "\
# System calls

Where each system call of a guest is executed. This page is generated from the table in `crates/abi/src/syscalls` by
`afield syscalls --markdown`; a test holds the two equal.

| class | meaning |
|---|---|
| node | executed by the node's kernel, at native speed |
| file | executed by the node's kernel on home's files, through the file door |
| home | executed at home by the deputy |
| both | executed at home by the deputy, and if that succeeds on the node as well |
| event | afield itself takes part: in the tracer, or in the session (notify) |
| never | not possible afield (yet): fails with the errno given, and `afield run -v` names it once |

Calls that are not listed fail with `ENOSYS`, as on a kernel without them.

| number | call | class | note |
|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forwarded_call_has_a_sound_shape() {
        for row in rows() {
            let shapes = row
                .rules
                .iter()
                .map(|rule| (rule.class, rule.shape.as_ref().unwrap_or(&row.shape)))
                .chain([(row.class, &row.shape)]);
            for (class, shape) in shapes {
                if !matches!(class, Class::Home | Class::Both) {
                    continue;
                }
                for (index, argument) in shape.iter().enumerate() {
                    if let Arg::In(length) | Arg::Out(length) | Arg::InOut(length) = argument {
                        let bytes = length.bytes(&[u64::from(i32::MAX as u32); 6]);
                        assert!(bytes > 0 && bytes <= 1 << 20, "{} argument {index}", row.name);
                        if let Len::Argument { index: counter, .. } = length {
                            assert_eq!(shape[*counter as usize], Arg::Value, "{}", row.name);
                        }
                        if let Len::Pointee { index: counter, .. } = length {
                            assert_eq!(
                                shape[*counter as usize],
                                Arg::InOut(Len::Fixed(4)),
                                "{}",
                                row.name
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_follow_their_arguments() {
        let groups = row(nr::GETGROUPS).unwrap();
        let bytes =
            |count: i32, pointer: u64| groups.shape[1].bytes(1, &[count as u32 as u64, pointer, 0, 0, 0, 0]);
        assert_eq!(bytes(3, 0x1000), Some(12));
        assert_eq!(bytes(3, 0), Some(0));
        assert_eq!(bytes(-1, 0x1000), Some(0));
        assert_eq!(bytes(i32::MAX, 0x1000), Some(4 << 16));
    }

    #[test]
    fn classes_depend_on_arguments() {
        let first = |value: u64| [value, 0, 0, 0, 0, 0];
        assert_eq!(
            class_of(nr::CLONE, &first(libc::SIGCHLD as u64)),
            Class::Event(Door::Trace)
        );
        assert_eq!(
            class_of(nr::CLONE, &first(libc::CLONE_THREAD as u64)),
            Class::Node
        );
        let odd = (libc::CLONE_THREAD | libc::CLONE_NEWUTS) as u64;
        assert_eq!(class_of(nr::CLONE, &first(odd)), Class::Event(Door::Trace));
        // The kernel does not look at the upper half.
        assert_eq!(class_of(nr::GETRUSAGE, &first(u64::MAX)), Class::Home);
        assert_eq!(class_of(nr::GETRUSAGE, &first(u64::from(u32::MAX))), Class::Home);
        assert_eq!(class_of(nr::GETRUSAGE, &first(0)), Class::Node);
        assert_eq!(class_of(400, &[0; 6]), Class::Never(libc::ENOSYS));
        assert_eq!(class_of(u32::MAX, &[0; 6]), Class::Never(libc::ENOSYS));
    }

    #[test]
    fn notes_fit_a_table() {
        for row in rows() {
            assert!(
                !row.note.contains('|') && !row.note.contains('\n'),
                "{}",
                row.name
            );
            if matches!(row.class, Class::Never(_)) {
                assert!(!row.note.is_empty(), "{} does not say why", row.name);
            }
        }
    }

    #[test]
    fn the_published_list_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/syscalls.md");
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == markdown(),
            "docs/syscalls.md is not what the table says: run `cargo run -- syscalls --markdown > docs/syscalls.md`"
        );
    }
}
