"""Samples -> tars, byte for byte the same on every run, and a set that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridle.errors import EnvironmentFault, UsageError
from bridle.sharding.manifest import FILE, Manifest, Shard

_PARTIAL = ".partial-"
_REPLACED = ".replaced-"


class TarWriter:
    """Fills `NAME-000000.tar`, `NAME-000001.tar`, ... in one folder.

    Args:
        folder: exists; the tars are written into it.
        name: of the set.
        max_bytes: a tar is closed before it grows over this; a larger single sample has one of its own.
    """

    def __init__(self, folder: Path, name: str, max_bytes: int) -> None:
        self.shards: list[Shard] = []
        self._folder, self._name, self._max_bytes = folder, name, max_bytes
        self._tar: tarfile.TarFile | None = None
        self._file: _HashedFile | None = None
        self._samples = 0

    def add(self, key: str, suffix: str, content: bytes, meta: dict[str, Any]) -> None:
        """Append `KEY.suffix` and `KEY.json`."""
        text = json.dumps(meta, ensure_ascii=True).encode("ascii")  # escapes names that are no valid Unicode too
        grown = sum(_padded(len(part)) + tarfile.BLOCKSIZE for part in (content, text)) + tarfile.RECORDSIZE
        if self._file is not None and self._file.tell() + grown > self._max_bytes:
            self.close()
        if self._tar is None:
            path = self._folder / f"{self._name}-{len(self.shards):06d}.tar"
            self._file = _HashedFile(path)
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]
        _append(self._tar, f"{key}.{suffix}", content)
        _append(self._tar, f"{key}.json", text)
        self._samples += 1

    def close(self) -> None:
        """Finish the open tar; does nothing when there is none."""
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        size = self._file.tell()
        self._file.finish()
        self.shards.append(Shard(self._file.path.name, self._samples, size, self._file.hash.hexdigest()))
        self._tar, self._file, self._samples = None, None, 0

    def abandon(self) -> None:
        """Close the file of an unfinished tar."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.file.close()


class _HashedFile:
    """A new file that knows the hash of what was written to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.hash = path, open(path, "wb"), hashlib.sha256()  # noqa: SIM115

    def write(self, content: bytes) -> int:
        self.hash.update(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.file.tell()

    def finish(self) -> None:
        """On the disk, not only on its way there."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse an output that would be lost.

    Raises:
        UsageError: a set is there and may not be replaced, or other files are.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder", "Choose another --out.")
    if (out / FILE).exists():
        if not overwrite:
            raise UsageError(f"{out} already holds a set of shards", "Replace it with --overwrite, or choose --out.")
        return
    others = sorted(entry.name for entry in out.iterdir() if not _is_ours(entry.name)) if out.exists() else []
    if others:
        raise UsageError(
            f"{out} holds files that are no set of shards: {', '.join(others[:3])}", "Choose another --out."
        )


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A temporary folder inside `out`, gone afterwards whatever happens, and `out` too if it is empty then.

    Raises:
        EnvironmentFault: no space, no permission.
    """
    created = not out.exists()
    partial = out / f"{_PARTIAL}{os.getpid()}"
    try:
        try:
            partial.mkdir(parents=True)
            _remove_leftovers(out)
            yield partial
        except OSError as error:
            raise _fault(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):
                out.rmdir()


def publish(partial: Path, out: Path, manifest: Manifest, overwrite: bool) -> None:
    """Move a finished set from `partial` to `out`, the manifest last; the set it replaces goes only then."""
    with open(partial / FILE, "w", encoding="utf-8") as file:
        file.write(manifest.to_json())
        file.flush()
        os.fsync(file.fileno())
    check_output(out, overwrite)
    replaced = out / f"{_REPLACED}{os.getpid()}"
    moved: list[tuple[Path, Path]] = []  # (from, to), undone backwards on failure
    try:
        if (out / FILE).exists():
            replaced.mkdir()
            for path in [out / FILE, *_old_shards(out)]:
                _move(path, replaced / path.name, moved)
        for shard in manifest.shards:
            _move(partial / shard.file, out / shard.file, moved)
        _move(partial / FILE, out / FILE, moved)
    except BaseException:
        for source, target in reversed(moved):
            os.rename(target, source)
        with contextlib.suppress(OSError):
            replaced.rmdir()
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    if target.exists():
        raise FileExistsError(errno.EEXIST, "a file of that name appeared meanwhile", str(target))
    os.rename(source, target)
    moved.append((source, target))


def _old_shards(out: Path) -> list[Path]:
    """The tars that the set to be replaced owns; if its manifest is unreadable, every tar beside it."""
    try:
        names = [shard["file"] for shard in json.loads((out / FILE).read_text(encoding="utf-8"))["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        return sorted(out.glob("*.tar"))
    return [out / name for name in names if os.path.basename(name) == name and (out / name).is_file()]


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time stay 0: the same input gives the same bytes
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _is_ours(name: str) -> bool:
    return name.startswith((_PARTIAL, _REPLACED))


def _remove_leftovers(out: Path) -> None:
    """Folders of runs that were killed. `.replaced-` without a manifest beside it is the only copy: kept."""
    for entry in out.iterdir():
        owner = entry.name.removeprefix(_PARTIAL)
        if entry.name.startswith(_PARTIAL) and owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(entry, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _fault(out: Path, error: OSError) -> EnvironmentFault:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(
            f"no space left while writing shards to {out}", "Free some space or choose another --out."
        )
    return EnvironmentFault(f"cannot write shards to {out}: {error.strerror or error}", "Choose another --out.")
