"""One node of the prefix tree: a run of blocks, who holds it, and whether it is shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, cast

from safekv.types import TOKEN_BYTES, Scope, TenantId

Holder = TenantId | Scope
"""A tenant, or `Scope.SHARED` for the pool of shared runs, which is nobody's own."""

NO_CHILDREN: Final[Mapping[bytes, Node]] = {}
"""What all nodes without children have together, to save memory; nobody adds to it."""


Steps = list[tuple[int, int]]


class Claim:
    """One holder's claim on one run: when that holder last used each of its blocks.

    A use covers a prefix, so the time of a block is that of the latest use which reached it.
    `used` is the time of the last block; `steps` are the (length, time) of later uses that
    ended further up, longest first, or `None` where there are none. Most claims have none, so
    both lie in one slot. The first `reused` blocks were matched again since they were claimed.
    `before` and `behind` are its neighbours in the holder's order of use, `None` for a claim
    that is not in it.
    """

    __slots__ = ("_uses", "before", "behind", "reused")

    def __init__(self, used: int) -> None:
        self._uses: int | tuple[int, Steps] = used
        self.reused = 0
        self.before: Claim | None = None
        self.behind: Claim | None = None

    @property
    def used(self) -> int:
        """The time of the last block."""
        uses = self._uses
        return uses if isinstance(uses, int) else uses[0]

    @property
    def steps(self) -> Steps | None:
        """Later uses of fewer blocks, longest first."""
        return None if isinstance(self._uses, int) else self._uses[1]

    def set_uses(self, used: int, steps: Steps | None) -> None:
        """Replace all times of use."""
        self._uses = (used, steps) if steps else used

    @property
    def node(self) -> Node:
        """The run that is claimed."""
        raise NotImplementedError

    @property
    def below(self) -> int:
        """How many of the node's children the same holder has a claim on."""
        raise NotImplementedError

    @property
    def all_reused(self) -> bool:
        """Whether every block was matched again since it was claimed."""
        raise NotImplementedError

    def may_lapse(self, holder: Holder, pays_shared: bool) -> bool:
        """Whether this still is what `holder` is charged for, and nothing of its hangs below.

        With `pays_shared` it is charged for shared runs too.
        """
        raise NotImplementedError

    @property
    def latest(self) -> int:
        """The time of the latest use of any of the blocks."""
        return self.steps[-1][1] if self.steps else self.used

    def mark(self, n_blocks: int, size: int, now: int) -> None:
        """The first `n_blocks` of `size` were used at `now`. Later uses stay as they are."""
        uses = self._uses
        used, steps = (uses, None) if isinstance(uses, int) else uses
        if now <= (steps[-1][1] if steps else used):
            self._mark_late(n_blocks, size, now)
        elif n_blocks == size:
            self._uses = now
        elif steps is None:
            self._uses = (used, [(n_blocks, now)])
        else:
            while steps and steps[-1][0] <= n_blocks:
                steps.pop()
            steps.append((n_blocks, now))

    def _mark_late(self, n_blocks: int, size: int, now: int) -> None:
        """Mark a use that is not the latest: a read of the pool, or that of a lapsed child."""
        times = [(size, self.used), *(self.steps or ())]
        longer = [step for step in times if step[0] > n_blocks]
        if longer and longer[-1][1] >= now:
            return
        later = [step for step in times if step[0] <= n_blocks and step[1] > now]
        if not later or later[0][0] < n_blocks:
            later = [(n_blocks, now), *later]
        (_, used), *steps = *longer, *later
        self.set_uses(used, steps)

    def shorten(self, keep: int) -> None:
        """Forget the blocks behind the first `keep`: uses that ended there count in full now."""
        self.reused = min(self.reused, keep)
        used, steps = self.used, self.steps
        while steps and steps[0][0] >= keep:
            used = steps.pop(0)[1]
        self.set_uses(used, steps)

    def split_off(self, upper: Claim, n: int) -> None:
        """Move what concerns the first `n` blocks to `upper`, a fresh claim on these."""
        upper.reused = min(self.reused, n)
        self.reused -= upper.reused
        steps = self.steps or ()
        used = max([self.used, *(time for length, time in steps if length >= n)])
        upper.set_uses(used, [step for step in steps if step[0] < n])
        self.set_uses(self.used, [(length - n, time) for length, time in steps if length > n])

    def absorb(self, upper: Claim, n: int) -> None:
        """Take over `upper`, the same holder's claim on the `n` blocks just above."""
        self.reused += upper.reused  # what lies above a re-used block is re-used in full
        before = [(n, upper.used), *(upper.steps or ())]
        kept = [step for step in before if step[1] > self.latest]
        steps = [(length + n, time) for length, time in self.steps or ()]
        self.set_uses(self.used, [*steps, *kept])


