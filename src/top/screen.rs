//! `fairlead top` on a whole terminal: drawn anew with each look, until `q`, Escape or Ctrl-C.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Row};
use ratatui::{DefaultTerminal, Frame};

use super::page::{self, Table};
use super::rates::{Rates, WorkerRates};

/// Above this share of its time a worker is nearly at its end.
const BUSY: f64 = 0.8;
/// Of the screen's rows, those of a table without rows of its own: its border and its heads.
const FRAME_ROWS: usize = 3;

/// Draws what `look` gives, again and again.
///
/// # Errors
/// What `look` fails with, or a terminal that cannot be drawn on.
pub(super) fn run(interval: Duration, ever: bool, mut look: impl FnMut() -> Result<Rates>) -> Result<()> {
    let terminal = ratatui::try_init().context("the terminal cannot be drawn on; `--once` prints plainly")?;
    let shown = show(terminal, interval, ever, &mut look);
    // Whatever happened: the terminal is the user's again.
    ratatui::restore();
    shown
}

fn show(
    mut terminal: DefaultTerminal,
    interval: Duration,
    ever: bool,
    look: &mut impl FnMut() -> Result<Rates>,
) -> Result<()> {
    terminal.draw(|frame| frame.render_widget("looking ...", frame.area()))?;
    loop {
        let due = Instant::now() + interval;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if !event::poll(left)? {
                break;
            }
            if let Event::Key(key) = event::read()?
                && ends(key)
            {
                return Ok(());
            }
        }
        let rates = look()?;
        terminal.draw(|frame| draw(frame, &rates, ever))?;
    }
}

fn ends(key: KeyEvent) -> bool {
    let interrupts = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (interrupts || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

/// One screen: a line of words, a bar a worker, and the tables below; what does not fit is cut off at the end.
fn draw(frame: &mut Frame<'_>, rates: &Rates, ever: bool) {
    let tables = page::tables(rates, ever);
    let heights = [
        Constraint::Length(1),
        Constraint::Length(rows(rates.workers.len())),
        Constraint::Length(rows(tables[0].rows.len() + FRAME_ROWS)),
        Constraint::Length(rows(tables[1].rows.len() + FRAME_ROWS)),
        Constraint::Fill(2),
        Constraint::Fill(1),
    ];
    let [head, bars, ports, workers, services, drops] = Layout::vertical(heights).areas(frame.area());
    let time = Duration::from_secs_f64(rates.seconds).as_millis();
    let words = format!("fairlead top   rates of {time} ms   q: quit");
    frame.render_widget(Paragraph::new(Line::from(words).bold()), head);
    for (worker, area) in rates.workers.iter().zip(bars.rows()) {
        frame.render_widget(bar(worker), area);
    }
    let titles = ["ports".to_owned(), "workers".to_owned(), page::services_title(rates), "drops".to_owned()];
    for ((table, title), area) in tables.iter().zip(titles).zip([ports, workers, services, drops]) {
        grid(frame, table, title, area);
    }
}

fn rows(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn bar(worker: &WorkerRates) -> Gauge<'static> {
    let color = if worker.busy < BUSY { Color::Green } else { Color::Red };
    let label = format!("worker {} busy {:.0} %", worker.worker, worker.busy * 100.0);
    Gauge::default().ratio(worker.busy.clamp(0.0, 1.0)).label(label).gauge_style(Style::new().fg(color))
}

fn grid(frame: &mut Frame<'_>, table: &Table, title: String, area: Rect) {
    let widths = table.heads.iter().enumerate().map(|(column, head)| {
        let cells = table.rows.iter().map(|row| row[column].chars().count());
        Constraint::Length(rows(cells.chain([head.len()]).max().unwrap_or(0)))
    });
    let body = table.rows.iter().map(|row| Row::new(row.iter().cloned()));
    let grid = ratatui::widgets::Table::new(body, widths)
        .header(Row::new(table.heads.iter().copied()).bold())
        .column_spacing(2)
        .block(Block::bordered().title(title));
    frame.render_widget(grid, area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::top::rates::{DropRates, PortRates, ServiceLoad};

    fn rates() -> Rates {
        let port = |name: &str, rx_packets| PortRates {
            name: name.into(),
            rx_packets,
            tx_packets: 5.0,
            rx_bits: 1e9,
            tx_bits: 0.0,
        };
        let worker = |worker, busy| WorkerRates {
            worker,
            busy,
            bursts: 40_000.0,
            rx: 1_234_567.0,
            tx: 7.0,
            punted: 0.0,
            handed_off: 0.0,
            dropped: 3.0,
            flows_created: 11.0,
            flows: 50,
            flows_capacity: 200,
        };
        let drop = |reason: &str, per_second| DropRates {
            reason: reason.into(),
            per_second,
            packets: 9,
            text: "why it was".into(),
        };
        Rates {
            seconds: 1.0,
            ports: vec![port("outside", 12_345.0), port("inside", 5.0)],
            workers: vec![worker(0, 0.25), worker(1, 0.95)],
            drops: vec![drop("NoRoute", 3.0), drop("TtlExceeded", 0.0)],
            services: vec![ServiceLoad { service: "shop/web:80".into(), in_use: 30, seen: 30 }],
            flows_in_use: 50,
            one_in: 1,
        }
    }

    fn screen(width: u16, height: u16, ever: bool) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &rates(), ever)).unwrap();
        terminal
    }

    /// The lines of a screen.
    fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        buffer.content().chunks(width).map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    #[test]
    fn a_screen_has_bars_and_tables() {
        let lines = lines(&screen(120, 30, false));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let has = |wanted: &str| lines.iter().any(|line| words(line).contains(wanted));
        assert!(lines[0].starts_with("fairlead top   rates of 1000 ms   q: quit"), "{lines:#?}");
        assert!(lines[1].contains("worker 0 busy 25 %") && lines[2].contains("worker 1 busy 95 %"));
        for wanted in [
            "PORT RX/S TX/S RX-BIT/S TX-BIT/S",
            "outside 12.35k 5 1.00G 0",
            "0 25 % 40.00k 1.23M 7 0 0 3 11 50 25 %",
            "Services, by all 50 flows in use",
            "shop/web:80 30 60 %",
            "NoRoute 3 9 why it was",
        ] {
            assert!(has(wanted), "{wanted}: {lines:#?}");
        }
        assert!(!has("TtlExceeded"));
    }

    #[test]
    fn a_busy_worker_is_red_and_an_idle_one_green() {
        let terminal = screen(100, 30, false);
        let color = |row| terminal.backend().buffer()[(0, row)].fg;
        assert_eq!((color(1), color(2)), (Color::Green, Color::Red));
    }

    #[test]
    fn every_reason_is_shown_when_asked_for_and_a_small_screen_is_enough() {
        assert!(lines(&screen(120, 40, true)).iter().any(|line| line.contains("TtlExceeded")));
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            assert_eq!(lines(&screen(width, height, true)).len(), usize::from(height));
        }
    }

    #[test]
    fn keys_end_it() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        assert!(
            ends(key(KeyCode::Char('q'), KeyModifiers::NONE)) && ends(key(KeyCode::Esc, KeyModifiers::NONE))
        );
        assert!(ends(key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!ends(key(KeyCode::Char('c'), KeyModifiers::NONE)));
    }
}
