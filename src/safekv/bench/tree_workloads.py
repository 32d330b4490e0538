"""What `safekv bench tree` does to a tree: token arrays, cases, and steps of equal calls.

The cases follow SGLang's public tree API and the shapes its cache sees: one long node, a path
over many nodes, and a tree of many sequences under few prefixes.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Slices = list[list[int]]
"""`[[start, stop], ...]` of the token file; every start is a multiple of `ALIGN`."""

ALIGN: Final = 16
MASK: Final = (1 << 17) - 1
# `match_indices` adds where the KV lies as the contender's own type: packed ids of blocks
# (safekv), a tensor of one slot a token (SGLang), a list of block ids (vLLM). `match_id_list` is
# a list of block ids, `match_locked` adds lock and unlock, and `match_hashed` is vLLM's lookup
# with the hashes ready.
MATCH_OPS: Final = ("match", "match_indices", "match_id_list", "match_locked", "match_hashed")
FORK_TOKENS: Final = 256
TWIG_TOKENS: Final = 64  # a multiple of every page size
EVICTIONS: Final = (16_384, 512)


@dataclass(frozen=True, slots=True)
class Step:
    """Equal calls of one operation. `tokens` is what the row reports for each.

    `expect` is what the calls must return, one each; empty where only a lower bound of
    `tokens` is due.
    """

    op: str
    tokens: int
    items: Sequence[Slices | int]
    expect: Sequence[int] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """One tree: `build` is inserted untimed, then the steps run in order."""

    case: str
    page: int
    nodes: int
    capacity_tokens: int
    build: Sequence[Slices] = ()
    steps: Sequence[Step] = ()
    salt: str | None = None
    gc: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePlan:
    """How much is measured. Counts are calls per operation; lengths are in tokens."""

    pages: tuple[int, ...] = (1, 16, 32, 64)
    lengths: tuple[int, ...] = (1024, 8192, 65_536)
    length_calls: int = 400
    length_budget_tokens: int = 4_000_000
    prefixes: int = 64
    prefix_tokens: int = 512
    suffix_tokens: int = 512
    sequences: int = 12_000
    full_matches: int = 6_000
    variant_matches: int = 2_000
    half_matches: int = 2_000
    leased_inserts: int = 500
    evict_calls: int = 100
    extra_page: int = 16
    batches: int = 10
    curve: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    curve_calls: int = 5_000
    traced_sequences: int = 20_000
    seed: int = 0

    def workloads(self) -> Iterator[Workload]:
        """Every case in the order it is measured; the collector is off in the tree case."""
        for page in self.pages:
            for length in self.lengths:
                yield self.line("1node", page, length)
                yield self.line("chain256", page, length)
                yield self.line("forks256", page, length)
            yield self.groups(page)
        if self.extra_page in self.pages:
            yield self.groups(self.extra_page, gc=True)
            yield self.groups(self.extra_page, salt="tenant-a")

    def line(self, case: str, page: int, length: int) -> Workload:
        """One sequence, stored at once (`1node`) or as prefixes that grow by 256 tokens.

        In `chain256` nothing else is stored, so a tree that merges keeps one node; in
        `forks256` a short branch leaves at the end of every piece, so all of them stay.
        """
        whole: Slices = [[0, length]]
        ends = range(FORK_TOKENS, length + 1, FORK_TOKENS)
        build = [whole] if case == "1node" else [[[0, end]] for end in ends]
        if case == "forks256":
            build = [item for end in ends for item in ([[0, end]], _twig(length, end))]
        calls = max(20, min(self.length_calls, self.length_budget_tokens // length))
        calls = max(calls // (1 if case == "1node" else 2), 20)
        steps = [Step(op, length, [whole] * calls, [length] * calls) for op in MATCH_OPS]
        nodes = 1 if case == "1node" else len(ends)
        return Workload(case, page, nodes, 2 * length + TWIG_TOKENS, build, steps)

    def groups(self, page: int, *, gc: bool = False, salt: str | None = None) -> Workload:
        """`sequences` of a shared prefix and a suffix of their own: the tree of the recipe."""
        nodes = self.prefixes + self.sequences
        # Room for the sequences inserted at the end, too.
        stored = self.leased_inserts + nodes
        capacity = stored * max(self.prefix_tokens, self.suffix_tokens) + self.prefix_tokens
        return Workload(
            f"tree{self.sequences // 1000}k" if self.sequences >= 1000 else "tree",
            page,
            nodes,
            capacity,
            steps=list(self._group_steps()),
            salt=salt,
            gc=gc,
        )

    def _group_steps(self) -> Iterator[Step]:
        rng = random.Random(self.seed)  # noqa: S311 - a workload, not a secret
        n, known, whole = self.sequences, self.prefix_tokens, self.prefix_tokens
        whole += self.suffix_tokens
        inserts = [self.sequence(i) for i in range(n)]
        found = [0 if i < self.prefixes else known for i in range(n)]
        yield Step("insert", self.suffix_tokens, inserts, found)
        for op in MATCH_OPS:
            calls = self.full_matches if op == "match" else self.variant_matches
            picks = [self.sequence(rng.randrange(n)) for _ in range(calls)]
            yield Step(op, whole, picks, [whole] * calls)
        unseen = [self.sequence(n + i, i) for i in range(self.half_matches)]
        yield Step("match", known, unseen, [known] * len(unseen), label="match_half")
        more = [self.sequence(n + self.half_matches + i, i) for i in range(self.leased_inserts)]
        yield Step("insert_leased", self.suffix_tokens, more, [known] * len(more))
        for tokens in EVICTIONS:
            yield Step("evict", tokens, [tokens] * self.evict_calls)

    def sequence(self, suffix: int, group: int | None = None) -> Slices:
        """Sequence number `suffix`: the prefix of its group, then tokens of its own."""
        return branch(
            suffix if group is None else group,
            suffix,
            self.prefixes,
            self.prefix_tokens,
            self.suffix_tokens,
        )

    def file_tokens(self) -> int:
        """How many tokens the file must hold for every case of the plan."""
        tree = self.sequences + self.half_matches + self.leased_inserts
        needs = [self.prefixes * self.prefix_tokens + tree * self.suffix_tokens]
        longest = max(self.lengths, default=0)
        needs.append(longest + (longest // FORK_TOKENS) * TWIG_TOKENS)
        needs.append(CURVE.file_tokens(max((*self.curve, self.traced_sequences))))
        return max(needs)


def branch(group: int, suffix: int, groups: int, prefix_tokens: int, tokens: int) -> Slices:
    """The slices of one prefix of `groups` and one suffix, which lies behind all prefixes."""
    at = (group % groups) * prefix_tokens
    behind = groups * prefix_tokens + suffix * tokens
    return [[at, at + prefix_tokens], [behind, behind + tokens]]


def _twig(length: int, end: int) -> Slices:
    at = length + (end // FORK_TOKENS - 1) * TWIG_TOKENS
    return [[0, end], [at, at + TWIG_TOKENS]]


@dataclass(frozen=True, slots=True)
class Curve:
    """The tree that grows: leaves of one block under 1,000 prefixes of 16 blocks."""

    page: int = 16
    prefixes: int = 1_000
    prefix_tokens: int = 256

    def sequence(self, i: int) -> Slices:
        """The `i`-th sequence inserted."""
        return branch(i, i, self.prefixes, self.prefix_tokens, self.page)

    def file_tokens(self, sequences: int) -> int:
        """Tokens in the file for that many sequences; also the capacity they need."""
        return self.prefixes * self.prefix_tokens + sequences * self.page


CURVE: Final = Curve()


def quick_plan() -> TreePlan:
    """A plan that shows whether everything works, in two to three minutes with all peers."""
    return TreePlan(
        pages=(16,),
        lengths=(1024, 65_536),
        length_calls=50,
        sequences=1_280,
        full_matches=600,
        variant_matches=200,
        half_matches=200,
        leased_inserts=100,
        evict_calls=15,
        batches=5,
        curve=(1_000, 10_000),
        curve_calls=1_000,
        traced_sequences=5_000,
    )


def write_tokens(path: Path, n_tokens: int, seed: int) -> None:
    """Write `n_tokens` random int32 ids, little-endian. O(n).

    Ids are uniform below 2**17, except that each multiple of `ALIGN` holds an id found nowhere
    else: slices that begin there never share a first token by chance, so what a call must
    return is known exactly for every page size.
    """
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    ids = array("i")
    ids.frombytes(b"".join(_masked(rng, part) for part in _parts(n_tokens)))
    marks = range(0, n_tokens, ALIGN)
    ids[::ALIGN] = array("i", range(MASK + 1, MASK + 1 + len(marks)))
    path.write_bytes(ids.tobytes())


def _parts(n: int, size: int = 1 << 18) -> Iterator[int]:
    while n > 0:
        yield min(n, size)
        n -= size


def _masked(rng: random.Random, n: int) -> bytes:
    mask = int.from_bytes(MASK.to_bytes(4, "little") * n, "little")
    return (rng.getrandbits(32 * n) & mask).to_bytes(4 * n, "little")
