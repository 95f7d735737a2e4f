//! YAML (and so JSON) text to a tree that knows its lines, for configuration and manifests alike.
//! Every limit is here: depth and what aliases may multiply. Not here: what a key means (`yaml::cursor` reads values).
//! Source: YAML 1.2.2; plain scalars keep their text, the reader of a key decides what it is.

mod cursor;

pub use cursor::{At, Errors, Problem};

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

/// Deepest nesting of a document; Kubernetes objects need about ten.
const DEPTH_MAX: usize = 64;
/// Nodes that all aliases of a stream may add together, so that a few lines cannot unfold into gigabytes.
const ALIAS_NODES_MAX: usize = 100_000;
/// Faults of one text that are told; the first few are enough to go on with.
const FAULTS_MAX: usize = 1000;
/// Keys of one map; the largest maps of Kubernetes objects are labels and annotations.
const KEYS_MAX: usize = 4096;

/// A value and the line it starts on (from 1). Its texts may be borrowed from what it was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node<'t> {
    /// Line in the text, from 1.
    pub line: usize,
    /// The value.
    pub value: Value<'t>,
}

/// What stands at a place of the document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value<'t> {
    /// `null`, `~` or nothing.
    Null,
    /// Text; `plain` when it was not quoted and may so mean a number or a boolean.
    Scalar {
        /// The text without quotes.
        text: Cow<'t, str>,
        /// Whether it stood without quotes.
        plain: bool,
    },
    /// A list.
    Seq(Vec<Node<'t>>),
    /// Keys and values in their order; no key twice.
    Map(Vec<Entry<'t>>),
}

/// One key of a map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry<'t> {
    /// The key.
    pub key: Cow<'t, str>,
    /// The line of the key.
    pub line: usize,
    /// Its value.
    pub value: Node<'t>,
}

/// Text that is not YAML, or exceeds a limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SyntaxError {
    /// Line in the text, from 1.
    pub line: usize,
    /// What is wrong; what is expected.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SyntaxError {}

/// What a text holds, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The documents of the stream that are not empty, in order, up to the first place that cannot be read.
    pub documents: Vec<Node<'static>>,
    /// Every key that stands twice (its first value counts), and the place that cannot be read.
    pub faults: Vec<SyntaxError>,
}

/// Reads a stream of documents. With a fault its documents are still worth a look for other faults.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    let mut builder = Builder {
        text,
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        alias_nodes: 0,
        faults: Vec::new(),
    };
    let mut documents = Vec::new();
    if let Err(error) = builder.stream(&mut documents) {
        builder.faults.push(error);
    }
    Parsed { documents, faults: builder.faults }
}

struct Builder<'a> {
    text: &'a str,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node<'static>>,
    alias_nodes: usize,
    faults: Vec<SyntaxError>,
}

