//! What goes before and after frames: what a writer finds out at the very moment at which a frame gets its place in the link's
//! order, so that nothing can slip in between.

use std::fmt;

use crate::frame::Kind;

/// Payloads of the frames that go ahead of one; what is empty does not go.
#[derive(Debug, Default)]
pub struct News {
    /// Of an [`Invalidate`](Kind::Invalidate) frame.
    pub changes: Vec<u8>,
    /// Of a [`Streams`](Kind::Streams) frame.
    pub streams: Vec<u8>,
}

impl News {
    /// The frames.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        [
            (Kind::Invalidate, &self.changes[..]),
            (Kind::Streams, &self.streams[..]),
        ]
        .into_iter()
        .filter(|(_, payload)| !payload.is_empty())
    }
}

/// Asked before each frame, where frames get their order. It must not write to any link, and should be quick.
pub trait Ahead: Send + Sync + fmt::Debug {
    /// Adds what goes first. `about` is the file whose contents the frame has, if it has any: what its receiver gets of one file must not
    /// undo what he got before.
    fn ahead(&self, about: Option<u64>, news: &mut News);
}

/// Asked right after a frame got its place: appends the payload of an [`Invalidate`](crate::frame::Kind::Invalidate) frame
/// that follows at once; nothing if none is to.
pub type Behind<'a> = dyn FnMut(&mut Vec<u8>) + 'a;

/// What a frame that something follows is.
pub struct Answer<'a> {
    /// The file whose contents it has, for [`Ahead::ahead`].
    pub about: Option<u64>,
    /// What follows.
    pub behind: &'a mut Behind<'a>,
}

/// Both, for one frame.
pub(crate) struct Around<'a> {
    pub ahead: Option<&'a dyn Ahead>,
    pub answer: Option<Answer<'a>>,
}

impl Around<'_> {
    /// What goes first.
    pub fn before(&self) -> News {
        let mut news = News::default();
        let about = self.answer.as_ref().and_then(|answer| answer.about);
        if let Some(ahead) = self.ahead {
            ahead.ahead(about, &mut news);
        }
        news
    }

    /// What follows, if anything.
    pub fn after(&mut self) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        (self.answer.as_mut()?.behind)(&mut payload);
        (!payload.is_empty()).then_some(payload)
    }
}
