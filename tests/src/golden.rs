//! Recorded texts that only change on purpose: `GOLDEN=write cargo test -p antiphon-tests`
//! records them anew.

use std::fs;

use crate::guests::root;

/// Compare with `tests/golden/NAME`, line by line.
pub(crate) fn check(name: &str, text: &str) {
    let path = root().join("tests/golden").join(name);
    let text = text.trim_end().to_owned() + "\n";
    if std::env::var_os("GOLDEN").is_some_and(|what| what == "write") {
        fs::write(&path, &text).expect("the golden folder is writable");
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = golden.lines();
    for (at, line) in text.lines().enumerate() {
        assert_eq!(Some(line), lines.next(), "line {} of {name}", at + 1);
    }
    assert_eq!(lines.next(), None, "{name} has more lines");
}
