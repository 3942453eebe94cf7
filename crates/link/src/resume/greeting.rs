//! The first words inside a connection as one end goes through them: [`Greeting::begin`] gives what it says first, then it is given
//! messages of [`Greeting::wanted`] bytes until there is an outcome. No byte after its last message is touched.

use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use super::proof::{Agreed, Begin, Begun, Challenge, Nonce, Proof, Resume, Secret};
use super::{Limits, ProtocolError};
use crate::preamble::SessionId;

/// One end's side of it.
#[derive(Debug)]
pub struct Greeting {
    limits: Limits,
    side: Side,
}

#[derive(Debug)]
enum Side {
    HomeNew,
    HomeResumes {
        resume: Resume,
        secret: Secret,
    },
    NodeNew {
        session: SessionId,
        secret: Secret,
    },
    NodeResumes {
        nonce: Nonce,
        secret: Secret,
        said: Option<(Resume, Challenge)>,
    },
}

/// What came of a message.
#[derive(Debug, Default)]
pub struct Step {
    /// What to say.
    pub say: Vec<u8>,
    /// The outcome, when it is the last step.
    pub outcome: Option<Outcome>,
}

/// What both agreed on.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// For [`Core::up`](super::Core::up).
    pub agreed: Agreed,
    /// At home, of a new session.
    pub made: Option<(SessionId, Secret)>,
    /// On the node, of a new session: how long home wants to be waited for.
    pub grace: Option<Duration>,
}

impl Greeting {
    /// Home wants a new session.
    pub fn home_new(limits: Limits) -> Self {
        Self {
            limits,
            side: Side::HomeNew,
        }
    }

    /// Home goes on with a session, having received so many pieces. Every attempt has a higher epoch than those before; the
    /// first is [`Agreed::EPOCH_FIRST`] + 1.
    pub fn home_resumes(limits: Limits, secret: Secret, epoch: u64, received: u64, nonce: Nonce) -> Self {
        let resume = Resume::new(&limits, epoch, received, nonce);
        Self {
            limits,
            side: Side::HomeResumes { resume, secret },
        }
    }

    /// The node gives a new session.
    pub fn node_new(limits: Limits, session: SessionId, secret: Secret) -> Self {
        Self {
            limits,
            side: Side::NodeNew { session, secret },
        }
    }

    /// The node is asked to go on.
    pub fn node_resumes(limits: Limits, secret: Secret, nonce: Nonce) -> Self {
        Self {
            limits,
            side: Side::NodeResumes {
                nonce,
                secret,
                said: None,
            },
        }
    }

    /// What this end says first.
    pub fn begin(&self) -> Vec<u8> {
        match &self.side {
            Side::HomeNew => Begin::new(&self.limits).as_bytes().to_vec(),
            Side::HomeResumes { resume, .. } => resume.as_bytes().to_vec(),
            Side::NodeNew { .. } | Side::NodeResumes { .. } => Vec::new(),
        }
    }

    /// Bytes of the next message from the peer.
    pub fn wanted(&self) -> usize {
        match &self.side {
            Side::HomeNew => size_of::<Begun>(),
            Side::HomeResumes { .. } => size_of::<Challenge>(),
            Side::NodeNew { .. } => size_of::<Begin>(),
            Side::NodeResumes { said: None, .. } => size_of::<Resume>(),
            Side::NodeResumes { said: Some(_), .. } => size_of::<Proof>(),
        }
    }

    /// Takes a message of [`wanted`](Self::wanted) bytes; `received` is how many pieces this end has received by now.
    pub fn hear(&mut self, message: &[u8], received: u64) -> Result<Step, ProtocolError> {
        let done = |say: &[u8], agreed| Step {
            say: say.to_vec(),
            outcome: Some(Outcome {
                agreed,
                made: None,
                grace: None,
            }),
        };
        match &mut self.side {
            Side::HomeNew => {
                let (agreed, session, secret) = read::<Begun>(message)?.accept()?;
                let mut step = done(&[], agreed);
                if let Some(outcome) = &mut step.outcome {
                    outcome.made = Some((session, secret));
                }
                Ok(step)
            }
            Side::HomeResumes { resume, secret } => {
                let (proof, agreed) = resume.prove(&read(message)?, secret)?;
                Ok(done(proof.as_bytes(), agreed))
            }
            Side::NodeNew { session, secret } => {
                let (agreed, grace) = read::<Begin>(message)?.accept()?;
                let begun = Begun::new(&self.limits, *session, *secret);
                let mut step = done(begun.as_bytes(), agreed);
                if let Some(outcome) = &mut step.outcome {
                    outcome.grace = Some(grace);
                }
                Ok(step)
            }
            Side::NodeResumes { nonce, secret, said } => match said {
                None => {
                    let resume: Resume = read(message)?;
                    let challenge = resume.challenge(&self.limits, received, *nonce, secret)?;
                    *said = Some((resume, challenge));
                    Ok(Step {
                        say: challenge.as_bytes().to_vec(),
                        outcome: None,
                    })
                }
                Some((resume, challenge)) => {
                    let agreed = resume.accept(challenge, &read(message)?, secret)?;
                    Ok(done(&[], agreed))
                }
            },
        }
    }
}

fn read<T: FromBytes>(message: &[u8]) -> Result<T, ProtocolError> {
    T::read_from_bytes(message).map_err(|_| ProtocolError::FirstWords)
}
