"""The version of this program, from the metadata of the installed package."""


def version() -> str:
    """Such as "0.1.0"; "unknown" in a tree that was never installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("cvmboot")
    except PackageNotFoundError:
        return "unknown"
