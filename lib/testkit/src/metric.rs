//! The names of a room's metrics, looked at as text: what is named is described to the recorder and recorded.

/// Fails unless the text of a `metrics.rs` names at least `names_min` metrics as constants, and each of them is
/// described with a unit and recorded there.
pub fn assert_described_and_recorded(source: &str, names_min: usize) {
    let dense: String = source.split_whitespace().collect();
    let names: Vec<&str> = source.lines().filter_map(constant).collect();
    assert!(names.len() >= names_min, "only {names:?} are named");
    for name in names {
        assert!(
            dense.contains(&format!("!({name},Unit::")),
            "{name} is not described"
        );
        let recorded = [format!("!({name})"), format!("!({name},\"")];
        assert!(
            recorded.iter().any(|part| dense.contains(part)),
            "{name} is never recorded"
        );
    }
}

/// The name of a text constant that the line declares.
fn constant(line: &str) -> Option<&str> {
    let rest = ["const ", "pub const ", "pub(crate) const "]
        .iter()
        .find_map(|prefix| line.strip_prefix(prefix))?;
    rest.split_once(": &str").map(|(name, _)| name)
}
