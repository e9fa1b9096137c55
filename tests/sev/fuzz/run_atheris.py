"""Fuzzes one target with atheris, guided by the coverage of sev: python tests/sev/fuzz/run_atheris.py TARGET [libFuzzer options].

README.md beside this file says how; docs/FUZZING.md what came of it. The targets are those of test_mutations.py.
"""

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "measure"), str(HERE.parents[2])]

with atheris.instrument_imports(include=["sev", "asn1crypto", "loader", "images"]):
    import asn1crypto.crl
    import asn1crypto.x509  # noqa: F401
    from fuzz_targets import REFUSED, VALID, Target, real_seeds, targets
    from more_targets import NAMES
    from more_targets import target as more_target
    from mutator import Mutator

    from sev.platform import Platform


def chosen(name: str, folder: Path) -> Target:
    """The target of that name. Ends the program, with a list of all names, if there is none."""
    if name in NAMES:
        with atheris.instrument_imports(include=["loader", "images"]):
            return more_target(name)
    platforms = [Platform.new(folder / product, product) for product in ("milan", "turin")]
    known = {target.name: target for target in targets(*platforms)}
    if name not in known:
        sys.exit(f"which target? One of: {', '.join([*known, *NAMES])}")
    known[name].seeds += real_seeds(HERE.parents[3] / "shared" / "data" / "sev").get(name, [])
    return known[name]


def main() -> None:
    """Run the target that the first word names."""
    with tempfile.TemporaryDirectory() as folder:
        target = chosen(" ".join(sys.argv[1:2]), Path(folder))
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / f"{number:04}").write_bytes(seed)
        outcomes = {VALID: 0, REFUSED: 0}

        def one_input(data: bytes) -> None:
            outcomes[target.run(data, repaired=True)] += 1
            total = sum(outcomes.values())
            if not total & (total - 1):
                sys.stderr.write(f"{total} inputs, {outcomes[VALID]} valid\n")

        def change(data: bytes, most: int, seed: int) -> bytes:
            """Half of the changes are libFuzzer's, half those of mutator.py, which know words, lengths and DER."""
            if seed & 1:
                return bytes(atheris.Mutate(data, most))
            return Mutator(target.seeds, seed).change(data)[:most]

        largest = max(map(len, target.seeds)) + 4096
        atheris.Setup(
            [sys.argv[0], *sys.argv[2:], f"-max_len={largest}", str(corpus)], one_input, custom_mutator=change
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
