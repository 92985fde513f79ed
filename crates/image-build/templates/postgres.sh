#!/bin/sh
# Makes a root image one of Postgres, run outside of it with its directory as $1: settings, how the server is kept
# running and warmed, and the cluster. That is made here and not in a guest: it takes seconds of a real processor, and
# more than a minute of an emulated one. Its identifier is random, so two builds of the image are not the same.
set -eu
umask 022
root=$1
version=17

rm -rf "$root/var/lib/postgresql/$version" "$root/etc/postgresql/$version" "$root/var/log/postgresql" \
    "$root/etc/pgbouncer"
install -d "$root/etc/postgresql" "$root/etc/pgbouncer" "$root/usr/lib/sandflare"
ln -sfn "/usr/lib/postgresql/$version/bin" "$root/usr/lib/sandflare/postgres"

cat >"$root/etc/postgresql/postgresql.conf" <<'END'
# The machine around it is small, belongs to this server alone, and is paused when nobody uses it.
data_directory = '/var/lib/postgresql/data'
hba_file = '/etc/postgresql/pg_hba.conf'
ident_file = '/etc/postgresql/pg_ident.conf'
listen_addresses = '127.0.0.1'
port = 5432
unix_socket_directories = '/run/postgresql'
max_connections = 100
superuser_reserved_connections = 5
huge_pages = off
work_mem = 4MB
maintenance_work_mem = 32MB
# What was answered is on the disk.
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = minimal
max_wal_senders = 0
min_wal_size = 32MB
max_wal_size = 256MB
checkpoint_timeout = 15min
# Little work in the background: each piece of it is memory that a clone no longer shares, and each time somebody wakes
# costs milliseconds where processors are emulated.
bgwriter_delay = 10s
autovacuum_max_workers = 1
autovacuum_naptime = 60s
max_logical_replication_workers = 0
max_parallel_workers_per_gather = 0
jit = off
password_encryption = scram-sha-256
# Queries are counted, without their values; statements that make roles have passwords and are not kept.
shared_preload_libraries = 'pg_stat_statements'
pg_stat_statements.max = 500
pg_stat_statements.track_utility = off
# Nothing that is asked for is in the log.
log_statement = none
# After a crash it is started anew from outside, where its disk is opened to it until it has recovered.
restart_after_crash = off
# What waits to be told to those who listen is not of the disk's limit: 64 MiB of it.
max_notify_queue_pages = 8192
# Who asked and is gone holds no session.
client_connection_check_interval = 5s
log_min_error_statement = panic
log_min_messages = warning
log_checkpoints = off
log_timezone = 'UTC'
timezone = 'UTC'
update_process_title = off
END
cat >"$root/etc/postgresql/pg_hba.conf" <<'END'
# The agent of the machine, which is root, and the pooler may be anybody; the network may be anybody but the superuser.
local all all peer map=sandflare
host all postgres all reject
host all all 127.0.0.1/32 scram-sha-256
END
cat >"$root/etc/postgresql/pg_ident.conf" <<'END'
sandflare root all
sandflare postgres all
END
cat >"$root/etc/pgbouncer/pgbouncer.ini" <<'END'
[databases]
* = host=/run/postgresql port=5432
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir =
auth_type = scram-sha-256
auth_user = pgbouncer
auth_dbname = postgres
auth_query = SELECT usename, passwd FROM public.sandflare_secret($1)
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 10
max_db_connections = 60
max_prepared_statements = 200
ignore_startup_parameters = extra_float_digits
server_idle_timeout = 60
server_login_retry = 1
log_connections = 0
log_disconnections = 0
log_stats = 0
END

cat >"$root/usr/lib/sandflare/postgres-limit" <<'END'
#!/usr/bin/perl
# As root: the limit of what a database takes of its machine's disk, a project quota of the file system. Tables, indexes,
# temporary files and the texts of counted queries are of it. The log that is written ahead is not: it always has room, so
# that a database that is full refuses what would grow it, and neither stops nor breaks.
#
#   postgres-limit take DIRECTORY...  what is there, and what will be, is of it
#   postgres-limit MIB                how much it is
#   postgres-limit on, off            whether it holds; a server runs when it begins to
use strict;
use warnings;

