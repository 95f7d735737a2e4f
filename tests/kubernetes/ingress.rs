//! An Ingress through a real ingress controller, whose Service is the appliance's.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::checks::Check;
use lab::http;
use lab::ingress::{self, Certificate};
use lab::process::until;

use crate::objects::Web;
use crate::world::{SOON, World};

pub(crate) const CHECKS: &[Check<World>] = &[(
    "an Ingress gets the address of its controller's Service, and carries HTTP and TLS",
    through_a_controller,
)];

/// Longest wait for the controller, which looks at most every two seconds.
const FOLLOWS: Duration = Duration::from_secs(15);
/// Host that the lab's own HTTP client asks for.
const HOST: &str = "lab";

fn through_a_controller(world: &mut World) -> Result<()> {
    ingress::program()?;
    let site = Web::new("site", 2);
    let certificate = Certificate::create(HOST, world.lab.dir())?;
    world.kubectl().apply(ingress::CONTROLLER)?;
    world.deploy(&site)?;
    world.kubectl().apply(&certificate.secret("site", "front"))?;
    world.kubectl().apply(&ingress::ingress("site", "front", HOST, "web"))?;
    let ready = ["rollout", "status", "deployment/traefik", "-n", ingress::NAME, "--timeout=60s"];
    world.kubectl().wait(&ready, SOON)?;

    let addresses = follows(world)?;
    ensure!(addresses.len() == 2, "the Service has the addresses {addresses:?}");
    let column = world.kubectl().run(&["get", "ingress", "front", "-n", "site"])?;
    for address in &addresses {
        ensure!(column.contains(&address.to_string()), "ADDRESS lacks {address}:\n{column}");
        asked(world, &site, &certificate, *address).with_context(|| format!("at {address}"))?;
    }
    client_is_known(world)?;

    // Another address: the Ingress has it as well, and it works.
    let wanted: IpAddr = [203, 0, 113, 33].into();
    let annotation = format!("fairlead.dev/ips={wanted}");
    world.kubectl().run(&["annotate", "service", "traefik", "-n", ingress::NAME, &annotation])?;
    until("the Service has another address", FOLLOWS, || {
        let found = ingress::addresses(world.kubectl(), "service", ingress::NAME, ingress::NAME);
        found.is_ok_and(|found| found.contains(&wanted))
    })?;
    ensure!(follows(world)?.contains(&wanted), "the Ingress lacks {wanted}");
    asked(world, &site, &certificate, wanted)?;
    world.agrees()?;
    world.kubectl().run(&["delete", "namespace", ingress::NAME, "site", "--wait=false"]).map(drop)
}

/// Waits until the Ingress has the addresses of the controller's Service.
fn follows(world: &World) -> Result<Vec<IpAddr>> {
    let (mut service, mut front) = (Vec::new(), Vec::new());
    until("the Ingress has the addresses of the Service", FOLLOWS, || {
        let of = |kind, namespace, name| {
            ingress::addresses(world.kubectl(), kind, namespace, name).unwrap_or_default()
        };
        service = of("service", ingress::NAME, ingress::NAME);
        front = of("ingress", "site", "front");
        !front.is_empty() && front == service
    })
    .with_context(|| format!("Service {service:?}, Ingress {front:?}"))?;
    Ok(front)
}

/// By HTTP and by TLS a pod of the site answers.
fn asked(world: &World, site: &Web, certificate: &Certificate, address: IpAddr) -> Result<()> {
    let pods = world.ready_pods(site)?;
    let client = world.host("c1");
    // The controller may have heard of the Ingress last.
    until("it answers by HTTP", FOLLOWS, || {
        let answer = client.within(|| http::who(SocketAddr::new(address, 80), SOON));
        matches!(answer, Ok(Ok(answer)) if pods.contains_key(&answer.pod))
    })?;
    let answer = http::WebAnswer::parse(&certificate.ask(client, address)?)?;
    ensure!(pods.contains_key(&answer.pod), "{} is no pod of the site: {pods:?}", answer.pod);
    Ok(())
}

/// The controller's Service keeps the clients' addresses: they are in its log.
fn client_is_known(world: &World) -> Result<()> {
    let pods = world.lab.ready_pods(ingress::NAME, "app=traefik")?;
    let (pod, _) = pods.first_key_value().context("no ready controller")?;
    let log = world.lab.container_dir(ingress::NAME, pod, ingress::NAME).join("log");
    let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    for client in ["192.0.2.11 - ", "2001:db8:1::11 - "] {
        ensure!(text.contains(client), "{client:?} is not in {}", log.display());
    }
    Ok(())
}
