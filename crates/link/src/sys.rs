//! Memory: what home and its embedded node share, for the contents of large operations on home objects and files; and the C library's.
//! And what threads have of processors.
//!
//! Only kernels touch it, and who copies in or out: what is in it is read and written by system calls on both sides and never looked at in
//! its place. So neither side has to trust the other not to change it meanwhile.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};

/// Has the C library keep the memory of large frames for the next ones: to give each back to the kernel at once, and to have the
/// kernel clear its pages again, costs as much as its encryption. For processes that need not be small.
pub fn keep_freed_memory() {
    // SAFETY: sets numbers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 20);
    }
}

/// Has the calling thread leave processors to whoever else wants them, most of the time.
pub fn give_way() {
    const NICE: i32 = 10;
    // On Linux it is a thread's own. It can always be raised.
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Bytes of the shared memory.
pub const AREA_BYTES: usize = 16 << 20;

/// Bytes for a system call to read.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    start: *const u8,
    length: usize,
    owner: PhantomData<&'a [u8]>,
}

impl<'a> From<&'a [u8]> for Data<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self {
            start: bytes.as_ptr(),
            length: bytes.len(),
            owner: PhantomData,
        }
    }
}

impl Data<'_> {
    /// Address of the first byte.
    pub fn start(&self) -> *const u8 {
        self.start
    }

    /// Count of bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The first `count` bytes.
    #[must_use]
    pub fn cut(self, count: usize) -> Self {
        Self {
            length: count.min(self.length),
            ..self
        }
    }

    /// What follows the first `count` bytes.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        let count = count.min(self.length);
        Self {
            start: self.start.wrapping_add(count),
            length: self.length - count,
            owner: PhantomData,
        }
    }
}

/// Room for a system call to write to.
#[derive(Debug)]
pub struct Room<'a> {
    start: *mut u8,
    length: usize,
    owner: PhantomData<&'a mut [u8]>,
}

impl<'a> From<&'a mut [u8]> for Room<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self {
            start: bytes.as_mut_ptr(),
            length: bytes.len(),
            owner: PhantomData,
        }
    }
}

impl Room<'_> {
    /// Address of the first byte.
    pub fn start(&self) -> *mut u8 {
        self.start
    }

    /// What follows the first `count` bytes.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        let count = count.min(self.length);
        Self {
            start: self.start.wrapping_add(count),
            length: self.length - count,
            owner: PhantomData,
        }
    }

    /// Count of bytes.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// The memory, mapped.
#[derive(Debug)]
pub struct Area {
    base: NonNull<u8>,
}

// SAFETY: the mapping stays where it is until it is dropped, and nobody looks at the bytes but kernels.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// New memory, as a file that keeps its size.
    pub fn create() -> io::Result<OwnedFd> {
        let file = rustix::fs::memfd_create("afield", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, AREA_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(file)
    }

    /// Maps such a file.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` if the file is not one of [`Area::create`].
    pub fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let size = rustix::fs::fstat(file)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(file)?;
        if size != AREA_BYTES as i64 || !seals.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                AREA_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(base.cast::<u8>())
            .map(|base| Self { base })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn at(&self, place: usize, length: usize) -> Option<*mut u8> {
        let end = place.checked_add(length)?;
        (end <= AREA_BYTES).then(|| self.base.as_ptr().wrapping_add(place))
    }

    /// These bytes, to be read; `None` if they are not in the memory.
    pub fn data(&self, place: usize, length: usize) -> Option<Data<'_>> {
        Some(Data {
            start: self.at(place, length)?,
            length,
            owner: PhantomData,
        })
    }

    /// These bytes, to be written.
    pub fn room(&self, place: usize, length: usize) -> Option<Room<'_>> {
        Some(Room {
            start: self.at(place, length)?,
            length,
            owner: PhantomData,
        })
    }

    /// Puts bytes there. False if they do not fit.
    pub fn put(&self, place: usize, bytes: &[u8]) -> bool {
        let Some(start) = self.at(place, bytes.len()) else {
            return false;
        };
        // SAFETY: `at` has checked that so many bytes from there are in the mapping, of which no reference exists. What somebody
        // else writes there at the same time changes nothing but what these bytes are.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
        true
    }

    /// Copies bytes from there. False if they are not in the memory.
    pub fn get(&self, place: usize, bytes: &mut [u8]) -> bool {
        let Some(start) = self.at(place, bytes.len()) else {
            return false;
        };
        // SAFETY: as in `put`.
        unsafe { std::ptr::copy_nonoverlapping(start, bytes.as_mut_ptr(), bytes.len()) };
        true
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and what borrows from it is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast::<c_void>(), AREA_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_given() {
        let file = Area::create().unwrap();
        let area = Area::map(file.as_fd()).unwrap();
        assert_eq!(area.data(AREA_BYTES - 1, 1).map(|data| data.length()), Some(1));
        for (place, length) in [(AREA_BYTES, 1), (1, AREA_BYTES), (usize::MAX, 2), (2, usize::MAX)] {
            assert!(area.data(place, length).is_none());
            assert!(area.room(place, length).is_none());
        }
        assert!(!area.put(AREA_BYTES - 1, &[1, 2]));
        assert!(!area.get(AREA_BYTES - 1, &mut [1, 2]));
        assert!(area.put(70_000, b"some"));
        let mut bytes = [0; 4];
        rustix::io::pread(&file, &mut bytes, 70_000).unwrap();
        assert_eq!(&bytes, b"some");
        assert!(rustix::fs::ftruncate(&file, 1).is_err());
        let mut bytes = [0; 4];
        assert!(area.get(70_000, &mut bytes));
        assert_eq!(&bytes, b"some");
        let other = rustix::fs::memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        assert!(Area::map(other.as_fd()).is_err());
    }
}
