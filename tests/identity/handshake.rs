//! A TLS handshake without a network.

use std::sync::Arc;

use fleetmend_identity::tls::{TlsFault, server_name};
use fleetmend_identity::{PeerError, PeerIdentity};
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};

/// Rounds after which two sides that have nothing to say have agreed.
const ROUNDS_MAX: usize = 8;

/// Whom the server let in; `None` on a listener that asks for no certificate. Otherwise what the client makes of
/// it, as it does over a network: a refusal of its own, or the alert that the server sent.
pub(crate) fn shake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Option<PeerIdentity>, TlsFault> {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..ROUNDS_MAX {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        let mut refused = false;
        while !rest.is_empty() && !refused {
            server.read_tls(&mut rest).unwrap();
            refused = server.process_new_packets().is_err();
        }
        // What it has to say of a refusal is sent all the same.
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|error| fault(&error))?;
        }
        assert!(!refused, "the server refused and did not say why");
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    match PeerIdentity::of_chain(server.peer_certificates()) {
        Ok(peer) => Ok(Some(peer)),
        Err(PeerError::None) => Ok(None),
        Err(error) => panic!("{error}"),
    }
}

fn fault(error: &Error) -> TlsFault {
    TlsFault::find(error).expect("an error of TLS")
}
