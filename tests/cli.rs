//! The command line where nothing runs: what it refuses, in which words, with which exit code.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use control::state_dir::StateDir;

const CONFIG: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{name: outside, device: net_null0, addresses: [192.0.2.1/24], tap: false}]
kubernetes: {manifests: MANIFESTS}
stateDir: STATE
admin: {socket: SOCKET}
";

/// Exit code and stderr.
fn fairlead(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::cargo_bin("fairlead").unwrap().args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn config(folder: &Path, text: &str) -> String {
    let file = folder.join("config.yaml");
    let path = |name: &str| folder.join(name).display().to_string();
    let text = text
        .replace("MANIFESTS", &path(""))
        .replace("STATE", &path("state"))
        .replace("SOCKET", &path("admin.sock"));
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn show_and_reload_without_an_appliance_name_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), CONFIG);
    for arguments in [&["show", "services"][..], &["show", "flows", "-o", "json"], &["reload"]] {
        let (code, said) = fairlead(&[arguments, &["--config", &file]].concat());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with("no appliance answers at ") && said.contains("admin.sock"), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    for arguments in [&["show", "everything"][..], &["run", "--fast"], &[]] {
        assert_eq!(fairlead(arguments).0, Some(2), "{arguments:?}");
    }
}

#[test]
fn run_reports_every_fault_of_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), &format!("{CONFIG}colour: blue\nworkers: {{count: none}}\n"));
    let (code, said) = fairlead(&["run", "--config", &file]);
    assert_eq!(code, Some(1));
    for fault in ["config.yaml:8: colour", "config.yaml:9: workers.count"] {
        assert!(said.contains(fault), "{said}");
    }
    let (code, said) = fairlead(&["run", "--config", "/nonexistent/config.yaml"]);
    assert!(code == Some(1) && said.contains("/nonexistent/config.yaml"), "{said}");
}

#[test]
fn a_second_process_on_a_state_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), CONFIG);
    let _first = StateDir::open(&folder.path().join("state")).unwrap();
    let (code, said) = fairlead(&["run", "--config", &file]);
    assert_eq!(code, Some(1));
    assert!(said.contains("is in use by process") && said.trim_end().lines().count() == 1, "{said}");
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn a_build_without_dpdk_says_that_it_cannot_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), CONFIG);
    let (code, said) = fairlead(&["run", "--config", &file]);
    assert!(code == Some(1) && said.contains("--features dpdk"), "{said}");
}