my ($on, $off, $set, $project_quota, $project) = (0x800002, 0x800003, 0x800008, 2, 1);
my ($quotactl_fd, $syncfs, $get_attributes, $set_attributes) = (443, 306, 0x801c581f, 0x401c5820);
my ($inherit, $nofollow_nonblock) = (0x200, 0x20800);
# LIMIT: files of one database. The file system has 524288, and the log needs some.
my $files_max = 400000;

sub opened {
    my ($path) = @_;
    sysopen(my $file, $path, $nofollow_nonblock) or die "open $path: $!\n";
    return $file;
}

sub take {
    my ($path) = @_;
    my ($file, $attributes) = (opened($path), "\0" x 28);
    ioctl($file, $get_attributes, $attributes) or die "look at $path: $!\n";
    my ($flags, $extent, undef, undef, $copied) = unpack('L5', $attributes);
    my $directory = -d $file;
    $flags |= $inherit if $directory;
    ioctl($file, $set_attributes, pack('L5x8', $flags, $extent, 0, $project, $copied)) or die "take $path: $!\n";
    return if !$directory;
    opendir(my $entries, $path) or die "read $path: $!\n";
    take("$path/$_") for grep { $_ ne '.' && $_ ne '..' } readdir($entries);
}

my $disk = opened('/var/lib/postgresql');
sub control {
    my ($command, $limits) = (@_, 0);
    return syscall($quotactl_fd, fileno($disk), $command << 8 | $project_quota, $project, $limits) == 0;
}

sub off {
    # It may be so already.
    control($off) or $!{EEXIST} or die "turn the limit off: $!\n";
}

my ($what, @directories) = @ARGV;
if ($what eq 'take') {
    take($_) for @directories;
} elsif ($what eq 'off') {
    off();
} elsif ($what eq 'on') {
    # Where sorts write. Whoever needs it first makes it otherwise, which a full disk would not let them.
    my $sorts = '/var/lib/postgresql/data/base/pgsql_tmp';
    if (mkdir($sorts, 0700)) {
        my (undef, undef, $user, $group) = getpwnam('postgres');
        chown($user, $group, $sorts) or die "give $sorts away: $!\n";
    }
    # After a start, and after some work on catalogs, the next session writes down what the ones after it read, and is
    # ended when it cannot. This one can.
    off();
    system('/usr/lib/sandflare/postgres/psql', '--no-psqlrc', '--quiet', '--output=/dev/null', '--host=/run/postgresql',
        '--username=postgres', '--dbname=main', '--command=SELECT 1');
    control($on) or $!{EEXIST} or die "turn the limit on: $!\n";
} elsif ($what =~ /^[1-9][0-9]{0,6}$/) {
    # In KiB, then files; which of them are set is last.
    control($set, pack('Q8Lx4', $what * 1024, 0, 0, $files_max, 0, 0, 0, 0, 1 | 4)) or die "set the limit: $!\n";
    syscall($syncfs, fileno($disk)) == 0 or die "bring the limit to the disk: $!\n";
} else {
    die "usage: postgres-limit take DIRECTORY... | MIB | on | off\n";
}
END

# The node's own way in: a session of the superuser's that is open already, so that what a new database is asked
# first waits for no new process of the server. Its socket is in a directory that only the server's user and root may
# enter. Sessions never end by themselves: a clone's clock may be months ahead of theirs. What they insist on is said
# when they begin: the owner of a database may give it other settings.
cat >"$root/etc/pgbouncer/node.ini" <<'END'
[databases]
main = host=/run/postgresql port=5432 user=postgres min_pool_size=1 pool_size=4 connect_query='SET search_path = public; SET default_transaction_read_only = off; SET statement_timeout = 0; SET lock_timeout = 10000'
[pgbouncer]
listen_addr =
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 100
ignore_startup_parameters = extra_float_digits
server_lifetime = 1000000000
server_idle_timeout = 0
server_check_query =
server_login_retry = 1
log_connections = 0
log_disconnections = 0
log_stats = 0
END

