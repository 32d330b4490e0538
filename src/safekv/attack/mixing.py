"""Solve KV-Cloak's secrets from rows that the attacker knows anyway: a chat template's.

The released scheme (arXiv 2508.09442) stores K' = S·P·(K·M + A) per block, layer and KV head, with
S orthogonal, P a permutation, M a complex number per rotary plane, and A one beacon row. S and P
are invertible, so a block's row space is that of K·M + A: known rows give linear equations for
M in which neither S nor P appears. What follows takes no key: only stored blocks, the layout,
and what everybody can compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import torch

from safekv.attack.errors import AttackError

ROUNDS: Final = 30
"""Alternations between the mixing and the feature matrix; they settle in under ten."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What one layer's keys were mixed with, per KV head, as far as an attacker needs it.

    `unmix` (heads, b, b) gives rows back in an order of its own, `feature` (heads, d / 2) is M
    as complex numbers, `axis` (heads, d) the beacon's direction before M, of length 1. `fit` is
    the relative residual on the known rows, and `ratio` that of the two smallest eigenvalues of
    the linear system: near 0 for the right known rows, about a half for wrong ones. So it also
    tests guesses of a secret system prompt.
    """

    unmix: torch.Tensor = field(repr=False)
    feature: torch.Tensor = field(repr=False)
    axis: torch.Tensor = field(repr=False)
    beacon_row: int
    fit: float
    ratio: float

    def rows(self, blocks: torch.Tensor) -> torch.Tensor:
        """Stored blocks (..., heads, b, d) as plain rows without what lies along the beacon.

        The order within a block is unknown. Beacons are tens of times longer than keys, so a small
        error of the mixing puts some of one into every row; one direction of d is cheaper.
        """
        return self.across(times(self.unmix @ blocks.double(), self.feature.conj()))

    def across(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (..., heads, n, d) without their part along the beacon."""
        axis = self.axis[:, None].to(rows)
        return rows - (rows * axis).sum(-1, keepdim=True) * axis


def as_complex(rows: torch.Tensor) -> torch.Tensor:
    """Rows (..., d) as complex numbers (..., d / 2), one per rotary plane (i, i + d / 2)."""
    half = rows.shape[-1] // 2
    return torch.complex(rows[..., :half].double(), rows[..., half:].double())


def as_rows(planes: torch.Tensor) -> torch.Tensor:
    """The inverse of `as_complex`."""
    return torch.cat([planes.real, planes.imag], dim=-1)


