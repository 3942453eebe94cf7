//! The handshake: both sides show their raw public keys and prove that they have them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    AlwaysResolvesClientRawPublicKeys, ClientConnectionData, Resumption, UnbufferedClientConnection,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, ServerConnectionData,
    UnbufferedServerConnection,
};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ExtractedSecrets, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use super::record::{Keys, Opener, Sealer};
use super::{Fingerprint, Identity, SecureError};

/// Most bytes of a handshake that are held at a time. Real ones have less than two thousand.
const HELD_BYTES_MAX: usize = 64 << 10;

/// A connection after the handshake.
#[derive(Debug)]
pub struct Secured {
    /// The transport. What goes through it now are TLS records.
    pub socket: TcpStream,
    /// The other side's key.
    pub peer: Fingerprint,
    /// Makes records of what is to be sent.
    pub sealer: Sealer,
    /// Reads records.
    pub opener: Opener,
}

/// AES first: every machine that this program runs on has instructions for it.
fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite as suite;
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}

/// Looks at keys: whose they are, and that the other side has them.
#[derive(Debug)]
struct KeyVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// The only key that will do, if only one will.
    expected: Option<Fingerprint>,
    /// The key that was shown.
    seen: Arc<Mutex<Option<Fingerprint>>>,
}

impl KeyVerifier {
    fn look(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        let found =
            Fingerprint::of_peer(shown).ok_or(Error::General("a key that is not Ed25519".to_owned()))?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        match self.expected {
            Some(expected) if expected != found => {
                Err(Error::General("another key than expected".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn verify(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.look(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.look(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Does the home's part. A node with another key than `expected` is refused before this side has said who it is; with
/// `None` any key will do, for the caller to look at. The whole ends at `deadline`.
pub fn connect(
    socket: TcpStream,
    identity: &Identity,
    expected: Option<Fingerprint>,
    deadline: Instant,
) -> Result<Secured, SecureError> {
    let provider = provider();
    let seen = Arc::default();
    let verifier = KeyVerifier {
        algorithms: provider.signature_verification_algorithms,
        expected,
        seen: Arc::clone(&seen),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(
            &identity.key,
        ))));
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_secret_extraction = true;
    // Nobody looks at the name: the key says who it is.
    let name = ServerName::try_from("node.invalid").map_err(|_| Error::General("name".to_owned()))?;
    let mut connection = Client(UnbufferedClientConnection::new(Arc::new(config), name)?);
    let mut wire = Wire::new(socket, deadline);
    let outcome = shake(&mut connection, &mut wire);
    let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let (Some(expected), Some(found)) = (expected, seen)
        && expected != found
    {
        return Err(SecureError::OtherKey { found, expected });
    }
    outcome?;
    let peer = seen.ok_or(Error::NoCertificatesPresented)?;
    let (secrets, kernel) = connection.0.dangerous_into_kernel_connection()?;
    wire.finish(peer, secrets, Box::new(kernel))
}

/// Does the node's part. Any key will do, for the caller to look at. The whole ends at `deadline`.
pub fn accept(socket: TcpStream, identity: &Identity, deadline: Instant) -> Result<Secured, SecureError> {
    let provider = provider();
    let seen = Arc::default();
    let verifier = KeyVerifier {
        algorithms: provider.signature_verification_algorithms,
        expected: None,
        seen: Arc::clone(&seen),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(
            &identity.key,
        ))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    let mut connection = Server(UnbufferedServerConnection::new(Arc::new(config))?);
    let mut wire = Wire::new(socket, deadline);
    shake(&mut connection, &mut wire)?;
    let peer = seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .ok_or(Error::NoCertificatesPresented)?;
    let (secrets, kernel) = connection.0.dangerous_into_kernel_connection()?;
    wire.finish(peer, secrets, Box::new(kernel))
}

/// What both roles of rustls's connections have in common.
trait Handshake {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

struct Client(UnbufferedClientConnection);
struct Server(UnbufferedServerConnection);

impl Handshake for Client {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.0.process_tls_records(incoming)
    }
}

impl Handshake for Server {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.0.process_tls_records(incoming)
    }
}

impl Keys for KernelConnection<ClientConnectionData> {
    fn next_to_send(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), Error> {
        self.update_tx_secret()
    }
    fn next_to_receive(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), Error> {
        self.update_rx_secret()
    }
}

impl Keys for KernelConnection<ServerConnectionData> {
    fn next_to_send(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), Error> {
        self.update_tx_secret()
    }
    fn next_to_receive(&mut self) -> Result<(u64, rustls::ConnectionTrafficSecrets), Error> {
        self.update_rx_secret()
    }
}

/// The socket during the handshake, with what has come and what is to go.
struct Wire {
    socket: TcpStream,
    deadline: Instant,
    /// Records that have not been processed.
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// What the peer has said already, decrypted.
    early: Vec<u8>,
}

impl Wire {
    fn new(socket: TcpStream, deadline: Instant) -> Self {
        Self {
            socket,
            deadline,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            early: Vec::new(),
        }
    }

    fn left(&self) -> Result<Duration, SecureError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(SecureError::Timeout)
        } else {
            Ok(left)
        }
    }

    fn read(&mut self) -> Result<(), SecureError> {
        if self.incoming.len() >= HELD_BYTES_MAX {
            return Err(Error::General("a handshake that is too long".to_owned()).into());
        }
        let mut bytes = [0; 4096];
        self.socket.set_read_timeout(Some(self.left()?))?;
        match (&self.socket).read(&mut bytes) {
            Ok(0) => Err(SecureError::Closed),
            Ok(count) => {
                self.incoming.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error) => Err(interpreted(error)),
        }
    }

    fn flush(&mut self) -> Result<(), SecureError> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        let written = (&self.socket).write_all(&self.outgoing).map_err(interpreted);
        self.outgoing.clear();
        written
    }

    fn finish(
        self,
        peer: Fingerprint,
        secrets: ExtractedSecrets,
        keys: Box<dyn Keys>,
    ) -> Result<Secured, SecureError> {
        self.socket.set_read_timeout(None)?;
        self.socket.set_write_timeout(None)?;
        let keys = Arc::new(Mutex::new(keys));
        Ok(Secured {
            sealer: Sealer::new(secrets.tx, Arc::clone(&keys))?,
            opener: Opener::new(secrets.rx, keys, &self.early, &self.incoming)?,
            socket: self.socket,
            peer,
        })
    }
}

fn interpreted(error: io::Error) -> SecureError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SecureError::Timeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => SecureError::Closed,
        _ => SecureError::Io(error),
    }
}

/// Does the handshake to its end.
fn shake<H: Handshake>(connection: &mut H, wire: &mut Wire) -> Result<(), SecureError> {
    loop {
        let mut incoming = std::mem::take(&mut wire.incoming);
        let UnbufferedStatus { discard, state } = connection.process(&mut incoming);
        let mut wants = Wants::Nothing;
        match state {
            Err(error) => {
                say_why(connection, &mut incoming[discard..], wire);
                return Err(error.into());
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, wire)?,
            Ok(ConnectionState::TransmitTlsData(data)) => {
                wire.flush()?;
                data.done();
            }
            Ok(ConnectionState::BlockedHandshake) => wants = Wants::More,
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    wire.early.extend_from_slice(record?.payload);
                }
            }
            Ok(ConnectionState::WriteTraffic(_)) => wants = Wants::Done,
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => return Err(SecureError::Closed),
            Ok(_) => return Err(Error::General("an unknown step of the handshake".to_owned()).into()),
        }
        incoming.drain(..discard);
        wire.incoming = incoming;
        match wants {
            Wants::Nothing => {}
            Wants::More => wire.read()?,
            Wants::Done => return Ok(()),
        }
    }
}

enum Wants {
    Nothing,
    More,
    Done,
}

fn encode<Data>(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, Data>,
    wire: &mut Wire,
) -> Result<(), SecureError> {
    use rustls::unbuffered::{EncodeError, InsufficientSizeError};
    let start = wire.outgoing.len();
    let mut room = 4096;
    loop {
        wire.outgoing.resize(start + room, 0);
        match data.encode(&mut wire.outgoing[start..]) {
            Ok(count) => {
                wire.outgoing.truncate(start + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                room = required_size
            }
            Err(EncodeError::AlreadyEncoded) => {
                return Err(Error::General("a handshake record was to be made twice".to_owned()).into());
            }
        }
    }
}

/// Sends the alert, so that the other side need not guess; it may be gone already.
fn say_why<H: Handshake>(connection: &mut H, incoming: &mut [u8], wire: &mut Wire) {
    if let Ok(ConnectionState::EncodeTlsData(mut alert)) = connection.process(incoming).state
        && encode(&mut alert, wire).is_ok()
    {
        let _ = wire.flush();
    }
}
