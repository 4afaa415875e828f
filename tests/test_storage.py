import pytest

from gpt2lab import UserError
from gpt2lab.storage import atomic_file, atomic_folder, require_writable_folder


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out"
    with atomic_folder(path) as temporary:
        (temporary / "index.json").write_text("1")
        assert not path.exists()
    with pytest.raises(UserError, match="--overwrite"), atomic_folder(path):
        pass
    with pytest.raises(RuntimeError), atomic_folder(path, overwrite=True) as temporary:
        (temporary / "index.json").write_text("2")
        raise RuntimeError
    assert (path / "index.json").read_text() == "1"
    with atomic_folder(path, overwrite=True) as temporary:
        (temporary / "index.json").write_text("3")
    assert (path / "index.json").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_of_others_are_never_replaced(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    (path / "holiday.jpg").write_text("x")
    with (
        pytest.raises(UserError, match="not a folder gpt2lab made"),
        atomic_folder(path, overwrite=True),
    ):
        pass
    assert (path / "holiday.jpg").exists()


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, not a folder"):
        require_writable_folder(tmp_path / "file")
    with pytest.raises(UserError, match="a part of the path is a file"):
        require_writable_folder(tmp_path / "file" / "below")
    with pytest.raises(UserError, match="cannot write"), atomic_file(tmp_path / "file" / "y"):
        pass
