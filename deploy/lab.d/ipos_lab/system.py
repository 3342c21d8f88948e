"""Running programs, keeping daemons by pid file, waiting for what must become true, and the lab's lock."""

import contextlib
import os
import signal
import socket
import subprocess
import time

from . import plan

LOG_TAIL_LINES = 15
STOP_DEADLINE_S = 5.0
LOCK_DEADLINE_S = 120.0


class LabError(Exception):
    """What failed, where, and how to mend it; printed as it is."""


def run(*command, check=True, text=None):
    """Runs a program to its end and returns its standard output; its failure is a LabError that quotes it."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or "(it said nothing)"
        raise LabError(f"`{' '.join(command)}` failed ({done.returncode}): {said}")
    return done.stdout


def inside(namespace, *command, check=True):
    """Runs a program inside a namespace."""
    return run("ip", "netns", "exec", namespace, *command, check=check)


def log_tail(path):
    """The last lines of a log, for an error message."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()[-LOG_TAIL_LINES:]
    except OSError:
        return f"(no log at {path})"
    return f"the last lines of {path}:\n" + "\n".join("    " + line for line in lines or ["(empty)"])


def wait_until(what, probe, deadline_s, daemon=None):
    """Asks `probe` until it returns something true, and returns that; the daemon that it waits for must stay alive."""
    end = time.monotonic() + deadline_s
    while True:
        answer = probe()
        if answer:
            return answer
        tail = "\n" + log_tail(daemon.log) if daemon else ""
        if daemon and not daemon.alive():
            raise LabError(f"{daemon.name} ended before {what}; {tail.strip()}")
        if time.monotonic() > end:
            raise LabError(f"not within {deadline_s:.0f} s: {what}{tail}")
        time.sleep(0.03)


def _start_ticks(pid):
    """When a process started, in clock ticks since boot; None when there is none.

    A zombie is none, unless other threads of it still hold its files and ports while they end.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        gone = fields[0] in "ZX" and os.listdir(f"/proc/{pid}/task") == [str(pid)]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if gone else int(fields[19])


class Daemon:
    """A program that stays: its pid file holds pid and start time, so that a reused pid is never taken for it."""

    def __init__(self, name, log=None):
        self.name = name
        self.log = log or f"{plan.ROOT}/{name}.log"
        self.pid_file = f"{plan.PIDS}/{name}.pid"

    def _recorded(self):
        try:
            with open(self.pid_file, encoding="ascii") as file:
                pid, started = file.read().split()
            return int(pid), int(started)
        except (FileNotFoundError, ValueError):
            return None, None

    def pid(self):
        """Its pid while it runs, else None."""
        pid, started = self._recorded()
        return pid if pid and _start_ticks(pid) == started else None

    def alive(self):
        """Whether it runs."""
        return self.pid() is not None

    def start(self, namespace, *command, env=None, directory=None):
        """Starts it inside a namespace, in a session of its own, its output appended to its log."""
        if self.alive():
            raise LabError(f"{self.name} runs already (pid {self.pid()})")
        with open(self.log, "ab") as log, open(os.devnull, "rb") as nothing:
            # `ip netns exec` becomes the program, so this is the program's own pid.
            child = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *command],
                stdin=nothing, stdout=log, stderr=log, start_new_session=True, cwd=directory or "/",
                env={**os.environ, **(env or {})})
        started = _start_ticks(child.pid)
        if started is None:
            raise LabError(f"{self.name} ended at once; {log_tail(self.log)}")
        with open(self.pid_file, "w", encoding="ascii") as file:
            file.write(f"{child.pid} {started}\n")
        # Not waited for: it outlives this program. Forgetting the object would warn about that.
        child.returncode = 0
        return self

    def stop(self, first=signal.SIGTERM, deadline_s=STOP_DEADLINE_S):
        """Ends it and its children: asks, waits, insists. Returns (seconds it took, whether asking was enough)."""
        begin = time.monotonic()
        pid = self.pid()
        willing = True
        if pid is not None:
            _signal_group(pid, first)
            willing = _wait_gone([pid], deadline_s)
            _signal_group(pid, signal.SIGKILL)  # children that the parent left behind
            # Each of them has the sockets that its parent had: until the last is gone, somebody listens.
            _wait_gone([pid, *_group(pid)], STOP_DEADLINE_S)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.pid_file)
        return time.monotonic() - begin, willing


def _group(number):
    """The processes of a process group that have not ended."""
    found = []
    for word in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{word}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if int(fields[2]) == number and _start_ticks(int(word)) is not None:
            found.append(int(word))
    return found


def _signal_group(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _wait_gone(pids, deadline_s):
    """Whether all of them ended in time."""
    end = time.monotonic() + deadline_s
    while True:
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if all(_start_ticks(pid) is None for pid in pids):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.01)


def end_processes(pids):
    """Ends processes by pid: asks, waits a second, insists."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if _wait_gone(pids, 1.0):
            return


@contextlib.contextmanager
def lock():
    """One `up`, `down` or daemon verb at a time on this machine. An abstract socket leaves no file behind."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end = time.monotonic() + LOCK_DEADLINE_S
    said = False
    while True:
        try:
            held.bind("\0ipos-lab")
            break
        except OSError:
            if time.monotonic() > end:
                raise LabError("another `deploy/lab` has been at work for two minutes; wait for it, or end it") from None
            if not said:
                print("waiting for another `deploy/lab` to finish ...", flush=True)
                said = True
            time.sleep(0.05)
    try:
        yield
    finally:
        held.close()
