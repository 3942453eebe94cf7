//! Memory that forked processes share.

use std::io;

use crate::admission::Slot;

/// Lines of zeros, the same for this process and all that it forks. They are never given back.
pub fn shared_slots(count: usize) -> io::Result<&'static [Slot]> {
    // SAFETY: a fresh mapping that nothing else refers to; the kernel chooses where.
    let place = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            count * size_of::<Slot>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if place == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, as long as this, stays for ever, and zeros are a valid value of atomics.
    Ok(unsafe { std::slice::from_raw_parts(place.cast(), count) })
}
