//! `antiphon answer`: what agents ask in a session, and answering it.

use antiphon::id::{Author, Seq, SessionId};
use serde_json::json;

use super::client::{CallError, Client};
use super::fault::hinted;
use super::place::{Remote, author, person, session_id};
use super::questions::Question;
use super::term::{out, tame};

/// Show what agents ask people in a session, or answer it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  antiphon answer s-0193\n  antiphon answer s-0193 approve\n\n\
    With choices, ANSWER is one of them or its number. If several questions are open,\n\
    --question says which one."
)]
pub(super) struct Args {
    #[arg(value_parser = session_id)]
    session: SessionId,
    /// The answer; without it, open questions are shown
    answer: Option<String>,
    /// The number of the question
    #[arg(long, value_name = "NUMBER")]
    question: Option<u64>,
    /// What the agent is told beside the answer
    #[arg(long)]
    note: Option<String>,
    /// Who you are
    #[arg(long = "as", value_name = "NAME", value_parser = author)]
    author: Option<Author>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let questions = client.questions(&args.session).await;
    let mut questions = questions.map_err(CallError::explain)?;
    if let Some(number) = args.question {
        questions.retain(|it| it.question == Seq(number));
    }
    let Some(answer) = &args.answer else {
        let shown: String = questions.iter().map(shown).collect();
        return Ok(out(match shown.as_str() {
            "" => "no question is open\n",
            shown => shown,
        })?);
    };
    let question = match questions.as_slice() {
        [one] => one,
        [] => anyhow::bail!("no such question is open in {}", args.session),
        [..] => {
            let numbers: Vec<String> = questions.iter().map(|it| it.question.to_string()).collect();
            let text = format!("{} questions are open", questions.len());
            let hint = format!("say which: --question {}", numbers.join(" or --question "));
            return Err(hinted(text, hint));
        }
    };
    let Some(mut body) = question.answer(answer) else {
        let hint = format!("it is one of: {}", question.choices.join(", "));
        return Err(hinted(format!("{answer:?} is none of the choices"), hint));
    };
    let by = args.author.map_or_else(person, |author| author.to_string());
    body["author"] = by.into();
    body["note"] = json!(args.note);
    let key = format!("answer-{}", uuid::Uuid::now_v7().simple());
    client
        .answer(&args.session, question.question, &body, &key)
        .await
        .map_err(CallError::explain)?;
    Ok(out(&format!("{} goes on\n", question.agent))?)
}

fn shown(question: &Question) -> String {
    let Question {
        question: number,
        agent,
        text,
        choices,
        ..
    } = question;
    let mut shown = format!("{number} {agent} asks: {}\n", tame(text));
    for (at, choice) in (1..).zip(choices) {
        shown.push_str(&format!("    {at} {}\n", tame(choice)));
    }
    shown
}
