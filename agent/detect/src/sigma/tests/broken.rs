//! What is broken: listed, and in nobody's way.

use super::*;
use crate::sigma::Sigma;

const SOURCE: &str = "logsource: {product: linux, category: process_creation}\n";

fn rule(id: u32, title: &str, detection: &str) -> String {
    format!(
        "title: {title}\nid: 60000000-0000-4000-8000-{id:012}\n{SOURCE}detection: {{sel: {{{detection}}}, condition: sel}}\n"
    )
}

fn state(sigma: &Sigma, title: &str) -> RuleState {
    let listed = sigma.listing().iter().find(|rule| rule.title == title);
    listed
        .unwrap_or_else(|| panic!("{title} is not in {:#?}", sigma.listing()))
        .state
        .clone()
}

#[test]
fn broken_rule_replaces_no_sound_one() {
    for (first, second) in [("Broken", "Sound"), ("Sound", "Broken")] {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, title: &str| {
            let detection = if title == "Sound" {
                "Image: /a"
            } else {
                "CommandLine|re: '('"
            };
            std::fs::write(folder.path().join(name), rule(1, title, detection)).unwrap();
        };
        write("a.yml", first);
        write("b.yml", second);
        let mut sigma = Sigma::load(&[folder.path().to_owned()]);
        assert_eq!(state(&sigma, "Sound"), RuleState::Loaded, "{first} first");
        assert!(
            matches!(state(&sigma, "Broken"), RuleState::Broken(reason) if reason.contains("cannot be compiled")),
            "{first} first: {:#?}",
            sigma.listing()
        );
        assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), ["Sound"]);
    }
}

#[test]
fn unsupported_rule_replaces_no_loaded_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yml"), rule(1, "Linux", "Image: /a")).unwrap();
    let windows = rule(1, "Windows", "Image: /a").replace("product: linux", "product: windows");
    std::fs::write(folder.path().join("b.yml"), windows).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    assert_eq!(state(&sigma, "Linux"), RuleState::Loaded);
    assert!(matches!(state(&sigma, "Windows"), RuleState::Unsupported(_)));
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), ["Linux"]);
}

#[test]
fn replacement_that_breaks_goes_on_replacing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.yml"), rule(1, "Packaged", "Image: /a")).unwrap();
    std::fs::write(path("z.yml"), rule(1, "Own", "Image: /own")).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    let reloader = sigma.reloader();
    for broken in ["title: [half", &rule(1, "Own", "CommandLine|re: '('"), ""] {
        std::fs::write(path("z.yml"), broken).unwrap();
        reloader.reload();
        assert_eq!(titles(&mut sigma, &exec("/own", &["x"])), ["Own"], "{broken:?}");
        assert_eq!(
            titles(&mut sigma, &exec("/a", &["x"])),
            Vec::<String>::new(),
            "{broken:?}"
        );
        assert!(matches!(state(&sigma, "Packaged"), RuleState::Replaced(_)));
    }
    std::fs::remove_file(path("z.yml")).unwrap();
    reloader.reload();
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), ["Packaged"]);
    assert_eq!(titles(&mut sigma, &exec("/own", &["x"])), Vec::<String>::new());
}

#[test]
fn broken_filter_hinders_no_rule_and_goes_on_with_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let filter = |condition: &str| {
        format!(
            "title: Filter\n{SOURCE}filter: {{rules: any, mine: {{User: root}}, condition: {condition}}}\n"
        )
    };
    std::fs::write(path("a.yml"), rule(1, "A", "Image: /a")).unwrap();
    std::fs::write(path("f.yml"), filter("not other")).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    assert_eq!(state(&sigma, "A"), RuleState::Loaded);
    assert!(matches!(state(&sigma, "Filter"), RuleState::Broken(reason) if reason.contains("'other'")));
    // The user of `exec` is root.
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), ["A"]);

    let reloader = sigma.reloader();
    std::fs::write(path("f.yml"), filter("not mine")).unwrap();
    reloader.reload();
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), Vec::<String>::new());
    for broken in [filter("not other"), "title: [half".to_owned()] {
        std::fs::write(path("f.yml"), &broken).unwrap();
        reloader.reload();
        assert_eq!(
            titles(&mut sigma, &exec("/a", &["x"])),
            Vec::<String>::new(),
            "{broken:?}"
        );
    }
    std::fs::remove_file(path("f.yml")).unwrap();
    reloader.reload();
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), ["A"]);
}

