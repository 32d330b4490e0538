"""SGLang's three prefix trees, driven through the calls its scheduler makes.

No server, model or device is needed: the allocator below only counts. Kinds: `rust` and
`python` are the two cores of `UnifiedRadixCache`, `legacy` is the older `RadixCache`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import types
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safekv.bench.peers.wire import Case, Item, Op, Tokens

MEM_CACHE = "sglang.srt.mem_cache"
VISION = ("io", "transforms", "transforms.functional", "transforms.v2", "ops")


class Nothing:
    """Stands for anything of torchvision: SGLang imports it, and the trees never use it."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> Nothing:
        return self

    def __getattr__(self, name: str) -> Nothing:
        return Nothing()


class Stub(types.ModuleType):
    """A module in which every name exists: capitalised ones are classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        is_class = name[:1].isupper() and name != "InterpolationMode"
        return type(name, (Nothing,), {}) if is_class else Nothing()


def stub_torchvision() -> None:
    """Put an empty torchvision in place: its wheel is built for CUDA and fails to import here."""
    for name in ("torchvision", *(f"torchvision.{part}" for part in VISION)):
        module = Stub(name)
        module.__path__ = []
        module.__dict__["__version__"] = "0.28.0"
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
    functional = Stub("torchvision.transforms.v2.functional")
    functional.__spec__ = importlib.machinery.ModuleSpec(functional.__name__, None)
    sys.modules[functional.__name__] = functional


class CountingAllocator:
    """The pool that a tree frees into; here freeing is counting."""

    device = "cpu"

    def __init__(self, page: int) -> None:
        self.page_size = page
        self.freed = 0

    def free(self, indices: Any) -> None:
        self.freed += len(indices)

    def free_segment(self, indices: Any, start_pos: int = 0) -> None:
        self.freed += len(indices)

    def free_segments(self, segments: Any) -> None:
        for segment in segments:
            self.freed += len(segment[0] if isinstance(segment, tuple) else segment)

    def available_size(self) -> int:
        return 0


class SGLangTree:
    """One of the three trees. Matching does not lock; `match_locked` adds lock and unlock."""

    def __init__(self, kind: str, make_op: Callable[..., Op]) -> None:
        stub_torchvision()
        self._kind, self._op = kind, make_op
        self._torch = importlib.import_module("torch")
        self._torch.set_num_threads(1)
        self._prefix = importlib.import_module(f"{MEM_CACHE}.base_prefix_cache")
        self._radix = importlib.import_module(f"{MEM_CACHE}.radix_cache")
        self._unified = importlib.import_module(f"{MEM_CACHE}.unified_radix_cache")
        self._params = importlib.import_module(f"{MEM_CACHE}.cache_init_params")
        component = importlib.import_module(f"{MEM_CACHE}.unified_cache.component_type")
        self._components = (component.ComponentType.FULL,)
        version = importlib.import_module("importlib.metadata").version("sglang")
        self.about = {"version": version, "kind": kind, "torch": self._torch.__version__}
        self._tree: Any = None

    def open(self, case: Case, tokens: Tokens) -> None:
        self._tokens, self._salt = tokens, case.salt
        backend = {"python": "python", "rust": "rust"}.get(self._kind)
        params = self._params.CacheInitParams(
            disable=False,
            req_to_token_pool=None,
            token_to_kv_pool_allocator=CountingAllocator(case.page),
            page_size=case.page,
            tree_components=self._components,
            tree_core_backend=backend,
        )
        legacy = self._kind == "legacy"
        self._tree = (self._radix.RadixCache if legacy else self._unified.UnifiedRadixCache)(params)
        self._assert_core()

    def _assert_core(self) -> None:
        """Raise unless the core is the one asked for: a silent fallback would be measured."""
        if self._kind == "legacy":
            return
        names = {type(value).__name__ for value in vars(self._tree).values()}
        rust = any("Rust" in name for name in names)
        if rust != (self._kind == "rust"):
            raise RuntimeError(f"the {self._kind} core was asked for, found {sorted(names)}")

    def _key(self, item: Item) -> Any:
        ids = array("q", self._tokens.ids(item))
        return self._radix.RadixKey(ids, cache_salt=self._salt)

    def _match_argument(self, item: Item) -> Any:
        return self._prefix.MatchPrefixParams(key=self._key(item))

    def _insert_argument(self, item: Item) -> Any:
        key = self._key(item)
        value = self._torch.arange(len(key))
        return self._prefix.InsertParams(key=key, value=value)

    def ops(self) -> dict[str, Op]:
        tree = self._tree
        match, path = tree.match_prefix, tree.path_device_indices

        def indices(argument: Any) -> Any:
            return path(match(argument).last_device_node)

        def locked(argument: Any) -> Any:
            found = match(argument)
            tree.unlock(tree.lock(found.last_device_node))
            return found

        ready = self._match_argument
        return {
            "match": self._op(ready, match, self._matched_tokens),
            "match_indices": self._op(ready, indices, self._length),
            "match_locked": self._op(ready, locked, self._matched_tokens),
            "insert": self._op(self._insert_argument, tree.insert, self._known_tokens),
            "evict": self._op(self._evict_argument, tree.evict, self._evicted_tokens),
        }

    def _matched_tokens(self, argument: Any, found: Any) -> int:
        return int(found.device_prefix_len)

    def _length(self, argument: Any, indices: Any) -> int:
        return len(indices)

    def _known_tokens(self, argument: Any, result: Any) -> int:
        return int(result.prefix_len)

    def _evict_argument(self, item: Item) -> Any:
        return self._prefix.EvictParams(num_tokens=item)

    def _evicted_tokens(self, argument: Any, result: Any) -> int:
        return int(result.num_tokens_evicted)

    def facts(self) -> dict[str, int]:
        size = self._tree.total_size()
        return {"tokens": int(size[0] if isinstance(size, tuple) else size)}


def contender(kind: str, make_op: Callable[..., Op]) -> SGLangTree:
    """The tree of `kind`; importing SGLang takes 12 to 16 s."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return SGLangTree(kind, make_op)
