"""Whose code uses a process's CPU: a thread that looks at all others now and then.

At moments drawn at random, about `RATE_HZ` a second, the CPU time that each Python thread has used
since the last look is put down to the package whose code the thread is in: the innermost frame
that is not of the standard library. Threads that wait use no CPU and count nothing. Threads
without Python (torch's) count in the total only. What the sampler itself costs is measured and
taken out of the total.
"""

from __future__ import annotations

import random
import sys
import sysconfig
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Final

import safekv

RATE_HZ: Final = 20.0
OURS: Final = str(Path(safekv.__file__).resolve().parent) + "/"
STANDARD: Final = sysconfig.get_path("stdlib") + "/"
SITE: Final = sysconfig.get_path("purelib") + "/"
OTHER: Final = "other"
DEEPEST: Final = 200


def owner(frame: FrameType | None) -> str:
    """`safekv.<package>` for a frame of ours, else `other`. Calls into a library are its own."""
    for _ in range(DEEPEST):
        if frame is None:
            return OTHER
        name = frame.f_code.co_filename
        if name.startswith(OURS):
            package, slash, _ = name.removeprefix(OURS).partition("/")
            return f"safekv.{package}" if slash else "safekv"
        if not _transparent(name):
            return OTHER
        frame = frame.f_back
    return OTHER


def _transparent(name: str) -> bool:
    """Whether a file is of the standard library, whose work is done for its caller."""
    return name.startswith(("<frozen", "<string")) or (
        name.startswith(STANDARD) and not name.startswith(SITE) and "site-packages" not in name
    )


def thread_cpu_s(native_id: int) -> float | None:
    """The CPU seconds of a thread of this process, `None` when it is gone or that is not Linux."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        # The kernel's name for the CPU clock of one thread (CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED).
        # pthread_getcpuclockid gives the same, but crashes for a thread that has just ended.
        return time.clock_gettime((~native_id << 3) | 6)
    except OSError:
        return None


class Sampler:
    """Watches the process it runs in. Mutable state: the counts, written by its own thread."""

    def __init__(self, rate_hz: float = RATE_HZ) -> None:
        self._gap_s = 1.0 / rate_hz
        self._rng = random.Random(0)  # noqa: S311 - a measurement, not a secret
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-sampler", daemon=True)
        self._seen: dict[int, float] = {}
        self._used_s = defaultdict[str, float](float)
        self._own_s = 0.0
        self._looks = 0
        self._guard = threading.Lock()
        self._began_s = time.process_time()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)

    def reset(self) -> None:
        """Begin a new measurement."""
        self._look()
        with self._guard:
            self._used_s.clear()
            self._own_s = 0.0
            self._looks = 0
            self._began_s = time.process_time()

    def facts(self) -> dict[str, object]:
        """CPU seconds since `reset`: of the process without the sampler, and by package."""
        self._look()
        with self._guard:
            own_s = self._own_s + self._used_s["safekv.bench"]
            total_s = time.process_time() - self._began_s - own_s
            parts = {
                name: round(used, 4)
                for name, used in sorted(self._used_s.items())
                if name.startswith("safekv") and name != "safekv.bench"
            }
            return {
                "process_s": round(total_s, 4),
                "ours_s": round(sum(parts.values()), 4),
                "by_package_s": parts,
                "sampler_s": round(own_s, 4),
                "looks": self._looks,
            }

    def _run(self) -> None:
        # Irregular, so that no rhythm of the engine's falls between the looks.
        while not self._stopping.wait(self._gap_s * self._rng.uniform(0.5, 1.5)):
            self._look()

    def _look(self) -> None:
        with self._guard:
            began_s = time.thread_time()
            frames = sys._current_frames()
            for thread in threading.enumerate():
                self._note(thread, frames)
            del frames
            self._looks += 1
            self._own_s += time.thread_time() - began_s

    def _note(self, thread: threading.Thread, frames: dict[int, FrameType]) -> None:
        native, ident = thread.native_id, thread.ident
        if native is None or ident is None or native == self._thread.native_id:
            return
        now_s = thread_cpu_s(native)
        if now_s is None:
            return
        # A thread that was not there at the last look has used its time since; at the first look
        # nothing is known of any.
        used_s = now_s - self._seen.get(native, 0.0 if self._seen else now_s)
        self._seen[native] = now_s
        if used_s > 0:
            self._used_s[owner(frames.get(ident))] += used_s
