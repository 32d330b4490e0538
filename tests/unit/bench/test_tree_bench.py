from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path

import pytest
from click.testing import CliRunner

from safekv.bench import tree
from safekv.bench.peers.process import HERE, Contender, ContenderLostError, Worker
from safekv.bench.tree_workloads import TreePlan, Workload, write_tokens
from safekv.cli import bench_tree
from safekv.errors import EngineError

TINY = TreePlan(
    pages=(1, 16),
    lengths=(1024,),
    length_calls=4,
    length_budget_tokens=4096,
    prefixes=4,
    sequences=64,
    full_matches=12,
    variant_matches=6,
    half_matches=6,
    leased_inserts=5,
    evict_calls=1,
    batches=3,
    curve=(40, 80),
    curve_calls=20,
    traced_sequences=50,
)

# A peer that stores nothing and claims to have found what was asked for.
ORACLE = """
import os
def tokens(item):
    return sum(stop - start for start, stop in item)
class Oracle:
    about = {"version": "1", "kind": "oracle"}
    def __init__(self, kind, make_op):
        self.kind, self.op, self.matches = kind, make_op, 0
    def open(self, case, tokens):
        pass
    def match(self, found):
        self.matches += 1
        if self.matches > 30 and self.kind == "dies":
            os._exit(7)
        if self.matches > 30 and self.kind == "raises":
            raise RuntimeError("out of luck")
        return found + (self.kind == "lies" and self.matches > 30)
    def ops(self):
        return {
            "match": self.op(tokens, self.match, lambda _, found: found),
            "insert": self.op(tokens, lambda n: n, lambda _, n: n),
        }
    def facts(self):
        return {}
def contender(kind, make_op):
    print("this must not be taken for an answer")
    if kind == "absent":
        import a_package_that_nobody_has
    return Oracle(kind, make_op)
"""


@pytest.fixture
def oracle(tmp_path: Path) -> Path:
    script = tmp_path / "oracle_worker.py"
    script.write_text(ORACLE)
    return script


def only(case: str) -> TreePlan:
    """One line of `TINY`, small enough for many tests."""

    class One(TreePlan):
        def workloads(self):  # type: ignore[no-untyped-def]
            return iter([self.line(case, 16, 1024)])

    return One(lengths=(1024,), sequences=0, half_matches=0, curve=(), traced_sequences=0)


def test_every_row_has_the_shape_of_the_record() -> None:
    record = json.loads(json.dumps(tree.measure(TINY, [tree.ours()])))
    assert record["peers"]["safekv"]["status"] == "measured"
    rows = record["ops"]
    assert {row["op"] for row in rows} >= {"match", "match_half", "insert", "evict"}
    assert {row["page_size"] for row in rows} == {1, 16}
    for row in rows:
        assert row["peers"] == {}
        assert 0 < row["median_us"] <= row["p99_us"]
        assert row["tokens"] > 0
        assert row["nodes"] > 0
    assert {(row["case"], row["gc"], row["salt"]) for row in rows if row["page_size"] == 16} == {
        ("1node", True, False),
        ("chain256", True, False),
        ("forks256", True, False),
        ("tree", False, False),
        ("tree", True, False),
        ("tree", False, True),
    }


def test_every_call_of_the_plan_is_made() -> None:
    rows = tree.measure(TINY, [tree.ours()])["ops"]
    expected = {
        (w.case, w.page, w.gc, w.salt is not None, step.label or step.op, step.tokens): len(
            step.items
        )
        for w in TINY.workloads()
        for step in w.steps
    }
    keys = ("case", "page_size", "gc", "salt", "op", "tokens")
    assert {tuple(row[key] for key in keys): row["samples"] for row in rows} == expected


def test_the_curve_reaches_every_size_and_memory_is_counted() -> None:
    record = tree.measure(TINY, [tree.ours()])
    assert [row["op"] for row in record["curve"]] == ["insert", "match", "evict"] * 2
    assert all(row["max_us"] >= row["p99_us"] >= row["median_us"] for row in record["curve"])
    first, last = record["curve"][0], record["curve"][-1]
    assert last["nodes"] > first["nodes"]
    (traced,) = [row for row in record["memory"] if row["how"] == "tracemalloc"]
    assert traced["nodes"] == 50
    assert traced["blocks"] == 50 * 17


