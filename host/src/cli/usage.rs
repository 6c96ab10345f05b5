//! `antiphon usage`: what was used and what it cost, day by day.

use antiphon::clock::Day;
use antiphon::id::SessionId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{CallError, Client};
use super::place::{Remote, session_id};
use super::term::{Paint, Style, out, tame, units};

/// Show what models were used and what that cost, day by day
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  antiphon usage --from 2026-11-01 --to 2026-11-30\n\n\
    Days are those of UTC; without any, the last thirty are shown. Costs are in the currency of\n\
    the server's prices. A ~ marks days with calls whose tokens nobody counted."
)]
pub(super) struct Args {
    /// The first day
    #[arg(long, value_name = "DAY", value_parser = day)]
    from: Option<Day>,
    /// The last day
    #[arg(long, value_name = "DAY", value_parser = day)]
    to: Option<Day>,
    /// Only of this session
    #[arg(long, value_parser = session_id)]
    session: Option<SessionId>,
    /// The server's answer as it is
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

fn day(text: &str) -> Result<Day, String> {
    text.parse()
        .map_err(|error: antiphon::clock::MalformedDay| error.to_string())
}

/// What `GET /v1/usage` answers.
#[derive(Debug, Deserialize)]
struct Report {
    from: String,
    to: String,
    days: Vec<Row>,
    total: Used,
    earlier: Option<Used>,
    #[serde(default)]
    budgets: Vec<Cap>,
}

#[derive(Debug, Deserialize)]
struct Row {
    day: String,
    #[serde(flatten)]
    used: Used,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Used {
    model_calls: u64,
    estimated_calls: u64,
    input_tokens: u64,
    output_tokens: u64,
    cost_micros: u64,
}

#[derive(Debug, Deserialize)]
struct Cap {
    cap: String,
    spent_micros: u64,
    limit_micros: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let mut query = Vec::new();
    query.extend(args.from.map(|day| format!("from={day}")));
    query.extend(args.to.map(|day| format!("to={day}")));
    query.extend(args.session.map(|session| format!("session={session}")));
    let answer: Box<RawValue> = client
        .usage(&query.join("&"))
        .await
        .map_err(CallError::explain)?;
    if args.json {
        return Ok(out(&format!("{answer}\n"))?);
    }
    let report: Report = serde_json::from_str(answer.get())?;
    Ok(out(&show(&report, Paint::stdout()))?)
}

fn show(report: &Report, paint: Paint) -> String {
    let line = |first: &str, calls: &str, input: &str, output: &str, cost: &str| {
        format!("{first:<10}  {calls:>8}  {input:>12}  {output:>12}  {cost:>16}")
    };
    let row = |first: &str, used: &Used| {
        let mark = if used.estimated_calls > 0 { "~" } else { "" };
        let number = |count: u64| format!("{mark}{count}");
        line(
            &tame(first),
            &used.model_calls.to_string(),
            &number(used.input_tokens),
            &number(used.output_tokens),
            &format!("{mark}{}", units(used.cost_micros)),
        )
    };
    let head = line("day (UTC)", "calls", "tokens in", "tokens out", "cost");
    let mut lines = vec![paint.paint(Style::Dim, &head)];
    lines.extend(report.earlier.iter().map(|used| row("earlier", used)));
    lines.extend(report.days.iter().map(|it| row(&it.day, &it.used)));
    if report.days.is_empty() {
        let days = format!(
            "nothing from {} to {}",
            tame(&report.from),
            tame(&report.to)
        );
        lines.push(days);
    } else {
        lines.push(row("total", &report.total));
    }
    for cap in &report.budgets {
        let (spent, limit) = (units(cap.spent_micros), units(cap.limit_micros));
        let whose = match cap.cap.as_str() {
            "tenant-day" => "today's budget",
            _ => "budget",
        };
        let text = format!("{whose}: {spent} of {limit} spent");
        let is_reached = cap.spent_micros >= cap.limit_micros;
        lines.push(match is_reached {
            true => paint.paint(Style::Bad, &text),
            false => text,
        });
    }
    lines
        .iter()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_a_table() {
        let report = |value| serde_json::from_value::<Report>(value).expect("a report");
        let full = report(json!({
            "from": "2026-11-01", "to": "2026-11-30", "session": null,
            "days": [
                {"day": "2026-11-02", "model_calls": 3, "estimated_calls": 0, "input_tokens": 1200,
                 "output_tokens": 340, "cost_micros": 8700, "nested_micros": 0},
                {"day": "2026-11-21", "model_calls": 1, "estimated_calls": 1, "input_tokens": 10,
                 "output_tokens": 2, "cost_micros": 60, "nested_micros": 0},
            ],
            "total": {"model_calls": 4, "estimated_calls": 1, "input_tokens": 1210,
                      "output_tokens": 342, "cost_micros": 8760, "nested_micros": 0},
            "earlier": {"model_calls": 1, "input_tokens": 1, "output_tokens": 1, "cost_micros": 2_000_000},
            "budgets": [{"cap": "tenant-day", "spent_micros": 60, "limit_micros": 50},
                        {"cap": "tenant", "spent_micros": 2_008_760, "limit_micros": 5_000_000}],
        }));
        let expect = "\
day (UTC)      calls     tokens in    tokens out              cost
earlier            1             1             1              2.00
2026-11-02         3          1200           340            0.0087
2026-11-21         1           ~10            ~2          ~0.00006
total              4         ~1210          ~342          ~0.00876
today's budget: 0.00006 of 0.00005 spent
budget: 2.00876 of 5.00 spent
";
        assert_eq!(show(&full, Paint::off()), expect);
        let none = report(
            json!({"from": "2026-11-01", "to": "2026-11-30", "days": [], "total": {},
            "earlier": null}),
        );
        assert_eq!(
            show(&none, Paint::off()).lines().nth(1),
            Some("nothing from 2026-11-01 to 2026-11-30")
        );
    }
}
