#!/bin/sh
# Starts all three, with the user and password "webtask", and with the certificate in $CERT and $KEY for PostgreSQL.
set -eu
mkdir -p /srv/pg /srv/my
chown postgres /srv/pg
chown mysql /srv/my
echo webtask >/tmp/password
runuser -u postgres -- /usr/local/pgsql/initdb -D /srv/pg -U webtask --pwfile=/tmp/password --auth=scram-sha-256 --no-sync >/dev/null
printf %s "$CERT" >/srv/pg/server.crt
printf %s "$KEY" >/srv/pg/server.key
chown postgres /srv/pg/server.*
chmod 600 /srv/pg/server.key
echo 'host all all all scram-sha-256' >>/srv/pg/pg_hba.conf
runuser -u postgres -- /usr/local/pgsql/postgres -D /srv/pg -c listen_addresses='*' -c unix_socket_directories= -c fsync=off -c ssl=on &
mariadb-install-db --user=mysql --datadir=/srv/my --auth-root-authentication-method=normal --skip-test-db >/dev/null
cat >/tmp/init.sql <<SQL
CREATE DATABASE webtask;
CREATE USER 'webtask'@'%' IDENTIFIED BY 'webtask';
GRANT ALL ON webtask.* TO 'webtask'@'%';
SQL
chmod 644 /tmp/init.sql
mariadbd --no-defaults --user=mysql --datadir=/srv/my --bind-address=0.0.0.0 --socket=/tmp/my.sock --pid-file=/tmp/my.pid --skip-name-resolve --init-file=/tmp/init.sql &
redis-server --bind 0.0.0.0 --protected-mode no --requirepass webtask --save '' &
wait
