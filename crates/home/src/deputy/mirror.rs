//! The deputy's table of descriptors as others see it (`lsof`, `fuser`): what the guest has open, under the guest's numbers.
//!
//! Files of home's tree are opened by the agent; the deputy has descriptors of them that only show what is open (`O_PATH`). They hold no
//! lock and drop none when they are closed, keep nobody from executing or writing, are no reader or writer of anything, and
//! make no event. Home objects are the deputy's own. Where one has another number than at the guest it is moved, so that there never
//! is one more descriptor that would keep it open; what the guest has of it under further numbers is shown in that other way.
//!
//! What is shown follows what the guest does by about a second, and is never asked by anybody here: if a number is taken by
//! something else, a file is shown under another one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use afield_link::control::{DESCRIPTORS_TOLD, DescriptorChange, Held};
use rustix::fs::{Mode, OFlags};

use super::handles::Sort;
use super::places::copy_out_of_the_way;
use super::{Deputy, lock, out_of_the_way};
use crate::messages::FromDeputy;
use crate::proc;
use crate::run::device_named;
use crate::sys::process;

/// Descriptors that stay free for home objects.
const SPARE: usize = 64;

/// What the guest has open, as the node has told, and what shows it.
#[derive(Debug, Default)]
pub struct Mirror {
    guest: BTreeMap<u32, Held>,
    /// By the guest's number; its own may be another.
    shown: BTreeMap<u32, (Held, OwnedFd)>,
    /// Files of which there is no descriptor yet.
    missing: BTreeSet<u32>,
    /// What the agent has been asked for.
    asked: Option<(u32, Held)>,
}

impl Mirror {
    /// The guest's descriptors have changed.
    pub fn change(&mut self, deputy: &Deputy, changes: &[DescriptorChange]) {
        for &DescriptorChange { number, now } in changes {
            match now {
                Held::Nothing => self.guest.remove(&number),
                _ => self.guest.insert(number, now),
            };
        }
        let guest = &self.guest;
        self.shown
            .retain(|number, (held, _)| guest.get(number) == Some(held));
        self.move_objects(deputy);
        for (&number, (_, file)) in &mut self.shown {
            if file.as_raw_fd() != number as i32
                && let Some(moved) = exactly(&*file, number)
            {
                *file = moved;
            }
        }
        self.missing.clear();
        for (number, held) in self.guest.clone() {
            match held {
                _ if self.shown.contains_key(&number) => {}
                Held::Object(handle) => self.show_object(deputy, number, handle),
                Held::Device(minor) => self.show_device(deputy, number, minor),
                Held::File(_) | Held::Nothing => drop(self.missing.insert(number)),
            }
        }
        self.ask(deputy);
    }

    /// The agent's answer.
    pub fn reached(&mut self, deputy: &Deputy, way: Option<OwnedFd>) {
        if let (Some((number, held)), Some(way)) = (self.asked.take(), way)
            && self.guest.get(&number) == Some(&held)
            && !self.shown.contains_key(&number)
        {
            let way = to_number(way, number).unwrap_or_else(out_of_the_way);
            self.shown.insert(number, (held, way));
        }
        self.ask(deputy);
    }

    /// Asks for the next that is missing.
    fn ask(&mut self, deputy: &Deputy) {
        while self.asked.is_none()
            && self.has_room(deputy)
            && let Some(number) = self.missing.pop_first()
        {
            if let Some(&held @ Held::File(node)) = self.guest.get(&number) {
                self.asked = Some((number, held));
                deputy.tell(0, &FromDeputy::Reach { node });
            }
        }
    }

    /// Whether there may be one more descriptor that only shows something.
    fn has_room(&self, deputy: &Deputy) -> bool {
        let (limit, _) = process::limit(libc::RLIMIT_NOFILE);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let shown = self.shown.len();
        let most = (DESCRIPTORS_TOLD as usize).min(limit / 8);
        shown < most && lock(&deputy.handles).count() + shown + SPARE < limit
    }

    /// Has home objects stand where the guest has them.
    fn move_objects(&mut self, deputy: &Deputy) {
        let mut numbers: HashMap<u64, Vec<u32>> = HashMap::new();
        for (&number, &held) in &self.guest {
            if let Held::Object(handle) = held {
                numbers.entry(handle).or_default().push(number);
            }
        }
        // One may stand where another belongs: it steps aside first.
        for steps_aside in [true, false] {
            for (&handle, wanted) in &numbers {
                if self.has_room(deputy) {
                    self.move_object(deputy, handle, wanted, steps_aside);
                }
            }
        }
    }

    fn move_object(&mut self, deputy: &Deputy, handle: u64, wanted: &[u32], steps_aside: bool) {
        let Some(object) = lock(&deputy.handles).get(handle) else {
            return;
        };
        let own = object.file.as_raw_fd() as u32;
        // To close a descriptor of a file drops the locks on it.
        let stays = object.sort == Sort::Regular || deputy.signals.is_named(object.file.as_fd());
        if stays || wanted.contains(&own) {
            return;
        }
        let place = wanted.iter().find_map(|number| {
            self.shown.remove(number);
            exactly(&*object.file, *number)
        });
        let place = place.or_else(|| {
            let is_in_the_way = steps_aside && self.guest.contains_key(&own);
            is_in_the_way
                .then(|| copy_out_of_the_way(&*object.file))
                .flatten()
        });
        if let Some(place) = place {
            // Operations in progress keep the former.
            let former = {
                let mut handles = lock(&deputy.handles);
                handles.replace(handle, place)
            };
            let now = lock(&deputy.handles).get(handle);
            if let (Some(former), Some(now)) = (former, now) {
                deputy.readiness.moved(handle, former.as_fd(), now.file.as_fd());
            }
        }
    }

    /// Shows that the guest has an object under this number as well.
    fn show_object(&mut self, deputy: &Deputy, number: u32, handle: u64) {
        let Some(object) = lock(&deputy.handles).get(handle) else {
            return;
        };
        let own = object.file.as_raw_fd();
        if own == number as i32 || !self.has_room(deputy) {
            return;
        }
        let (directory, path) = proc::place(&format!("self/fd/{own}"));
        let way = rustix::fs::openat(directory, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        if let Some(way) = way.ok().and_then(|way| to_number(way, number).ok()) {
            self.shown.insert(number, (Held::Object(handle), way));
        }
    }

    /// Shows a device that the node has as well.
    fn show_device(&mut self, deputy: &Deputy, number: u32, minor: u32) {
        let Some(name) = device_named(minor).filter(|_| self.has_room(deputy)) else {
            return;
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let way = rustix::fs::open(format!("/dev/{name}"), flags, Mode::empty());
        if let Some(way) = way.ok().and_then(|way| to_number(way, number).ok()) {
            self.shown.insert(number, (Held::Device(minor), way));
        }
    }
}

/// The descriptor under that number if it is free, else as it was.
fn to_number(file: OwnedFd, number: u32) -> Result<OwnedFd, OwnedFd> {
    match file.as_raw_fd() == number as i32 {
        true => Ok(file),
        false => exactly(&file, number).ok_or(file),
    }
}

/// One more descriptor of a file, of that number if it is free. Another thread may be about to get a descriptor, so none is ever
/// replaced.
fn exactly(file: impl AsFd, number: u32) -> Option<OwnedFd> {
    let copy = rustix::io::fcntl_dupfd_cloexec(file, number as i32).ok()?;
    (copy.as_raw_fd() == number as i32).then_some(copy)
}
