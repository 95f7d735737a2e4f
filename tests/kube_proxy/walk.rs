//! What kube-proxy's rules do to the first packet of a flow: an evaluation of the ruleset hook by hook, as the kernel's
//! stack calls them. `kernel` checks it against the kernel itself.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use packet::Protocol;

use crate::place::{self, Origin};
use crate::ruleset::{Atom, Field, Key, Members, Ruleset, Statement, Verdict};

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Packet {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) origin: Origin,
}

/// What becomes of a packet, in the words of `fairlead trace`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fate {
    Deliver,
    Drop,
    Forward,
    Pass,
    Reject,
}

/// One way that chance can take.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Branch {
    pub(crate) fate: Fate,
    /// The destination after DNAT.
    pub(crate) backend: Option<SocketAddr>,
    /// Whether the source is masqueraded.
    pub(crate) snat: bool,
}

/// Jumps in jumps that the kernel allows.
const DEPTH_MAX: usize = 16;

/// Every way a packet can go.
pub(crate) fn branches(rules: &Ruleset, packet: &Packet) -> Result<Vec<Branch>> {
    let mut branches = Vec::new();
    let mut choice = 0;
    loop {
        let mut walk =
            Walk { rules, packet: *packet, choice, span: None, mark: 0, backend: None, snat: false };
        let fate = walk.travel()?;
        branches.push(Branch { fate, backend: walk.backend, snat: walk.snat });
        choice += 1;
        if choice >= walk.span.unwrap_or(1) {
            return Ok(branches);
        }
    }
}

struct Walk<'r> {
    rules: &'r Ruleset,
    /// As it is by now: rewritten by DNAT.
    packet: Packet,
    /// The number that chance draws.
    choice: usize,
    /// Of how many.
    span: Option<usize>,
    mark: u64,
    backend: Option<SocketAddr>,
    snat: bool,
}

/// How a chain ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// Off its last rule, or by `return`.
    Fell,
    Accepted,
    Dropped,
    Rejected,
}

