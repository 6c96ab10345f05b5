//! What of a continuation is new: PURE.
//!
//! A model that is asked to go on where its answer broke off often begins with words that it has said.
//! What people were shown stays, so those are dropped: the rule is that of `continued` in the guest SDK, which
//! says what it recognises and what not.

/// What a model is told behind its own words.
pub(super) const GO_ON: &str = "Your answer broke off there. Go on exactly where it stopped, in the \
    middle of the word if need be: repeat nothing, and do not speak of the break.";

/// How many bytes of a continuation repeat the end of what was shown; none as long as more
/// text could make it longer. `whole`: there will be no more text.
///
/// A repetition begins where a word of the shown text begins, with or without white space
/// before it. Behind white space a single word counts only if it ends where the shown one
/// does: ` apple` after `an a` is a new word, `apple` is the old one, said in full.
pub(super) fn repeated(shown: &str, held: &str, whole: bool) -> Option<usize> {
    let words = held.trim_start();
    let space = held.len() - words.len();
    if words.is_empty() {
        return whole.then_some(0);
    }
    let mut longest = 0;
    for start in word_starts(shown) {
        let tail = &shown[start..];
        if !whole && tail.starts_with(words) {
            return None;
        }
        let counts = || {
            let next = words[tail.len()..].chars().next();
            space == 0
                || tail.split_whitespace().nth(1).is_some()
                || next.is_none_or(|next| !next.is_alphanumeric())
        };
        if words.starts_with(tail) && counts() {
            longest = longest.max(tail.len());
        }
    }
    Some(if longest == 0 { 0 } else { space + longest })
}

/// Where words begin.
fn word_starts(text: &str) -> impl Iterator<Item = usize> {
    let mut before = ' ';
    let starts = text.char_indices().filter(move |(_, char)| {
        let starts = before.is_whitespace() && !char.is_whitespace();
        before = *char;
        starts
    });
    starts.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_found_again() {
        for (shown, held, whole, expect) in [
            ("one two", " three", false, Some(0)),
            ("one two", "two three", false, Some(3)),
            ("one two", " two three", false, Some(4)),
            ("one two", "one two three", false, Some(7)),
            ("one two", "tw", false, None),
            ("one two", "one", false, None),
            ("one two", "one", true, Some(0)),
            ("one two", "two", true, Some(3)),
            ("one two", " ", false, None),
            ("one two", " ", true, Some(0)),
            ("an a", " apple", false, Some(0)),
            ("an a", "apple", false, Some(1)),
            ("", "anything", false, Some(0)),
            ("schön é", "é und", false, Some(2)),
        ] {
            assert_eq!(repeated(shown, held, whole), expect, "{shown:?} {held:?}");
        }
    }
}
