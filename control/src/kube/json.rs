//! JSON of the API server to the tree that manifests are read from, so that both sources share every rule of reading.
//! Subtrees that nobody here reads are left out while parsing: they are more than half of an object. Texts stay where they
//! are, so that a large list is not made of millions of small allocations. Not here: what keys mean.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::yaml::{Entry, Node, Value};

/// Keys whose lists and maps are left out. A text under such a key stays: it could be a label's.
const UNREAD: [&str; 4] = ["images", "managedFields", "ownerReferences", "targetRef"];

/// A value of any shape; everything stands on line 1.
#[derive(Debug)]
pub(super) struct Json<'t>(pub(super) Node<'t>);

impl<'de: 't, 't> Deserialize<'de> for Json<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree).map(|value| Self(Node { line: 1, value }))
    }
}

struct Tree;

fn plain(text: impl ToString) -> Value<'static> {
    Value::Scalar { text: text.to_string().into(), plain: true }
}

fn quoted(text: Cow<'_, str>) -> Value<'_> {
    Value::Scalar { text, plain: false }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Scalar { text: if value { "true" } else { "false" }.into(), plain: true })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(plain(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(plain(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(plain(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(quoted(Cow::Borrowed(text)))
    }

    /// One with escapes.
    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(quoted(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(node)) = items.next_element()? {
            list.push(node);
        }
        Ok(Value::Seq(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(Key(key)) = fields.next_key()? {
            if UNREAD.contains(&&*key) {
                let text = fields.next_value::<Text>()?.0;
                entries.extend(text.map(|value| Entry { key, line: 1, value: Node { line: 1, value } }));
                continue;
            }
            let Json(value) = fields.next_value()?;
            entries.push(Entry { key, line: 1, value });
        }
        Ok(Value::Map(entries))
    }
}

/// A key where it stands.
struct Key<'t>(Cow<'t, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextOnly).map(|text| match text {
            Some(Value::Scalar { text, .. }) => Self(text),
            _ => Self(Cow::Borrowed("")),
        })
    }
}

/// A text, or none for anything else.
struct Text<'t>(Option<Value<'t>>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOnly).map(Self)
    }
}

struct TextOnly;

impl<'de> Visitor<'de> for TextOnly {
    type Value = Option<Value<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Option<Value<'de>>, E> {
        Tree.visit_borrowed_str(text).map(Some)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<Value<'de>>, E> {
        Tree.visit_str(text).map(Some)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<Value<'de>>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<Value<'de>>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<Value<'de>>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<Value<'de>>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<Value<'de>>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Value<'de>>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Option<Value<'de>>, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// The same tree on one line.
    fn flat(node: Node<'_>) -> Node<'_> {
        let value = match node.value {
            Value::Seq(items) => Value::Seq(items.into_iter().map(flat).collect()),
            Value::Map(entries) => {
                let entry = |Entry { key, value, .. }| Entry { key, line: 1, value: flat(value) };
                Value::Map(entries.into_iter().map(entry).collect())
            }
            scalar => scalar,
        };
        Node { line: 1, value }
    }

    #[test]
    fn json_read_here_is_the_tree_of_the_same_json_read_as_yaml() {
        for text in [
            r#"{"a": "1", "b": 1, "c": true, "d": null, "e": [], "f": {}, "g": -7, "h": "true"}"#,
            r#"{"text": "a \"quoted\" line\nand 2", "deep": [[{"x": [1, "2"]}]]}"#,
        ] {
            let Json(ours) = serde_json::from_str(text).expect("JSON");
            let theirs = yaml::parse(text).documents.remove(0);
            assert_eq!(ours, flat(theirs), "{text}");
        }
    }

    #[test]
    fn what_nobody_reads_is_left_out_and_nesting_is_bounded() {
        let text = r#"{"metadata": {"managedFields": [{"fieldsV1": {"f:x": {}}}], "name": "n", "labels": {"images": "all"}},
            "endpoints": [{"targetRef": {"kind": "Pod"}, "addresses": []}], "status": {"images": [{}]}, "targetRef": 7}"#;
        let Json(tree) = serde_json::from_str(text).expect("JSON");
        let want = r#"{"metadata": {"name": "n", "labels": {"images": "all"}}, "endpoints": [{"addresses": []}], "status": {}}"#;
        let Json(want) = serde_json::from_str(want).expect("JSON");
        assert_eq!(tree, want);
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(serde_json::from_str::<Json<'_>>(&deep).is_err());
    }
}