class Node(Claim):
    """A run of consecutive full blocks that one set of tenants holds.

    `key` is the tokens of the first block, under which the parent files it, `rest` those of
    the others, `blocks` the KV of all of them: int32 bytes each. A private run of one tenant
    is its own claim, which keeps a node small: `holds` is that tenant. Otherwise `holds` has a
    claim per holder, and a shared run also that of `Scope.SHARED`.

    `safekv.cache.check` enforces:

    * children are keyed by the tokens of their first block, so content has one path;
    * holders only shrink downwards, but for runs that everybody may read; a shared node's
      parent is shared;
    * a claim counts the claims below it, so one without any may lapse.
    """

    __slots__ = ("blocks", "children", "holds", "key", "parent", "rest")

    def __init__(
        self, key: bytes, rest: bytes, blocks: bytes, parent: Node | None, holds: Holds
    ) -> None:
        super().__init__(0)
        self.key = key
        self.rest = rest
        self.blocks = blocks
        self.parent = parent
        self.children: Mapping[bytes, Node] = NO_CHILDREN
        self.holds = holds

    def visible_to(self, tenant: TenantId) -> bool:
        """Whether `tenant` may reuse this run: a function of `holds` and nothing else. O(1).

        Visibility is decided here and nowhere else. A run that is not visible is not
        refused but absent: the walk ends as if nobody had ever sent it.
        """
        holds = self.holds
        if isinstance(holds, str):
            return holds == tenant
        return tenant in holds or Scope.SHARED in holds

    @property
    def node(self) -> Node:
        return self

    @property
    def below(self) -> int:
        return len(self.children)

    @property
    def all_reused(self) -> bool:
        return self.reused * TOKEN_BYTES == len(self.blocks)

    def may_lapse(self, holder: Holder, pays_shared: bool) -> bool:
        return self.holds == holder and not self.children and self.parent is not None

    @property
    def size(self) -> int:
        """How many blocks the run has."""
        return len(self.blocks) // TOKEN_BYTES

    @property
    def shared(self) -> bool:
        """Whether every tenant may reuse this run."""
        return not isinstance(self.holds, str) and Scope.SHARED in self.holds

    @property
    def born(self) -> int:
        """By which promotion the run became shared, 0 if it is private."""
        share = self.share_of(Scope.SHARED)
        return share.born if share is not None else 0

    def claim(self, holder: Holder) -> Claim | None:
        """The claim of `holder`, if it has one."""
        holds = self.holds
        if isinstance(holds, str):
            return self if holds == holder else None
        return holds.get(holder)

    def share_of(self, holder: Holder) -> Share | None:
        """The claim of `holder`, if it is one of several or the run is shared."""
        return None if isinstance(self.holds, str) else self.holds.get(holder)

    def holders(self) -> Iterable[Holder]:
        """Everybody with a claim."""
        return (self.holds,) if isinstance(self.holds, str) else self.holds.keys()

    def tokens(self) -> bytes:
        """The run's tokens as int32 bytes. Copies."""
        return self.key + self.rest

    def add_child(self, child: Node) -> None:
        """File `child` under the tokens of its first block, in place of any other."""
        if self.children is NO_CHILDREN:
            self.children = {child.key: child}
        else:
            cast("dict[bytes, Node]", self.children)[child.key] = child

    def remove_child(self, child: Node) -> None:
        if len(self.children) == 1:
            assert child.key in self.children, "a node lost a child that it does not have"
            self.children = NO_CHILDREN
        else:
            del cast("dict[bytes, Node]", self.children)[child.key]

    def common_blocks(self, tokens: bytes, at: int, limit: int, skip: int = 1) -> int:
        """How many blocks behind the first `skip` equal `tokens` from byte `at` on.

        At most `limit`. The first block is never compared: it is the key under which a run is
        found. Tokens are compared, never hashes. O(run).
        """
        width = len(self.key)
        mine = self.rest if skip == 1 else self.rest[(skip - 1) * width :]
        n = len(mine) // width
        if n > limit:
            n = limit
        if mine.startswith(tokens[at : at + n * width]):
            return n
        low, high = 0, n  # blocks [0, low) are equal, blocks [0, high] are not all equal
        while high - low > 1:
            middle = (low + high) // 2
            if mine.startswith(tokens[at : at + middle * width]):
                low = middle
            else:
                high = middle
        return low


class Share(Claim):
    """A claim on a run that has several holders, or that is shared.

    `born` says by which promotion the shared pool got the run; 0 for a tenant's claim.
    """

    __slots__ = ("_below", "_node", "born")

    def __init__(self, node: Node, used: int, below: int = 0, born: int = 0) -> None:
        super().__init__(used)
        self._node = node
        self._below = below
        self.born = born

    @property
    def node(self) -> Node:
        return self._node

    @property
    def below(self) -> int:
        return self._below

    @property
    def all_reused(self) -> bool:
        return self._node.size == self.reused

    def may_lapse(self, holder: Holder, pays_shared: bool) -> bool:
        node = self._node
        if self._below or node.parent is None or node.claim(holder) is not self:
            return False
        return pays_shared or not node.shared

    def count_below(self, change: int) -> None:
        self._below += change


Holds = TenantId | dict[Holder, Share]
"""The tenant that alone holds a private run, or everybody's claims."""
