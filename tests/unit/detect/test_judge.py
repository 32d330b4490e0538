"""Stage 3: what it is asked, what it may decide, and what it takes to be believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

pytest.importorskip("httpx")

from safekv.cli.detect import detect
from safekv.clock import Clock
from safekv.detect.base import LOOK_AHEAD, Document, Finding
from safekv.detect.cascade import STAGE_FAILED, Cascade
from safekv.detect.config import DetectConfig
from safekv.detect.judge import Judge
from safekv.detect.judge.endpoint import Endpoint, read_key
from safekv.detect.judge.question import MARK, VERSION, question, score, tokens
from safekv.detect.judge.record import Record, read_record, usable_record, write_record
from safekv.detect.judge.validate import Case, auroc, interval, read_cases, record_of
from safekv.errors import ConfigError, DetectorError
from safekv.types import Verdict

P, S, U = Verdict.PRIVATE, Verdict.SHAREABLE, Verdict.UNSURE
DOUBT = Finding(U, "classifier-person", 0.4)
CLEAN = Finding(S, "clean")

GOOD = Record(
    model="m", question=VERSION, auroc=1.0, auroc_low=0.96, auroc_high=1.0, threshold=0.5,
    private_cases=60, other_cases=60, missed=0.0, cleared=0.9, cases_sha256="0" * 64,
    created="2020-01-01T00:00:00+00:00",
)  # fmt: skip


class Model:
    """Answers as `says` does, and remembers what it was asked."""

    model = "m"

    def __init__(self, says: Callable[[str], str]) -> None:
        self.says = says
        self.asked: list[str] = []

    def ask(self, text: str, timeout_s: float) -> str:
        assert timeout_s > 0
        self.asked.append(text)
        return self.says(text)


class Ticking:
    """A clock that moves by `step_s` whenever it is read."""

    def __init__(self, step_s: float) -> None:
        self.at_s = 0.0
        self.step_s = step_s

    def now_s(self) -> float:
        self.at_s += self.step_s
        return self.at_s


class Fixed:
    """A stage that says the same of every document."""

    name = "fixed"

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings

    def judge(self, document: Document) -> Sequence[Finding]:
        return self.findings


def judge(
    model: Model | None,
    record: Record | None = GOOD,
    budget: int = 100_000,
    clock: Clock | None = None,
) -> Judge:
    return Judge(model, record, time_limit_s=5.0, tokens_per_minute=budget, clock=clock)


def decided(stage: Judge, *stages: Fixed, text: str = "aaaabbbbcccc") -> list[Finding]:
    cascade = Cascade([*stages, stage], lambda name, reason: None)
    return cascade.judge(Document(text, (4, 8, 12)))


def test_only_what_is_in_doubt_is_asked_about_and_decided() -> None:
    model = Model(lambda text: "0" if "<<<bbbb>>>" in text else "9")
    secret = Finding(P, "card")
    found = decided(judge(model), Fixed(secret, DOUBT, DOUBT), Fixed(CLEAN, CLEAN, CLEAN))
    assert [one.verdict for one in found] == [P, S, P]
    assert found[0] is secret
    assert [one.rule for one in found[1:]] == ["judge-clean", "judge-private"]
    assert len(model.asked) == 2


@pytest.mark.parametrize("unseen", [LOOK_AHEAD, STAGE_FAILED, Finding(U, "undecodable")])
def test_what_nobody_looked_at_is_never_cleared(unseen: Finding) -> None:
    model = Model(lambda text: "0")
    for stages in (
        [Fixed(unseen, unseen, unseen), Fixed(DOUBT, DOUBT, DOUBT)],
        [Fixed(DOUBT, DOUBT, DOUBT), Fixed(unseen, unseen, unseen)],
    ):
        assert [one.verdict for one in decided(judge(model), *stages)] == [U] * 3
    assert not model.asked


def test_alone_it_clears_nothing() -> None:
    assert [one.verdict for one in decided(judge(Model(lambda text: "0")))] == [U] * 3


def test_without_a_record_everything_in_doubt_is_private_and_nothing_is_asked() -> None:
    model = Model(lambda text: "0")
    found = decided(judge(model, record=None), Fixed(DOUBT, CLEAN, DOUBT))
    assert [one.verdict for one in found] == [P, S, P]
    assert not model.asked


@pytest.mark.parametrize("answer", ["", "no", "I think 3", "-1", "none"])
def test_an_answer_without_a_digit_is_a_veto(answer: str) -> None:
    found = decided(judge(Model(lambda text: answer)), Fixed(DOUBT, CLEAN, CLEAN))
    assert found[0].verdict is P


def test_a_score_at_the_threshold_is_a_veto() -> None:
    at = replace(GOOD, threshold=score("4"))
    for answer, verdict in (("3", S), ("4", P), ("5", P)):
        stage = judge(Model(lambda text, said=answer: said), at)
        assert decided(stage, Fixed(DOUBT, CLEAN, CLEAN))[0].verdict is verdict


def test_a_judge_that_fails_leaves_the_doubt() -> None:
    def fails(text: str) -> str:
        raise DetectorError("no answer")

    found = decided(judge(Model(fails)), Fixed(DOUBT, CLEAN, CLEAN))
    assert [one.verdict for one in found] == [U, S, S]
    assert found[0].confidence == 0.0


def test_a_late_answer_counts_for_nothing() -> None:
    late = judge(Model(lambda text: "0"), clock=Ticking(3.0))
    assert decided(late, Fixed(DOUBT, DOUBT, DOUBT))[0].verdict is U


def test_equal_questions_are_asked_once_and_a_budget_ends_them() -> None:
    model = Model(lambda text: "0")
    documents = [Document("aaaabbbb", (4, 8))] * 3
    cost = tokens(question(documents[0], 0))
    stage = judge(model, budget=2 * cost + 9)
    found = stage.decide(documents, [[0], [0], [0]])
    assert len(model.asked) == 1
    assert all(one[0].verdict is S for one in found)
    more = stage.decide([Document("aaaaccccdddd", (4, 8, 12))], [[0, 1, 2]])
    assert [one.verdict for one in more[0].values()] == [S, U, U]


def test_the_budget_comes_back_after_a_minute() -> None:
    clock = Ticking(0.0)
    cost = tokens(question(Document("aaaa", (4,)), 0))
    stage = judge(Model(lambda text: "0"), budget=cost, clock=clock)
    verdicts = []
    for at_s in (0.0, 59.0, 61.0):
        clock.at_s = at_s
        verdicts.append(stage.decide([Document("aaaa", (4,))], [[0]])[0][0].verdict)
    assert verdicts == [S, U, S]


def test_its_own_questions_are_not_asked_about_again() -> None:
    """The served model may be the judge: its prompts come back to the detector."""
    model = Model(lambda text: "0")
    own = question(Document("aaaa", (4,)), 0)
    found = judge(model).decide([Document(own, (len(own),))], [[0]])
    assert found[0][0].verdict is P
    assert not model.asked


def test_a_question_shows_the_block_and_what_is_around_it() -> None:
    document = Document("x" * 2000 + "BLOCK" + "y" * 2000, (2000, 2005))
    asked = question(document, 1)
    assert "<<<BLOCK>>>" in asked
    assert asked.count("x") < 700
    assert asked.count("y") < 400
    assert asked.startswith(MARK)
    assert question(Document("\ud83d", (1,)), 0).encode()


def test_an_arbiter_that_answers_wrongly_decides_nothing() -> None:
    class Wrong(Judge):
        def decide(self, documents, doubtful):  # type: ignore[no-untyped-def, override]
            return [{7: CLEAN}]

    failures: list[str] = []
    stage = Wrong(None, None, time_limit_s=1.0, tokens_per_minute=1)
    cascade = Cascade([Fixed(DOUBT, DOUBT, DOUBT), stage], lambda name, why: failures.append(why))
    assert [f.verdict for f in cascade.judge(Document("aaaabbbbcccc", (4, 8, 12)))] == [U] * 3
    assert failures == ["ValueError"]


# -- the record ----------------------------------------------------------------------------


def test_areas_and_their_intervals() -> None:
    assert auroc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert auroc([1.0], [1.0]) == 0.5
    assert auroc([0.0, 2.0], [1.0]) == 0.5
    low, high = interval(0.5, 50, 50)
    assert 0.37 < low < 0.41
    assert 0.59 < high < 0.63
    low, high = interval(1.0, 50, 50)
    assert 0.9 < low < 0.97
    assert high == 1.0


def test_a_good_judge_passes_and_a_guessing_one_does_not() -> None:
    cases = [Case(f"text {n}", n % 2 == 0) for n in range(120)]
    good = record_of("m", cases, [1.0 if one.private else 0.0 for one in cases], "0")
    assert good.refusal() is None
    assert (good.threshold, good.cleared) == (1.0, 1.0)
    flat = record_of("m", cases, [0.5] * 120, "0")
    assert "AUROC" in str(flat.refusal())
    few = record_of("m", cases[:60], [float(one.private) for one in cases[:60]], "0")
    assert "fewer than 50" in str(few.refusal())
    assert "another question" in str(replace(good, question="old").refusal())
    outlier = [0.0 if n == 0 else float(one.private) for n, one in enumerate(cases)]
    assert "no case" in str(record_of("m", cases, outlier, "0").refusal())


def test_a_record_is_signed_and_bound_to_its_model(tmp_path: Path) -> None:
    env = {"SAFEKV_HOME": str(tmp_path / "home")}
    path = tmp_path / "judge.json"
    write_record(path, GOOD, env)
    assert usable_record(path, "m", env) == GOOD
    with pytest.raises(ConfigError, match="is of the model 'm', not 'other'"):
        usable_record(path, "other", env)
    said = json.loads(path.read_text())
    said["record"]["threshold"] = 0.99
    path.write_text(json.dumps(said))
    with pytest.raises(ConfigError, match="not signed with this deployment's key"):
        read_record(path, env)
    other = {"SAFEKV_HOME": str(tmp_path / "elsewhere")}
    write_record(path, GOOD, other)
    with pytest.raises(ConfigError, match="not signed"):
        read_record(path, env)


def test_a_refused_record_does_not_start(tmp_path: Path) -> None:
    env = {"SAFEKV_HOME": str(tmp_path)}
    write_record(tmp_path / "judge.json", replace(GOOD, auroc_low=0.4), env)
    with pytest.raises(ConfigError, match="does not let 'm' clear anything"):
        usable_record(tmp_path / "judge.json", "m", env)
    for content in ("", "{}", "[1]", '{"record": 1, "hmac": "", "format": 1}'):
        (tmp_path / "judge.json").write_text(content)
        with pytest.raises(ConfigError, match="damaged"):
            read_record(tmp_path / "judge.json", env)


@pytest.mark.parametrize(
    "line", ["7", "{}", '{"text": "", "private": true}', '{"text": "a", "private": 1}', "nonsense"]
)
def test_a_bad_case_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"text": "a", "private": true}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"cases\.jsonl:2"):
        read_cases(path)


def test_cases_of_one_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"text": "a", "private": true}\n')
    with pytest.raises(ConfigError, match="needs private cases and others"):
        read_cases(path)


# -- over HTTP -----------------------------------------------------------------------------


@contextmanager
def served(answer: Callable[[str], object]) -> Iterator[str]:
    """An OpenAI-compatible server whose answer's content is `answer(question)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            said = answer(asked["messages"][0]["content"])
            good = self.headers["authorization"] == "Bearer sk" and said is not None
            body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200 if good else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_endpoint_answers_or_raises_without_the_text() -> None:
    with served(lambda text: {"good": "7", "number": 7}.get(text)) as url:
        assert Endpoint(url, "m", "sk").ask("good", 5.0) == "7"
        for text, key in (("number", "sk"), ("other", "sk"), ("good", "bad")):
            with pytest.raises(DetectorError) as caught:
                Endpoint(url, "m", key).ask(text, 5.0)
            assert text not in str(caught.value)
    with pytest.raises(DetectorError):
        Endpoint("http://127.0.0.1:1/v1", "m").ask("good", 1.0)
    with pytest.raises(ConfigError, match="judge_url"):
        Endpoint("127.0.0.1", "m")


