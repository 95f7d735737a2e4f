//! kube-proxy's rules as the kernel has them, from `nft -j list table`, typed. Whatever is not understood is an error:
//! the oracle never guesses. Not here: what the rules do to a packet (`walk`).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::Value;

/// One table.
#[derive(Debug, Default)]
pub(crate) struct Ruleset {
    /// Chains that hooks call, with their hook, by ascending priority.
    pub(crate) bases: Vec<Base>,
    pub(crate) chains: HashMap<String, Vec<Rule>>,
    pub(crate) sets: HashMap<String, Set>,
    pub(crate) maps: HashMap<String, HashMap<Key, Verdict>>,
}

#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) chain: String,
    pub(crate) hook: String,
    pub(crate) priority: i64,
    /// Whether it is a NAT chain, which sees only packets that no NAT decision was taken for.
    pub(crate) nat: bool,
}

pub(crate) type Rule = Vec<Statement>;

/// A value of a concatenation.
pub(crate) type Key = Vec<Atom>;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Atom {
    Address(IpAddr),
    Number(u64),
    Word(String),
}

#[derive(Debug, Default)]
pub(crate) struct Set {
    keys: HashSet<Key>,
    /// First and last address of each interval.
    intervals: Vec<(IpAddr, IpAddr)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Debug)]
pub(crate) enum Statement {
    /// Goes on if the key is (or, negated, is not) in the set.
    Match {
        key: Vec<Field>,
        negated: bool,
        set: Members,
    },
    /// Goes on if a bit of the mark is set.
    Marked(u64),
    MarkOr(u64),
    MarkXor(u64),
    Verdict(Verdict),
    Reject,
    /// The verdict for a key, or on to the next rule.
    Lookup {
        key: Vec<Field>,
        map: String,
    },
    /// One of several verdicts, at random.
    RandomVerdict(Vec<Verdict>),
    /// One of several destinations, at random.
    Dnat(Vec<(IpAddr, u16)>),
    Masquerade,
    /// Session affinity takes a note: nothing for this packet.
    Note,
}

#[derive(Debug)]
pub(crate) enum Members {
    Named(String),
    Given(Set),
}

/// A property of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Field {
    CtState,
    CtStatus,
    DestinationKind,
    DestinationAddress,
    DestinationPort,
    Protocol,
    SourceAddress,
    SourceKind,
}

impl Set {
    pub(crate) fn contains(&self, key: &Key) -> bool {
        let held =
            |address: &IpAddr| self.intervals.iter().any(|(low, high)| low <= address && address <= high);
        self.keys.contains(key) || matches!(&key[..], [Atom::Address(address)] if held(address))
    }

    fn add(&mut self, value: &Value) -> Result<()> {
        if let Some(prefix) = value.get("prefix") {
            let net: IpNet = format!("{}/{}", text(&prefix["addr"])?, prefix["len"]).parse()?;
            let last = match net {
                IpNet::V4(net) => net.broadcast().into(),
                IpNet::V6(net) => net.broadcast().into(),
            };
            self.intervals.push((net.network(), last));
        } else if let Some(range) = value.get("range") {
            self.intervals.push((text(&range[0])?.parse()?, text(&range[1])?.parse()?));
        } else {
            self.keys.insert(key(value)?);
        }
        Ok(())
    }
}

