//! What an account asked of the API server, by its audit log, beside the rights that it was given. Pure.
//! Source: Kubernetes' audit.k8s.io/v1 and rbac.authorization.k8s.io/v1.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

/// A request for a resource.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Request {
    what: Subject,
    /// Whether the server said 403.
    forbidden: bool,
}

/// A right as a role grants it, or what a request needs.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Subject {
    verb: String,
    group: String,
    /// With its subresource, such as `services/status`.
    resource: String,
    /// None: in every namespace, or cluster-scoped.
    namespace: Option<String>,
    /// None: of any name, or a collection.
    name: Option<String>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        let parts = [
            ("in group", Some(&self.group)),
            ("called", self.name.as_ref()),
            ("in", self.namespace.as_ref()),
        ];
        for (word, part) in parts {
            if let Some(part) = part.filter(|part| !part.is_empty()) {
                write!(f, " {word} {part}")?;
            }
        }
        Ok(())
    }
}

impl Subject {
    /// Whether this right is enough for a request.
    fn covers(&self, request: &Self) -> bool {
        let here = self.namespace.is_none() || self.namespace == request.namespace;
        // A new object has no name yet when the right is checked.
        let named = self.name.is_none() || (self.name == request.name && request.verb != "create");
        let same = |pick: fn(&Self) -> &str| pick(self) == pick(request);
        here && named && same(|one| &one.verb) && same(|one| &one.group) && same(|one| &one.resource)
    }
}

/// The requests for resources that `user` made, each kind once.
///
/// # Errors
/// On a line that is no event.
pub fn requests(log: &str, user: &str) -> Result<BTreeSet<Request>> {
    let mut found = BTreeSet::new();
    // The server may be writing the last line just now.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("no audit event: {line}"))?;
        let object = &event["objectRef"];
        if event["user"]["username"] != user || object["resource"].is_null() {
            continue;
        }
        let resource = match object["subresource"].as_str() {
            Some(sub) => format!("{}/{sub}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let what = Subject {
            verb: text(&event["verb"]),
            group: text(&object["apiGroup"]),
            resource,
            namespace: object["namespace"].as_str().map(str::to_owned),
            name: object["name"].as_str().map(str::to_owned),
        };
        found.insert(Request { what, forbidden: event["responseStatus"]["code"] == 403 });
    }
    Ok(found)
}

/// The rights that the roles among these manifests grant, one verb of one resource each.
pub fn rights(manifests: &[Value]) -> BTreeSet<Subject> {
    let roles = manifests.iter().filter(|item| item["kind"] == "ClusterRole" || item["kind"] == "Role");
    roles.flat_map(|role| items(&role["rules"]).flat_map(|rule| of_rule(role, rule))).collect()
}

fn of_rule(role: &Value, rule: &Value) -> Vec<Subject> {
    let names: Vec<Option<String>> = match rule["resourceNames"].as_array() {
        Some(names) => names.iter().map(|name| Some(text(name))).collect(),
        None => vec![None],
    };
    let mut found = Vec::new();
    for group in items(&rule["apiGroups"]) {
        for resource in items(&rule["resources"]) {
            for verb in items(&rule["verbs"]) {
                found.extend(names.iter().map(|name| Subject {
                    verb: text(verb),
                    group: text(group),
                    resource: text(resource),
                    namespace: role["metadata"]["namespace"].as_str().map(str::to_owned),
                    name: name.clone(),
                }));
            }
        }
    }
    found
}

/// What was asked for without a right to it, a sentence each.
pub fn missing(rights: &BTreeSet<Subject>, requests: &BTreeSet<Request>) -> Vec<String> {
    let lacking = |request: &&Request| !rights.iter().any(|right| right.covers(&request.what));
    requests.iter().filter(lacking).map(|request| format!("no right to {}", request.what)).collect()
}

/// Rights that no request used that was let through, a sentence each.
pub fn unused(rights: &BTreeSet<Subject>, requests: &BTreeSet<Request>) -> Vec<String> {
    let used = |right: &Subject| requests.iter().any(|one| !one.forbidden && right.covers(&one.what));
    rights.iter().filter(|right| !used(right)).map(|right| format!("never used: {right}")).collect()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USER: &str = "system:serviceaccount:s:one";

    fn event(user: &str, verb: &str, code: u16, object: &Value) -> String {
        json!({"user": {"username": user}, "verb": verb, "objectRef": object, "responseStatus": {"code": code}}).to_string() + "\n"
    }

    fn roles() -> BTreeSet<Subject> {
        let manifests = json!([
            {"kind": "ClusterRole", "rules": [
                {"apiGroups": [""], "resources": ["services", "services/status"], "verbs": ["list", "patch"]}]},
            {"kind": "Role", "metadata": {"namespace": "s"}, "rules": [
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["mine"], "verbs": ["get", "create"]}]},
            {"kind": "ServiceAccount"},
        ]);
        rights(manifests.as_array().unwrap())
    }

    #[test]
    fn rights_are_compared_with_what_was_asked() {
        let lease = |namespace, name| json!({"apiGroup": "coordination.k8s.io", "resource": "leases", "namespace": namespace, "name": name});
        let service = |sub: Value| json!({"resource": "services", "namespace": "shop", "name": "web", "subresource": sub});
        let log = [
            event(USER, "list", 200, &json!({"resource": "services"})),
            event(USER, "patch", 409, &service(Value::Null)),
            event(USER, "patch", 403, &service(json!("status"))),
            event(USER, "create", 201, &lease("s", "mine")),
            event(USER, "get", 200, &lease("s", "another")),
            event(USER, "get", 200, &lease("t", "mine")),
            event(USER, "get", 200, &Value::Null),
            event("somebody else", "delete", 200, &service(Value::Null)),
            "{half of".to_owned(),
        ];
        let (rights, asked) = (roles(), requests(&log.concat(), USER).unwrap());
        assert_eq!(
            missing(&rights, &asked),
            [
                "no right to get leases in group coordination.k8s.io called another in s",
                "no right to get leases in group coordination.k8s.io called mine in t",
            ]
        );
        assert_eq!(
            unused(&rights, &asked),
            [
                // By name it is no right at all.
                "never used: create leases in group coordination.k8s.io called mine in s",
                "never used: get leases in group coordination.k8s.io called mine in s",
                "never used: list services/status",
                "never used: patch services/status",
            ]
        );
        assert!(requests("no event\n", USER).is_err());
    }
}
