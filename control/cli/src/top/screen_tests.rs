//! The screen as text, from literal counters.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::*;

fn counters(scale: u64) -> penstock_dataplane_api::Counters {
    let hook = json!({
        "hook": "pod", "seen": 10 * scale, "to_worker": scale, "to_kernel": 2 * scale,
        "fallback": 0, "to_pod": 0, "offloaded": 3 * scale, "offloaded_bytes": 0,
        "drops": [{ "reason": "spoof_ip", "packets": 7 * scale }],
    });
    let worker = json!({
        "worker": 0, "core": 3, "rx": 1_500 * scale, "tx": 1_000 * scale, "to_kernel": 0,
        "originated": 0, "handed_off": 0, "handed_in": 0, "snat": 0, "flows": 12,
        "flows_created": 0, "flows_expired": 0, "snat_ports": 4, "polls": 100 * scale,
        "busy_polls": 50 * scale, "offloaded": 0, "offload_deferred": 0, "drops": [{ "reason": "nat_ports", "packets": 500 * scale }],
        "frames": { "free": 100, "receiving": 50, "sending": 0, "total": 150 },
    });
    let port = |ifname: &str, packets: u64, lost: u64| {
        json!({
            "worker": 0, "ifname": ifname, "queue": 0, "rx_packets": packets, "rx_bytes": packets * 100,
            "tx_packets": packets, "tx_bytes": packets * 100, "kernel_rx_dropped": 0,
            "kernel_rx_ring_full": lost, "kernel_rx_fill_empty": 0, "kernel_tx_invalid": 0,
        })
    };
    let text = json!({
        "hooks": [hook], "workers": [worker],
        "ports": [port("eth0", 10 * scale, 0), port("trunk1", 2_000_000 * scale, scale)],
    });
    serde_json::from_value(text).unwrap()
}

fn screen() -> Screen {
    let mut screen = Screen::default();
    screen.show(Rates::between(&counters(1), &counters(3), 2.0));
    screen
}

fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

fn line<'a>(picture: &'a str, word: &str) -> &'a str {
    let found = picture.lines().find(|line| line.contains(word));
    found.unwrap_or_else(|| panic!("{word}:\n{picture}"))
}

#[test]
fn rates_are_by_the_second() {
    let picture = drawn(&screen(), 110, 24);
    let worker: Vec<&str> = line(&picture, "100/150").split_whitespace().collect();
    let worker = worker.join(" ");
    assert!(
        worker.contains("0 3 50.0 1.50k p/s 1.00k p/s 30.0 500 p/s 12 4"),
        "{worker}"
    );
    let port = line(&picture, "trunk1/0");
    assert!(
        port.contains("2.00M p/s") && port.contains("1.60Gbit/s"),
        "{port}"
    );
    assert!(line(&picture, "offloaded").contains("offloaded 3 p/s   to the kernel 2 p/s"));
    let first = line(&picture, "nat_ports");
    assert!(
        first.contains("worker 0") && first.contains("1500"),
        "{first}"
    );
    let at = |word: &str| picture.lines().position(|line| line.contains(word));
    assert!(
        at("nat_ports") < at("spoof_ip"),
        "the most first:\n{picture}"
    );
    assert!(!picture.contains("FALLBACK"));
}

#[test]
fn keys_pause_and_sort() {
    let mut screen = screen();
    let at = |screen: &Screen, word: &str| {
        let picture = drawn(screen, 110, 24);
        picture
            .lines()
            .position(|line| line.contains(word))
            .unwrap()
    };
    assert!(at(&screen, "eth0/0") < at(&screen, "trunk1/0"));
    screen.press(KeyCode::Char('s'));
    assert!(at(&screen, "trunk1/0") < at(&screen, "eth0/0"));
    screen.press(KeyCode::Char(' '));
    screen.show(Rates::between(&counters(1), &counters(1), 1.0));
    assert!(
        drawn(&screen, 110, 24).contains("nat_ports"),
        "paused, the old picture stays"
    );
    screen.press(KeyCode::Char(' '));
    screen.show(Rates::between(&counters(1), &counters(1), 1.0));
    assert!(!drawn(&screen, 110, 24).contains("nat_ports"));
}

#[test]
fn a_dataplane_that_is_away_is_told_and_the_picture_stays() {
    let mut screen = screen();
    screen.fail("penstock-dataplane does not answer\nStart it");
    let picture = drawn(&screen, 110, 24);
    assert!(picture.contains("penstock-dataplane does not answer"));
    assert!(!picture.contains("Start it"));
    assert!(picture.contains("nat_ports"));
}

#[test]
fn a_restart_counts_from_nothing() {
    let rates = Rates::between(&counters(5), &counters(1), 1.0);
    assert!((rates.workers[0].rx_pps - 1_500.0).abs() < 1e-9);
}

#[test]
fn no_terminal_is_too_small() {
    for (width, height) in [(1, 1), (10, 2), (40, 8), (300, 90)] {
        drawn(&screen(), width, height);
        drawn(&Screen::default(), width, height);
    }
}
