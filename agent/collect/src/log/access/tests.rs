use fleetmend_event::TimeMicros;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::form::parse;
use super::*;

const HEAD: &str = "192.0.2.1 - - [07/Jan/2026:13:05:01 +0000] ";

fn fields(line: &str) -> BTreeMap<String, String> {
    parse(line)
        .unwrap_or_else(|| panic!("{line} has no known form"))
        .fields
}

fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn each_form_is_taken_apart() {
    let line = "192.0.2.1 - ann [07/Jan/2026:14:05:01 +0100] \"GET /a/b?c=d HTTP/1.1\" 404 12 \
                \"https://example.org/\" \"Mozilla/5.0 (X11)\" 0.003";
    let wanted = [
        ("c-ip", "192.0.2.1"),
        ("c-uri", "/a/b?c=d"),
        ("cs-method", "GET"),
        ("cs-referer", "https://example.org/"),
        ("cs-uri-query", "/a/b?c=d"),
        ("cs-uri-stem", "/a/b"),
        ("cs-user-agent", "Mozilla/5.0 (X11)"),
        ("cs-username", "ann"),
        ("cs-version", "HTTP/1.1"),
        ("sc-bytes", "12"),
        ("sc-status", "404"),
    ];
    let combined = parse(line).unwrap();
    assert_eq!(combined.fields, of(&wanted));
    assert_eq!(combined.time, Some(TimeMicros(1_767_791_101_000_000)));
    let common = fields("2001:db8::1 - - [07/Jan/2026:13:05:01 +0000] \"GET / HTTP/2.0\" 200 -");
    assert_eq!(common.get("c-ip").map(String::as_str), Some("2001:db8::1"));
    for absent in [
        "sc-bytes",
        "cs-username",
        "cs-referer",
        "cs-user-agent",
        "cs-host",
    ] {
        assert!(!common.contains_key(absent), "{absent}");
    }
    let hosted = fields(&format!(
        "www.example.org:443 {HEAD}\"GET / HTTP/1.1\" 200 5 \"-\" \"x\""
    ));
    assert_eq!(hosted.get("cs-host").map(String::as_str), Some("www.example.org"));
    assert_eq!(hosted.get("c-ip").map(String::as_str), Some("192.0.2.1"));
    assert!(!hosted.contains_key("cs-referer"), "nothing was sent");
    let named = fields("client.example.org - - [07/Jan/2026:13:05:01 +0000] \"GET / HTTP/1.1\" 200 5");
    assert_eq!(named.get("c-ip").map(String::as_str), Some("client.example.org"));
}

#[test]
fn json_of_several_servers_is_taken_apart() {
    let nginx = r#"{"time_iso8601":"2026-01-07T13:05:01+00:00","remote_addr":"192.0.2.1","request":"GET /x?y HTTP/1.1","status":"200","http_user_agent":"a \"b\"","http_referer":"-"}"#;
    let parsed = parse(nginx).unwrap();
    assert_eq!(parsed.time, Some(TimeMicros(1_767_791_101_000_000)));
    let wanted = [
        ("c-ip", "192.0.2.1"),
        ("c-uri", "/x?y"),
        ("cs-method", "GET"),
        ("cs-uri-query", "/x?y"),
        ("cs-uri-stem", "/x"),
        ("cs-user-agent", "a \"b\""),
        ("cs-version", "HTTP/1.1"),
        ("sc-status", "200"),
    ];
    assert_eq!(parsed.fields, of(&wanted));
    let caddy = r#"{"level":"info","ts":1.5,"request":{"remote_ip":"192.0.2.1","proto":"HTTP/2.0","method":"POST","host":"example.org","uri":"/x","headers":{"User-Agent":["curl"]}},"user_id":"","size":3,"status":201}"#;
    let wanted = [
        ("c-ip", "192.0.2.1"),
        ("c-uri", "/x"),
        ("cs-host", "example.org"),
        ("cs-method", "POST"),
        ("cs-uri-query", "/x"),
        ("cs-uri-stem", "/x"),
        ("cs-user-agent", "curl"),
        ("cs-version", "HTTP/2.0"),
        ("sc-bytes", "3"),
        ("sc-status", "201"),
    ];
    assert_eq!(fields(caddy), of(&wanted));
    for line in [
        "{",
        "{}",
        r#"{"request":{"method":{}}}"#,
        r#"{"request":[1]}"#,
        "[1]",
        "{\"request\":".repeat(5_000).as_str(),
    ] {
        assert_eq!(parse(line), None, "{line:.40}");
    }
}

