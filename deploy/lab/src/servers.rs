//! The pods' servers: real ones with a configuration of their own, and the echo server, which is this program again.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::netns::Namespace;
use crate::plan::{Container, PodPlan};
use crate::process::Daemon;

/// What a server is told.
pub(crate) struct Server<'a> {
    /// Name of its pod, which it says to whoever asks.
    pub(crate) pod: &'a str,
    /// The pod's namespace.
    pub(crate) namespace: &'a Namespace,
    /// Its files live under here.
    pub(crate) dir: &'a Path,
    /// Its port.
    pub(crate) port: u16,
}

/// Starts one container of a pod of the plan; its files live under `dir`, its log is `dir/<server>.log`.
///
/// # Errors
/// When its configuration cannot be written or the program is not installed.
pub(crate) fn start(
    container: Container,
    pod: &PodPlan,
    namespace: &Namespace,
    dir: &Path,
) -> Result<Daemon> {
    let server = Server { pod: pod.name, namespace, dir, port: container.port() };
    let name = name(container);
    let what = format!("{name} of pod {}", pod.name);
    Daemon::start(&what, &mut command(container, &server)?, &dir.join(format!("{name}.log")))
}

/// The command of a server, whose configuration is written.
///
/// # Errors
/// When its configuration cannot be written.
pub(crate) fn command(container: Container, server: &Server<'_>) -> Result<Command> {
    fs::create_dir_all(server.dir)?;
    Ok(match container {
        Container::Web => nginx(server, "web", &web_conf(server))?,
        Container::Rtmp => nginx(server, "rtmp", &rtmp_conf(server))?,
        Container::Mqtt => mosquitto(server)?,
        Container::Dns => dnsmasq(server)?,
        Container::Iperf => iperf(server),
        Container::Echo => echo(server)?,
    })
}

fn name(container: Container) -> &'static str {
    match container {
        Container::Web => "web",
        Container::Rtmp => "rtmp",
        Container::Mqtt => "mqtt",
        Container::Dns => "dns",
        Container::Iperf => "iperf",
        Container::Echo => "echo",
    }
}

fn nginx(server: &Server<'_>, name: &str, conf: &str) -> Result<Command> {
    let dir = server.dir;
    for folder in ["www", "body"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    let file = dir.join(format!("{name}.conf"));
    fs::write(&file, conf)?;
    let mut command = server.namespace.command("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(&file).args(["-e", "stderr"]);
    Ok(command)
}

// In the foreground, with one worker: the pid we hold is the master's, who ends its worker, and in order on SIGQUIT.
fn nginx_head(dir: &Path) -> String {
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/nginx.pid;\nerror_log stderr warn;\nevents {{ worker_connections 4096; }}\n",
        dir = dir.display()
    )
}

fn web_conf(server: &Server<'_>) -> String {
    let (head, dir, pod, port) = (nginx_head(server.dir), server.dir.display(), server.pod, server.port);
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
        listen {port}; listen [::]:{port};
        location = / {{ return 200 \"{pod} $remote_addr $server_addr:$server_port\\n\"; }}
        location = /ready {{ if (-e {dir}/www/unready) {{ return 503; }} return 200 \"ready\\n\"; }}
        location /files/ {{ alias {dir}/www/; dav_methods PUT DELETE; }}
    }}
}}
"
    )
}

fn rtmp_conf(server: &Server<'_>) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\n{}rtmp {{
    access_log {dir}/rtmp-access.log;
    server {{ listen {port}; chunk_size 4096; application live {{ live on; record off; }} }}
}}
",
        nginx_head(server.dir),
        dir = server.dir.display(),
        port = server.port
    )
}

fn mosquitto(server: &Server<'_>) -> Result<Command> {
    let file = server.dir.join("mosquitto.conf");
    let conf = format!("listener {}\nallow_anonymous true\npersistence false\nuser root\n", server.port);
    fs::write(&file, conf)?;
    let mut command = server.namespace.command("mosquitto");
    command.arg("-c").arg(file);
    Ok(command)
}

fn dnsmasq(server: &Server<'_>) -> Result<Command> {
    let (pod, dir) = (server.pod, server.dir);
    // Twenty more strings make an answer that UDP without EDNS has to truncate, so that clients come back by TCP.
    let long: String =
        (0..20).map(|i| format!("txt-record=long.lab,{pod}-{i:02}-{}\n", "x".repeat(80))).collect();
    let conf = format!(
        "port={}\nno-resolv\nno-hosts\nno-daemon\nuser=root\nlog-facility=-\npid-file={}/dnsmasq.pid\n\
         txt-record=whoami.lab,{pod}\nhost-record=web.shop.lab,10.3.241.152\n{long}",
        server.port,
        dir.display(),
    );
    let file = dir.join("dnsmasq.conf");
    fs::write(&file, conf)?;
    let mut command = server.namespace.command("dnsmasq");
    command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
    Ok(command)
}

fn iperf(server: &Server<'_>) -> Command {
    let mut command = server.namespace.command("iperf3");
    command.args(["-s", "-p", &server.port.to_string(), "--forceflush"]);
    command
}

fn echo(server: &Server<'_>) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = server.namespace.command(own.to_str().context("the program's path is not UTF-8")?);
    command.args([crate::echo::ROLE, server.pod, &server.port.to_string()]);
    Ok(command)
}
