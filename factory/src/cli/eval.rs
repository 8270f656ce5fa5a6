//! `eval`: how many answers of a served model are right.
#![expect(clippy::disallowed_methods, reason = "data and reports are files")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Failure, INPUT, UNAVAILABLE, USAGE, read_chats, runtime, show};
use crate::api::{Api, ApiError, Asking, Said};
use crate::chat::Chat;
use crate::eval::{Calibration, Difference, Report, is_right};
use crate::judge::{self, Served, ServedError};

/// What `eval` does.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Chats with right answers, one a line. The last message of each is the right answer.
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    /// Address of the server that is asked, any that speaks OpenAI's API.
    #[arg(long, value_name = "URL", conflicts_with = "serve")]
    url: Option<String>,
    /// Start a box with this model for the time of the evaluation, and ask it.
    #[arg(long, value_name = "FILE.gguf")]
    serve: Option<PathBuf>,
    /// The program of the box.
    #[arg(long, value_name = "PROGRAM", default_value = "outstation")]
    outstation: PathBuf,
    /// An adapter that the box loads; it is what is judged then.
    #[arg(long, value_name = "FILE.gguf", requires = "serve")]
    adapter: Option<PathBuf>,
    /// The model that is asked, by the server's name for it. A box calls whatever it serves `default`.
    #[arg(long, value_name = "NAME", default_value = "default")]
    model: String,
    /// Another model of the same server to compare with, case by case: the difference is that from it. Can be repeated.
    #[arg(long, value_name = "NAME")]
    against: Vec<String>,
    /// Another file to compare with, as the same model in another type; it gets a box of its own. Can be repeated.
    #[arg(long, value_name = "FILE.gguf")]
    against_file: Vec<PathBuf>,
    /// Ask how likely each answer was, too, and judge whether the model is as often right as it is sure. Not every
    /// server tells; a box does.
    #[arg(long)]
    calibration: bool,
    /// File whose first line is the key of the API.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Requests at once.
    #[arg(long, value_name = "N", default_value_t = 4)]
    parallel: usize,
    /// Tokens of an answer at most.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: u32,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write what was answered wrong: question, right answer and what was said.
    #[arg(long, value_name = "FILE")]
    mistakes: Option<PathBuf>,
    /// Fail with exit code 1 if fewer answers are right, percent.
    #[arg(long, value_name = "PERCENT")]
    at_least: Option<f64>,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let code = match error {
            ApiError::Address(_) => USAGE,
            _ => UNAVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ServedError> for Failure {
    fn from(error: ServedError) -> Self {
        Self::new(UNAVAILABLE, error.to_string())
    }
}

/// Fewer right answers than were asked for.
const NOT_ENOUGH: u8 = 1;

pub(super) fn run(args: &EvalArgs) -> Result<(), Failure> {
    let mut chats = Vec::new();
    for file in &args.data {
        chats.extend(read_chats(file)?.0);
    }
    if chats.is_empty() {
        return Err(Failure::new(INPUT, "there is no chat to evaluate with"));
    }
    let key = args.key_file.as_deref().map(first_line).transpose()?;
    // It lives as long as it is asked.
    let (_served, url) = match (&args.serve, &args.url) {
        (Some(file), _) => {
            let adapter = args.adapter.as_ref();
            let adapters = adapter.map(|file| (adapter_name(file), file.clone()));
            let served = Served::start(&args.outstation, file, adapters.as_slice())?;
            let url = served.url.clone();
            (Some(served), url)
        }
        (None, Some(url)) => (None, url.clone()),
        (None, None) => {
            return Err(Failure::new(
                USAGE,
                "say which server with --url, or which model with --serve",
            ));
        }
    };
    let adapter = args.adapter.as_deref().map(adapter_name);
    let model = adapter.unwrap_or_else(|| args.model.clone());
    let judged = Judged::of(args, &Api::new(&url, &model, key.clone())?, &chats)?;
    show(&judged.report.table())?;
    if let Some(calibration) = &judged.calibration {
        show(&calibration.line())?;
    }
    let mut others = Vec::new();
    for other in &args.against {
        let theirs = Judged::of(args, &Api::new(&url, other, key.clone())?, &chats)?;
        others.push(compared(&judged, other, &theirs)?);
    }
    for file in &args.against_file {
        let served = Served::start(&args.outstation, file, &[])?;
        let api = Api::new(&served.url, "default", None)?;
        let theirs = Judged::of(args, &api, &chats)?;
        others.push(compared(&judged, &file.display().to_string(), &theirs)?);
    }
    let json = json!({
        "model": model,
        "report": judged.report,
        "calibration": judged.calibration,
        "against": others,
    });
    if let Some(out) = &args.out {
        std::fs::write(out, format!("{json:#}\n")).map_err(|e| Failure::io(out.display(), e))?;
    }
    if let Some(out) = &args.mistakes {
        mistakes(out, &chats, &judged).map_err(|e| Failure::io(out.display(), e))?;
    }
    match args.at_least {
        Some(percent) if judged.report.all.percent < percent => Err(Failure::new(
            NOT_ENOUGH,
            format!(
                "{:.2} % are right, {percent} were asked for",
                judged.report.all.percent
            ),
        )),
        _ => Ok(()),
    }
}

fn first_line(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::io(file.display(), e))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// How a model did.
struct Judged {
    said: Vec<Said>,
    right: Vec<bool>,
    report: Report,
    calibration: Option<Calibration>,
}

impl Judged {
    /// Asks every question.
    fn of(args: &EvalArgs, api: &Api, chats: &[Chat]) -> Result<Self, Failure> {
        let asking = Asking {
            max_tokens: args.max_tokens,
            patience: Duration::from_mins(2),
            logprobs: args.calibration,
        };
        let bar = ProgressBar::new(chats.len() as u64);
        let style = "{bar:30} {pos} of {len} asked, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a template of our own"));
        let all = judge::answers(api, chats, asking, args.parallel, || bar.inc(1));
        let said = runtime(2)?.block_on(all)?;
        bar.finish_and_clear();
        let right = chats
            .iter()
            .zip(&said)
            .map(|(chat, said)| is_right(&said.text, chat.split().1));
        let right: Vec<bool> = right.collect();
        let calibration = if args.calibration {
            let sure: Option<Vec<f64>> = said.iter().map(|said| said.probability).collect();
            let sure = sure.ok_or_else(|| {
                let message = format!("{} does not tell how likely its answers are", api.model);
                Failure::new(UNAVAILABLE, message)
            })?;
            Some(Calibration::of(sure.into_iter().zip(right.iter().copied())))
        } else {
            None
        };
        Ok(Self {
            report: Report::of(chats, &right),
            said,
            right,
            calibration,
        })
    }
}

