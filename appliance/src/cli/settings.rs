//! Settings from file, environment and flags, in this order.

use config::{Environment, File, FileFormat, Value, ValueKind};

use super::ServeArgs;
use super::exit::{self, Failure};
use crate::config::{Config, check_key};

/// Reads all sources and checks what needs no model.
pub(super) fn read(args: &ServeArgs) -> Result<Config, Failure> {
    let config = read_unchecked(args)?;
    config.check()?;
    Ok(config)
}

/// Reads all sources, for who only wants to know where things are.
pub(super) fn read_unchecked(args: &ServeArgs) -> Result<Config, Failure> {
    let bad = |error: config::ConfigError| Failure::new(exit::CONFIG, error.to_string());
    let mut sources = config::Config::builder();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::io(format!("cannot read {}", path.display()), e))?;
        let place = path.display().to_string();
        sources = sources.add_source(File::from_str(&text, FileFormat::Toml));
        // Parsed on its own first, so that a syntax error names the file.
        config::Config::builder()
            .add_source(File::from_str(&text, FileFormat::Toml))
            .build()
            .map_err(|e| bad(e).at(&place))?;
    }
    let environment = Environment::with_prefix("OUTSTATION")
        .prefix_separator("_")
        .separator("__")
        .try_parsing(true);
    let merged = sources.add_source(environment).build().map_err(bad)?;
    for key in keys(&merged.cache) {
        check_key(&key)?;
    }
    let mut config: Config = merged.try_deserialize().map_err(bad)?;
    apply_flags(&mut config, args);
    Ok(config)
}

fn apply_flags(config: &mut Config, args: &ServeArgs) {
    if let Some(model) = &args.model {
        config.model.file = Some(model.clone());
    }
    config.adapters.files.extend_from_slice(&args.adapter);
    config.listen.quic = args.listen.unwrap_or(config.listen.quic);
    config.listen.http = args.http.unwrap_or(config.listen.http);
    config.memory.limit = args.memory.or(config.memory.limit);
    config.memory.gpu_limit = args.gpu_memory.or(config.memory.gpu_limit);
    if let Some(device) = &args.device {
        config.engine.device = Some(device.clone());
    }
    if let Some(kv) = &args.kv {
        config.engine.kv = Some(kv.clone());
    }
    config.serving.context_tokens_max = args.context.or(config.serving.context_tokens_max);
    config.serving.sequences_max = args.sequences.unwrap_or(config.serving.sequences_max);
    config.engine.threads = args.threads.or(config.engine.threads);
}

/// All keys that were set, dotted.
fn keys(value: &Value) -> Vec<String> {
    let ValueKind::Table(table) = &value.kind else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, value) in table {
        if let ValueKind::Table(_) = value.kind {
            found.extend(keys(value).into_iter().map(|key| format!("{name}.{key}")));
        } else {
            found.push(name.clone());
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(toml: &str, expected: Expect) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("box.toml");
        std::fs::write(&path, toml).unwrap();
        let args = ServeArgs {
            config: Some(path),
            ..ServeArgs::default()
        };
        let shown = match read(&args) {
            Ok(c) => format!(
                "{:?} {} {:?}",
                c.memory.limit, c.serving.sequences_max, c.listen.quic
            ),
            Err(f) => format!(
                "{}: {}",
                f.code,
                f.message.replace(&*folder.path().to_string_lossy(), "")
            ),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_file_sets_what_it_names() {
        check(
            "[memory]\nlimit = '2GiB'\n[serving]\nsequences_max = 3\n",
            expect!["Some(ByteSize(2147483648)) 3 127.0.0.1:4433"],
        );
    }

    #[test]
    fn mistakes_say_where_and_what() {
        check(
            "[serving]\nsequence_max = 3\n",
            expect![
                "78: unknown setting `serving.sequence_max`: did you mean `serving.sequences_max`?"
            ],
        );
        check(
            "[memory]\nlimit = 'much'\n",
            expect![
                "78: `much` is no size: write a number with KiB, MiB or GiB, like 6GiB for key `memory.limit`"
            ],
        );
        check(
            "[memory\n",
            expect![[r"
            78: /box.toml: TOML parse error at line 1, column 8
              |
            1 | [memory
              |        ^
            unclosed table, expected `]`
        "]],
        );
        check(
            "[serving]\nsequences_max = 'three'\n",
            expect![[
                r#"78: invalid type: string "three", expected an integer for key `serving.sequences_max`"#
            ]],
        );
    }
}
