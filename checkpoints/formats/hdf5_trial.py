"""Walk through an HDF5 file as its readers will, in a process that may crash.

    python -I hdf5_trial.py SECONDS MEMORY PATH OFFSET SIZE

The HDF5 library trusts a file's structure: a damaged heap makes it read an attribute for ever, others end the process.
Every reader of HDF5 here walks the file in a process of its own first, limited to SECONDS of processor time and MEMORY
bytes. It exits with 0 also where h5py raises, which the reader will meet and report. SIZE is 0 for the whole file.
Imports nothing of this package: it runs as a script.
"""

import io
import resource
import sys
from collections.abc import Iterator
from typing import Any

import h5py

_MOST_OBJECTS = 200_000
_ATTRIBUTE_BYTES = 64 << 20


def walk(file: Any) -> None:
    """Look at every attribute and every array's properties; read the arrays that are kept in chunks."""
    for place in _places(file):
        for name in list(place.attrs):
            if place.attrs.get_id(name).get_storage_size() <= _ATTRIBUTE_BYTES:
                place.attrs[name]
        if isinstance(place, h5py.Dataset) and not place.external and not place.is_virtual:
            stored = place.id.get_storage_size()
            if place.chunks is not None and place.nbytes <= max(64 << 20, 1000 * stored):
                for chunk in place.iter_chunks():
                    place[chunk]
            elif place.dtype.kind not in "fiub" and place.nbytes <= _ATTRIBUTE_BYTES:
                place[()]


def _places(file: Any) -> Iterator[Any]:
    """Every object that hard links lead to, once."""
    links, seen = [(file, "/")], set[Any]()
    for group, name in links:
        place = group[name]
        address = h5py.h5o.get_info(place.id).addr
        if address in seen or len(seen) > _MOST_OBJECTS:
            continue
        seen.add(address)
        yield place
        if isinstance(place, h5py.Group):
            links += [(place, link) for link in place if isinstance(place.get(link, getlink=True), h5py.HardLink)]


def main() -> None:
    """Open what the command line names; nothing is ever written."""
    path = sys.argv.pop(3)
    seconds, memory, offset, size = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        if size:
            with open(path, "rb") as whole:
                whole.seek(offset)
                with h5py.File(io.BytesIO(whole.read(size)), "r") as file:
                    walk(file)
        else:
            with h5py.File(path, "r") as file:
                walk(file)
    except MemoryError:
        sys.exit(1)
    except Exception:
        return


if __name__ == "__main__":
    main()
