"""`cvmboot measure inspect`: what a firmware image, or an IGVM file, says about itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.measure_settings import measuring, read_file

if TYPE_CHECKING:
    from sev.measure import Firmware

SCHEMA = "cvmboot.measure.inspect/1"
_VOLUMES_SECONDS = 30
_MOST_OUTPUT = 16 << 20


def inspect_firmware(path: Path, modules: bool, as_json: bool) -> None:
    """Write the tables of an image to standard output. CvmbootError for a file that is none."""
    from cvmboot.measure_igvm import inspect_igvm
    from sev.measure import Firmware
    from sev.measure.igvm import LARGEST_FILE, MAGIC

    with measuring(str(path)):
        data = read_file(path, LARGEST_FILE)
        if data[:4] == MAGIC:
            inspect_igvm(path, data, as_json)
            return
        firmware = Firmware(data)
        plain = _tables(firmware)
    plain["volumes"], plain["volumes_missing"] = _volumes(path)
    sys.stdout.write(json.dumps(plain, indent=2) + "\n" if as_json else _words(plain, modules))


def _tables(firmware: "Firmware") -> dict[str, Any]:
    from sev.measure import firmware_digest
    from sev.measure.firmware import SEV_ES_RESET_BLOCK, TABLE_NAMES
    from sev.measure.launch_digest import PAGE_SIZE

    data = firmware.data
    hash_table = firmware.hash_table_gpa
    sections = firmware.sections
    return {
        "schema": SCHEMA,
        "size": len(data),
        "address": f"{firmware.gpa:#x}",
        "sha384": firmware.sha384,
        "snp_ovmf_hash": None if len(data) % PAGE_SIZE else firmware_digest(firmware).value.hex(),
        "reset_vector": data[-16:].hex(),
        "ap_reset_address": f"{firmware.reset_address:#x}" if SEV_ES_RESET_BLOCK in firmware.table else None,
        "kernel_hashes_address": None if hash_table is None else f"{hash_table:#x}",
        "footer": [
            {"guid": guid, "name": TABLE_NAMES.get(guid, "unknown"), "data": entry.hex()}
            for guid, entry in firmware.table.items()
        ],
        "sev_metadata": None
        if sections is None
        else [
            {"address": f"{section.gpa:#x}", "size": f"{section.size:#x}", "type": section.kind, "name": section.name}
            for section in sections
        ],
    }


def _volumes(path: Path) -> tuple[list[dict[str, Any]] | None, str | None]:
    """The firmware volumes, or why they are not listed.

    A process of its own reads them: the library has decompressors in C, and the image may be hostile.
    """
    command = [sys.executable, "-m", "cvmboot.measure_volumes", str(path.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_VOLUMES_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"reading the volumes took more than {_VOLUMES_SECONDS} s"
    except OSError as error:
        return None, f"no process to read the volumes: {error.strerror}"
    if done.returncode or len(done.stdout) > _MOST_OUTPUT:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return None, last[0][:200] if last else f"the reader of volumes ended with status {done.returncode}"
    volumes: list[dict[str, Any]] = json.loads(done.stdout)
    return volumes, None


def _words(plain: dict[str, Any], modules: bool) -> str:
    lines = [
        f"size              {plain['size']} bytes, at {plain['address']}",
        f"SHA-384           {plain['sha384']}",
        f"SNP OVMF hash     {plain['snp_ovmf_hash'] or 'none: not a multiple of 4096 bytes'}",
        f"reset vector      {plain['reset_vector']}",
        f"AP reset address  {plain['ap_reset_address'] or 'none: one processor only'}",
        f"kernel hashes     {plain['kernel_hashes_address'] or 'none: measures no kernel'}",
        "footer table" if plain["footer"] else "footer table      none",
        *(f"  {item['guid']}  {item['name']:21}{_short(item['data'])}" for item in plain["footer"]),
    ]
    if plain["sev_metadata"] is None:
        lines.append("SEV metadata      none: not built for SEV-SNP")
    else:
        lines.append("SEV metadata")
        lines.extend(f"  {item['address']:>10} {item['size']:>9}  {item['name']}" for item in plain["sev_metadata"])
    if plain["volumes"] is None:
        lines.append(f"firmware volumes  not listed: {plain['volumes_missing']}")
    else:
        lines.append("firmware volumes" if plain["volumes"] else "firmware volumes  none found")
        for volume in plain["volumes"]:
            inner = "  " * volume["depth"]
            count = len(volume["modules"])
            lines.append(
                f"  {inner}{volume['guid']} {volume['size']:>9} bytes, {count} module{'' if count == 1 else 's'}"
            )
            if modules:
                lines.extend(
                    f"    {inner}{item['guid']} {item['size']:>9}  {item['type']:22} {item['name']}".rstrip()
                    for item in volume["modules"]
                )
    return "\n".join(lines) + "\n"


def _short(digits: str) -> str:
    return digits if len(digits) <= 32 else f"{digits[:32]}..."
