//! Reaching nodes.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_link::PROTOCOL;
use afield_link::byte_stream::ByteStream;
use afield_link::carrier::{Carrier, GreetingError, Redial};
use afield_link::control::{HOME_INTERFACE, NODE_INTERFACE};
use afield_link::frame::Kind;
use afield_link::hatch::Hatch;
use afield_link::preamble::{self, PreambleError, SessionId};
use afield_link::resume::Limits;
use afield_link::secure::files::FileError;
use afield_link::secure::{self, Fingerprint, Identity, SecureError, SecureStream};
use afield_link::stream::{self, LinkError, Reader, Socket, Writer};
use afield_link::sys::Area;
use afield_link::wire::{self, Hello, MountPoint, Welcome};
use afield_rpc::BindError;
use afield_rpc::endpoint;
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;
use tracing::debug;

use super::incarnation::Incarnation;
use super::making::{Making, Makings};
use crate::channel;
use crate::mounts::Told;

/// Longest wait for a connection to each of a node's addresses.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// The same when a lost connection is to be replaced: there will be another attempt.
const REDIAL_TIME_MAX: Duration = Duration::from_secs(3);

/// Longest time for proving to each other who one is.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest wait for a node's first words; it makes its world before.
const WELCOME_TIME_MAX: Duration = Duration::from_secs(15);

/// Why a node cannot be used.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The name or the connection.
    #[error("cannot reach node {node}: {source}")]
    Unreachable {
        /// As the user named it.
        node: String,
        /// What the kernel or resolver said.
        source: io::Error,
    },
    /// The embedded one.
    #[error("cannot start the embedded node: {0}")]
    Embedded(io::Error),
    /// The agent does not begin anything any more.
    #[error("the agent ends")]
    Ends,
    /// This home's own key.
    #[error("this home's key: {0}")]
    Key(#[from] FileError),
    /// It is not the node that is trusted under this name.
    #[error(
        "node {node} is not the one that is trusted: its key is {found}, not {expected}. Either somebody else answers in its place, or it has a new key; \
         if its owner says so, `afield trust remove NAME` and `afield trust add NAME ADDRESS {found}`"
    )]
    OtherKey {
        /// As the user named it.
        node: String,
        /// The key that it has shown.
        found: Fingerprint,
        /// The key that it should have.
        expected: Fingerprint,
    },
    /// No secured link could be had.
    #[error("node {node} does not answer as a node: {source}")]
    Insecure {
        /// As the user named it.
        node: String,
        /// What happened.
        source: SecureError,
    },
    /// It did not say that it is a node.
    #[error("node {node} does not answer as a node: {source}")]
    NoPreamble {
        /// As the user named it.
        node: String,
        /// What happened.
        source: PreambleError,
    },
    /// Ssh does not lead to a node.
    #[error("node {node}: {why}")]
    Ssh {
        /// As the user named it.
        node: String,
        /// What happened, and a way out.
        why: String,
        /// It would have to ask the user something.
        asks: bool,
    },
    /// It ended before its first words.
    #[error("the embedded node ended before it was ready (the agent's log may say why: {log})")]
    EmbeddedEnded {
        /// The agent's log.
        log: String,
    },
    /// Other protocol.
    #[error(
        "node {node} speaks protocol {theirs}{version}, this home {PROTOCOL} (afield {ours}): install the same version on both",
        ours = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// As the user named it.
        node: String,
        /// Its protocol.
        theirs: u32,
        /// Its version in words.
        version: String,
    },
    /// It does not want to.
    #[error("node {node} refuses: {why}")]
    Refused {
        /// As the user named it.
        node: String,
        /// Its words.
        why: String,
    },
    /// It has not what home needs.
    #[error("node {node}: {source}: install the same version on both")]
    Interface {
        /// As the user named it.
        node: String,
        /// What is missing.
        source: BindError,
    },
    /// Whatever is there is not a node.
    #[error("node {node} does not answer as a node: {source}")]
    Strange {
        /// As the user named it.
        node: String,
        /// What happened.
        source: LinkError,
    },
}

/// A link to a node after the first words of both sides.
#[derive(Debug)]
pub struct Connection {
    /// From the node.
    pub reader: Reader,
    /// To the node.
    pub writer: Writer,
    /// What it said of itself.
    pub welcome: Welcome,
    /// What it has been told of home's file systems.
    pub told: Told,
}

/// A connection to a node daemon, made within a time, and the key that it has to show, if that is known.
pub type Reach = Box<dyn Fn(Duration) -> Result<(TcpStream, Option<Fingerprint>), NodeError> + Send + Sync>;

/// The way to a node daemon, for the home with this key.
struct Way {
    name: String,
    reach: Reach,
    identity: Identity,
}

