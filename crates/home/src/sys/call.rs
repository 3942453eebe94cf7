//! Executing a forwarded call: checked against the table, with memory of the deputy's own for every pointer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use afield_abi::sockets::{OptionValue, option_value};
use afield_abi::syscalls::{self, Arg, Class, Len, Row, nr};
use afield_link::wire::Buffer;
use thiserror::Error;

use super::interrupt::{self, Flag};

/// Longest path, with its NUL.
const PATH_BYTES_MAX: usize = 4096;

/// Why a call is not executed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// The table does not say that home executes it.
    #[error("call {0} is not one that home executes")]
    NotHome(u32),
    /// Its memory is not as the table says.
    #[error("call {number}: argument {argument} is not as the table says")]
    Shape {
        /// The call.
        number: u32,
        /// The argument.
        argument: usize,
    },
    /// A descriptor is not one of the deputy's.
    #[error("call {number}: no home object {handle}")]
    Object {
        /// The call.
        number: u32,
        /// What the node named.
        handle: u64,
    },
    /// A socket option whose value is more than bytes.
    #[error("socket option {name} of level {level} has pointers")]
    SocketOption {
        /// `SOL_*`.
        level: i32,
        /// The option.
        name: i32,
    },
}

impl CallError {
    /// What the guest gets.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotHome(_) => libc::EINVAL,
            Self::Shape { .. } => libc::EFAULT,
            Self::Object { .. } => libc::EBADF,
            Self::SocketOption { .. } => libc::ENOPROTOOPT,
        }
    }
}

/// Calls that the table calls events, because the session looks at them first, and which it may then send home: signals to
/// threads that are not the guest's own, and what the node's kernel does not ask the file door for (access lists, and what only
/// privileged users may do to files).
const PASSED_ON: [u32; 11] = [
    nr::TKILL,
    nr::TGKILL,
    nr::RT_TGSIGQUEUEINFO,
    nr::GETXATTR,
    nr::LGETXATTR,
    nr::SETXATTR,
    nr::LSETXATTR,
    nr::REMOVEXATTR,
    nr::LREMOVEXATTR,
    nr::MKNOD,
    nr::IOCTL,
];

/// One argument's memory.
#[derive(Debug, Clone)]
struct Memory {
    bytes: Vec<u8>,
    output: bool,
}

/// A call that may be made: its number is one that home executes, and every argument that the table calls a pointer is
/// NULL or memory of the length that the call uses.
#[derive(Debug)]
pub struct Prepared {
    number: u32,
    registers: [u64; 6],
    memory: [Option<Memory>; 6],
    /// In the order of the call's buffers, which is that of the reply.
    order: Vec<usize>,
    /// Which registers are numbers.
    numbers: [bool; 6],
    /// Home objects among the arguments, which stay open until the call is over.
    files: Vec<Arc<OwnedFd>>,
    blocks: bool,
    opens: bool,
    /// The descriptor that the call has returned.
    made: Option<OwnedFd>,
}

