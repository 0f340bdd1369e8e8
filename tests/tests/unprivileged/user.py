"""A user without rights who does all that such a user can do to a guard on the same host.

Arguments: the client to forge, its port, how many namespaces, the address of metrics, and the paths of guard.
Says `ready` and what was reached when all of it goes on, and ends with its standard input.
"""

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time

NEWUSER, NEWNET, PDEATHSIG = 0x10000000, 0x40000000, 1
libc = ctypes.CDLL(None, use_errno=True)
client, port, count, metrics = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].rsplit(":", 1)
paths = sys.argv[5:]
metrics = (metrics[0], int(metrics[1]))
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
# Each in the host's own namespace, beside the threads.
SILENT, PIPELINED, PAUSE = 1000, 32, 0.002


def child(work):
    """A process that does some work, and ends with this one."""
    own = os.getpid()
    if os.fork() == 0:
        libc.prctl(PDEATHSIG, signal.SIGKILL)
        try:
            if os.getppid() == own:
                work()
        finally:
            os._exit(1)


def alias(name, address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8916, struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address)))
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name, 1))


def forge(number, done):
    """A namespace in which the client has connections to the guarded port, the first has hundreds."""
    if libc.unshare(NEWUSER | NEWNET) != 0:
        return
    # More capabilities, if only inside: the kernel forgets what was asked for.
    libc.prctl(PDEATHSIG, signal.SIGKILL)
    alias(b"lo", "127.0.0.1")
    alias(b"lo:1", client)
    server = socket.create_server(("0.0.0.0", 8000), backlog=1000)
    held = []
    for flow in range(300 if number == 0 else 4):
        forged = socket.socket()
        forged.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        forged.bind((client, port))
        forged.connect((f"127.0.{flow // 250}.{flow % 250 + 1}", 8000))
        held += [forged, server.accept()[0]]
    os.write(done, b"x")
    time.sleep(3600)


def entries(path):
    yield path
    try:
        for name in os.listdir(path):
            yield from entries(os.path.join(path, name))
    except OSError:
        return


def lock_all():
    """Locks, of both kinds, on everything of guard's that can be opened."""
    held = []
    for path in paths:
        for place in entries(path):
            try:
                opened = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            held.append(opened)
            for lock in (lambda: fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB),
                         lambda: fcntl.lockf(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)):
                try:
                    lock()
                except OSError:
                    pass
    return held


def to_metrics():
    stream = socket.create_connection(metrics, timeout=1)
    stream.settimeout(0.05)
    return stream


def again(work):
    """Over and over; what is refused is tried again."""
    def loop():
        while True:
            try:
                work()
            except OSError:
                time.sleep(0.01)
    threading.Thread(target=loop, daemon=True).start()


def reset():
    stream = to_metrics()
    stream.sendall(GET)
    time.sleep(0.003)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def keep(many, send):
    """A crowd of connections, each replaced when it is cut off."""
    streams = []

    def round():
        if len(streams) >= many:
            streams.pop(0).close()
        streams.append(to_metrics())
        send(streams[-1])
        # It needs CPUs for other things as well.
        time.sleep(PAUSE)
    return round


def pipeline(stream):
    try:
        while True:
            stream.sendall(100 * GET)
    except socket.timeout:
        pass


def slow_body(stream):
    stream.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nx")


def slow_head(stream):
    stream.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")


def whole(stream):
    stream.sendall(GET)


def control():
    for path in paths:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(path)
            stream.sendall(b"POST /v1/block HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n{")
            time.sleep(0.05)


def descriptors():
    held = []
    try:
        while True:
            held.append(os.pipe())
    except OSError:
        time.sleep(3600)


def flood():
    for _ in range(2):
        again(reset)
    for many, send in [(SILENT, slow_head), (SILENT, slow_body), (PIPELINED, pipeline)]:
        again(keep(many, send))
    again(control)
    time.sleep(3600)


def crowd(send):
    again(keep(SILENT, send))
    time.sleep(3600)


resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
locks = lock_all()
ready, done = os.pipe()
for number in range(count):
    child(lambda: forge(number, done))
child(descriptors)
child(flood)
child(lambda: crowd(lambda stream: None))
child(lambda: crowd(whole))
os.close(done)
made = 0
while made < count and (some := os.read(ready, 1000)):
    made += len(some)
print(f"ready namespaces={made} opened={len(locks)} uid={os.getuid()}", flush=True)
sys.stdin.read()
