"""`cvmboot platform`: makes, shows and serves emulated AMD platforms."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmboot.errors import CvmbootError, UsageError

if TYPE_CHECKING:
    from sev.platform import Platform

app = typer.Typer(
    help="Emulated AMD platforms: a chip with keys and certificates of AMD's structure.", no_args_is_help=True
)
_Folder = Annotated[Path, typer.Argument(help="The platform's folder.", metavar="DIR")]
_PRODUCTS = ("milan", "genoa", "turin")
_CERTIFICATES = ("ark", "ask", "asvk", "vcek", "vlek", "crl")
_FORMATS = ("pem", "der", "table")


def _load(folder: Path) -> "Platform":
    from sev.errors import SevError
    from sev.platform import Platform

    try:
        return Platform.load(folder)
    except SevError as error:
        raise CvmbootError(str(error)) from None


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(f"{option} {value}: wanted {', '.join(choices)}")
    return value


@app.command("new")
def new(
    folder: _Folder,
    product: Annotated[str, typer.Option("--product", help="milan, genoa or turin.", metavar="NAME")] = "turin",
    tcb: Annotated[
        list[str] | None,
        typer.Option(
            "--tcb", help="A patch level: blSPL=4, teeSPL, snpSPL, ucodeSPL, fmcSPL; may be repeated.", metavar="SPL=N"
        ),
    ] = None,
    hwid: Annotated[
        str | None, typer.Option("--hwid", help="The chip's identity; default random.", metavar="HEX")
    ] = None,
    firmware: Annotated[
        str | None, typer.Option("--firmware", help="Firmware version, such as 1.55.61.", metavar="X.Y.Z")
    ] = None,
    vlek: Annotated[bool, typer.Option("--vlek", help="Load the VLEK: reports are then signed by it.")] = False,
    csp_id: Annotated[
        str | None, typer.Option("--csp-id", help="CSP id in the VLEK certificate.", metavar="TEXT")
    ] = None,
) -> None:
    """Make a platform: chip, ARK, ASK, ASVK, VCEK, VLEK. Its private keys stay in the folder."""
    from sev.errors import SevError
    from sev.platform import Platform

    _one_of("--product", product, _PRODUCTS)
    settings: dict[str, Any] = {"load_vlek": vlek}
    if hwid is not None:
        settings["hwid"] = _hex("--hwid", hwid)
    if firmware is not None:
        parts = firmware.split(".")
        if len(parts) != 3 or not all(part.isdecimal() and part.isascii() and len(part) < 4 for part in parts):
            raise UsageError(f"--firmware {firmware}: wanted major.minor.build, such as 1.55.61")
        settings["firmware"] = tuple(map(int, parts))
    if csp_id is not None:
        settings["csp_id"] = csp_id
    if tcb:
        settings["tcb"] = _tcb(product, tcb)
    try:
        platform = Platform.new(folder, product, **settings)
    except SevError as error:
        raise CvmbootError(str(error)) from None
    sys.stdout.write(f"{folder}: emulated {platform.settings.line.name}, HWID {platform.settings.hwid.hex()}\n")


def _hex(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{option} {text[:40]}: wanted hexadecimal digits, two for each byte") from None


def _tcb(product: str, given: list[str]) -> bytes:
    """TCB_VERSION of the product's default with these levels in it."""
    from sev.errors import SevError
    from sev.platform.settings import MODELS
    from sev.tcb import KDS_NAMES, Tcb

    names = {kds: name for name, kds in KDS_NAMES.items()}
    levels = dict(MODELS[product].spl)
    for word in given:
        name, _, level = word.partition("=")
        if name not in names or not level.isdecimal() or not level.isascii() or len(level) > 3:
            raise UsageError(f"--tcb {word}: wanted SPL=LEVEL with one of {', '.join(names)}")
        levels[names[name]] = int(level)
    try:
        return Tcb.of(MODELS[product].line, **levels).raw
    except SevError as error:
        raise UsageError(f"--tcb: {error}") from None


@app.command("show")
def show(folder: _Folder, as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """Show what a platform is, and the fingerprints of its certificates."""
    from sev.errors import SevError
    from sev.tcb import Tcb

    platform = _load(folder)
    plain = platform.settings.to_json()
    try:
        plain["certificates"] = {kind: ca.sha256 for kind, ca in platform.authority().certificates.items()}
    except SevError as error:
        raise CvmbootError(str(error)) from None
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    line = platform.settings.line
    for name, value in plain.items():
        if name == "certificates":
            for kind, digest in value.items():
                sys.stdout.write(f"{kind + ' SHA-256':20} {digest}\n")
        elif name.endswith("_tcb"):
            sys.stdout.write(f"{name.replace('_', ' '):20} {value}  {Tcb(bytes.fromhex(value), line)}\n")
        elif name in ("platform_info", "mitigation_vector"):
            sys.stdout.write(f"{name.replace('_', ' '):20} {value:#x}\n")
        elif isinstance(value, list):
            sys.stdout.write(f"{name.replace('_', ' '):20} {'.'.join(map(str, value))}\n")
        else:
            sys.stdout.write(f"{name.replace('_', ' '):20} {value}\n")


@app.command("export")
def export(
    folder: _Folder,
    form: Annotated[
        str, typer.Option("--format", help="pem, der (one certificate) or table (as guests get it).", metavar="FORM")
    ] = "pem",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to; default standard output.")] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            "--certificate",
            help="Only this one: ark, ask, asvk, vcek, vlek, crl. Default: all; der: vcek.",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """Write a platform's certificates, never its private keys."""
    from sev.errors import SevError
    from sev.kds import pem
    from sev.platform import VCEK, VLEK

    _one_of("--format", form, _FORMATS)
    if certificate is not None:
        _one_of("--certificate", certificate, _CERTIFICATES)
    platform = _load(folder)
    try:
        if form == "table":
            if certificate not in (None, VCEK, VLEK):
                raise UsageError("--format table holds a leaf and its chain: --certificate vcek or vlek")
            data = platform.certificate_table(certificate or platform.default_key)
        else:
            ders = {each.kind.lower(): each.der for each in platform.certificates()} | {"crl": platform.crl()}
            if form == "der":
                data = ders[certificate or VCEK]
            else:
                wanted = [certificate] if certificate else ["vcek", "vlek", "ask", "asvk", "ark", "crl"]
                data = b"".join(pem("X509 CRL" if name == "crl" else "CERTIFICATE", ders[name]) for name in wanted)
    except SevError as error:
        raise CvmbootError(str(error)) from None
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise CvmbootError(f"{output}: {error.strerror}") from None


@app.command("kds")
def kds(
    folder: _Folder,
    port: Annotated[
        int, typer.Option("--port", help="TCP port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    interval: Annotated[
        float,
        typer.Option(
            "--interval", help="Answer 429 to VCEK requests that come faster.", min=0, max=3600, metavar="SECONDS"
        ),
    ] = 0,
) -> None:
    """Serve a platform's certificates over HTTP as AMD's KDS does, until Ctrl-C. The first line of output is the address."""
    from cvmboot.cli import complain
    from sev.errors import SevError
    from sev.kds import HOST, KdsServer

    platform = _load(folder)
    try:
        platform.authority()
        server = KdsServer(platform, port, interval, complain)
    except SevError as error:
        raise CvmbootError(str(error)) from None
    except OSError as error:
        raise CvmbootError(f"port {port} of {HOST}: {error.strerror}") from None
    with server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
