//! A pool as YAML has it, the same keys in the configuration and in an AddressPool's `spec`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Labels, Pool, Requirement, Selector, cidr, range};
use crate::yaml::{At, Errors};

/// The keys of a pool besides its name.
pub(crate) const KEYS: [&str; 6] =
    ["cidrs", "ranges", "autoAssign", "avoidBuggyIPs", "serviceSelector", "namespaceSelector"];

/// Reads everything but the name.
pub(crate) fn pool(at: &At<'_>, errors: &Errors) -> Pool {
    let faults = errors.count();
    let mut ranges = ranges(at, "cidrs", cidr, errors);
    ranges.extend(self::ranges(at, "ranges", range, errors));
    if ranges.is_empty() && errors.count() == faults {
        errors.add(at, "no addresses", "`cidrs` or `ranges` with at least one entry is expected");
    }
    let flag = |key: &str, default| at.field(key).and_then(|at| at.boolean(errors)).unwrap_or(default);
    let selector = |key: &str| at.field(key).map(|at| selector(&at, errors));
    Pool {
        name: String::new(),
        ranges,
        auto_assign: flag("autoAssign", true),
        avoid_buggy_ips: flag("avoidBuggyIPs", false),
        services: selector("serviceSelector"),
        namespaces: selector("namespaceSelector"),
    }
}

type Ends = (IpAddr, IpAddr);

fn ranges(at: &At<'_>, key: &str, parse: fn(&str) -> Result<Ends, String>, errors: &Errors) -> Vec<Ends> {
    let Some(list) = at.field(key) else { return Vec::new() };
    let read = |item: At<'_>| {
        let ends = parse(item.text(errors)?);
        ends.map_err(|fault| {
            let (what, expected) = fault.split_once("; ").unwrap_or((&fault, "another is expected"));
            errors.add(&item, what, expected);
        })
        .ok()
    };
    list.items(errors).filter_map(read).collect()
}

fn selector(at: &At<'_>, errors: &Errors) -> Selector {
    at.only(&["matchLabels", "matchExpressions"], errors);
    let expressions = at.field("matchExpressions");
    let expressions = expressions.iter().flat_map(|list| list.items(errors));
    Selector {
        labels: at.field("matchLabels").map(|at| labels(&at)).unwrap_or_default(),
        expressions: expressions.filter_map(|item| requirement(&item, errors)).collect(),
    }
}

fn requirement(at: &At<'_>, errors: &Errors) -> Option<Requirement> {
    at.only(&["key", "operator", "values"], errors);
    let text = |key: &str| match at.field(key) {
        Some(field) => field.text(errors).map(str::to_owned),
        None => {
            errors.add(at, format!("`{key}` is missing"), "a value is expected");
            None
        }
    };
    let values: BTreeSet<String> = at
        .field("values")
        .iter()
        .flat_map(|list| list.items(errors))
        .filter_map(|item| item.scalar().map(str::to_owned))
        .collect();
    let requirement = Requirement::new(text("key")?, &text("operator")?, values);
    requirement
        .map_err(|fault| {
            let (what, expected) = fault.split_once("; ").unwrap_or((&fault, "another is expected"));
            errors.add(at, what, expected);
        })
        .ok()
}

/// A map of texts; values of any scalar kind are taken as text.
pub(crate) fn labels(at: &At<'_>) -> Labels {
    let pair = |field: At<'_>| Some((field.key().to_owned(), field.scalar()?.to_owned()));
    at.fields().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// Where the definition of the API has a key, below `spec` of the schema.
    fn at_spec<T>(see: impl FnOnce(&At<'_>) -> T) -> T {
        let text = include_str!("../../../deploy/kubernetes/crds/addresspools.yaml");
        let parsed = yaml::parse(text);
        assert!(parsed.faults.is_empty(), "{:?}", parsed.faults);
        let document = &parsed.documents[0];
        let root = At::root(document);
        let spec = root.field("spec").expect("spec");
        let versions = spec.field("versions").expect("versions");
        let errors = Errors::default();
        let version = versions.items(&errors).next().expect("one version");
        let schema = version.field("schema").expect("schema");
        let schema = schema.field("openAPIV3Schema").expect("openAPIV3Schema");
        let properties = schema.field("properties").expect("properties");
        see(&properties.field("spec").expect("spec of the objects"))
    }

    #[test]
    fn the_definition_of_the_api_has_the_keys_that_are_read() {
        at_spec(|spec| {
            let properties = spec.field("properties").expect("properties");
            let mut keys: Vec<_> = properties.fields().map(|field| field.key().to_owned()).collect();
            let mut want = KEYS.map(str::to_owned);
            keys.sort_unstable();
            want.sort_unstable();
            assert_eq!(keys, want);
            let default = |key: &str| {
                let field = properties.field(key).expect(key);
                field.field("default").and_then(|field| field.scalar().map(str::to_owned))
            };
            let pool = Pool::default();
            assert_eq!(default("autoAssign"), Some(pool.auto_assign.to_string()));
            assert_eq!(default("avoidBuggyIPs"), Some(pool.avoid_buggy_ips.to_string()));
        });
    }
}