/// What is different from another model.
fn compared(judged: &Judged, other: &str, theirs: &Judged) -> Result<Value, Failure> {
    let pairs = theirs.right.iter().copied();
    let difference = Difference::of(pairs.zip(judged.right.iter().copied()));
    let Difference {
        points,
        low,
        high,
        gained,
        lost,
        ..
    } = difference;
    show(&format!(
        "against {other}, {:.2} %: {points:+.2} points ({low:+.2} to {high:+.2}), {gained} gained, {lost} lost\n",
        theirs.report.all.percent
    ))?;
    Ok(json!({
        "model": other,
        "report": theirs.report,
        "calibration": theirs.calibration,
        "difference": difference,
    }))
}

fn mistakes(out: &Path, chats: &[Chat], judged: &Judged) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(out)?);
    for ((chat, right), said) in chats.iter().zip(&judged.right).zip(&judged.said) {
        if !right {
            let (before, answer) = chat.split();
            let question = before.last().map_or("", |message| &message.content);
            writeln!(
                file,
                "{}",
                json!({"question": question, "right": answer, "said": said.text, "metadata": chat.metadata})
            )?;
        }
    }
    file.flush()
}

/// What a box calls an adapter: its file, without the end.
fn adapter_name(file: &Path) -> String {
    file.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