def test_a_tree_of_forks_keeps_a_node_for_every_fork(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    write_tokens(tokens, TINY.file_tokens(), 0)
    facts = {}
    for case in ("1node", "forks256"):
        workload: Workload = TINY.line(case, 16, 1024)
        worker = Worker(tree.ours())
        try:
            worker.hello()
            shape = {"page": 16, "capacity_tokens": workload.capacity_tokens, "salt": None}
            request = {"do": "prepare", "case": shape, "tokens": str(tokens), "gc": True}
            facts[case] = worker.ask({**request, "build": workload.build})["facts"]
        finally:
            worker.close()
    assert facts["1node"]["nodes"] == 1
    # A node for each piece and each branch; behind the last piece the branch is its end.
    assert facts["forks256"]["nodes"] == 7
    assert facts["forks256"]["tokens"] == 1024 + 4 * 64


def test_slices_that_begin_on_a_mark_never_share_a_first_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    write_tokens(path, 600_000, 3)
    ids = array("i", path.read_bytes())
    assert len(ids) == 600_000
    marks = ids[::16]
    assert len(set(marks)) == len(marks)
    assert min(marks) > max(ids[1::16])


def test_the_same_seed_gives_the_same_tokens(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tokens(tmp_path / name, 4096, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_a_peer_is_measured_beside_us(oracle: Path) -> None:
    peer = Contender("oracle", sys.executable, oracle, "honest")
    record = tree.measure(only("1node"), [tree.ours(), peer])
    assert record["peers"]["oracle"] == {"status": "measured", "version": "1", "kind": "oracle"}
    with_peer = [row for row in record["ops"] if row["peers"]]
    assert [row["op"] for row in with_peer] == ["match"]
    (row,) = with_peer
    assert row["peers"]["oracle"]["samples"] == row["samples"] == 400
    assert set(row["peers"]["oracle"]["ratio"]) == {"value", "low", "high"}


def test_a_peer_is_measured_with_its_page_sizes_only(oracle: Path) -> None:
    peer = Contender("oracle", sys.executable, oracle, "honest", pages=(64,))
    record = tree.measure(only("1node"), [tree.ours(), peer])
    assert record["peers"]["oracle"]["status"] == "measured"
    assert all(row["peers"] == {} for row in record["ops"])


@pytest.mark.parametrize(
    ("kind", "status", "why"),
    [
        ("dies", "lost", "exited with status 7"),
        ("raises", "lost", "RuntimeError: out of luck"),
        ("lies", "wrong", "match of 1024 tokens gave a wrong result"),
        ("absent", "did not start", "ModuleNotFoundError"),
    ],
)
def test_a_peer_that_fails_is_reported_and_the_others_go_on(
    oracle: Path, kind: str, status: str, why: str
) -> None:
    contenders = [
        tree.ours(),
        Contender("bad", sys.executable, oracle, kind),
        Contender("good", sys.executable, oracle, "honest"),
    ]
    record = tree.measure(only("1node"), contenders)
    assert record["peers"]["bad"]["status"] == status
    assert why in record["peers"]["bad"]["why"]
    assert record["peers"]["good"]["status"] == "measured"
    (row,) = [row for row in record["ops"] if row["op"] == "match"]
    assert set(row["peers"]) == {"good"}
    assert row["samples"] == 400


def test_a_peer_that_is_not_given_is_not_installed_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = tree.run(only("1node"), {"sglang": "no-such-python"})
    assert {name: peer["status"] for name, peer in record["peers"].items()} == {
        "safekv": "measured",
        "sglang-rust": "did not start",
        "sglang-python": "did not start",
        "sglang-legacy": "did not start",
        "vllm-sha256": "not installed",
    }
    assert "--peer vllm=" in record["peers"]["vllm-sha256"]["hint"]
    assert "--peer sglang=" in record["peers"]["sglang-rust"]["hint"]


def test_without_safekv_there_is_nothing_to_compare(oracle: Path) -> None:
    with pytest.raises(EngineError, match="was lost: exited with status 7"):
        tree.measure(only("1node"), [Contender("safekv", sys.executable, oracle, "dies")])


def test_an_answer_that_never_comes_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, oracle: Path
) -> None:
    monkeypatch.setattr("safekv.bench.peers.process.START_S", 0.0)
    worker = Worker(Contender("slow", sys.executable, oracle, "honest"))
    try:
        with pytest.raises(ContenderLostError, match="no answer within 0 s"):
            worker.hello()
    finally:
        worker.close()


def test_no_process_is_left_behind(oracle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []
    start = Worker.__init__

    def remember(self: Worker, contender: Contender) -> None:
        start(self, contender)
        started.append(self)

    monkeypatch.setattr(Worker, "__init__", remember)
    with pytest.raises(EngineError):
        tree.measure(only("1node"), [Contender("safekv", sys.executable, oracle, "dies")])
    assert len(started) == 1
    assert all(worker._process.returncode is not None for worker in started)


def test_workers_of_peers_need_nothing_of_safekv() -> None:
    for name in ("wire.py", "sglang_worker.py", "vllm_worker.py"):
        source = (HERE / name).read_text()
        imports = [line for line in source.splitlines() if "import" in line and "safekv" in line]
        assert all(line.startswith("    ") for line in imports), f"{name} imports safekv"
        assert not imports or "if TYPE_CHECKING:" in source


def test_nearest_rank() -> None:
    assert tree.summary([n * 1000 for n in range(1, 101)]) == {
        "median_us": 50.5,
        "p99_us": 99.0,
        "samples": 100,
    }
    assert tree.summary([7000]) == {"median_us": 7.0, "p99_us": 7.0, "samples": 1}


@pytest.mark.parametrize(("n", "parts"), [(10, 3), (2, 5), (1, 1), (7, 7)])
def test_batches_hold_every_item_once_and_none_is_empty(n: int, parts: int) -> None:
    batches = tree.split(list(range(n)), parts)
    assert [item for batch in batches for item in batch] == list(range(n))
    assert all(batches)
    assert len(batches) == min(n, parts)


@pytest.mark.parametrize("peer", ["sglang", "sglang=", "lmdeploy=/usr/bin/python3", "=python"])
def test_a_peer_without_a_known_name_and_a_python_is_wrong_usage(peer: str) -> None:
    result = CliRunner().invoke(bench_tree.tree, ["--peer", peer])
    assert result.exit_code == 2
    assert "sglang, vllm" in result.output


def test_the_command_prints_one_object_and_appends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("safekv.bench.tree_workloads.quick_plan", lambda: TINY)
    out = tmp_path / "records.jsonl"
    out.write_text("{}\n")
    result = CliRunner().invoke(bench_tree.tree, ["--quick", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["environment"]["cores"] >= 1
    assert record["peers"]["vllm-sha256"]["status"] == "not installed"
    assert [json.loads(line) for line in out.read_text().splitlines()] == [{}, record]


def test_the_table_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safekv.bench.tree_workloads.quick_plan", lambda: TINY)
    result = CliRunner().invoke(bench_tree.tree, ["--quick"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "sglang-rust: not installed" in result.output
    assert "match_half" in result.output
