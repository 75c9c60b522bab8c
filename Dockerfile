# hb-serve on the CPU. Never built or run: there was no Docker where this was written.
#
#   docker build -t hb-serve .
#   docker run -p 127.0.0.1:8765:8765 -v hb-data:/data -e HUMMINGBIRD_TOKEN=SECRET hb-serve
FROM python:3.12-slim

COPY . /source
RUN pip install --no-cache-dir "/source[serve]" && rm -r /source \
 && useradd --create-home hummingbird \
 && install -d -o hummingbird -g hummingbird /data

USER hummingbird
ENV HUMMINGBIRD_CACHE=/data/cache HUMMINGBIRD_STATE=/data/state
VOLUME /data
EXPOSE 8765
# It needs no token.
HEALTHCHECK CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8765/healthz', timeout=5)"]
# A container's port is reached from outside it: without HUMMINGBIRD_TOKEN this refuses to start.
ENTRYPOINT ["hb-serve", "--host", "0.0.0.0", "--data", "/data/serve"]
