//! What an old TLS client says first.

/// A ClientHello (RFC 5246, section 7.4.1.2) of a client that speaks nothing newer than TLS 1.2, with suites, groups
/// and signature algorithms that a server of its time would take.
pub fn tls12_client_hello() -> Vec<u8> {
    const SUITES: [u16; 9] = [
        0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9, 0x009c, 0x002f, 0x00ff,
    ];
    const GROUPS: [u16; 2] = [0x001d, 0x0017];
    const SIGNATURES: [u16; 7] = [0x0403, 0x0503, 0x0807, 0x0804, 0x0805, 0x0401, 0x0501];
    let list = |items: &[u16]| sized16(items.iter().flat_map(|item| item.to_be_bytes()).collect());
    let name = sized16([vec![0], sized16(b"collector.fleetmend.internal".to_vec())].concat());
    let extensions: Vec<u8> = [
        (0_u16, name),
        (10, list(&GROUPS)),
        (11, vec![1, 0]),
        (13, list(&SIGNATURES)),
        (23, Vec::new()),
    ]
    .into_iter()
    .flat_map(|(kind, body)| [kind.to_be_bytes().to_vec(), sized16(body)].concat())
    .collect();
    let body = [
        vec![3, 3],
        vec![7; 32],
        vec![0],
        list(&SUITES),
        vec![1, 0],
        sized16(extensions),
    ]
    .concat();
    let handshake = [vec![1, 0], sized16(body)].concat();
    [vec![22, 3, 1], sized16(handshake)].concat()
}

/// With its length in front, two bytes.
fn sized16(body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [length.to_be_bytes().to_vec(), body].concat()
}
