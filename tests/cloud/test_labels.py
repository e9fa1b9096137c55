"""Labels obey the stricter cloud's rules, whatever they are made of."""

import re

from hypothesis import given
from hypothesis import strategies as st

from cloud.labels import LONGEST_NAME, Labels, is_name, is_ours, is_run, name_from, new_run


@given(st.text())
def test_any_file_name_gives_a_name_that_clouds_take(text: str) -> None:
    assert is_name(name_from(text)) and len(name_from(text)) <= LONGEST_NAME


def test_a_name_stays_readable() -> None:
    assert name_from("Go_Boot v2") == "go-boot-v2"
    assert name_from("123 app2") == "app2"


def test_runs_differ_and_are_recognised() -> None:
    runs = {new_run() for _ in range(100)}
    assert len(runs) == 100 and all(map(is_run, runs))
    assert not is_run("../../etc/") and not is_run("ABCDEFGHIJ") and not is_run("abcdefghij\n")


@given(st.text(max_size=100))
def test_labels_are_fit_for_compute_engine(version: str) -> None:
    labels = Labels(new_run(), "app", "0" * 32, 1_700_000_000, "instance", version).as_dict()
    for key, value in labels.items():
        assert re.fullmatch("[a-z][a-z0-9_-]{0,62}", key)
        assert re.fullmatch("[a-z0-9_-]{1,63}", value)
    assert is_ours(labels)


def test_what_others_tagged_is_not_ours() -> None:
    assert not is_ours({})
    assert not is_ours({"cvmboot": "1", "cvmboot-run": "x", "cvmboot-name": "app"})
