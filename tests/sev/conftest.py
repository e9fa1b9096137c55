"""What the tests of sev share: real reports (../shared/data, not part of the project) and emulated platforms."""

from pathlib import Path

import pytest

from sev.certificates import Certificate
from sev.platform import Platform
from sev.revocation import Crl

PRODUCTS = ("milan", "genoa", "turin")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real reports, roots and CRLs; skips where it is absent."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "sev"
    if not folder.is_dir():
        pytest.skip("real reports are not here: ../shared/data/sev is absent")
    return folder


@pytest.fixture(scope="session")
def real_pairs(real_data: Path) -> list[Path]:
    """Folders of a real report with its leaf."""
    pairs = sorted((real_data / "pairs").iterdir())
    assert len(pairs) >= 24
    return pairs


@pytest.fixture(scope="session")
def amd_chain(real_data: Path) -> list[Certificate]:
    """AMD's ARKs, ASKs and ASVKs."""
    return [Certificate.decode(file.read_bytes()) for file in sorted((real_data / "roots").glob("*.der"))]


@pytest.fixture(scope="session")
def amd_crls(real_data: Path) -> list[Crl]:
    """AMD's CRLs."""
    return [Crl.decode(file.read_bytes()) for file in sorted((real_data / "crl").glob("*.crl"))]


@pytest.fixture(scope="session")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Platform]:
    """One emulated platform of each product."""
    folder = tmp_path_factory.mktemp("platforms")
    return {product: Platform.new(folder / product, product) for product in PRODUCTS}


@pytest.fixture(scope="session")
def turin(platforms: dict[str, Platform]) -> Platform:
    """An emulated Turin."""
    return platforms["turin"]


@pytest.fixture(scope="session")
def milan(platforms: dict[str, Platform]) -> Platform:
    """An emulated Milan."""
    return platforms["milan"]
