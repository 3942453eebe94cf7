//! What home answers before it is asked: taken in when it comes, and used when the kernel asks.

use std::sync::Arc;

use afield_abi::fuse::{EntryReply, ForgetOne, Opcode, OpenReply, ReadRequest, open_reply_flag};
use afield_link::contents::{self, Told};
use afield_link::early::{self, Item};
use afield_link::invalidation::FOREVER_SECONDS;
use afield_link::stream::LinkError;
use afield_link::wire::WireError;
use tracing::warn;
use zerocopy::FromBytes;

use super::coherent::early::{Answer, Brought, Question};
use super::coherent::listing::Listing;
use super::coherent::opens::Way;
use super::contents::Flight;
use super::{OWN, Outcome, Request, data_reply, dev, error_reply, home};
use crate::session::Shared;

/// Longest target of a link that Linux has.
const LINK_BYTES_MAX: usize = 4096;

/// Pieces of a file that will be read, as it seems, by an open file of home's: its node and number.
type Wanted = (u64, u64, Vec<Flight>);

/// Takes answers in, in the link's order.
///
/// # Errors
/// They are none that a home gives.
pub fn take_in(shared: &Arc<Shared>, payload: &[u8]) -> Result<(), LinkError> {
    let mut back = Vec::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    for item in early::decode(payload)? {
        match item {
            Item::Answer { question, result } => {
                let question = Question::heard(&question);
                let (answer, brought) = checked(shared, &question, result)?;
                back.extend(shared.files.coherent.hold_early(question, answer, brought));
            }
            Item::Listing { node, full, entries } => {
                let listing = Listing::parse(entries, full).filter(|_| node & OWN == 0);
                let listing = listing.ok_or(WireError::Malformed("early listing"))?;
                back.extend(shared.files.coherent.hold_early_listing(node, listing));
            }
            Item::Pieces { node, first, end } => {
                if let (Some(contents), Some(handle)) =
                    (&shared.files.contents, shared.files.coherent.open_early(node))
                {
                    let pieces = u64::from(first)..u64::from(end);
                    wanted.push((node, handle, contents.want(node, pieces)));
                }
            }
        }
    }
    if !back.is_empty() || !wanted.is_empty() {
        shared.with_memory(Box::new(move |shared| {
            give_back(shared, back);
            fetch(shared, wanted);
        }));
    }
    Ok(())
}

/// Whether an answer is one that can be given to the kernel, and what it has brought.
fn checked(
    shared: &Shared,
    question: &Question,
    result: Result<&[u8], i32>,
) -> Result<(Answer, Brought), LinkError> {
    let malformed = || LinkError::from(WireError::Malformed("early answer"));
    if question.node() & OWN != 0 {
        return Err(malformed());
    }
    match (question, result) {
        (Question::Name(..), Ok(body)) => {
            let entry = EntryReply::read_from_bytes(body).map_err(|_| malformed())?;
            let lasts = entry.entry_valid == FOREVER_SECONDS
                && (entry.node == 0 || entry.attributes_valid == FOREVER_SECONDS);
            if !lasts || entry.node & OWN != 0 || dev::is_special(entry.attributes.mode) {
                return Err(malformed());
            }
            let brought = match entry.node {
                0 => Brought::Nothing,
                node => Brought::Node(node),
            };
            Ok((Ok(body.to_vec()), brought))
        }
        (Question::Link(_), Ok(body)) if (1..=LINK_BYTES_MAX).contains(&body.len()) => {
            Ok((Ok(body.to_vec()), Brought::Nothing))
        }
        (Question::Open { node, directory, .. }, Ok(body)) => {
            let (node, directory) = (*node, *directory);
            let (open, told) = OpenReply::read_from_prefix(body).map_err(|_| malformed())?;
            let kept = open_reply_flag::KEEP_CACHE | open_reply_flag::DIRECT_IO;
            if open.open_flags & kept != open_reply_flag::KEEP_CACHE || directory && !told.is_empty() {
                return Err(malformed());
            }
            let brought = Brought::Open {
                handle: open.handle,
                node,
                directory,
            };
            let mut body = body[..size_of::<OpenReply>()].to_vec();
            if !told.is_empty() {
                hear(shared, node, told, &mut body)?;
            }
            Ok((Ok(body), brought))
        }
        (Question::Of(_, question), result) => {
            let errno = match result {
                Ok([]) => 0,
                Ok(_) => return Err(malformed()),
                Err(errno) => errno,
            };
            match question.is_settled_by(errno) {
                true => Ok((result.map(<[u8]>::to_vec), Brought::Nothing)),
                false => Err(malformed()),
            }
        }
        _ => Err(malformed()),
    }
}