impl<'a> Builder<'a> {
    fn stream(&mut self, documents: &mut Vec<Node<'static>>) -> Result<(), SyntaxError> {
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => break,
                event => {
                    let node = self.node(event, span, 0)?;
                    if node.value != Value::Null {
                        documents.push(node);
                    }
                }
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, SyntaxError> {
        self.events.next_event().transpose().map_err(|error| scan_error(&error, self.text))
    }

    /// The next event of an unfinished node; the parser ends none early without an error.
    fn within(&mut self, line: usize) -> Result<(Event<'a>, Span), SyntaxError> {
        self.next()?.ok_or_else(|| refuse(line, "the document ends too early; its end is expected"))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node<'static>, SyntaxError> {
        let line = span.start.line();
        if depth > DEPTH_MAX {
            return Err(refuse(line, format!("nested too deeply; at most {DEPTH_MAX} levels are expected")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style), anchor),
            Event::SequenceStart(anchor, _) => (self.sequence(line, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(line, depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, line),
            _ => return Err(refuse(line, "not a value; a scalar, list or map is expected")),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, line: usize, depth: usize) -> Result<Value<'static>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.within(line)? {
                (Event::SequenceEnd, _) => return Ok(Value::Seq(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, line: usize, depth: usize) -> Result<Value<'static>, SyntaxError> {
        let mut entries: Vec<Entry<'static>> = Vec::new();
        loop {
            let (key, line) = match self.within(line)? {
                (Event::MappingEnd, _) => return Ok(Value::Map(entries)),
                (Event::Scalar(key, ..), span) => {
                    (Cow::<'static, str>::Owned(key.into_owned()), span.start.line())
                }
                (_, span) => {
                    return Err(refuse(span.start.line(), "a key is no text; a plain key is expected"));
                }
            };
            let first = entries.iter().find(|entry| entry.key == key).map(|entry| entry.line);
            if let Some(first) = first {
                let message =
                    format!("key `{key}` stands here and on line {first}; each key once is expected");
                self.note(refuse(line, message))?;
            }
            if entries.len() == KEYS_MAX {
                return Err(refuse(line, format!("over {KEYS_MAX} keys in one map; fewer are expected")));
            }
            let (event, span) = self.within(line)?;
            let mut value = self.node(event, span, depth + 1)?;
            if value.value == Value::Null {
                // The parser puts an absent value where the next token starts; its key's line helps people more.
                value.line = line;
            }
            if first.is_none() {
                entries.push(Entry { key, line, value });
            }
        }
    }

    /// Notes a fault that reading can go on after.
    fn note(&mut self, fault: SyntaxError) -> Result<(), SyntaxError> {
        if self.faults.len() == FAULTS_MAX {
            return Err(refuse(fault.line, format!("over {FAULTS_MAX} faults; the rest is not read")));
        }
        self.faults.push(fault);
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Node<'static>, SyntaxError> {
        let node = self.anchors.get(&anchor).cloned();
        let node =
            node.ok_or_else(|| refuse(line, "alias of itself; an anchor that is complete is expected"))?;
        self.alias_nodes += count(&node);
        if self.alias_nodes > ALIAS_NODES_MAX {
            let message = format!("aliases unfold to over {ALIAS_NODES_MAX} values; fewer are expected");
            return Err(refuse(line, message));
        }
        Ok(node)
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value<'static> {
    let plain = style == ScalarStyle::Plain;
    match text {
        "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
        text => Value::Scalar { text: text.to_owned().into(), plain },
    }
}

fn count(node: &Node<'_>) -> usize {
    1 + match &node.value {
        Value::Null | Value::Scalar { .. } => 0,
        Value::Seq(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|entry| count(&entry.value)).sum(),
    }
}

fn refuse(line: usize, message: impl Into<String>) -> SyntaxError {
    SyntaxError { line, message: message.into() }
}

fn scan_error(error: &ScanError, text: &str) -> SyntaxError {
    let line = error.marker().line();
    if error.info().contains("tab") {
        // The scanner points before the tab; people need the line that begins with it.
        let after = text.lines().enumerate().skip(line.saturating_sub(1));
        let tabbed = after.take(2).find(|(_, row)| row.starts_with('\t')).map(|(index, _)| index + 1);
        return refuse(tabbed.unwrap_or(line), "a tab in the indentation; spaces are expected");
    }
    refuse(line, format!("{}; YAML or JSON is expected", error.info()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documents of a good text, or the first fault of a bad one.
    fn parse(text: &str) -> Result<Vec<Node<'static>>, SyntaxError> {
        let Parsed { documents, faults } = super::parse(text);
        faults.into_iter().next().map_or(Ok(documents), Err)
    }

    fn entry<'a>(node: &'a Node<'a>, key: &str) -> &'a Entry<'a> {
        let Value::Map(entries) = &node.value else { panic!("not a map: {node:?}") };
        entries.iter().find(|entry| entry.key == key).expect("key")
    }

    #[test]
    fn every_value_knows_its_line() {
        let text =
            "# comment\na: 1\n\nb:\n  - x\n  - {y: 2,\n     z: 3}\nc: |\n  two\n  lines\nd:\ne: \"q\"\n";
        let documents = parse(text).expect("good");
        let root = &documents[0];
        assert_eq!(entry(root, "a").line, 2);
        let Value::Seq(items) = &entry(root, "b").value.value else { panic!("list") };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(entry(&items[1], "z").line, 7);
        assert_eq!(entry(root, "c").line, 8);
        assert_eq!(entry(root, "d").value, Node { line: 11, value: Value::Null });
        assert_eq!(entry(root, "e").value.line, 12);
    }

    #[test]
    fn documents_are_split_and_empty_ones_left_out() {
        let documents = parse("---\n# nothing\n---\na: 1\n---\n---\nb: 2\n").expect("good");
        assert_eq!(documents.len(), 2);
        assert_eq!(entry(&documents[1], "b").line, 7);
        assert!(parse("").expect("empty").is_empty());
    }

    #[test]
    fn json_is_read_with_its_lines() {
        let documents = parse("{\n  \"a\": [1,\n    {\"b\": null, \"c\": \"x\\u0041\"}]\n}").expect("json");
        let Value::Seq(items) = &entry(&documents[0], "a").value.value else { panic!("list") };
        assert_eq!(entry(&items[1], "c").line, 3);
        assert_eq!(entry(&items[1], "c").value.value, Value::Scalar { text: "xA".into(), plain: false });
        assert_eq!(entry(&items[1], "b").value.value, Value::Null);
    }

    #[test]
    fn bad_text_is_refused_with_its_line() {
        for (text, line, word) in [
            ("a: 1\nb: [1,\n", 3, "expected"),
            ("a: 1\na: 2\n", 2, "key `a`"),
            ("a: &x [*x]\n", 1, "expected"),
            ("a: *nobody\n", 1, "expected"),
            ("a: 1\n\tb: 2\n", 2, "expected"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!((error.line, error.message.contains(word)), (line, true), "{text:?}: {error:?}");
        }
        assert!(parse(&"[".repeat(5000)).is_err());
    }

    #[test]
    fn faults_do_not_hide_one_another() {
        let Parsed { documents, faults } =
            super::parse("a: 1\na: 2\nb: {c: 1, c: 2, d: 3}\n---\ne: 1\n---\nf: [\n");
        assert_eq!(documents.len(), 2);
        assert_eq!(entry(&documents[0], "a").value.value, Value::Scalar { text: "1".into(), plain: true });
        assert_eq!(entry(&entry(&documents[0], "b").value, "d").line, 3);
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [2, 3, 8], "{faults:?}");
        let flood = super::parse(&"a: 1\n".repeat(FAULTS_MAX + 100)).faults;
        assert_eq!(flood.len(), FAULTS_MAX + 1);
        assert!(flood.last().is_some_and(|last| last.message.contains("the rest is not read")));
    }

    #[test]
    fn aliases_are_followed_but_do_not_multiply_without_end() {
        let documents = parse("a: &x {k: 1}\nb: *x\n").expect("alias");
        assert_eq!(entry(&entry(&documents[0], "b").value, "k").line, 1);
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(parse(&bomb).expect_err("bomb").message.contains("aliases unfold"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[ \\-\\[\\]{}:,&*!|>'\"%@`#?a-z0-9\\n\\t]{0,80}") {
            let _ = parse(&text);
        }
    }
}