def times(rows: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """`rows` (..., heads, n, d) · M for M given per head as complex numbers (heads, d / 2)."""
    return as_rows(as_complex(rows) * feature[:, None])


def complement(block: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis (heads, d, d - b) of what no row of a block (heads, b, d) reaches.

    Raises `AttackError` for blocks with as many rows as the head has dimensions: there is none.
    """
    rows, dim = block.shape[-2:]
    if rows >= dim:
        raise AttackError(
            f"blocks of {rows} tokens fill a head dimension of {dim}: there is no row space to use",
            "chosen plaintext is needed there",
        )
    null: torch.Tensor = torch.linalg.svd(block.double(), full_matrices=True).Vh[..., rows:, :]
    return null.mT


def equations(known: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Per known row the Gram matrix of its equations for M, (heads, n, d, d).

    A row k without the beacon lies, times M, in the block's row space: (k·M)·N = 0.
    """
    null = complement(block)
    half = known.shape[-1] // 2
    low, high = known[..., :half, None].double(), known[..., half:, None].double()
    upper, lower = null[:, None, :half], null[:, None, half:]
    real, imaginary = low * upper + high * lower, low * lower - high * upper
    system = torch.cat([real, imaginary], dim=2)
    return system @ system.mT


def solve(known: torch.Tensor, block: torch.Tensor) -> Secrets:
    """The secrets of one layer from one block whose rows are all known, both (heads, b, d).

    For S orthogonal and M of rotations, the released default. Each row is tried as the beacon's;
    the linear estimate is then refined by alternating least squares on the stored block itself,
    which matters where it was rounded to 16 bits. The sign of the beacon's own row is left
    open by one block: see `settle`.
    """
    if known.shape != block.shape:
        raise AttackError(
            f"{known.shape[-2]} rows are known of a block of {block.shape[-2]}",
            "pass the whole block's; a shorter template needs smaller blocks",
        )
    known, block = known.double(), block.double()
    grams = equations(known, block)
    total = grams.sum(1)
    best: Secrets | None = None
    for row in range(known.shape[1]):
        values, vectors = torch.linalg.eigh(total - grams[:, row])
        half = known.shape[-1] // 2
        guess = torch.complex(vectors[:, :half, 0], vectors[:, half:, 0])
        ratio = float((values[:, 0].clamp_min(0) / values[:, 1]).mean())
        found = _refined(known, block, _unit(guess), row, ratio)
        if best is None or found.fit < best.fit:
            best = found
    assert best is not None, "a block has rows"
    return best


def _refined(
    known: torch.Tensor, block: torch.Tensor, feature: torch.Tensor, row: int, ratio: float
) -> Secrets:
    """Alternate: the mixing that fits best (Procrustes), then M and the beacon that do."""
    others = [n for n in range(known.shape[1]) if n != row]
    plain, fit = known.clone(), float("inf")
    unmix = _demixed(known[:, others], times(block, feature.conj()), row)
    for _ in range(ROUNDS):
        mixed = unmix @ block
        feature = _phases(known[:, others], mixed[:, others])
        back = times(mixed, feature.conj())
        gap = float((back[:, others] - known[:, others]).norm() / known[:, others].norm())
        if gap > 0.999 * fit:
            break
        fit = gap
        # Whatever the beacon's row is, it takes part: without it the others' fit is no optimum.
        plain[:, row] = back[:, row]
        unmix = _procrustes(times(plain, feature), block)
    beacon = times(unmix @ block, feature.conj())[:, row] - known[:, row]
    axis = torch.nn.functional.normalize(beacon, dim=-1)
    return Secrets(unmix, feature, axis, row, fit, ratio)


def _demixed(others: torch.Tensor, stored: torch.Tensor, row: int) -> torch.Tensor:
    """A first mixing: least squares for the known rows, and what is left for the beacon's."""
    solved = torch.nn.functional.normalize(others @ torch.linalg.pinv(stored), dim=-1)
    left = torch.linalg.svd(solved, full_matrices=True).Vh[:, -1:]
    return torch.cat([solved[:, :row], left, solved[:, row:]], dim=1)


def _procrustes(plain: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """The orthogonal (heads, b, b) that turns `block` into `plain` best."""
    left, _, right = torch.linalg.svd(plain @ block.mT)
    turned: torch.Tensor = left @ right
    return turned


def _phases(plain: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """The rotation of each plane that turns `plain` into `mixed` best."""
    return _unit((as_complex(plain).conj() * as_complex(mixed)).sum(1))


def _unit(numbers: torch.Tensor) -> torch.Tensor:
    return numbers / numbers.abs().clamp_min(1e-12)


def settle(
    secrets: Secrets, known: torch.Tensor, block: torch.Tensor, others: torch.Tensor
) -> Secrets:
    """The same with the sign of the beacon's own row, which one block leaves open.

    Blocks in which another row carries the beacon decide it, per head; where there is none, the
    mean that keys have in common does. `others` are stored blocks (n, heads, b, d).
    """
    row, kept = secrets.beacon_row, [n for n in range(known.shape[1]) if n != secrets.beacon_row]
    known = known.double()
    raised = times(secrets.unmix @ block.double(), secrets.feature.conj())[:, row]
    plain = times(secrets.unmix @ others.double(), secrets.feature.conj())
    loads = torch.einsum("nhbd,hd->nhb", plain, raised) / raised.pow(2).sum(-1)[:, None]
    loads = loads[:, :, kept]
    heaviest = loads.gather(-1, loads.abs().argmax(-1, keepdim=True))[..., 0]
    votes = (heaviest * (heaviest.abs() > 0.5)).sum(0)
    alike = torch.einsum("nhd,hd->h", secrets.across(plain)[:, :, row], known[:, kept].mean(1))
    sign = torch.where(torch.where(votes == 0, alike, votes) < 0, -1.0, 1.0)[:, None]
    unmix = secrets.unmix.clone()
    unmix[:, row] *= sign
    axis = torch.nn.functional.normalize(raised * sign - known[:, row], dim=-1)
    return replace(secrets, unmix=unmix, axis=axis)


def refined(
    secrets: Secrets, known: torch.Tensor, sure: torch.Tensor, stored: torch.Tensor
) -> Secrets:
    """The same from more known rows: `known` (n, heads, b, d) are plain rows in the order of
    `secrets`, of which `sure` (n, b) says which are known. O(n * heads * b² * d).

    What is not known, and the part along the beacon, is taken as it comes out now.
    """
    stored, found = stored.double(), secrets
    for _ in range(ROUNDS // 3):
        mixed = found.unmix @ stored
        back = times(mixed, found.feature.conj())
        along = back - found.across(back)
        plain = torch.where(sure[:, None, :, None], found.across(known.double()) + along, back)
        products = as_complex(plain).conj() * as_complex(mixed)
        feature = _unit((products * sure[:, None, :, None]).sum((0, 2)))
        cross = (times(plain, feature) @ stored.mT).sum(0)
        left, _, right = torch.linalg.svd(cross)
        found = replace(found, unmix=left @ right, feature=feature)
    return found
