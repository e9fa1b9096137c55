"""`cvmboot demo` boots what ships with the program."""


def test_demo(cvmboot):
    done = cvmboot("demo")
    assert done.returncode == 0
    assert b"Hello from an EFI application!" in done.stdout
    assert b"FAILED" not in done.stdout
    assert done.stderr == b""
