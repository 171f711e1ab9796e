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
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu .
USER cdtl
WORKDIR /home/cdtl
ENTRYPOINT ["cdtl"]