impl Ruleset {
    /// Reads what `nft -j list table` printed.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let listing: Value = serde_json::from_str(json).context("nft printed no JSON")?;
        let mut ruleset = Self::default();
        for object in listing["nftables"].as_array().context("no list of objects")? {
            let (kind, body) = only(object)?;
            let name = || text(&body["name"]).map(str::to_owned);
            match kind {
                "metainfo" | "table" => {}
                "chain" => ruleset.chain(name()?, body)?,
                // Session affinity's memory, which is not compared.
                "set" if body.get("timeout").is_some() => drop(ruleset.sets.insert(name()?, Set::default())),
                "set" => drop(ruleset.sets.insert(name()?, set(&body["elem"])?)),
                "map" => drop(ruleset.maps.insert(name()?, map(body)?)),
                "rule" => ruleset.rule(body).with_context(|| format!("rule {body}"))?,
                other => bail!("an object of kind {other}"),
            }
        }
        ruleset.bases.sort_by_key(|base| base.priority);
        Ok(ruleset)
    }

    fn chain(&mut self, name: String, body: &Value) -> Result<()> {
        if let Some(hook) = body.get("hook") {
            ensure!(body["policy"] == "accept", "chain {name} has another policy than accept");
            self.bases.push(Base {
                chain: name.clone(),
                hook: text(hook)?.to_owned(),
                priority: body["prio"].as_i64().context("prio")?,
                nat: body["type"] == "nat",
            });
        }
        self.chains.entry(name).or_default();
        Ok(())
    }

    fn rule(&mut self, body: &Value) -> Result<()> {
        let statements = body["expr"].as_array().context("no expr")?;
        let rule = statements.iter().map(statement).collect::<Result<_>>()?;
        self.chains.entry(text(&body["chain"])?.to_owned()).or_default().push(rule);
        Ok(())
    }
}

fn statement(value: &Value) -> Result<Statement> {
    let (kind, body) = only(value)?;
    Ok(match kind {
        "match" => matching(body)?,
        "vmap" => lookup(body)?,
        "mangle" => mangle(body)?,
        "dnat" => Statement::Dnat(dnat(body)?),
        "masquerade" => Statement::Masquerade,
        "reject" => Statement::Reject,
        "set" if body["op"] == "update" => Statement::Note,
        "accept" | "drop" | "return" | "jump" | "goto" => Statement::Verdict(verdict(value)?),
        other => bail!("statement {other}"),
    })
}

fn matching(body: &Value) -> Result<Statement> {
    let (left, right) = (&body["left"], &body["right"]);
    let negated = match text(&body["op"])? {
        "==" | "in" => false,
        "!=" => true,
        other => bail!("operator {other}"),
    };
    if let Some(masked) = left.get("&") {
        ensure!(is_mark(&masked[0]) && negated && *right == 0, "a mask of something else than the mark");
        return Ok(Statement::Marked(masked[1].as_u64().context("mask")?));
    }
    let set = match (right.as_str().and_then(|text| text.strip_prefix('@')), right.get("set")) {
        (Some(name), _) => Members::Named(name.to_owned()),
        (None, Some(list)) => Members::Given(set(list)?),
        (None, None) => Members::Given(set(&Value::Array(vec![right.clone()]))?),
    };
    Ok(Statement::Match { key: fields(left)?, negated, set })
}

fn lookup(body: &Value) -> Result<Statement> {
    if let Some(name) = body["data"].as_str().and_then(|text| text.strip_prefix('@')) {
        return Ok(Statement::Lookup { key: fields(&body["key"])?, map: name.to_owned() });
    }
    Ok(Statement::RandomVerdict(random(&body["key"], &body["data"], verdict)?))
}

/// `numgen random mod N` with an entry for each number.
fn random<T>(key: &Value, data: &Value, read: fn(&Value) -> Result<T>) -> Result<Vec<T>> {
    let numgen = key.get("numgen").with_context(|| format!("a map by {key}"))?;
    ensure!(numgen["mode"] == "random" && numgen["offset"] == 0, "numgen {numgen}");
    let entries = data["set"].as_array().context("no entries")?;
    ensure!(numgen["mod"] == entries.len(), "{} entries for numgen {numgen}", entries.len());
    let mut numbers = HashSet::new();
    let list = entries.iter().map(|entry| {
        let number = entry[0].as_u64().filter(|number| *number < entries.len() as u64);
        ensure!(numbers.insert(number.context("an entry that is never drawn")?), "a number twice");
        read(&entry[1])
    });
    list.collect()
}

fn mangle(body: &Value) -> Result<Statement> {
    ensure!(is_mark(&body["key"]), "mangling of {}", body["key"]);
    let (operator, operands) = only(&body["value"])?;
    ensure!(is_mark(&operands[0]), "a mark from {operands}");
    let bits = operands[1].as_u64().context("bits")?;
    match operator {
        "|" => Ok(Statement::MarkOr(bits)),
        "^" => Ok(Statement::MarkXor(bits)),
        other => bail!("mark operator {other}"),
    }
}