impl Way {
    /// An authenticated and encrypted connection for a session, and whose it is.
    fn connect(
        &self,
        session: SessionId,
        connect_time_max: Duration,
    ) -> Result<(SecureStream, Fingerprint), NodeError> {
        let node = || self.name.clone();
        let unreachable = |source| NodeError::Unreachable { node: node(), source };
        let (mut socket, expected) = (self.reach)(connect_time_max)?;
        let limit = Some(HANDSHAKE_TIME_MAX);
        socket.set_read_timeout(limit).map_err(unreachable)?;
        socket.set_write_timeout(limit).map_err(unreachable)?;
        preamble::ask(&mut socket, session).map_err(|error| match error {
            PreambleError::Version { theirs, words } => NodeError::Version {
                node: node(),
                theirs,
                version: match words.is_empty() {
                    true => words,
                    false => format!(" (afield {words})"),
                },
            },
            PreambleError::Refused(why) => NodeError::Refused { node: node(), why },
            source => NodeError::NoPreamble { node: node(), source },
        })?;
        socket.set_read_timeout(None).map_err(unreachable)?;
        socket.set_write_timeout(None).map_err(unreachable)?;
        let insecure = |source| NodeError::Insecure { node: node(), source };
        let deadline = Instant::now() + HANDSHAKE_TIME_MAX;
        let secured = match secure::connect(socket, &self.identity, expected, deadline) {
            Err(SecureError::OtherKey { found, expected }) => {
                return Err(NodeError::OtherKey {
                    node: node(),
                    found,
                    expected,
                });
            }
            other => other.map_err(insecure)?,
        };
        let peer = secured.peer;
        let stream = SecureStream::new(secured).map_err(|error| insecure(error.into()))?;
        Ok((stream, peer))
    }

    /// Another connection for a session.
    fn again(&self, session: SessionId, deadline: Instant) -> Result<Arc<dyn ByteStream>, Redial> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.connect(session, left.clamp(Duration::from_millis(1), REDIAL_TIME_MAX)) {
            Ok((stream, _)) => Ok(Arc::new(stream)),
            Err(
                error @ (NodeError::Version { .. } | NodeError::Refused { .. } | NodeError::OtherKey { .. }),
            ) => Err(Redial::Never(error.to_string())),
            Err(NodeError::NoPreamble {
                source: PreambleError::Unknown,
                ..
            }) => Err(Redial::Never("its session has ended".to_owned())),
            Err(error) => Err(Redial::Later(error.to_string())),
        }
    }
}

/// The way over TCP to a node daemon that has the key `expected`.
pub fn by_address(address: &str, name: &str, expected: Option<Fingerprint>) -> Reach {
    let (address, name) = (address.to_owned(), name.to_owned());
    Box::new(move |time_max| {
        let socket = reach(&address, time_max).map_err(|source| NodeError::Unreachable {
            node: name.clone(),
            source,
        })?;
        Ok((socket, expected))
    })
}

/// Connects to a node daemon, as the home with this key. A lost connection is replaced within `grace`. The session is being made
/// until the second thing given is dropped.
pub fn connect(
    reach: Reach,
    name: &str,
    identity: Identity,
    grace: Duration,
    makings: &Arc<Makings>,
) -> Result<(Connection, Making), NodeError> {
    let way = Way {
        name: name.to_owned(),
        reach,
        identity,
    };
    let (stream, _) = way.connect(SessionId::default(), CONNECT_TIME_MAX)?;
    let making = makings.begin().ok_or(NodeError::Ends)?;
    let limits = Limits {
        grace,
        ..Limits::default()
    };
    let dial = Box::new(move |session, deadline| way.again(session, deadline));
    let deadline = Instant::now() + HANDSHAKE_TIME_MAX;
    let strange = |source: LinkError| NodeError::Strange {
        node: name.to_owned(),
        source,
    };
    let carrier =
        Carrier::begin_at_home(Arc::new(stream), limits, dial, deadline).map_err(|error| match error {
            GreetingError::Io(error) => strange(error.into()),
            GreetingError::Protocol(error) => strange(error.into()),
        })?;
    carrier.keep().map_err(|error| strange(error.into()))?;
    making.has_link(&carrier);
    let stopped = carrier.clone();
    // Nobody else will, if there is no session.
    let connection = greet(Socket::Carried(carrier), name).inspect_err(|_| stopped.shutdown())?;
    Ok((connection, making))
}

/// The key that whoever listens at an address has. Nothing else is asked of it.
pub fn ask_key(address: &str, key: &Path) -> Result<Fingerprint, NodeError> {
    let way = Way {
        name: address.to_owned(),
        reach: by_address(address, address, None),
        identity: Identity::load_or_make(key)?,
    };
    Ok(way.connect(SessionId::default(), CONNECT_TIME_MAX)?.1)
}

