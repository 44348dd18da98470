# Images of som: `docker build --target agent .` (after `make libsom`), `--target operator .` and
# `--target driver .`
# `make release` dates all files by the commit. So nothing here may keep the time of the build: no
# logs, and byte code that does not look at dates.
FROM debian:trixie-slim AS build
ARG DEBIAN_FRONTEND=noninteractive PIP_ROOT_USER_ACTION=ignore
RUN apt-get update \
 && apt-get install -qy --no-install-recommends ca-certificates python3 python3-pip \
 && update-ca-certificates
WORKDIR /src
COPY requirements.lock requirements-dev.lock ./
RUN pip install --quiet --no-cache-dir --no-compile --require-hashes \
        --target=/opt/som/lib --requirement=requirements.lock
# The official client's synchronous half is half of its 120 MB, and models and methods of each kind
# are most of the rest. We use credentials and requests of the asyncio half. Its packages import all
# that is in them, 3 MB in each agent.
RUN cd /opt/som/lib && rm -r bin && cd kubernetes \
 && find . -mindepth 1 -maxdepth 1 ! -name aio -exec rm -r {} + \
 && find aio -mindepth 1 -maxdepth 1 ! -name client ! -name config ! -name utils -exec rm -r {} + \
 && rm -r aio/client/api aio/client/models && mkdir aio/client/models \
 && tee __init__.py aio/__init__.py aio/config/__init__.py aio/utils/__init__.py \
        aio/client/models/__init__.py < /dev/null \
 && printf 'from .%s import %s\n' api_client ApiClient configuration Configuration \
        > aio/client/__init__.py
RUN awk '/^[a-z]/ { keep = /^(grpcio|grpcio-tools|protobuf|setuptools|typing-extensions)==/ } keep' \
        requirements-dev.lock > tools.lock \
 && pip install --quiet --no-cache-dir --require-hashes --target=/opt/tools --requirement=tools.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY api api
COPY operator operator
COPY device-plugin device-plugin
COPY kubectl kubectl
# The date of files in the wheel, as seconds since 1970; today where it is not given.
ARG SOURCE_DATE_EPOCH
RUN PYTHONPATH=/opt/tools pip wheel --quiet --no-deps --no-build-isolation --wheel-dir=/dist . \
 && pip install --quiet --no-deps --no-compile --target=/opt/som/lib /dist/*.whl \
 && mv /opt/som/lib/bin /opt/som/bin \
 && python3 -m compileall -q --invalidation-mode=unchecked-hash /opt/som/lib \
 && PYTHONPATH=/opt/som/lib python3 -c 'from kubernetes.aio.config import kube_config' \
 && PYTHONPATH=/opt/som/lib /opt/som/bin/som-agent --version \
 && PYTHONPATH=/opt/som/lib /opt/som/bin/som-operator --version

FROM debian:trixie-slim AS runtime
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -qy --no-install-recommends python3 \
 && python3 -m compileall -qf --invalidation-mode=unchecked-hash /usr/lib/python3* \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*
COPY --from=build /opt/som /opt/som
ENV PATH=/opt/som/bin:/usr/bin:/bin PYTHONPATH=/opt/som/lib PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.base.name=docker.io/library/debian:trixie-slim

FROM runtime AS agent
# By `make libsom`: it is linked for any libc, so it needs no container to be built in.
COPY libsom/dist /opt/som/libsom
LABEL org.opencontainers.image.licenses="Apache-2.0 AND MIT" \
      org.opencontainers.image.title=som-agent \
      org.opencontainers.image.description="Reserves som memory on a node and hands it to containers"
# It is on every node: without docstrings, and with one heap for all its threads, it is 3 MB smaller.
ENV PYTHONOPTIMIZE=2 MALLOC_ARENA_MAX=1
RUN python3 -m compileall -q --invalidation-mode=unchecked-hash /opt/som/lib /usr/lib/python3*
# Mounts, cgroups and device nodes of the node: root, and privileged by the chart.
USER 0:0
ENTRYPOINT ["som-agent"]

FROM runtime AS operator
LABEL org.opencontainers.image.title=som-operator \
      org.opencontainers.image.description="Orders som pools on nodes and reports on them"
USER 65532:65532
ENTRYPOINT ["som-operator"]

# som.ko's sources, and the compilers of the kernels that Debian has: it is built on the node, against
# the node's headers. For a kernel that your nodes have, COPY the module that you built (and signed)
# to /opt/som/modules/<uname -r>/som.ko in an image FROM this one.
FROM debian:trixie-slim AS driver
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -qy --no-install-recommends gcc-12 gcc-13 gcc-14 libelf1t64 make python3 \
 && python3 -m compileall -qf --invalidation-mode=unchecked-hash /usr/lib/python3* \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* \
           /usr/libexec/gcc/*/*/lto1
# The node's /usr is mounted at /host/usr: headers name each other by paths in /usr/src, and what is
# beside that by paths from there.
RUN rm -rf /usr/src && ln -s /host/usr/src /usr/src
COPY driver /opt/som/driver
COPY operator/som_operator/__init__.py /opt/som/lib/som_operator/
COPY operator/som_operator/loading /opt/som/lib/som_operator/loading
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/opt/som/lib PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-only" \
      org.opencontainers.image.base.name=docker.io/library/debian:trixie-slim \
      org.opencontainers.image.title=som-driver \
      org.opencontainers.image.description="Loads the kernel module som on a node, built for its kernel"
# Loading a module takes root, and of its capabilities SYS_MODULE alone.
USER 0:0
ENTRYPOINT ["python3", "-m", "som_operator.loading.loader"]
