//! The catalogue: the images that a lab node knows, each a program of this machine with a configuration of its own.
//! Tags and registries are taken as written and mean nothing. A `command` in the pod replaces the image's program.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Container as Spec;
use rustix::process::Signal;

use crate::ingress;
use crate::netns::Namespace;
use crate::plan::{self, Container};
use crate::servers::{self, Server};

/// The images, for messages.
const NAMES: &str = "nginx, echo, mosquitto, dnsmasq, nginx-rtmp, iperf3, traefik, fairlead, shell";

/// Environment variable with the path of the appliance's program.
const BINARY: &str = "FAIRLEAD_BIN";

/// What a container's image is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Image {
    /// One of the lab's servers.
    Server(Container),
    /// The ingress controller, with the container's `args`.
    Traefik,
    /// The appliance, with the container's `args`.
    Appliance,
    /// `sh`, with the container's `args`.
    Shell,
}

impl Image {
    /// Finds `name`, such as `registry.example/nginx:1.27`.
    ///
    /// # Errors
    /// When the catalogue has no such image.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let last = name.rsplit('/').next().unwrap_or(name);
        Ok(match last.split([':', '@']).next().unwrap_or(last) {
            "nginx" => Self::Server(Container::Web),
            "echo" => Self::Server(Container::Echo),
            "mosquitto" => Self::Server(Container::Mqtt),
            "dnsmasq" => Self::Server(Container::Dns),
            "nginx-rtmp" => Self::Server(Container::Rtmp),
            "iperf3" => Self::Server(Container::Iperf),
            "traefik" => Self::Traefik,
            "fairlead" => Self::Appliance,
            "shell" => Self::Shell,
            _ => bail!("a lab node has no image {name:?}; it has {NAMES}"),
        })
    }

    /// The signal that asks it to end: nginx finishes what it serves only on SIGQUIT, as its image declares.
    pub(super) fn stop_signal(self) -> Signal {
        match self {
            Self::Server(Container::Web | Container::Rtmp) => Signal::QUIT,
            _ => Signal::TERM,
        }
    }

    /// The command of a container of pod `pod`, whose files live under `dir`.
    ///
    /// # Errors
    /// When its configuration cannot be written or its port is none.
    pub(super) fn command(
        self,
        spec: &Spec,
        pod: &str,
        namespace: &Namespace,
        dir: &Path,
    ) -> Result<Command> {
        let env = environment(spec);
        let given = spec.command.as_deref().unwrap_or_default();
        let args = spec.args.as_deref().unwrap_or_default();
        let mut command = match (given.split_first(), self) {
            (Some((program, words)), _) => {
                let mut command = namespace.command(program);
                command.args(words).args(args);
                command
            }
            (None, Self::Shell | Self::Traefik | Self::Appliance) => {
                let mut command = namespace.command(&self.program()?);
                command.args(args);
                command
            }
            (None, Self::Server(container)) => {
                let port = match env.get("PORT") {
                    Some(port) => port.parse().with_context(|| format!("PORT={port} is no port"))?,
                    None => container.port(),
                };
                servers::command(container, &Server { pod, namespace, dir, port })?
            }
        };
        command.env("KUBERNETES_SERVICE_HOST", plan::KUBERNETES_SERVICE.to_string());
        command.env("KUBERNETES_SERVICE_PORT", "443");
        command.envs(env).env("POD_NAME", pod).env("POD_DIR", dir).current_dir(dir);
        Ok(command)
    }

    /// Of those that are told everything by `args`.
    fn program(self) -> Result<String> {
        match self {
            Self::Traefik => ingress::program(),
            Self::Appliance => {
                std::env::var(BINARY).with_context(|| format!("image fairlead: {BINARY} is not set"))
            }
            _ => Ok("sh".to_owned()),
        }
    }
}

/// The variables that are written out; references to other objects are not followed.
fn environment(spec: &Spec) -> BTreeMap<&str, &str> {
    let all = spec.env.iter().flatten();
    all.filter_map(|var| Some((var.name.as_str(), var.value.as_deref()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_registry_and_tag() {
        for (name, image) in [
            ("nginx", Image::Server(Container::Web)),
            ("nginx:1.27", Image::Server(Container::Web)),
            ("registry.example:5000/lab/echo@sha256:00", Image::Server(Container::Echo)),
            ("shell:x", Image::Shell),
            ("traefik:v3.6", Image::Traefik),
            ("fairlead", Image::Appliance),
        ] {
            assert_eq!(Image::parse(name).unwrap(), image, "{name}");
        }
        let error = Image::parse("redis:7").unwrap_err().to_string();
        assert!(error.contains("redis:7") && error.contains(NAMES), "{error}");
    }
}
