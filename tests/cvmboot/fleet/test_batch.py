"""`cvmboot attest verify --batch` as a person runs it: sources, lines, statuses, and records that are wrong."""

import base64
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_batch import PATIENCE, Run, lines_in

from sev.platform import Platform

Signed = Callable[[int], bytes]


def _summary(done: "subprocess.CompletedProcess[str]") -> str:
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cvmboot: ")
    assert "Traceback" not in done.stderr
    return last


def test_a_folder_says_what_single_files_say(
    batch: Run, roots: tuple[str, ...], signed: Signed, turin: Platform, tmp_path: Path
) -> None:
    folder = tmp_path / "evidence"
    (folder / "inner").mkdir(parents=True)
    (folder / "raw.bin").write_bytes(signed(1))
    (folder / "hex.txt").write_text(signed(2).hex())
    (folder / "inner" / "base64").write_bytes(base64.b64encode(signed(3)))
    changed = signed(4)[:0x50] + b"\1" + signed(4)[0x51:]
    (folder / "inner" / "changed.bin").write_bytes(changed)
    (folder / "with-table.bin").write_bytes(signed(5) + turin.certificate_table("vcek"))
    (folder / "debug.bin").write_bytes(turin.sign_report(turin.report(policy=0xB0000).encode()))
    (folder / "nothing.bin").write_bytes(b"nothing")
    (folder / "empty").write_bytes(b"")
    (folder / ".hidden").write_bytes(b"not looked at")
    os.mkfifo(folder / "pipe")
    done = batch(folder, *roots, "--full")
    lines = lines_in(done.stdout)
    assert sorted(lines) == [
        *("debug.bin", "empty", "hex.txt", "inner/base64", "inner/changed.bin", "nothing.bin", "pipe", "raw.bin"),
        "with-table.bin",
    ]
    single = [sys.executable, "-m", "cvmboot", "attest", "verify", "--json", "--offline"]
    single += ["--cache", str(tmp_path / "cache")]
    for name, line in lines.items():
        if name == "pipe":
            assert line["status"] == 1 and "not a regular file" in line["reason"]
            continue
        alone = subprocess.run(
            [*single, str(folder / name), *roots],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert line["status"] == alone.returncode, name
        assert line["verified"] == (alone.returncode == 0)
        verdict = json.loads(alone.stdout)
        if line["status"] == 3:
            assert line["failed"] == ["format"] and line["reason"] in verdict["reason"]
            continue
        # A day that ends between the two would be all that may differ.
        assert line["verdict"] == verdict, name
        assert line["reason"] == verdict["reason"]
        assert line["failed"] == [check["name"] for check in verdict["checks"] if check["outcome"] == "failed"]
    assert lines["raw.bin"]["chip"] == turin.settings.hwid.hex()
    assert lines["raw.bin"]["tcb"].startswith("fmcSPL=") and lines["raw.bin"]["emulated"]
    assert (lines["raw.bin"]["signer"], lines["raw.bin"]["line"]) == ("VCEK", "Turin")
    assert lines["debug.bin"]["status"] == 7 and lines["inner/changed.bin"]["status"] == 4
    # The smallest status other than 0 is the batch's.
    assert done.returncode == 1
    assert "9 records" in _summary(done) and "4 verified" in _summary(done)


def test_certificates_lie_beside_the_reports(
    batch: Run, roots: tuple[str, ...], turin: Platform, tmp_path: Path
) -> None:
    """A folder for each machine, as collectors write them, one of them as configfs-tsm has it."""
    other = Platform.load(turin.folder, hwid=b"cvmb5678")
    for name, platform in (("a", turin), ("b", other), ("c", other)):
        folder = tmp_path / "fleet" / name
        folder.mkdir(parents=True)
        file = "outblob" if name == "c" else "report.bin"
        (folder / file).write_bytes(platform.sign_report(platform.report().encode()))
        table = platform.certificate_table("vcek")
        (folder / ("auxblob" if name == "c" else "chain.table")).write_bytes(table)
        (folder / "provider").write_text("sev_guest")
    trust = roots[:2]
    done = batch(tmp_path / "fleet", *trust, "--match", "report.bin")
    assert done.returncode == 0, done.stdout
    assert sorted(lines_in(done.stdout)) == ["a/report.bin", "b/report.bin"]
    done = batch(tmp_path / "fleet" / "c", *trust)
    assert done.returncode == 0, done.stdout
    assert list(lines_in(done.stdout)) == ["outblob"]
    assert lines_in(done.stdout)["outblob"]["chip"] == other.settings.hwid.hex()


def test_json_lines_of_every_kind(
    batch: Run, roots: tuple[str, ...], signed: Signed, turin: Platform, tmp_path: Path
) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "one.bin").write_bytes(signed(1))
    text, digits = base64.b64encode(signed(1)).decode(), signed(1).hex()
    data, other = (number.to_bytes(64, "big").hex() for number in (1, 2))
    measured = signed(1)[0x90:0xC0].hex()
    pem = "".join(f"{piece}\n" for piece in _pem(turin))
    good = [
        {"id": "base64", "evidence": text},
        {"id": "hex", "report": digits},
        {"id": "path", "path": "reports/one.bin"},
        {"id": "data", "evidence": text, "report_data": data},
        {"id": "set", "evidence": text, "measurement": ["ab" * 48, measured], "x_rack": {"any": 1}},
        {"id": "pem", "evidence": text, "certificates": pem},
        {"id": "object", "evidence": {"attestation_report": text}},
        {"id": 7, "evidence": text},
    ]
    bad = [
        ({"id": "wrong data", "evidence": text, "report_data": other}, 7, "REPORT_DATA"),
        ({"id": "no value", "evidence": text, "report_data": "00"}, 3, "hex digits"),
        ({"id": "typo", "evidence": text, "reprot_data": data}, 3, "no such member 'reprot_data'"),
        ({"id": "wider", "evidence": text, "allow": ["debug"]}, 3, "no such member 'allow'"),
        ({"id": "both", "evidence": text, "path": "x"}, 3, "give one of them"),
        ({"id": "absent", "path": "reports/two.bin"}, 1, "No such file"),
        ({"id": "device", "path": "/dev/zero"}, 1, "not a regular file"),
        ({"id": "nul", "path": "a\0b"}, 3, "no name of a file"),
        ({"id": "number", "evidence": 5}, 3, "wanted hex, base64"),
        ({"id": "foreign", "evidence": text, "certificates": "no certificate"}, 3, ""),
        ({"id": "surrogate \udc80", "evidence": "\udc80"}, 3, ""),
    ]
    source = tmp_path / "in.jsonl"
    with source.open("wb") as file:
        for record in (*good, *(record for record, _, _ in bad)):
            file.write(json.dumps(record).encode() + b"\n")
        file.write(json.dumps(text).encode() + b"\r\n")  # nothing but the evidence
        file.write(json.dumps({"attestation_report": text}).encode() + b"\n\n")  # an object of some format
        first = len(good) + len(bad) + 4
        file.write(b'{"evidence": "\xff"}\n')
        file.write(b'{"id": "twice", "id": "twice"}\n')
        file.write(b"[" * 100_000 + b"\n")
        file.write(b'{"id": "monster", "evidence": "' + b"00" * (5 << 20) + b'"}\n')
        file.write(b'{"id": "half", "evid')
    done = batch(source, *roots)
    lines = lines_in(done.stdout)
    assert done.returncode == 1
    for name in (*(str(record["id"]) for record in good), f"line {first - 3}", f"line {first - 2}"):
        assert lines[name]["status"] == 0, lines[name]
    assert '"id":7,' in done.stdout  # as it was given
    for record, status, reason in bad:
        line = lines[str(record["id"])]
        assert line["status"] == status, line
        assert reason in line["reason"], line
    for number, reason in enumerate(("no UTF-8", "twice", "", "more than", "no JSON"), first):
        line = lines[f"line {number}"]
        assert line["status"] == 3 and reason in line["reason"], line
    assert len(lines) == len(good) + len(bad) + 7


