"""One certificate authority, a certificate per component, and its kubeconfig."""

from __future__ import annotations

from pathlib import Path

from cluster.harness.errors import run

NODE = "node1"
NODE_IP = "10.99.0.1"
SERVICE_IP = "10.96.0.1"
SERVER = f"https://{SERVICE_IP}"

SUBJECTS = {
    "apiserver": "/CN=kube-apiserver",
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
}
NAMES = {
    "apiserver": f"IP:{NODE_IP},IP:{SERVICE_IP},IP:127.0.0.1,DNS:kubernetes.default.svc",
    "kubelet": f"IP:{NODE_IP},DNS:{NODE}",
}


def write_all(folder: Path) -> None:
    """Write ca, one certificate and key per component, the service account key, kubeconfigs."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(command: str) -> None:
        run(["openssl", *command.split()], cwd=folder)

    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl(f"req -x509 {key} -days 30 -subj /CN=som-test-ca -keyout ca.key -out ca.crt")
    for name, subject in SUBJECTS.items():
        alternative = NAMES.get(name, f"DNS:{name}")
        (folder / f"{name}.ext").write_text(
            f"subjectAltName={alternative}\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        openssl(f"req {key} -subj {subject} -keyout {name}.key -out {name}.csr")
        openssl(
            f"x509 -req -in {name}.csr -days 30 -extfile {name}.ext -out {name}.crt"
            " -CA ca.crt -CAkey ca.key -CAcreateserial"
        )
        (folder / f"{name}.kubeconfig").write_text(_kubeconfig(folder, name))
    openssl("genrsa -out service-account.key 2048")
    openssl("rsa -in service-account.key -pubout -out service-account.pub")


def _kubeconfig(folder: Path, name: str) -> str:
    return f"""\
apiVersion: v1
kind: Config
current-context: som-test
clusters:
- name: som-test
  cluster: {{server: "{SERVER}", certificate-authority: {folder}/ca.crt}}
users:
- name: {name}
  user: {{client-certificate: {folder}/{name}.crt, client-key: {folder}/{name}.key}}
contexts:
- name: som-test
  context: {{cluster: som-test, user: {name}}}
"""