/// What is said of the contents counts from now on; who opens the file is told no more of them.
fn hear(shared: &Shared, node: u64, told: &[u8], body: &mut Vec<u8>) -> Result<(), LinkError> {
    let Some(contents) = &shared.files.contents else {
        return Err(WireError::Malformed("early answer").into());
    };
    let said = contents::decode(told)?;
    let mut reply = data_reply(0, &[body, told]);
    contents.opened(node, &mut reply, true)?;
    let nothing = contents::Contents {
        told: Told::Nothing,
        ..said
    };
    contents::append(body, &nothing);
    Ok(())
}

/// Gives back what nobody wants. Not for those who deliver what comes from home.
pub fn give_back(shared: &Shared, back: Vec<Brought>) {
    let mut forgets = Vec::new();
    let mut closings = Vec::new();
    for brought in back {
        match brought {
            Brought::Nothing => {}
            Brought::Node(node) => forgets.push(ForgetOne { node, lookups: 1 }),
            Brought::Open {
                handle,
                node,
                directory,
            } => {
                let flags = 0;
                closings.push((
                    handle,
                    Way {
                        node,
                        flags,
                        directory,
                    },
                ));
            }
        }
    }
    shared.files.coherent.close(shared, closings);
    home::send_forgets(shared, &forgets);
}

/// The same for those.
pub fn give_back_later(shared: &Shared, back: Vec<Brought>) {
    if back.iter().any(|brought| *brought != Brought::Nothing) {
        shared.with_memory(Box::new(|shared| give_back(shared, back)));
    }
}

/// Asks for contents.
fn fetch(shared: &Shared, wanted: Vec<Wanted>) {
    let Some(contents) = &shared.files.contents else {
        return;
    };
    for (node, handle, flights) in wanted {
        let absent = contents.absent(flights);
        super::contents::fly_with(shared, contents, absent, node, handle);
    }
}

/// Answers a request by what home has said, if it has: as if it said so now.
pub fn answer(shared: &Arc<Shared>, request: &Request<'_>) -> Option<Outcome> {
    let files = &shared.files;
    if files.places.is_maker(request.header.pid) || !files.coherent.may_be_early(request) {
        return None;
    }
    let question = Question::of(request, files.coherent.way(request));
    let listing = match request.opcode {
        Opcode::ReadDirectory | Opcode::ReadDirectoryPlus => request.record::<ReadRequest>().ok(),
        _ => None,
    };
    if question.is_none() && listing.is_none() {
        return None;
    }
    // In the link's order: what comes later has not changed it yet.
    let gate = files.coherent.barrier.gate();
    if gate.is_closed() {
        return None;
    }
    let unique = request.header.unique;
    let answer = match (question, listing) {
        (Some(question), _) => files.coherent.take_early(&question)?,
        (None, Some(read)) => {
            let plus = request.opcode == Opcode::ReadDirectoryPlus;
            let (node, size) = (request.header.node, read.size as usize);
            Ok(files.coherent.list_early(node, read.offset, size, plus)?)
        }
        (None, None) => return None,
    };
    let reply = match answer {
        Ok(body) => data_reply(unique, &[&body]),
        Err(errno) => error_reply(unique, errno),
    };
    match files.home_replied(shared, unique, reply, false) {
        // No such answer is news of anything.
        Ok(notices) => debug_assert!(notices.is_empty()),
        Err(error) => {
            warn!("an early answer: {error}");
            files.reply(&error_reply(unique, libc::EIO));
        }
    }
    drop(gate);
    Some(Outcome::Later)
}
