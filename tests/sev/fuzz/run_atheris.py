"""Fuzzes one target with atheris, guided by the coverage of sev: python tests/sev/fuzz/run_atheris.py TARGET [libFuzzer options].

README.md beside this file says how; docs/FUZZING.md what came of it. The targets are those of test_mutations.py.
"""

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "measure"), str(HERE.parents[2])]

with atheris.instrument_imports(include=["sev", "asn1crypto"]):
    import asn1crypto.crl
    import asn1crypto.x509  # noqa: F401
    from fuzz_targets import REFUSED, VALID, real_seeds, targets
    from mutator import Mutator

    from sev.platform import Platform


def main() -> None:
    """Run the target that the first word names."""
    name = " ".join(sys.argv[1:2])
    with tempfile.TemporaryDirectory() as folder:
        platforms = [Platform.new(Path(folder, product), product) for product in ("milan", "turin")]
        known = {target.name: target for target in targets(*platforms)}
        if name not in known:
            sys.exit(f"which target? One of: {', '.join(known)}")
        target = known[name]
        target.seeds += real_seeds(HERE.parents[3] / "shared" / "data" / "sev").get(name, [])
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
