"""The benchmark of sealing and obfuscating: its keys, its peers, its bars. No times are judged."""

from __future__ import annotations

from safekv.bench.cloak import BARS, Bar, CloakPlan, _judged, operations, run

PLAN = CloakPlan(sizes_bytes=(8192, 262144), budget_bytes=1 << 18, rounds=(3, 5))


def test_every_operation_at_every_size_with_its_peer() -> None:
    heard: list[tuple[int, int]] = []
    result = run(PLAN, lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2), (1, 2)]
    whats = [one.what for one in operations(1024)]
    assert [(row["size_bytes"], row["what"]) for row in result["rows"]] == [
        (size, what) for size in PLAN.sizes_bytes for what in whats
    ]
    for row in result["rows"]:
        assert 0 < row["gb_per_s"] <= row["gb_per_s_best"]
        assert row.get("peer") in {None, *whats}
    assert {bar["what"] for bar in result["bars"]} <= set(whats)
    assert any("LMCache" in one for one in result["missing"])


def test_a_bar_is_judged_by_its_worst_size_and_only_where_it_holds() -> None:
    rows = [
        {"what": "vault_seal", "size_bytes": size, "ratio": {"value": value}}
        for size, value in ((8, 0.1), (256, 0.95), (512, 0.91))
    ]
    assert _judged(Bar("vault_seal", 0.9, 256), rows) | {"met": True, "worst_ratio": 0.91} == (
        _judged(Bar("vault_seal", 0.9, 256), rows)
    )
    assert _judged(Bar("vault_seal", 0.9, 8), rows)["met"] is False
    assert _judged(Bar("nothing", 0.9, 8), rows) == {
        "what": "nothing",
        "least": 0.9,
        "from_bytes": 8,
        "worst_ratio": None,
        "met": False,
    }
    assert all(bar.from_bytes == 256 * 1024 for bar in BARS)
