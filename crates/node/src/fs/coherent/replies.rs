//! What home says: its replies, and what has changed.

use std::sync::{Arc, MutexGuard};

use afield_abi::fuse::{
    ATTRIBUTES_SETTLED, Attributes, AttributesReply, EntryReply, Opcode, OpenReply, ReplyHeader,
    RequestHeader, StatxReply, WriteRequest, write_flag,
};
use afield_link::aftermath::{After, NAMES};
use afield_link::invalidation::{self, FOREVER_SECONDS};
use afield_link::stream::LinkError;
use zerocopy::FromBytes;

use super::kept::{Contents, Notice};
use super::means::{Means, note_entry, note_listing};
use super::opens::Way;
use super::state::{LINKS_BYTES_MAX, State};
use super::touched::Touched;
use super::{Coherent, Delivery, OWN_REQUEST, early_answers};
use crate::fs::connections::connection_of;
use crate::fs::{Request, error_reply, lock};
use crate::session::Shared;
use crate::world::mounts::OWN_DEVICES;

impl Coherent {
    /// Something has changed at home. What the kernel has to be told is returned.
    ///
    /// # Errors
    /// It is not what home may say.
    pub fn changed(&self, shared: &Shared, payload: &[u8]) -> Result<Vec<Notice>, LinkError> {
        let changes = invalidation::decode(payload)?;
        let mut notices = Vec::new();
        let mut closings = Vec::new();
        let mut back = Vec::new();
        {
            let mut state = lock(&self.state);
            for change in changes {
                back.extend(state.early.changed(&change));
                match (change, &shared.files.contents) {
                    (invalidation::Change::Everything, Some(contents)) => contents.all_changed(),
                    (invalidation::Change::Contents { node }, Some(contents)) => contents.changed(node),
                    _ => {}
                }
                match change {
                    invalidation::Change::Everything => {
                        closings.extend(state.opens.doubt_all());
                        state.answers.forget_all();
                        state.settled.forget_all();
                        state.drafts.forget_all();
                        state.links.clear();
                        state.links_bytes = 0;
                    }
                    invalidation::Change::Name { directory, .. } => {
                        closings.extend(state.opens.doubt(directory));
                        state.settled.forget(directory);
                    }
                    invalidation::Change::Attributes { node } | invalidation::Change::Contents { node } => {
                        closings.extend(state.opens.doubt(node));
                        state.forget_link(node);
                        state.answers.forget(node);
                        state.settled.forget(node);
                        state.drafts.forget(node);
                    }
                }
                state.kept.changed(change, &mut notices);
            }
        }
        self.close_later(shared, closings);
        early_answers::give_back_later(shared, back);
        Ok(notices)
    }

    /// A write of a guest, of which home's reply is not waited for, is in the stream: whatever home has said before does not know of it.
    pub fn sent_behind(&self, request: &Request<'_>) {
        let mut state = lock(&self.state);
        let node = request.header.node;
        let touched = Touched::by(request, &Means::Nothing, &state.kept);
        let back = state.touch(&touched);
        debug_assert!(back.is_empty(), "nothing early is held of what guests write to");
        match plainly_written(request) {
            Some((offset, data)) => state.drafts.write(node, offset, data),
            None => state.drafts.forget(node),
        }
    }

