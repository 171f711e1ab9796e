# Whole federations on one machine, as a container: docker build -f docker/simulation.Dockerfile -t cdtl .
#   docker run --rm cdtl simulate demo
FROM python:3.11-slim
RUN useradd --create-home cdtl
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY cdtl_core cdtl_core
COPY server server
COPY client client
COPY simulations simulations
COPY configs configs
# A CPU build of torch needs its index: --build-arg PIP_EXTRA_INDEX_URL=...; without it pip takes the CUDA build.
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir .
USER cdtl
WORKDIR /home/cdtl
ENTRYPOINT ["cdtl"]
