//! The objects of the checks, as a user would write them.

/// A web server: a namespace, a Deployment with its disruption budget, and a Service.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    pub(crate) replicas: u32,
    /// The Service's type.
    pub(crate) kind: &'static str,
}

impl Web {
    /// A ClusterIP Service with so many pods.
    pub(crate) fn new(namespace: &'static str, replicas: u32) -> Self {
        Self { namespace, name: "web", replicas, kind: "ClusterIP" }
    }

    /// Everything in one document. A pod says that it is ready while it has no file `unready`; before it ends it serves
    /// on for 5 s, so that whoever sends it traffic can learn that it goes (the controller of the slices may be late by its own
    /// back-off of 1 s, doubled); nobody waits for a lost node's pods; a drain
    /// takes one at a time.
    pub(crate) fn yaml(&self) -> String {
        let Self { namespace, name, replicas, kind } = self;
        format!(
            "apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  type: {kind}
  ipFamilyPolicy: RequireDualStack
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{maxUnavailable: 1, selector: {{matchLabels: {{app: {name}}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 10
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {{matchLabels: {{app: {name}}}}}
      containers:
      - name: web
        image: nginx
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /ready, port: http}}, periodSeconds: 1, failureThreshold: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 5}}}}}}
"
        )
    }
}