    /// Home has answered, and said what it has left. The reply is made what the kernel is to get; with `passing` it is not to rely on it.
    pub fn replied(
        &self,
        shared: &Arc<Shared>,
        unique: u64,
        reply: &mut [u8],
        after: &[After],
        passing: bool,
    ) -> Delivery {
        let mut state = lock(&self.state);
        let Some(sent) = state.sent.remove(&unique) else {
            return match unique & OWN_REQUEST {
                0 => Delivery::Give(0),
                _ => Delivery::Drop,
            };
        };
        let fresh: Vec<&After> = after
            .iter()
            .filter(|after| !passing && state.is_fresh(after.node, sent.changes))
            .collect();
        let back = state.touch(&sent.touched);
        early_answers::give_back_later(shared, back);
        let Ok((header, body)) = ReplyHeader::mut_from_prefix(reply) else {
            return Delivery::Give(sent.inner);
        };
        if sent.opcode == Opcode::Write {
            // Not all may have been written.
            state.settled.forget(sent.node);
            state.drafts.forget(sent.node);
        }
        if let Means::Own(handle, way) = sent.means {
            self.go_on(shared, state, (handle, way), header.error, body);
            return Delivery::Drop;
        }
        if let Means::Closed = sent.means {
            return Delivery::Drop;
        }
        if let Means::Rested(handle) = sent.means {
            if header.error != 0 {
                let closing = state.opens.refused(handle);
                drop(state);
                self.close_later(shared, closing.into_iter().collect());
            }
            return Delivery::Drop;
        }
        state.answers.change_by(sent.opcode, sent.node);
        if let Means::Answer(question, asked) = sent.means {
            if !passing && state.kept.is_lasting(sent.node) {
                state
                    .answers
                    .learn(sent.node, question, header.error.saturating_neg(), asked);
            }
            return Delivery::Give(sent.inner);
        }
        if header.error != 0 {
            return Delivery::Give(sent.inner);
        }
        let mut notices = Vec::new();
        let mut closings = Vec::new();
        let directory = sent.node;
        let names_hold = |of: u64| {
            let directory = fresh.iter().find(|after| after.node == of);
            directory.is_some_and(|after| after.flags & NAMES != 0)
        };
        match sent.means {
            Means::Entry(name) => {
                if let Ok((entry, rest)) = EntryReply::mut_from_prefix(body) {
                    if sent.opcode == Opcode::Lookup
                        && shared.files.places.is_maker(sent.inner)
                        && let Some(name) = &name
                    {
                        state.kept.anchor(directory, name);
                        shared.files.places.note(directory, name, entry.node);
                    }
                    let lasting = !passing && sent.opcode == Opcode::Lookup && entry.attributes_valid > 0;
                    if entry.node != 0 {
                        state.learn(entry.node, &mut entry.attributes, lasting, sent.changes);
                    }
                    note_entry(&mut state.kept, directory, name.as_deref(), entry, passing);
                    if let Some(name) = &name
                        && shared.files.places.is_building()
                        && is_own_device(name, entry)
                        && state.kept.rely(directory, name, entry.node)
                    {
                        // The world's own is mounted there, as long as home does not say that the name means something else.
                        entry.entry_valid = FOREVER_SECONDS;
                    }
                    state.kept.reach(entry.node, connection_of(unique));
                    if shared.files.places.is_building() {
                        believe_for_now(entry);
                    }
                    if !rest.is_empty() {
                        state.kept.opened(entry.node, Contents::Pages);
                        state.begin_draft(entry.node, rest, &fresh);
                    }
                }
            }
            Means::Removed(name) => {
                state.kept.removed(directory, &name);
                if names_hold(directory) {
                    state.is_gone(directory, name);
                }
            }
            Means::Moved {
                old,
                to,
                new,
                exchanged,
            } => {
                state.kept.moved((directory, &old), (to, &new), exchanged);
                if names_hold(directory) && !exchanged && (directory, &old) != (to, &new) {
                    state.is_gone(directory, old);
                }
            }
            Means::Link => {
                let target: Box<[u8]> = (*body).into();
                if state.kept.is_lasting(sent.node) && state.links_bytes + target.len() <= LINKS_BYTES_MAX {
                    state.forget_link(sent.node);
                    state.links_bytes += target.len();
                    state.links.insert(sent.node, target);
                }
            }
            Means::Listing => {
                note_listing(&mut state.kept, (directory, connection_of(unique)), body, passing);
            }
            Means::Attributes if passing => {
                if let Ok((reply, _)) = AttributesReply::mut_from_prefix(body) {
                    (reply.valid, reply.valid_nanoseconds) = (0, 0);
                    reply.attributes.flags &= !ATTRIBUTES_SETTLED;
                }
            }
            Means::Statx if passing => {
                if let Ok((reply, _)) = StatxReply::mut_from_prefix(body) {
                    (reply.valid, reply.valid_nanoseconds) = (0, 0);
                }
            }
            Means::Opened(contents) => {
                state.kept.opened(sent.node, contents);
                if contents == Contents::Pages {
                    state.begin_draft(sent.node, body, &fresh);
                }
            }
            Means::Rights => {
                if let (true, Opcode::SetAttributes, Ok((reply, _))) =
                    (passing, sent.opcode, AttributesReply::mut_from_prefix(body))
                {
                    (reply.valid, reply.valid_nanoseconds) = (0, 0);
                }
                closings = state.opens.doubt(sent.node);
                state.kept.drop_names(sent.node, &mut notices);
            }
            Means::Attributes => {
                if let Ok((reply, _)) = AttributesReply::mut_from_prefix(body) {
                    let lasting = sent.opcode == Opcode::GetAttributes && reply.valid > 0;
                    state.learn(sent.node, &mut reply.attributes, lasting, sent.changes);
                    state.kept.looked_at(sent.node, reply.valid > 0);
                }
            }
            Means::Statx => {
                if let Ok((reply, _)) = StatxReply::read_from_prefix(body) {
                    state.kept.looked_at(sent.node, reply.valid > 0);
                }
            }
            Means::Nothing | Means::Closed | Means::Rested(_) | Means::Answer(..) | Means::Own(..) => {}
        }
        for after in fresh {
            state.learn_after(after);
        }
        drop(state);
        self.close_later(shared, closings);
        match notices.is_empty() {
            true => Delivery::Give(sent.inner),
            false => Delivery::GiveAndTell(sent.inner, notices),
        }
    }

