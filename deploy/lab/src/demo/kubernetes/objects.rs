//! What the demo's user writes.

/// Three web servers. A pod that shall end serves on for five seconds, as every Deployment behind a load balancer should:
/// whoever sends it traffic learns only then that it goes.
pub(super) const HELLO: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 3
  selector: {matchLabels: {app: hello}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 15
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: hello}}
      containers:
      - name: web
        image: nginx
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 5}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: hello}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: hello}}}
";

/// A pool of its own kind, beside the one of the configuration.
pub(super) const POOL: &str = "apiVersion: fairlead.dev/v1alpha1
kind: AddressPool
metadata: {name: shops}
spec: {cidrs: [203.0.113.64/28], autoAssign: false}
";

/// A Service that asks for an address of that pool, and for one that is in none.
pub(super) const SHOP: &str = "apiVersion: v1
kind: Service
metadata: {name: shop, annotations: {fairlead.dev/pool: shops}}
spec:
  type: LoadBalancer
  selector: {app: hello}
  ports: [{port: 8000, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: greedy, annotations: {fairlead.dev/ips: 198.51.100.7}}
spec:
  type: LoadBalancer
  selector: {app: hello}
  ports: [{port: 80, targetPort: http}]
";