def test_a_key_file_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may use it"):
        read_key(path)
    path.chmod(0o600)
    assert read_key(path) == "sk"


def test_validation_from_the_command_line_to_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path / "home"))
    cases, key, record = tmp_path / "cases.jsonl", tmp_path / "key", tmp_path / "judge.json"
    cases.write_text(
        "\n".join(json.dumps({"text": f"text {n}", "private": n < 60}) for n in range(120))
    )
    key.write_text("sk")
    key.chmod(0o600)
    common = ["validate-judge", "--labelled", str(cases), "--model", "m", "--key-file", str(key)]

    def ran(says: Callable[[str], str]) -> tuple[int, dict[str, object]]:
        with served(says) as url:
            arguments = [*common, "--url", url, "--out", str(record), "--json"]
            result = CliRunner().invoke(detect, arguments)
        return result.exit_code, json.loads(result.stdout)

    def knows(text: str) -> str:
        number = int(text.partition("<<<text ")[2].partition(">>>")[0])
        return "9" if number < 60 else "0"

    assert ran(lambda text: "5")[0] == 1
    with pytest.raises(ConfigError, match="AUROC"):
        usable_record(record, "m", {"SAFEKV_HOME": str(tmp_path / "home")})
    code, said = ran(knows)
    assert (code, said["auroc"], said["may_clear"]) == (0, 1.0, True)
    with served(lambda text: "0") as url:
        config = DetectConfig(
            stages=("judge",),
            judge_url=url,
            judge_model="m",
            judge_key_file=key,
            judge_record=record,
        )
        found = Judge.from_config(config).decide([Document("aaaa", (4,))], [[0]])
    assert found[0][0].verdict is S


def test_a_stage_without_an_endpoint_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="judge_url"):
        Judge.from_config(DetectConfig(stages=("judge",)))
