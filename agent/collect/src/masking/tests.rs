use proptest::prelude::*;

use super::*;

fn masked(args: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    mask_args(&mut args);
    args
}

#[test]
fn options_and_variables_with_secret_names_are_masked() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["app", "--password=hunter2"], &["app", "--password=[masked]"]),
        (
            &["app", "--password", "hunter2", "-v"],
            &["app", "--password", "[masked]", "-v"],
        ),
        (
            &["app", "--api-key=k", "--port=80"],
            &["app", "--api-key=[masked]", "--port=80"],
        ),
        (
            &["app", "--auth-token", "t"],
            &["app", "--auth-token", "[masked]"],
        ),
        (
            &["env", "DB_PASSWORD=x", "HOME=/root"],
            &["env", "DB_PASSWORD=[masked]", "HOME=/root"],
        ),
        (
            &["docker", "run", "-e", "API_KEY=x"],
            &["docker", "run", "-e", "API_KEY=[masked]"],
        ),
        (
            &["java", "-Dspring.datasource.password=x"],
            &["java", "-Dspring.datasource.password=[masked]"],
        ),
        (
            &["env", "AWS_SECRET_ACCESS_KEY=abc/def"],
            &["env", "AWS_SECRET_ACCESS_KEY=[masked]"],
        ),
    ];
    for (given, wanted) in cases {
        assert_eq!(masked(given), *wanted);
    }
}

#[test]
fn options_of_one_program_are_masked_for_it_alone() {
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["mysql", "-uroot", "-phunter2", "db"],
            &["mysql", "-uroot", "-p[masked]", "db"],
        ),
        (
            &["/usr/bin/mysqldump", "-p", "db"],
            &["/usr/bin/mysqldump", "-p", "db"],
        ),
        (&["ssh", "-p2222", "host"], &["ssh", "-p2222", "host"]),
        (
            &["sshpass", "-p", "x", "ssh", "host"],
            &["sshpass", "-p", "[masked]", "ssh", "host"],
        ),
        (
            &["curl", "-u", "bob:x", "http://a/"],
            &["curl", "-u", "bob:[masked]", "http://a/"],
        ),
        (&["curl", "--user=bob:x"], &["curl", "--user=bob:[masked]"]),
        (
            &["redis-cli", "-a", "x", "ping"],
            &["redis-cli", "-a", "[masked]", "ping"],
        ),
        (&["mkdir", "-p", "/srv/x"], &["mkdir", "-p", "/srv/x"]),
    ];
    for (given, wanted) in cases {
        assert_eq!(masked(given), *wanted);
    }
}

#[test]
fn secrets_are_masked_wherever_they_stand_in_text() {
    let cases = [
        (
            "curl -H 'Authorization: Bearer abc.def' http://x",
            "curl -H 'Authorization: [masked]' http://x",
        ),
        ("Authorization: Basic Zm9vOmJhcg==", "Authorization: [masked]"),
        ("X-Api-Key: 1234", "X-Api-Key: [masked]"),
        (
            "psql postgres://bob:s3cr3t@db:5432/x",
            "psql postgres://bob:[masked]@db:5432/x",
        ),
        (
            "git clone https://u:p@ss@host/r",
            "git clone https://u:[masked]@host/r",
        ),
        (
            "MYSQL_PWD=x mysql -e 'select 1'",
            "MYSQL_PWD=[masked] mysql -e 'select 1'",
        ),
        (
            r#"{"password": "x y", "user": "bob"}"#,
            r#"{"password": [masked], "user": "bob"}"#,
        ),
        (
            "http://x/?access_token=abc&page=2",
            "http://x/?access_token=[masked]&page=2",
        ),
        (
            "sh -c mysql -u root -phunter2 db",
            "sh -c mysql -u root -p[masked] db",
        ),
        ("run --password hunter2 --fast", "run --password [masked] --fast"),
        ("key AKIAIOSFODNN7EXAMPLE end", "key [masked] end"),
        ("t ghp_0123456789abcdefghij0123456789abcdef", "t [masked]"),
        (
            "openssl enc -pass pass:hunter2",
            "openssl enc -pass pass:[masked]",
        ),
        ("a -----BEGIN RSA PRIVATE KEY-----\nMII\n", "a [masked]"),
    ];
    for (given, wanted) in cases {
        assert_eq!(mask_text(given), wanted, "{given}");
    }
}

#[test]
fn ordinary_command_lines_are_left_as_they_are() {
    let cases: &[&[&str]] = &[
        &["ls", "-la", "/tmp"],
        &["python3", "-m", "http.server", "8080"],
        &[
            "app",
            "--password-file=/run/secrets/x",
            "--max-tokens=5",
            "--no-password",
        ],
        &["env", "PWD=/root", "OLDPWD=/"],
        &["ssh", "-p", "22", "user@host"],
        &["curl", "http://host:8080/path"],
        &["/bin/sh", "-c", "exit 3"],
    ];
    for given in cases {
        assert_eq!(masked(given), *given);
    }
}

#[test]
fn a_secret_in_the_program_name_is_masked_too() {
    assert_eq!(
        masked(&["worker: postgres://a:b@c/d"]),
        ["worker: postgres://a:[masked]@c/d"]
    );
}

/// Text that is likely to meet the rules.
fn near_secrets() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "--password",
        "=",
        " ",
        "'",
        "\"",
        ":",
        "@",
        "//",
        "http://",
        "token",
        "secret",
        "mysql",
        "-p",
        "curl",
        "-u",
        "Authorization",
        "Bearer ",
        "abcdefghij",
        "[masked]",
        "é",
        "\n",
        ";",
        "&",
        "eyJabcdefgh",
        ".",
        "pass:",
        "\0",
        "--",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----",
        "sk-",
        "x-api-key",
        ",",
        "}",
    ]);
    prop::collection::vec(pieces, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn masking_text_twice_is_masking_once(text in prop_oneof![near_secrets(), any::<String>()]) {
        let once = mask_text(&text).into_owned();
        prop_assert_eq!(mask_text(&once).into_owned(), once);
    }

    #[test]
    fn text_without_a_hint_matches_no_pattern(text in prop_oneof![near_secrets(), any::<String>()]) {
        let rules = text_rules();
        if !rules.hints.is_match(&text) {
            prop_assert!(rules.each.iter().all(|rule| !rule.pattern.is_match(&text)));
        }
    }

    #[test]
    fn masking_arguments_twice_is_masking_once(
        program in prop::sample::select(vec!["mysql", "curl", "sshpass", "/bin/sh", "smbclient", ""]),
        rest in prop::collection::vec(prop_oneof![near_secrets(), any::<String>()], 0..6),
    ) {
        let mut once: Vec<String> = std::iter::once(program.to_owned()).chain(rest).collect();
        mask_args(&mut once);
        let mut twice = once.clone();
        mask_args(&mut twice);
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn a_password_option_never_shows_its_value(value in "[A-Za-z0-9]{6,20}") {
        let joined = masked(&["app", &format!("--password={value}")]).join(" ");
        let separate = masked(&["app", "--password", &value]).join(" ");
        let url = masked(&["app", &format!("amqp://bob:{value}@mq/")]).join(" ");
        prop_assert!(!joined.contains(&value) && !separate.contains(&value) && !url.contains(&value));
    }
}
