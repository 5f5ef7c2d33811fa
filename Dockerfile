# SPDX-License-Identifier: Apache-2.0
# docker build -t owl3 .   runs on a CPU, and on NVIDIA GPUs with `docker run --gpus all`.
# A GPU image that brings its own torch (2.11 or newer), Transformer Engine or apex:
#   docker build -t owl3 --build-arg BASE=IMAGE --build-arg TORCH= .
ARG BASE=python:3.11-slim
FROM ${BASE}

# FlexAttention and Triton compile kernels at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /workspace/owl3
ARG TORCH=torch==2.13.0
RUN if [ -n "${TORCH}" ]; then pip install --no-cache-dir "${TORCH}"; fi
# Before the code: an edit to it does not install everything again.
COPY requirements/ requirements/
RUN pip install --no-cache-dir -r requirements/lock.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
CMD ["owl", "--help"]
