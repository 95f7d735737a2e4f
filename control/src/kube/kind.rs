//! The kinds that are followed: where the API server has each, and which objects of it are asked for.
//! Source: pkg/proxy and cmd/kube-proxy of Kubernetes for the selectors; KEP-2447 for `service-proxy-name`.

use crate::manifests::object::{Id, Reading, read_one};
use crate::yaml::Node;

/// Names the proxy a Service is meant for.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A followed kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    AddressPool,
    EndpointSlice,
    Namespace,
    Node,
    Service,
    ServiceCidr,
}

/// Where a version of a kind is served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Resource {
    /// `apiVersion` of its objects.
    pub(super) version: &'static str,
    /// Path of the collection.
    pub(super) path: &'static str,
}

impl Kind {
    /// In the order of `show sources`.
    pub(super) const ALL: [Self; 6] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::ServiceCidr,
        Self::Namespace,
        Self::AddressPool,
    ];

    /// `kind` of its objects.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AddressPool => "AddressPool",
            Self::EndpointSlice => "EndpointSlice",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// Of which kind the object is that `id` names.
    pub(super) fn of(id: &Id) -> Self {
        match id {
            Id::AddressPool(_) => Self::AddressPool,
            Id::EndpointSlice(_) => Self::EndpointSlice,
            Id::Namespace(_) => Self::Namespace,
            Id::Node(_) => Self::Node,
            Id::Service(_) => Self::Service,
            Id::ServiceCidr(_) => Self::ServiceCidr,
        }
    }

    /// The place in [`Self::ALL`].
    pub(super) fn index(self) -> usize {
        Self::ALL.iter().position(|kind| *kind == self).expect("ALL has every kind")
    }

    /// Where it is served, the newest version first. A server that has none of them has no objects of the kind.
    pub(super) fn resources(self) -> &'static [Resource] {
        match self {
            Self::EndpointSlice => &[Resource {
                version: "discovery.k8s.io/v1",
                path: "/apis/discovery.k8s.io/v1/endpointslices",
            }],
            Self::AddressPool => &[Resource {
                version: "fairlead.dev/v1alpha1",
                path: "/apis/fairlead.dev/v1alpha1/addresspools",
            }],
            Self::Namespace => &[Resource { version: "v1", path: "/api/v1/namespaces" }],
            Self::Node => &[Resource { version: "v1", path: "/api/v1/nodes" }],
            Self::Service => &[Resource { version: "v1", path: "/api/v1/services" }],
            // v1 since Kubernetes 1.33, v1beta1 (off by default) since 1.31.
            Self::ServiceCidr => &[
                Resource { version: "networking.k8s.io/v1", path: "/apis/networking.k8s.io/v1/servicecidrs" },
                Resource {
                    version: "networking.k8s.io/v1beta1",
                    path: "/apis/networking.k8s.io/v1beta1/servicecidrs",
                },
            ],
        }
    }

    /// Whether every server has it; one that says it does not is then a server that is not ready.
    pub(super) fn is_everywhere(self) -> bool {
        !matches!(self, Self::AddressPool | Self::ServiceCidr)
    }

    /// Label selector: Services for this proxy, without `proxy_name` those for none in particular; no headless slices.
    pub(super) fn labels(self, proxy_name: Option<&str>) -> Option<String> {
        match self {
            Self::EndpointSlice => Some("!service.kubernetes.io/headless".into()),
            Self::Service => Some(
                proxy_name.map_or_else(|| format!("!{PROXY_NAME}"), |name| format!("{PROXY_NAME}={name}")),
            ),
            Self::AddressPool | Self::Namespace | Self::Node | Self::ServiceCidr => None,
        }
    }

    /// Field selector. Servers before 1.36 refuse it; the objects it leaves out mean nothing to the compiler either.
    pub(super) fn fields(self) -> Option<&'static str> {
        (self == Self::Service).then_some("spec.clusterIP!=None")
    }

    /// Reads an object of this kind as manifests are read.
    pub(super) fn read(self, version: &str, object: &Node<'_>) -> Option<Reading> {
        read_one(version, self.name(), object)
    }
}