#[test]
fn client_cannot_write_another_s_fields() {
    // A user's name of somebody who was refused, and a request, in nginx's and in Apache's words.
    let user = "192.0.2.1 - x [07/Jan/2026:00:00:00 +0000] \\x22GET /ok HTTP/1.1\\x22 200 1 [07/Jan/2026:13:05:01 +0000] \
                \"GET /evil HTTP/1.1\" 401 0 \"-\" \"-\"";
    let found = fields(user);
    let get = |name: &str| found.get(name).map(String::as_str);
    assert_eq!(
        (get("c-ip"), get("cs-uri-query")),
        (Some("192.0.2.1"), Some("/evil"))
    );
    assert_eq!(get("sc-status"), Some("401"));
    assert_eq!(
        get("cs-username"),
        Some("x [07/Jan/2026:00:00:00 +0000] \"GET /ok HTTP/1.1\" 200 1")
    );
    let found = fields(&user.replace("\\x22", "\\\""));
    assert_eq!(found.get("cs-uri-query").map(String::as_str), Some("/evil"));
    let found = fields(&format!(
        "{HEAD}\"GET /a\\\" 200 1 \\\"-\\\" \\\"good HTTP/1.1\" 400 0 \"-\" \"evil \\\\\""
    ));
    let get = |name: &str| found.get(name).map(String::as_str);
    assert_eq!(get("cs-uri-query"), Some("/a\" 200 1 \"-\" \"good"));
    assert_eq!(
        (get("sc-status"), get("cs-user-agent")),
        (Some("400"), Some("evil \\"))
    );
}

#[test]
fn odd_requests_are_seen_and_a_line_that_was_cut_as_far_as_it_goes() {
    let uri = |asked: &str| fields(&format!("{HEAD}\"{asked}\" 400 0 \"-\" \"-\"")).remove("cs-uri-query");
    assert_eq!(
        uri("\\x16\\x03\\x01 x").as_deref(),
        Some("\u{16}\u{3}\u{1} x"),
        "TLS to a plain port"
    );
    assert_eq!(uri("GET /a b HTTP/1.1").as_deref(), Some("/a b"));
    assert_eq!(uri("GET /\\xE9").as_deref(), Some("/\u{fffd}"));
    assert_eq!(uri("-"), None);
    assert_eq!(uri("\\x").as_deref(), Some("\\x"));
    let whole = format!("{HEAD}\"GET /evil HTTP/1.1\" 200 5 \"-\" \"agent\"");
    for end in HEAD.len() + 1..whole.len() {
        let found = parse(whole.get(..end).unwrap()).unwrap().fields;
        assert!(found.contains_key("c-ip"), "{end}");
        if end > HEAD.len() + "\"GET /evil HTTP/1.1".len() {
            assert_eq!(found.get("c-uri").map(String::as_str), Some("/evil"), "{end}");
        }
    }
    for line in [
        "",
        " ",
        "\"",
        "]\"",
        "[]\"",
        "a []\"",
        "no request at all",
        "2026/01/07 13:05:01 [error] 1#1: *1 open() \"/x\" failed",
        "a - - [b] \"GET / HTTP/1.1\" no status",
    ] {
        let shown = record("/var/log/x.log", line, TimeMicros(7));
        let known = parse(line).is_some();
        assert_eq!(shown.fields.contains_key(WHOLE), !known, "{line:?}");
    }
}

