//! Which Service has which address, as a file keeps it across restarts. Not here: the file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::ObjectKey;

/// What every Service was given: at most one address a family. This is what must survive a restart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Assignments(pub(super) BTreeMap<ObjectKey, BTreeSet<IpAddr>>);

impl Assignments {
    /// One line an address, `NAMESPACE/NAME ADDRESS`, sorted.
    #[must_use]
    pub fn to_text(&self) -> String {
        let lines = self
            .0
            .iter()
            .flat_map(|(key, addresses)| addresses.iter().map(move |at| format!("{key} {at}\n")));
        lines.collect()
    }

    /// The lines by which one Service has these addresses and no others, whatever earlier lines say: `NAMESPACE/NAME -`
    /// takes those back.
    pub fn entry(key: &ObjectKey, addresses: impl Iterator<Item = IpAddr>) -> String {
        let lines = addresses.map(|at| format!("{key} {at}\n"));
        std::iter::once(format!("{key} -\n")).chain(lines).collect()
    }

    /// Reads what [`Self::to_text`] wrote, and entries added to that. A last line without an end was being added when the
    /// machine failed: nobody had been told of it, and it counts for nothing.
    ///
    /// # Errors
    /// At the first line that is not one, with its number.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut all: BTreeMap<ObjectKey, BTreeSet<IpAddr>> = BTreeMap::new();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for (number, line) in (1..).zip(whole.lines()) {
            if let Some((namespace, name)) = line.strip_suffix(" -").and_then(|key| key.split_once('/')) {
                all.remove(&ObjectKey::new(namespace, name));
                continue;
            }
            let entry = line.split_once(' ').and_then(|(key, address)| {
                let (namespace, name) = key.split_once('/')?;
                Some((ObjectKey::new(namespace, name), address.parse().ok()?))
            });
            let (key, address) = entry
                .ok_or_else(|| format!("line {number}: `{line}`; NAMESPACE/NAME ADDRESS is expected"))?;
            all.entry(key).or_default().insert(address);
        }
        Ok(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_state_is_refused_with_its_line() {
        assert!(Assignments::from_text("a/b 1.2.3.4\nnonsense\n").expect_err("bad").starts_with("line 2"));
    }
}
