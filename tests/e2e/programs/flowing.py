# Two ends of several TCP connections, at home and afield, that tell each other over a UNIX socket what they have done: what either sees
# afterwards is the same every time. A seed says what is done.
#
#   flowing.py peer PLACE | flowing.py guest PLACE SEED STEPS
import errno, fcntl, hashlib, os, random, select, socket, struct, sys, termios, time

COUNT = 3


def pattern(start, count):
    return bytes((i * 7 + (i >> 8)) & 255 for i in range(start, start + count))


def pending(s):
    return struct.unpack("i", fcntl.ioctl(s, termios.FIONREAD, b"\0\0\0\0"))[0]


def said(work):
    try:
        value = work()
    except OSError as error:
        return errno.errorcode[error.errno]
    if isinstance(value, bytes):
        return f"{len(value)} {hashlib.sha256(value).hexdigest()[:8]}"
    return str(value)


def meet(place, here):
    if here:
        l = socket.socket(socket.AF_UNIX)
        l.bind(place + ".new"), l.listen(), os.rename(place + ".new", place)
        return l.accept()[0]
    while not os.path.exists(place):
        time.sleep(0.01)
    s = socket.socket(socket.AF_UNIX)
    s.connect(place)
    return s


def peer(control):
    lines = control.makefile("rw")

    def say(what):
        lines.write(f"{what}\n"), lines.flush()

    l = socket.create_server(("127.0.0.1", 0))
    say(l.getsockname()[1])
    ends = [l.accept()[0] for _ in range(COUNT)]
    port = int(lines.readline())
    ends += [socket.create_connection(("127.0.0.1", port)) for _ in range(COUNT)]
    for s in ends:
        s.setblocking(False)
        # Nothing waits for what is not in this program's hands.
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sent = [0] * len(ends)
    say("ready")
    for line in lines:
        what, i, n = line.split()[0], *map(int, line.split()[1:])
        s = ends[i]
        if what == "send":
            answer = said(lambda: s.send(pattern(sent[i], n)))
            sent[i] += n if answer == str(n) else 0
        elif what == "read":
            answer = said(lambda: s.recv(n))
        elif what == "pending":
            answer = said(lambda: pending(s))
        elif what == "shut":
            answer = said(lambda: s.shutdown(socket.SHUT_WR))
        elif what == "urgent":
            answer = said(lambda: s.send(b"!", socket.MSG_OOB))
        elif what == "reset":
            answer = said(lambda: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))
            s.close()
        else:
            answer = said(s.close)
        say(answer)


def guest(control, seed, steps):
    chance = random.Random(seed)
    lines = control.makefile("rw")

    def ask(what, i, n=0):
        lines.write(f"{what} {i} {n}\n"), lines.flush()
        return lines.readline().strip()

    port = int(lines.readline())
    ends = [socket.create_connection(("127.0.0.1", port)) for _ in range(COUNT)]
    l = socket.create_server(("127.0.0.1", 0))
    lines.write(f"{l.getsockname()[1]}\n"), lines.flush()
    ends += [l.accept()[0] for _ in range(COUNT)]
    assert lines.readline() == "ready\n"
    for s in ends:
        s.setblocking(False)
        # Nothing waits for what is not in this program's hands.
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    written = [0] * len(ends)
    # How much may be on its way: all fits into any buffer.
    room = 20000
    there, back = [0] * len(ends), [0] * len(ends)
    gone = set()
    poller, edges = select.epoll(), select.epoll()
    for i, s in enumerate(ends):
        poller.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI)
        edges.register(s, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)

    def number(i, text, of):
        of[i] -= int(text.split()[0]) if text.split()[0].isdigit() else 0
        return text

    def write(i, n):
        data = pattern(written[i], n)
        how = chance.randrange(3)
        s = ends[i]
        answer = said(lambda: [s.send, lambda d: os.write(s.fileno(), d), lambda d: s.sendmsg([d[:5], d[5:]])][how](data))
        if answer == str(n):
            written[i] += n
            back[i] += n
        return f"write {how} {answer}"

    def read(i, n):
        how = chance.randrange(6)
        s = ends[i]
        ways = [
            lambda: s.recv(n),
            lambda: os.read(s.fileno(), n),
            lambda: s.recvmsg(n)[0],
            lambda: s.recv(n, socket.MSG_PEEK),
            lambda: s.recv(n, socket.MSG_DONTWAIT),
            lambda: s.recvfrom(n)[0],
        ]
        answer = said(ways[how])
        return f"read {how} {answer if how == 3 else number(i, answer, there)}"

    for step in range(steps):
        i = chance.randrange(len(ends))
        n = chance.choice([1, 2, 10, 64, 100, 1000, 4096, 9000])
        what = chance.choices(
            ["send", "write", "read", "peer", "poll", "pending", "peers", "option", "blocking", "end"],
            [30, 30, 40, 15, 20, 6, 6, 3, 6, 0.7],
        )[0]
        if what == "send" and i not in gone and there[i] + n <= room:
            answer = ask("send", i, n)
            there[i] += n if answer == str(n) else 0
            answer = f"send {answer}"
        elif what == "write" and back[i] + n <= room:
            answer = write(i, n)
        elif what == "read":
            answer = read(i, n)
        elif what == "peer" and i not in gone:
            answer = f"peer {number(i, ask('read', i, n), back)}"
        elif what == "poll":
            at = {s.fileno(): k for k, s in enumerate(ends)}
            answer = "poll " + " ".join(sorted(f"{at[f]}:{e:x}" for f, e in poller.poll(0)))
        elif what == "pending":
            answer = f"pending {said(lambda: pending(ends[i]))}"
        elif what == "peers" and i not in gone:
            answer = f"peers {ask('pending', i)}"
        elif what == "option":
            answer = said(lambda: ends[i].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, n & 1))
        elif what == "blocking" and there[i] > 0:
            ends[i].setblocking(True)
            answer = f"blocking {number(i, said(lambda: ends[i].recv(n)), there)}"
            ends[i].setblocking(False)
        elif what == "end" and i not in gone:
            way = chance.choice(["shut", "reset", "close", "urgent", "own"])
            if way == "own":
                answer = f"own {said(lambda: ends[i].shutdown(socket.SHUT_WR))}"
            else:
                answer = f"{way} {ask(way, i)}"
                if way in ("reset", "close"):
                    gone.add(i)
        else:
            continue
        print(step, i, n, answer)
    # Every arrival has been told since the last look, and none twice.
    print("edges", len(edges.poll(0)) > 0, edges.poll(0))


if sys.argv[1] == "peer":
    peer(meet(sys.argv[2], True))
else:
    guest(meet(sys.argv[2], False), sys.argv[3], int(sys.argv[4]))
