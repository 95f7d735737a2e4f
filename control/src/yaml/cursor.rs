//! Typed reading of a YAML tree: a cursor knows its path, and every fault found is collected with its line, not only
//! the first. A reader gets `None` where a fault was noted, so that it can go on with the next key.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Node, SyntaxError, Value};

/// One fault of a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Line in the text, from 1.
    pub line: usize,
    /// Path of the key, such as `ports[0].name`; empty for the document as a whole.
    pub path: String,
    /// What is wrong; what is expected.
    pub message: String,
}

impl From<SyntaxError> for Problem {
    fn from(SyntaxError { line, message }: SyntaxError) -> Self {
        Self { line, path: String::new(), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The faults found so far. Shared by all cursors of a document, hence the cell.
#[derive(Debug, Default)]
pub struct Errors(RefCell<Vec<Problem>>);

impl Errors {
    /// Notes a fault at a place.
    pub fn add(&self, at: &At<'_>, what: impl fmt::Display, expected: impl fmt::Display) {
        let message = format!("{what}; {expected}");
        self.0.borrow_mut().push(Problem { line: at.line, path: at.path(), message });
    }

    /// Whether a fault was noted at a place or within it.
    pub fn are_within(&self, at: &At<'_>) -> bool {
        let path = at.path();
        let within = |problem: &Problem| {
            problem
                .path
                .strip_prefix(&path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.0.borrow().iter().any(within)
    }

    /// How many faults were noted.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// The faults by line.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

/// A place in a document.
#[derive(Clone, Copy)]
pub struct At<'a> {
    node: &'a Node<'a>,
    line: usize,
    parent: Option<&'a Self>,
    step: Step<'a>,
}

impl<'a> At<'a> {
    /// The root of a document.
    pub fn root(node: &'a Node<'a>) -> Self {
        At { node, line: node.line, parent: None, step: Step::Root }
    }

    /// The line people should look at: the key's.
    pub fn line(&self) -> usize {
        self.line
    }

    /// `a.b[0].c`.
    pub fn path(&self) -> String {
        let mut text = self.parent.map(At::path).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Key(key) if text.is_empty() => text.push_str(key),
            // A key with dots, such as an annotation's, is set apart by brackets.
            Step::Key(key) if key.contains(['.', '/']) => {
                let _ = write!(text, "[{key}]");
            }
            Step::Key(key) => {
                let _ = write!(text, ".{key}");
            }
            Step::Index(index) => {
                let _ = write!(text, "[{index}]");
            }
        }
        text
    }

    /// Whether a list stands here.
    pub fn is_list(&self) -> bool {
        matches!(self.node.value, Value::Seq(_))
    }

    /// The value of a key; none when the key is absent or null, or here is no map.
    pub fn field<'b>(&'b self, key: &'b str) -> Option<At<'b>> {
        self.fields().find(|field| matches!(field.step, Step::Key(name) if name == key))
    }

    /// All keys with a value, when a map stands here.
    pub fn fields<'b>(&'b self) -> impl Iterator<Item = At<'b>> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().filter(|entry| entry.value.value != Value::Null).map(|entry| At {
            node: &entry.value,
            line: entry.line,
            parent: Some(self),
            step: Step::Key(&entry.key),
        })
    }

