//! `outstation tokenize`: lines of text to lines of ids, and back.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use clap::Args;

use super::exit::{self, Failure};
use super::load;
use crate::config::ModelConfig;
use crate::tokenizer::{Bos, Special, Tokenizer};

/// Arguments of `tokenize`.
#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    /// GGUF file with a vocabulary; it needs no tensors.
    #[arg(long, value_name = "FILE.gguf")]
    model: Option<PathBuf>,
    /// Each line is a JSON string instead of plain text.
    #[arg(long)]
    jsonl: bool,
    /// Put the beginning-of-sequence token in front where the model wants one.
    #[arg(long)]
    bos: bool,
    /// Read special tokens like <|im_start|> as what they are.
    #[arg(long)]
    special: bool,
    /// The way back: lines of ids to text (with --jsonl, JSON strings).
    #[arg(long)]
    ids: bool,
    /// Input; standard input without it.
    file: Option<PathBuf>,
}

pub(super) fn tokenize(args: &TokenizeArgs) -> Result<(), Failure> {
    let config = ModelConfig {
        file: args.model.clone(),
        ..ModelConfig::default()
    };
    let tokenizer = load::tokenizer(&config)?;
    let input: Box<dyn BufRead> = match &args.file {
        None => Box::new(io::stdin().lock()),
        Some(path) => {
            let file = std::fs::File::open(path)
                .map_err(|e| Failure::io(format!("cannot read {}", path.display()), e))?;
            Box::new(BufReader::new(file))
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (number, line) in input.lines().enumerate() {
        let line = line.map_err(|e| Failure::io(format!("line {}", number + 1), e))?;
        let answer = if args.ids {
            to_text(args, &tokenizer, &line)
        } else {
            to_ids(args, &tokenizer, &line)
        };
        let answer = answer.map_err(|f| f.at(format!("line {}", number + 1)))?;
        writeln!(out, "{answer}").map_err(|e| Failure::io("cannot write", e))?;
    }
    out.flush().map_err(|e| Failure::io("cannot write", e))
}

fn to_ids(args: &TokenizeArgs, tokenizer: &Tokenizer, line: &str) -> Result<String, Failure> {
    let special = if args.special {
        Special::Parse
    } else {
        Special::Plain
    };
    let bos = if args.bos { Bos::Add } else { Bos::Omit };
    let ids = if args.jsonl {
        let text: String = serde_json::from_str(line).map_err(|e| {
            Failure::new(
                exit::BAD_INPUT,
                format!("not a JSON string ({e}): leave out --jsonl for plain text"),
            )
        })?;
        tokenizer.encode(&text, special, bos)
    } else {
        tokenizer.encode(line, special, bos)
    };
    let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
    Ok(ids.join(" "))
}

fn to_text(args: &TokenizeArgs, tokenizer: &Tokenizer, line: &str) -> Result<String, Failure> {
    let mut ids = Vec::new();
    for word in line.split([' ', ',']).filter(|word| !word.is_empty()) {
        let id = word
            .parse::<u32>()
            .ok()
            .filter(|&id| (id as usize) < tokenizer.vocab_size());
        ids.push(id.ok_or_else(|| {
            let size = tokenizer.vocab_size();
            Failure::new(
                exit::BAD_INPUT,
                format!("`{word}` is no token id: they go from 0 to {}", size - 1),
            )
        })?);
    }
    let text = tokenizer.decode(&ids);
    Ok(if args.jsonl {
        serde_json::Value::String(text).to_string()
    } else {
        text
    })
}
