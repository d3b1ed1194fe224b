# docker build -t lbproxy .
# docker run --network host -v /etc/lbproxy:/etc/lbproxy:ro lbproxy

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY lbproxy lbproxy
# A wheel first: what is shipped is what the package declares, not whatever lies in the source directory.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# pip of the build stage fills the environment, so that none has to be in it.
RUN python -m venv --without-pip /opt/lbproxy \
 && pip --python /opt/lbproxy/bin/python install --no-cache-dir /wheels/*.whl

FROM python:3.11-slim-bookworm
# Nothing here installs packages any more.
RUN pip uninstall --yes --root-user-action ignore pip setuptools wheel \
 && rm -rf /usr/local/lib/python3.11/ensurepip \
 && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin lbproxy
COPY --from=build /opt/lbproxy /opt/lbproxy
ENV PATH=/opt/lbproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LBPROXY_LIVEZ=http://127.0.0.1:9180/livez
# By number: Kubernetes' runAsNonRoot cannot tell what a name stands for.
USER 10001:10001
# The apiserver's own port, and the default of the admin endpoint (which listens on loopback unless told otherwise).
EXPOSE 6443 9180
# TERM drains: connections have shutdown.drain (30 s by default), so give `docker stop --time` more than that.
STOPSIGNAL SIGTERM
# With `admin.bind` elsewhere, set LBPROXY_LIVEZ; proxies of the environment are not asked.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["python", "-I", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(os.environ['LBPROXY_LIVEZ'], timeout=2)"]
ENTRYPOINT ["lbproxy"]
CMD ["-c", "/etc/lbproxy/lb.yaml"]
