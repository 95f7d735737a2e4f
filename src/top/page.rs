//! What `fairlead top` shows, as tables of text: for a terminal's screen, and for files.

use crate::columns::Columns;

use super::rates::Rates;

/// Services that are shown; the rest is in the JSON.
const SERVICES_SHOWN: usize = 20;

/// A table: its heads and rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) heads: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// All tables in their order; with drop reasons of which there were packets meanwhile, or `ever`.
pub(super) fn tables(rates: &Rates, ever: bool) -> [Table; 4] {
    [ports(rates), workers(rates), services(rates), drops(rates, ever)]
}

impl Table {
    pub(super) fn text(&self) -> String {
        let mut columns = Columns::new(&self.heads);
        self.rows.iter().for_each(|row| columns.row(row.clone()));
        columns.to_string()
    }
}

fn ports(rates: &Rates) -> Table {
    let row = |row: &super::rates::PortRates| {
        let figures = [row.rx_packets, row.tx_packets, row.rx_bits, row.tx_bits].map(short);
        [vec![row.name.clone()], figures.to_vec()].concat()
    };
    let heads = vec!["PORT", "RX/S", "TX/S", "RX-BIT/S", "TX-BIT/S"];
    Table { heads, rows: rates.ports.iter().map(row).collect() }
}

fn workers(rates: &Rates) -> Table {
    let row = |row: &super::rates::WorkerRates| {
        let load = [format!("{:.0} %", row.busy * 100.0), short(row.bursts)];
        let figures = [row.rx, row.tx, row.punted, row.handed_off, row.dropped, row.flows_created].map(short);
        let used = format!("{:.0} %", row.flows as f64 / row.flows_capacity.max(1) as f64 * 100.0);
        let flows = vec![row.flows.to_string(), used];
        [vec![row.worker.to_string()], load.to_vec(), figures.to_vec(), flows].concat()
    };
    let heads = vec![
        "WORKER",
        "BUSY",
        "BURSTS/S",
        "RX/S",
        "TX/S",
        "PUNT/S",
        "HANDOFF/S",
        "DROP/S",
        "NEW-FLOWS/S",
        "FLOWS",
        "USED",
    ];
    Table { heads, rows: rates.workers.iter().map(row).collect() }
}

/// What the figures of Services are of.
pub(super) fn services_title(rates: &Rates) -> String {
    match (rates.one_in, short(rates.flows_in_use as f64)) {
        (0 | 1, flows) => format!("Services, by all {flows} flows in use"),
        (n, flows) => format!("Services, by about {flows} flows in use: estimated from 1 of {n} flow slots"),
    }
}

/// Shares of the flows in use; where these are estimated, how many were seen.
fn services(rates: &Rates) -> Table {
    let is_estimate = rates.one_in > 1;
    let share = |count: u64| format!("{:.0} %", count as f64 / rates.flows_in_use.max(1) as f64 * 100.0);
    let row = |load: &super::rates::ServiceLoad| {
        let mut cells = vec![load.service.clone(), short(load.in_use as f64), share(load.in_use)];
        if is_estimate {
            cells.push(short(load.seen as f64));
        }
        cells
    };
    let mut heads = vec!["SERVICE", if is_estimate { "IN-USE-ABOUT" } else { "IN-USE" }, "SHARE"];
    heads.extend(is_estimate.then_some("SEEN"));
    Table { heads, rows: rates.services.iter().take(SERVICES_SHOWN).map(row).collect() }
}

fn drops(rates: &Rates, ever: bool) -> Table {
    let shown = rates.drops.iter().filter(|row| ever || row.per_second > 0.0);
    let row = |row: &super::rates::DropRates| {
        vec![row.reason.clone(), short(row.per_second), row.packets.to_string(), row.text.clone()]
    };
    Table { heads: vec!["DROP-REASON", "PACKETS/S", "PACKETS", "MEANING"], rows: shown.map(row).collect() }
}

/// Three digits or four, with `k`, `M` or `G`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        0.0..1e4 => return format!("{value:.0}"),
        1e4..1e6 => (value / 1e3, "k"),
        1e6..1e9 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    format!("{value:.*}{unit}", if value < 100.0 { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::rates::ServiceLoad;

    #[test]
    fn figures_of_services_say_whether_they_are_of_all_flows_in_use() {
        let load = |service: &str, in_use, seen| ServiceLoad { service: service.into(), in_use, seen };
        let services = vec![load("shop/web:80", 36_000, 600), load("", 12_000, 200)];
        let estimated = Rates { services, flows_in_use: 48_000, one_in: 60, ..Rates::default() };
        assert_eq!(
            services_title(&estimated),
            "Services, by about 48.00k flows in use: estimated from 1 of 60 flow slots"
        );
        let table = super::services(&estimated);
        assert_eq!(table.heads, ["SERVICE", "IN-USE-ABOUT", "SHARE", "SEEN"]);
        assert_eq!(table.rows[0], ["shop/web:80", "36.00k", "75 %", "600"]);

        let all = Rates { one_in: 1, ..estimated };
        assert_eq!(services_title(&all), "Services, by all 48.00k flows in use");
        assert_eq!(super::services(&all).heads, ["SERVICE", "IN-USE", "SHARE"]);
        assert_eq!(super::services(&all).rows[0], ["shop/web:80", "36.00k", "75 %"]);
    }

    #[test]
    fn figures_are_short() {
        for (value, want) in [
            (0.0, "0"),
            (9_999.0, "9999"),
            (12_345.0, "12.35k"),
            (123_456.0, "123.5k"),
            (9_870_000.0, "9.87M"),
            (12.5e9, "12.50G"),
        ] {
            assert_eq!(short(value), want);
        }
    }
}
