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
        (temporary / "config.json").write_text("1")
        assert not path.exists()
    with pytest.raises(UserError, match="--overwrite"), atomic_folder(path):
        pass
    with pytest.raises(RuntimeError), atomic_folder(path, overwrite=True) as temporary:
        (temporary / "config.json").write_text("2")
        raise RuntimeError
    assert (path / "config.json").read_text() == "1"
    with atomic_folder(path, overwrite=True) as temporary:
        (temporary / "config.json").write_text("3")
    assert (path / "config.json").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "index.json"])
def test_a_file_named_like_ours_makes_no_folder_ours(tmp_path, name):
    path = tmp_path / "project"
    path.mkdir()
    (path / name).write_text('{"my": 1}')
    (path / "precious.txt").write_text("x")
    with (
        pytest.raises(UserError, match="not a folder gpt2lab made"),
        atomic_folder(path, overwrite=True),
    ):
        pass
    assert (path / "precious.txt").exists()


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("keep")
    with pytest.raises(UserError, match="file is a file"), atomic_folder(path, overwrite=True):
        pass
    assert path.read_text() == "keep"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_comes_while_a_folder_is_written_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(UserError, match="--overwrite"), atomic_folder(path) as temporary:
        (temporary / "a").write_text("late")
        path.mkdir()
        (path / "b").write_text("first")
    assert [p.name for p in path.iterdir()] == ["b"]


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