impl Walk<'_> {
    fn travel(&mut self) -> Result<Fate> {
        let (first, second) = match self.packet.origin {
            Origin::Arrives => ("prerouting", None),
            Origin::Node => ("output", Some("postrouting")),
        };
        let mut hooks = vec![first];
        hooks.extend(second);
        if let Some(fate) = self.hooks(&hooks, true)? {
            return Ok(fate);
        }
        // Routing, after DNAT. What the Node sends to itself comes in again by the loopback device.
        let local = place::is_local(self.packet.dst.ip());
        let ended = match (self.packet.origin, local) {
            (Origin::Arrives, true) => self.hooks(&["input"], true)?,
            (Origin::Arrives, false) => self.hooks(&["forward", "postrouting"], true)?,
            (Origin::Node, true) => self.hooks(&["prerouting", "input"], false)?,
            (Origin::Node, false) => None,
        };
        Ok(ended.unwrap_or(match (self.backend, local) {
            (Some(_), _) => Fate::Forward,
            (None, true) => Fate::Deliver,
            (None, false) => Fate::Pass,
        }))
    }

    /// `nat`: whether NAT chains are asked (only once on a packet's way).
    fn hooks(&mut self, hooks: &[&str], nat: bool) -> Result<Option<Fate>> {
        let rules = self.rules;
        for hook in hooks {
            for base in rules.bases.iter().filter(|base| base.hook == *hook && (nat || !base.nat)) {
                match self.chain(&base.chain, 0)? {
                    End::Fell | End::Accepted => {}
                    End::Dropped => return Ok(Some(Fate::Drop)),
                    End::Rejected => return Ok(Some(Fate::Reject)),
                }
            }
        }
        Ok(None)
    }

    fn chain(&mut self, name: &str, depth: usize) -> Result<End> {
        ensure!(depth <= DEPTH_MAX, "chain {name}: too many jumps");
        let rules = self.rules;
        for rule in rules.chains.get(name).with_context(|| format!("no chain {name}"))? {
            for statement in rule {
                match self.statement(statement, depth)? {
                    Step::Next => {}
                    Step::NextRule => break,
                    Step::End(end) => return Ok(end),
                }
            }
        }
        Ok(End::Fell)
    }

    fn statement(&mut self, statement: &Statement, depth: usize) -> Result<Step> {
        let goes_on = |yes: bool| if yes { Step::Next } else { Step::NextRule };
        match statement {
            Statement::Match { key, negated, set } => Ok(goes_on(self.is_in(key, set)? != *negated)),
            Statement::Marked(bits) => Ok(goes_on(self.mark & bits != 0)),
            Statement::MarkOr(bits) => {
                self.mark |= bits;
                Ok(Step::Next)
            }
            Statement::MarkXor(bits) => {
                self.mark ^= bits;
                Ok(Step::Next)
            }
            Statement::Verdict(verdict) => self.verdict(verdict, depth),
            Statement::Reject => Ok(Step::End(End::Rejected)),
            Statement::Lookup { key, map } => {
                let rules = self.rules;
                let map = rules.maps.get(map).with_context(|| format!("no map {map}"))?;
                let key = self.key(key)?;
                map.get(&key).map_or(Ok(Step::NextRule), |verdict| self.verdict(verdict, depth))
            }
            Statement::RandomVerdict(verdicts) => {
                let drawn = self.draw(verdicts.len())?;
                self.verdict(&verdicts[drawn], depth)
            }
            Statement::Dnat(destinations) => {
                let (address, port) = destinations[self.draw(destinations.len())?];
                self.packet.dst = SocketAddr::new(address, port);
                self.backend = Some(self.packet.dst);
                Ok(Step::End(End::Accepted))
            }
            Statement::Masquerade => {
                self.snat = true;
                Ok(Step::End(End::Accepted))
            }
            Statement::Note => Ok(Step::Next),
        }
    }

    fn verdict(&mut self, verdict: &Verdict, depth: usize) -> Result<Step> {
        Ok(match verdict {
            Verdict::Accept => Step::End(End::Accepted),
            Verdict::Drop => Step::End(End::Dropped),
            Verdict::Return => Step::End(End::Fell),
            Verdict::Goto(chain) => Step::End(self.chain(chain, depth + 1)?),
            Verdict::Jump(chain) => match self.chain(chain, depth + 1)? {
                End::Fell => Step::Next,
                end => Step::End(end),
            },
        })
    }

    /// A random number; two on one way would be ways that `branches` does not walk.
    fn draw(&mut self, span: usize) -> Result<usize> {
        ensure!(self.span.is_none_or(|known| known == 1 || span == 1), "two random choices on one way");
        ensure!(span > 0, "a choice of nothing");
        if span > 1 {
            self.span = Some(span);
        }
        Ok(if span > 1 { self.choice } else { 0 })
    }

    fn is_in(&self, key: &[Field], members: &Members) -> Result<bool> {
        let key = self.key(key)?;
        Ok(match members {
            Members::Given(set) => set.contains(&key),
            Members::Named(name) => {
                self.rules.sets.get(name).with_context(|| format!("no set {name}"))?.contains(&key)
            }
        })
    }

    fn key(&self, fields: &[Field]) -> Result<Key> {
        fields.iter().map(|field| self.field(*field)).collect()
    }

    fn field(&self, field: Field) -> Result<Atom> {
        let kind = |address: IpAddr| {
            // No other kind is asked for.
            Atom::Word(if place::is_local(address) { "local" } else { "unicast" }.to_owned())
        };
        let (src, dst) = (self.packet.src.ip(), self.packet.dst);
        Ok(match field {
            Field::CtState => Atom::Word("new".to_owned()),
            Field::CtStatus if self.backend.is_some() => Atom::Word("dnat".to_owned()),
            Field::CtStatus => Atom::Word(String::new()),
            Field::SourceAddress => Atom::Address(src),
            Field::DestinationAddress => Atom::Address(dst.ip()),
            Field::DestinationPort => Atom::Number(dst.port().into()),
            Field::Protocol => Atom::Word(self.packet.protocol.name().to_ascii_lowercase()),
            Field::SourceKind => kind(src),
            Field::DestinationKind => kind(dst.ip()),
        })
    }
}

/// Where evaluation goes on.
enum Step {
    Next,
    NextRule,
    End(End),
}

impl Fate {
    /// By the word that `trace` prints.
    pub(crate) fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "DELIVER" => Self::Deliver,
            "DROP" => Self::Drop,
            "FORWARD" => Self::Forward,
            "PASS" => Self::Pass,
            "REJECT" => Self::Reject,
            other => bail!("verdict {other}"),
        })
    }
}