impl Prepared {
    /// Checks a call. `object` finds the home object of a handle.
    pub fn new(
        number: u32,
        registers: [u64; 6],
        buffers: &[Buffer<'_>],
        object: impl Fn(u64) -> Option<Arc<OwnedFd>>,
    ) -> Result<Self, CallError> {
        let row = syscalls::row(number).ok_or(CallError::NotHome(number))?;
        let shape = shape_of(row, &registers)?;
        let mut prepared = Self {
            number,
            registers: [0; 6],
            memory: [const { None }; 6],
            order: Vec::with_capacity(buffers.len()),
            numbers: [false; 6],
            files: Vec::new(),
            blocks: row.blocks,
            opens: row.gives(&registers).is_some(),
            made: None,
        };
        if matches!(number, nr::SETSOCKOPT | nr::GETSOCKOPT) {
            check_option(number, &registers)?;
        }
        for (index, argument) in shape.iter().enumerate() {
            let refused = CallError::Shape {
                number,
                argument: index,
            };
            let buffer = buffers
                .iter()
                .find(|buffer| usize::from(buffer.argument) == index);
            match argument {
                Arg::None => {}
                Arg::Value => {
                    prepared.registers[index] = registers[index];
                    prepared.numbers[index] = true;
                }
                Arg::Fd => {
                    let handle = registers[index];
                    let file = object(handle).ok_or(CallError::Object { number, handle })?;
                    prepared.registers[index] = file.as_raw_fd() as u64;
                    prepared.files.push(file);
                }
                Arg::In(_) | Arg::Out(_) | Arg::InOut(_) | Arg::String => {
                    let Some(buffer) = buffer else {
                        // NULL, as the guest had it.
                        continue;
                    };
                    if (buffer.input, buffer.output) != (argument.is_input(), argument.is_output()) {
                        return Err(refused);
                    }
                    let fits = match argument {
                        Arg::Out(Len::Pointee { index, max }) => {
                            let count = pointee(buffers, *index);
                            count.is_some_and(|count| {
                                buffer.length == (count.max(0) as u32).min(*max) as usize
                            })
                        }
                        Arg::In(length) | Arg::Out(length) | Arg::InOut(length) => {
                            buffer.length == length.bytes(&registers) as usize
                        }
                        _ => {
                            buffer.length <= PATH_BYTES_MAX
                                && buffer.data.iter().position(|&byte| byte == 0)
                                    == buffer.length.checked_sub(1)
                                && buffer.length > 0
                        }
                    };
                    if !fits {
                        return Err(refused);
                    }
                    let mut bytes = buffer.data.to_vec();
                    bytes.resize(buffer.length, 0);
                    prepared.memory[index] = Some(Memory {
                        bytes,
                        output: buffer.output,
                    });
                }
            }
            if buffer.is_some() && prepared.memory[index].is_none() {
                return Err(refused);
            }
        }
        // The kernel must not be told of more room than there is.
        for argument in shape {
            if let Arg::Out(Len::Pointee { index, max }) = argument
                && let Some(memory) = &mut prepared.memory[*index as usize]
                && let Some(count) = memory.bytes.first_chunk_mut::<4>()
                && i32::from_ne_bytes(*count) > *max as i32
            {
                *count = (*max as i32).to_ne_bytes();
            }
        }
        prepared
            .order
            .extend(buffers.iter().map(|buffer| usize::from(buffer.argument)));
        Ok(prepared)
    }

    /// The call's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether the table says that it may wait for long.
    pub fn blocks(&self) -> bool {
        self.blocks
    }

    /// Whether the result is a new descriptor.
    pub fn opens(&self) -> bool {
        self.opens
    }

    /// The first home object among the arguments.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.files.first().map(|file| file.as_fd())
    }

    /// A register that is a number. 0 for memory.
    pub fn register(&self, index: usize) -> u64 {
        self.registers[index]
    }

    /// All registers.
    pub fn registers(&self) -> &[u64; 6] {
        &self.registers
    }

    /// Changes a register that is a number.
    pub fn set_register(&mut self, index: usize, value: u64) {
        if self.numbers[index] {
            self.registers[index] = value;
        }
    }

    /// The memory of an argument; `None` if it is NULL.
    pub fn memory(&mut self, index: usize) -> Option<&mut [u8]> {
        self.memory[index]
            .as_mut()
            .map(|memory| memory.bytes.as_mut_slice())
    }

    /// Gives an argument that was NULL memory of the deputy's own, which is not part of the reply.
    pub fn provide_memory(&mut self, index: usize, bytes: usize) {
        if self.memory[index].is_none() {
            self.memory[index] = Some(Memory {
                bytes: vec![0; bytes],
                output: false,
            });
        }
    }

    /// Makes the call: a value or a negated errno.
    pub fn make(&mut self, flag: &Flag) -> i64 {
        let mut arguments = self.registers;
        for (argument, memory) in arguments.iter_mut().zip(&mut self.memory) {
            if let Some(memory) = memory {
                *argument = memory.bytes.as_mut_ptr() as u64;
            }
        }
        // SAFETY: `new` checked against the table that what the kernel takes for a pointer is NULL or memory of ours, of
        // the length that the call uses.
        let result = unsafe { interrupt::call(flag, i64::from(self.number), arguments) };
        if let (true, Ok(number)) = (self.opens && result >= 0, RawFd::try_from(result)) {
            // SAFETY: by the table the call returns a new descriptor, which is nobody's yet.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
            self.made = Some(descriptor);
        }
        result
    }

    /// The new descriptor that the call has returned. `None` if there is none, or it has been taken.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.made.take()
    }

    /// The output in the order of the reply.
    pub fn output(&self) -> impl Iterator<Item = &[u8]> {
        self.order
            .iter()
            .filter_map(|&index| self.memory[index].as_ref())
            .filter(|memory| memory.output)
            .map(|memory| memory.bytes.as_slice())
    }
}

