"""Names a request's blocks where vLLM hashes them: in the thread that takes requests in."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Any, Final

from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys
from vllm.v1.request import Request

from safekv.engines.vllm import claim
from safekv.engines.vllm.keys import ROOT, BlockKeys
from safekv.engines.vllm.prompt import Keyed
from safekv.types import TenantId, pack_tokens

ATTRIBUTE: Final = "safekv"
"""Where a request keeps its `Keyed`."""


def keyed_of(request: Request) -> Keyed | None:
    """What safekv knows of `request`, `None` for one that was never named."""
    found = getattr(request, ATTRIBUTE, None)
    return found if isinstance(found, Keyed) else None


class BlockNamer:
    """vLLM's request block hasher, with keyed names for its hashes.

    The first call for a request finds out whose it is and names the whole prompt. Later ones
    name what was generated since, on the engine's thread: one block at a time. All names are
    private at first; the scheduler decides which of them become public. No mutable state.
    """

    def __init__(
        self,
        keys: BlockKeys,
        claim_key: bytes,
        block_tokens: int,
        extra_hash: Callable[[Any], bytes],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._keys, self._claim_key = keys, claim_key
        self._block_tokens = block_tokens
        self._extra_hash = extra_hash
        self._now_s = now_s

    def __call__(self, request: Request) -> list[bytes]:
        """The names of the blocks of `request` that are full and have none yet."""
        keyed = keyed_of(request)
        if keyed is None:
            keyed = self._identify(request)
            setattr(request, ATTRIBUTE, keyed)
        named = len(request.block_hashes)
        keyed.truncate(named)  # a streaming session may have forgotten some
        if (named + 1) * self._block_tokens > request.num_tokens:
            return []
        first, keyed.named = not keyed.named, True
        parent = keyed.public[-1] if keyed.public else ROOT
        if self._plain(request):
            packed = array("i", request._all_token_ids[named * self._block_tokens :]).tobytes()
            public = self._keys.chain(parent, packed, self._block_tokens)
            if first and keyed.tenant is not None and keyed.reads_shared:
                keyed.tokens = packed
        else:
            public = self._with_extra(request, named, parent)
        if first:
            keyed.prompt_blocks = len(public)
        private = self._keys.private(keyed.key, public)
        keyed.public += public
        keyed.private += private
        return private

    def _identify(self, request: Request) -> Keyed:
        """Whose request it is. Without a claim that holds it is nobody's: its names are its own."""
        tenant = self._tenant(request)
        if request.cache_salt:
            # Nothing in front took it out, so nothing in front can be trusted.
            return Keyed(None, self._keys.nobody(), reads_shared=False)
        if tenant is None:
            return Keyed(None, self._keys.nobody())
        return Keyed(tenant, self._keys.tenant(tenant))

    def _tenant(self, request: Request) -> TenantId | None:
        params = request.sampling_params
        extra = params.extra_args if params is not None else None
        said = extra.get(claim.EXTRA_ARG) if isinstance(extra, dict) else None
        return claim.verify(self._claim_key, said, now_s=self._now_s())

    @staticmethod
    def _plain(request: Request) -> bool:
        """Whether the KV depends on the tokens alone."""
        return not (
            request.mm_features
            or request.lora_request is not None
            or request.prompt_embeds is not None
        )

    def _with_extra(self, request: Request, named: int, parent: bytes) -> list[bytes]:
        """Names that commit to adapters, images and embeddings too, as vLLM's hashes do."""
        size, names, at_feature = self._block_tokens, list[bytes](), 0
        tokens = request._all_token_ids
        for start in range(named * size, len(tokens) - size + 1, size):
            extra, at_feature = generate_block_hash_extra_keys(
                request, start, start + size, at_feature
            )
            said = self._extra_hash(extra) if extra is not None else b""
            packed = pack_tokens(tokens[start : start + size])
            parent = self._keys.public(parent, packed, size, said)
            names.append(parent)
        return names