cat >"$root/usr/lib/sandflare/postgres-begin" <<'END'
#!/bin/sh
# As root: makes what is gone after every boot.
set -eu
install -d -o postgres -g postgres -m 0755 /run/postgresql
install -d -o postgres -g postgres -m 0700 /run/sandflare-node
# Who runs programs while a dump is restored is nobody, and fills no disk.
chmod 0755 /tmp /var/tmp
# No server runs yet: what one before the last boot left says nothing.
rm -f /var/lib/postgresql/data/postmaster.pid
limited=/var/lib/postgresql/limited
[ -e $limited ] && exit
/usr/lib/sandflare/postgres-limit take /var/lib/postgresql/data/base /var/lib/postgresql/data/pg_stat_tmp
# Of 8 GiB, so that the system and the log have the rest.
/usr/lib/sandflare/postgres-limit 6144
touch $limited
END
cat >"$root/usr/lib/sandflare/postgres-run" <<'END'
#!/bin/sh
# As root: the server as postgres, with an eighth of the machine's memory as its cache, up to a GiB. Its disk is limited
# as soon as it takes connections, and not before: while it recovers it may make again what it removes later, and one that
# could not would never be ready.
set -eu
limit=/usr/lib/sandflare/postgres-limit
$limit off
# Nobody's child, so that the server finds none that it does not know.
( ( until /usr/lib/sandflare/postgres-ready; do sleep 0.3; done; $limit on ) & )
while read -r name value _; do
    [ "$name" = MemTotal: ] && kib=$value
done </proc/meminfo
buffers=$((kib / 8 < 1048576 ? kib / 8 : 1048576))
cd /
exec setpriv --reuid=postgres --regid=postgres --init-groups \
    /usr/lib/sandflare/postgres/postgres --config-file=/etc/postgresql/postgresql.conf \
    -c "shared_buffers=${buffers}kB" -c "effective_cache_size=$((kib / 2))kB"
END
cat >"$root/usr/lib/sandflare/postgres-ready" <<'END'
#!/bin/sh
# As root: whether the server takes connections.
exec /usr/lib/sandflare/postgres/pg_isready --quiet --host=/run/postgresql
END
cat >"$root/usr/lib/sandflare/pooler" <<'END'
#!/usr/bin/perl
# pooler CONFIGURATION PORT|SOCKET: a pooler on a port of loopback or a Unix socket, which stands still while nobody is
# connected to it: by itself it wakes three times a second, in every database there is. It is given the socket it listens
# on, so that whoever comes meanwhile is let in by the kernel, and wakes it.
use strict;
use warnings;
use POSIX ();
use Socket;

my ($configuration, $where) = @ARGV;
# Seconds between two looks for somebody while it is awake.
my $look_s = 5;
# Where the pooler looks for its socket: sd_listen_fds(3).
my $first_given = 3;

my $port = $where =~ /^[0-9]+$/ ? $where : undef;
my ($family, $address) =
    defined $port ? (PF_INET, pack_sockaddr_in($port, INADDR_LOOPBACK)) : (PF_UNIX, pack_sockaddr_un($where));
unlink($where) if !defined $port;
socket(my $listening, $family, SOCK_STREAM, 0) or die "make a socket: $!\n";
setsockopt($listening, SOL_SOCKET, SO_REUSEADDR, 1) or die "set up a socket: $!\n";
bind($listening, $address) or die "take $where: $!\n";
listen($listening, SOMAXCONN) or die "listen: $!\n";

my $pooler = fork() // die "make a process: $!\n";
if ($pooler == 0) {
    chdir('/');
    if (fileno($listening) == $first_given) {
        fcntl($listening, POSIX::F_SETFD(), 0);
    } else {
        POSIX::dup2(fileno($listening), $first_given) // die "give a socket: $!\n";
    }
    @ENV{qw(LISTEN_PID LISTEN_FDS)} = ($$, 1);
    exec('/usr/sbin/pgbouncer', '--quiet', $configuration) or POSIX::_exit(127);
}
# Whoever is told to end passes it on, and ends when the pooler has.
my $ending = 0;
$SIG{$_} = sub { $ending = 1; kill('CONT', $pooler); kill($_[0], $pooler) } for qw(INT TERM);
# The end of the pooler interrupts every wait.
$SIG{CHLD} = sub { };

