"""Where the API server is and who we are, as the official client finds it out."""

import asyncio
import os
import pathlib
from urllib import parse, request

from kubernetes.aio import client as official
from kubernetes.aio.config import config_exception, incluster_config

from som_api.kube import client, errors


async def connect(*, user_agent: str, kubeconfig: pathlib.Path | None = None) -> client.Client:
    """A client for the cluster that `kubeconfig`, else the surroundings, name.

    The order is kubectl's: `kubeconfig`, then $KUBECONFIG, then the service account of the pod
    we run in, then ~/.kube/config. The client reads service account tokens every minute;
    it renews exec credentials before they expire, client certificates only at a new start.
    Raises KubeError (reason "Config") that names the file.
    """
    configuration = official.Configuration()
    # client-go does not demand RFC 5280 extensions of a CA, and many clusters' CAs lack them;
    # Python 3.13 demands them by default. Chain and host name are verified all the same.
    configuration.disable_strict_ssl_verification = True
    # Else aiohttp looks for a proxy and a .netrc before each request, on a thread, and fails each
    # where the .netrc knows the server.
    configuration.client_session_kwargs = {"trust_env": False}
    files = os.environ.get("KUBECONFIG", "") if kubeconfig is None else str(kubeconfig)
    in_cluster = not files and "KUBERNETES_SERVICE_HOST" in os.environ
    origin = (
        "the pod's service account" if in_cluster else f"kubeconfig {files or '~/.kube/config'}"
    )
    try:
        if in_cluster:
            incluster_config.load_incluster_config(client_configuration=configuration)
        else:
            await _load_kubeconfig(configuration, files or "~/.kube/config")
        configuration.proxy = configuration.proxy or _proxy_to(configuration.host)
        api = official.ApiClient(configuration)
    # TypeError: the official loader on a kubeconfig whose parts have other types.
    except (config_exception.ConfigException, OSError, ValueError, TypeError) as error:
        raise errors.KubeError(
            f"connect by {origin}", status=0, reason="Config", message=str(error)
        ) from error
    api.user_agent = user_agent
    return client.Client(api)


def _proxy_to(server: str) -> str | None:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say, as client-go asks them."""
    url = parse.urlsplit(server)
    if request.proxy_bypass(url.hostname or ""):
        return None
    return request.getproxies().get(url.scheme)


async def _load_kubeconfig(configuration: official.Configuration, files: str) -> None:
    # The official loader only logs a missing file and then speaks of a missing context.
    paths = [pathlib.Path(file).expanduser() for file in files.split(os.pathsep) if file]
    if not any(path.exists() for path in paths):
        raise FileNotFoundError("no such file; set KUBECONFIG, or run inside a cluster")
    # In a pod nobody needs this part of the official client, nor PyYAML, which it brings.
    import yaml
    from kubernetes.aio.config import kube_config

    try:
        loader = await kube_config.load_kube_config(
            config_file=files, client_configuration=configuration, persist_config=False
        )
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    one_renewal = asyncio.Lock()

    async def renew_exec_credentials(configuration: official.Configuration) -> None:
        async with one_renewal:
            # Runs the plugin only where its credentials are about to expire.
            await loader.load_from_exec_plugin()
            configuration.api_key["BearerToken"] = loader.token

    if hasattr(loader, "exec_plugin_expiry"):
        configuration.refresh_api_key_hook = renew_exec_credentials
