//! Real programs that talk: servers afield with clients at home, clients afield with servers at home, and both.

use afield_e2e::{Case, Mode, Place, cases, check, user_cases};

/// A port that no other test of this run has, and a wait until it is served. The tests' own processes have different numbers.
const PORT: &str = "PORT=$((10000 + $$ % 7000 * 3)); URL=http://127.0.0.1:$PORT; until_served() { until (exec 3<>/dev/tcp/127.0.0.1/${1-$PORT}) 2> /dev/null; do kill -0 $! || break; sleep 0.05; done; }; ";

fn at_home(script: &str) -> Case {
    Case::home_bash(&format!("{PORT}{script}"))
}

fn afield(script: &str) -> Case {
    Case::guest_bash(&format!("{PORT}{script}"))
}

/// A web server's files and configuration; a certificate of an authority of its own.
const WEB: &str = r#"
mkdir www logs; seq 1 1500000 > www/large; echo hello > www/small; head -c 100000 /dev/zero > www/zeros
web() { cat > nginx.conf <<CONF
daemon off; pid nginx.pid; error_log logs/error.log; worker_processes 2; events { worker_connections 400; }
http { keepalive_requests 1000000; access_log logs/access.log; sendfile $1; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; client_max_body_size 50m;
server { listen 127.0.0.1:$PORT; listen unix:$PWD/socket; root www; location = /teapot { return 418 short; }
  location /proxy/ { proxy_pass http://unix:$PWD/socket:/; } location /put { proxy_pass http://127.0.0.1:$PORT/teapot; } } $2 }
CONF
}
"#;

const AUTHORITY: &str = r#"
{ openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 30
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > names; openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out cert.pem -days 30; } 2> /dev/null
"#;

/// Removes what differs from run to run.
const CLEAN: &str = "; rm -rf www logs t? nginx.* socket *.pem *.key *.srl names *.out";

fn web(script: &str) -> Case {
    at_home(&format!("{script}{CLEAN}"))
        .setup("")
        .tools(&["nginx", "curl", "wrk", "ab", "openssl"])
        .seconds(120)
}

user_cases! {
    nginx: web(&format!("{WEB}web on
$AF nginx -p $PWD -c nginx.conf & until_served; curl -s $URL/small; [ $(cat nginx.pid) = $! ] && echo the right pid; curl -s $URL/large | cmp - www/large && echo same
curl -s -o /dev/null -w '%{{http_code}} %{{size_download}}\\n' $URL/zeros $URL/nosuch $URL/teapot; curl -s -r 5-20 $URL/large | md5sum; curl -s --unix-socket socket http://x/small; curl -s $URL/proxy/large | cmp - www/large && echo same by proxy
curl -s -T www/large $URL/put; echo; curl -sZ $URL/large -o 1.out $URL/large -o 2.out $URL/large -o 3.out $URL/large -o 4.out 2> /dev/null; cmp 1.out www/large && cmp 2.out 1.out && cmp 3.out 1.out && cmp 4.out 1.out && echo four
ab -q -n 500 -c 10 $URL/small | grep -E '^(Complete|Failed|Non-2xx|Document Length)'; ab -q -k -n 2000 -c 20 $URL/zeros | grep -E '^(Complete|Failed|Non-2xx|Keep-Alive|HTML)'
kill -HUP $!; for i in $(seq 20); do curl -s $URL/small; done | sort | uniq -c; kill -QUIT $!; wait $!; echo $?; ls nginx.pid; grep -c GET logs/access.log; grep -v notice logs/error.log | sed 's/.*: .[0-9]* //; s/,.*//; s:/.*/www:www:'"));
}

cases! {
    nginx_without_sendfile: web(&format!("{WEB}web off; $AF nginx -p $PWD -c nginx.conf & until_served; curl -s $URL/large | cmp - www/large && echo same; curl -s --limit-rate 30M $URL/large | cmp - www/large && echo same slowly; curl -s -m 0.2 --limit-rate 100k $URL/large > /dev/null; echo $?; curl -s $URL/small; kill $!; wait $!; echo $?"));
    /// Load from home, as much as there can be: nothing may fail.
    nginx_under_load: web(&format!("{WEB}web on; $AF nginx -p $PWD -c nginx.conf & until_served; wrk -t 2 -c 50 -d 3 --timeout 30 $URL/small > wrk.out; grep -E 'Socket errors|Non-2xx' wrk.out; grep -c Requests/sec wrk.out; wrk -t 2 -c 8 -d 2 --timeout 30 $URL/large > wrk.out; grep -E 'Socket errors|Non-2xx' wrk.out; curl -s $URL/large | cmp - www/large && echo same; kill -QUIT $!; wait $!; echo $?"));
    curl_of_home: web(&format!("{WEB}web on; nginx -p $PWD -c nginx.conf & until_served; $AF curl -s $URL/large | cmp - www/large && echo same; $AF curl -s -o 1.out $URL/large -o 2.out $URL/zeros -w '%{{http_code}} %{{size_download}} %{{remote_ip}}\\n'; cmp 1.out www/large; $AF curl -s -T www/large $URL/put; echo; $AF curl -s --unix-socket socket http://x/small; $AF curl -s http://127.0.0.1:1/; echo $?; $AF curl -s -r 5-20 $URL/large | md5sum; $AF ab -q -n 200 -c 5 $URL/small | grep -E '^(Complete|Failed)'; kill $!; wait $!; echo $?"));
    tls_server: web(&format!("{WEB}{AUTHORITY}web on \"server {{ listen 127.0.0.1:$((PORT + 1)) ssl; root www; ssl_certificate cert.pem; ssl_certificate_key key.pem; }}\"
$AF nginx -p $PWD -c nginx.conf & until_served $((PORT + 1)); S=https://localhost:$((PORT + 1)); curl -s --cacert ca.pem $S/large | cmp - www/large && echo same; curl -s --tlsv1.2 --tls-max 1.2 --cacert ca.pem $S/small; curl -s $S/small; echo $?; kill $!; wait $!; echo $?"));
    tls_client: web(&format!("{WEB}{AUTHORITY}web on \"server {{ listen 127.0.0.1:$((PORT + 1)) ssl; root www; ssl_certificate cert.pem; ssl_certificate_key key.pem; }}\"
nginx -p $PWD -c nginx.conf & until_served $((PORT + 1)); S=https://localhost:$((PORT + 1)); $AF curl -s --cacert ca.pem $S/large | cmp - www/large && echo same; $AF curl -s --http1.1 --cacert ca.pem $S/small $S/small; $AF curl -s $S/small; echo $?; echo Q | $AF openssl s_client -connect 127.0.0.1:$((PORT + 1)) -CAfile ca.pem -verify_return_error 2>&1 | grep -E 'Verif(y|ication)'; kill $!; wait $!; echo $?"));
    tls_both: afield(&format!("{WEB}{AUTHORITY}web on \"server {{ listen 127.0.0.1:$((PORT + 1)) ssl; root www; ssl_certificate cert.pem; ssl_certificate_key key.pem; }}\"
nginx -p $PWD -c nginx.conf & until_served $((PORT + 1)); S=https://localhost:$((PORT + 1)); curl -s --cacert ca.pem $S/large | cmp - www/large && echo same; curl -s $S/small; echo $?; kill $!; wait $!; echo $?{CLEAN}")).tools(&["nginx", "curl", "openssl"]).seconds(120);
}

const REDIS: &str = "redis_up() { $1 redis-server --bind 127.0.0.1 --port $PORT --unixsocket $PWD/socket --dir $PWD --save '' --appendonly yes --appendfsync always --loglevel warning > log 2>&1 & until_served; }; redis() { redis-cli -p $PORT \"$@\"; }; ";

user_cases! {
    redis: at_home(&format!("{REDIS}redis_up \"$AF\"; redis set key value; redis get key; redis -s $PWD/socket incr n; for i in $(seq 300); do echo \"set k$i $i$i$i\"; done | redis | sort | uniq -c; head -c 3000000 /dev/zero | tr '\\0' x | redis -x set large; redis strlen large
redis bgsave; while redis info persistence | grep -q bgsave_in_progress:1; do sleep 0.05; done; redis info persistence | grep last_bgsave_status; redis bgrewriteaof; while redis info persistence | grep -q rewrite_in_progress:1; do sleep 0.05; done; redis info persistence | grep last_bgrewrite_status
redis debug digest > before; redis dbsize; redis info server | grep -c process_id:$!; redis multi; redis eval 'return redis.call(\"get\", KEYS[1])' 1 key; redis shutdown; wait $!; echo $?
redis-check-rdb dump.rdb | grep -c 'RDB looks OK'; redis_up; redis debug digest | cmp - before && echo intact; redis shutdown; wait $!; echo $?; rm -rf log before dump.rdb appendonlydir")).tools(&["redis-server", "redis-cli"]).seconds(120);
}

cases! {
    redis_benchmark: at_home(&format!("{REDIS}redis_up \"$AF\"; redis-benchmark -p $PORT -n 5000 -c 20 -q -t ping,set,get,lpush,lrange_100 | sed 's/: .* requests/ requests/; s/,.*//' | tr '\\r' '\\n' | grep -a 'per second' | cut -d: -f1 | sort -u; redis-benchmark -s $PWD/socket -n 20000 -P 16 -c 10 -q -t set,get > /dev/null; echo $?; $AF redis-benchmark -p $PORT -n 1000 -c 10 -q -t set > /dev/null; echo $?; redis dbsize; redis subscribe ch > subscribed 2> /dev/null & W=$!; until redis pubsub numsub ch | grep -q '^1'; do sleep 0.05; done; redis publish ch one; redis publish ch two; redis publish ch three; redis client kill type pubsub; wait $W; cat subscribed; redis shutdown; wait; rm -rf subscribed log appendonlydir")).tools(&["redis-server", "redis-benchmark"]).seconds(120);
    redis_both: afield(&format!("{REDIS}redis_up; for i in $(seq 100); do echo \"set k$i $i\"; done | redis | sort | uniq -c; redis dbsize; redis-benchmark -p $PORT -n 2000 -c 10 -q -t set > /dev/null; echo $?; redis shutdown; wait; rm -rf log appendonlydir")).tools(&["redis-server", "redis-benchmark"]).seconds(120);
}

/// A user of this number has a name only by this library.
const NAMED: &str = "printf 'afield:x:%d:%d::%s:/bin/sh\\n' $(id -u) $(id -g) $PWD > passwd; echo afield:x:$(id -g): > group; export NSS_WRAPPER_PASSWD=$PWD/passwd NSS_WRAPPER_GROUP=$PWD/group LD_PRELOAD=libnss_wrapper.so; ";

fn postgres() -> Case {
    at_home(&format!("PATH=$(echo /usr/lib/postgresql/*/bin):$PATH; {NAMED}
$AF initdb -D data -A trust -U me > log 2>&1; echo initdb $?; echo \"unix_socket_directories='$PWD'
listen_addresses='127.0.0.1'
port=$PORT\" >> data/postgresql.conf; export PGHOST=127.0.0.1 PGPORT=$PORT PGUSER=me PGDATABASE=postgres
$AF postgres -D data >> log 2>&1 & until pg_isready -q; do kill -0 $! || break; sleep 0.1; done
psql -Atc 'select 1 + 1'; psql -h $PWD -Atc \"select count(*) > 50 from pg_catalog.pg_class\"; $AF psql -Atc 'create table t as select i, md5(i::text) from generate_series(1, 20000) i; create index on t(md5); select count(*), sum(i) from t; analyze t'
psql -Atc \"copy t to stdout\" | md5sum; pgbench -q -i -s 1 > /dev/null 2>&1; echo $?; pgbench -c 4 -j 2 -t 50 2>&1 | grep -E 'actually processed|failed transactions'; psql -Atc 'select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts) from pgbench_history'
psql -Atc \"select pid from pg_stat_activity where backend_type = 'client backend'\" | wc -l; (psql -Atc 'select pg_sleep(30)' 2>&1 | head -n 1) & W=$!; until psql -Atc \"select pg_cancel_backend(pid) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'\" | grep -q t; do sleep 0.1; done; wait $W
psql -Atc 'set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set min_parallel_table_scan_size = 0; select count(*) from t where md5 like $$%7%$$'; pg_dump -t t | grep -v restrict | md5sum; $AF pg_ctl -D data stop -m fast -s; wait $!; echo postgres $?; pg_controldata data | grep 'cluster state'; pg_checksums -D data > /dev/null 2>&1; rm -rf data log passwd group"))
    .tools(&["bash"]).needs("/usr/lib/x86_64-linux-gnu/libnss_wrapper.so").needs("/usr/lib/postgresql").seconds(300)
}

/// Only as an ordinary user: it refuses to be root.
fn only_user(name: &str, case: &Case, place: Place) {
    check(
        name,
        case,
        Mode {
            place,
            user: rustix::process::getuid().is_root(),
        },
    );
}

/// Keys, a server's configuration for an ordinary user, and a client's.
const SSH: &str = "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; mkdir in; echo PATH=$PATH > in/environment; printf \"Port $PORT\\nListenAddress 127.0.0.1\\nHostKey $PWD/host\\nAuthorizedKeysFile $PWD/key.pub\\nStrictModes no\\nUsePAM no\\nPidFile $PWD/sshd.pid\\nSubsystem sftp internal-sftp\\nAcceptEnv WORD\\nPrintMotd no\\nPrintLastLog no\\n\" > sshd_config
printf \"Host *\\nPort $PORT\\nUser afield\\nIdentityFile $PWD/key\\nUserKnownHostsFile $PWD/known\\nStrictHostKeyChecking accept-new\\nLogLevel ERROR\\nIdentityAgent none\\n\" > config; seq 1 500000 > large; ";
const SSH_CLEAN: &str = "; rm -rf host* key* sshd* config known large passwd group in log copy";

fn ssh(server: &str, client: &str) -> Case {
    at_home(&format!("{NAMED}{SSH}{server} /usr/sbin/sshd -D -e -f sshd_config 2> log & until_served; S() {{ {client} ssh -F config \"$@\"; }}
S 127.0.0.1 'echo out; echo err >&2; exit 3'; echo $?; echo input | S 127.0.0.1 'tr a-z A-Z; echo $0'; WORD=sent S -o SendEnv=WORD 127.0.0.1 'echo $WORD; cd /; pwd'; S 127.0.0.1 cat $PWD/large | cmp - large && echo same; S 127.0.0.1 \"cat > $PWD/copy\" < large; cmp copy large && echo same
S -tt 127.0.0.1 'tty | cut -c 1-9; stty size; exit 4' < /dev/null; echo $?; {client} scp -q -F config large 127.0.0.1:$PWD/copy; cmp copy large && echo copied; printf 'ls large\\nget large copy\\n' | {client} sftp -q -F config -b - 127.0.0.1; cmp copy large && echo got; S 127.0.0.1 'kill -TERM $$'; echo $?; S 127.0.0.1 sleep 0.1; echo $?
kill $!; wait $!; echo $?{SSH_CLEAN}"))
    .tools(&["ssh", "ssh-keygen"]).needs("/usr/sbin/sshd").needs("/usr/lib/x86_64-linux-gnu/libnss_wrapper.so").seconds(120)
}

cases! {
    /// With all that only root's does: a process without rights, in a directory of its own, serves whoever is not known yet. What the
    /// account's shell does at a login is not what is tried.
    ssh_server_of_root: at_home(&format!("[ $(id -u) = 0 ] || exit 0; mkdir -p -m 755 /run/sshd; {SSH}sed -i 's/^User .*/User root/' config; echo PermitRootLogin yes >> sshd_config; echo SetEnv HOME=$PWD >> sshd_config; $AF /usr/sbin/sshd -D -e -f sshd_config 2> log & until_served; S() {{ ssh -F config \"$@\"; }}
S 127.0.0.1 'echo out; echo err >&2; exit 3'; echo $?; echo input | S 127.0.0.1 'tr a-z A-Z; id -u'; S 127.0.0.1 cat $PWD/large | cmp - large && echo same; S -tt 127.0.0.1 'tty | cut -c 1-9; exit 4' < /dev/null; echo $?; S -i nosuch -o IdentitiesOnly=yes -o IdentityFile=nosuch -o BatchMode=yes 127.0.0.1 true 2> /dev/null; echo $?; scp -q -F config large 127.0.0.1:$PWD/copy; cmp copy large && echo copied; kill $!; wait $!; echo $?; grep -c '^Accepted publickey for root' log{SSH_CLEAN}"))
        .tools(&["ssh", "ssh-keygen"]).needs("/usr/sbin/sshd").seconds(120);
}

macro_rules! user_only {
    ($($(#[$attribute:meta])* $name:ident: $case:expr;)*) => { $(
        $(#[$attribute])*
        mod $name {
            use super::*;
            #[test]
            fn native() { only_user(stringify!($name), &$case, Place::Native); }
            #[test]
            fn embedded() { only_user(stringify!($name), &$case, Place::Embedded); }
            #[test]
            fn tcp() { only_user(stringify!($name), &$case, Place::Tcp); }
        }
    )* };
}

user_only! {
    postgres: postgres();
    ssh_client: ssh("", "$AF");
    ssh_server: ssh("$AF", "");
    ssh_both: ssh("$AF", "$AF");
    /// Further sessions go to the first by way of a UNIX socket, their descriptors with them.
    ssh_shared: at_home(&format!("{NAMED}{SSH}/usr/sbin/sshd -D -e -f sshd_config 2> log & until_served; $AF ssh -F config -M -S $PWD/in/mux -f -N 127.0.0.1 > /dev/null 2>&1; $AF ssh -F config -S $PWD/in/mux -O check 127.0.0.1 2>&1 | sed 's/[0-9]//g'; echo word | $AF ssh -F config -S $PWD/in/mux 127.0.0.1 'cat; echo shared; exit 5'; echo $?; $AF ssh -F config -S $PWD/in/mux 127.0.0.1 cat $PWD/large | cmp - large && echo same; $AF ssh -F config -S $PWD/in/mux -O exit 127.0.0.1 2>&1; kill $!; wait $!; echo $?{SSH_CLEAN}")).tools(&["ssh"]).needs("/usr/sbin/sshd").needs("/usr/lib/x86_64-linux-gnu/libnss_wrapper.so").seconds(120);
    /// A port of home's led through the connection.
    ssh_forward: at_home(&format!("{NAMED}{SSH}mkdir www; cp large www; /usr/sbin/sshd -D -e -f sshd_config 2> log & until_served; P=$!; python3 -m http.server -b 127.0.0.1 -d www $((PORT + 1)) 2> /dev/null & W=$!; until_served $((PORT + 1)); $AF ssh -F config -N -L 127.0.0.1:$((PORT + 2)):127.0.0.1:$((PORT + 1)) 127.0.0.1 & until_served $((PORT + 2)); curl -s http://127.0.0.1:$((PORT + 2))/large | cmp - large && echo same; kill $!; wait $!; kill $W $P; wait; rm -r www{SSH_CLEAN}")).tools(&["ssh", "python3", "curl"]).needs("/usr/sbin/sshd").needs("/usr/lib/x86_64-linux-gnu/libnss_wrapper.so").seconds(120);
}

fn python(script: &str) -> Case {
    Case::guest("python3 script.py; echo $?")
        .setup(&format!("cat > script.py <<'END'\n{script}\nEND\n"))
        .tools(&["python3"])
        .seconds(120)
}

const ASYNCIO: &str = r#"
import asyncio, hashlib, os, socket
async def serve(reader, writer):
    data = await reader.read(-1); writer.write(hashlib.sha256(data).hexdigest().encode()); await writer.drain(); writer.close()
async def call(address, i):
    reader, writer = await (asyncio.open_connection(*address) if isinstance(address, tuple) else asyncio.open_unix_connection(address))
    data = bytes([i % 256]) * (i * 3333); writer.write(data); writer.write_eof(); got = await reader.read(-1); writer.close()
    return got.decode() == hashlib.sha256(data).hexdigest()
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, address): self.transport.sendto(data[::-1], address)
class Client(asyncio.DatagramProtocol):
    def __init__(self): self.done = asyncio.get_running_loop().create_future()
    def connection_made(self, transport): transport.sendto(b"abc" * 1000)
    def datagram_received(self, data, address): self.done.set_result(data == b"cba" * 1000)
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=300); unix = await asyncio.start_unix_server(serve, "u")
    for address in (server.sockets[0].getsockname(), "u"):
        print(sum(await asyncio.gather(*(call(address, i) for i in range(100)))))
    loop = asyncio.get_running_loop(); transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    _, client = await loop.create_datagram_endpoint(Client, remote_addr=transport.get_extra_info("sockname")); print(await client.done)
    try: await asyncio.open_connection("127.0.0.1", 1)
    except OSError as error: print(type(error).__name__)
    a, b = socket.socketpair(); a.setblocking(False); b.setblocking(False)
    await loop.sock_sendall(a, b"x" * 10000); print(len(await loop.sock_recv(b, 20000)))
    open("f", "wb").write(bytes(range(256)) * 4000); l = socket.create_server(("127.0.0.1", 0)); l.setblocking(False); c = socket.socket(); c.setblocking(False)
    _, (s, _) = await asyncio.gather(loop.sock_connect(c, l.getsockname()), loop.sock_accept(l))
    async def drain():
        h = 0
        while data := await loop.sock_recv(s, 65536): h += len(data)
        return h
    async def fill():
        n = await loop.sock_sendfile(c, open("f", "rb")); c.close(); return n
    print(await asyncio.gather(fill(), drain()))
    try: await asyncio.wait_for(loop.sock_recv(b, 1), 0.05)
    except asyncio.TimeoutError: print("timeout")
    server.close(); unix.close(); await server.wait_closed(); os.unlink("u"); os.unlink("f")
asyncio.run(main())
"#;

const MULTIPROCESSING: &str = r#"
import multiprocessing as m, multiprocessing.managers, multiprocessing.connection as mc, multiprocessing.reduction as mr, os, socket, threading
def add(shared, lock, n):
    for _ in range(20):
        with lock: shared["n"] = shared.get("n", 0) + n
def send(connection, fd_of):
    connection.send([1, {"a": b"x" * 100000}]); mr.send_handle(connection, fd_of.fileno(), os.getppid()); connection.close()
def client(address, results):
    with mc.Client(address, authkey=b"key") as c: c.send(os.getpid()); results.put(c.recv() == os.getpid() * 2)
def listen(listener):
    s, _ = listener.accept(); s.sendall(b"accepted by a child"); s.close()
if __name__ == "__main__":
    with m.Manager() as manager:
        shared = manager.dict(); lock = manager.Lock(); ps = [m.Process(target=add, args=(shared, lock, i)) for i in range(1, 4)]
        [p.start() for p in ps]; [p.join() for p in ps]; print(dict(shared), manager.list([1, 2])[1], manager.Namespace(a=3).a)
    a, b = m.Pipe(); r, w = os.pipe(); f = os.fdopen(w, "wb"); p = m.Process(target=send, args=(b, f)); p.start(); got = a.recv(); print(len(got[1]["a"]))
    fd = mr.recv_handle(a); os.write(fd, b"handed"); print(os.read(r, 10)); p.join(); print(p.exitcode)
    for family in ("AF_UNIX", "AF_INET"):
        with mc.Listener(None if family == "AF_UNIX" else ("127.0.0.1", 0), family, authkey=b"key") as l:
            results = m.Queue(); ps = [m.Process(target=client, args=(l.address, results)) for _ in range(4)]; [p.start() for p in ps]
            for _ in ps:
                with l.accept() as c: c.send(c.recv() * 2)
            print([results.get() for _ in ps]); [p.join() for p in ps]
    context = m.get_context("spawn"); l = socket.create_server(("127.0.0.1", 0)); p = context.Process(target=listen, args=(l,)); p.start()
    print(socket.create_connection(l.getsockname()).recv(100)); p.join(); print(p.exitcode)
    with m.Pool(3) as pool: print(pool.map(abs, range(-5, 5)), sum(pool.imap_unordered(abs, range(1000), chunksize=7)))
    a, b = socket.socketpair(); r, w = os.pipe(); socket.send_fds(a, [b"m"], [w, a.fileno()]); _, fds, flags, _ = socket.recv_fds(b, 10, 5); os.write(fds[0], b"z"); print(os.read(r, 1), len(fds), flags)
"#;

/// The server of forks is asked, over a socket of home's, with the pipes of the new process.
const FORKSERVER: &str = r#"
import multiprocessing as m, os, socket, sys, time
def add(shared, lock, n):
    for _ in range(20):
        with lock: shared["n"] = shared.get("n", 0) + n
def talk(connection, l):
    connection.send(connection.recv() * 2); s, _ = l.accept(); s.sendall(b"accepted by a child"); s.close(); sys.exit(3)
def child(q): p = m.get_context("forkserver").Process(target=q.put, args=("of a grandchild",)); p.start(); p.join(); q.put(p.exitcode)
def release(s): s.release()
def die(): os.kill(os.getpid(), 9)
if __name__ == "__main__":
    c = m.get_context("forkserver"); c.set_forkserver_preload(["hashlib"]); q = c.Queue(); s = c.Semaphore(0)
    p = c.Process(target=child, args=(q,)); p.start(); print(q.get(), q.get()); p.join(); print(p.exitcode)
    p = c.Process(target=die); p.start(); p.join(); print(p.exitcode)
    p = c.Process(target=release, args=(s,)); p.start(); print(s.acquire(timeout=30)); p.join()
    a, b = c.Pipe(); l = socket.create_server(("127.0.0.1", 0)); p = c.Process(target=talk, args=(b, l)); p.start(); b.close(); a.send("to and fro ")
    print(a.recv(), socket.create_connection(l.getsockname()).recv(100)); p.join(); print(p.exitcode)
    try: a.recv()
    except EOFError: print("ended")
    with c.Manager() as manager:
        shared = manager.dict(); lock = manager.Lock(); ps = [c.Process(target=add, args=(shared, lock, i)) for i in range(1, 4)]
        [p.start() for p in ps]; [p.join() for p in ps]; print(dict(shared))
    with c.Pool(3) as pool: print(pool.map(abs, range(-5, 5)), sum(pool.imap_unordered(abs, range(1000), chunksize=7)))
    p = c.Process(target=time.sleep, args=(100,)); p.start(); p.terminate(); p.join(); print(p.exitcode)
"#;

const SOCKETSERVER: &str = r#"
import http.client, http.server, os, socket, socketserver, threading, urllib.request, xmlrpc.client, xmlrpc.server
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(b"%d:" % (os.getpid() != parent) + line.upper())
parent = os.getpid()
for kind in (socketserver.TCPServer, socketserver.ThreadingTCPServer, socketserver.ForkingTCPServer, socketserver.ThreadingUnixStreamServer):
    with kind("u" if "Unix" in kind.__name__ else ("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        good = []
        for i in range(5):
            c = socket.socket(server.address_family); c.connect(server.server_address); c.sendall(b"line %d\nmore\n" % i); c.shutdown(1); good.append(b"".join(iter(lambda: c.recv(100), b""))); c.close()
        print(kind.__name__, good[4]); server.shutdown()
os.unlink("u")
class Datagrams(socketserver.BaseRequestHandler):
    def handle(self): self.request[1].sendto(self.request[0] * 2, self.client_address)
with socketserver.UDPServer(("127.0.0.1", 0), Datagrams) as server:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start(); c = socket.socket(type=socket.SOCK_DGRAM); c.sendto(b"x" * 20000, server.server_address); print(len(c.recv(65536))); server.shutdown()
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
open("page", "w").write("content " * 50000)
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start(); url = "http://127.0.0.1:%d/" % server.server_port
    print(urllib.request.urlopen(url + "page").read() == open("page", "rb").read())
    try: urllib.request.urlopen(url + "nosuch")
    except urllib.error.HTTPError as error: print(error.code)
    c = http.client.HTTPConnection("127.0.0.1", server.server_port)
    for _ in range(3): c.request("HEAD", "/page"); r = c.getresponse(); r.read(); print(r.status, r.getheader("Content-Length"))
    server.shutdown()
with xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
    server.register_function(lambda x, y: x ** y, "power"); threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    print(xmlrpc.client.ServerProxy("http://127.0.0.1:%d" % server.server_address[1]).power(2, 20)); server.shutdown()
os.unlink("page")
"#;

const NODE: &str = r#"
const http = require('http'), net = require('net'), dgram = require('dgram'), cluster = require('cluster'), crypto = require('crypto'), fs = require('fs');
const get = (options, body) => new Promise((done, fail) => { const r = http.request(options, res => { const parts = []; res.on('data', p => parts.push(p)); res.on('end', () => done([res.statusCode, Buffer.concat(parts)])); }); r.on('error', fail); r.end(body); });
if (cluster.isPrimary) (async () => {
  const server = http.createServer((q, s) => { const h = crypto.createHash('sha256'); q.on('data', d => h.update(d)); q.on('end', () => { s.statusCode = 201; s.end(h.digest('hex')); }); });
  await new Promise(done => server.listen(0, '127.0.0.1', 500, done)); const port = server.address().port;
  const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });
  const all = await Promise.all([...Array(100).keys()].map(async i => { const body = Buffer.alloc(i * 1000, i), [code, text] = await get({ port, host: '127.0.0.1', method: 'POST', agent }, body); return code === 201 && String(text) === crypto.createHash('sha256').update(body).digest('hex'); }));
  console.log(all.filter(x => x).length); agent.destroy(); server.close();
  try { await get({ port: 1, host: '127.0.0.1' }); } catch (error) { console.log(error.code); }
  const unix = net.createServer(c => c.pipe(c)); await new Promise(done => unix.listen('u', done));
  console.log(await new Promise(done => { const c = net.connect('u'); let n = 0; c.on('data', d => n += d.length); c.on('end', () => done(n)); c.end(Buffer.alloc(3000000)); })); unix.close();
  const one = dgram.createSocket('udp4'), two = dgram.createSocket('udp4'); await new Promise(done => one.bind(0, '127.0.0.1', done)); one.on('message', (m, from) => one.send(m + '!', from.port, from.address));
  console.log(await new Promise(done => { two.on('message', m => done(String(m))); two.send('hi', one.address().port, '127.0.0.1'); })); one.close(); two.close();
  const halfOpen = net.createServer({ allowHalfOpen: true }, c => { c.on('end', () => setTimeout(() => c.end('late'), 20)); c.resume(); }); await new Promise(done => halfOpen.listen(0, done));
  console.log(await new Promise(done => { const c = net.connect(halfOpen.address().port); c.end('x'); c.on('data', d => done(String(d))); })); halfOpen.close();
  // The listener is handed to the workers, and each connection.
  const workers = [cluster.fork(), cluster.fork()]; const ports = await Promise.all(workers.map(w => new Promise(done => w.on('listening', a => done(a.port)))));
  const pids = new Set(); for (let i = 0; i < 20; i++) pids.add(String((await get({ port: ports[0], host: '127.0.0.1', agent: false }))[1])); console.log(ports[0] === ports[1], pids.size);
  for (const w of workers) { const end = new Promise(done => w.on('exit', done)); w.disconnect(); console.log('exit', await end); }
  fs.writeFileSync('f', Buffer.alloc(2000000, 'z')); const files = http.createServer((q, s) => fs.createReadStream('f').pipe(s)); await new Promise(done => files.listen(0, '127.0.0.1', done));
  console.log((await get({ port: files.address().port, host: '127.0.0.1', agent: false }))[1].length); files.close(); fs.unlinkSync('f');
})(); else http.createServer((q, s) => s.end(String(process.pid))).listen(0, '127.0.0.1');
"#;

const GO: &str = r#"
package main
import ("crypto/sha256"; "errors"; "fmt"; "io"; "net"; "net/http"; "net/rpc"; "os"; "strings"; "sync"; "syscall"; "time")
type Math struct{}
func (Math) Square(n int, out *int) error { *out = n * n; return nil }
func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0"); if err != nil { fmt.Println(err); os.Exit(1) }
	mux := http.NewServeMux(); mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) { h := sha256.New(); n, _ := io.Copy(h, r.Body); fmt.Fprintf(w, "%d %x", n, h.Sum(nil)) })
	mux.Handle("/", http.FileServer(http.Dir("."))); server := &http.Server{Handler: mux}; go server.Serve(l); url := "http://" + l.Addr().String()
	var wg sync.WaitGroup; var mu sync.Mutex; good := 0
	for i := 0; i < 100; i++ { wg.Add(1); go func(n int) { defer wg.Done(); body := strings.Repeat("x", n*777); r, err := http.Post(url+"/sum", "text/plain", strings.NewReader(body)); if err != nil { fmt.Println(err); return }; b, _ := io.ReadAll(r.Body); r.Body.Close(); if string(b) == fmt.Sprintf("%d %x", len(body), sha256.Sum256([]byte(body))) { mu.Lock(); good++; mu.Unlock() } }(i) }
	wg.Wait(); fmt.Println(good)
	os.WriteFile("big", make([]byte, 5000000), 0644); r, _ := http.Get(url + "/big"); n, _ := io.Copy(io.Discard, r.Body); fmt.Println(r.StatusCode, n); os.Remove("big")
	q, _ := http.NewRequest("GET", url+"/nosuch", nil); q.Header.Set("Range", "bytes=0-4"); r, _ = http.DefaultClient.Do(q); fmt.Println(r.StatusCode); r.Body.Close()
	_, err = net.Dial("tcp", "127.0.0.1:1"); fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	u, _ := net.Listen("unix", "u"); go func() { for { c, err := u.Accept(); if err != nil { return }; go func() { io.Copy(c, c); c.Close() }() } }()
	c, _ := net.Dial("unix", "u"); go func() { c.Write(make([]byte, 2000000)); c.(*net.UnixConn).CloseWrite() }(); n, _ = io.Copy(io.Discard, c); fmt.Println(n); u.Close()
	p, _ := net.ListenPacket("udp", "127.0.0.1:0"); go func() { b := make([]byte, 100); n, a, _ := p.ReadFrom(b); p.WriteTo([]byte(strings.ToUpper(string(b[:n]))), a) }(); d, _ := net.Dial("udp", p.LocalAddr().String()); d.Write([]byte("datagram")); b := make([]byte, 100); k, _ := d.Read(b); fmt.Println(string(b[:k]))
	x, _ := net.Dial("tcp", l.Addr().String()); x.SetReadDeadline(time.Now().Add(30 * time.Millisecond)); _, err = x.Read(b); fmt.Println(errors.Is(err, os.ErrDeadlineExceeded)); go func() { time.Sleep(20 * time.Millisecond); x.Close() }(); x.SetReadDeadline(time.Time{}); _, err = x.Read(b); fmt.Println(errors.Is(err, net.ErrClosed))
	rl, _ := net.Listen("tcp", "127.0.0.1:0"); rpc.Register(Math{}); go rpc.Accept(rl); rc, _ := rpc.Dial("tcp", rl.Addr().String()); sum := 0; for i := 0; i < 50; i++ { var out int; rc.Call("Math.Square", i, &out); sum += out }; fmt.Println(sum)
	f, _ := c.(*net.UnixConn).File(); fmt.Println(f != nil); is, _ := net.Interfaces(); fmt.Println(len(is) > 0, is[0].Name); as, _ := is[0].Addrs(); fmt.Println(as[0])
	fmt.Println(server.Close())
}
"#;

cases! {
    python_asyncio: python(ASYNCIO);
    python_multiprocessing: python(MULTIPROCESSING);
    python_multiprocessing_forkserver: python(FORKSERVER);
    python_socketserver: python(SOCKETSERVER);
    node: Case::guest("node main.js; echo $?; rm -f u").tools(&["node"]).seconds(120).setup(&format!("cat > main.js <<'END'\n{NODE}\nEND\n"));
    go: Case::guest("./program; echo $?").tools(&["go"]).seconds(240)
        .setup(&format!("cat > main.go <<'END'\n{GO}\nEND\nexport HOME=$PWD GOCACHE=${{TMPDIR%/*}}/go GO111MODULE=off GOFLAGS=-trimpath CGO_ENABLED=0; go build -o program main.go"));
    dbus: Case::guest("dbus-run-session -- sh -c 'dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames | grep -c string; gdbus call --session --dest org.freedesktop.DBus --object-path / --method org.freedesktop.DBus.GetConnectionUnixProcessID org.freedesktop.DBus | cut -c 1-8; (gdbus monitor --session --dest org.freedesktop.DBus > log & echo $! > pid); gdbus emit --session --object-path /a --signal a.b.c 5; gdbus introspect --session --dest org.freedesktop.DBus --object-path / | wc -l; kill $(cat pid); exit 6' 2> /dev/null; echo $?; rm -f log pid").tools(&["dbus-run-session", "dbus-send", "gdbus"]).seconds(120);
    dbus_of_home: Case::home("dbus-run-session -- sh -c '$AF dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner string:org.freedesktop.DBus | tail -n 1; $AF gdbus call --session --dest org.freedesktop.DBus --object-path / --method org.freedesktop.DBus.ListActivatableNames | cut -c 1-3; gdbus emit --session --object-path /a --signal a.b.c 5' 2> /dev/null; echo $?").tools(&["dbus-run-session", "dbus-send", "gdbus"]);
}