# Whether somebody is connected, or was a moment ago and has not been seen off.
sub connected {
    open(my $table, '<', defined $port ? '/proc/net/tcp' : '/proc/net/unix') or return 1;
    my $local = defined $port ? sprintf('0100007F:%04X', $port) : $where;
    while (my $line = <$table>) {
        my @columns = split(' ', $line);
        if (defined $port) {
            # All but those that listen (0A) and those that only wait for stray packets (06).
            return 1 if $columns[1] eq $local && $columns[3] ne '0A' && $columns[3] ne '06';
        } else {
            # All but the one that listens, which alone says that it takes connections.
            return 1 if ($columns[7] // '') eq $local && $columns[3] ne '00010000';
        }
    }
    return 0;
}

my $end;
sub ended {
    $end = $? if !defined $end && waitpid($pooler, POSIX::WNOHANG()) != 0;
    return defined $end;
}

while (!ended()) {
    select(undef, undef, undef, $look_s);
    next if $ending || connected();
    kill('STOP', $pooler);
    # Whoever came in between is connected by now, and is seen here.
    if (!connected()) {
        vec(my $listening_alone = '', fileno($listening), 1) = 1;
        # A signal ends the wait; that of an end that came just before it does not.
        1 while !$ending && !ended() && select(my $readable = $listening_alone, undef, undef, 60) <= 0;
    }
    kill('CONT', $pooler);
}
exit($end >> 8 || 1);
END
cat >"$root/usr/lib/sandflare/pgbouncer-run" <<'END'
#!/bin/sh
# As postgres: the pooler.
exec /usr/lib/sandflare/pooler /etc/pgbouncer/pgbouncer.ini 6432
END
cat >"$root/usr/lib/sandflare/pgbouncer-ready" <<'END'
#!/bin/sh
# As root: whether the pooler takes connections.
exec /usr/lib/sandflare/postgres/pg_isready --quiet --host=127.0.0.1 --port=6432
END
cat >"$root/usr/lib/sandflare/node-pool-run" <<'END'
#!/bin/sh
# As postgres: the pooler of the node's sessions.
exec /usr/lib/sandflare/pooler /etc/pgbouncer/node.ini /run/sandflare-node/.s.PGSQL.6433
END
cat >"$root/usr/lib/sandflare/node-pool-ready" <<'END'
#!/bin/sh
# As root: whether it takes connections.
exec /usr/lib/sandflare/postgres/pg_isready --quiet --host=/run/sandflare-node --port=6433
END
cat >"$root/usr/lib/sandflare/postgres-warm" <<'END'
#!/bin/sh
# As root, with both running: goes the ways that a new database goes first, and leaves nothing but what that brought
# into memory.
set -eu
cd /
# Whoever started the server does it a moment later; no clone is to begin without.
/usr/lib/sandflare/postgres-limit on
psql="/usr/lib/sandflare/postgres/psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --output=/dev/null"
export PGOPTIONS='-c client_min_messages=warning'
as_root() { PGHOST=/run/postgresql PGUSER=$1 $psql --dbname=main; }
as_root postgres <<'SQL'
CREATE ROLE warm LOGIN PASSWORD 'warm' IN ROLE owner;
ALTER ROLE warm SET role = 'owner';
CREATE EXTENSION IF NOT EXISTS vector;
SQL
PGOPTIONS='' as_root warm <<'SQL'
BEGIN;
CREATE TABLE warm (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT now(), data jsonb, v vector(3));
INSERT INTO warm (data, v) SELECT jsonb_build_object('n', n), '[1,2,3]' FROM generate_series(1, 100) n;
UPDATE warm SET data = data || '{"m": 1}' WHERE id < 10;
SELECT * FROM warm WHERE data ->> 'n' = '5' ORDER BY v <-> '[1,1,1]' LIMIT 5 FOR UPDATE SKIP LOCKED;
DROP TABLE warm;
COMMIT;
SQL
for port in 5432 6432; do
    for _ in 1 2 3; do
        echo 'SELECT 1;' | PGOPTIONS='' PGHOST=127.0.0.1 PGPORT=$port PGUSER=warm PGPASSWORD=warm $psql --dbname=main
    done
done
as_root postgres <<'SQL'
ALTER ROLE warm PASSWORD NULL;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'warm';
REASSIGN OWNED BY warm TO owner;
DROP OWNED BY warm;
DROP ROLE warm;
SELECT pg_stat_reset();
VACUUM (ANALYZE);
SQL
# In the session that the node's own requests will find: what they need is in its memory then.
PGOPTIONS='' PGHOST=/run/sandflare-node PGPORT=6433 PGUSER=postgres $psql --dbname=main <<'SQL'
BEGIN;
CREATE ROLE warm LOGIN IN ROLE owner;
ALTER ROLE warm SET role = 'owner';
UPDATE pg_catalog.pg_authid SET rolpassword = 'warm' WHERE rolname::text OPERATOR(pg_catalog.=) 'warm'::text;
DROP ROLE warm;
COMMIT;
SQL
PGHOST=/run/postgresql PGUSER=postgres $psql --dbname=postgres <<'SQL'
SELECT pg_stat_statements_reset();
CHECKPOINT;
SQL
# A clone begins with poolers that stand still.
awake() { grep -lx 'Name:.pgbouncer' /proc/[0-9]*/status 2>/dev/null | xargs -r grep -L '^State:.T'; }
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    [ -n "$(awake)" ] || break
    sleep 1
done
END
cat >"$root/usr/lib/sandflare/postgres-touch" <<'END'
#!/bin/sh
# As root, in a clone: what the node does first in a new one, but for good.
set -eu
cd /
export PGHOST=/run/sandflare-node PGPORT=6433 PGUSER=postgres
exec /usr/lib/sandflare/postgres/psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --dbname=main <<'SQL'
BEGIN;
CREATE ROLE touch LOGIN IN ROLE owner;
ALTER ROLE touch SET role = 'owner';
UPDATE pg_catalog.pg_authid SET rolpassword = 'touch' WHERE rolname::text OPERATOR(pg_catalog.=) 'touch'::text;
COMMIT;
SQL
END
chmod 0755 "$root"/usr/lib/sandflare/postgres-* "$root"/usr/lib/sandflare/pooler "$root"/usr/lib/sandflare/*-run "$root"/usr/lib/sandflare/*-ready

as_postgres() { chroot "$root" setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
chroot "$root" install -d -o postgres -g postgres -m 0755 /run/postgresql
as_postgres /usr/lib/sandflare/postgres/initdb --pgdata=/var/lib/postgresql/data --username=postgres --no-sync \
    --data-checksums --encoding=UTF8 --locale=C.UTF-8 --locale-provider=builtin --builtin-locale=C.UTF-8 \
    --auth-local=peer --auth-host=scram-sha-256 --no-instructions >/dev/null
as_postgres /usr/lib/sandflare/postgres/pg_ctl start --wait --silent --pgdata=/var/lib/postgresql/data \
    --options="--config-file=/etc/postgresql/postgresql.conf -c listen_addresses= -c dynamic_shared_memory_type=mmap"
# What every database has. `owner` owns all of it and never logs in; the roles that do are members of it and act as
# it, so that what one of them makes is everybody's. `reader` reads all that it owns.
PGHOST=/run/postgresql PGUSER=postgres PGOPTIONS='-c client_min_messages=warning' \
    chroot "$root" /usr/lib/sandflare/postgres/psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --dbname=template1 <<'SQL'
CREATE EXTENSION vector;
CREATE ROLE owner NOLOGIN;
CREATE ROLE reader NOLOGIN;
CREATE ROLE pgbouncer LOGIN;
-- Who may only read makes no large objects either.
DO $$ DECLARE f regprocedure; BEGIN
    FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN
        ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lo_truncate', 'lo_truncate64', 'lo_unlink', 'lowrite')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO owner', f);
    END LOOP;
END $$;
VACUUM (FREEZE, ANALYZE);
CREATE DATABASE main OWNER owner;
REVOKE ALL ON DATABASE main, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE main TO PUBLIC;
GRANT CONNECT ON DATABASE postgres TO pgbouncer;
\connect main
-- Not `pg_read_all_data`, which reads what passwords are checked with too.
ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT ON TABLES TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT ON SEQUENCES TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT USAGE ON SCHEMAS TO reader;
\connect postgres
-- Counts the queries of all databases, and is seen from this one alone: nothing of it is in a dump of `main`.
CREATE EXTENSION pg_stat_statements;
-- How the pooler finds what a password is checked with.
CREATE FUNCTION public.sandflare_secret(wanted text) RETURNS TABLE (usename name, passwd text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT rolname, rolpassword FROM pg_authid
    WHERE rolname = wanted AND rolcanlogin AND NOT rolsuper AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
$$;
REVOKE ALL ON FUNCTION public.sandflare_secret FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.sandflare_secret TO pgbouncer;
SQL
as_postgres /usr/lib/sandflare/postgres/pg_ctl stop --wait --silent --mode=fast --pgdata=/var/lib/postgresql/data
rm -rf "$root/run/postgresql"
