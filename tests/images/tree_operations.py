"""Random operations on a tree of files, for comparing one FileSystem with another."""

from hypothesis import strategies as st

from images.errors import DeviceFailure, FileSystemError
from images.tree import DIRECTORY, File

NAMES = st.sampled_from(
    ["a", "B", "c.txt", "A", "C.TXT", "ä", "Ä", "a rather long name.efi", "A RATHER long.EFI", "x+y"]
)
Operation = tuple[str, list[str], list[str], int, bytes]
OPERATIONS: st.SearchStrategy[list[Operation]] = st.lists(
    st.tuples(
        st.sampled_from(["create", "mkdir", "write", "resize", "delete", "rename", "read"]),
        st.lists(NAMES, min_size=1, max_size=3),
        st.lists(NAMES, min_size=1, max_size=3),
        st.integers(0, 140_000),
        st.binary(max_size=300),
    ),
    max_size=40,
)


def contents(directory: File) -> dict[str, object]:
    found: dict[str, object] = {}
    for info in directory.entries():
        if info.name not in {".", ".."}:
            node = directory.open(info.name)
            found[info.name.upper()] = contents(node) if node.is_dir else node.read(0, info.size)
    return found


def apply(root: File, operation: Operation) -> object:
    kind, parts, others, number, data = operation
    path = "\\" + "\\".join(parts)
    try:
        if kind == "create":
            root.open(path, write=True, create=True)
        elif kind == "mkdir":
            root.open(path, write=True, create=True, attributes=DIRECTORY)
        elif kind == "read":
            return root.open(path).read(number, 1000)
        elif kind == "write":
            root.open(path, write=True).write(number, data)
        elif kind == "resize":
            root.open(path, write=True).set_info(size=number)
        elif kind == "delete":
            root.open(path, write=True).delete()
        else:
            root.open(path, write=True).set_info(name="\\" + "\\".join(others))
    except (FileSystemError, DeviceFailure) as error:
        return type(error)
    return None
