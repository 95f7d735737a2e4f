//! JSON of the API server to the tree that manifests are read from, so that both sources share every rule of reading.
//! `managedFields` is left out while parsing: it is as large as the object and says nothing to us. Not here: what keys mean.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::yaml::{Entry, Node, Value};

/// The key that is as large as all others together.
const BOOKKEEPING: &str = "managedFields";

/// A value of any shape; everything stands on line 1.
#[derive(Debug)]
pub(super) struct Json(pub(super) Node);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree).map(|value| Self(Node { line: 1, value }))
    }
}

struct Tree;

fn plain(text: impl ToString) -> Value {
    Value::Scalar { text: text.to_string(), plain: true }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(plain(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(plain(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(plain(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(plain(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Scalar { text: text.to_owned(), plain: false })
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(node)) = items.next_element()? {
            list.push(node);
        }
        Ok(Value::Seq(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = fields.next_key::<String>()? {
            if key == BOOKKEEPING {
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            let Json(value) = fields.next_value()?;
            entries.push(Entry { key, line: 1, value });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// The same tree on one line.
    fn flat(node: Node) -> Node {
        let value = match node.value {
            Value::Seq(items) => Value::Seq(items.into_iter().map(flat).collect()),
            Value::Map(entries) => {
                let flat = |entry: Entry| Entry { line: 1, value: flat(entry.value), ..entry };
                Value::Map(entries.into_iter().map(flat).collect())
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
    fn bookkeeping_is_left_out_and_nesting_is_bounded() {
        let text = r#"{"metadata": {"managedFields": [{"fieldsV1": {"f:x": {}}}], "name": "n"}}"#;
        let Json(tree) = serde_json::from_str(text).expect("JSON");
        let Json(want) = serde_json::from_str(r#"{"metadata": {"name": "n"}}"#).expect("JSON");
        assert_eq!(tree, want);
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(serde_json::from_str::<Json>(&deep).is_err());
    }
}
