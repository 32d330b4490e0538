"""CPU is put down to whoever used it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import safekv
from safekv.bench.serving import profile
from safekv.bench.serving.profile import OTHER, Sampler, owner, thread_cpu_s

PACKAGE = str(safekv.__file__).removesuffix("__init__.py")


def frame_in(*files: str) -> object:
    """A frame of the last file, called by the one before it, and so on."""
    caught: list[object] = []

    def here() -> None:
        import sys

        caught.append(sys._getframe())

    call: Callable[[], object] = here
    for file in reversed(files):
        scope: dict[str, object] = {"inner": call}
        exec(compile("def outer():\n    inner()\n", file, "exec"), scope)  # noqa: S102
        call = scope["outer"]  # type: ignore[assignment]
    call()
    return caught[0].f_back  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("files", "whose"),
    [
        ((PACKAGE + "cache/tree.py",), "safekv.cache"),
        ((PACKAGE + "engines/hf/paged.py", "/x/site-packages/transformers/a.py"), OTHER),
        (("/x/site-packages/transformers/a.py", PACKAGE + "warden/warden.py"), "safekv.warden"),
        ((PACKAGE + "gateway/app.py", profile.STANDARD + "json/encoder.py"), "safekv.gateway"),
        (("/x/site-packages/uvicorn/b.py", profile.STANDARD + "asyncio/events.py"), OTHER),
        ((PACKAGE + "clock.py",), "safekv"),
    ],
)
def test_the_innermost_frame_that_is_not_the_standard_librarys_decides(
    files: tuple[str, ...], whose: str
) -> None:
    assert owner(frame_in(*files)) == whose  # type: ignore[arg-type]
    assert owner(None) == OTHER


def test_a_thread_that_works_is_charged_and_one_that_waits_is_not() -> None:
    over = threading.Event()
    scope: dict[str, object] = {"over": over}
    source = "def spin():\n    while not over.is_set():\n        sum(range(200))\n"
    exec(compile(source, PACKAGE + "cache/made_up.py", "exec"), scope)  # noqa: S102
    waits = "def rest():\n    over.wait()\n"
    exec(compile(waits, PACKAGE + "vault/made_up.py", "exec"), scope)  # noqa: S102
    threads = [threading.Thread(target=scope[name]) for name in ("spin", "rest")]  # type: ignore[arg-type]
    sampler = Sampler(rate_hz=200)
    for thread in threads:
        thread.start()
    native = threads[0].native_id
    assert native is not None
    began_s = thread_cpu_s(native)
    if began_s is None:
        over.set()
        pytest.skip("no CPU clock for single threads on this system")
    sampler.start()
    sampler.reset()
    # Until it has used enough CPU, however long this machine takes for that.
    while (thread_cpu_s(native) or 0.0) < began_s + 0.2:
        over.wait(0.01)
    facts = sampler.facts()
    over.set()
    sampler.stop()
    parts = facts["by_package_s"]
    assert isinstance(parts, dict)
    assert parts["safekv.cache"] >= 0.1
    assert parts.get("safekv.vault", 0.0) < 0.05
    assert facts["looks"]
    assert thread_cpu_s(1 << 22) is None
