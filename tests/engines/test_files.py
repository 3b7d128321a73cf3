"""Files and folders that appear whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from rediffinet.engines.files import cache_folder, new_folder, write_whole


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_with_its_folder_and_replaced(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, b"one", durable=durable)
    write_whole(path, memoryview(np.arange(3, dtype=np.uint8)), durable=durable)
    assert path.read_bytes() == b"\0\1\2"
    assert names(path.parent) == {"file"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_whole(path, object())
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
    with pytest.raises(OSError, match="disk"), new_folder(folder) as made:
        (made / "new").touch()
    assert names(folder) == {"old"} and names(tmp_path) == {"sm86"}


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path / "rediffinet"
    assert cache_folder("tensorrt-rtx", "x.cache") == tmp_path / "rediffinet" / "tensorrt-rtx" / "x.cache"
    assert not cache_folder().exists()
