//! On which CPUs a guest may compute: those that the node lends to its home.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::notify::{Door, Verdict};
use crate::sys::seccomp::Answer;
use crate::sys::{errno, memory};

impl Door {
    /// `sched_setaffinity`: as the kernel does it in a cpuset, where what is asked for beyond the set is left out.
    pub(super) fn set_affinity(&self, tid: i32, arguments: [u64; 6]) -> Result<Verdict, i32> {
        if self.shared.limits.cpus.is_none() {
            return Ok(Verdict::Answer(Answer::Continue));
        }
        let [inner, length, mask, ..] = arguments;
        let target = match inner as u32 {
            0 => tid,
            inner => self.shared.guests.find_inner(inner).ok_or(libc::ESRCH)?.0,
        };
        let mut bytes = [0; CpuSet::MAX_CPU / 8];
        let length = (length as u32 as usize).min(bytes.len());
        memory::read(tid, mask, &mut bytes[..length]).map_err(|error| errno(&error))?;
        // The session itself computes only there.
        let lent = sched_getaffinity(None).map_err(|errno| errno.raw_os_error())?;
        let mut set = CpuSet::new();
        for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| lent.is_set(*cpu)) {
            if bytes[cpu / 8] & 1 << (cpu % 8) != 0 {
                set.set(cpu);
            }
        }
        let target = Pid::from_raw(target).ok_or(libc::ESRCH)?;
        sched_setaffinity(Some(target), &set).map_err(|errno| errno.raw_os_error())?;
        Ok(Verdict::Answer(Answer::Result(0)))
    }
}
