//! JSON as Python's `json.dumps` writes it, which is what models saw in training.

use std::fmt::Write as _;
use std::io;

use serde::Serialize as _;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// `json.dumps(value, indent=…, ensure_ascii=…, separators=…)`.
///
/// Source: CPython `Lib/json/__init__.py`: separators are `", "` and `": "`, the first `","` with an indent.
pub(super) fn dumps(
    value: &minijinja::Value,
    indent: Option<usize>,
    ascii: bool,
    separators: Option<&[String]>,
) -> Result<String, serde_json::Error> {
    let default = [
        if indent.is_some() { "," } else { ", " }.to_owned(),
        ": ".to_owned(),
    ];
    let [item, key] = match separators {
        Some([item, key]) => [item.clone(), key.clone()],
        _ => default,
    };
    let indent = indent.map(|width| width.min(INDENT_MAX));
    let python = Python {
        indent,
        item,
        key,
        depth: 0,
        is_empty: true,
    };
    let mut output = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut output, python))?;
    let text = String::from_utf8(output).expect("serde_json writes UTF-8");
    Ok(if ascii { escape_non_ascii(&text) } else { text })
}

/// Wider is a mistake, and costs memory.
const INDENT_MAX: usize = 16;

struct Python {
    indent: Option<usize>,
    item: String,
    key: String,
    depth: usize,
    is_empty: bool,
}

impl Python {
    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(writer, "\n{:1$}", "", width * self.depth),
            None => Ok(()),
        }
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.is_empty) {
            self.new_line(writer)?;
        }
        writer.write_all(bracket)
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_empty = false;
        Ok(())
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_empty = false;
        Ok(())
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        let short: &[u8] = match escape {
            CharEscape::Quote => b"\\\"",
            CharEscape::ReverseSolidus => b"\\\\",
            CharEscape::Solidus => b"\\/",
            CharEscape::Backspace => b"\\b",
            CharEscape::FormFeed => b"\\f",
            CharEscape::LineFeed => b"\\n",
            CharEscape::CarriageReturn => b"\\r",
            CharEscape::Tab => b"\\t",
            CharEscape::AsciiControl(byte) => return write!(writer, "\\u{byte:04x}"),
        };
        writer.write_all(short)
    }
}

/// Non-ASCII stands only inside strings, so it can be escaped afterwards.
fn escape_non_ascii(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() {
            output.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(output, "\\u{unit:04x}").expect("a String takes everything");
            }
        }
    }
    output
}
