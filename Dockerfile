# One image for every role: `assistants serve` (the default), `assistants api`, `assistants worker`. It writes nowhere but
# to /data, and there only with SQLite, and to /tmp, where a worker puts a file while it reads it: run it with a read-only
# root file system, and a tmpfs for /tmp (exec, as pdfium is loaded from there).

FROM python:3.13-slim AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/assistants UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /build
# The dependencies first: they change less often than the code.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --extra code --no-install-project
COPY . .
RUN uv sync --frozen --no-dev --extra code --no-editable

FROM python:3.13-slim
# No shell account, no home, and no pip: nothing is installed in here any more.
RUN pip uninstall --yes --no-cache-dir pip \
    && groupadd --system --gid 10001 assistants \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin assistants \
    && install --directory --owner 10001 --group 10001 /data \
    # Each interpreter of code_interpreter finds its own folder there: infra/sandbox/data_folder.py
    && ln --symbolic /proc/self/fd/9 /mnt/data
COPY --from=build /opt/assistants /opt/assistants
# Bytecode is there already, and the root file system may be read-only.
ENV PATH=/opt/assistants/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT=8000 STORAGE=sqlite:////data/assistants.db
USER 10001:10001
VOLUME /data
EXPOSE 8000
# HOST is open to others in here, so the API starts only with keys: docs/authentication.md
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/ready', timeout=2)"]
CMD ["assistants", "serve"]
