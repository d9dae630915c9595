# SPDX-License-Identifier: GPL-2.0-or-later
"""Run all readers of stolen time in a guest at once, for tools/write-readers, and print their output as JSON.

    python3.11 readers-in-guest.py LOAD INTERVAL ROUNDS

The readers are started together and read ROUNDS times, every INTERVAL seconds. Only the last round is kept,
in which none of them starts any more. LOAD is idle, half (busy and asleep in turn, 10 ms each) or busy.
"""

import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

HALF = """
import time
while True:
    began = time.thread_time()
    while time.thread_time() - began < 0.01:
        sum(range(500))
    time.sleep(0.01)
"""
LOADS = {"busy": "while True: sum(range(2000))", "half": HALF}
PORT = 9100
LINES = 14
WIDTH, HEIGHT = 160, 24


def start(*command: str) -> subprocess.Popen:
    environment = os.environ | {"LC_ALL": "C", "S_TIME_FORMAT": "ISO"}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )


def say(words: str) -> None:
    """Tell the host, which takes its own figures."""
    with open("/dev/console", "w") as console:
        console.write(f"readers: {words}\n")


def stat() -> str:
    with open("/proc/stat") as file:
        return file.readline()


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def scrape() -> str:
    """Return the exporter's counters of CPU time, and before them when they were read."""
    began = now()
    with socket.create_connection(("127.0.0.1", PORT)) as peer:
        peer.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: peer.recv(65536), b"")).decode()
    lines = [line for line in answer.splitlines() if line.startswith("node_cpu_seconds_total")]
    return "\n".join([f"read_at {(began + now()) / 2:.3f}", *lines])


def exporter() -> subprocess.Popen:
    process = start(
        "/usr/bin/prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.cpu",
        f"--web.listen-address=127.0.0.1:{PORT}",
    )
    while True:
        try:
            scrape()
        except OSError:
            time.sleep(0.2)
        else:
            return process


def htop(interval: float, seconds: float, out: dict) -> None:
    """Run htop on a terminal, and keep what it draws once it is told to draw all again."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "linux", "LC_ALL": "C", "COLUMNS": str(WIDTH), "LINES": str(HEIGHT)}
        os.execv("/usr/bin/htop", ["htop", "-C", "-d", str(round(interval * 10))])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    end, again, drawn = time.monotonic() + seconds, False, b""
    while (left := end - time.monotonic()) > 0:
        if left < 0.6 and not again:
            again, drawn = True, b""
            os.write(terminal, b"\x0c")
        if select.select([terminal], [], [], min(left, 0.3))[0]:
            try:
                drawn += os.read(terminal, 65536)
            except OSError:
                break
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    out["htop"] = drawn.decode("latin-1")


def main() -> None:
    load, interval, rounds = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    import psutil

    busy = subprocess.Popen([sys.executable, "-c", LOADS[load]]) if load in LOADS else None
    node = exporter()
    out: dict = {"busy_pid": busy.pid if busy else None}
    every = str(int(interval))
    seconds = interval * (rounds - 1)
    watched = psutil.Process(busy.pid) if busy else None
    processes = {
        "busybox top": start("/bin/busybox", "top", "-b", "-d", every, "-n", str(rounds)),
        "procps top": start("/usr/bin/top", "-b", "-d", every, "-n", str(rounds), "-w", "160"),
        "vmstat": start("/usr/bin/vmstat", every, str(rounds)),
        "mpstat": start("/usr/bin/mpstat", "-u", every, str(rounds - 1)),
    }
    screen = threading.Thread(target=htop, args=(interval, seconds + 1.5, out))
    screen.start()
    time.sleep(seconds - interval)
    say("last round")
    first = scrape()
    psutil.cpu_times_percent(None)
    if watched:
        watched.cpu_percent(None)
    before, clock = stat(), now()
    time.sleep(interval)
    out["/proc/stat"] = before + stat()
    out["elapsed"] = now() - clock
    say("read")
    share = watched.cpu_percent(None) if watched else None
    times = psutil.cpu_times_percent(None)
    out["node_exporter"] = first + "\n\n" + scrape()
    out["psutil"] = json.dumps({**times._asdict(), "process": share})
    screen.join()
    for name, process in processes.items():
        text = process.communicate()[0].decode("latin-1")
        # Of rounds only the last, of processes only those at the top.
        last = re.split(r"^(?=top - |Mem: )", text, flags=re.MULTILINE)[-1]
        out[name] = "\n".join(last.strip().splitlines()[:LINES])
    for process in filter(None, [busy, node]):
        process.kill()
    print(json.dumps(out))


main()
