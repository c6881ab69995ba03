# Stands in for node:26-bookworm-slim where no registry is reachable: a debootstrapped Debian, plus Node and npm as npm publishes them.
ARG DEBIAN
FROM ${DEBIAN}
RUN apt-get update && apt-get upgrade -y && apt-get install -y --no-install-recommends libatomic1 \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
  && groupadd --gid 1000 node && useradd --uid 1000 --gid node --shell /bin/sh --create-home node
COPY --from=node --chmod=755 node /usr/local/bin/node
COPY --from=npm . /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm && node --version && npm --version
CMD ["node"]
