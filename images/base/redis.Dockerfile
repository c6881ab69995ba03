# Stands in for redis:8-bookworm where no registry is reachable: Debian's Redis, started the way the official image starts its own.
ARG DEBIAN
FROM ${DEBIAN}
RUN groupadd --system --gid 999 redis && useradd --system --uid 999 --gid redis --home-dir /data --no-create-home redis \
  && apt-get update && apt-get upgrade -y && apt-get install -y --no-install-recommends redis-server \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && mkdir /data && chown redis:redis /data
COPY --chmod=755 redis-entrypoint.sh /usr/local/bin/redis-entrypoint
VOLUME /data
WORKDIR /data
EXPOSE 6379
ENTRYPOINT ["redis-entrypoint"]
CMD ["redis-server"]
