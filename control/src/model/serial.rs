//! How the model is written down where its own types cannot say it: the packet crate knows no serde.

/// A family as Kubernetes writes it.
pub(super) mod family {
    use packet::Family;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(family)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Family, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }

    pub(super) fn parse<E: Error>(text: &str) -> Result<Family, E> {
        let known = [Family::V4, Family::V6].into_iter().find(|family| family.to_string() == text);
        known.ok_or_else(|| E::custom(format!("`{text}` is no IP family")))
    }
}

/// A list of [`family`].
pub(super) mod families {
    use packet::Family;
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(families: &[Family], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(families.iter().map(Family::to_string))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Family>, D::Error> {
        Vec::<String>::deserialize(deserializer)?.iter().map(|text| super::family::parse(text)).collect()
    }
}

/// A protocol as Kubernetes writes it.
pub(super) mod protocol {
    use packet::Protocol;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(protocol.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Protocol, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = Protocol::ALL.into_iter().find(|protocol| protocol.name() == text);
        known.ok_or_else(|| D::Error::custom(format!("`{text}` is no protocol")))
    }
}
