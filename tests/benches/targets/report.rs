//! What was measured, as people read it and as JSON.

use serde_json::{Value, json};

/// The middle of several rounds, with the ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let at = |part: usize| values.get(part).copied().unwrap_or(f64::NAN);
        Self {
            low: at(0),
            median: at(values.len() / 2),
            high: at(values.len().saturating_sub(1)),
        }
    }
}

/// What a target asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// What one target came to.
struct Verdict {
    target: &'static str,
    /// What the value is.
    what: String,
    value: f64,
    bound: Bound,
}

/// Prints what is found as it is found, and a line for each bound at the end.
#[derive(Default)]
pub(crate) struct Report {
    verdicts: Vec<Verdict>,
    figures: Vec<Value>,
}

impl Report {
    pub(crate) fn begin(&self, target: &str, what: &str) {
        println!("\n{target} {what}");
    }

    /// One line: who or what was measured, and the figures with their units.
    pub(crate) fn line(&mut self, target: &str, subject: &str, figures: &[(&str, Spread, &str)]) {
        let mut text = format!("  {subject:<48}  ");
        let mut object = json!({"target": target, "subject": subject});
        for (name, spread, unit) in figures {
            let Spread { low, median, high } = *spread;
            let digits = match median.abs() {
                it if it >= 100.0 => 0,
                it if it >= 10.0 => 1,
                _ => 2,
            };
            text.push_str(&format!("{name} {median:.digits$}{unit}"));
            if low < high {
                text.push_str(&format!(" ({low:.digits$} to {high:.digits$})"));
            }
            text.push_str("  ");
            object[*name] =
                json!({"median": median, "low": low, "high": high, "unit": unit.trim()});
        }
        println!("{}", text.trim_end());
        self.figures.push(object);
    }

    pub(crate) fn bound(&mut self, target: &'static str, what: &str, value: f64, bound: Bound) {
        self.verdicts.push(Verdict {
            target,
            what: what.to_owned(),
            value,
            bound,
        });
    }

    /// The bounds, a line each. Answers everything as JSON.
    pub(crate) fn end(self) -> Value {
        println!();
        let mut bounds = Vec::new();
        for verdict in &self.verdicts {
            let (words, bound) = match verdict.bound {
                Bound::AtLeast(bound) => ("at least", bound),
                Bound::AtMost(bound) => ("at most", bound),
            };
            let is_met = verdict.bound.is_met(verdict.value);
            println!(
                "{} {} {:>9.2}, {words} {bound}: {}",
                verdict.target,
                if is_met { "reached" } else { "MISSED " },
                verdict.value,
                verdict.what,
            );
            bounds.push(json!({
                "target": verdict.target, "what": verdict.what, "value": verdict.value,
                "bound": bound, "is": words, "is_met": is_met,
            }));
        }
        json!({"figures": self.figures, "bounds": bounds})
    }
}
