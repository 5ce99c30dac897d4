# self2self in a container; images are in the folder that is mounted at /images.
#
#     docker build -t self2self .
#     docker run --rm -v "$PWD:/images" self2self denoise photo.png
#
# With an NVIDIA GPU, PyTorch's build for CUDA brings what it needs, so a base without CUDA does, too:
#
#     docker build -t self2self:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#     docker run --rm --gpus all -v "$PWD:/images" self2self:cuda denoise photo.png
#
# For libraries of another base, name it: --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=mnn,formats,report

# Bases of Debian and Ubuntu without Python get theirs.
RUN command -v python3 >/dev/null || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/self2self
ENV PATH=/opt/self2self/bin:$PATH PIP_NO_CACHE_DIR=1 SELF2SELF_CACHE=/tmp/self2self
RUN pip install "torch>=2.7" --index-url "${TORCH_INDEX}"
WORKDIR /source
COPY pyproject.toml LICENSE README.md ./
COPY packaging packaging
COPY self2self self2self
RUN pip install ".[${EXTRAS}]"
WORKDIR /images
ENTRYPOINT ["self2self"]
CMD ["--help"]
