"""Journals that were cut off or damaged: what is whole is read, and what is not is named with its line."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState
from tests.fuzz.examples import damaged, fuzzed

from graft.errors import ConfigError
from graft.sweep.storage import open_storage


def opened(file: Path) -> Any:
    open_storage.cache_clear()
    return open_storage(str(file))


def trials(file: Path) -> dict[str, list[FrozenTrial]]:
    """Every trial of every study."""
    storage = opened(file)
    return {study.study_name: storage.get_all_trials(study._study_id) for study in storage.get_all_studies()}


def finished(file: Path) -> list[tuple[str, FrozenTrial]]:
    return [(name, trial) for name, found in trials(file).items() for trial in found if trial.state.is_finished()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a sweep leaves: trials that wait, run, failed, were pruned and are complete, with what is said of them."""
    file = tmp_path_factory.mktemp("journal") / "whole"
    storage = opened(file)
    for name in ("sweep", "sweep/1"):
        study = optuna.create_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler(seed=0))
        study.set_user_attr("graft.identity", {"digest": "a", "parts": {"größe": "1"}})
        for number, state in enumerate((TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE)):
            study.enqueue_trial({}, user_attrs={"graft.number": number})
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            trial.suggest_categorical("kind", ["a", "b"])
            trial.report(0.5, 1)
            trial.set_user_attr("graft.attempt", 0)
            study.tell(trial, number + 0.5 if state == TrialState.COMPLETE else None, state)
        study.ask()
        study.enqueue_trial({"x": 0.25})
    return file.read_bytes()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "study.journal"


def write_on(file: Path) -> None:
    """Another trial, which everybody finds afterwards."""
    study = optuna.create_study(storage=opened(file), study_name="another", load_if_exists=True)
    before = len(study.trials)
    study.tell(study.ask(), 7.0)
    found = trials(file)["another"]
    assert len(found) == before + 1
    assert found[-1].value == 7.0


@fuzzed("journal", 60, 1_500)
@given(st.integers(0, 1_000_000), st.sampled_from([b"", b"\0" * 512, b"{", b'{"op_code":4,"wor', b"\xff\xfe", b"\r"]))
def test_a_journal_that_was_cut_off_has_all_that_was_finished_before(
    whole: bytes, file: Path, place: int, torn: bytes
) -> None:
    kept = whole[: place % (len(whole) + 1)]
    file.write_bytes(kept[: kept.rfind(b"\n") + 1])
    wanted = finished(file)
    assert len(wanted) == len(re.findall(rb'"op_code":6,[^\n]*"state":[^0\n][^\n]*\n', kept)) > -1
    file.write_bytes(kept + torn)
    assert finished(file) == wanted
    write_on(file)
    assert [each for each in finished(file) if each[0] != "another"] == wanted


@fuzzed("journal", 30, 500)
@given(st.integers(0, 1_000_000), st.integers(1, 60))
def test_what_a_writer_left_of_a_line_costs_nobody_elses(whole: bytes, file: Path, place: int, length: int) -> None:
    """As where a disk is full for a moment: the others have the journal open and go on writing."""
    file.write_bytes(whole[: whole.find(b"\n", place % len(whole)) + 1])
    storage = opened(file)
    study = optuna.create_study(storage=storage, study_name="another")
    wanted = finished(file)
    with file.open("ab") as torn:
        torn.write(b'{"op_code":5,"worker_id":"x","trial_id":0,"param_name":"x"}'[:length])
    study.tell(study.ask(), 7.0)
    assert [each for each in finished(file) if each[0] != "another"] == wanted
    assert trials(file)["another"][-1].value == 7.0


FOREIGN = st.one_of(
    st.sampled_from(
        [b"", b"null", b"[]", b"5", b'"op_code"', b"{}", b'{"op_code":99}', b'{"op_code":4}', b"NaN", b"\xff\xfe"]
    ),
    st.sampled_from(
        [b'{"op_code":6,"worker_id":"x","trial_id":0,"state":9,"values":null}', b"9" * 5_000, b"[" * 100_000]
    ),
    st.sampled_from(
        [b"<<<<<<< HEAD", b"x: 1", b'{"op_code":0,"worker_id":"x","study_name":1,"directions":5}', b"\0" * 600]
    ),
    st.binary(max_size=30),
    st.dictionaries(
        st.sampled_from(
            ["op_code", "worker_id", "trial_id", "study_id", "state", "values", "user_attr", "datetime_start"]
        ),
        st.one_of(st.none(), st.integers(-1, 11), st.text(max_size=3), st.lists(st.integers(), max_size=2)),
    ).map(lambda log: json.dumps(log).encode()),
)


@st.composite
def edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What happens to the lines of a journal."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("insert", "replace", "drop", "double", "swap")),
                st.integers(0, 999),
                st.integers(0, 999),
                FOREIGN,
            ),
            min_size=1,
            max_size=4,
        )
    )

    def edit(data: bytes) -> bytes:
        lines = data.split(b"\n")[:-1]
        for what, first, second, foreign in steps:
            one, other = first % len(lines), second % len(lines)
            match what:
                case "insert":
                    lines.insert(one, foreign)
                case "replace":
                    lines[one] = foreign
                case "drop" if len(lines) > 1:
                    del lines[one]
                case "double":
                    lines.insert(other, lines[one])
                case "swap":
                    lines[one], lines[other] = lines[other], lines[one]
        return b"".join(line + b"\n" for line in lines)

    return edit


def read_or_told(file: Path, data: bytes) -> None:
    """Everything can be read; or the first damaged line is named, and what is before it can be read."""
    for _ in range(data.count(b"\n") + 1):
        file.write_bytes(data)
        try:
            found = trials(file)
            repr(found)
            write_on(file)
            return
        except ConfigError as error:
            said = re.search(r"line (\d+)", str(error))
            assert said is not None, error
            assert str(file) in str(error)
            assert len(str(error)) < 1_000
            lines = data.split(b"\n")
            number = int(said[1])
            assert 1 <= number <= len(lines)
            data = b"".join(line + b"\n" for line in lines[: number - 1])
    raise AssertionError("the lines before the one that is named were not whole")


@fuzzed("journal", 60, 1_500)
@given(edits())
def test_a_line_that_does_not_belong_there_is_named(whole: bytes, file: Path, edit: Callable[[bytes], bytes]) -> None:
    read_or_told(file, edit(whole))


@fuzzed("journal", 60, 1_500)
@given(st.data())
def test_any_damage_is_named_with_its_line(whole: bytes, file: Path, data: st.DataObject) -> None:
    read_or_told(file, data.draw(damaged(st.just(whole))))


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    logging.getLogger("optuna").setLevel(logging.ERROR)
