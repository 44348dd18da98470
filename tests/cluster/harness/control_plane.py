"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler."""

from __future__ import annotations

from cluster.harness.certificates import NODE_IP
from cluster.harness.errors import wait_until
from cluster.harness.namespaces import Namespaces

ETCD = "http://127.0.0.1:2379"

# Who asked for what, for tests that count requests.
AUDIT = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:som-system"]
- level: None
"""

# Where no quota of the namespace says otherwise nobody has a critical pod: GKE's rule.
ADMISSION = """\
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - resource: pods
      matchScopes:
      - scopeName: PriorityClass
        operator: In
        values: [system-node-critical, system-cluster-critical]
"""


def start(namespaces: Namespaces) -> None:
    """Start all four and wait until the API server says that it is ready."""
    words = ["etcd", f"--data-dir={namespaces.state}/etcd", f"--listen-client-urls={ETCD}"]
    words += [f"--advertise-client-urls={ETCD}", "--listen-peer-urls=http://127.0.0.1:2380"]
    namespaces.start("etcd", [*words, "--unsafe-no-fsync"])
    start_api_server(namespaces)
    start_controllers(namespaces)


def start_controllers(namespaces: Namespaces) -> None:
    """Start kube-controller-manager and kube-scheduler."""
    accounts = [
        f"--service-account-private-key-file={namespaces.pki}/service-account.key",
        f"--root-ca-file={namespaces.pki}/ca.crt",
        "--use-service-account-credentials",
    ]
    for name, more in (("controller-manager", accounts), ("scheduler", [])):
        config = f"{namespaces.pki}/{name}.kubeconfig"
        words = [f"kube-{name}", f"--kubeconfig={config}", f"--authentication-kubeconfig={config}"]
        words += [f"--authorization-kubeconfig={config}", "--bind-address=127.0.0.1"]
        namespaces.start(name, [*words, "--leader-elect=false", *more])


def start_api_server(namespaces: Namespaces) -> None:
    policy = namespaces.state / "audit.yaml"
    policy.write_text(AUDIT)
    admission = namespaces.state / "admission.yaml"
    admission.write_text(ADMISSION)
    namespaces.start(
        "apiserver",
        [
            "kube-apiserver",
            f"--etcd-servers={ETCD}",
            "--secure-port=443",
            "--bind-address=0.0.0.0",
            f"--advertise-address={NODE_IP}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--admission-control-config-file={admission}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={namespaces.logs}/audit.log",
            f"--client-ca-file={namespaces.pki}/ca.crt",
            f"--tls-cert-file={namespaces.pki}/apiserver.crt",
            f"--tls-private-key-file={namespaces.pki}/apiserver.key",
            f"--service-account-key-file={namespaces.pki}/service-account.pub",
            f"--service-account-signing-key-file={namespaces.pki}/service-account.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--kubelet-client-certificate={namespaces.pki}/admin.crt",
            f"--kubelet-client-key={namespaces.pki}/admin.key",
        ],
    )
    wait_until(
        "the API server to be ready",
        lambda: namespaces.run(["kubectl", "get", "--raw=/readyz"]).stdout == "ok",
        deadline_s=180,
    )
