"""What a worker may be asked to do; in a module of its own, as processes import it."""

import os
import signal
import time


def obey(word: str) -> str:
    """Crash, hang, take all memory or raise by name; else answer."""
    if word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "leave":
        os._exit(7)
    if word == "hang":
        time.sleep(60)
    if word == "memory":
        return str(len(bytearray(1 << 40)))
    if word == "raise":
        raise ValueError("oops")
    return word.upper()
