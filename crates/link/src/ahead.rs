//! What goes before and after frames: what a writer finds out at the very moment at which a frame gets its place in the link's
//! order, so that nothing can slip in between.

use std::fmt;

/// Asked before each frame, where frames get their order. It must not write to any link, and should be quick.
pub trait Ahead: Send + Sync + fmt::Debug {
    /// Appends the payload of an [`Invalidate`](crate::frame::Kind::Invalidate) frame that goes first; nothing if none is to.
    fn ahead(&self, payload: &mut Vec<u8>);
}

/// Asked right after a frame got its place: appends the payload of an [`Invalidate`](crate::frame::Kind::Invalidate) frame
/// that follows at once; nothing if none is to.
pub type Behind<'a> = dyn FnMut(&mut Vec<u8>) + 'a;

/// Both, for one frame.
pub(crate) struct Around<'a> {
    pub ahead: Option<&'a dyn Ahead>,
    pub behind: Option<&'a mut Behind<'a>>,
}

impl Around<'_> {
    /// What goes first, if anything.
    pub fn before(&self) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        self.ahead?.ahead(&mut payload);
        (!payload.is_empty()).then_some(payload)
    }

    /// What follows, if anything.
    pub fn after(&mut self) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        self.behind.as_mut()?(&mut payload);
        (!payload.is_empty()).then_some(payload)
    }
}