fn dnat(body: &Value) -> Result<Vec<(IpAddr, u16)>> {
    if let Some(map) = body["addr"].get("map") {
        return random(&map["key"], &map["data"], |value| match &key(value)?[..] {
            [Atom::Address(address), Atom::Number(port)] => Ok((*address, u16::try_from(*port)?)),
            other => bail!("a destination {other:?}"),
        });
    }
    let port = body["port"].as_u64().context("dnat without a port")?;
    Ok(vec![(text(&body["addr"])?.parse()?, u16::try_from(port)?)])
}

fn verdict(value: &Value) -> Result<Verdict> {
    let (kind, body) = only(value)?;
    let target = || text(&body["target"]).map(str::to_owned);
    Ok(match kind {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()?),
        "goto" => Verdict::Goto(target()?),
        other => bail!("verdict {other}"),
    })
}

fn set(elements: &Value) -> Result<Set> {
    let mut set = Set::default();
    for element in elements.as_array().map_or(&[][..], Vec::as_slice) {
        set.add(bare(element))?;
    }
    Ok(set)
}

fn map(body: &Value) -> Result<HashMap<Key, Verdict>> {
    ensure!(body["map"] == "verdict", "a map to {}", body["map"]);
    let entries = body["elem"].as_array().map_or(&[][..], Vec::as_slice);
    entries.iter().map(|entry| Ok((key(bare(&entry[0]))?, verdict(&entry[1])?))).collect()
}

/// An element without its comment or timeout.
fn bare(element: &Value) -> &Value {
    element.get("elem").map_or(element, |element| &element["val"])
}

fn key(value: &Value) -> Result<Key> {
    match value.get("concat") {
        Some(parts) => parts.as_array().context("concat")?.iter().map(atom).collect(),
        None => Ok(vec![atom(value)?]),
    }
}

fn atom(value: &Value) -> Result<Atom> {
    if let Some(number) = value.as_u64() {
        return Ok(Atom::Number(number));
    }
    let text = text(value)?;
    Ok(text.parse().map_or_else(|_| Atom::Word(text.to_owned()), Atom::Address))
}

fn fields(value: &Value) -> Result<Vec<Field>> {
    match value.get("concat") {
        Some(parts) => parts.as_array().context("concat")?.iter().map(field).collect(),
        None => Ok(vec![field(value)?]),
    }
}

fn field(value: &Value) -> Result<Field> {
    let (kind, body) = only(value)?;
    let word = |key: &str| body[key].as_str().unwrap_or_default();
    Ok(match (kind, word("protocol"), word("field"), word("key")) {
        ("payload", "ip" | "ip6", "saddr", _) => Field::SourceAddress,
        ("payload", "ip" | "ip6", "daddr", _) => Field::DestinationAddress,
        ("payload", "th", "dport", _) => Field::DestinationPort,
        ("meta", _, _, "l4proto") => Field::Protocol,
        ("ct", _, _, "state") => Field::CtState,
        ("ct", _, _, "status") => Field::CtStatus,
        ("fib", ..) if body["result"] == "type" && body["flags"] == serde_json::json!(["saddr"]) => {
            Field::SourceKind
        }
        ("fib", ..) if body["result"] == "type" && body["flags"] == serde_json::json!(["daddr"]) => {
            Field::DestinationKind
        }
        _ => bail!("field {value}"),
    })
}

fn is_mark(value: &Value) -> bool {
    value["meta"]["key"] == "mark"
}

/// The one key of an object with its value.
fn only(value: &Value) -> Result<(&str, &Value)> {
    let object = value.as_object().with_context(|| format!("no object: {value}"))?;
    ensure!(object.len() == 1, "more than one key: {value}");
    object.iter().next().map(|(key, value)| (key.as_str(), value)).context("no key")
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("no text: {value}"))
}
