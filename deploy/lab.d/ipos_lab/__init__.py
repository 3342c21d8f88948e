"""The parts of `deploy/lab`; standard library only, so that Debian's own python3 runs it."""
