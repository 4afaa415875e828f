"""Writing that is never half done: a temporary name first, then one rename."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2lab.errors import UserError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "it is on a read-only file system; choose another output folder",
    errno.EACCES: "permission is denied; choose a folder you may write to",
    errno.EPERM: "permission is denied; choose a folder you may write to",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another output folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def writing_failed(path: Path, error: OSError) -> UserError:
    """The sentence for an OSError met while writing to `path`."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"cannot write {path}: {reason}")


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, else it is removed.

    Raises UserError if `path` is a folder or a device, which no file may take the place of.
    """
    if not path.name or (path.exists() and not path.is_file()):
        raise UserError(f"{str(path)!r} is no file that can be replaced; name another")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise writing_failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


# What the folders of gpt2lab that carry no mark of their own consist of.
_PARTS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|vocab|added_tokens)"
    r"\.json|merges\.txt|model.*\.safetensors(\.index\.json)?"
)


def _is_ours(folder: Path) -> bool:
    """Whether gpt2lab made this folder, so that --overwrite may replace it with all it holds."""
    if (folder / "gpt2lab.json").exists():
        return True
    with contextlib.suppress(OSError, ValueError, RecursionError):
        index = json.loads((folder / "index.json").read_text("utf-8"))
        if isinstance(index, dict) and {"version", "tokenizer", "dtype"} <= index.keys():
            return True
    return all(_PARTS.fullmatch(entry.name) for entry in folder.iterdir())


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` when the block succeeds.

    Raises UserError if `path` exists and `overwrite` is false, if it is a folder gpt2lab did not
    make, or if the disk refuses.
    """
    refuse_existing(path, overwrite=overwrite)
    path = path.absolute()
    require_ours(path)
    temporary: Path | None = None
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        temporary.chmod(0o777 & ~_umask())
        _sync(temporary)
        refuse_existing(path, overwrite=overwrite)  # it may have come meanwhile
        require_ours(path)
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        _sync(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise writing_failed(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def require_ours(path: Path) -> None:
    """Raise UserError if something stands at `path` that --overwrite must not replace."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} is a file, not a folder; remove it yourself or choose another")
    if path.is_dir() and not _is_ours(path):
        raise UserError(
            f"{path} is not a folder gpt2lab made; remove it yourself or choose another"
        )


@contextlib.contextmanager
def locked(path: Path, what: Path) -> Iterator[None]:
    """Hold the lock file `path`; UserError if another process is at work in the folder `what`.

    Two of them would take each other's temporary files for their own.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is at work in {what}; wait for it or stop it") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_existing(path: Path, *, overwrite: bool, option: str = "--out") -> None:
    """Raise UserError if `path` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; pass --overwrite to replace it or choose another {option}")


def require_writable_folder(path: Path, option: str = "--out") -> None:
    """Create `path` and prove that files can be written into it, before hours are spent."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"x")
    except FileExistsError:
        raise UserError(f"{path} is a file, not a folder; choose another {option}") from None
    except OSError as error:
        raise writing_failed(path, error) from error


@contextlib.contextmanager
def no_empty_folders(path: Path) -> Iterator[None]:
    """On an error, remove `path` and its parents that were made meanwhile and hold nothing."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; UserError if it is absent or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); fetch or make it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from None