    /// The last step's key; empty for a list item or the root.
    pub fn key(&self) -> &'a str {
        if let Step::Key(key) = self.step { key } else { "" }
    }

    /// Notes every key that is not one of `known`, and the place itself when it is no map.
    pub fn only(&self, known: &[&str], errors: &Errors) {
        let Value::Map(entries) = &self.node.value else {
            return errors.add(self, "not a map", format!("keys {} are expected", known.join(", ")));
        };
        for entry in entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            let at =
                At { node: &entry.value, line: entry.line, parent: Some(self), step: Step::Key(&entry.key) };
            errors.add(&at, "unknown key", format!("one of {} is expected", known.join(", ")));
        }
    }

    /// The items of a list; a fault and none when here is something else.
    pub fn items<'b>(&'b self, errors: &Errors) -> impl Iterator<Item = At<'b>> {
        let items = match &self.node.value {
            Value::Seq(items) => items.as_slice(),
            _ => {
                errors.add(self, "not a list", "a list is expected");
                &[]
            }
        };
        items.iter().enumerate().map(|(index, node)| At {
            node,
            line: node.line,
            parent: Some(self),
            step: Step::Index(index),
        })
    }

    /// What `read` makes of the items of the list under a key; an absent or null list is empty.
    pub fn list<T>(&self, key: &str, errors: &Errors, read: fn(&At<'_>, &Errors) -> Option<T>) -> Vec<T> {
        let Some(field) = self.field(key) else { return Vec::new() };
        field.items(errors).filter_map(|item| read(&item, errors)).collect()
    }

    /// Notes a fault unless a map stands here.
    pub fn expect_map(&self, errors: &Errors) -> bool {
        let is_map = matches!(self.node.value, Value::Map(_));
        if !is_map {
            errors.add(self, "not a map", "keys with values are expected");
        }
        is_map
    }

    /// A text; a plain number or boolean is a fault, as it is to the API server.
    pub fn text(&self, errors: &Errors) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, plain } if !plain || !is_typed(text) => Some(text),
            Value::Scalar { text, .. } => {
                errors.add(self, format!("`{text}` is not a text"), "put it in quotes");
                None
            }
            _ => {
                errors.add(self, "not a text", "a text is expected");
                None
            }
        }
    }

    /// A scalar as it stands, number or text.
    pub fn scalar(&self) -> Option<&'a str> {
        if let Value::Scalar { text, .. } = &self.node.value { Some(text) } else { None }
    }

    /// A text that parses.
    pub fn parsed<T: FromStr>(&self, expected: &str, errors: &Errors) -> Option<T> {
        let text = self.text(errors)?;
        let value = text.parse().ok();
        if value.is_none() {
            errors.add(self, format!("`{text}` is not valid"), format!("{expected} is expected"));
        }
        value
    }

    /// `true` or `false`.
    pub fn boolean(&self, errors: &Errors) -> Option<bool> {
        match &self.node.value {
            Value::Scalar { text, plain: true } if matches!(&**text, "true" | "True" | "TRUE") => Some(true),
            Value::Scalar { text, plain: true } if matches!(&**text, "false" | "False" | "FALSE") => {
                Some(false)
            }
            _ => {
                errors.add(self, "not a boolean", "true or false is expected");
                None
            }
        }
    }

    /// A whole number in a range.
    pub fn number<T>(&self, range: RangeInclusive<T>, errors: &Errors) -> Option<T>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let text = if let Value::Scalar { text, plain: true } = &self.node.value { &**text } else { "" };
        let value = text.parse().ok().filter(|value| range.contains(value));
        if value.is_none() {
            let what =
                if text.is_empty() { "not a number".to_owned() } else { format!("`{text}` is not valid") };
            errors.add(self, what, format!("a number from {} to {} is expected", range.start(), range.end()));
        }
        value
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)], errors: &Errors) -> Option<T> {
        let text = self.scalar().unwrap_or_default();
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            errors.add(
                self,
                format!("`{text}` is not known"),
                format!("one of {} is expected", names.join(", ")),
            );
        }
        found
    }
}

/// Whether a plain scalar is a number or boolean to YAML's core schema.
fn is_typed(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE") || {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        digits.starts_with(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn faults_carry_path_and_line_and_reading_goes_on() {
        let documents = parse("a:\n- b: 7\n  c: [x, 1]\n- z: yes\n").documents;
        let errors = Errors::default();
        let root = At::root(&documents[0]);
        let list = root.field("a").expect("a");
        for item in list.items(&errors) {
            item.only(&["b", "c"], &errors);
            if let Some(field) = item.field("b") {
                assert_eq!(field.number(1..=5u16, &errors), None);
            }
            if let Some(field) = item.field("c") {
                let texts: Vec<_> = field.items(&errors).map(|entry| entry.text(&errors)).collect();
                assert_eq!(texts, [Some("x"), None]);
            }
        }
        let shown: Vec<_> = errors.into_problems().iter().map(|p| format!("{}: {p}", p.line)).collect();
        assert_eq!(
            shown,
            [
                "2: a[0].b: `7` is not valid; a number from 1 to 5 is expected",
                "3: a[0].c[1]: `1` is not a text; put it in quotes",
                "4: a[1].z: unknown key; one of b, c is expected",
            ]
        );
    }
}
