"""Whole audits over HTTP, of an endpoint whose leaks are known because they are set."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from safekv.audit.endpoint.content import Writer
from safekv.audit.endpoint.judge import Rules, Verdict
from safekv.audit.endpoint.line import Line, Place
from safekv.audit.endpoint.observation import Channel, Content, Scope
from safekv.audit.endpoint.plan import Keys, Plan
from safekv.audit.endpoint.session import Outcome, Session
from safekv.audit.endpoint.wire import Api, Form
from safekv.cli.main import run
from safekv.errors import SafeKVError
from support.leaky_endpoint import Behaviour, endpoint

KEYS = Keys("key-a", "key-b")
RULES = Rules(looks=1)
PLAN = Plan(
    contents=(Content.PROSE,),
    blocks=36,
    crowd=0,
    batch=10,
    prompt_tokens=40,
    settle_s=0.0,
    rate_per_s=0.0,
    rules=RULES,
)


def audited(behaviour: Behaviour, plan: Plan = PLAN, keys: Keys = KEYS) -> Outcome:
    with endpoint(behaviour) as url:
        return session(behaviour, url, plan, keys).run()


def session(behaviour: Behaviour, url: str, plan: Plan = PLAN, keys: Keys = KEYS) -> Session:
    place = Place(url, "mock", timeout_s=10)
    clock = behaviour.clock
    return Session(place, keys, plan, lambda done, of: None, clock.advance, clock)


def verdicts(outcome: Outcome) -> dict[tuple[Scope, Channel], Verdict]:
    return {(f.scope, f.channel): f.verdict for f in outcome.findings}


def everybody(tenant: str) -> str:
    return "all"


def test_a_shared_cache_leaks_by_time_usage_and_header() -> None:
    outcome = audited(Behaviour(group=everybody, cache_header=True))
    assert outcome.verdict is Verdict.LEAK
    found = verdicts(outcome)
    for channel in (Channel.TTFT, Channel.TOTAL, Channel.CACHED, Channel.HEADERS):
        assert found[Scope.OTHER, channel] is Verdict.LEAK
    assert found[Scope.OTHER, Channel.ERRORS] is not Verdict.LEAK
    (ttft,) = [f for f in outcome.findings if (f.scope, f.channel) == (Scope.OTHER, Channel.TTFT)]
    assert ttft.effect.auc is not None
    assert ttft.effect.auc > 0.9


def test_an_isolated_cache_does_not_leak() -> None:
    outcome = audited(Behaviour())
    found = verdicts(outcome)
    assert found[Scope.SAME_KEY, Channel.TTFT] is Verdict.LEAK, "the positive control was not seen"
    assert found[Scope.OTHER, Channel.TTFT] is not Verdict.LEAK
    assert outcome.verdict is Verdict.NO_LEAK, outcome.reason


def test_an_endpoint_that_slows_every_second_request_raises_no_alarm() -> None:
    """The trap of a fixed probe order: the arms would be one fast, one slow throughout."""
    outcome = audited(Behaviour(every_second_s=0.05))
    found = verdicts(outcome)
    assert found[Scope.NEGATIVE, Channel.TTFT] is Verdict.NO_LEAK
    assert found[Scope.OTHER, Channel.TTFT] is not Verdict.LEAK


CROWDED = replace(PLAN, blocks=28, crowd=6)
SLOW = Behaviour(hit_s=0.005, queue=6, tell_cached=False)


def test_a_shared_cache_leaks_by_the_order_of_service_alone() -> None:
    outcome = audited(replace(SLOW, group=everybody), CROWDED)
    found = verdicts(outcome)
    assert found[Scope.OTHER, Channel.ORDER] is Verdict.LEAK
    assert found[Scope.OTHER, Channel.TTFT] is not Verdict.LEAK, "times were meant to be equal"
    assert outcome.verdict is Verdict.LEAK


def test_an_isolated_cache_is_not_betrayed_by_order() -> None:
    outcome = audited(replace(SLOW), CROWDED)
    found = verdicts(outcome)
    assert found[Scope.SAME_KEY, Channel.ORDER] is Verdict.LEAK, "the own cache must show"
    assert found[Scope.NEGATIVE, Channel.ORDER] is Verdict.NO_LEAK
    assert found[Scope.OTHER, Channel.ORDER] is not Verdict.LEAK


@pytest.mark.parametrize("unsteady_every", [0, 4])
def test_answers_that_change_on_a_hit_leak(unsteady_every: int) -> None:
    behaviour = Behaviour(group=everybody, drifts=True, unsteady_every=unsteady_every)
    assert verdicts(audited(behaviour))[Scope.OTHER, Channel.DRIFT] is Verdict.LEAK


def test_answers_that_change_by_themselves_do_not() -> None:
    outcome = audited(Behaviour(drifts=True, unsteady_every=3))
    found = verdicts(outcome)
    assert found[Scope.SAME_KEY, Channel.DRIFT] is Verdict.LEAK, "the own key's hits must show"
    assert found[Scope.OTHER, Channel.DRIFT] is not Verdict.LEAK


def test_a_line_keeps_its_connection() -> None:
    behaviour = Behaviour()
    with endpoint(behaviour) as url, Line(Place(url, "mock"), Form(Api.CHAT), "key-a") as line:
        for number in range(4):
            assert line.ask(f"text {number}").outcome == "200"
    assert behaviour.connections == 1


def test_a_refused_request_takes_the_places_of_its_crowd() -> None:
    outcome = audited(Behaviour(limit_every=7), CROWDED)
    places = [f.samples for f in outcome.findings if f.channel is Channel.ORDER]
    assert outcome.verdict is not Verdict.LEAK
    assert all(count < PLAN.blocks // 2 for count in places)


@pytest.mark.parametrize("crowd", [1, 4, 65, -1])
def test_a_crowd_of_an_impossible_size_is_refused(crowd: int) -> None:
    with pytest.raises(SafeKVError, match="crowd is"):
        Plan(crowd=crowd)


def test_without_a_cache_nothing_is_concluded() -> None:
    assert audited(Behaviour(caching=False)).verdict is Verdict.INCONCLUSIVE


def test_a_leak_smaller_than_what_could_be_seen_is_not_called_absent() -> None:
    few = Plan(contents=(Content.PROSE,), blocks=6, crowd=0, settle_s=0, rate_per_s=0, rules=RULES)
    assert audited(Behaviour(), few).verdict is Verdict.INCONCLUSIVE


def test_a_cache_per_organisation_is_told_from_a_global_one() -> None:
    by_organisation = {"a": "one", "c": "one", "b": "two"}
    keys = Keys("key-a", "key-b", "key-c")
    outcome = audited(Behaviour(group=by_organisation.__getitem__), keys=keys)
    found = verdicts(outcome)
    assert found[Scope.ORGANISATION, Channel.TTFT] is Verdict.LEAK
    assert found[Scope.OTHER, Channel.TTFT] is not Verdict.LEAK


def test_requests_without_a_key_are_judged_where_they_are_answered() -> None:
    keys = Keys("key-a", "key-b", anonymous=True)
    outcome = audited(Behaviour(group=everybody, anonymous=True), keys=keys)
    assert verdicts(outcome)[Scope.ANONYMOUS, Channel.TTFT] is Verdict.LEAK
    refused = audited(Behaviour(), keys=keys)
    assert refused.environment["scopes"] == ["other-tenant"]
    assert any("without a key are refused" in note for note in refused.environment["notes"])


def test_contents_meant_to_be_shared_are_measured_and_not_judged() -> None:
    shared = Plan(
        contents=(Content.TEMPLATE,),
        shared=frozenset({Content.TEMPLATE}),
        blocks=36,
        crowd=0,
        settle_s=0,
        rate_per_s=0,
        rules=RULES,
    )
    outcome = audited(Behaviour(group=everybody), shared)
    assert verdicts(outcome)[Scope.OTHER, Channel.TTFT] is Verdict.LEAK
    assert outcome.verdict is Verdict.INCONCLUSIVE, "with nothing else there is nothing to judge"


def test_every_prompt_is_probed_once_and_controls_are_new() -> None:
    behaviour = Behaviour(miss_s=0.0, hit_s=0.0)
    audited(behaviour)
    texts = [json.dumps(body["messages"]) for body in behaviour.bodies]
    counts = [texts.count(text) for text in set(texts)]
    again = PLAN.blocks // 2
    assert set(counts) == {1, 2, 3}, "a prime, a probe, and in every second round once more"
    assert counts.count(3) == 2 * again, "own and other's prompts"
    assert counts.count(2) == 2 * (PLAN.blocks - again) + 2 * again, "and those nobody primed"


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(stream=False),
        Behaviour(usage=False),
        Behaviour(limit_every=7),
        Behaviour(tell_cached=False, group=everybody),
    ],
    ids=["no stream", "no usage", "rate limit", "no cached tokens"],
)
def test_poorer_endpoints_are_still_judged(behaviour: Behaviour) -> None:
    outcome = audited(behaviour)
    leaks = behaviour.group is everybody
    assert outcome.verdict is (Verdict.LEAK if leaks else Verdict.NO_LEAK), outcome.reason


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (Behaviour(garbage="<html>hello</html>"), "not JSON"),
        (Behaviour(garbage='{"choices": 7}'), "choices"),
        (Behaviour(garbage="[" * 100_000), "JSON"),
        (Behaviour(fail_every=2), "failed"),
        (Behaviour(fail_every=1), "500"),
        (Behaviour(limit_every=1), "429"),
        (Behaviour(hang_s=0.4), "time-out"),
    ],
)
def test_broken_endpoints_are_never_called_safe(behaviour: Behaviour, says: str) -> None:
    with endpoint(behaviour) as url, pytest.raises(SafeKVError) as raised:
        Session(Place(url, "mock", timeout_s=0.2), KEYS, PLAN, print).run()
    assert raised.value.exit_code == 3
    assert says in raised.value.message


def test_prompts_of_a_class_start_differently_and_have_equal_length() -> None:
    writer = Writer(3)
    for content in Content:
        texts = [writer.write(content, 60) for _ in range(50)]
        assert {len(text.split()) for text in texts} == {60}
        assert len({text[:60] for text in texts}) == 50, content


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def key_files(tmp_path: Path) -> list[str]:
    (tmp_path / "a").write_text("key-a\n")
    (tmp_path / "b").write_text("key-b\n")
    return ["--key", str(tmp_path / "a"), "--other-key", str(tmp_path / "b")]


@pytest.fixture
def leaky() -> Iterator[str]:
    with endpoint(Behaviour(group=everybody)) as url:
        yield url


QUICK = ["--content", "prose", "--blocks", "20", "--settle", "0", "--rate", "0", "--looks", "1"]
QUICK += ["--crowd", "0"]
KEYS_OF_A_FINDING = {
    *("scope", "content", "channel", "verdict", "auc", "auc_ci", "tpr_at_fpr", "ks_p"),
    *("minimal_detectable_auc", "samples"),
}


def test_the_command_reports_a_leak_everywhere(
    leaky: str, key_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html = tmp_path / "page.html"
    status = run(["audit", leaky, *key_files, *QUICK, "--json", "--html", str(html)])
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert (status, record["verdict"]) == (1, "leak")
    assert set(record) == {"verdict", "findings", "environment"}
    assert all(set(finding) == KEYS_OF_A_FINDING for finding in record["findings"])
    page = html.read_text()
    assert "This endpoint leaks prompts" in page
    assert "cache_salt" in page
    assert "src=" not in page
    assert not any(key in shown.out + shown.err + page for key in ("key-a", "key-b"))

    (tmp_path / "r.json").write_text(shown.out)
    assert run(["audit", "--compare", *[str(tmp_path / "r.json")] * 2]) == 1
    assert "before: leak, after: leak" in capsys.readouterr().out


def test_a_table_is_for_people(
    leaky: str, key_files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", leaky, *key_files, *QUICK]) == 1
    assert "leak: prompts can be confirmed: other-tenant/prose" in capsys.readouterr().out


def test_a_dry_run_sends_nothing(key_files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = "http://127.0.0.1:9/v1"
    assert run(["audit", nowhere, *key_files, "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["example_prompts"]) == {content.value for content in Content}
    assert run(["audit", nowhere, *key_files, "--dry-run"]) == 0
    assert "requests at most: 5237" in capsys.readouterr().out


def test_wrong_use_is_told_without_the_key(
    leaky: str, key_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("sk-nobody-knows")
    cases = [
        ["audit", leaky],
        ["audit", leaky, "--key", "sk-a-key-itself", "--other-key", key_files[3]],
        ["audit", leaky, "--key", "env:NO_SUCH_NAME", "--other-key", key_files[3]],
        ["audit", leaky, *key_files[:2]],
        ["audit", leaky, *key_files[:2], "--other-key", key_files[1]],
        ["audit", leaky, "--key", str(wrong), "--other-key", key_files[3]],
        ["audit", leaky, *key_files[:2], "--other-key", str(wrong), *QUICK],
        ["audit", leaky, *key_files, "--content", "novels"],
        ["audit", leaky, *key_files, "--blocks", "1"],
        ["audit", leaky, *key_files, "--alpha", "2"],
        ["audit", "http://me:sk-a-key-itself@127.0.0.1/v1", *key_files],
        ["audit", "ftp://127.0.0.1/v1", *key_files],
        ["audit", "--compare", str(wrong), str(wrong)],
        ["audit"],
    ]
    for case in cases:
        assert run(case) == 2, case
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert not any(key in shown.err for key in ("sk-nobody", "sk-a-key", "key-a", "key-b"))


def test_an_endpoint_that_is_down_or_has_a_bad_certificate_is_inconclusive(
    key_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", "http://127.0.0.1:9/v1", *key_files]) == 3
    assert "cannot be reached" in capsys.readouterr().err
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(pem.read_text() + key.read_text())
    with endpoint(Behaviour(group=everybody), both) as url:
        assert run(["audit", url, *key_files, *QUICK]) == 3
        assert "TLS" in capsys.readouterr().err
        assert run(["audit", url, *key_files, *QUICK, "--ca", str(pem)]) == 1