/// A connection to the first of an address's machines that takes one.
fn reach(address: &str, time_max: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, time_max) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// An embedded node's link, and what goes with it.
pub struct EmbeddedLink {
    pub ours: UnixStream,
    pub theirs: OwnedFd,
    /// Memory that both sides have.
    pub area: Option<OwnedFd>,
    /// Home's end of what hands over connections.
    pub hatch: Hatch,
}

/// The two ends of an embedded node's link. What goes with it is ahead of everything else on it, along with a byte each.
///
/// Without memory everything goes over the link: a limit on the size of files that the agent cannot get rid of holds for memory files, too.
pub fn embedded_link() -> io::Result<EmbeddedLink> {
    let (ours, theirs) = UnixStream::pair()?;
    let area = match Area::create() {
        Ok(area) => Some(area),
        Err(error) => {
            debug!("no memory is shared with the embedded node: {error}");
            None
        }
    };
    let (hatch, other) = Hatch::pair()?;
    channel::send_bytes(ours.as_fd(), &[0], area.as_ref().map(AsFd::as_fd))?;
    channel::send_bytes(ours.as_fd(), &[0], Some(other.as_fd()))?;
    Ok(EmbeddedLink {
        ours,
        theirs: theirs.into(),
        area,
        hatch,
    })
}

/// Exchanges the first words on a new link.
pub fn greet(socket: Socket, name: &str) -> Result<Connection, NodeError> {
    let strange = |source: LinkError| NodeError::Strange {
        node: name.to_owned(),
        source,
    };
    let (mut reader, writer) = stream::split(socket).map_err(|error| strange(error.into()))?;
    reader
        .set_timeout(Some(WELCOME_TIME_MAX))
        .map_err(|error| strange(error.into()))?;
    let told = Told::new();
    let hello = wire::encode(&hello(told.points().to_vec())).map_err(|error| strange(error.into()))?;
    match writer.write_frame(Kind::Hello, 0, &[&hello]) {
        // It may have said why.
        Ok(()) | Err(LinkError::Unsendable) => {}
        Err(error) => return Err(strange(error)),
    }
    let frame = match reader.read_frame() {
        Ok(frame) => frame,
        Err(LinkError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(strange(LinkError::Io(io::ErrorKind::TimedOut.into())));
        }
        Err(error) => return Err(strange(error)),
    };
    if frame.kind != Kind::Welcome {
        return Err(strange(LinkError::Unexpected {
            expected: Kind::Welcome,
            got: frame.kind,
        }));
    }
    let theirs = protocol_of(&frame.payload).map_err(|error| strange(error.into()))?;
    let welcome: Result<Welcome, _> = wire::decode(&frame.payload);
    if theirs != PROTOCOL {
        return Err(NodeError::Version {
            node: name.to_owned(),
            theirs,
            version: welcome.map_or_else(
                |_| String::new(),
                |welcome| format!(" (afield {})", wire::presentable(&welcome.version)),
            ),
        });
    }
    let welcome = welcome.map_err(|error| strange(error.into()))?;
    if let Some(why) = welcome.refusal {
        return Err(NodeError::Refused {
            node: name.to_owned(),
            why: wire::presentable(&why),
        });
    }
    endpoint::agree(&[&NODE_INTERFACE], &welcome.interfaces).map_err(|source| NodeError::Interface {
        node: name.to_owned(),
        source,
    })?;
    reader.set_timeout(None).map_err(|error| strange(error.into()))?;
    Ok(Connection {
        reader,
        writer,
        welcome,
        told,
    })
}

/// The first field of both sides' first words, whatever follows.
fn protocol_of(payload: &[u8]) -> Result<u32, wire::WireError> {
    let (protocol, _) = postcard::take_from_bytes(payload)?;
    Ok(protocol)
}

/// What this home says of itself.
fn hello(mounts: Vec<MountPoint>) -> Hello {
    let incarnation = Incarnation::ours();
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let now = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: rustix::process::getgroups()
            .unwrap_or_default()
            .iter()
            .map(|group| group.as_raw())
            .collect(),
        uname: [
            text(uname.sysname()),
            text(uname.nodename()),
            text(uname.release()),
            text(uname.version()),
            text(uname.machine()),
            text(uname.domainname()),
        ],
        monotonic_ns: now(ClockId::Monotonic),
        boottime_ns: now(ClockId::Boottime),
        home: incarnation.home,
        epoch: incarnation.epoch,
        mounts,
        interfaces: vec![HOME_INTERFACE.offer()],
    }
}