#[test]
fn secrets_are_masked_and_the_place_names_the_server() {
    let line = format!("{HEAD}\"GET /login?password=hunter2 HTTP/1.1\" 200 5");
    let shown = record("/var/log/nginx/access.log", &line, TimeMicros(7));
    assert!(
        shown.fields.values().all(|value| !value.contains("hunter2")),
        "{shown:?}"
    );
    let hidden = masked("/reset/ghp_0123456789abcdef0123/x?a=b&token=0123456789&c=d");
    assert_eq!(hidden, "/reset/[masked]/x?a=b&token=[masked]&c=d");
    for attack in [
        "/?token=${jndi:ldap://192.0.2.1/a}",
        "/x?secret=../../etc/passwd",
        "/x?password=/etc/passwd",
        "/x?api_key=1%20union%20select",
        "/x?api_key=1'+union+select",
        "Cookie: () { :; }; /bin/id",
        "",
    ] {
        assert_eq!(masked(attack), attack, "a name of a secret's hides no attack");
    }
    assert_eq!(shown.service, Some("nginx"));
    assert_eq!(service("/var/log/httpd/access_log"), Some("apache"));
    assert_eq!(service("/srv/log/access.log"), None);
}

#[test]
fn what_is_over_the_rate_or_finds_no_room_is_counted() {
    let line = format!("{HEAD}\"GET / HTTP/1.1\" 200 5");
    let read = ["/var/log/nginx/access.log".to_owned()];
    let recent = Duration::from_secs(3_600);
    let mut accesses = Accesses::new(1, 0);
    accesses.line("x", line.as_bytes(), 0);
    assert_eq!(accesses.status(&read, recent), None, "nobody is told");
    let (sender, mut records) = mpsc::channel(5);
    accesses.tell(sender);
    assert_eq!(accesses.status(&[], recent), None, "there are no such logs");
    let row = accesses.status(&read, recent).unwrap();
    assert_eq!((row.state, row.seen), (ProbeState::Real, 0));
    for _ in 0..30 {
        accesses.line("x", line.as_bytes(), 0);
    }
    let row = accesses.status(&read, recent).unwrap();
    assert_eq!((row.seen, row.delivered, row.lost), (30, 5, 25));
    assert_eq!(row.state, ProbeState::Degraded, "{}", row.reason);
    let mut told = 0;
    while records.try_recv().is_ok() {
        told += 1;
    }
    assert_eq!(told, 5);
    accesses.line("x", line.as_bytes(), 0);
    assert!(records.try_recv().is_err(), "20 seconds of the rate are used up");
    accesses.line("x", line.as_bytes(), 1_000_000);
    assert!(records.try_recv().is_ok());
}

/// What nginx writes of a value.
fn escaped(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff => format!("\\x{byte:02X}"),
        byte => char::from(byte).to_string(),
    };
    value.bytes().map(byte).collect()
}

proptest! {
    #[test]
    fn what_a_client_sent_is_what_rules_see(
        user in "[a-z][a-z \\[\\]\"\\\\]{0,18}[a-z]",
        target in "/[!-~é]{0,60}",
        referer in "\\PC{1,60}",
        agent in "\\PC{1,60}",
    ) {
        prop_assume!(referer != "-" && agent != "-");
        let line = format!(
            "192.0.2.1 - {} [07/Jan/2026:13:05:01 +0000] \"GET {} HTTP/1.1\" 200 5 \"{}\" \"{}\"",
            escaped(&user), escaped(&target), escaped(&referer), escaped(&agent),
        );
        let found = fields(&line);
        prop_assert_eq!(found.get("cs-username"), Some(&user));
        prop_assert_eq!(found.get("c-uri"), Some(&target));
        prop_assert_eq!(found.get("cs-referer"), Some(&referer));
        prop_assert_eq!(found.get("cs-user-agent"), Some(&agent));
        prop_assert_eq!(found.get("sc-status").map(String::as_str), Some("200"));
    }

    #[test]
    fn any_line_is_read_or_refused(line in "\\PC{0,300}", tail in "[\\[\\]\" \\\\x0-9a-f{}:,-]{0,200}") {
        for line in [line.clone(), format!("{HEAD}\"{line}"), format!("{HEAD}{tail}"), format!("{{{tail}"), tail.clone()] {
            let shown = record("/x", &line, TimeMicros(7));
            let bytes: usize = shown.fields.values().map(String::len).sum();
            // The target stands in three fields; a byte that is no text becomes three, and a mask eight.
            prop_assert!(bytes <= line.len() * 30 + 64, "{bytes} of {}", line.len());
        }
    }
}
