"""What safekv keeps about one vLLM request: whose it is, and the names of its blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from safekv.types import TenantId


@dataclass(slots=True)
class Keyed:
    """A request's namespace and its blocks' names, made in the input thread.

    `tenant` is `None` for a request without a claim that holds: its `key` is then nobody
    else's, ever. `reads_shared` is false for what must be alone altogether. `public` and
    `private` have one name per full block, prompt and answer; the first `n_public` names in
    `Request.block_hashes` are public ones, as of `version` of what is shared and `seen_blocks`
    blocks. `allowed` is how far the tenant may read shared blocks. `tokens`, the prompt, is
    there until the index was told of it, and never if the prompt is not for it. `named` says
    that the prompt has its names, `computed` that its KV is there.
    """

    tenant: TenantId | None
    key: bytes = field(repr=False)
    reads_shared: bool = True
    public: list[bytes] = field(default_factory=list, repr=False)
    private: list[bytes] = field(default_factory=list, repr=False)
    tokens: bytes | None = field(default=None, repr=False)
    prompt_blocks: int = 0
    n_public: int = 0
    seen_blocks: int = 0
    version: int = -1
    allowed: int = 0
    named: bool = False
    computed: bool = False

    def truncate(self, n_blocks: int) -> None:
        """Forget the names behind the first `n_blocks` blocks."""
        del self.public[n_blocks:], self.private[n_blocks:]
        self.n_public = min(self.n_public, n_blocks)
