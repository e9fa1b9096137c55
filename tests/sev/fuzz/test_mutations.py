"""100,000 changed inputs over every parser of sev: no crash, no hang, no error but our own, nothing valid that nobody signed.

Hypothesis draws a number for each batch of inputs that mutator.py makes: drawn byte by byte they would take ten times as long.
The seed of a failing batch and the very input are printed; the input can be put among the seeds of its target.
"""

import base64

import pytest
from fuzz_targets import REFUSED, VALID, Target, real_seeds, targets
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from mutator import Mutator

from sev.platform import Platform

BATCH = 50
# How many of 100,000 each target gets: more where an input takes less time, or where more can go wrong.
SHARES = {
    **{"reports": 20_000, "evidence": 14_000, "certificates": 12_000, "certificate tables": 8_000, "bundles": 6_000},
    **{"CRLs": 8_000, "policy files": 8_000, "IGVM files": 10_000, "OVMF files": 8_000, "ID blocks": 2_000},
    **{"guest messages": 2_000, "KDS requests": 2_000},
}
FAST_SHARE = 40


@pytest.fixture(scope="session")
def by_name(milan: Platform, turin: Platform, request: pytest.FixtureRequest) -> dict[str, Target]:
    """The targets; with seeds of real hardware where they are."""
    found = {target.name: target for target in targets(milan, turin)}
    assert found.keys() == SHARES.keys() and sum(SHARES.values()) == 100_000
    for name, seeds in real_seeds(request.config.rootpath.parent / "shared" / "data" / "sev").items():
        found[name].seeds += seeds
    return found


def _run(target: Target, count: int) -> dict[str, int]:
    """Run a target for `count` changed inputs; how often it gave what."""
    outcomes = {VALID: 0, REFUSED: 0}

    @settings(max_examples=max(1, count // BATCH), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, (1 << 64) - 1))
    def batches(seed: int) -> None:
        mutator = Mutator(target.seeds, seed)
        for number in range(BATCH):
            data = mutator.next()
            try:
                outcomes[target.run(data, repaired=number % 2 == 0)] += 1
            except BaseException:
                note(f"{target.name}: input {number} of {len(data)} bytes, base64: {base64.b64encode(data).decode()}")
                raise

    batches()
    return outcomes


@pytest.mark.parametrize("name", SHARES)
def test_seeds_are_valid_and_few_changes_are(name: str, by_name: dict[str, Target]) -> None:
    """What is not changed is taken, or else the search would start from nothing; and then a share of the 100,000."""
    target = by_name[name]
    for seed in target.seeds:
        assert target.run(seed) == VALID
    outcomes = _run(target, SHARES[name] // FAST_SHARE)
    assert outcomes[REFUSED]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SHARES)
def test_100_000_changed_inputs(name: str, by_name: dict[str, Target]) -> None:
    outcomes = _run(by_name[name], SHARES[name])
    assert sum(outcomes.values()) >= SHARES[name]
    # Both happen: a target that refuses everything would have found nothing.
    assert outcomes[VALID] and outcomes[REFUSED]