#[test]
fn what_is_no_rule_file_is_listed_and_hinders_no_other() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.yml"), rule(1, "A", "Image: /a")).unwrap();
    std::fs::write(other.path().join("b.yml"), rule(2, "B", "Image: /b")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("endless.yml")).unwrap();
    std::os::unix::fs::symlink("/nowhere", path("gone.yml")).unwrap();
    std::os::unix::fs::symlink(other.path(), path("linked")).unwrap();
    let nots = format!(
        "title: Deep\n{SOURCE}detection: {{sel: {{Image: /a}}, condition: {}sel}}\n",
        "not ".repeat(15_000)
    );
    std::fs::write(path("deep.yml"), nots).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned(), path("a.yml")]);
    assert!(
        matches!(state(&sigma, "endless.yml"), RuleState::Broken(reason) if reason.contains("regular file"))
    );
    assert!(matches!(state(&sigma, "gone.yml"), RuleState::Broken(_)));
    assert!(matches!(state(&sigma, "deep.yml"), RuleState::Broken(reason) if reason.contains("'not'")));
    let linked = path("linked").display().to_string();
    assert!(matches!(state(&sigma, &linked), RuleState::Unsupported(reason) if reason.contains("rule_dirs")));
    assert_eq!(
        titles(&mut sigma, &exec("/a", &["x"])),
        ["A"],
        "once, though named twice"
    );
    assert_eq!(sigma.listing().len(), 5, "{:#?}", sigma.listing());
}

#[test]
fn what_would_be_read_as_something_else_is_refused() {
    for (detection, wanted) in [
        ("sel: {Image: {a: b}}", "list or a map"),
        ("sel: {Image: [[a, b]]}", "list or a map"),
        ("sel: {Image|contains: [x, {a: b}]}", "list or a map"),
        ("sel: {<<: {Image: a}}", "list or a map"),
        ("sel: {4624: x}", "in quotes"),
        ("sel: {ProcessId: 18446744073709551615}", "in quotes"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("title: Odd\n{SOURCE}detection:\n  {detection}\n  condition: sel\n");
        std::fs::write(folder.path().join("a.yml"), text).unwrap();
        let sigma = Sigma::load(&[folder.path().to_owned()]);
        let state = state(&sigma, "Odd");
        assert!(
            matches!(&state, RuleState::Broken(reason) if reason.contains(wanted)),
            "{detection}: {state:?}"
        );
    }
}

#[test]
fn reason_names_the_line_and_what_to_do() {
    for (detection, wanted) in [
        (
            "sel: {User: x}\n  more:\n    Image|cased: [null, X]\n  condition: more",
            "line 6: the modifier cased cannot be applied to null (in 'Image')",
        ),
        (
            "sel: {User: x}\n  more:\n    Image|cidr: '10.*'\n  condition: more",
            "line 6: \"10.*\" is not a network",
        ),
        ("sel: {User: x}\n  condition: sel AND sel", "written small"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("title: Odd\n{SOURCE}detection:\n  {detection}\n");
        std::fs::write(folder.path().join("a.yml"), text).unwrap();
        let sigma = Sigma::load(&[folder.path().to_owned()]);
        let reason = sigma.listing()[0].state.reason();
        assert!(reason.contains(wanted), "{reason}");
    }
}

#[test]
fn one_letter_as_base64_is_not_within_everything() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "title: Short\n{SOURCE}detection: {{sel: {{CommandLine|base64offset|contains: a}}, condition: sel}}\n"
    );
    std::fs::write(folder.path().join("a.yml"), text).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    assert_eq!(titles(&mut sigma, &exec("/x", &["zzz"])), Vec::<String>::new());
    assert_eq!(titles(&mut sigma, &exec("/x", &["echo", "YQ=="])), ["Short"]);
}

#[test]
fn truth_as_a_keyword_is_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("title: Truth\n{SOURCE}detection: {{words: [true], condition: words}}\n");
    std::fs::write(folder.path().join("a.yml"), text).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    assert_eq!(
        titles(&mut sigma, &exec("/x1", &["x", "-1"])),
        Vec::<String>::new()
    );
    assert_eq!(titles(&mut sigma, &exec("/x1", &["x", "=True"])), ["Truth"]);
}

#[test]
fn empty_documents_and_the_mark_of_the_encoding_are_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("\u{feff}---\n{}---\n", rule(1, "A", "Image: /a"));
    std::fs::write(folder.path().join("a.yml"), text).unwrap();
    std::fs::write(folder.path().join("b.yml"), "- a\n- b\n").unwrap();
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    let states: Vec<&str> = sigma.listing().iter().map(|rule| rule.state.as_str()).collect();
    assert_eq!(states, ["loaded", "broken"], "{:#?}", sigma.listing());
}
