//! The pods' servers: real ones with a configuration of their own, and the echo server, which is this program again.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::netns::Namespace;
use crate::plan::{Container, PodPlan};
use crate::process::Daemon;

/// Starts one container of a pod; its files live under `dir`, its log is `dir/<server>.log`.
///
/// # Errors
/// When its configuration cannot be written or the program is not installed.
pub(crate) fn start(
    container: Container,
    pod: &PodPlan,
    namespace: &Namespace,
    dir: &Path,
) -> Result<Daemon> {
    fs::create_dir_all(dir)?;
    let (name, mut command) = match container {
        Container::Web => ("web", nginx(namespace, dir, "web", &web_conf(pod, dir))?),
        Container::Rtmp => ("rtmp", nginx(namespace, dir, "rtmp", &rtmp_conf(dir))?),
        Container::Mqtt => ("mqtt", mosquitto(namespace, dir)?),
        Container::Dns => ("dns", dnsmasq(namespace, pod, dir)?),
        Container::Iperf => ("iperf", iperf(namespace)),
        Container::Echo => ("echo", echo(namespace, pod)?),
    };
    let what = format!("{name} of pod {}", pod.name);
    Daemon::start(&what, &mut command, &dir.join(format!("{name}.log")))
}

fn nginx(namespace: &Namespace, dir: &Path, name: &str, conf: &str) -> Result<Command> {
    for folder in ["www", "body"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    let file = dir.join(format!("{name}.conf"));
    fs::write(&file, conf)?;
    let mut command = namespace.command("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(&file).args(["-e", "stderr"]);
    Ok(command)
}

// One process, in the foreground: the pid we hold is the server.
fn nginx_head(dir: &Path) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log stderr warn;\nevents {{ worker_connections 4096; }}\n",
        dir = dir.display()
    )
}

fn web_conf(pod: &PodPlan, dir: &Path) -> String {
    let (head, dir, pod_name) = (nginx_head(dir), dir.display(), pod.name);
    format!(
        "{head}http {{
    log_format lab '$remote_addr:$remote_port $connection $request $status';
    access_log {dir}/access.log lab;
    default_type text/plain;
    keepalive_requests 1000000;
    client_max_body_size 1g;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/body; fastcgi_temp_path {dir}/body; uwsgi_temp_path {dir}/body; scgi_temp_path {dir}/body;
    sendfile on;
    server {{
        listen 8080; listen [::]:8080;
        location = / {{ return 200 \"{pod_name} $remote_addr $server_addr:$server_port\\n\"; }}
        location /files/ {{ alias {dir}/www/; dav_methods PUT DELETE; }}
    }}
}}
"
    )
}

fn rtmp_conf(dir: &Path) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\n{}rtmp {{
    access_log {dir}/rtmp-access.log;
    server {{ listen 1935; chunk_size 4096; application live {{ live on; record off; }} }}
}}
",
        nginx_head(dir),
        dir = dir.display()
    )
}

fn mosquitto(namespace: &Namespace, dir: &Path) -> Result<Command> {
    let file = dir.join("mosquitto.conf");
    fs::write(&file, "listener 1883\nallow_anonymous true\npersistence false\nuser root\n")?;
    let mut command = namespace.command("mosquitto");
    command.arg("-c").arg(file);
    Ok(command)
}

fn dnsmasq(namespace: &Namespace, pod: &PodPlan, dir: &Path) -> Result<Command> {
    // Twenty more strings make an answer that UDP without EDNS has to truncate, so that clients come back by TCP.
    let long: String =
        (0..20).map(|i| format!("txt-record=long.lab,{}-{i:02}-{}\n", pod.name, "x".repeat(80))).collect();
    let conf = format!(
        "port=5353\nno-resolv\nno-hosts\nno-daemon\nuser=root\nlog-facility=-\npid-file={}/dnsmasq.pid\n\
         txt-record=whoami.lab,{}\nhost-record=web.shop.lab,10.3.241.152\n{long}",
        dir.display(),
        pod.name
    );
    let file = dir.join("dnsmasq.conf");
    fs::write(&file, conf)?;
    let mut command = namespace.command("dnsmasq");
    command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
    Ok(command)
}

fn iperf(namespace: &Namespace) -> Command {
    let mut command = namespace.command("iperf3");
    command.args(["-s", "-p", "5201", "--forceflush"]);
    command
}

fn echo(namespace: &Namespace, pod: &PodPlan) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = namespace.command(own.to_str().context("the program's path is not UTF-8")?);
    command.args([crate::echo::ROLE, pod.name]);
    Ok(command)
}
