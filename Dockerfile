# The server on a free-threaded interpreter, without a root user and without build tools.
#
#   docker build -t cacheserver .
#   docker run -p 8080:8080 cacheserver
#
# deploy/README.md explains the arguments, the stages and what the image holds.

# Everything is built on the image that it will run on, so that all libraries fit.
ARG BASE=debian:trixie-slim


FROM ${BASE} AS tools
WORKDIR /src
ENV CACHESERVER_CACHE=/opt/provision UV_SYSTEM_CERTS=true
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY scripts/provision scripts/


# uv's download or, where that is not reachable, built from Debian's source package.
FROM tools AS interpreter-made
ARG CACHESERVER_PGO=0
RUN python=$(scripts/provision python) \
    && "$python" -I -c 'import sys; sys.exit(sys._is_gil_enabled() and "this interpreter has the GIL")' \
    && mv "${python%/bin/*}" /opt/python


# Its root is the interpreter's prefix: --build-context interpreter=FOLDER puts another in its place.
FROM scratch AS interpreter
COPY --from=interpreter-made /opt/python /


# The dependencies come before the code, which changes more often.
FROM tools AS environment
COPY --from=interpreter / /opt/cacheserver/python/
ENV PATH=/opt/cacheserver/python/bin:$PATH PYTHON=/opt/cacheserver/python/bin/python3 UV_LINK_MODE=copy
COPY requirements/ requirements/
RUN scripts/provision dependencies /opt/cacheserver/venv
COPY pyproject.toml setup.py README.md LICENSE ./
COPY scripts/build_backend.py scripts/
COPY cacheserver/ cacheserver/
RUN scripts/provision deploy /opt/cacheserver/venv \
    && rm /opt/cacheserver/venv/provision.log \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/cacheserver/venv/lib


# The interpreter without what only developers need.
FROM ${BASE} AS interpreter-trimmed
COPY --from=interpreter / /opt/cacheserver/python/
COPY deploy/trim-interpreter /tmp/
RUN /tmp/trim-interpreter /opt/cacheserver/python


FROM ${BASE}
# Shared libraries of the interpreter; another BASE may call them otherwise.
ARG RUNTIME_PACKAGES="libffi8 libssl3t64"
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && apt-get install -y --no-install-recommends ${RUNTIME_PACKAGES} \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=interpreter-trimmed /opt/cacheserver/python /opt/cacheserver/python
COPY --from=environment /opt/cacheserver/venv /opt/cacheserver/venv
COPY deploy/healthcheck.py /opt/cacheserver/

LABEL org.opencontainers.image.title="cacheserver" \
      org.opencontainers.image.description="An HTTP cache server with compare-and-set, on free-threaded Python" \
      org.opencontainers.image.licenses="Apache-2.0"

# Others must reach the server from outside the container, so nobody may come in without a token:
# it makes and prints one unless CACHESERVER_TOKEN or --insecure is given. What is in flight gets 8
# seconds at the end, because docker stop kills after 10.
# hadolint ignore=DL3064
ENV PATH=/opt/cacheserver/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    CACHESERVER_HOST=0.0.0.0 \
    CACHESERVER_PORT=8080 \
    CACHESERVER_AUTO_TOKEN=1 \
    CACHESERVER_GRACE=8
USER 10001:10001
WORKDIR /opt/cacheserver
EXPOSE 8080
STOPSIGNAL SIGTERM
# No image without all shared libraries, or with a compiled module, ours or another's, that turns the
# GIL on.
# hadolint ignore=DL4006,SC2046,SC2086
RUN ldd $(find /opt/cacheserver -name '*.so') | awk '/not found/ { print; bad = 1 } END { exit bad }' \
    && compiled=$(cd venv/lib/python3*/site-packages && find cacheserver -name '*.so' | sed 's/\..*//; y|/|.|') \
    && test -n "$compiled" \
    && python -I -c 'import sys, importlib, cacheserver.server; \
[importlib.import_module(name) for name in sys.argv[1:]]; \
sys.exit(sys._is_gil_enabled() and "the GIL is on")' $compiled
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-I", "/opt/cacheserver/healthcheck.py"]
ENTRYPOINT ["cacheserver", "serve"]
