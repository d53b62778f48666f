# One image for CPU and GPU: PyTorch's wheel brings CUDA along and finds by itself whether there is a device.
#
#   docker build -t bridle .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" bridle shard recordings/ --modality audio
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" --gpus all --shm-size=8g bridle pretrain
#
# --shm-size: decoding processes hand clips over in /dev/shm, of which Docker gives 64 MB. `bridle doctor` says so too.
# With extras: docker build --build-arg EXTRAS='[onnx,s3]' -t bridle .
FROM python:3.11-slim

ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# Libraries first: a change of the code keeps this layer. The versions are those that the tests ran with.
WORKDIR /opt/bridle
COPY constraints.txt pyproject.toml setup.cfg README.md LICENSE ./
RUN mkdir bridle bridle_cli && echo '__version__ = "0"' > bridle/__init__.py && touch bridle_cli/__init__.py \
    && pip install --constraint constraints.txt ".${EXTRAS}" && pip uninstall --yes bridle && rm -rf bridle bridle_cli build
COPY bridle bridle
COPY bridle_cli bridle_cli
RUN pip install --no-deps . && rm -rf build

# Caches are written below HOME, which whoever --user names must be able to write.
RUN useradd --create-home --uid 1000 bridle && mkdir /work && chown bridle /work && chmod 1777 /home/bridle
ENV HOME=/home/bridle
USER bridle
WORKDIR /work
ENTRYPOINT ["bridle"]
CMD ["--help"]
