//! What the network family tells.

use super::*;

fn talk(listen_on: &str) -> (u16, u16) {
    let listener = TcpListener::bind((listen_on, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = TcpStream::connect((listen_on, port)).unwrap();
    let client_port = client.local_addr().unwrap().port();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    let mut five = [0; 5];
    server.read_exact(&mut five).unwrap();
    server.write_all(b"goodbye").unwrap();
    let mut seven = [0; 7];
    client.read_exact(&mut seven).unwrap();
    drop(client);
    assert_eq!(server.read(&mut five).unwrap(), 0, "the end of the stream");
    drop(server);
    (port, client_port)
}

fn connection_is_told_with_bytes_and_owner(listen_on: &str) {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Network])) else {
        return;
    };
    let (port, client_port) = talk(listen_on);
    let (port, client_port, own) = (u32::from(port), u32::from(client_port), std::process::id());
    let outbound = |row: &NetworkEvent| row.local_port == client_port && row.remote_port == port;
    let inbound = |row: &NetworkEvent| row.local_port == port && row.remote_port == client_port;

    let listen = rig.network("listen", |row| {
        row.kind == NetworkEventKind::Listen && row.local_port == port
    });
    assert_eq!((listen.pid, listen.remote_address.as_str()), (own, ""));
    let connect = rig.network("connect", |row| {
        row.kind == NetworkEventKind::Connect && outbound(row)
    });
    assert_eq!(
        (connect.pid, connect.owner, connect.error),
        (own, ConnectionOwner::Caller, None)
    );
    assert_eq!(
        (connect.remote_address.as_str(), connect.protocol.as_str()),
        (listen_on, "tcp")
    );
    let accept = rig.network("accept", |row| {
        row.kind == NetworkEventKind::Accept && inbound(row)
    });
    assert_eq!((accept.pid, accept.owner), (own, ConnectionOwner::Listener));
    let client = rig.network("close of the client", |row| {
        row.kind == NetworkEventKind::Close && outbound(row)
    });
    assert_eq!(
        (client.bytes_sent, client.bytes_received),
        (Some(5), Some(7)),
        "{client:?}"
    );
    assert_eq!((client.pid, client.owner), (own, ConnectionOwner::Caller));
    assert!(client.duration_us.is_some_and(|took| took > 0));
    let server = rig.network("close of the server", |row| {
        row.kind == NetworkEventKind::Close && inbound(row)
    });
    assert_eq!(
        (server.bytes_sent, server.bytes_received),
        (Some(7), Some(5)),
        "{server:?}"
    );
    assert_eq!(
        (server.pid, server.owner),
        (own, ConnectionOwner::Caller),
        "it closed the socket itself"
    );
    assert_eq!(
        server.start_boot_ns,
        rig.inventory.running(own).unwrap().key.start_boot_ns
    );
}

#[test]
fn connection_over_ipv4_is_told_with_bytes_and_owner() {
    connection_is_told_with_bytes_and_owner("127.0.0.1");
}

#[test]
fn connection_over_ipv6_is_told_with_bytes_and_owner() {
    connection_is_told_with_bytes_and_owner("::1");
}

#[test]
fn refused_connection_is_told_with_its_error() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Network])) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    let wanted =
        |row: &NetworkEvent| row.remote_port == u32::from(port) && row.kind == NetworkEventKind::Connect;
    let failed = rig.network("refused connect", wanted);
    assert_eq!(
        (failed.error, failed.pid),
        (Some(libc::ECONNREFUSED), std::process::id())
    );
}

#[test]
fn listener_from_before_the_load_owns_what_it_accepts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Network])) else {
        return;
    };
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let accept = rig.network("accept", |row| {
        row.kind == NetworkEventKind::Accept && row.local_port == u32::from(port)
    });
    drop((client, listener));
    assert_eq!(
        (accept.pid, accept.owner),
        (std::process::id(), ConnectionOwner::Listener)
    );
}

#[test]
fn listener_that_closes_takes_no_other_address_of_its_port_along() {
    let (first, second) = std::iter::repeat_with(|| {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        // Somebody else may have this one.
        let second = TcpListener::bind(("127.0.0.2", port)).ok()?;
        Some((first, second))
    })
    .take(100)
    .flatten()
    .next()
    .expect("a port that is free on two addresses");
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Network])) else {
        return;
    };
    drop(first);
    let client = TcpStream::connect(second.local_addr().unwrap()).unwrap();
    let accept = rig.network("accept", |row| {
        row.kind == NetworkEventKind::Accept && row.local_address == "127.0.0.2"
    });
    drop((client, second));
    assert_eq!(
        (accept.pid, accept.owner),
        (std::process::id(), ConnectionOwner::Listener)
    );
}
