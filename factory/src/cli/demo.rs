//! `demo`: sentences of the demo's task, and the right answers to any of them.
#![expect(clippy::disallowed_methods, reason = "sentences are files")]

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, INPUT, show};
use crate::chat::{self, Chat};
use crate::task::{Dice, Language, Phrases, Set};

/// What `demo` does.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    #[command(subcommand)]
    command: DemoCommand,
}

#[derive(Debug, Subcommand)]
enum DemoCommand {
    /// Write sentences with their right answers, as chats to learn from.
    Data(DataArgs),
    /// Answer sentences, one a line, as the oracle does.
    Label {
        /// Where they are; `-` is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct DataArgs {
    /// Whose phrasings and values.
    #[arg(long, value_enum)]
    set: Set,
    /// How many sentences, in all languages in turn.
    #[arg(long, value_name = "N")]
    count: usize,
    /// Another seed, other sentences.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Of one language alone: en, de or es.
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Of 100 sentences so many are said loosely, with words left out, added, or in another place: to learn from.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    loose: u8,
    /// Where to; `-` is standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
}

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    match &args.command {
        DemoCommand::Data(args) => data(args),
        DemoCommand::Label { file } => label(file),
    }
}

fn data(args: &DataArgs) -> Result<(), Failure> {
    let languages: Vec<Language> = match &args.language {
        None => Language::ALL.into(),
        Some(code) => {
            let known = Language::ALL
                .into_iter()
                .find(|language| language.code() == code);
            vec![known.ok_or_else(|| {
                Failure::new(super::USAGE, format!("no language {code:?}: en, de or es"))
            })?]
        }
    };
    let (phrases, mut dice) = (Phrases::new(), Dice::new(args.seed));
    let mut chats = Vec::new();
    for language in languages.into_iter().cycle().take(args.count) {
        let question = phrases.ask_loosely(language, args.set, args.loose.into(), &mut dice);
        let mut chat = Chat::of(&question.text, &question.answer);
        chat.metadata
            .insert("language".to_owned(), language.code().into());
        chat.metadata
            .insert("intent".to_owned(), question.intent.into());
        chat.metadata
            .insert("set".to_owned(), args.set.name().into());
        chats.push(chat);
    }
    write(&args.out, &chat::write(&chats))
}

fn label(file: &PathBuf) -> Result<(), Failure> {
    let failed = |e| Failure::io(file.display(), e);
    let input: Box<dyn std::io::BufRead> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::io::BufReader::new(
            std::fs::File::open(file).map_err(failed)?,
        ))
    };
    let phrases = Phrases::new();
    let mut unknown = 0;
    for line in input.lines() {
        let line = line.map_err(failed)?;
        if let Some(reading) = phrases.read(&line) {
            show(&format!("{}\n", reading.answer))?;
        } else {
            unknown += 1;
            show("\n")?;
        }
    }
    if unknown > 0 {
        let message = format!("{unknown} sentences are none of the demo's: their lines are empty");
        return Err(Failure::new(INPUT, message));
    }
    Ok(())
}

fn write(out: &PathBuf, text: &str) -> Result<(), Failure> {
    if out.as_os_str() == "-" {
        return show(text);
    }
    let written = std::fs::File::create(out).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Failure::io(out.display(), e))
}
