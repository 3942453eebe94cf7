//! Answers that go ahead of what is asked: for whom, and when.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use afield_link::ahead::Answer;
use afield_link::frame::Kind;
use afield_link::stream::LinkError;
use afield_link::wire::Spawn;

use super::lock;
use super::requests::asker_of;
use super::session::{Session, SessionError};
use crate::files::early::{Answers, Program};

/// Files that are opened to execute one program: scripts and interpreters.
const OPENED_MAX: usize = 16;

/// Which program a guest computes, as far as home has seen it begin.
#[derive(Debug, Clone, Default)]
pub struct Executed {
    /// What it computes.
    now: Option<Program>,
    /// What has been opened to be executed since.
    opened: Option<Program>,
    count: usize,
}

impl Executed {
    /// A program is opened. The first is the one that is meant, the others are what interprets it.
    fn open(&mut self, program: &Program) {
        self.count += 1;
        if self.count > OPENED_MAX {
            // It cannot be executed, or never is.
            (self.opened, self.count) = (None, 1);
        }
        self.opened.get_or_insert_with(|| Program::clone(program));
    }

    /// It is executed. What it is may not be known: then the node had everything at hand.
    pub fn executed(&mut self) {
        (self.now, self.count) = (self.opened.take(), 0);
    }

    /// In whose name something is asked.
    fn current(&self) -> Option<&Program> {
        self.opened.as_ref().or(self.now.as_ref())
    }
}

impl Session {
    /// Before a request is answered: what its program will ask next, as it seems, is answered first.
    pub(super) fn go_ahead(&self, request: &[u8], reply: &[u8]) -> Result<(), SessionError> {
        let deputy = self.deputy(asker_of(request));
        let program = self.files.executed(request, reply);
        let asking = deputy.and_then(|deputy| {
            let mut status = lock(&deputy.status);
            if let Some(program) = &program {
                status.program.open(program);
            }
            status.program.current().cloned()
        });
        self.files.note_asked(asking.as_ref(), request, reply);
        if let Some(program) = program {
            return self.answer_early(&program);
        }
        let send = |answers: Answers| self.send_early(&answers);
        Ok(self.files.list_early(asking.as_ref(), request, reply, send)?)
    }

    /// Before a job is begun: what it takes to start its program. What it asks from the beginning on is that program's asking.
    pub(super) fn begin_ahead(&self, spawn: &Spawn) -> Result<Executed, SessionError> {
        let mut executed = Executed::default();
        let send = |answers: Answers| self.send_early(&answers);
        self.files.name_early((spawn.pid, &spawn.directory), send)?;
        let directory = Path::new(std::ffi::OsStr::from_bytes(&spawn.directory));
        let path = directory.join(std::ffi::OsStr::from_bytes(&spawn.program));
        if let Ok(path) = std::fs::canonicalize(path) {
            let program = path.into_os_string().into_vec().into();
            executed.open(&program);
            self.answer_early(&program)?;
        }
        Ok(executed)
    }

    fn answer_early(&self, program: &Program) -> Result<(), SessionError> {
        let send = |answers: Answers| self.send_early(&answers);
        Ok(self.files.answer_early(program, send)?)
    }

    fn send_early(&self, answers: &Answers) -> Result<(), LinkError> {
        let answer = Answer {
            about: None,
            behind: &mut |payload: &mut Vec<u8>| self.files.behind_early(answers, payload),
        };
        self.writer
            .write_frame_then(Kind::Early, 0, &[&answers.payload], answer)
    }
}
