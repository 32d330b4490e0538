"""The attacks as the report runs them: each takes a job, and gives one reading per cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from safekv.attack import channels, chosen, collision, inverter, membership, template
from safekv.attack.calibration import calibrate
from safekv.attack.capture import Captured, capture
from safekv.attack.collision import SAME, Hint, SearchPlan
from safekv.attack.fused import feature_of
from safekv.attack.injection import Variant, inject, variants
from safekv.attack.inversion import invert
from safekv.attack.metrics import rouge_l
from safekv.attack.mixing import Secrets
from safekv.attack.prompts import Tokens
from safekv.attack.recovered import Recovered
from safekv.audit.stolen.plan import Cell
from safekv.audit.stolen.protections import BLOCK_TOKENS
from safekv.audit.stolen.session import Session

WIDEST: Final = 0.3
"""No distance above this is taken for a hit: half of a stranger's."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attack on some caches. `caches[n]` is what was stored of `victims[n]`.

    `solved_on` are the caches whose secrets are solved for: `caches` themselves, or, as a
    control, those of an instance with other keys. `own` are the attacker's, likewise.
    """

    session: Session
    cell: Cell
    victims: Sequence[Tokens] = field(repr=False)
    caches: Sequence[Captured] = field(repr=False)
    solved_on: Sequence[Captured] = field(repr=False)
    own: Sequence[Captured] = field(repr=False)

    @property
    def layer(self) -> int:
        return self.session.number(self.cell.layer)

    def search(self, cut: float) -> SearchPlan:
        plan = self.session.plan
        return SearchPlan(cut=cut, budget=plan.budget, patience=plan.patience)

    def hint(self) -> Hint:
        """What a learned inverter makes of a row; its training is not counted as time."""
        return inverter.hint(self.session.public, self.session.inverter(self.layer))


def end_of(session: Session, layer: str, attack: str, tokens: Tokens) -> int:
    """Where an attack's score ends: deep collisions go only so far."""
    deep = layer in ("middle", "last") and attack in ("collision", "template", "chosen")
    return min(tokens.last, tokens.first + session.plan.horizon) if deep else tokens.last


def by_collision(job: Job) -> list[Recovered]:
    """Nearest at layer 0, a search behind the template in deeper ones."""
    return _collided(job, job.caches, job.own)


def _collided(job: Job, caches: Sequence[Captured], own: Sequence[Captured]) -> list[Recovered]:
    session, public, layer = job.session, job.session.public, job.layer
    if layer == 0:
        return [collision.nearest(public, one) for one in caches]
    shortest = min(tokens.last for tokens in session.own)
    secret = range(session.own[0].first, shortest)
    plain = session.plain(own=True)
    cut = min(WIDEST, calibrate(plain, own, layer, secret).value)
    return [
        collision.search(
            public,
            collision.Rows(one, layer),
            layer,
            tokens.template,
            end_of(session, job.cell.layer, "collision", tokens),
            job.search(cut),
            job.hint(),
        )
        for one, tokens in zip(caches, job.victims, strict=True)
    ]


def by_inversion(job: Job) -> list[Recovered]:
    """Linear inversion with the layer's own weights."""
    return [invert(job.session.public, one, job.layer) for one in job.caches]


def by_inverter(job: Job) -> list[Recovered]:
    """The decoder that was trained on public text; its training is not counted as time."""
    learned = job.session.inverter(job.layer)
    return [inverter.decode(job.session.public, learned, one, job.layer) for one in job.caches]


def by_injection(job: Job) -> list[Recovered]:
    """The variant that worked best on the attacker's own plain caches, on all victims at once."""
    session = job.session
    return inject(
        session.public, job.caches, best_variant(session), new_tokens=session.plan.new_tokens
    )


