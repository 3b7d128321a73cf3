"""Files and folders that appear whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from rediffinet.errors import OutputError
from rediffinet.files import cache_folder, new_file, new_files, new_folder, write_atomically, write_together


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_with_its_folder_and_replaced(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"one", parents=True, durable=durable)
    write_atomically(path, memoryview(np.arange(3, dtype=np.uint8)), parents=True, durable=durable)
    assert path.read_bytes() == b"\0\1\2"
    assert names(path.parent) == {"file"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(path, object())
    assert path.read_bytes() == b"old" and names(tmp_path) == {"file"}


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "plans" / "sm86"
    for content in ("one", "two"):
        with new_folder(folder) as made:
            (made / content).write_text(content)
            assert made.parent == folder.parent  # on the same disk: renaming is enough
        assert names(folder) == {content} and names(folder.parent) == {"sm86"}
    assert folder.stat().st_mode & 0o055 == 0o055


def test_a_folder_that_is_not_finished_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "sm86"
    with new_folder(folder) as made:
        (made / "old").touch()
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as made:
        (made / "new").touch()
        raise KeyboardInterrupt
    assert names(folder) == {"old"} and names(tmp_path) == {"sm86"}


def test_the_old_folder_comes_back_when_the_last_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sm86"
    folder.mkdir()
    (folder / "old").touch()
    real = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".old"):
            raise OSError("disk")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="disk"), new_folder(folder) as made:
        (made / "new").touch()
    assert names(folder) == {"old"} and names(tmp_path) == {"sm86"}


def test_a_writer_that_wants_a_name_and_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"(?s)Cannot write .*file: No space left"), new_file(path) as temporary:
        temporary.write_bytes(b"ne")
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old" and names(tmp_path) == {"file"}


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85, "\udcff" + "x" * 254])
def test_names_as_long_as_the_file_system_takes(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"file")
    (tmp_path / name).unlink()
    write_together(tmp_path / name, {name: b"in a folder"})
    assert (tmp_path / name / name).read_bytes() == b"in a folder"


def test_a_name_too_long_for_the_file_system(tmp_path: Path) -> None:
    for write in (write_atomically, lambda path, content: write_together(path, {"a": content})):
        with pytest.raises(OutputError, match="too long"):
            write(tmp_path / ("x" * 256), b"")
    assert names(tmp_path) == set()


def test_files_appear_together_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    write_together(folder, {"a": b"1", "z-report": b"1", "b": b"1"}, last="z-report")
    (folder / "mine").write_bytes(b"mine")
    with new_files(folder, last="z-report", stale=["a", "b", "c", "z-report"]) as made:
        (made / "b").write_bytes(b"2")
        (made / "z-report").write_bytes(b"2")
        assert names(folder) - {made.name} == {"a", "b", "mine", "z-report"}  # not yet
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"b": b"2", "mine": b"mine", "z-report": b"2"}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ValueError("bug")])
def test_files_that_are_not_all_made_leave_nothing(tmp_path: Path, error: BaseException, exists: bool) -> None:
    folder = tmp_path / "deep" / "out"
    if exists:
        folder.mkdir(parents=True)
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), new_files(folder) as made:
        (made / "a").touch()
        raise error
    assert names(tmp_path) == ({"deep"} if exists else set())
    assert not exists or not names(folder)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path / "rediffinet"
    assert cache_folder("tensorrt-rtx", "x.cache") == tmp_path / "rediffinet" / "tensorrt-rtx" / "x.cache"
    assert not cache_folder().exists()