    /// Home has opened a file for one guest, or not: what has waited for that goes on.
    fn go_on(
        &self,
        shared: &Arc<Shared>,
        mut state: MutexGuard<'_, State>,
        (handle, way): (u64, Way),
        error: i32,
        body: &[u8],
    ) {
        let waiting = state.waiting.remove(&handle).unwrap_or_default();
        let open = OpenReply::read_from_prefix(body).ok();
        let errno = match open {
            Some((open, _)) if error == 0 => {
                let closing = state.opens.set_own(handle, open.handle, way);
                drop(state);
                self.close_later(shared, closing.into_iter().collect());
                None
            }
            _ => {
                state.opens.break_promise(handle);
                Some(if error < 0 { -error } else { libc::EIO })
            }
        };
        shared.with_memory(Box::new(move |shared| {
            for (opcode, mut bytes) in waiting {
                let Ok((header, _)) = RequestHeader::read_from_prefix(&bytes) else {
                    continue;
                };
                let request = Request {
                    opcode,
                    header,
                    bytes: &mut bytes,
                    data: None,
                };
                let outcome = match errno {
                    Some(errno) => Err(errno),
                    None => shared.files.home.relay(shared, request),
                };
                if let Err(errno) = outcome {
                    shared.files.take(header.unique);
                    shared.files.reply(&error_reply(header.unique, errno));
                }
            }
        }));
    }
}

/// Where and what a guest writes, if that is in the request and is written just as it is.
fn plainly_written<'a>(request: &'a Request<'_>) -> Option<(u64, &'a [u8])> {
    let (write, data) = WriteRequest::ref_from_prefix(request.body()).ok()?;
    let other = write_flag::CACHE | write_flag::SHARED;
    let is_plain = write.write_flags & other == 0 && write.flags & libc::O_APPEND as u32 == 0;
    (is_plain && data.len() == write.size as usize).then_some((write.offset, data))
}

/// True for a device that holds nothing of home, and of which the world has its own.
fn is_own_device(name: &[u8], entry: &EntryReply) -> bool {
    let Attributes { mode, device, .. } = entry.attributes;
    let major = device >> 8 & 0xfff;
    mode & libc::S_IFMT == libc::S_IFCHR && major == 1 && OWN_DEVICES.iter().any(|own| own.as_bytes() == name)
}

/// While the world is built the same names are looked up over and over, also where nothing is said to be valid. Those that something is mounted
/// on stay what they are, and no guest is there before all of them have been.
fn believe_for_now(entry: &mut EntryReply) {
    const SECONDS: u64 = 1;
    if entry.node != 0 {
        entry.entry_valid = entry.entry_valid.max(SECONDS);
        entry.attributes_valid = entry.attributes_valid.max(SECONDS);
    }
}