def _pem(platform: Platform) -> list[str]:
    pieces = []
    for certificate in platform.certificates():
        body = base64.encodebytes(certificate.der).decode()
        pieces.append(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----")
    return pieces


def test_a_record_narrows_the_policy_and_never_widens_it(
    batch: Run, roots: tuple[str, ...], signed: Signed, tmp_path: Path
) -> None:
    text, measured = base64.b64encode(signed(1)).decode(), signed(1)[0x90:0xC0].hex()
    source = tmp_path / "in.jsonl"
    records = [
        {"id": "none", "evidence": text},
        {"id": "same", "evidence": text, "measurement": measured},
        {"id": "other", "evidence": text, "measurement": "ab" * 48},
        {"id": "both", "evidence": text, "measurement": [measured, "ab" * 48]},
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = batch(source, *roots, "--measurement", "cd" * 48)
    assert done.returncode == 7
    lines = lines_in(done.stdout)
    assert {line["status"] for line in lines.values()} == {7}
    assert "record" in lines["same"]["failed"]
    done = batch(source, *roots, "--measurement", measured)
    assert {name: line["status"] for name, line in lines_in(done.stdout).items()} == {
        "none": 0,
        "same": 0,
        "other": 7,
        "both": 0,
    }


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables(
    batch: Run, roots: tuple[str, ...], signed: Signed, turin: Platform, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "one.bin").write_bytes(signed(1))
    data = (1).to_bytes(64, "big").hex()
    source = tmp_path / f"in.{suffix}"
    pem = "\n".join(_pem(turin)) if suffix == "csv" else base64.b64encode(turin.leaf("vcek").der).decode()
    rows = [
        ["id", "path", "Report-Data", "certificates", "x_note"],
        ["path", "one.bin", data, "", "said, twice"],
        ["pem", "one.bin", "", pem, ""],
        ["wrong", "one.bin", "00" * 64, "", ""],
    ]
    with source.open("w", newline="") as file:
        csv.writer(file, delimiter="," if suffix == "csv" else "\t").writerows(rows)
        file.write("\n" if suffix == "csv" else "")
        file.write("too,many,cells,for,this,table\n" if suffix == "csv" else "too\tmany\tcells\tfor\tthis\ttable\n")
    with source.open("ab") as raw:
        raw.write(b"\xff\n")
        # One stray quotation mark costs its own row only.
        raw.write(
            b'stray,"one.bin\nlast,one.bin,,\n' if suffix == "csv" else b"stray\tone.bin\t\t\nlast\tone.bin\t\t\n"
        )
    done = batch(source, *roots)
    lines = lines_in(done.stdout)
    assert [lines[name]["status"] for name in ("path", "pem", "wrong", "last")] == [0, 0, 7, 0], done.stdout
    rest = {name: line for name, line in lines.items() if name not in ("path", "pem", "wrong", "last", "stray")}
    assert sorted(line["status"] for line in rest.values()) == ([3, 3, 3] if suffix == "csv" else [3, 3])
    assert done.returncode == 3


def test_standard_input_and_words_that_make_no_sense(
    batch: Run, roots: tuple[str, ...], signed: Signed, tmp_path: Path
) -> None:
    text = base64.b64encode(signed(1)).decode()
    done = batch("-", *roots, typed=f"id,evidence\nme,{text}\n")
    assert done.returncode == 0 and lines_in(done.stdout)["me"]["verified"]
    done = batch("-", *roots, typed="")
    assert done.returncode == 3 and "no records" in done.stderr.splitlines()[-1]
    odd = tmp_path / "odd.csv"
    odd.write_text("id,measurment\n1,2\n")
    file = tmp_path / "report.bin"
    file.write_bytes(signed(1))
    for status, words in (
        (2, (odd,)),
        (2, ("-", "--resume")),
        (2, ("-", "--match", "*.bin")),
        (2, ("-", "--cluster", "http://127.0.0.1:1")),
        (2, (file, file)),
        (2, (file, "--json")),
        (2, ("-", "--policy", odd)),
        (1, (tmp_path / "missing",)),
        (2, (file,)),
        (1, (tmp_path, "--output", tmp_path / "no" / "folder")),
    ):
        done = batch(*words, typed="")
        assert done.returncode == status, (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (words, done.stderr)
    single = [sys.executable, "-m", "cvmboot", "attest", "verify"]
    for more in ([str(file), "--resume"], [str(file), "--output", "x"], []):
        done = subprocess.run([*single, *more], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 2, done.stderr


def test_real_pairs(batch: Run, tmp_path: Path) -> None:
    """All of them offline; the documented defaults refuse the one with DEBUG, and the VLEK's year is over."""
    data = Path(__file__).resolve().parents[4] / "shared" / "data" / "sev"
    if not data.is_dir():
        pytest.skip("real reports are not here: ../shared/data/sev is absent")
    done = batch(data / "pairs", "--match", "*.bin", "--certs", data / "roots", "--at", "2026-08-19")
    lines = lines_in(done.stdout)
    assert len(lines) == len(list((data / "pairs").iterdir()))
    wrong = {name: line for name, line in lines.items() if line["status"]}
    assert sorted(line["status"] for line in wrong.values()) == [5, 7], wrong
    assert done.returncode == 5
    assert sorted({line["line"] for line in lines.values()}) == ["Genoa", "Milan", "Turin"]
