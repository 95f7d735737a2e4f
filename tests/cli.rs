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

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, type: NodePort, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1]}]
";

#[test]
fn check_names_every_fault_of_configuration_and_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), CONFIG);
    let web = folder.path().join("web.yml");
    fs::write(&web, WEB).unwrap();
    let web = web.display().to_string();
    assert_eq!(fairlead(&["check", "--config", &file, "--manifests", &web]), (Some(0), String::new()));
    let file = config(folder.path(), &format!("{CONFIG}colour: blue\nworkers: {{count: none}}\n"));
    fs::write(
        folder.path().join("bad.json"),
        "{\"apiVersion\": \"v1\",\n \"kind\": \"Service\",\n \"metadata\": {}}",
    )
    .unwrap();
    let bad = folder.path().join("bad.json").display().to_string();
    let (code, said) = fairlead(&["check", "--config", &file, "--manifests", &bad]);
    assert_eq!(code, Some(1));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].contains("config.yaml:8: colour: unknown key"), "{said}");
    assert!(lines[1].contains("config.yaml:9: workers.count: `none` is not valid"), "{said}");
    assert!(lines[2].contains("bad.json:1: Service default/(no name): `metadata.name` is missing"), "{said}");
}

#[test]
fn check_reads_the_kubeconfig_and_names_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = CONFIG.replace("{manifests: MANIFESTS}", &format!("\n  kubeconfig: {}", kubeconfig.display()));
    let file = config(folder.path(), &text);
    let (code, said) = fairlead(&["check", "--config", &file]);
    assert_eq!(code, Some(1));
    assert!(said.contains("config.yaml:6: kubernetes.kubeconfig: kubeconfig /"), "{said}");
    assert!(
        said.ends_with("No such file or directory (os error 2); a readable file is expected\n"),
        "{said}"
    );
    let good = "current-context: c\ncontexts: [{name: c, context: {cluster: k}}]\nclusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]\n";
    fs::write(&kubeconfig, good).unwrap();
    assert_eq!(fairlead(&["check", "--config", &file]), (Some(0), String::new()));
}

#[test]
fn trace_answers_one_json_object_a_packet() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), CONFIG);
    let web = folder.path().join("web.yaml");
    fs::write(&web, WEB).unwrap();
    let packets = folder.path().join("packets.jsonl");
    let line = r#"{"src":"203.0.113.2","sport":40000,"dst":"10.96.0.1","dport":81,"proto":"TCP"}"#;
    fs::write(&packets, format!("{line}\n\n")).unwrap();
    let output = Command::cargo_bin("fairlead")
        .unwrap()
        .args(["trace", "-o", "json", "--config", &file, "--manifests"])
        .arg(&web)
        .arg("--packets")
        .arg(&packets)
        .arg("tcp 203.0.113.2:40000 > 192.0.2.1:30080")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["verdict"], "FORWARD");
    assert_eq!(answers[0]["frontend"], "NodePort");
    assert_eq!(answers[0]["service"], "default/web:80");
    assert_eq!(answers[0]["candidates"], serde_json::json!(["10.1.0.1:8080"]));
    assert_eq!(answers[0]["mode"], "snat");
    assert_eq!((&answers[1]["verdict"], &answers[1]["reason"]), (&"REJECT".into(), &"VipPortUnknown".into()));
    fs::write(&packets, format!("{line}\nnonsense\n")).unwrap();
    let packets = packets.display().to_string();
    let (code, said) = fairlead(&["trace", "--manifests", &file, "--packets", &packets]);
    assert!(code == Some(1) && said.contains("packets.jsonl:2: "), "{said}");
}