def best_variant(session: Session) -> Variant:
    """Chosen by ROUGE-L on own prompts."""
    if session.variant is None:
        scores = {}
        for one in variants(session.public.tokenizer):
            said = inject(
                session.public,
                session.plain(own=True),
                one,
                new_tokens=session.plan.new_tokens,
            )
            pairs = zip(said, session.own, strict=True)
            scores[one] = sum(rouge_l(it.text or "", own.prompt.text) for it, own in pairs)
        session.variant = max(scores, key=scores.__getitem__)
    return session.variant


def by_template(job: Job) -> list[Recovered]:
    """Secrets from the public template, per victim; then its other rows."""
    public, readings = job.session.public, []
    if job.cell.protection == "permute":
        return _shuffled(job, job.solved_on, job.victims, exact=False)
    hint = job.hint() if job.layer else None
    for one, on, tokens in zip(job.caches, job.solved_on, job.victims, strict=True):
        started = perf_counter()
        secrets = template.secrets_of(public, on, job.layer, tokens.template, BLOCK_TOKENS)
        readings.append(_read(job, one, tokens, secrets, hint, started))
    return readings


def by_chosen(job: Job) -> list[Recovered]:
    """Secrets from the attacker's own requests, once for all victims."""
    if job.cell.protection == "permute":
        return _shuffled(job, job.own, job.session.own, exact=True)
    hint = job.hint() if job.layer else None
    started = perf_counter()
    own = [(tokens.ids, it) for tokens, it in zip(job.session.own, job.own, strict=True)]
    secrets = chosen.learn(job.session.public, own, job.layer, BLOCK_TOKENS)
    spent = (perf_counter() - started) / len(job.caches)
    return [
        _read(job, one, tokens, secrets, hint, perf_counter() - spent)
        for one, tokens in zip(job.caches, job.victims, strict=True)
    ]


def _read(
    job: Job,
    one: Captured,
    tokens: Tokens,
    secrets: Secrets,
    hint: Hint | None,
    started: float,
) -> Recovered:
    found = template.read(
        job.session.public,
        one,
        job.layer,
        tokens.template,
        block_tokens=BLOCK_TOKENS,
        plan=job.search(min(WIDEST, max(SAME, 8 * secrets.fit))),
        until=end_of(job.session, job.cell.layer, "template", tokens),
        secrets=secrets,
        hint=hint,
    )
    return Recovered(found.tokens, found.start, tried=found.tried, wall_s=perf_counter() - started)


def _shuffled(
    job: Job, on: Sequence[Captured], known: Sequence[Tokens], *, exact: bool
) -> list[Recovered]:
    """Channel orders from known rows, then a collision on what is then plain."""
    public, layer = job.session.public, job.layer
    opened = []
    orders = [
        channels.orders(capture(public, tokens.ids if exact else tokens.template, [layer]), one)
        for tokens, one in zip(known, on, strict=True)
    ]
    for n, one in enumerate(job.caches):
        opened.append(orders[0 if exact else n].undo(one))
    own = [orders[0].undo(it) for it in job.own]
    return _collided(job, opened, own)


def by_membership(job: Job) -> list[Recovered]:
    """M and the beacon from the template; row spaces do the rest."""
    public, readings = job.session.public, []
    for one, on, tokens in zip(job.caches, job.solved_on, job.victims, strict=True):
        started = perf_counter()
        secrets = template.secrets_of(public, on, 0, tokens.template, BLOCK_TOKENS)
        found = membership.membership(public, one, secrets.feature, axis=secrets.axis)
        readings.append(
            Recovered(found.tokens, found.start, tried=found.tried, wall_s=perf_counter() - started)
        )
    return readings


def by_fused(job: Job) -> list[Recovered]:
    """M from the server's weights; neither template nor beacon is used."""
    feature = feature_of(job.session.public, job.session.fused(), 0)
    return [membership.membership(job.session.public, one, feature) for one in job.caches]


ATTACK: Final[dict[str, Callable[[Job], list[Recovered]]]] = {
    "collision": by_collision,
    "inversion": by_inversion,
    "inverter": by_inverter,
    "injection": by_injection,
    "template": by_template,
    "chosen": by_chosen,
    "membership": by_membership,
    "fused": by_fused,
}
