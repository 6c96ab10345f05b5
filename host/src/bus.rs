//! The agent bus: what travels between hosts when agents call each other. Pure.
//!
//! The slug of a speaker is part of turn ids, so its rule is a promise to every other runtime.

use unicode_normalization::UnicodeNormalization as _;

use crate::id::{RunId, TurnId};

/// The slug of a speaker's name, by the rule of the bus: NFKD; whatever is not `[A-Za-z0-9_-]` becomes
/// `-`; runs of `-` become one; none at either end; lower case; `anon` if nothing is left.
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for char in name.nfkd() {
        match char {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' => slug.push(char.to_ascii_lowercase()),
            _ if slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    match slug.trim_matches('-') {
        "" => "anon".to_owned(),
        slug => slug.to_owned(),
    }
}

/// As long as an agent's name, so that a turn id stays within its bound.
const SLUG_BYTES_MAX: usize = 63;

/// The id of a speaker's turn in a conversation: `<run>.t<index>.<slug>`.
pub fn speaker_turn(run: &RunId, index: u32, name: &str) -> TurnId {
    let mut slug = slug(name);
    slug.truncate(SLUG_BYTES_MAX);
    TurnId::new(&format!("{run}.t{index}.{slug}"))
        .expect("a run and a slug hold what a turn id may")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_those_of_the_bus() {
        for (name, expect) in [
            ("GPT-5 Codex", "gpt-5-codex"),
            ("inner-a", "inner-a"),
            ("!@#$", "anon"),
            ("", "anon"),
            ("José", "jose"),
            ("naïve", "nai-ve"),
            ("a_b", "a_b"),
            ("日本", "anon"),
            ("  A  B  ", "a-b"),
            ("a--b", "a-b"),
            ("--a--", "a"),
            ("Ａ１", "a1"),
            ("ﬁn", "fin"),
            ("Ünï", "u-ni"),
            ("_", "_"),
        ] {
            assert_eq!(slug(name), expect, "{name:?}");
        }
    }

    #[test]
    fn a_speakers_turn_is_named_by_its_run_and_place() {
        let run = RunId::new("run_1").unwrap();
        let turn = speaker_turn(&run, 0, "researcher");
        assert_eq!(turn.as_str(), "run_1.t0.researcher");
        let run = RunId::new(&"r".repeat(128)).unwrap();
        speaker_turn(&run, u32::MAX, &"s".repeat(200));
    }
}
