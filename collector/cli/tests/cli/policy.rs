use fleetmend_identity::FleetRoot;

use crate::run;

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_signed_shown_and_found_out_when_it_was_changed() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    FleetRoot::create(&home.path().join("root"), "fleet-1".parse().unwrap()).unwrap();
    FleetRoot::create(&home.path().join("other"), "fleet-2".parse().unwrap()).unwrap();
    std::fs::write(path("policy.json"), r#"{"mode":"enforce","version":7}"#).unwrap();
    let (policy, signed, root) = (path("policy.json"), path("signed.json"), path("root"));
    let ran = run(
        home.path(),
        &[],
        &["policy", "sign", &policy, "--root", &root, "--to", &signed],
    )
    .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let shown = run(home.path(), &[], &["policy", "show", &signed, "--root", &root]).await;
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(
        shown.out.contains("the signature holds") && shown.out.contains("\"version\": 7"),
        "{}",
        shown.out
    );
    let unverified = run(home.path(), &[], &["policy", "show", &signed]).await;
    assert!(unverified.out.contains("not verified"), "{}", unverified.out);
    let foreign = run(
        home.path(),
        &[],
        &["policy", "show", &signed, "--root", &path("other")],
    )
    .await;
    assert_eq!(foreign.code, 3, "{}", foreign.out);

    let nowhere = path("nowhere");
    for arguments in [["sign", &policy], ["show", &signed]] {
        let [what, file] = arguments;
        let ran = run(home.path(), &[], &["policy", what, file, "--root", &nowhere]).await;
        assert_eq!(ran.code, 1);
        assert!(
            ran.err.contains("nowhere/root.key") && ran.err.contains("fleetmend-collector init"),
            "{}",
            ran.err
        );
    }

    let changed = std::fs::read_to_string(&signed)
        .unwrap()
        .replacen("eyJ", "eyK", 1);
    std::fs::write(&signed, changed).unwrap();
    let changed = run(home.path(), &[], &["policy", "show", &signed, "--root", &root]).await;
    assert_ne!(changed.code, 0, "{}", changed.out);
    std::fs::write(&policy, "[1]").unwrap();
    let wrong = run(home.path(), &[], &["policy", "sign", &policy, "--root", &root]).await;
    assert!(wrong.err.contains("a policy is a JSON object"), "{}", wrong.err);
}