/// The count that a buffer of four bytes holds.
fn pointee(buffers: &[Buffer<'_>], index: u8) -> Option<i32> {
    let buffer = buffers.iter().find(|buffer| buffer.argument == index)?;
    buffer
        .data
        .first_chunk::<4>()
        .map(|count| i32::from_ne_bytes(*count))
}

/// A socket option's value must be bytes, all of which are there.
fn check_option(number: u32, registers: &[u64; 6]) -> Result<(), CallError> {
    let (level, name) = (registers[1] as i32, registers[2] as i32);
    let set = number == nr::SETSOCKOPT;
    if option_value(level, name, set) != OptionValue::Bytes {
        return Err(CallError::SocketOption { level, name });
    }
    if set && registers[4] as i32 > syscalls::OPTION_BYTES_MAX as i32 {
        return Err(CallError::Shape { number, argument: 4 });
    }
    Ok(())
}

fn shape_of<'a>(row: &'a Row, registers: &[u64; 6]) -> Result<&'a [Arg; 6], CallError> {
    match row.class(registers) {
        Class::Home | Class::Both => Ok(row.shape(registers)),
        _ if PASSED_ON.contains(&row.number) => match row.shape(registers) {
            // With these arguments it is not passed on.
            [Arg::None, ..] => Err(CallError::NotHome(row.number)),
            shape => Ok(shape),
        },
        _ => Err(CallError::NotHome(row.number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(argument: u8, direction: u8, length: usize, data: &[u8]) -> Buffer<'_> {
        Buffer {
            argument,
            input: direction & 1 != 0,
            output: direction & 2 != 0,
            length,
            data,
        }
    }

    #[test]
    fn only_calls_of_home_are_made() {
        for number in [nr::READ, nr::OPENAT, nr::MMAP, nr::EXECVE, nr::PTRACE, 100_000] {
            assert_eq!(
                Prepared::new(number, [0; 6], &[], |_| None).unwrap_err(),
                CallError::NotHome(number)
            );
        }
        // The class may depend on an argument.
        assert!(Prepared::new(nr::GETRUSAGE, [0; 6], &[], |_| None).is_err());
        let children = libc::RUSAGE_CHILDREN as u32 as u64;
        assert!(Prepared::new(nr::GETRUSAGE, [children, 0, 0, 0, 0, 0], &[], |_| None).is_ok());
    }

    #[test]
    fn pointers_are_the_deputys_own() {
        let mut call = Prepared::new(nr::UNAME, [0xdead_beef; 6], &[], |_| None).unwrap();
        assert_eq!(call.registers(), &[0; 6]);
        assert_eq!(call.make(&Flag::default()), -i64::from(libc::EFAULT));
        let mut call = Prepared::new(nr::UNAME, [1; 6], &[buffer(0, 2, 390, &[])], |_| None).unwrap();
        assert_eq!(call.make(&Flag::default()), 0);
        let output: Vec<_> = call.output().collect();
        assert_eq!(output.len(), 1);
        assert!(output[0].starts_with(b"Linux\0"));
        for wrong in [
            buffer(0, 2, 389, &[]),
            buffer(0, 3, 3, b"abc"),
            buffer(1, 2, 390, &[]),
        ] {
            assert!(Prepared::new(nr::UNAME, [1; 6], &[wrong], |_| None).is_err());
        }
    }

    #[test]
    fn sockets_options_are_bounded() {
        let socket = Arc::new(OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()));
        let object = |handle| (handle == 7).then(|| Arc::clone(&socket));
        let get = |handle: u64, name: i32, count: i32, room: usize| {
            let registers = [handle, libc::SOL_SOCKET as u64, name as u64, 1, 1, 0];
            Prepared::new(
                nr::GETSOCKOPT,
                registers,
                &[buffer(3, 2, room, &[]), buffer(4, 3, 4, &count.to_ne_bytes())],
                object,
            )
            .map(|mut call| call.make(&Flag::default()))
        };
        assert_eq!(get(7, libc::SO_TYPE, 4, 4), Ok(0));
        assert_eq!(get(7, libc::SO_TYPE, 2, 2), Ok(0));
        assert_eq!(get(7, libc::SO_TYPE, -1, 0), Ok(-i64::from(libc::EINVAL)));
        // Less memory than is said.
        assert!(get(7, libc::SO_TYPE, 4, 2).is_err());
        assert_eq!(
            get(8, libc::SO_TYPE, 4, 4),
            Err(CallError::Object {
                number: nr::GETSOCKOPT,
                handle: 8
            })
        );
        // A filter could be read back with any length.
        assert!(get(7, 26, 4, 4).is_err());
    }

    #[test]
    fn lengths_follow_the_registers() {
        let list = [0u8; 16];
        let call = |count: u64, length: usize| {
            Prepared::new(
                nr::SETGROUPS,
                [count, 1, 0, 0, 0, 0],
                &[buffer(1, 1, length, &list[..length])],
                |_| None,
            )
        };
        assert!(call(4, 16).is_ok());
        assert!(call(4, 12).is_err());
        assert!(call(3, 16).is_err());
        assert!(call(u64::MAX, 16).is_err());
    }
}
