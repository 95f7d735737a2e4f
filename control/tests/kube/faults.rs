//! What the source makes of a server that fails, lies, refuses or is away, and of a start without it.

use std::time::Duration;

use tokio::time::Instant;

use crate::follower::{Follower, PATIENCE, node, service, slice, small_world};
use crate::server::{Instead, NODES, SERVICES, SLICES};

#[tokio::test]
async fn a_forgotten_version_is_listed_again_and_only_differences_are_told() {
    for by_status in [false, true] {
        let mut server = small_world().await;
        let mut follower = Follower::new(&server.url());
        follower.until_synced().await;
        follower.told.clear();
        if by_status {
            // The refusal of a new watch, not an event within one.
            server.go_away().await;
            let gone = r#"{"kind":"Status","code":410,"message":"The resourceVersion is too old."}"#;
            server.instead(SERVICES, true, Instead::Status(410, None, gone.into()));
            server.delete(SERVICES, "shop", "web");
            server.put(SERVICES, service("new", 80));
            server.come_back().await;
        } else {
            server.delete(SERVICES, "shop", "web");
            server.put(SERVICES, service("new", 80));
            server.compact();
            // Only a watch that is behind hears of it.
            server.put(SLICES, slice("web-2", "10.1.0.3"));
        }
        follower.until_seen("svc shop/new").await;
        follower.until("gone", |it| !it.seen.contains_key("svc shop/web")).await;
        follower.listen(200).await;
        let services: Vec<_> = follower.told.iter().filter(|told| told.contains("svc")).collect();
        assert_eq!(services.len(), 2, "{services:?}");
    }
}

#[tokio::test]
async fn a_cut_stream_goes_on_where_it_was() {
    let server = small_world().await;
    let half = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":";
    server.instead(SERVICES, true, Instead::Cut(half.into()));
    server.instead(SERVICES, true, Instead::Cut(String::new()));
    server.instead(SERVICES, true, Instead::Text(half.into()));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.put(SERVICES, service("after", 80));
    follower.until_seen("svc shop/after").await;
    let lists = server.asked().iter().filter(|it| it.starts_with(SERVICES) && !it.contains("watch")).count();
    assert_eq!(lists, 1, "no list again");
    assert!(follower.metric("errors_total{kind=\"Service\",error=\"cut\"}") >= 2.0);
    assert!(follower.metric("watch_restarts_total{kind=\"Service\"}") >= 3.0);
}

