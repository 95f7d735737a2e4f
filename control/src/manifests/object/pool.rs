//! A Namespace and an AddressPool: what address pools need besides the Services themselves.

use super::{created, labels, name};
use crate::model::{AddressPool, Namespace};
use crate::pool::{self, Pool};
use crate::yaml::{At, Errors};

/// The API server labels a Namespace with its name.
pub(super) fn namespace(at: &At<'_>, errors: &Errors) -> Option<Namespace> {
    let (name, mut labels) = (name(at, errors)?, labels(at));
    labels.insert("kubernetes.io/metadata.name".into(), name.clone());
    Some(Namespace { name, labels })
}

/// Faults are the caller's: a file is refused with their line, an API server's object says them itself.
pub(super) fn address_pool(at: &At<'_>, errors: &Errors) -> Option<AddressPool> {
    let name = name(at, errors)?;
    let Some(spec) = at.field("spec") else {
        errors.add(at, "`spec` is missing", "`cidrs` or `ranges` under it are expected");
        return None;
    };
    spec.only(&pool::read::KEYS, errors);
    let pool = Pool { name, ..pool::read::pool(&spec, errors) };
    let metadata = at.field("metadata");
    let generation = metadata.as_ref().and_then(|metadata| metadata.field("generation"));
    let generation = generation.and_then(|at| at.number(0..=i64::MAX, errors)).unwrap_or_default();
    Some(AddressPool { created: created(at), generation, pool, faults: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Id, Object, read};
    use super::*;
    use crate::pool::Labels;

    fn object(text: &str) -> Object {
        let content = read(text);
        assert_eq!(content.problems, [], "{text}");
        content.objects.into_values().next().expect("one object").1
    }

    #[test]
    fn a_namespace_carries_its_name_as_a_label() {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a, tier: 1}}\n";
        let pairs = [("kubernetes.io/metadata.name", "shop"), ("team", "a"), ("tier", "1")];
        let labels = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(object(text), Object::Namespace(Arc::new(Namespace { name: "shop".into(), labels })));
    }

    const HEAD: &str = "apiVersion: fairlead.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: a}\n";

    #[test]
    fn a_pool_is_read_whole() {
        let spec = "spec:\n  cidrs: [203.0.113.0/30]\n  ranges: [\"2001:db8::1-2001:db8::2\"]\n  autoAssign: false\n  avoidBuggyIPs: true\n  serviceSelector: {matchLabels: {tier: edge}}\n  namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [x]}]}\n";
        let Object::AddressPool(read) = object(&format!("{HEAD}{spec}")) else { panic!("another kind") };
        let pool = &read.pool;
        assert_eq!((pool.name.as_str(), pool.ranges.len()), ("a", 2));
        assert!(!pool.auto_assign && pool.avoid_buggy_ips);
        let edge = Labels::from([("tier".to_owned(), "edge".to_owned())]);
        let team = Labels::from([("team".to_owned(), "x".to_owned())]);
        assert!(pool.admits(&edge, &Labels::new()));
        assert!(!pool.admits(&edge, &team) && !pool.admits(&Labels::new(), &Labels::new()));
    }

    #[test]
    fn faults_of_a_pool_are_told_with_their_line() {
        let text = format!(
            "{HEAD}spec:\n  cidrs: [203.0.113.1/30]\n  pool: b\n  serviceSelector: {{matchExpressions: [{{key: a, operator: Is}}]}}\n"
        );
        let told: Vec<_> = read(&text).problems.iter().map(|one| format!("{}: {one}", one.line)).collect();
        assert_eq!(
            told,
            [
                "5: AddressPool a: spec.cidrs[0]: 203.0.113.1/30 has host bits; 203.0.113.0/30 is expected",
                "6: AddressPool a: spec.pool: unknown key; one of cidrs, ranges, autoAssign, avoidBuggyIPs, serviceSelector, namespaceSelector is expected",
                "7: AddressPool a: spec.serviceSelector.matchExpressions[0]: operator `Is` is not known; In, NotIn, Exists or DoesNotExist is expected",
            ]
        );
        let empty = format!("{HEAD}spec: {{autoAssign: true}}\n");
        assert!(read(&empty).problems[0].to_string().contains("no addresses; `cidrs` or `ranges`"));
        assert!(read(HEAD).problems[0].to_string().contains("`spec` is missing"));
        assert!(!read(HEAD).objects.contains_key(&Id::AddressPool("a".into())));
    }
}