#[tokio::test]
async fn a_watch_goes_on_from_where_a_bookmark_said() {
    let server = small_world().await;
    let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"1000"}}}"#;
    server.instead(SERVICES, true, Instead::Text(format!("{bookmark}\n")));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    let watches = || {
        let asked = server.asked().into_iter();
        asked.filter(|it| it.starts_with(SERVICES) && it.contains("watch=true")).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + PATIENCE;
    while watches().len() < 2 {
        assert!(Instant::now() < deadline, "no second watch");
        follower.listen(20).await;
    }
    assert!(watches()[0].contains("allowWatchBookmarks=true"), "{:?}", watches());
    assert!(watches()[1].contains("resourceVersion=1000"), "{:?}", watches());
    assert_eq!(follower.told.len(), 4, "a bookmark is no object: {:?}", follower.told);
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_asked_for_again() {
    let server = small_world().await;
    server.instead(NODES, false, Instead::Text("<html>proxy error</html>".into()));
    server.instead(NODES, false, Instead::Text("{\"metadata\":{},\"items\":[]}".into()));
    let nonsense = [
        "{\"type\":\"ADDED\",\"object\":[]}\n",
        "{\"type\":\"SPILLED\",\"object\":{}}\n",
        "not even JSON\n",
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n",
    ];
    for text in nonsense {
        server.instead(SLICES, true, Instead::Text(text.into()));
    }
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.put(SLICES, slice("web-2", "10.1.0.9"));
    follower.until_seen("slice shop/web-2").await;
    follower.until("followed", |it| it.row("EndpointSlice").state == "Ok").await;
    assert!(follower.metric("errors_total{kind=\"EndpointSlice\",error=\"malformed\"}") >= 1.0);
    assert_eq!(follower.metric("errors_total{kind=\"Node\",error=\"malformed\"}"), 2.0);
}

#[tokio::test]
async fn a_busy_or_failing_server_is_given_the_time_it_asks_for() {
    let server = small_world().await;
    let busy = "Too many requests, please try again later.";
    server.instead(NODES, false, Instead::Status(429, Some(("retry-after", "1")), busy.into()));
    server.instead(SERVICES, false, Instead::Status(500, None, "etcdserver: request timed out".into()));
    server.instead(SERVICES, false, Instead::Status(503, None, String::new()));
    let begun = Instant::now();
    let mut follower = Follower::new(&server.url());
    follower.until("said", |it| it.rows.iter().any(|row| row.error.contains("busy (429: Too many"))).await;
    follower.until_synced().await;
    let took = begun.elapsed();
    // A second is what it asks for; whoever takes it for more than that would be away for longest.
    assert!((1000..9000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(follower.metric("errors_total{kind=\"Service\",error=\"server\"}"), 2.0);
}

#[tokio::test]
async fn a_server_that_comes_back_is_followed_within_two_seconds() {
    let mut server = small_world().await;
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.go_away().await;
    // Long enough for a plain back-off to be at its longest.
    follower.until("noticed", |it| it.rows.iter().all(|row| row.state == "Stale")).await;
    follower.listen(9000).await;
    assert_eq!(follower.seen.len(), 4, "the last state stays");
    assert_eq!((follower.metric("connected"), follower.metric("stale")), (0.0, 1.0));
    assert!(follower.metric("last_contact_age_seconds") > 8.0);
    assert!(follower.row("Node").last_contact_seconds.expect("known") >= 8);
    assert!(follower.row("Node").error.contains("not reached"), "{:?}", follower.row("Node"));
    server.put(SLICES, slice("web-2", "10.1.0.9"));
    // A server that starts refuses for a moment what it will allow.
    for _ in 0..2 {
        server.instead(SLICES, true, Instead::Status(403, None, "{\"code\":403}".into()));
        server.instead(SLICES, true, Instead::Status(429, Some(("retry-after", "20")), String::new()));
    }
    server.come_back().await;
    let back = Instant::now();
    follower.until_seen("slice shop/web-2").await;
    let took = back.elapsed();
    // Two seconds are the promise, and as much for a machine that stands still; the refusals alone ask for twenty each.
    assert!(took < Duration::from_secs(4), "{took:?}");
    follower.until("followed", |it| it.rows.iter().all(|row| row.state == "Ok")).await;
    assert_eq!(follower.metric("stale"), 0.0);
}

#[tokio::test]
async fn a_rotated_token_is_taken_without_a_restart() {
    let server = small_world().await;
    server.demand("first");
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.demand("second");
    server.compact();
    server.put(SERVICES, service("new", 80));
    follower
        .until("refused", |it| it.rows.iter().any(|row| row.error.contains("credentials are not accepted")))
        .await;
    // Whoever writes it may empty it first.
    let token = follower.folder.path().join("token");
    std::fs::write(&token, "").expect("written");
    follower.until("nobody", |it| it.rows.iter().any(|row| row.error.contains("system:anonymous"))).await;
    std::fs::write(&token, "second").expect("written");
    let written = Instant::now();
    follower.until_seen("svc shop/new").await;
    assert!(written.elapsed() < Duration::from_secs(15), "{:?}", written.elapsed());
}

#[tokio::test]
async fn a_right_that_is_taken_away_leaves_the_last_state_until_it_is_given_back() {
    let mut server = small_world().await;
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.deny(NODES, 403);
    server.go_away().await;
    server.come_back().await;
    follower
        .until("told", |it| it.row("Node").error.contains("a right is missing (403: no /api/v1/nodes"))
        .await;
    assert_eq!((follower.row("Node").state.as_str(), follower.row("Node").objects), ("Stale", 1));
    server.put(SERVICES, service("meanwhile", 80));
    follower.until_seen("svc shop/meanwhile").await;
    server.put(NODES, node("n2"));
    server.deny(NODES, 200);
    follower.until_seen("node n2").await;
    follower.until("followed", |it| it.row("Node").state == "Ok").await;
}

#[tokio::test]
async fn a_restart_without_the_server_serves_the_last_state_and_corrects_it_later() {
    let mut server = small_world().await;
    server.put(SERVICES, service("old", 80));
    let url = server.url();
    let mut first = Follower::new(&url);
    first.until_synced().await;
    let file = first.folder.path().join("state/kubernetes");
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        assert!(Instant::now() < deadline, "no file");
        first.listen(100).await;
    }
    let (before, first_stale) = (first.seen.clone(), first.stale);
    let folder = first.end().await;
    server.go_away().await;

    let begun = Instant::now();
    let mut second = Follower::with(&url, None, folder);
    second.until_synced().await;
    // At once, and not after the five seconds that a server is given which answers.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(second.seen, before);
    assert_eq!((first_stale, second.stale), (0, 1));
    second.until("marked", |it| it.rows.iter().all(|row| row.state == "Stale")).await;
    assert_eq!(second.metric("stale"), 1.0);
    assert_eq!(second.metric("objects{kind=\"Service\"}"), 2.0);

    second.told.clear();
    server.delete(SERVICES, "shop", "old");
    server.put(SERVICES, service("new", 80));
    server.come_back().await;
    second.until("corrected", |it| it.told.len() == 2).await;
    second.told.sort();
    assert_eq!(second.told, ["+svc shop/new", "-svc shop/old"]);
    second.until("followed", |it| it.rows.iter().all(|row| row.state == "Ok")).await;
    assert_eq!(second.synced, 1);

    // A server that stumbles at the start is still asked before the file.
    server.delete(SERVICES, "shop", "new");
    server.instead(NODES, false, Instead::Status(500, None, "not yet".into()));
    let mut third = Follower::with(&url, None, second.end().await);
    third.until_synced().await;
    assert_eq!(third.stale, 0);
    let gone = ["+svc shop/new", "+svc shop/old"];
    assert!(!third.told.iter().any(|told| gone.contains(&told.as_str())), "{:?}", third.told);

    // A file of another source is not used.
    let folder = third.end().await;
    server.go_away().await;
    let mut other = Follower::with(&url, Some("fairlead"), folder);
    other.listen(1500).await;
    assert_eq!((other.synced, other.told.len()), (0, 0));
    assert_eq!(other.row("Service").state, "Waiting");
}

#[tokio::test]
async fn a_missing_kubeconfig_is_waited_for() {
    let server = small_world().await;
    let folder = tempfile::tempdir().expect("folder");
    let mut follower = Follower::with(&server.url(), None, folder);
    let kubeconfig = follower.folder.path().join("kubeconfig");
    let aside = follower.folder.path().join("aside");
    // The client is made with the first request, which has not happened yet on this one thread.
    std::fs::rename(&kubeconfig, &aside).expect("renamed");
    follower
        .until("told", |it| it.rows.iter().any(|row| row.error.contains("kubeconfig: No such file")))
        .await;
    std::fs::rename(&aside, &kubeconfig).expect("renamed");
    follower.until_synced().await;
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_in_smaller_ones() {
    let server = small_world().await;
    server.instead(SLICES, false, Instead::Text(" ".repeat(65 << 20)));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    let asked = server.asked();
    let lists = asked.iter().filter(|asked| asked.starts_with(SLICES) && !asked.contains("watch"));
    let limits: Vec<_> =
        lists.map(|asked| asked.contains("limit=250&") || asked.ends_with("limit=250")).collect();
    assert_eq!(limits, [false, true]);
}

#[tokio::test]
async fn an_event_larger_than_any_object_is_not_taken_in() {
    let server = small_world().await;
    let huge = "x".repeat(18 << 20);
    server.instead(SERVICES, true, Instead::Text(huge));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.put(SERVICES, service("after", 80));
    follower.until_seen("svc shop/after").await;
    assert_eq!(follower.metric("errors_total{kind=\"Service\",error=\"too_large\"}"), 1.0);
}
